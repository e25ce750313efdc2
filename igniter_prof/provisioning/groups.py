"""Groups of classes that are nearly alike: where there are too many classes to plan one by one.

A group *easier* than its members may whatever one of its members may, with the highest limit of
them: a bound for the groups is a bound for the members. A group *harder* than its members may only
what all of them may, with the lowest limit: a plan for the groups is one for the members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from igniter_prof.fitting.points import FloatArray, IntArray
from igniter_prof.provisioning.demand import Limits, build
from igniter_prof.provisioning.engine import Engine
from igniter_prof.provisioning.problem import WorkloadClass
from igniter_prof.provisioning.search import Search


@dataclass(frozen=True)
class Groups:
    """Groups of a problem's classes; ``searches`` has one for each kind of device."""

    of: IntArray
    """(C,): the group of each class; -1 of one that is in none."""
    searches: list[Search]

    def counts(self, counts: IntArray) -> IntArray:
        """Tenants of each group from those of each class."""
        within = self.of >= 0
        return np.bincount(self.of[within], counts[within]).astype(np.int64)


def singles(engine: Engine) -> Groups:
    """Every class a group of its own."""
    return Groups(np.arange(len(engine.problem.classes)), engine.searches)


def signatures(engine: Engine, contexts: Sequence[int]) -> IntArray:
    """(C,): equal numbers for classes that need the same shares beside the same neighbours.

    Neighbours are 0, 1, … of the lightest, as ``contexts`` says.
    """
    parts = []
    for search in engine.searches:
        rows = [each for each in contexts if each < len(search.beside)]
        parts.append(search.beside[rows])
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


def merged(engine: Engine, of: IntArray, *, easier: bool) -> Groups:
    """Groups by their numbers, each easier or harder than all of its members."""
    problem = engine.problem
    n = int(of.max()) + 1
    first = np.array([int(np.flatnonzero(of == group)[0]) for group in range(n)])
    searches = []
    for kind, (grid, limits) in enumerate(zip(engine.grids, engine.limits, strict=True)):
        together = _reduced(limits.together, of, n, easier)
        alone = _reduced(limits.alone, of, n, easier)
        samples = [problem.classes[index] for index in first.tolist()]
        demand = build(
            problem.kinds[kind],
            grid,
            Limits(limits.model[first], together, alone),
            at_most=_at_most(problem.classes, of, n, easier=easier),
            memory=np.array([each.sample.memory_mib or np.nan for each in samples]),
            labels=[each.sample.anti_affinity for each in samples],
        )
        searches.append(Search(demand))
    return Groups(of, searches)


def _at_most(classes: Sequence[WorkloadClass], of: IntArray, n: int, *, easier: bool) -> IntArray:
    """How many of each group may share a device, (n,).

    Its tenants are handed out in turn: those that follow each other are of different workloads as
    long as they are no more than the smallest class of replicas has workloads.
    """
    most = np.zeros(n, dtype=np.int64)
    split = np.full(n, np.iinfo(np.int64).max)
    for each, group in zip(classes, of.tolist(), strict=True):
        if group < 0:
            continue
        if each.sample.anti_affinity is not None:
            most[group], split[group] = 1, 1
            continue
        most[group] += each.at_most
        if each.sample.replicas > 1:
            split[group] = min(split[group], each.at_most)
    return most if easier else np.minimum(most, split)


def _reduced(values: FloatArray, of: IntArray, n: int, easier: bool) -> FloatArray:
    order = np.argsort(of, kind="stable")
    order = order[np.searchsorted(of[order], 0) :]
    starts = np.searchsorted(of[order], np.arange(n))
    reduce = np.maximum if easier else np.minimum
    return np.asarray(reduce.reduceat(values[order], starts, axis=0))
