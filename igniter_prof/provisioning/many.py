"""Plans of more classes than can be planned one by one.

Classes are planned in groups that are easier than their members. A pattern of groups then gets
members for which it works, as far as there are any; the members that are left are grouped and
planned again, until few enough are left to plan one by one.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from igniter_prof.fitting.points import IntArray
from igniter_prof.provisioning.columns import Column
from igniter_prof.provisioning.engine import Engine
from igniter_prof.provisioning.groups import Groups
from igniter_prof.provisioning.problem import Pattern

_ROUNDS = 8
_COPIES = 12


@dataclass(frozen=True)
class Assigned:
    """Patterns of classes that work, each with its kind, and the tenants that are left, (C,)."""

    patterns: list[tuple[int, Pattern]]
    left: IntArray


def seeds(
    columns: Sequence[Column], coarse: IntArray, fine: IntArray
) -> list[tuple[int, IntArray]]:
    """Patterns of finer groups from those of coarser ones, each member in some of them.

    ``coarse``, ``fine``: (C,), the groups of the classes.
    """
    members: dict[int, list[int]] = defaultdict(list)
    within = (coarse >= 0) & (fine >= 0)
    for group, part in dict.fromkeys(
        zip(coarse[within].tolist(), fine[within].tolist(), strict=True)
    ):
        members[group].append(part)
    turns = dict.fromkeys(members, 0)
    made: dict[tuple[int, int], dict[Pattern, None]] = defaultdict(dict)
    for kind, pattern in columns:
        if any(group not in members for group in pattern):
            continue
        copies = max(len(members[group]) for group in pattern)
        for _ in range(min(_COPIES, copies)):
            parts = []
            for group in pattern:
                parts.append(members[group][turns[group] % len(members[group])])
                turns[group] += 1
            made[kind, len(pattern)][tuple(sorted(parts))] = None
    return [(kind, np.array(list(found))) for (kind, _), found in sorted(made.items())]


def assigned(
    engine: Engine, groups: Groups, chosen: Mapping[Column, int], counts: IntArray, seed: int
) -> Assigned:
    """Give patterns of groups members for which they work; ``counts``: (C,) tenants there are."""
    random = np.random.default_rng(seed)
    left = counts.copy()
    pending = [column for column, number in sorted(chosen.items()) for _ in range(number)]
    done: list[tuple[int, Pattern]] = []
    for _ in range(_ROUNDS):
        pools = _pools(groups.of, left, random)
        tried: dict[tuple[int, int], list[tuple[Column, Pattern]]] = defaultdict(list)
        short: list[Column] = []
        for column in pending:
            kind, pattern = column
            wanted = Counter(pattern)
            if any(len(pools[group]) < number for group, number in wanted.items()):
                short.append(column)
                continue
            held = tuple(sorted(pools[group].popleft() for group in pattern))
            tried[kind, len(pattern)].append((column, held))
        failed: list[Column] = []
        for (kind, _), attempts in sorted(tried.items()):
            search = engine.searches[kind]
            classes = np.array([held for _, held in attempts])
            units, fits = search.lowest(classes, search.least[classes])
            works = np.zeros(len(attempts), dtype=bool)
            works[fits] = search.arrange(classes[fits], units[fits]).works
            for (column, members), work in zip(attempts, works.tolist(), strict=True):
                if work:
                    done.append((kind, members))
                    np.subtract.at(left, list(members), 1)
                else:
                    failed.append(column)
        if len(failed) == len(pending):
            break
        pending = failed + short
        if not pending:
            break
    return Assigned(done, left)


def _pools(of: IntArray, left: IntArray, random: np.random.Generator) -> dict[int, deque[int]]:
    pools: dict[int, deque[int]] = defaultdict(deque)
    tenants = np.repeat(np.arange(len(left)), left)
    for index in random.permutation(tenants).tolist():
        pools[int(of[index])].append(index)
    return pools
