"""What the probe looks at, part by part. Each runs in a process of its own and changes nothing.

``python parts.py NAME DEVICE [SECONDS]`` prints JSON lines; what comes after them adds to what came
before, so that a part that is stopped or crashes leaves what it had.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parts_power
import parts_shares
from telling import field_value, tell

CALLS: tuple[tuple[str, tuple[str | int, ...]], ...] = (
    ("nvmlDeviceGetPowerUsage", ()),
    ("nvmlDeviceGetTotalEnergyConsumption", ()),
    ("nvmlDeviceGetEnforcedPowerLimit", ()),
    ("nvmlDeviceGetPowerManagementLimit", ()),
    ("nvmlDeviceGetPowerManagementDefaultLimit", ()),
    ("nvmlDeviceGetPowerManagementLimitConstraints", ()),
    ("nvmlDeviceGetClockInfo", ("NVML_CLOCK_SM",)),
    ("nvmlDeviceGetClockInfo", ("NVML_CLOCK_MEM",)),
    ("nvmlDeviceGetClockInfo", ("NVML_CLOCK_GRAPHICS",)),
    ("nvmlDeviceGetMaxClockInfo", ("NVML_CLOCK_SM",)),
    ("nvmlDeviceGetMaxClockInfo", ("NVML_CLOCK_MEM",)),
    ("nvmlDeviceGetApplicationsClock", ("NVML_CLOCK_SM",)),
    ("nvmlDeviceGetCurrentClocksEventReasons", ()),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", ()),
    ("nvmlDeviceGetSupportedClocksEventReasons", ()),
    ("nvmlDeviceGetSupportedClocksThrottleReasons", ()),
    ("nvmlDeviceGetTemperature", ("NVML_TEMPERATURE_GPU",)),
    ("nvmlDeviceGetPerformanceState", ()),
    ("nvmlDeviceGetUtilizationRates", ()),
    ("nvmlDeviceGetMemoryInfo", ()),
    ("nvmlDeviceGetBAR1MemoryInfo", ()),
    ("nvmlDeviceGetComputeMode", ()),
    ("nvmlDeviceGetMigMode", ()),
    ("nvmlDeviceGetPersistenceMode", ()),
    ("nvmlDeviceGetEccMode", ()),
    ("nvmlDeviceGetCudaComputeCapability", ()),
    ("nvmlDeviceGetNumGpuCores", ()),
    ("nvmlDeviceGetCurrPcieLinkGeneration", ()),
    ("nvmlDeviceGetCurrPcieLinkWidth", ()),
    ("nvmlDeviceGetPcieThroughput", ("NVML_PCIE_UTIL_RX_BYTES",)),
    ("nvmlDeviceGetComputeRunningProcesses", ()),
    ("nvmlDeviceGetMPSComputeRunningProcesses", ()),
    ("nvmlDeviceGetProcessUtilization", (0,)),
    ("nvmlDeviceGetSamples", ("NVML_TOTAL_POWER_SAMPLES", 0)),
    ("nvmlDeviceGetAttributes", ()),
    ("nvmlDeviceGetVbiosVersion", ()),
)
"""What is tried of NVML: functions that only read, and their arguments after the handle."""
FIELDS = (
    "NVML_FI_DEV_POWER_INSTANT",
    "NVML_FI_DEV_POWER_AVERAGE",
    "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
    "NVML_FI_DEV_POWER_MIN_LIMIT",
    "NVML_FI_DEV_POWER_MAX_LIMIT",
    "NVML_FI_DEV_POWER_CURRENT_LIMIT",
    "NVML_FI_DEV_MEMORY_TEMP",
    "NVML_FI_DEV_PERF_POLICY_POWER",
    "NVML_FI_DEV_PERF_POLICY_THERMAL",
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP",
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
)
COMPUTE_MODES = ("default", "exclusive thread", "prohibited", "exclusive process")


# --- the machine and the card ---------------------------------------------------------------------


def machine(device: str, seconds: float) -> None:
    """The host and the versions of what is used."""
    from importlib import metadata

    from igniter_prof.config.devices import cpu_model, usable_cores
    from igniter_prof.serving.shares.mps_daemon import DRIVER_PROGRAMS

    tell(
        kernel=platform.release(),
        system=platform.freedesktop_os_release().get("PRETTY_NAME"),
        cpu=cpu_model(),
        cores=len(usable_cores()),
        python=platform.python_version(),
        user=os.geteuid(),
    )
    versions = {}
    for name in ("torch", "torchvision", "numpy", "nvidia-ml-py", "cuda-bindings", "tritonclient"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    tell(versions=versions)
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # the copy may be without it
        tell(commit=subprocess.check_output(commit, text=True, stderr=subprocess.DEVNULL).strip())
    for program in ("nvidia-smi", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"):
        tell(**{program: shutil.which(program) or shutil.which(program, path=DRIVER_PROGRAMS)})


def torch(device: str, seconds: float) -> None:
    """What PyTorch says of the device."""
    import torch as framework  # type: ignore[import-not-found,unused-ignore]

    tell(version=framework.__version__, cuda=framework.version.cuda)
    tell(available=framework.cuda.is_available(), cudnn=framework.backends.cudnn.version())
    found = framework.cuda.get_device_properties(0)
    tell(
        name=found.name,
        sms=found.multi_processor_count,
        memory_mib=found.total_memory / 2**20,
        l2_mib=getattr(found, "L2_cache_size", 0) / 2**20,
        capability=f"{found.major}.{found.minor}",
    )


def card(device: str, seconds: float) -> None:
    """Name, driver, compute mode and MIG, as found."""
    from igniter_prof.config.devices import nvml, resolve_device

    record = resolve_device(device)
    tell(device=record.model_dump())
    with nvml() as library:
        handle = library.nvmlDeviceGetHandleByUUID(record.id.partition(":")[2])
        tell(driver=_answer(library, library.nvmlSystemGetDriverVersion))
        tell(cuda=_answer(library, library.nvmlSystemGetCudaDriverVersion_v2))
        mode = _answer(library, library.nvmlDeviceGetComputeMode, handle)
        tell(compute_mode=COMPUTE_MODES[mode] if isinstance(mode, int) else mode)
        tell(mig_mode=_answer(library, library.nvmlDeviceGetMigMode, handle))
        tell(persistence=_answer(library, library.nvmlDeviceGetPersistenceMode, handle))
        held = _answer(library, library.nvmlDeviceGetComputeRunningProcesses, handle)
        tell(processes=len(held) if isinstance(held, list) else held)


def nvml(device: str, seconds: float) -> None:
    """Each call of NVML, what it answers or why not; nothing that sets anything."""
    from igniter_prof.config.devices import nvml as driver
    from igniter_prof.config.devices import resolve_device

    uuid = resolve_device(device).id.partition(":")[2]
    with driver() as library:
        handle = library.nvmlDeviceGetHandleByUUID(uuid)
        for function, arguments in CALLS:
            words = [a for a in arguments if isinstance(a, str)]
            name = " ".join([function, *words])
            call = getattr(library, function, None)
            given = [getattr(library, a, None) if isinstance(a, str) else a for a in arguments]
            if call is None or None in given:
                tell(**{name: {"error": "unknown to this nvidia-ml-py"}})
            else:
                tell(**{name: _tried(library, call, handle, *given)})
        for field in FIELDS:
            number = getattr(library, field, None)
            if number is None:
                tell(**{field: {"error": "unknown to this nvidia-ml-py"}})
                continue
            found = _tried(library, lambda number=number: field_value(library, handle, number))
            tell(**{field: found})


def _tried(library: Any, call: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    began = time.monotonic()
    try:
        answer = call(*arguments)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"value": _plain(answer), "took_ms": round(1000 * (time.monotonic() - began), 3)}


def _answer(library: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        answer = call(*arguments)
    except library.NVMLError as error:
        return f"error: {error}"
    return answer.decode() if isinstance(answer, bytes) else answer


def _plain(answer: Any) -> Any:
    """An answer of NVML as JSON: structures as their fields, long lists by their length."""
    if isinstance(answer, bytes):
        return answer.decode(errors="replace")
    if isinstance(answer, (list, tuple)):
        return f"{len(answer)} entries" if len(answer) > 8 else [_plain(each) for each in answer]
    fields = getattr(answer, "_fields_", None)
    if fields:
        return {name: _plain(getattr(answer, name)) for name, *_ in fields}
    return answer if isinstance(answer, (int, float, str, bool, type(None))) else str(answer)


PARTS: dict[str, Callable[[str, float], None]] = {
    "machine": machine,
    "card": card,
    "torch": torch,
    "nvml": nvml,
    "mps": parts_shares.mps,
    "green": parts_shares.green,
    "periods": parts_power.periods,
    "shares": parts_shares.shares,
    "power": parts_power.power,
}


if __name__ == "__main__":
    PARTS[sys.argv[1]](sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 60.0)
