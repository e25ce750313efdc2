"""From the samples of one GPU to what they say of the counted window; for live and replayed ones.

Two energies are told, since neither can be trusted alone: the driver's counter and the integral of
the power. Baselines are told beside them and never subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from igniter_prof.monitors.contract import Counted, Seen
from igniter_prof.monitors.power.energy import (
    Energy,
    Floats,
    Times,
    counter_energy,
    covered,
    interval_ns,
    known,
    longest_gap_ns,
    power_energy,
    update_period_ns,
    updates,
)
from igniter_prof.monitors.power.split import on_gpu, per_inference, tenant_energies
from igniter_prof.monitors.power.trace import HARMLESS, LIVE, Trace, TraceInfo, reason_shares
from igniter_prof.records import DevicePower, Tenant
from igniter_prof.statistics import MIN_SAMPLES, mean_half_width
from igniter_prof.units import NS_PER_MS, NS_PER_S

DIFFERS: Final = 0.05
"""The two energies are flagged when further apart than that, of the larger."""
SEEN_PART: Final = 0.25
"""Of the time, what the sensors of A100 and H100 look at (arxiv.org/abs/2312.02741)."""
AVERAGED_S: Final = 1.0


@dataclass(frozen=True)
class _Found:
    """The energies of a window, and what is open of the one that counts."""

    counter: Energy | None
    integral: Energy | None
    error_j: float | None

    @property
    def chosen(self) -> Energy | None:
        return self.counter or self.integral

    @property
    def differs(self) -> float | None:
        """How far apart they are, of the larger."""
        if self.counter is None or self.integral is None:
            return None
        one, other = self.counter.joules, self.integral.joules
        larger = max(one, other)
        return abs(one - other) / larger if larger > 0 else None


def analyse(trace: Trace, info: TraceInfo, window: Counted, tenants: Sequence[Tenant]) -> Seen:
    """What the samples say of the window.

    Args:
        trace: (n,) of POWER_DTYPE, ascending in time, on the window's clock; may reach beyond it.
        info: what it was taken of, and the baselines.
        window: the counted window.
        tenants: of the cell; to those without the GPU none of its energy is given.

    Returns:
        ``power`` always where there is a sample in the window; ``power_w`` and ``energy_j`` of the
        measurement only if they were measured here, of the device itself, without a gap. Traces
        are left to the caller.
    """
    inside = trace[(trace["at_ns"] >= window.start_ns) & (trace["at_ns"] <= window.end_ns)]
    if len(inside) == 0:
        return Seen(complete=False, notes=("no sample of the GPU lies in the window",))
    window_s = (window.end_ns - window.start_ns) / NS_PER_S
    notes: list[str] = []
    whole = covered(trace["at_ns"], window.start_ns, window.end_ns)
    if not whole:
        gap_s = longest_gap_ns(trace["at_ns"], window.start_ns, window.end_ns) / NS_PER_S
        notes.append(
            f"no sample for {gap_s:.2g} s of the window of {window_s:.3g} s: no energy is given,"
            " and means are over what was seen"
        )
    found = _energies(trace, info, window) if whole else _Found(None, None, None)
    if whole and found.chosen is None:
        notes.append("no energy: the counter did not move, and the power was not read throughout")
    served = [count for count, each in zip(window.inferences, tenants, strict=True) if on_gpu(each)]
    inferences = sum(served)
    own = info.scope == "gpu"
    each_j, why = per_inference(found.chosen if own else None, inferences, window_s)
    power = _power(trace, inside, info, found, window_s).model_copy(
        update={"per_inference_j": each_j}
    )
    notes += _notes(power, found, info)
    notes.append(
        why
        if own
        else "power, clocks, temperature and energy are the whole card's, whose other slices may"
        " have used a part: none is given to an inference or a tenant"
    )
    parts: tuple[dict[str, Any], ...] = ()
    if own and found.chosen is not None and window.requests and served:
        parts = tuple(
            {} if energy is None else {"energy": energy}
            for energy in tenant_energies(found.chosen, info, window, tenants)
        )
    fields: dict[str, Any] = {"power": power}
    if own and info.source == LIVE and found.chosen is not None:
        fields |= {"energy_j": found.chosen.joules, "power_w": found.chosen.joules / window_s}
    complete = found.chosen is not None
    return Seen(tenants=parts, fields=fields, complete=complete, notes=tuple(notes))


def mean_power_w(trace: Trace, start_ns: int, end_ns: int) -> float | None:
    """The mean power between two instants, for a baseline; None: not sampled, or with gaps."""
    at_ns, watts = known(trace["at_ns"], trace["power_w"])
    if end_ns <= start_ns or not covered(at_ns, start_ns, end_ns):
        return None
    energy = power_energy(at_ns, watts, start_ns, end_ns)
    return None if energy is None else energy.joules / ((end_ns - start_ns) / NS_PER_S)


def _energies(trace: Trace, info: TraceInfo, window: Counted) -> _Found:
    start_ns, end_ns = window.start_ns, window.end_ns
    counter = integral = None
    at_ns, joules = known(trace["at_ns"], trace["energy_j"])
    if covered(at_ns, start_ns, end_ns):
        counter = counter_energy(at_ns, joules, start_ns, end_ns)
    at_ns, watts = known(trace["at_ns"], trace["power_w"])
    if covered(at_ns, start_ns, end_ns):
        integral = power_energy(at_ns, watts, start_ns, end_ns)
    chosen = counter or integral
    if chosen is None:
        return _Found(None, None, None)
    error_j = chosen.ends_j
    if integral is not None:
        error_j += _sampling_error_j(at_ns, watts, info, window)
    if counter is None and info.averaged:
        first, last = np.interp([0, end_ns - start_ns], at_ns - start_ns, watts)
        error_j += abs(float(last - first)) * AVERAGED_S
    return _Found(counter, integral, error_j)


def _sampling_error_j(at_ns: Times, watts: Floats, info: TraceInfo, window: Counted) -> float:
    """What a sensor that looks at a part of the time leaves open: 95%, from its updates' spread.

    The mean of n looks at a part f of the time errs by the standard error times sqrt(1 - f); which
    part is known of some sensors only, for others none of the spread is taken as seen. A load
    whose rhythm is the sensor's own is not covered by it.
    """
    times, levels = updates(at_ns - window.start_ns, watts)
    looks = levels[(times >= 0) & (times <= window.end_ns - window.start_ns)]
    if info.averaged or info.part_time is False or len(looks) < MIN_SAMPLES:
        return 0.0
    half_width = mean_half_width(looks) or 0.0
    unseen = 1 - SEEN_PART if info.part_time else 1.0
    return half_width * math.sqrt(unseen) * (window.end_ns - window.start_ns) / NS_PER_S


def _power(
    trace: Trace, inside: Trace, info: TraceInfo, found: _Found, window_s: float
) -> DevicePower:
    interval = interval_ns(inside["at_ns"])
    chosen = found.integral or found.counter
    return DevicePower(
        uuid=info.uuid,
        name=info.name,
        scope=info.scope,
        source=info.source,
        samples=len(inside),
        interval_ms=None if interval is None else interval / NS_PER_MS,
        power_mean_w=_mean(inside["power_w"]) if chosen is None else chosen.joules / window_s,
        power_peak_w=_peak(inside["power_w"]),
        power_field=info.power_field,
        power_average_mean_w=_mean(inside["power_average_w"]),
        part_time_sensor=info.part_time,
        power_limit_w=_mean(inside["power_limit_w"]),
        energy_counter_j=found.counter.joules if found.counter else None,
        energy_integral_j=found.integral.joules if found.integral else None,
        energy_differs=None if found.differs is None else found.differs > DIFFERS,
        energy_error_j=found.error_j,
        counter_period_ms=_period_ms(trace, "energy_j"),
        power_period_ms=_period_ms(trace, "power_w"),
        bare_idle_w=info.bare_idle_w,
        context_idle_w=info.context_idle_w,
        sm_clock_mean_mhz=_mean(inside["sm_mhz"]),
        memory_clock_mean_mhz=_mean(inside["memory_mhz"]),
        temperature_mean_c=_mean(inside["temperature_c"]),
        temperature_peak_c=_peak(inside["temperature_c"]),
        utilisation_mean_pct=_mean(inside["utilisation_pct"]),
        memory_utilisation_mean_pct=_mean(inside["memory_utilisation_pct"]),
        memory_mean_mib=_mean(inside["memory_mib"]),
        memory_peak_mib=_peak(inside["memory_mib"]),
        throttle_reasons=reason_shares(inside["throttle"]),
    )


def _mean(values: Floats) -> float | None:
    present = values[np.isfinite(values)]
    return float(present.mean()) if len(present) else None


def _peak(values: Floats) -> float | None:
    present = values[np.isfinite(values)]
    return float(present.max()) if len(present) else None


def _period_ms(trace: Trace, name: str) -> float | None:
    period = update_period_ns(*known(trace["at_ns"], trace[name]))
    return None if period is None else period / NS_PER_MS


def _notes(power: DevicePower, found: _Found, info: TraceInfo) -> list[str]:
    notes = []
    if found.chosen is not None and found.error_j is not None:
        which = (
            "the driver's counter"
            if found.counter
            else f"the integral of {info.power_field or 'power'}"
        )
        relative = 100 * found.error_j / found.chosen.joules if found.chosen.joules > 0 else 0.0
        notes.append(
            f"energy by {which}: {found.chosen.joules:.4g} J ± {found.error_j:.2g} J"
            f" ({relative:.2g} %: window ends and the sensor's sampling; its calibration, some 5 %,"
            " is not in it)"
        )
    if found.differs is not None and found.differs > DIFFERS:
        assert found.counter is not None
        assert found.integral is not None
        notes.append(
            f"the energies differ by {100 * found.differs:.0f} %: counter"
            f" {found.counter.joules:.4g} J, integral {found.integral.joules:.4g} J"
        )
    if info.part_time:
        notes.append(
            "this board's power sensor looks at about a quarter of the time: repeat, with longer"
            " windows"
        )
    for what, period_ms in (
        ("energy counter", power.counter_period_ms),
        ("power reading", power.power_period_ms),
    ):
        if period_ms and power.interval_ms and period_ms < 1.5 * power.interval_ms:
            notes.append(
                f"the {what} changes with about every sample: its update period is"
                f" {period_ms:.3g} ms or less"
            )
    slowed = {name: share for name, share in power.throttle_reasons.items() if name not in HARMLESS}
    if slowed:
        named = ", ".join(f"{name} in {share:.0f} %" for name, share in slowed.items())
        notes.append(f"clocks were held down: {named} of the samples")
    return notes
