"""Ways to place workloads, by name: the optimal one, and baselines to compare it with."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.patterns import best_fit, enumerate_patterns
from igniter_prof.provisioning.problem import DEVICE_PCT, Problem
from igniter_prof.provisioning.shares import Configuration, LeastShares, Pattern, raised, spread
from igniter_prof.provisioning.solver import Cover, cover


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Configurations of devices, and what is known about how few devices there can be."""

    devices: tuple[Configuration, ...]
    bound_devices: int | None = None
    optimal: bool | None = None
    notes: tuple[str, ...] = ()


def optimal(problem: Problem, least: LeastShares) -> Placement:
    """The fewest devices, proven where all patterns could be enumerated.

    Raises:
        OutsideFailure: no solver works.
    """
    started = time.monotonic()
    notes: list[str] = []
    enumeration = enumerate_patterns(least, started + problem.time_limit_s * 2 / 3)
    pool = {pattern: each.used_pct for pattern, each in enumeration.feasible.items()}
    at_most = None
    if not enumeration.complete:
        fallback = best_fit(least, started + problem.time_limit_s * 3 / 4)
        at_most = len(fallback)
        for configuration in filter(None, map(least.configure, fallback)):
            pool[configuration.pattern] = configuration.used_pct
        notes.append(
            f"the patterns of a device were not all enumerated ({enumeration.tested} tested): the"
            " plan is the best of those seen, and the bound is that of a relaxation"
        )
    chosen = _cover(problem, pool, started, at_most)
    settled, broken = _settle(least, chosen)
    monotone = not broken
    while broken:
        pool = {
            pattern: used
            for pattern, used in pool.items()
            if not any(_contains(pattern, part) for part in broken)
        }
        chosen = _cover(problem, pool, started, None)
        settled, broken = _settle(least, chosen)
    if chosen is not None:
        devices = [each for pattern, each in settled.items() for _ in range(chosen.times[pattern])]
    else:
        devices = _without_cover(problem, least)
        notes.append(
            f"the search found no plan within {problem.time_limit_s:g} s: this one is by best fit,"
            " and a higher --time-limit may need fewer devices"
            if monotone
            else "of the patterns that hold, no cover was found: this plan is by best fit"
        )
    bound: int | None = relaxed_bound(problem, least)
    if not monotone:
        # every bound rests on it: what a pattern needs, its parts need no more
        bound = None
        notes.append("the predictor is not monotone in shares or neighbours: nothing is proven")
    elif enumeration.complete and chosen is not None and chosen.proven:
        bound = chosen.devices
    full = any(len(pattern) == problem.max_tenants < problem.workload_count for pattern in pool)
    if full and len(devices) > shares_bound(problem, least):
        notes.append(
            f"the limit of {problem.max_tenants} tenants a device binds: with a higher"
            " --max-tenants fewer devices might do"
        )
    return Placement(
        devices=tuple(devices),
        bound_devices=bound,
        optimal=True if chosen is not None and bound == len(devices) else None,
        notes=tuple(notes),
    )


def relaxed_bound(problem: Problem, least: LeastShares) -> int:
    """No plan has fewer devices: everybody needs its share alone, and a device has few places."""
    places = math.ceil(problem.workload_count / problem.max_tenants)
    return max(shares_bound(problem, least), places)


def shares_bound(problem: Problem, least: LeastShares) -> int:
    """No plan has fewer devices, however many tenants each may have."""
    shares = sum(
        each.count * (least.alone(index) or DEVICE_PCT)
        for index, each in enumerate(problem.classes)
    )
    return math.ceil(shares / DEVICE_PCT - 1e-9)


def first_fit_decreasing(problem: Problem, least: LeastShares) -> Placement:
    """A baseline blind to interference: least shares alone, first fit, the largest first.

    What it places may miss its SLO beside its neighbours; ``igprof check`` then says so.
    """
    settings = [_smallest_alone(least, index) for index in range(len(problem.classes))]
    order = sorted(
        range(len(problem.classes)), key=lambda index: (-settings[index].share_pct, index)
    )
    devices: list[list[int]] = []
    used: list[float] = []
    for index in order:
        size = settings[index].share_pct
        for _ in range(problem.classes[index].count):
            for home, pattern in enumerate(devices):
                if used[home] + size <= DEVICE_PCT + 1e-9 and len(pattern) < problem.max_tenants:
                    pattern.append(index)
                    used[home] += size
                    break
            else:
                devices.append([index])
                used.append(size)
    return Placement(
        devices=tuple(
            Configuration(tuple(sorted(pattern)), tuple(settings[i] for i in sorted(pattern)))
            for pattern in devices
        ),
        notes=("made without regard to interference",),
    )


def alone(problem: Problem, least: LeastShares) -> Placement:
    """A baseline that shares nothing: each workload has a device, with the roomiest batch size."""
    devices = []
    for index, each in enumerate(problem.classes):
        top = problem.choices[each.sample.model].shares_pct[-1]
        ranked = []
        for batch in least.batch_sizes(index):
            (judgement,) = least.evaluator.judge([each.sample], [Setting(batch, top)])
            ranked.append((-judgement.headroom, batch))
        setting = Setting(min(ranked)[1], top)
        devices += [Configuration((index,), (setting,))] * each.count
    return Placement(devices=tuple(devices))


STRATEGIES: dict[str, Callable[[Problem, LeastShares], Placement]] = {
    "optimal": optimal,
    "ffd": first_fit_decreasing,
    "alone": alone,
}
"""Strategies by name. Each gets a problem of which every workload is feasible alone."""


def _cover(
    problem: Problem, used_pct: Mapping[Pattern, float], started: float, at_most: int | None
) -> Cover | None:
    """The fewest patterns, or None if there is no cover, or none was found in time."""
    if {index for pattern in used_pct for index in pattern} != set(range(len(problem.classes))):
        return None
    left_s = problem.time_limit_s - (time.monotonic() - started)
    return cover(
        used_pct,
        [each.count for each in problem.classes],
        time_limit_s=max(left_s, problem.time_limit_s / 4),
        seed=problem.seed,
        at_most=at_most,
    )


def _settle(
    least: LeastShares, chosen: Cover | None
) -> tuple[dict[Pattern, Configuration], list[Pattern]]:
    """The final configuration of each chosen pattern, and the patterns that have none."""
    settled, broken = {}, []
    for pattern in sorted(chosen.times if chosen is not None else ()):
        configuration = _settled(least, pattern)
        if configuration is None:
            broken.append(pattern)
        else:
            settled[pattern] = spread(least.problem, least.evaluator, configuration)
    return settled, broken


def _without_cover(problem: Problem, least: LeastShares) -> list[Configuration]:
    """A plan that needs no solver: best fit, and a device each where that does not hold.

    Of a workload that turns out to miss its SLO even so, the notes of the plan say it.
    """
    patterns = best_fit(least, time.monotonic() + problem.time_limit_s / 4)
    settled: dict[Pattern, tuple[Configuration, ...]] = {}
    for pattern in dict.fromkeys(patterns):
        whole = _settled(least, pattern)
        parts = (whole,) if whole is not None else tuple(_alone(least, each) for each in pattern)
        settled[pattern] = tuple(spread(problem, least.evaluator, part) for part in parts)
    return [configuration for pattern in patterns for configuration in settled[pattern]]


def _alone(least: LeastShares, index: int) -> Configuration:
    settled = _settled(least, (index,))
    return settled or Configuration((index,), (_smallest_alone(least, index),))


def _contains(pattern: Pattern, part: Pattern) -> bool:
    return not Counter(part) - Counter(pattern)


def _settled(least: LeastShares, pattern: Pattern) -> Configuration | None:
    """The best configuration of a feasible pattern, every SLO of it judged once more in full.

    The search answers most questions from what it has seen, trusting monotony. Estimates are that
    only up to their numerical resolution, so a share may have to go up a step. None: no device
    holds the pattern after all.
    """
    configuration = least.configure(pattern, best=True)
    if configuration is None:
        return None
    problem = least.problem
    workloads = [problem.classes[index].sample for index in pattern]
    ladders = [problem.choices[workload.model].shares_pct for workload in workloads]
    settings: tuple[Setting, ...] | None = configuration.settings
    while settings is not None:
        judged = least.evaluator.judge(workloads, settings)
        missing = [index for index, judgement in enumerate(judged) if not judgement.holds]
        if not missing:
            return Configuration(pattern, settings)
        settings = raised(settings, missing, ladders)
    return None


def _smallest_alone(least: LeastShares, index: int) -> Setting:
    configuration = least.configure((index,), best=True)
    assert configuration is not None  # strategies get workloads that are feasible alone
    return configuration.settings[0]
