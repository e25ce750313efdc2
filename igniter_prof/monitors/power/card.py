"""One GPU asked through NVML: what it supports is found out once, then read again and again."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from igniter_prof.errors import MissingCapability, OutsideFailure
from igniter_prof.monitors.power.trace import (
    INSTANT,
    POWER_DTYPE,
    UNKNOWN_REASONS,
    USAGE,
    USAGE_AVERAGE,
    USAGE_INSTANT,
    TraceInfo,
)
from igniter_prof.units import BYTES_PER_MIB, MJ_PER_J, MW_PER_W

LOST: Final = (
    "NVML_ERROR_GPU_IS_LOST",
    "NVML_ERROR_UNINITIALIZED",
    "NVML_ERROR_RESET_REQUIRED",
    "NVML_ERROR_DRIVER_NOT_LOADED",
    "NVML_ERROR_GPU_NOT_FOUND",
)
"""Answers after which the GPU tells nothing more."""
FIELDS: Final = {
    "power_w": ("NVML_FI_DEV_POWER_INSTANT", MW_PER_W),
    "power_average_w": ("NVML_FI_DEV_POWER_AVERAGE", MW_PER_W),
    "energy_j": ("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", MJ_PER_J),
}
"""What one call of nvmlDeviceGetFieldValues tells, and its unit."""
VALUE_TYPES: Final = {
    "NVML_VALUE_TYPE_DOUBLE": "dVal",
    "NVML_VALUE_TYPE_UNSIGNED_INT": "uiVal",
    "NVML_VALUE_TYPE_UNSIGNED_LONG": "ulVal",
    "NVML_VALUE_TYPE_UNSIGNED_LONG_LONG": "ullVal",
    "NVML_VALUE_TYPE_SIGNED_LONG_LONG": "sllVal",
    "NVML_VALUE_TYPE_SIGNED_INT": "siVal",
    "NVML_VALUE_TYPE_UNSIGNED_SHORT": "usVal",
}
GA100: Final = (8, 0)
"""Compute capability up to which nvmlDeviceGetPowerUsage is instantaneous; above, it averages over
a second (nvml.h, nvmlDeviceGetPowerUsage)."""
PART_TIME: Final = frozenset({GA100, (9, 0)})
"""A100 and H100: their power sensor was found to look at a quarter of the time
(arxiv.org/abs/2312.02741). Of others it is not known here."""

Row = tuple[float, ...]
Reader = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """A function of NVML, and the columns that its answer gives."""

    function: str
    columns: Callable[[Any], dict[str, Any]]
    constants: tuple[str, ...] = ()
    of_slice: bool = False
    """Asked of the MIG slice where the device is one, not of its card."""


CALLS: Final = (
    Call("nvmlDeviceGetPowerUsage", lambda mw: {"power_w": mw / MW_PER_W}),
    Call("nvmlDeviceGetTotalEnergyConsumption", lambda mj: {"energy_j": mj / MJ_PER_J}),
    Call("nvmlDeviceGetClockInfo", lambda mhz: {"sm_mhz": mhz}, ("NVML_CLOCK_SM",)),
    Call("nvmlDeviceGetClockInfo", lambda mhz: {"memory_mhz": mhz}, ("NVML_CLOCK_MEM",)),
    Call("nvmlDeviceGetCurrentClocksEventReasons", lambda mask: {"throttle": mask}),
    # its name before driver 535
    Call("nvmlDeviceGetCurrentClocksThrottleReasons", lambda mask: {"throttle": mask}),
    Call("nvmlDeviceGetTemperature", lambda c: {"temperature_c": c}, ("NVML_TEMPERATURE_GPU",)),
    Call(
        "nvmlDeviceGetUtilizationRates",
        lambda rates: {"utilisation_pct": rates.gpu, "memory_utilisation_pct": rates.memory},
        of_slice=True,
    ),
    Call(
        "nvmlDeviceGetMemoryInfo",
        lambda memory: {"memory_mib": memory.used / BYTES_PER_MIB},
        of_slice=True,
    ),
    Call("nvmlDeviceGetEnforcedPowerLimit", lambda mw: {"power_limit_w": mw / MW_PER_W}),
)
"""What is asked beside the fields; of two for the same column the first that is answered."""


def nvml_library() -> Any:
    """nvidia-ml-py. Raises MissingCapability."""
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise MissingCapability(
            "nvidia-ml-py is missing, which tells of GPUs", hint="pip install nvidia-ml-py"
        ) from error


def start(nvml: Any) -> None:
    """Initialise NVML; every start needs one ``nvmlShutdown``. Raises MissingCapability."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise MissingCapability(
            f"no NVIDIA driver answers ({error})", hint="install the driver; nvidia-smi shows it"
        ) from error


class Card:
    """A GPU, or a MIG slice and the card that it is part of. NVML must be initialised meanwhile."""

    def __init__(self, nvml: Any, which: str) -> None:
        """Find it and ask once for everything; what is not supported is not asked again.

        Args:
            nvml: the module ``pynvml``, or one that acts like it.
            which: UUID (``GPU-…``, ``MIG-…``) or index.

        Raises:
            MissingCapability: there is no such GPU, or it tells neither power nor energy.
            OutsideFailure: the GPU was lost meanwhile.
        """
        self._nvml = nvml
        self._lost = {getattr(nvml, name, None) for name in LOST}
        try:
            if which.isdigit():
                device = nvml.nvmlDeviceGetHandleByIndex(int(which))
            else:
                device = nvml.nvmlDeviceGetHandleByUUID(which)
            self._board = self._parent(device)
        except nvml.NVMLError as error:
            raise MissingCapability(
                f"there is no GPU {which} here ({error})", hint="nvidia-smi -L lists them"
            ) from error
        capability = self._once("nvmlDeviceGetCudaComputeCapability", self._board)
        field_ids = self._field_ids()
        self._readers = self._made_readers(device, field_ids)
        told = {name for read in self._readers for name in self._tried(read)}
        if not told & {"power_w", "energy_j"}:
            raise MissingCapability(
                f"the GPU {which} tells neither power nor energy",
                hint="nvidia-smi -q -d POWER shows what the driver knows",
            )
        field = _power_field("power_w" in field_ids, capability)
        self.info = TraceInfo(
            uuid=_text(self._once("nvmlDeviceGetUUID", device)) or which,
            name=_text(self._once("nvmlDeviceGetName", self._board)),
            scope="gpu" if self._board is device else "mig-parent",
            power_field=field if "power_w" in told else None,
            part_time=True if capability in PART_TIME else None,
        )
        self.board_uuid = _text(self._once("nvmlDeviceGetUUID", self._board)) or which

    def read(self) -> Row:
        """One row of POWER_DTYPE, stamped when power and energy were read.

        Raises:
            OutsideFailure: the GPU is lost.
        """
        found: dict[str, float] = {}
        at_ns = 0
        for read in self._readers:
            found |= self._tried(read)
            at_ns = at_ns or time.monotonic_ns()
        found["at_ns"] = at_ns
        found.setdefault("throttle", UNKNOWN_REASONS)
        return tuple(found.get(name, math.nan) for name in POWER_DTYPE.names or ())

    def processes(self) -> int | None:
        """How many processes hold a context on the card; None: it is not told."""
        running = self._once("nvmlDeviceGetComputeRunningProcesses", self._board)
        return None if running is None else len(running)

    def _made_readers(self, device: Any, field_ids: dict[str, int]) -> list[Reader]:
        """The calls that this GPU answers; those for power and energy come first."""
        readers: list[Reader] = []
        told = set(field_ids)
        if field_ids:
            readers.append(lambda: self._fields(field_ids))
        for call in CALLS:
            read = self._reader(call, device)
            if read is not None and (columns := self._tried(read).keys() - told):
                readers.append(read)
                told |= columns
        return readers

    def _reader(self, call: Call, device: Any) -> Reader | None:
        """A call as a function; None if this nvidia-ml-py is older or newer than it."""
        function = getattr(self._nvml, call.function, None)
        if function is None:
            return None
        handle = device if call.of_slice else self._board
        arguments = [getattr(self._nvml, name) for name in call.constants]
        return lambda: call.columns(function(handle, *arguments))

    def _field_ids(self) -> dict[str, int]:
        """The fields that the driver tells of this GPU, by column."""
        ids = {
            column: getattr(self._nvml, name)
            for column, (name, _) in FIELDS.items()
            if hasattr(self._nvml, name)
        }
        answered = self._tried(lambda: self._fields(ids))
        return {column: number for column, number in ids.items() if column in answered}

    def _fields(self, ids: dict[str, int]) -> dict[str, float]:
        values = self._nvml.nvmlDeviceGetFieldValues(self._board, list(ids.values()))
        found = {}
        for column, value in zip(ids, values, strict=True):
            if value.nvmlReturn in self._lost:
                raise self._nvml.NVMLError(value.nvmlReturn)
            member = next(
                (
                    member
                    for name, member in VALUE_TYPES.items()
                    if getattr(self._nvml, name) == value.valueType
                ),
                None,
            )
            if value.nvmlReturn == 0 and member is not None:
                found[column] = getattr(value.value, member) / FIELDS[column][1]
        return found

    def _tried(self, read: Reader) -> dict[str, float]:
        """What a call tells; nothing if it tells nothing now. Raises OutsideFailure."""
        try:
            return read()
        except self._nvml.NVMLError as error:
            if error.value in self._lost:
                raise OutsideFailure(f"the GPU is lost ({error})") from error
        return {}

    def _once(self, function: str, handle: Any) -> Any:
        """The answer of a function of the library; None if there is none."""
        call = Call(function, lambda answer: {"answer": answer}, of_slice=True)
        read = self._reader(call, handle)
        return None if read is None else self._tried(read).get("answer")

    def _parent(self, device: Any) -> Any:
        """The card of a MIG slice; the device itself where it is none."""
        sliced = self._once("nvmlDeviceIsMigDeviceHandle", device)
        # nvidia-ml-py gives a c_uint, which is true whatever it holds
        if not getattr(sliced, "value", sliced):
            return device
        return self._nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device)


def _power_field(instant: bool, capability: tuple[int, int] | None) -> str:
    """What the power was read from, by name and meaning."""
    if instant:
        return INSTANT
    if capability is None:
        return USAGE
    return USAGE_INSTANT if tuple(capability) <= GA100 else USAGE_AVERAGE


def _text(value: str | bytes | None) -> str | None:
    # nvidia-ml-py before 11.5 gives bytes
    return value.decode() if isinstance(value, bytes) else value
