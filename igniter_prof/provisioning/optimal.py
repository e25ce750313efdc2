"""The strategy ``optimal``: column generation for the bound, an integer program for the plan."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import numpy as np

from igniter_prof.errors import Infeasible
from igniter_prof.fitting.points import FloatArray, IntArray
from igniter_prof.provisioning.columns import Column, choose, covers, held_by, relax
from igniter_prof.provisioning.diving import dive, with_most_used
from igniter_prof.provisioning.engine import Engine
from igniter_prof.provisioning.generation import Bound, Generation, Judged
from igniter_prof.provisioning.groups import (
    Groups,
    alike,
    firm,
    merged,
    needs_alone,
    needs_in,
    seeds,
    singles,
)
from igniter_prof.provisioning.problem import Configuration, Pattern, Problem

_EPS = 1e-6
_CLOSE = 1e-4
"""Relative: a bound so near to the relaxation's value is good enough where costs are no steps."""
MOST_CLASSES = 80
"""More classes than these are planned, and bounded, in groups."""
_CONTEXTS = 50
"""Devices of a plan whose tenants classes are tried beside."""
_LEVELS = ((0.25, 0.75), (0.2, 0.5, 0.8))
"""Beside which of them members of a group need the same; ever finer groups."""
_MOST_BOUNDED = 250
"""Groups of which all patterns can be searched."""
_ROUGHLY = 1.02
"""How near to their relaxation the bound of the first groups is proven."""
_PLANNING = 0.6
"""Part of the time in which more classes than these are planned; the rest is for bounds."""
_MOST_STEPS = 5_000_000
_AT_ONCE = 0.05
"""Part of the devices of a relaxation that is fixed at once where none is used a whole time."""
_SMALL = 60
"""Classes of which an integer program is solved in seconds."""
_MOST_SPREAD = 300
"""With more different devices than these, what is left of their shares is not handed out."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Configurations of devices, and the prices that prove what every plan costs at least."""

    devices: tuple[Configuration, ...]
    bound: Bound | None = None
    notes: tuple[str, ...] = ()


def optimal(engine: Engine) -> Placement:
    """The cheapest plan that is found in time, and a bound.

    Raises:
        OutsideFailure: no solver works.
        Infeasible: no plan within the limits of the device types was found.
    """
    problem = engine.problem
    counts = np.array([each.count for each in problem.classes])
    if len(counts) > MOST_CLASSES:
        return _of_many(engine, counts)
    started, limit_s = time.monotonic(), problem.time_limit_s
    generation = _generation(engine, singles(engine), counts, _judged(engine))
    generation.start()
    generation.generate(started + 0.4 * limit_s)
    generation.prove(started + 0.8 * limit_s, partial(_wanted, problem))
    chosen = _finish(problem, generation, started + limit_s)
    if chosen is None:
        raise _too_few(problem)
    devices = _devices(engine, chosen, counts, most_spread=_MOST_SPREAD)
    return Placement(devices=devices, bound=generation.bound)


def _of_many(engine: Engine, counts: IntArray) -> Placement:
    """See ``optimal``: for more classes than can be planned one by one."""
    problem = engine.problem
    of = alike(engine, needs_alone(engine))
    # limits are made by now: under a queueing rule they may take as long as all that follows
    started, limit_s = time.monotonic(), problem.time_limit_s
    until = started + limit_s
    groups, coarse = _relaxed_groups(engine, counts, of, until)
    near = coarse.relaxed()
    generation = _generation(engine, firm(engine), counts)
    generation.start_alone()
    prices = generation.alone() / 3 if near is None else near.prices[groups.of]
    # most patterns are never used: those that are to be are judged then
    chosen = dive(
        generation,
        _judged(engine),
        partial(rounded_up, problem),
        prices,
        started + _PLANNING * limit_s,
        problem.seed,
    )
    if chosen is None:
        raise _too_few(problem)
    devices = _devices(engine, chosen, counts, most_spread=0)
    bound = _bound_by_groups(engine, counts, groups, coarse, _neighbours(generation, chosen), until)
    return Placement(devices=devices, bound=bound)


def _relaxed_groups(
    engine: Engine,
    counts: IntArray,
    of: IntArray,
    until: float,
    before: tuple[Groups, Generation] | None = None,
) -> tuple[Groups, Generation]:
    """Groups easier than their members with patterns, which may start from those of others."""
    groups = merged(engine, of)
    generation = _generation(engine, groups, counts)
    # more rounds with some patterns that do not work prove more in the same time
    generation.refutes = 0
    generation.start(() if before is None else seeds(before[1].used(), before[0].of, of))
    now = time.monotonic()
    generation.generate(now + (until - now) / 3)
    return groups, generation


def _neighbours(generation: Generation, chosen: Mapping[Column, int]) -> dict[int, list[IntArray]]:
    """What tenants of some devices of a plan have beside them: settings, by kind."""
    found: dict[int, list[IntArray]] = {}
    several = [column for column in chosen if len(column[1]) > 1]
    step = max(1, len(several) // _CONTEXTS)
    for place, column in enumerate(several[::step]):
        kind, pattern = column
        option, units = generation.columns[column]
        settings = generation.searches[kind].demand.number[list(pattern), option, units - 1]
        found.setdefault(kind, []).append(np.delete(settings, place % len(pattern)))
    return found


def _bound_by_groups(
    engine: Engine,
    counts: IntArray,
    groups: Groups,
    generation: Generation,
    neighbours: Mapping[int, Sequence[IntArray]],
    until: float,
) -> Bound | None:
    """The best bound, with prices by class.

    That of the few groups given is soon proven. Finer ones are nearer to the classes, and slower:
    their members need the same beside tenants of a plan.
    """
    best: Bound | None = None
    within = _ROUGHLY
    for levels in (*_LEVELS, ()):
        generation.prove(until, partial(_wanted, engine.problem, within=within))
        within = 1.0
        found = generation.bound
        if found is not None and (best is None or found.value > best.value):
            best = replace(found, prices=found.prices[groups.of])
        if not levels or time.monotonic() > until:
            break
        of = alike(engine, needs_in(engine, neighbours, levels))
        if int(of.max()) + 1 > _MOST_BOUNDED:
            break
        groups, generation = _relaxed_groups(engine, counts, of, until, (groups, generation))
    return best


def _too_few(problem: Problem) -> Infeasible:
    return Infeasible(
        f"no plan for the {problem.tenant_count} tenants was found within the number of devices"
        f" that there are ({_limits_text(problem)})",
        hint="allow more devices, relax rates and SLOs, or give workloads a priority, so that"
        " the lowest may be left out",
    )


def cost_step(problem: Problem) -> float | None:
    """What all costs of plans are multiples of; None if they may be anything."""
    if problem.objective.power:
        return None
    costs = [
        Fraction(problem.device_cost(kind)).limit_denominator(10_000)
        for kind in range(len(problem.kinds))
    ]
    for kind, cost in enumerate(costs):
        if not cost or abs(float(cost) - problem.device_cost(kind)) > 1e-12:
            return None
    common = math.lcm(*(cost.denominator for cost in costs))
    return math.gcd(*(int(cost * common) for cost in costs)) / common


def rounded_up(problem: Problem, value: float) -> float:
    """The least sum of costs of devices that is not below a value."""
    return _sums(problem, value)[1]


def _wanted(problem: Problem, value: float, within: float = 1.0) -> float:
    """A bound that is good enough, given the relaxation's value: it cannot be above that.

    ``within``: the factor by which it may be below.
    """
    if within > 1.0:
        return value / within
    # the other half of the gap is left for the plan
    within = value / (1.0 + max(problem.gap / 2, _CLOSE))
    below, least = _sums(problem, value)
    if least == value:
        return within
    # just over the next lower sum: the bound is rounded up
    return max(min(within, below + 2 * _EPS * max(1.0, value)), 0.5 * value)


def _sums(problem: Problem, value: float) -> tuple[float, float]:
    """The sums of costs of devices next to a value: the highest below, and the least at or above.

    The value itself, twice, where costs come in no steps.
    """
    step = cost_step(problem)
    if step is None or value <= 0 or value / step > _MOST_STEPS:
        return value, value
    least = math.ceil(value / step - _EPS * max(1.0, value / step))
    costs = [round(problem.device_cost(kind) / step) for kind in range(len(problem.kinds))]
    highest = least + max(costs)
    mask = (1 << (highest + 1)) - 1
    reachable = 1  # bit n: whether costs add up to n steps
    for cost, kind in zip(costs, problem.kinds, strict=True):
        limit = kind.record.count
        left = highest // cost + 1 if limit is None else min(limit, highest // cost + 1)
        times = 1
        while left > 0:
            # so many at once, then twice as many: every number up to the limit is a sum of these
            taken = min(times, left)
            reachable = (reachable | (reachable << (cost * taken))) & mask
            left -= taken
            times *= 2
    above = reachable >> least
    if not above:
        return value, value
    at = least + (above & -above).bit_length() - 1
    below = (reachable & ((1 << at) - 1)).bit_length() - 1
    return below * step, at * step


def _generation(
    engine: Engine,
    groups: Groups,
    counts: IntArray,
    judged: Judged | None = None,
) -> Generation:
    problem = engine.problem
    return Generation(
        searches=groups.searches,
        counts=groups.counts(counts),
        costs=[least_cost(engine, kind) for kind in range(len(problem.kinds))],
        adds=adds(engine, groups),
        limits=[kind.record.count for kind in problem.kinds],
        judged=judged,
        seed=problem.seed,
    )


def _judged(engine: Engine) -> Judged | None:
    """What judges patterns that the search takes to work, if that may be wrong."""
    problem = engine.problem
    exact = problem.rule.queueing or problem.rule.confidence is not None
    limited = any(kind.record.power_limit_w is not None for kind in problem.kinds)
    return engine.judged if exact or limited else None


def least_cost(engine: Engine, kind: int) -> float:
    """What a device costs that does nothing."""
    problem = engine.problem
    power = problem.kinds[kind].evaluator.predictor.resources.power
    idle_w = power.idle_w if power is not None and problem.objective.power else 0.0
    return problem.device_cost(kind) + problem.objective.power * idle_w


def adds(engine: Engine, groups: Groups) -> FloatArray:
    """What a tenant adds to the cost of its device at least, (n_kinds, n_groups)."""
    problem = engine.problem
    least = np.zeros((len(problem.kinds), len(groups.searches[0].least)))
    if not problem.objective.power:
        return least
    for kind, (grid, limits) in enumerate(zip(engine.grids, engine.limits, strict=True)):
        power = problem.kinds[kind].evaluator.predictor.resources.power
        if power is None:
            continue
        sizes = np.array(grid.batches, dtype=np.float64)[:, None]
        rates = np.array([each.sample.rate_rps for each in problem.classes])
        # busy for rate / throughput of the time, beside others at least as long as alone
        batch_ms = grid.alone_ms - grid.overlapped_ms
        with np.errstate(invalid="ignore"):
            each_w = (grid.power_w * batch_ms / sizes / 1000.0)[limits.model]
        each_w = np.where(limits.alone >= 0, each_w * rates[:, None, None], np.inf)
        least_w = each_w.min(axis=(1, 2))
        least_w[~np.isfinite(least_w)] = 0.0
        # the power limit may hold a full device below the sum
        search = engine.searches[kind]
        full_w = search.demand.capacity * (least_w / search.least).max(initial=0.0)
        part = min(1.0, (power.held_w - power.idle_w) / full_w) if full_w > 0 else 0.0
        lowest = np.full(least.shape[1], np.inf)
        np.minimum.at(lowest, groups.of, least_w)
        least[kind] = problem.objective.power * part * lowest
    return least


def _finish(problem: Problem, generation: Generation, deadline: float) -> dict[Column, int] | None:
    """An integer choice of columns: the relaxation rounded down, and a program for the rest."""
    counts, limits = generation.counts, generation.limits
    bound = generation.bound
    lower = 0.0 if bound is None else rounded_up(problem, bound.value)
    columns = list(generation.columns)
    costs = [generation.cost(each) for each in columns]
    best: dict[Column, int] | None = None
    best_cost = math.inf
    # the less is fixed beforehand, the better and the slower the rest is solved
    for rest_classes in (_SMALL, 2 * _SMALL, len(counts)):
        left_s = deadline - time.monotonic()
        if best is not None and (best_cost <= lower * (1.0 + problem.gap) + _EPS or left_s <= 1.0):
            break
        fixed = _dived(columns, costs, counts, limits, rest_classes, generation.seed)
        if fixed is None:
            return best
        rest = counts - held_by(columns, fixed, len(counts))
        rest_limits = [
            None if limit is None else limit - int(fixed[[c[0] == kind for c in columns]].sum())
            for kind, limit in enumerate(limits)
        ]
        found = choose(
            columns,
            costs,
            np.maximum(rest, 0),
            rest_limits,
            time_limit_s=max(left_s / 2, 1.0),
            seed=generation.seed,
            enough=lower * (1.0 + problem.gap) - float(np.dot(fixed, costs)),
        )
        if found is None:
            continue
        whole = Counter({c: int(n) for c, n in zip(columns, fixed, strict=True) if n})
        whole.update(found)
        cost = sum(generation.cost(each) * n for each, n in whole.items())
        if cost < best_cost - _EPS and covers(whole, counts, limits):
            best, best_cost = dict(whole), cost
        if not fixed.any() or len(counts) <= rest_classes:
            break
    return best


def _dived(
    columns: Sequence[Column],
    costs: Sequence[float],
    counts: IntArray,
    limits: Sequence[int | None],
    classes: int,
    seed: int,
) -> IntArray | None:
    """How often to use each column for sure: the relaxation rounded down, again and again.

    Until at most so many classes are left over. None: the columns cover not everything.
    """
    fixed = np.zeros(len(columns), dtype=np.int64)
    while True:
        rest: IntArray = np.maximum(counts - held_by(columns, fixed, len(counts)), 0)
        used = [int(fixed[[c[0] == kind for c in columns]].sum()) for kind in range(len(limits))]
        room = [None if n is None else n - m for n, m in zip(limits, used, strict=True)]
        relaxed = relax(columns, costs, rest, room, seed=seed, vertex=True)
        if relaxed is None:
            return fixed if fixed.any() else None
        more = np.floor(relaxed.times + _EPS).astype(np.int64)
        if np.count_nonzero(rest) <= classes:
            # a last rounding down is safe, and leaves a program that is quickly solved
            return fixed + more
        if not more.any():
            more = with_most_used(columns, relaxed.times, rest, more, _AT_ONCE)
        fixed += more


def _trimmed(chosen: Mapping[Column, int], counts: IntArray) -> dict[Column, int]:
    """Take what is held too often off again: what is left of a pattern still works."""
    trimmed = Counter(chosen)
    held = held_by(list(trimmed), np.array(list(trimmed.values())), len(counts))
    for index in np.flatnonzero(held > counts).tolist():
        for _ in range(int(held[index] - counts[index])):
            holders = [column for column, n in trimmed.items() if n and index in column[1]]
            kind, pattern = max(holders, key=lambda each: (len(each[1]), each))
            place = pattern.index(index)
            rest = pattern[:place] + pattern[place + 1 :]
            trimmed[kind, pattern] -= 1
            if rest:
                trimmed[kind, rest] += 1
    return {column: n for column, n in sorted(trimmed.items()) if n}


def _devices(
    engine: Engine, chosen: Mapping[Column, int], counts: IntArray, *, most_spread: int
) -> tuple[Configuration, ...]:
    """Settings for every device; what does not hold by the rule itself gets devices alone.

    What is left of the shares is handed out if there are no more different devices than
    ``most_spread``.

    Raises:
        Infeasible: there are not enough devices for that.
    """
    trimmed = _trimmed(chosen, counts)
    patterns = [column for column, number in trimmed.items() for _ in range(number)]
    spread = len(trimmed) <= most_spread
    known: dict[Column, list[Configuration]] = {}
    devices = []
    for kind, pattern in patterns:
        if (kind, pattern) not in known:
            known[kind, pattern] = _settings_of(engine, kind, pattern, spread=spread)
        devices += known[kind, pattern]
    used = Counter(each.kind for each in devices)
    for number, device in enumerate(engine.problem.kinds):
        if device.record.count is not None and used[number] > device.record.count:
            raise _too_few(engine.problem)
    return tuple(devices)


def _settings_of(
    engine: Engine, kind: int, pattern: Pattern, *, spread: bool
) -> list[Configuration]:
    found = engine.configure(pattern, kind, spread=spread)
    if found is not None:
        return [found]
    order = sorted(range(len(engine.problem.kinds)), key=lambda k: (k != kind, k))
    split = []
    for each in pattern:
        alone = (engine.configure((each,), number, spread=spread) for number in order)
        own = next((one for one in alone if one is not None), None)
        if own is None:
            raise _too_few(engine.problem)
        split.append(own)
    return split


def _limits_text(problem: Problem) -> str:
    return ", ".join(
        f"{kind.record.count if kind.record.count is not None else 'any number'} of"
        f" {kind.record.name}"
        for kind in problem.kinds
    )
