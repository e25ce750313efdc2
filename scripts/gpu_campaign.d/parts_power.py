"""Parts of the probe: how often power is updated, and a trace with its energies."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loaded import Load
from telling import field_value, tell

DENSE_S = 2.0
"""How long each stretch of the dense samples is: idle, load, idle."""
POWER_FIELDS = {
    "power_instant": "NVML_FI_DEV_POWER_INSTANT",
    "power_average": "NVML_FI_DEV_POWER_AVERAGE",
    "energy_field": "NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
}
"""Fields in thousandths of watts and joules, by what they are called here."""
STRETCHES = 7
POWER_S = 5.0
POWER_HZ = 50.0
STARTS_S = 24.0
"""What the two loads take to start, about."""


def periods(device: str, seconds: float) -> None:
    """How often power and energy are updated: read as fast as the driver answers, under a step."""
    import numpy as np

    from igniter_prof.config.devices import nvml as driver
    from igniter_prof.config.devices import resolve_device
    from igniter_prof.monitors.power.energy import update_period_ns
    from igniter_prof.monitors.power.trace import REASONS

    uuid = resolve_device(device).id.partition(":")[2]
    with Load(device, {"CUDA_VISIBLE_DEVICES": uuid}, "half") as load, driver() as library:
        handle = library.nvmlDeviceGetHandleByUUID(uuid)
        readers = _power_readers(library, handle)
        rows: dict[str, list[tuple[int, float]]] = {name: [] for name in readers}
        masks: dict[str, int] = {"idle": 0, "load": 0}
        began = time.monotonic()
        loaded = False
        while (at_s := time.monotonic() - began) < 3 * DENSE_S:
            if not loaded and at_s >= DENSE_S:
                load.begin(DENSE_S)
                loaded = True
            for name, read in readers.items():
                value = read()
                rows[name].append((time.monotonic_ns(), value))
            with contextlib.suppress(library.NVMLError, AttributeError):
                mask = int(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
                masks["load" if DENSE_S <= at_s < 2 * DENSE_S else "idle"] |= mask
            time.sleep(0.0005)  # a thread that never rests takes the time of the driver's
        if loaded:
            load.end()
    for name, samples in rows.items():
        at_ns = np.array([at for at, _ in samples], np.int64)
        values = np.array([value for _, value in samples])
        period = update_period_ns(at_ns, values) if len(samples) > 2 else None
        sampling = float(np.median(np.diff(at_ns))) / 1e6 if len(samples) > 2 else None
        tell(
            **{
                name: {
                    "period_ms": None if period is None else period / 1e6,
                    "sampled_every_ms": sampling,
                    "samples": len(samples),
                    "lowest": float(values.min()) if len(values) else None,
                    "highest": float(values.max()) if len(values) else None,
                    "step_to_half_ms": None if "energy" in name else _step_ms(at_ns, values),
                }
            }
        )
    named = {
        when: [REASONS.get(1 << bit, f"bit_{bit}") for bit in range(64) if mask >> bit & 1]
        for when, mask in masks.items()
    }
    tell(clock_event_reasons=named)


def _power_readers(library: Any, handle: Any) -> dict[str, Callable[[], float]]:
    """What tells power or energy here, in watts and joules."""
    found: dict[str, Callable[[], float]] = {
        "power_usage": lambda: library.nvmlDeviceGetPowerUsage(handle) / 1000,
        "energy_counter": lambda: library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,
        "sm_mhz": lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM),
    }

    def of_field(number: int) -> Callable[[], float]:
        return lambda: field_value(library, handle, number) / 1000

    for name, field in POWER_FIELDS.items():
        number = getattr(library, field, None)
        if number is not None:
            found[name] = of_field(number)
    answered = {}
    for name, read in found.items():
        with contextlib.suppress(Exception):
            read()
            answered[name] = read
    return answered


def _step_ms(at_ns: Any, values: Any) -> float | None:
    """From the step of the load until the reading was half way up, by the host's clock."""
    if len(values) < 3 or values.max() <= values.min():
        return None
    begin = at_ns[0] + DENSE_S * 1e9
    half = (values.min() + values.max()) / 2
    after = at_ns[(at_ns >= begin) & (values >= half)]
    return float(after[0] - begin) / 1e6 if len(after) else None


def power(device: str, seconds: float) -> None:
    """A trace of idle and load for the monitor ``replay``, in the folder that it runs in.

    And the energies of each stretch: the counter's and the integral's.
    """
    import numpy as np

    from igniter_prof.config.devices import resolve_device
    from igniter_prof.monitors.contract import Counted
    from igniter_prof.monitors.power import analyse
    from igniter_prof.monitors.power.buffer import Buffer
    from igniter_prof.monitors.power.card import Card, nvml_library, start
    from igniter_prof.monitors.power.recording import Recording, write_recording
    from igniter_prof.monitors.sampling import Sampler
    from igniter_prof.records import Tenant

    uuid = resolve_device(device).id.partition(":")[2]
    library = nvml_library()
    start(library)
    buffer = Buffer()
    stretches: list[tuple[str, int, int]] = []
    span = max(1.0, min(POWER_S, (seconds - STARTS_S) / STRETCHES))
    try:
        watched = Card(library, uuid)
        sampler = Sampler(lambda: buffer.append(watched.read()), POWER_HZ)
        sampler.start("igprof-nvml")
        try:
            stretches.append(_rest("bare idle", span))
            for kind in ("single", "half"):
                with Load(device, {"CUDA_VISIBLE_DEVICES": uuid}, kind) as load:
                    stretches.append(_rest(f"idle with a context ({kind})", span))
                    told = load.run(span)
                    stretches.append((f"load ({kind})", told["begin_ns"], told["end_ns"]))
                stretches.append(_rest(f"after the load ({kind})", span))
            time.sleep(0.5)
        finally:
            sampler.stop()
    finally:
        library.nvmlShutdown()
    trace = buffer.trace()
    idle = stretches[0]
    bare = trace[(trace["at_ns"] >= idle[1]) & (trace["at_ns"] <= idle[2])]["power_w"]
    bare_w = float(np.nanmean(bare)) if np.isfinite(bare).any() else None
    window = next(begin for name, begin, _ in stretches if name.startswith("load"))
    info = watched.info.model_copy(update={"bare_idle_w": bare_w, "window_start_ns": window})
    write_recording(Path("trace.npz"), Recording(trace, info))
    tell(trace="trace.npz", samples=len(trace), trouble=sampler.trouble)
    whole = ("all of it", stretches[0][1], stretches[-1][2])
    for name, begin, end in [*stretches, whole]:
        seen = analyse(trace, info, Counted(begin, end, (0,)), [Tenant(model="load")])
        found = seen.fields.get("power")
        told = {} if found is None else found.model_dump(exclude={"uuid", "name"})
        tell(**{name: {"seconds": (end - begin) / 1e9, **told, "notes": list(seen.notes)}})


def _rest(name: str, seconds: float) -> tuple[str, int, int]:
    began = time.monotonic_ns()
    time.sleep(seconds)
    return name, began, time.monotonic_ns()
