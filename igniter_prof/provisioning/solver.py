"""The integer program over patterns, with PuLP: HiGHS, and CBC where HiGHS fails."""

from __future__ import annotations

import math
import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from igniter_prof.errors import OutsideFailure
from igniter_prof.provisioning.shares import Pattern

ENGINES = ("HiGHS", "PULP_CBC_CMD")
"""PuLP's names of the engines, in the order in which they are tried."""


@dataclass(frozen=True)
class Cover:
    """How often each pattern is used; ``proven``: no selection of these patterns has fewer."""

    times: dict[Pattern, int]
    proven: bool
    engine: str

    @property
    def devices(self) -> int:
        """Number of devices."""
        return sum(self.times.values())


def cover(
    used_pct: Mapping[Pattern, float],
    demand: Sequence[int],
    *,
    time_limit_s: float,
    seed: int,
    at_most: int | None = None,
) -> Cover | None:
    """The fewest patterns that hold ``demand[c]`` workloads of each class c, exactly.

    Solved as a covering, "at least", by maximal patterns alone, and trimmed: what fits on a device
    still fits with a tenant less. That is an order of magnitude faster than the partition.
    Of the covers with so few devices, one with a small total share is taken: what is free is
    slack for everybody. ``at_most``: a number of devices known to do.

    Returns:
        None if no answer was found in time. A pattern of the answer may be a part of one given.

    Raises:
        OutsideFailure: no engine works.
    """
    patterns = [pattern for pattern in sorted(used_pct) if _maximal(pattern, used_pct, demand)]
    fewest = _solve(
        patterns,
        demand,
        costs=[1.0] * len(patterns),
        limit=at_most,
        time_limit_s=time_limit_s,
        seed=seed,
    )
    if fewest is None:
        return None
    roomiest = _solve(
        patterns,
        demand,
        costs=[used_pct[pattern] for pattern in patterns],
        limit=fewest.devices,
        time_limit_s=time_limit_s,
        seed=seed,
    )
    chosen = fewest if roomiest is None else roomiest
    times = _trimmed(chosen.times, used_pct, demand)
    return Cover(times, fewest.proven, chosen.engine)


def _maximal(pattern: Pattern, known: Container[Pattern], demand: Sequence[int]) -> bool:
    """Whether no known pattern is this one with one tenant more."""
    return not any(
        pattern.count(index) < wanted and tuple(sorted((*pattern, index))) in known
        for index, wanted in enumerate(demand)
    )


def _trimmed(
    times: Mapping[Pattern, int], used_pct: Mapping[Pattern, float], demand: Sequence[int]
) -> dict[Pattern, int]:
    """Take what is held too often from the devices whose shares add up to the most."""
    trimmed = dict(times)
    for index, wanted in enumerate(demand):
        surplus = sum(pattern.count(index) * n for pattern, n in trimmed.items()) - wanted
        for _ in range(surplus):
            holders = [pattern for pattern in trimmed if index in pattern]
            fullest = max(holders, key=lambda each: (used_pct.get(each, 0.0), each))
            position = fullest.index(index)
            rest = fullest[:position] + fullest[position + 1 :]
            trimmed[fullest] -= 1
            if not trimmed[fullest]:
                del trimmed[fullest]
            if rest:
                trimmed[rest] = trimmed.get(rest, 0) + 1
    return trimmed


def _solve(
    patterns: Sequence[Pattern],
    demand: Sequence[int],
    *,
    costs: Sequence[float],
    limit: int | None,
    time_limit_s: float,
    seed: int,
) -> Cover | None:
    import pulp

    problem = pulp.LpProblem("plan", pulp.LpMinimize)
    times = [
        problem.add_variable(f"x{number}", lowBound=0, cat=pulp.LpInteger)
        for number in range(len(patterns))
    ]
    problem += pulp.lpSum(cost * each for cost, each in zip(costs, times, strict=True))
    holders: list[list[Any]] = [[] for _ in demand]
    for pattern, each in zip(patterns, times, strict=True):
        for index in set(pattern):
            holders[index].append(pattern.count(index) * each)
    for index, wanted in enumerate(demand):
        problem += pulp.lpSum(holders[index]) >= wanted
    if limit is not None:
        problem += pulp.lpSum(times) <= limit
    engine = _run(problem, time_limit_s, seed)
    if any(each.value() is None for each in times) or problem.sol_status not in (
        pulp.LpSolutionOptimal,
        pulp.LpSolutionIntegerFeasible,
    ):
        return None
    chosen = {
        pattern: round(each.value())
        for pattern, each in zip(patterns, times, strict=True)
        if round(each.value()) > 0
    }
    held = [sum(pattern.count(c) * n for pattern, n in chosen.items()) for c in range(len(demand))]
    if any(got < wanted for got, wanted in zip(held, demand, strict=True)):
        return None  # rounding broke it: no answer rather than a wrong one
    return Cover(chosen, problem.sol_status == pulp.LpSolutionOptimal, engine)


def _run(problem: Any, time_limit_s: float, seed: int) -> str:
    import pulp

    limit = max(1, math.ceil(time_limit_s))
    failures = []
    for engine in ENGINES:
        # one thread and a fixed seed: the same problem has the same answer each time
        if engine == "HiGHS":
            solver = pulp.HiGHS(
                msg=False, threads=1, timeLimit=limit, gapRel=0.0, random_seed=seed % 2**31
            )
        else:
            with warnings.catch_warnings():
                # the bundled CBC leaves with PuLP 4, which pyproject.toml excludes
                warnings.simplefilter("ignore", DeprecationWarning)
                solver = pulp.PULP_CBC_CMD(
                    msg=False, threads=1, timeLimit=limit, gapRel=0.0, options=[f"randomS {seed}"]
                )
        if not solver.available():
            failures.append(f"{engine} is not available")
            continue
        try:
            problem.solve(solver)
        except pulp.PulpSolverError as error:
            failures.append(f"{engine}: {error}")
            continue
        return engine
    raise OutsideFailure(
        f"no solver works ({'; '.join(failures)})", hint="install one: pip install highspy"
    )
