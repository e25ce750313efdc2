"""The classes of a problem as arrays, for one kind of device: what the search works on.

Shares are counted in units of the share step. A *setting* is a model with a batch size and a share;
an *option* of a class is one of its batch sizes. A class keeps the rule with a setting as long as
its mean latency is at most a limit: the rule is turned into that limit once, so that judging a cell
is predicting its latencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from igniter_prof.fitting.points import BoolArray, FloatArray, IntArray
from igniter_prof.fitting.tables import LatencyTable
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import DEVICE_PCT, DeviceKind, Problem
from igniter_prof.provisioning.queue_limits import COARSE, FINE, QueueCurve, ShareLimits
from igniter_prof.records import Prediction, Tenant, Workload

SLACK = 1e-9
"""Relative: how far over a limit counts as at it, as in ``operating``."""

QUEUE_SLACK = 0.01
"""Relative: a limit that comes from a queueing estimate is taken so much higher in the search.

The search takes neighbours to slow executed batches of all sizes alike; what it finds is judged
exactly afterwards.
"""

_FEW = 100
"""Up to so many classes, limits that come from a queueing estimate are found more exactly."""


@dataclass(frozen=True)
class Grid:
    """All settings of a kind of device; arrays are (n_models, n_batches, n_units)."""

    models: tuple[str, ...]
    batches: tuple[int, ...]
    capacity: int
    step_pct: float
    allowed: BoolArray
    """Whether the model may have the batch size and the share."""
    alone_ms: FloatArray
    overlapped_ms: FloatArray
    stretch_alone: FloatArray
    """Upper end of the interval that the rule demands over the mean, alone and beside others."""
    stretch_together: FloatArray
    memory_mib: FloatArray
    """0 where it is not known."""
    power_w: FloatArray
    """What a tenant alone adds to the idle power while busy; 0 where it is not known."""

    def share_pct(self, units: int) -> float:
        """A share, as the grid of the problem has it."""
        return round(units * self.step_pct, 9)

    def tenant(self, model: int, batch: int, units: int) -> Tenant:
        """A setting as a tenant."""
        return Tenant(
            model=self.models[model],
            batch_size=self.batches[batch],
            share_pct=self.share_pct(units),
        )


@dataclass(frozen=True)
class Demand:
    """Classes on one kind of device; C classes, O options at most, U units of share.

    ``alone`` and ``number`` are by unit - 1. A class that the kind cannot hold has no option.
    """

    table: LatencyTable
    capacity: int
    max_tenants: int
    batch: IntArray
    """(C, O), ascending: index into the grid's batch sizes."""
    number: IntArray
    """(C, O, U): of the setting in ``table``; 0 where ``alone`` is false."""
    limit_ms: FloatArray
    """(C, O, U): with at most this mean latency beside others the class keeps the rule."""
    alone: BoolArray
    """(C, O, U): whether the class keeps the rule alone with the setting."""
    memory_mib: FloatArray
    """(C, O)."""
    memory_limit_mib: float
    at_most: IntArray
    """(C,): of one class on one device."""
    apart: BoolArray | None
    """(C, C): whether two classes may not share a device; None: all may."""

    @property
    def feasible(self) -> BoolArray:
        """(C,): whether a device can hold the class alone."""
        return np.asarray(self.alone.any(axis=(1, 2)))


@dataclass(frozen=True)
class Limits:
    """Full latency limits of classes, by the grid's batch sizes: (C, n_batches, n_units), ms.

    ``alone`` for a tenant without neighbours. Below 0: the class may not have that setting.
    """

    model: IntArray
    together: FloatArray
    alone: FloatArray


def grid_of(problem: Problem, kind: DeviceKind) -> Grid:
    """Everything that the search needs to know of a kind's settings, predicted at once."""
    step = kind.record.share_step_pct or 5.0
    capacity = int(DEVICE_PCT / step + 1e-9)
    models = tuple(sorted(kind.choices))
    batches = tuple(sorted({size for each in kind.choices.values() for size in each.batch_sizes}))
    if not models:  # it may hold nobody: one setting that nobody may have
        batches = (1,)
    shape = (max(1, len(models)), len(batches), capacity)
    allowed = np.zeros(shape, dtype=bool)
    for index, model in enumerate(models):
        choice = kind.choices[model]
        sizes = [batches.index(size) for size in choice.batch_sizes]
        units = [round(share / step) - 1 for share in choice.shares_pct]
        allowed[index][np.ix_(sizes, units)] = True
    where = np.argwhere(allowed)
    tenants = [
        Tenant(
            model=models[model], batch_size=batches[batch], share_pct=round((unit + 1) * step, 9)
        )
        for model, batch, unit in where.tolist()
    ]
    predictor = kind.evaluator.predictor
    predicted = [cell[0] for cell in predictor.predict([[tenant] for tenant in tenants])]
    place = tuple(where.T)

    def spread(values: Sequence[float | None], missing: float = 0.0) -> FloatArray:
        full = np.full(shape, missing)
        full[place] = [missing if value is None else value for value in values]
        return full

    alone_ms = [each.latency_ms for each in predicted]
    stretch = np.ones(len(tenants))
    together = stretch
    confidence = problem.rule.confidence
    if confidence is not None and tenants:
        stretch = np.array([each.latency_high_ms / each.latency_ms for each in predicted])
        neighbours = [_lightest_of(kind, model, step) for model in models]
        beside = predictor.predict([[t, other] for t in tenants for other in neighbours])
        ratios = np.array([cell[0].latency_high_ms / cell[0].latency_ms for cell in beside])
        together = ratios.reshape(len(tenants), -1).min(axis=1)
        power = problem.rule.stretch
        stretch, together = stretch**power, together**power
    return Grid(
        models=models,
        batches=batches,
        capacity=capacity,
        step_pct=step,
        allowed=allowed,
        alone_ms=spread(alone_ms, np.inf),
        overlapped_ms=spread(
            [
                each.latency_ms - 1000.0 * tenant.batch_size / each.throughput_rps
                for tenant, each in zip(tenants, predicted, strict=True)
            ]
        ),
        stretch_alone=spread(stretch.tolist(), 1.0),
        stretch_together=spread(together.tolist(), 1.0),
        memory_mib=spread([each.memory_mib for each in predicted]),
        power_w=spread([_rise_w(kind, each) for each in predicted]),
    )


def _rise_w(kind: DeviceKind, alone: Prediction) -> float | None:
    power = kind.evaluator.predictor.resources.power
    if power is None or alone.power_w is None:
        return None
    return max(alone.power_w - power.idle_w, 0.0)


def _lightest_of(kind: DeviceKind, model: str, step: float) -> Tenant:
    choice = kind.choices[model]
    return Tenant(model=model, batch_size=choice.batch_sizes[0], share_pct=choice.shares_pct[0])


def limits_of(problem: Problem, number: int, grid: Grid) -> Limits:
    """The limits of all classes on a kind of device (its number)."""
    kind, rule = problem.kinds[number], problem.rule
    c, shape = len(problem.classes), grid.alone_ms.shape[1:]
    model = np.zeros(c, dtype=np.int64)
    together, alone = np.full((c, *shape), -1.0), np.full((c, *shape), -1.0)
    sizes = np.array(grid.batches, dtype=np.float64)[:, None]
    width = FINE if c <= _FEW else COARSE
    for index, each in enumerate(problem.classes):
        if not problem.allows(each, number):
            continue
        workload = each.sample
        m = model[index] = grid.models.index(workload.model)
        fits = [rule.allows_batch(workload, size) for size in grid.batches]
        may = grid.allowed[m] & np.array(fits)[:, None]
        gap_ms = 1000.0 * sizes * rule.max_utilisation / workload.rate_rps
        for limit, stretch in (
            (together, grid.stretch_together[m]),
            (alone, grid.stretch_alone[m]),
        ):
            keeps_up = gap_ms / stretch + grid.overlapped_ms[m]
            mean_ms = np.inf if rule.queueing else rule.limit_ms(workload)
            within = mean_ms / stretch
            limit[index] = np.where(may, np.minimum(keeps_up, within), -1.0)
        if rule.queueing:
            _queueing(kind, grid, workload, m, together[index], alone[index], width)
    return Limits(model, together, alone)


def _queueing(
    kind: DeviceKind,
    grid: Grid,
    workload: Workload,
    m: int,
    together: FloatArray,
    alone: FloatArray,
    width: int,
) -> None:
    """Lower both limits (n_batches, n_units) to where the percentile is kept, in place."""
    evaluator = kind.evaluator
    for batch, size in enumerate(grid.batches):
        alone_ms = grid.alone_ms[m, batch]
        units = np.flatnonzero((alone[batch] >= 0) & (alone_ms <= alone[batch] * (1 + SLACK)))

        def curve(unit: int, size: int = size) -> QueueCurve:
            return evaluator.curve(workload, Setting(size, grid.share_pct(unit + 1)))

        together_ms = np.maximum(together[batch], alone_ms) * grid.stretch_together[m, batch]
        shares = ShareLimits(
            curve,
            rate_rps=workload.rate_rps,
            limit_ms=evaluator.rule.limit_ms(workload),
            alone_ms=alone_ms,
            needed_ms=alone_ms * grid.stretch_alone[m, batch],
            most_ms=together_ms,
            width=width,
        )
        first = shares.first(units)
        if first is None:
            together[batch] = alone[batch] = -1.0
            continue
        bound = shares.bounds(first, units) * (1.0 + QUEUE_SLACK)
        stretched = bound / grid.stretch_together[m, batch]
        together[batch] = np.minimum(together[batch], stretched)
        alone[batch, :first] = -1.0
        together[batch, :first] = -1.0


def demand_of(problem: Problem, number: int, grid: Grid, limits: Limits) -> Demand:
    """Classes as the search needs them; ``limits`` may be those of groups of classes."""
    return build(
        problem.kinds[number],
        grid,
        limits,
        at_most=np.array([each.at_most for each in problem.classes]),
        memory=np.array([each.sample.memory_mib or np.nan for each in problem.classes]),
        labels=[each.sample.anti_affinity for each in problem.classes],
    )


def build(
    kind: DeviceKind,
    grid: Grid,
    limits: Limits,
    *,
    at_most: IntArray,
    memory: FloatArray,
    labels: Sequence[str | None],
) -> Demand:
    """A ``Demand`` from limits; ``memory`` (C,), NaN: as predicted."""
    c = len(limits.model)
    alone_ms = grid.alone_ms[limits.model]
    ok: BoolArray = np.logical_and(limits.alone >= 0, alone_ms <= limits.alone * (1 + SLACK))
    record = kind.record
    device_mib = record.memory_mib or (record.device.memory_mib if record.device else None)
    needed_mib = np.where(
        np.isnan(memory)[:, None], grid.memory_mib.max(axis=2)[limits.model], memory[:, None]
    )
    if device_mib is not None:
        ok &= (needed_mib <= device_mib)[:, :, None]
    used = np.asarray(ok.any(axis=2))
    most = max(1, int(used.sum(axis=1).max(initial=0)))
    batch = np.zeros((c, most), dtype=np.int64)
    alone: BoolArray = np.zeros((c, most, grid.capacity), dtype=bool)
    limit_ms = np.full((c, most, grid.capacity), -1.0)
    for index in range(c):
        options = np.flatnonzero(used[index])
        batch[index, : len(options)] = options
        alone[index, : len(options)] = ok[index, options]
        limit_ms[index, : len(options)] = limits.together[index, options]
    # the table holds only what somebody may have
    wanted = np.zeros(grid.alone_ms.shape, dtype=bool)
    model = np.broadcast_to(limits.model[:, None, None], alone.shape)
    units = np.broadcast_to(np.arange(grid.capacity)[None, None, :], alone.shape)
    batches = np.broadcast_to(batch[:, :, None], alone.shape)
    wanted[model[alone], batches[alone], units[alone]] = True
    if not wanted.any() and grid.allowed.any():
        # nobody can be on this kind: a table needs a setting all the same
        wanted[tuple(np.argwhere(grid.allowed)[0])] = True
    numbers = np.cumsum(wanted.ravel()).reshape(wanted.shape) - 1
    settings = [grid.tenant(m, b, u + 1) for m, b, u in np.argwhere(wanted).tolist()]
    number = np.where(alone, numbers[model, batches, units], 0)
    apart = None
    if any(label is not None for label in labels):
        named = np.array(
            [label if label is not None else f"\0{i}" for i, label in enumerate(labels)]
        )
        apart = named[:, None] == named[None, :]
    return Demand(
        table=kind.evaluator.predictor.table(settings),
        capacity=grid.capacity,
        max_tenants=kind.max_tenants,
        batch=batch,
        number=number,
        limit_ms=limit_ms,
        alone=alone,
        memory_mib=np.take_along_axis(needed_mib, batch, axis=1),
        memory_limit_mib=np.inf if device_mib is None else float(device_mib),
        at_most=at_most,
        apart=apart,
    )
