"""Devices: ``cpu``, ``cpu:<cores>`` or ``cuda:<index or UUID>``, as a user names them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.records import Device
from igniter_prof.units import BYTES_PER_MIB

_FORMS = "write cpu, cpu:0-3, cpu:0,2 or cuda:<index or UUID>"
_CORES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def resolve_device(spec: str) -> Device:
    """The device that a user names.

    ``cpu`` is all cores that this process may use. The index of a GPU becomes its UUID at once,
    since indices change with drivers and containers.

    Raises:
        BadInput: it is no device, or names cores or a GPU that are not there.
        MissingCapability: a GPU is named and there is no NVIDIA driver, or no nvidia-ml-py.
    """
    kind, _, rest = spec.strip().partition(":")
    if kind == "cuda":
        return _gpu(rest)
    if kind == "remote" and rest:
        return remote_device(rest)
    if kind != "cpu":
        raise BadInput(f"'{spec}' is no device", hint=_FORMS)
    usable = usable_cores()
    cores = parse_cores(rest) if ":" in spec else usable
    missing = sorted(set(cores) - set(usable))
    if missing:
        raise BadInput(
            f"core {missing[0]} is not there, or this process may not use it",
            where=spec,
            hint=f"usable: {format_cores(usable)}",
        )
    return Device(
        id=f"cpu:{format_cores(cores)}",
        kind="cpu",
        name=cpu_model() or os.uname().machine,
        cores=cores,
        memory_mib=host_memory_mib(),
    )


def remote_device(address: str) -> Device:
    """What a remote server runs on: nothing is known of it but where the server answers."""
    return Device(id=f"remote:{address}", kind="cpu", name="not known (remote)")


def usable_cores() -> tuple[int, ...]:
    """The CPU cores that this process may use, ascending."""
    return tuple(sorted(os.sched_getaffinity(0)))


def client_cores(
    device: Device, usable: Sequence[int] | None = None
) -> tuple[tuple[int, ...], bool]:
    """The cores for the client and the monitors, and whether they are apart from the device's.

    They are those that are not the device's where there are any, else all that are usable. The
    cores of a device elsewhere (``cpu:0-3@host``) are none of this machine's.
    """
    return spare_cores(() if device.elsewhere else device.cores, usable)


def spare_cores(
    used: Sequence[int], usable: Sequence[int] | None = None
) -> tuple[tuple[int, ...], bool]:
    """As ``client_cores``, for cores that several devices use."""
    usable = usable_cores() if usable is None else usable
    spare = tuple(sorted(set(usable) - set(used)))
    return (spare, True) if spare else (tuple(sorted(usable)), False)


def parse_cores(text: str) -> tuple[int, ...]:
    """Cores of a list such as ``0-3,6``, ascending, each once. Raises BadInput."""
    if not _CORES.fullmatch(text):
        raise BadInput(f"'{text}' is no list of cores", hint=_FORMS)
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if high < low:
            raise BadInput(f"'{part}' is no range of cores", hint="the lower core comes first")
        if high > 1 << 16:
            raise BadInput(f"core {high} is not there")
        cores.update(range(low, high + 1))
    return tuple(sorted(cores))


def format_cores(cores: Sequence[int]) -> str:
    """Cores as the shortest list: ``0-3,6``."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and core == parts[-1][1] + 1:
            parts[-1][1] = core
        else:
            parts.append([core, core])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The CPU's name from the kernel; None where it has none (some ARM machines)."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None)


def host_memory_mib() -> float:
    """Memory of this host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / BYTES_PER_MIB


def _gpu(which: str) -> Device:
    if not which:
        raise BadInput("'cuda' lacks the GPU's index or UUID", hint=_FORMS)
    with nvml() as library:
        try:
            if which.isdigit():
                handle = library.nvmlDeviceGetHandleByIndex(int(which))
            else:
                handle = library.nvmlDeviceGetHandleByUUID(which)
            uuid = _string(library.nvmlDeviceGetUUID(handle))
            if uuid.startswith("MIG-"):
                name = _slice_name(library, handle)
            else:
                name = _string(library.nvmlDeviceGetName(handle))
            memory = library.nvmlDeviceGetMemoryInfo(handle).total
        except library.NVMLError as error:
            if which.startswith("MIG-"):
                raise BadInput(
                    f"there is no MIG slice '{which}' ({error})",
                    hint="nvidia-smi -L lists the slices; igprof makes none",
                ) from error
            count = library.nvmlDeviceGetCount()
            raise BadInput(
                f"there is no GPU '{which}' ({error})",
                hint=f"GPUs here: cuda:0 to cuda:{count - 1}" if count else "there is none",
            ) from error
    return Device(id=f"cuda:{uuid}", kind="cuda", name=name, memory_mib=memory / BYTES_PER_MIB)


def _slice_name(library: Any, handle: Any) -> str:
    """The GPU's name and the slice's profile, such as ``NVIDIA A100-SXM4-40GB MIG 1g.5gb``."""
    parent = library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    name = _string(library.nvmlDeviceGetName(parent))
    found = library.nvmlDeviceGetAttributes(handle)
    memory_gib = -(-found.memorySizeMB // 1024)
    return f"{name} MIG {found.gpuInstanceSliceCount}g.{memory_gib}gb"


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """NVML's Python module, initialised for the time of a context.

    Raises:
        MissingCapability: there is no nvidia-ml-py, or no driver answers.
    """
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise MissingCapability(
            "nvidia-ml-py is missing, which tells of GPUs", hint="pip install nvidia-ml-py"
        ) from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise MissingCapability(
            f"no NVIDIA driver answers ({error})",
            hint="install the driver, or use --device cpu",
        ) from error
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _string(value: str | bytes) -> str:
    # nvidia-ml-py before 11.5 gives bytes
    return value.decode() if isinstance(value, bytes) else value
