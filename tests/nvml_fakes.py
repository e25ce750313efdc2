"""A driver with GPUs of several generations, for tests: acts like the module pynvml."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml

from igniter_prof.monitors.power import POWER_DTYPE, Trace

ALL_FIELDS = frozenset(
    {
        pynvml.NVML_FI_DEV_POWER_INSTANT,
        pynvml.NVML_FI_DEV_POWER_AVERAGE,
        pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
    }
)


@dataclass
class FakeGpu:
    """One board; its power is constant, or changes when a test says so."""

    uuid: str = "GPU-0"
    name: str = "A board"
    capability: tuple[int, int] = (9, 0)
    fields: frozenset[int] = ALL_FIELDS
    unsupported: frozenset[str] = frozenset()
    period_s: float = 0.05
    """Update period of power and counter."""
    slices: tuple[str, ...] = ()
    processes: int = 0
    levels: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 80.0)])
    """Since when (monotonic s) the power is that (W)."""
    lost: bool = False
    throttle: int = 0
    delay_s: float = 0.0

    def now_s(self) -> float:
        return math.floor(time.monotonic() / self.period_s) * self.period_s

    def set_power(self, watts: float) -> None:
        self.levels.append((time.monotonic(), watts))

    def power_mw(self) -> int:
        # a little noise, as real readings have, so that updates can be seen
        now_s = self.now_s()
        noise_mw = round(now_s / self.period_s) % 3
        return round(1000 * [w for since, w in self.levels if since <= now_s][-1]) + noise_mw

    def energy_mj(self) -> int:
        now_s, total = self.now_s(), 0.0
        for index, (since, watts) in enumerate(self.levels):
            until = self.levels[index + 1][0] if index + 1 < len(self.levels) else now_s
            total += watts * max(0.0, min(until, now_s) - since)
        return round(1000 * total)


class FakeNvml:
    """What of pynvml the monitor uses; constants and errors are the real module's."""

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = {gpu.uuid: gpu for gpu in gpus}
        self.asked: Counter[str] = Counter()
        self.initialised = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvml"):
            raise AttributeError(name)
        return getattr(pynvml, name)

    def nvmlInit(self) -> None:
        self.initialised += 1

    def nvmlShutdown(self) -> None:
        self.initialised -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return SimpleNamespace(gpu=list(self.gpus.values())[index], slice=None)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        for gpu in self.gpus.values():
            if uuid == gpu.uuid:
                return SimpleNamespace(gpu=gpu, slice=None)
            if uuid in gpu.slices:
                return SimpleNamespace(gpu=gpu, slice=uuid)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceIsMigDeviceHandle(self, handle: Any) -> Any:
        return pynvml.c_uint(handle.slice is not None)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any) -> Any:
        return SimpleNamespace(gpu=handle.gpu, slice=None)

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return handle.slice or handle.gpu.uuid

    def nvmlDeviceGetName(self, handle: Any) -> bytes:
        return handle.gpu.name.encode()

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> tuple[int, int]:
        return handle.gpu.capability

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
        return [object()] * handle.gpu.processes

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        return self._answer("nvmlDeviceGetPowerUsage", handle, handle.gpu.power_mw)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        return self._answer("nvmlDeviceGetTotalEnergyConsumption", handle, handle.gpu.energy_mj)

    def nvmlDeviceGetClockInfo(self, handle: Any, clock: int) -> int:
        mhz = 1410 if clock == pynvml.NVML_CLOCK_SM else 1593
        return self._answer("nvmlDeviceGetClockInfo", handle, lambda: mhz)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:
        return self._answer(
            "nvmlDeviceGetCurrentClocksThrottleReasons", handle, lambda: handle.gpu.throttle
        )

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._answer("nvmlDeviceGetTemperature", handle, lambda: 61)

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        if handle.slice is not None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        rates = SimpleNamespace(gpu=97, memory=40)
        return self._answer("nvmlDeviceGetUtilizationRates", handle, lambda: rates)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        mib = 512 if handle.slice is None else 128
        used = SimpleNamespace(used=mib << 20)
        return self._answer("nvmlDeviceGetMemoryInfo", handle, lambda: used)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:
        return self._answer("nvmlDeviceGetEnforcedPowerLimit", handle, lambda: 400_000)

    def nvmlDeviceGetFieldValues(self, handle: Any, ids: Sequence[int]) -> list[Any]:
        gpu: FakeGpu = handle.gpu
        assert handle.slice is None
        self._answer("nvmlDeviceGetFieldValues", handle, lambda: None)
        return [_value(gpu, number) for number in ids]

    def _answer(self, function: str, handle: Any, give: Callable[[], Any]) -> Any:
        self.asked[function] += 1
        if handle.gpu.delay_s:
            time.sleep(handle.gpu.delay_s)
        if handle.gpu.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if function in handle.gpu.unsupported:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return give()


def _value(gpu: FakeGpu, number: int) -> Any:
    value = pynvml.c_nvmlFieldValue_t()
    value.fieldId = number
    if number not in gpu.fields:
        value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
    elif number == pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION:
        value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
        value.value.ullVal = gpu.energy_mj()
    else:
        value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
        value.value.uiVal = gpu.power_mw()
    return value


S = 1_000_000_000


def sampled(
    power: Callable[[float], float],
    *,
    seconds: float,
    update_s: float = 0.1,
    every_s: float = 0.02,
    start_ns: int = 10 * S,
    counter: bool = True,
    phase_s: float = 0.0,
    steps: int = 4000,
) -> Trace:
    """What a sampler sees of a power that is a function of time (s, from the trace's begin).

    Reading and counter are updated every ``update_s``, at ``phase_s`` first; the counter is the
    true integral then.
    """
    fine = np.linspace(-2 * update_s, seconds, steps * 2 + 1)
    watts = np.array([power(t) for t in fine])
    middle = np.array([power(t) for t in (fine[1:] + fine[:-1]) / 2])
    total = np.concatenate([[0.0], np.cumsum(middle * np.diff(fine))])
    at_s = np.arange(0, seconds + 1e-9, every_s)
    updated = np.floor((at_s - phase_s) / update_s + 1e-9) * update_s + phase_s
    trace = np.zeros(len(at_s), POWER_DTYPE)
    for name in POWER_DTYPE.names or ():
        trace[name] = -1 if name == "throttle" else np.nan if name != "at_ns" else 0
    trace["at_ns"] = start_ns + np.round(at_s * S).astype(np.int64)
    trace["power_w"] = np.interp(updated, fine, watts)
    if counter:
        trace["energy_j"] = 1000 + np.interp(updated, fine, total)
    return trace
