"""Power of a GPU: samples of its state, and what they say of a window. Pure; no driver here.

::

    Card (NVML) ─▶ Sampler ─┐
                            ├▶ trace + TraceInfo ─▶ analyse ─▶ DevicePower, TenantEnergy, notes
    a recorded file ────────┘

Live and replayed samples take the same way from the trace on (docs/energy.md).
"""

from igniter_prof.monitors.power.analysis import analyse
from igniter_prof.monitors.power.trace import POWER_DTYPE, Trace, TraceInfo

__all__ = ["POWER_DTYPE", "Trace", "TraceInfo", "analyse"]
