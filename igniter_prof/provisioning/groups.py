"""Groups of classes that are nearly alike: where there are too many classes to bound one by one.

A group is easier than its members: it may whatever one of them may, with the highest limit of them.
So a bound for the groups is a bound for the members.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from igniter_prof.fitting.points import FloatArray, IntArray
from igniter_prof.provisioning.columns import Column
from igniter_prof.provisioning.demand import Limits, build
from igniter_prof.provisioning.engine import Engine
from igniter_prof.provisioning.problem import Pattern, WorkloadClass
from igniter_prof.provisioning.search import Search

_FIRM = 0.03
"""Relative: how far queueing limits are lowered for plans of patterns that are not judged first."""
_COPIES = 12
"""Patterns of finer groups that are made of one of coarser ones at most."""


@dataclass(frozen=True)
class Groups:
    """Groups of a problem's classes; ``searches`` has one for each kind of device."""

    of: IntArray
    """(C,): the group of each class."""
    searches: list[Search]

    def counts(self, counts: IntArray) -> IntArray:
        """Tenants of each group from those of each class."""
        return np.bincount(self.of, counts).astype(np.int64)


def singles(engine: Engine) -> Groups:
    """Every class a group of its own."""
    return Groups(np.arange(len(engine.problem.classes)), engine.searches)


def firm(engine: Engine) -> Groups:
    """Every class a group of its own, with limits that the rule itself hardly ever refuses.

    Where limits come from queueing estimates those of the search are too high, for its bounds.
    """
    if not engine.problem.rule.queueing:
        return singles(engine)
    searches = [
        Search(replace(demand, limit_ms=demand.limit_ms * (1.0 - _FIRM)))
        for demand in engine.demands
    ]
    return Groups(np.arange(len(engine.problem.classes)), searches)


def alike(engine: Engine, needs: Sequence[IntArray]) -> IntArray:
    """(C,): equal numbers for classes that may be one group, as they need the same shares.

    ``needs``: of each kind, (contexts, C), units that a class needs at least beside some others.
    """
    parts = list(needs)
    parts.append(np.array([limits.model for limits in engine.limits]))
    table = np.concatenate(parts, axis=0).T
    fixed = [
        (
            each.sample.anti_affinity,
            each.sample.memory_mib,
            each.sample.devices,
            each.sample.replicas,
        )
        for each in engine.problem.classes
    ]
    known = {value: number for number, value in enumerate(dict.fromkeys(fixed))}
    table = np.concatenate([table, np.array([[known[value]] for value in fixed])], axis=1)
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)


def needs_alone(engine: Engine) -> list[IntArray]:
    """Units that classes need on each kind alone, (1, C)."""
    return [search.beside[:1] for search in engine.searches]


def needs_beside_light(engine: Engine) -> list[IntArray]:
    """Units that classes need on each kind beside 0, 1, … of the lightest neighbours."""
    return [search.beside for search in engine.searches]


def needs_in(
    engine: Engine, devices: Mapping[int, Sequence[IntArray]], levels: Sequence[float]
) -> list[IntArray]:
    """Units that classes need on each kind beside the tenants of some devices, (levels, C).

    ``devices``: by kind, settings of tenants (numbers in the table) that may have a further
    neighbour. ``levels``: which of them, from those that press least (0) to the most (1). A kind
    without any counts alone.
    """
    needs = []
    for kind, search in enumerate(engine.searches):
        everybody = np.arange(len(search.least))
        beside = [
            search.lowest(everybody[:, None], search.least[:, None], others.tolist())[0][:, 0]
            for others in devices.get(kind, ())
        ]
        if not beside:
            needs.append(search.beside[:1])
            continue
        ranked = sorted(beside, key=lambda units: (int(units.sum()), units.tolist()))
        needs.append(np.array([ranked[round(level * (len(ranked) - 1))] for level in levels]))
    return needs


def merged(engine: Engine, of: IntArray) -> Groups:
    """Groups by their numbers, each easier than all of its members."""
    problem = engine.problem
    n = int(of.max()) + 1
    first = np.array([int(np.flatnonzero(of == group)[0]) for group in range(n)])
    searches = []
    for kind, (grid, limits) in enumerate(zip(engine.grids, engine.limits, strict=True)):
        together = _easiest(limits.together, of, n)
        alone = _easiest(limits.alone, of, n)
        samples = [problem.classes[index] for index in first.tolist()]
        demand = build(
            problem.kinds[kind],
            grid,
            Limits(limits.model[first], together, alone),
            at_most=_at_most(problem.classes, of, n),
            memory=np.array([each.sample.memory_mib or np.nan for each in samples]),
            labels=[each.sample.anti_affinity for each in samples],
        )
        searches.append(Search(demand))
    return Groups(of, searches)


def seeds(
    columns: Sequence[Column], coarse: IntArray, fine: IntArray
) -> list[tuple[int, IntArray]]:
    """Patterns of finer groups from those of coarser ones, each member in some of them.

    ``coarse``, ``fine``: (C,), the groups of the classes.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for group, part in dict.fromkeys(zip(coarse.tolist(), fine.tolist(), strict=True)):
        members[group].append(part)
    turns = dict.fromkeys(members, 0)
    made: dict[tuple[int, int], dict[Pattern, None]] = defaultdict(dict)
    for kind, pattern in columns:
        copies = max(len(members[group]) for group in pattern)
        for _ in range(min(_COPIES, copies)):
            parts = []
            for group in pattern:
                parts.append(members[group][turns[group] % len(members[group])])
                turns[group] += 1
            made[kind, len(pattern)][tuple(sorted(parts))] = None
    return [(kind, np.array(list(found))) for (kind, _), found in sorted(made.items())]


def _at_most(classes: Sequence[WorkloadClass], of: IntArray, n: int) -> IntArray:
    """How many of each group may share a device, (n,)."""
    most = np.zeros(n, dtype=np.int64)
    for each, group in zip(classes, of.tolist(), strict=True):
        # those of one label are in groups of their own
        most[group] = 1 if each.sample.anti_affinity is not None else most[group] + each.at_most
    return most


def _easiest(values: FloatArray, of: IntArray, n: int) -> FloatArray:
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], np.arange(n))
    return np.asarray(np.maximum.reduceat(values[order], starts, axis=0))
