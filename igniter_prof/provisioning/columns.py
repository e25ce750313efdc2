"""The linear and integer programs over columns, with PuLP: HiGHS, and CBC where HiGHS fails.

A column is a device of a kind with a pattern of tenants. The master program of column generation
(Gilmore and Gomory 1961) covers all tenants by the cheapest columns:

    min  sum_p cost_p x_p   s.t.  sum_p a_cp x_p >= n_c  for each class c,
                                  sum_{p of kind d} x_p <= N_d  for each limited kind d.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igniter_prof.errors import OutsideFailure
from igniter_prof.fitting.points import FloatArray, IntArray
from igniter_prof.provisioning.problem import Pattern

Column = tuple[int, Pattern]
"""Number of a kind of device, and what runs on it."""

_INTEGRAL = 1e-6


@dataclass(frozen=True)
class Relaxed:
    """A solution of the relaxation: how often each column is used, and the dual prices."""

    times: FloatArray
    """(n_columns,)."""
    prices: FloatArray
    """(C,), of a tenant of each class, >= 0."""
    kind_prices: FloatArray
    """(n_kinds,), of one device more of a limited kind, >= 0."""
    value: float


@dataclass(frozen=True)
class Box:
    """What prices may be, (C,) each."""

    lowest: FloatArray
    highest: FloatArray


def relax(
    columns: Sequence[Column],
    costs: Sequence[float],
    counts: IntArray,
    limits: Sequence[int | None],
    *,
    seed: int,
    vertex: bool = False,
    lack: float | None = None,
    box: Box | None = None,
) -> Relaxed | None:
    """Solve the relaxation; None if the columns cover not everything within the limits.

    ``vertex``: an extreme point, few of whose columns are used in part, instead of one amid all
    that are as good, whose prices lead column generation faster. ``lack``: what it costs to leave a
    tenant out, so that there always is a solution, and prices; None: nobody is left out. ``box``:
    tenants may be left out for the highest price, so that none is above it, and placed once more
    for the lowest, so that one is below it only where that raises those of several others.

    Raises:
        OutsideFailure: no engine works.
    """
    import pulp

    problem, times, rows = _program(
        columns, costs, counts, limits, integer=False, lack=lack, box=box
    )
    options = {"solver": "ipm", "run_crossover": "on" if vertex else "off"}
    _run(problem, None, seed, [options, {}])
    if problem.sol_status != pulp.LpSolutionOptimal:
        return None
    duals = {constraint.name: constraint.pi or 0.0 for constraint in problem.constraints()}
    return Relaxed(
        times=np.array([each.value() or 0.0 for each in times]),
        prices=np.array([max(duals[name], 0.0) for name in rows[: len(counts)]]),
        kind_prices=np.array(
            [max(-duals.get(f"k{kind}", 0.0), 0.0) for kind in range(len(limits))]
        ),
        value=float(pulp.value(problem.objective)),
    )


def choose(
    columns: Sequence[Column],
    costs: Sequence[float],
    counts: IntArray,
    limits: Sequence[int | None],
    *,
    time_limit_s: float,
    seed: int,
    enough: float | None = None,
) -> dict[Column, int] | None:
    """A cheap choice of columns that covers everything; None if none was found in time.

    ``enough``: a cost that nothing can be below, so that the first choice of it ends the search.

    Raises:
        OutsideFailure: no engine works.
    """
    if not counts.any():
        return {}
    problem, times, _ = _program(columns, costs, counts, limits, integer=True)
    options: dict[str, Any] = {}
    if enough is not None:
        options["objective_target"] = enough + _INTEGRAL
    _run(problem, time_limit_s, seed, [options])
    if any(each.value() is None for each in times):
        return None
    chosen = Counter(
        {
            column: round(each.value())
            for column, each in zip(columns, times, strict=True)
            if round(each.value()) > 0
        }
    )
    # what an engine that was stopped calls its answer does not count: whether it covers does
    return dict(chosen) if covers(chosen, counts, limits) else None


def covers(chosen: Mapping[Column, int], counts: IntArray, limits: Sequence[int | None]) -> bool:
    """Whether a choice holds everything within the limits."""
    held = np.zeros(len(counts), dtype=np.int64)
    used = [0] * len(limits)
    for (kind, pattern), number in chosen.items():
        used[kind] += number
        for each in pattern:
            held[each] += number
    within = all(limit is None or n <= limit for n, limit in zip(used, limits, strict=True))
    return within and bool((held >= counts).all())


def held_by(columns: Sequence[Column], times: IntArray, classes: int) -> IntArray:
    """How many tenants of each class columns hold that are used so often, (classes,)."""
    held = np.zeros(classes, dtype=np.int64)
    for (_, pattern), number in zip(columns, times.tolist(), strict=True):
        if number:
            np.add.at(held, list(pattern), number)
    return held


def _program(
    columns: Sequence[Column],
    costs: Sequence[float],
    counts: IntArray,
    limits: Sequence[int | None],
    *,
    integer: bool,
    lack: float | None = None,
    box: Box | None = None,
) -> tuple[Any, list[Any], list[str]]:
    import pulp

    problem = pulp.LpProblem("plan", pulp.LpMinimize)
    category = pulp.LpInteger if integer else pulp.LpContinuous
    times = [
        problem.add_variable(f"x{number}", lowBound=0, cat=category)
        for number in range(len(columns))
    ]
    total = list(zip(times, costs, strict=True))
    holders: list[list[tuple[Any, float]]] = [[] for _ in counts]
    if lack is not None:
        for index in range(len(counts)):
            left_out = problem.add_variable(f"l{index}", lowBound=0)
            total.append((left_out, lack))
            holders[index].append((left_out, 1.0))
    if box is not None:
        for index, (low, high) in enumerate(zip(box.lowest, box.highest, strict=True)):
            fewer = problem.add_variable(f"f{index}", lowBound=0)
            # not without end: some pattern may be worth more than its device at the lowest prices
            again = problem.add_variable(f"a{index}", lowBound=0, upBound=float(counts[index]))
            total += [(fewer, float(high)), (again, -float(low))]
            holders[index] += [(fewer, 1.0), (again, -1.0)]
    problem += pulp.LpAffineExpression(total)
    of_kind: list[list[tuple[Any, float]]] = [[] for _ in limits]
    for (kind, pattern), each in zip(columns, times, strict=True):
        of_kind[kind].append((each, 1.0))
        for index, number in Counter(pattern).items():
            holders[index].append((each, float(number)))
    rows = []
    for index, wanted in enumerate(counts.tolist()):
        rows.append(f"c{index}")
        problem += (pulp.LpAffineExpression(holders[index]) >= wanted, rows[-1])
    for kind, limit in enumerate(limits):
        if limit is not None and of_kind[kind]:
            problem += (pulp.LpAffineExpression(of_kind[kind]) <= limit, f"k{kind}")
    return problem, times, rows


def _run(
    problem: Any, time_limit_s: float | None, seed: int, options: Sequence[Mapping[str, Any]]
) -> None:
    """Solve by the first engine that works; HiGHS is tried with each of ``options``."""
    import pulp

    limit = None if time_limit_s is None else max(0.1, time_limit_s)
    failures = []
    for each in options:
        # one thread and a fixed seed: the same problem has the same answer each time
        solver = pulp.HiGHS(
            msg=False, threads=1, timeLimit=limit, gapRel=0.0, random_seed=seed % 2**31, **each
        )
        if not solver.available():
            failures.append("HiGHS is not available")
            break
        try:
            problem.solve(solver)
        except pulp.PulpSolverError as error:
            failures.append(f"HiGHS: {error}")
            continue
        if problem.sol_status != pulp.LpSolutionNoSolutionFound or each is options[-1]:
            return
    with warnings.catch_warnings():
        # the bundled CBC leaves with PuLP 4, which pyproject.toml excludes
        warnings.simplefilter("ignore", DeprecationWarning)
        fallback = pulp.PULP_CBC_CMD(
            msg=False,
            threads=1,
            timeLimit=None if limit is None else math.ceil(limit),
            gapRel=0.0,
            options=[f"randomS {seed}"],
        )
    if fallback.available():
        try:
            problem.solve(fallback)
            return
        except pulp.PulpSolverError as error:
            failures.append(f"CBC: {error}")
    else:
        failures.append("CBC is not available")
    raise OutsideFailure(
        f"no solver works: {'; '.join(failures)}", hint="reinstall highspy, which HiGHS is in"
    )
