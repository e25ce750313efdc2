"""``igprof dataset compare``: what changed between two profiles, and is it more than noise.

All is done on logarithms of mean latencies, so that changes are ratios. One measurement of a tenant
has the variance of its mean (batch means) plus the variance *between* repeats, tau^2, which no
single run can see: what repeats scatter more than their own means explain, pooled over all points
of both profiles (a one-way random-effects model by moments). A change is tested with Welch's t
(Satterthwaite's degrees of freedom); over all tenants the false discovery rate is kept at alpha.
[Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57(1).]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from igniter_prof.dataset.conditions import values
from igniter_prof.dataset.points import Place, Repeats, by_place, latencies
from igniter_prof.dataset.store import ProfileStore
from igniter_prof.records import Conditions, LatencySummary, Measurement
from igniter_prof.statistics import batch_count, standard_error

ALPHA = 0.05


@dataclass(frozen=True)
class Change:
    """How the mean latency of one tenant of one point changed."""

    place: Place
    status_a: str
    status_b: str
    repeats_a: int
    repeats_b: int
    mean_a_ms: float | None
    mean_b_ms: float | None
    change_pct: float | None
    """Of the mean latency, from A to B; None where one of them has none."""
    low_pct: float | None
    high_pct: float | None
    """The change's 95% interval, for this tenant alone; None: too few requests."""
    p_value: float | None
    significant: bool | None
    """More than noise, with all tenants considered; None: cannot be said."""


@dataclass(frozen=True)
class Comparison:
    """What changed from profile A to profile B."""

    conditions: dict[str, tuple[list[object], list[object]]]
    """Fields of the conditions with other known values in B than in A."""
    changes: tuple[Change, ...]
    only_a: int
    only_b: int
    """Tenants of points that the other profile lacks."""
    between_repeats_pct: float | None
    """Standard deviation between repeats; None: no repeats, so this noise is not known."""
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    """Geometric mean of B over A with its 95% interval over the tenants (two at least)."""


def compare_profiles(first: Path, second: Path, *, alpha: float = ALPHA) -> Comparison:
    """Compare two profiles tenant by tenant. Raises BadInput as ``ProfileStore.measurements``."""
    return compare(
        ProfileStore.open(first).measurements(),
        ProfileStore.open(second).measurements(),
        alpha=alpha,
    )


def compare(
    first: Sequence[Measurement], second: Sequence[Measurement], *, alpha: float = ALPHA
) -> Comparison:
    """Compare measurements; cells match by what they measured, whatever device and repeat."""
    places_a, places_b = by_place(first), by_place(second)
    between = _between([*places_a.values(), *places_b.values()])
    common = [key for key in places_a if key in places_b]
    changes = [_change(places_a[key], places_b[key], between) for key in common]
    found = _discoveries([change.p_value for change in changes], alpha)
    changes = [
        change if change.p_value is None else replace(change, significant=verdict)
        for change, verdict in zip(changes, found, strict=True)
    ]
    logs = [math.log1p(one.change_pct / 100) for one in changes if one.change_pct is not None]
    ratio, low, high = _geometric_mean(logs)
    return Comparison(
        conditions=_changed_conditions(first, second),
        changes=tuple(changes),
        only_a=len(places_a) - len(common),
        only_b=len(places_b) - len(common),
        between_repeats_pct=None if between is None else 100 * math.sqrt(between.variance),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
    )


# --- the statistics of a change --------------------------------------------------------------


@dataclass(frozen=True)
class _Variance:
    """An estimated variance and its degrees of freedom."""

    variance: float
    degrees: float


def _within(summary: LatencySummary) -> _Variance | None:
    """Variance of the logarithm of a mean latency (delta method); None: too few requests."""
    if summary.mean_ci_ms is None or summary.count is None:
        return None
    error = standard_error(summary.mean_ci_ms, summary.count) / summary.mean_ms
    return _Variance(error**2, batch_count(summary.count) - 1)


def _between(groups: Iterable[Repeats]) -> _Variance | None:
    """tau^2: what repeats of one point scatter beyond their own uncertainty, pooled."""
    total = expected = 0.0
    degrees = 0
    for repeats in groups:
        summaries = latencies(repeats)
        if len(summaries) < 2:
            continue
        logs = np.log([summary.mean_ms for summary in summaries])
        within = [part.variance for part in map(_within, summaries) if part is not None]
        total += float(((logs - logs.mean()) ** 2).sum())
        expected += (len(logs) - 1) * (float(np.mean(within)) if within else 0.0)
        degrees += len(logs) - 1
    if degrees == 0:
        return None
    return _Variance(max(0.0, (total - expected) / degrees), degrees)


def _change(repeats_a: Repeats, repeats_b: Repeats, between: _Variance | None) -> Change:
    sides = [latencies(repeats_a), latencies(repeats_b)]
    means = [_log_mean(side) for side in sides]
    change = low = high = p_value = None
    if means[0] is not None and means[1] is not None:
        difference = means[1] - means[0]
        change = 100 * math.expm1(difference)
        parts = _variances(sides, between)
        if parts is not None:
            half, p_value = _welch(difference, parts)
            low = 100 * math.expm1(difference - half)
            high = 100 * math.expm1(difference + half)
    return Change(
        place=repeats_a[0][0],
        status_a=_status(repeats_a),
        status_b=_status(repeats_b),
        repeats_a=len(sides[0]),
        repeats_b=len(sides[1]),
        mean_a_ms=None if means[0] is None else math.exp(means[0]),
        mean_b_ms=None if means[1] is None else math.exp(means[1]),
        change_pct=change,
        low_pct=low,
        high_pct=high,
        p_value=p_value,
        significant=None,
    )


def _log_mean(side: Sequence[LatencySummary]) -> float | None:
    return float(np.mean([math.log(one.mean_ms) for one in side])) if side else None


def _status(repeats: Repeats) -> str:
    """The statuses that occurred, in order of appearance."""
    return "/".join(dict.fromkeys(tenant.status for _, tenant in repeats))


def _variances(
    sides: Sequence[Sequence[LatencySummary]], between: _Variance | None
) -> list[_Variance] | None:
    """The independent parts of the variance of a difference; None: one is not known."""
    parts = []
    for side in sides:
        for summary in side:
            within = _within(summary)
            if within is None:
                return None
            parts.append(_Variance(within.variance / len(side) ** 2, within.degrees))
    if between is not None:
        scale = sum(1 / len(side) for side in sides)
        parts.append(_Variance(between.variance * scale, between.degrees))
    return parts


def _welch(difference: float, parts: Sequence[_Variance]) -> tuple[float, float]:
    """Half-width of the difference's 95% interval, and the p-value of no difference."""
    from scipy.special import stdtr, stdtrit

    variance = sum(part.variance for part in parts)
    if variance == 0:
        return 0.0, 1.0 if difference == 0 else 0.0
    degrees = 1 / sum((part.variance / variance) ** 2 / part.degrees for part in parts)
    error = math.sqrt(variance)
    half_width = float(stdtrit(degrees, 0.975)) * error
    return half_width, float(2 * stdtr(degrees, -abs(difference) / error))


def _discoveries(p_values: Sequence[float | None], alpha: float) -> list[bool]:
    """Benjamini-Hochberg: which are significant at a false discovery rate of alpha."""
    known = sorted(p for p in p_values if p is not None)
    bounds = [p for rank, p in enumerate(known, 1) if p <= alpha * rank / len(known)]
    threshold = max(bounds, default=-1.0)
    return [p is not None and p <= threshold for p in p_values]


def _geometric_mean(
    logs: Sequence[float],
) -> tuple[float | None, float | None, float | None]:
    if not logs:
        return None, None, None
    from scipy.special import stdtrit

    mean = float(np.mean(logs))
    if len(logs) < 2:
        return math.exp(mean), None, None
    error = float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    half = float(stdtrit(len(logs) - 1, 0.975)) * error
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def _changed_conditions(
    first: Sequence[Measurement], second: Sequence[Measurement]
) -> dict[str, tuple[list[object], list[object]]]:
    old = [one.conditions for one in first]
    new = [one.conditions for one in second]
    found = {name: (values(old, name), values(new, name)) for name in Conditions.model_fields}
    return {
        name: (a, b) for name, (a, b) in found.items() if sorted(map(str, a)) != sorted(map(str, b))
    }
