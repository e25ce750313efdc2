"""What is sampled of a GPU: one row an instant, and what must be known beside the rows."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from igniter_prof.records import Record

POWER_DTYPE: Final = np.dtype(
    [
        ("at_ns", "<i8"),
        ("power_w", "<f8"),
        ("power_average_w", "<f8"),  # the driver's own average over a second
        ("energy_j", "<f8"),  # counter since the driver was loaded
        ("sm_mhz", "<f8"),
        ("memory_mhz", "<f8"),
        ("temperature_c", "<f8"),
        ("utilisation_pct", "<f8"),
        ("memory_utilisation_pct", "<f8"),
        ("memory_mib", "<f8"),
        ("power_limit_w", "<f8"),
        ("throttle", "<i8"),  # bits of the driver's clock event reasons
    ]
)
"""One row a sample; what the device does not tell is NaN, in ``throttle`` UNKNOWN_REASONS."""

UNKNOWN_REASONS: Final = -1

Trace = NDArray[np.void]
"""(n,) of POWER_DTYPE, in time order."""

REASONS: Final = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Bits of NVML's clock event reasons (nvml.h, nvmlClocksEventReasons…)."""

HARMLESS: Final = frozenset({"gpu_idle", "applications_clocks_setting", "display_clock_setting"})
"""Reasons that are no throttling: nothing to do, or clocks that somebody asked for."""


INSTANT: Final = "NVML_FI_DEV_POWER_INSTANT"
USAGE_INSTANT: Final = "nvmlDeviceGetPowerUsage (instant on this architecture)"
USAGE_AVERAGE: Final = "nvmlDeviceGetPowerUsage (1 s average on this architecture)"
USAGE: Final = "nvmlDeviceGetPowerUsage (not known whether instant or a 1 s average)"
SMI_INSTANT: Final = "power.draw.instant of nvidia-smi"
SMI_DRAW: Final = "power.draw of nvidia-smi (instant or a 1 s average, by architecture)"
AVERAGED: Final = frozenset({USAGE_AVERAGE})
"""Names of what the power was read from; of these, which lag by their average."""


LIVE: Final = "nvml"
"""The source of what was measured here; a recording's is another."""


class TraceInfo(Record):
    """What the samples of a trace were taken of, and what was measured before the load."""

    uuid: str = "unknown"
    name: str | None = None
    scope: Literal["gpu", "mig-parent"] = "gpu"
    source: str = LIVE
    power_field: str | None = None
    part_time: bool | None = None
    """Whether the sensor looks at a part of the time only (A100, H100); None: not known."""
    bare_idle_w: float | None = None
    context_idle_w: float | None = None
    window_start_ns: int | None = None
    """Where the counted window of the recorded cell began, on the trace's clock."""

    @property
    def averaged(self) -> bool:
        """Whether ``power_w`` is a running average over a second, so that it lags."""
        return self.power_field in AVERAGED


def unknown_rows(count: int) -> Trace:
    """Rows in which nothing is known, at 0 ns."""
    trace = np.zeros(count, POWER_DTYPE)
    for name in POWER_DTYPE.names or ():
        if name != "at_ns":
            trace[name] = UNKNOWN_REASONS if name == "throttle" else np.nan
    return trace


def reason_shares(masks: NDArray[np.int64]) -> dict[str, float]:
    """Of the samples whose mask is known, the percentage that has each reason."""
    known = masks[masks != UNKNOWN_REASONS]
    if len(known) == 0:
        return {}
    together = int(np.bitwise_or.reduce(known))
    return {
        REASONS.get(1 << bit, f"bit_{bit}"): 100 * float((known >> bit & 1).mean())
        for bit in range(together.bit_length())
        if together >> bit & 1
    }
