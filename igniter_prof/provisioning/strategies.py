"""Ways to place workloads, by name: the optimal one, and baselines to compare it with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from igniter_prof.errors import Infeasible
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
    pool = dict(enumeration.feasible)
    at_most = None
    if not enumeration.complete:
        fallback = best_fit(least, started + problem.time_limit_s * 3 / 4)
        at_most = len(fallback)
        for pattern in fallback:
            configuration = least.configure(pattern)
            if configuration is not None:
                pool[pattern] = configuration
        notes.append(
            f"the patterns of a device were not all enumerated ({enumeration.tested} tested): the"
            " plan is the best of those seen, and the bound is that of a relaxation"
        )
    if enumeration.at_limit:
        notes.append(
            f"the limit of {problem.max_tenants} tenants a device binds: with a higher"
            " --max-tenants fewer devices might do"
        )
    proven = enumeration.complete
    while True:
        chosen = _cover(problem, pool, started, at_most)
        settled = {pattern: _settled(least, pattern) for pattern in chosen.times}
        broken = [pattern for pattern, each in settled.items() if each is None]
        if not broken:
            break
        # the predictor is not monotone there: do without, and claim no proof
        for pattern in broken:
            del pool[pattern]
        proven, at_most = False, None
        notes.append("the predictor is not monotone in shares or neighbours: no proof is claimed")
    bound = relaxed_bound(problem, least)
    if proven and chosen.proven:
        bound = chosen.devices
    devices = [
        spread(problem, least.evaluator, configuration)
        for pattern, configuration in sorted(settled.items())
        if configuration is not None
        for _ in range(chosen.times[pattern])
    ]
    return Placement(
        devices=tuple(devices),
        bound_devices=bound,
        optimal=True if bound == len(devices) else None,
        notes=tuple(dict.fromkeys(notes)),
    )


def relaxed_bound(problem: Problem, least: LeastShares) -> int:
    """No plan has fewer devices: everybody needs its share alone, and a device has few places."""
    shares = sum(
        each.count * (least.alone(index) or DEVICE_PCT)
        for index, each in enumerate(problem.classes)
    )
    return max(
        math.ceil(shares / DEVICE_PCT - 1e-9),
        math.ceil(problem.workload_count / problem.max_tenants),
    )


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
    problem: Problem,
    pool: dict[Pattern, Configuration],
    started: float,
    at_most: int | None,
) -> Cover:
    left_s = problem.time_limit_s - (time.monotonic() - started)
    found = cover(
        {pattern: configuration.used_pct for pattern, configuration in pool.items()},
        [each.count for each in problem.classes],
        time_limit_s=max(left_s, problem.time_limit_s / 4),
        seed=problem.seed,
        at_most=at_most,
    )
    if found is None:
        raise Infeasible(
            f"no plan was found within {problem.time_limit_s:g} s",
            hint="give it a higher --time-limit",
        )
    return found


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
