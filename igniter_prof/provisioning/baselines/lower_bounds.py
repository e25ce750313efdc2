"""Batch size and share that a workload needs alone, as iGniter bounds them (its Theorem 1)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from igniter_prof.provisioning.baselines.judging import Judge
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import Configuration, WorkloadClass, natural
from igniter_prof.records import Workload

Placed = tuple[int, Setting]
"""A tenant of a device: the index of its class, and its setting."""


def lower_bounds(classes: Sequence[WorkloadClass], judge: Judge) -> list[Setting]:
    """For each class the appropriate batch size, and the least share that it needs with it alone.

    Where the rule cannot hold with that batch size, the next smaller one counts with which it
    can, or else the next larger one.
    """
    return [_lower_bound(each.sample, judge) for each in classes]


def largest_first(classes: Sequence[WorkloadClass], bounds: Sequence[Setting]) -> list[int]:
    """The class of every workload: the largest least share first, equal ones in order of names."""
    workloads = [
        (-bounds[index].share_pct, natural(name), index)
        for index, each in enumerate(classes)
        for name in each.names
    ]
    return [index for _, _, index in sorted(workloads)]


def configurations(devices: Iterable[Iterable[Placed]]) -> list[Configuration]:
    """Devices as the planner has them: each one's tenants ascending by class."""
    made = []
    for device in devices:
        pattern, settings = zip(*sorted(device), strict=True)
        made.append(Configuration(pattern, settings))
    return made


def _lower_bound(workload: Workload, judge: Judge) -> Setting:
    rule = judge.kind.evaluator.rule
    every = judge.kind.choices[workload.model].batch_sizes
    batches = [batch for batch in every if rule.allows_batch(workload, batch)]
    position = _appropriate(workload, judge, batches)
    for batch in (*batches[position::-1], *batches[position + 1 :]):
        share_pct = _least_share(workload, judge, batch)
        if share_pct is not None:
            return Setting(batch, share_pct)
    raise ValueError(f"'{workload.name}' is not feasible alone")


def _appropriate(workload: Workload, judge: Judge, batches: Sequence[int]) -> int:
    """Position of the smallest batch size that sustains the rate within half of the SLO.

    iGniter's ``b >= R·T/2 / (1 + R·d_load/B)`` is ``b/R >= T/2 - d_load·b/B``: a batch that takes
    half of the SLO, less the loading that overlaps with the batch before, must be through before
    the next one has arrived. What overlaps is, for any predictor, how much longer the latency is
    than the throughput says.
    """
    top = judge.kind.choices[workload.model].shares_pct[-1]
    for position, batch in enumerate(batches):
        speed = judge.speed_alone(workload.model, batch, top)
        overlapped_ms = speed.latency_ms - 1000 * batch / speed.throughput_rps
        arriving_ms = 1000 * batch / workload.rate_rps
        if arriving_ms >= (workload.slo_ms / 2 - overlapped_ms) * (1 - 1e-9):
            return position
    return len(batches) - 1


def _least_share(workload: Workload, judge: Judge, batch_size: int) -> float | None:
    """The least share with which the rule holds alone, None if there is none."""
    shares = judge.kind.choices[workload.model].shares_pct

    def holds(share_pct: float) -> bool:
        return judge.holds_alone(workload, Setting(batch_size, share_pct))

    position = bisect_left(shares, True, key=holds)
    if position < len(shares) and holds(shares[position]):
        return shares[position]
    # a predictor may make a model slower with more share
    return next(filter(holds, shares), None)
