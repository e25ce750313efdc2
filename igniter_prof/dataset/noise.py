"""``igprof dataset noise``: how far repeated measurements of one point differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from igniter_prof.dataset.conditions import require_agreement
from igniter_prof.dataset.points import by_place, latencies
from igniter_prof.dataset.store import ProfileStore
from igniter_prof.records import LatencySummary, Measurement


@dataclass(frozen=True)
class Noise:
    """How far repeated measurements of one tenant of one point differ, over the points."""

    group: str
    """all, solo or co-located."""
    statistic: str
    """mean, p50, p95 or p99 of the latency."""
    points: int
    """Tenants of points measured at least twice."""
    mean_pct: float
    median_pct: float
    p90_pct: float
    max_pct: float


def noise_of_profiles(paths: Sequence[Path]) -> list[Noise]:
    """The noise floor within and across profiles.

    Raises:
        BadInput: a profile is damaged, or the conditions differ (then it would not be noise).
    """
    measurements = [one for path in paths for one in ProfileStore.open(path).measurements()]
    require_agreement([one.conditions for one in measurements], " + ".join(map(str, paths)))
    return noise(measurements)


def noise(measurements: Sequence[Measurement]) -> list[Noise]:
    """The noise floor of measurements.

    That is |a - b| over the mean of the two, averaged over the pairs of repeats of a tenant,
    then summarised over tenants. Empty if nothing was repeated.
    """
    groups = by_place(measurements).values()
    found = []
    for name in ("all", "solo", "co-located"):
        chosen = [
            repeats
            for repeats in groups
            if name == "all" or (name == "co-located") == bool(repeats[0][0].neighbours)
        ]
        for statistic in ("mean", "p50", "p95", "p99"):
            differences = [
                difference
                for repeats in chosen
                if (difference := _pair_difference_pct(latencies(repeats), statistic)) is not None
            ]
            if differences:
                found.append(
                    Noise(
                        group=name,
                        statistic=statistic,
                        points=len(differences),
                        mean_pct=float(np.mean(differences)),
                        median_pct=float(np.median(differences)),
                        p90_pct=float(np.quantile(differences, 0.9)),
                        max_pct=float(np.max(differences)),
                    )
                )
    return found


def _pair_difference_pct(summaries: Sequence[LatencySummary], statistic: str) -> float | None:
    known = [
        value
        for one in summaries
        if (value := _statistic(one, statistic)) is not None and value > 0
    ]
    if len(known) < 2:
        return None
    a = np.array(known)
    first, second = np.triu_indices(len(a), 1)
    pairs = np.abs(a[first] - a[second]) / ((a[first] + a[second]) / 2)
    return 100 * float(pairs.mean())


def _statistic(summary: LatencySummary, statistic: str) -> float | None:
    if statistic == "mean":
        return summary.mean_ms
    quantile = getattr(summary, statistic)
    return None if quantile is None else float(quantile.value_ms)
