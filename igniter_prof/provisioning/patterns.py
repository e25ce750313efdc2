"""Which patterns a device holds: all of them where that is affordable, else some."""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterable
from dataclasses import dataclass

from igniter_prof.provisioning.problem import DEVICE_PCT
from igniter_prof.provisioning.shares import Configuration, LeastShares, Pattern

MAX_TESTED = 50_000
"""Patterns that an enumeration tests before it gives up: the deterministic limit."""


@dataclass(frozen=True)
class Enumeration:
    """Feasible patterns, and whether they are all there are."""

    feasible: dict[Pattern, Configuration]
    complete: bool
    tested: int


def enumerate_patterns(
    least: LeastShares, deadline: float, max_tested: int = MAX_TESTED
) -> Enumeration:
    """All patterns that one device holds, smaller ones first.

    A pattern is tested only where all of its parts with one tenant less are feasible: one more
    neighbour never helps. Stops, incomplete, at ``deadline`` (``time.monotonic``) or after
    ``max_tested`` patterns.
    """
    problem = least.problem
    alone = [least.alone(index) for index in range(len(problem.classes))]
    feasible: dict[Pattern, Configuration] = {}
    level: list[Pattern] = []
    for index in range(len(problem.classes)):
        configuration = least.configure((index,))
        if configuration is not None:
            feasible[(index,)] = configuration
            level.append((index,))
    tested = len(problem.classes)
    size = 1
    while level and size < problem.max_tenants:
        size += 1
        bigger = []
        for pattern in level:
            for index in range(pattern[-1], len(problem.classes)):
                if pattern.count(index) >= problem.classes[index].count:
                    continue
                candidate = (*pattern, index)
                floor = sum(alone[each] or DEVICE_PCT for each in candidate)
                if floor > DEVICE_PCT + 1e-9 or not _parts_feasible(candidate, feasible):
                    continue
                if tested >= max_tested or time.monotonic() > deadline:
                    return Enumeration(feasible, False, tested)
                tested += 1
                configuration = least.configure(candidate)
                if configuration is not None:
                    feasible[candidate] = configuration
                    bigger.append(candidate)
        level = bigger
    return Enumeration(feasible, True, tested)


def _parts_feasible(pattern: Pattern, feasible: Iterable[Pattern]) -> bool:
    return all(
        pattern[:left_out] + pattern[left_out + 1 :] in feasible for left_out in range(len(pattern))
    )


def best_fit(least: LeastShares, deadline: float) -> list[Pattern]:
    """A plan by best fit decreasing under the interference model: the pattern of each device.

    Workloads go, the largest share alone first, to the device on which the shares add up to the
    most afterwards. After ``deadline`` whatever is left gets a device each.
    """
    problem = least.problem
    sizes = [least.alone(index) or DEVICE_PCT for index in range(len(problem.classes))]
    order = sorted(range(len(problem.classes)), key=lambda index: (-sizes[index], index))
    devices: dict[Pattern, int] = {}
    for index in order:
        for _ in range(problem.classes[index].count):
            home = None if time.monotonic() > deadline else _best_home(least, devices, index, sizes)
            if home is None:
                home = ()
            else:
                devices[home] -= 1
            grown = _grown(home, index)
            devices[grown] = devices.get(grown, 0) + 1
    return sorted(pattern for pattern, number in devices.items() for _ in range(number))


def _best_home(
    least: LeastShares, devices: dict[Pattern, int], index: int, sizes: list[float]
) -> Pattern | None:
    best: tuple[float, Pattern] | None = None
    for pattern, number in devices.items():
        if number == 0 or len(pattern) >= least.problem.max_tenants:
            continue
        if sum(sizes[each] for each in pattern) + sizes[index] > DEVICE_PCT + 1e-9:
            continue
        configuration = least.configure(_grown(pattern, index))
        if configuration is None:
            continue
        rank = (-configuration.used_pct, pattern)
        if best is None or rank < best:
            best = rank
    return None if best is None else best[1]


def _grown(pattern: Pattern, index: int) -> Pattern:
    grown = list(pattern)
    bisect.insort(grown, index)
    return tuple(grown)
