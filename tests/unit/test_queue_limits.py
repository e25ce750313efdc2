"""Limits of latency from tables of queues, against bisection."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.fitting.points import FloatArray
from igniter_prof.fitting.queueing import request_latency
from igniter_prof.provisioning.demand import QUEUE_SLACK, grid_of, limits_of
from igniter_prof.provisioning.problem import Problem, classes_of
from igniter_prof.provisioning.queue_limits import COARSE, FINE, QueueCurve
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import Workload
from tests.provisioning_fakes import FakePredictor, fake_kind

ABOVE = {FINE: 1.0038, COARSE: 1.0152}
MOST = 100.0


def saturating(rate_rps: float) -> float:
    return 1.0 / (1.0 - rate_rps / 500) if rate_rps < 500 else math.inf


@st.composite
def queues(draw: st.DrawFn, arrival: str) -> Callable[..., float]:
    """The percentile of a server by the rate and a factor on all its service times."""
    sizes = np.arange(1, draw(st.integers(1, 6)) + 1, dtype=np.float64)
    service_ms: FloatArray = draw(st.floats(0.1, 5)) + draw(st.floats(0.05, 3)) * sizes
    percentile = draw(st.sampled_from([50.0, 95.0, 99.0]))
    cv = draw(st.sampled_from([0.0, 0.05, 0.4]))

    def latency_ms(rate_rps: float, factor: float = 1.0) -> float:
        found = request_latency(
            np.asarray(service_ms * factor), cv, rate_rps, arrival, (percentile,)
        )
        return found.quantiles_ms[percentile]

    return latency_ms


@pytest.mark.parametrize(("arrival", "noise"), [("poisson", 1e-4), ("constant", 1e-2)])
@settings(max_examples=10, deadline=None)
@given(
    st.data(),
    st.lists(st.tuples(st.floats(20, 800), st.floats(3, 100)), min_size=1, max_size=3),
)
def test_a_little_less_slowing_keeps_the_percentile_and_a_little_more_does_not(
    arrival: str, noise: float, data: st.DataObject, asked: list[tuple[float, float]]
) -> None:
    """Constant arrivals with a spread are followed by chance: their percentiles are not smooth."""
    latency_ms = data.draw(queues(arrival))
    curve = QueueCurve(latency_ms)
    for width, (rate_rps, slo_ms) in zip(itertools.cycle((COARSE, FINE)), asked):
        low, high = curve.range(rate_rps * slo_ms, rate_rps, rate_rps * MOST, width)
        assert 0 < low <= high * (1 + 1e-12) <= rate_rps * MOST * (1 + 1e-9)
        factor = high / rate_rps
        assert latency_ms(rate_rps, factor / (ABOVE[width] + noise)) <= slo_ms
        assert latency_ms(rate_rps, low / rate_rps * (1 - noise)) <= slo_ms
        assert factor == MOST or latency_ms(rate_rps, factor * (1 + noise)) > slo_ms


@settings(max_examples=15, deadline=None)
@given(queues("poisson"), st.floats(20, 800), st.floats(3, 100), st.floats(0.97, 1.03))
def test_what_is_told_of_one_rate_is_exact(
    latency_ms: Callable[..., float], rate_rps: float, slo_ms: float, part: float
) -> None:
    curve = QueueCurve(latency_ms)
    near = curve.range(rate_rps * slo_ms, rate_rps, rate_rps * MOST)[1] * part

    keeps = latency_ms(rate_rps, near / rate_rps) <= slo_ms
    assert curve.holds(near, rate_rps * slo_ms) == keeps
    assert QueueCurve(latency_ms).holds(near, rate_rps * slo_ms) == keeps


def test_an_answer_does_not_depend_on_what_was_asked_before() -> None:
    products = [30.0, 900.0, 120.0, 121.0, 119.0, 5e4]
    one = QueueCurve(saturating)
    one.holds(77.0, 80.0)
    together = [one.range(product, 10.0, 1e4) for product in products]

    assert together == [QueueCurve(saturating).range(product, 300.0, 1e4) for product in products]


def test_few_queues_are_solved_and_none_twice() -> None:
    rates: list[float] = []

    def solve(rate_rps: float) -> float:
        rates.append(rate_rps)
        return saturating(rate_rps)

    curve = QueueCurve(solve)
    curve.range(900.0, 1.0, 475.0)
    first = len(rates)
    curve.range(901.0, 1.0, 475.0)

    assert first < 20
    assert len(rates) <= first + 1
    assert len(set(rates)) == len(rates)


def test_a_limit_that_others_set_is_not_passed() -> None:
    curve = QueueCurve(lambda rate_rps: 1.0)

    assert curve.range(1e6, 10.0, 100.0) == (100.0, 100.0)
    assert curve.holds(100.0, 100.0)
    assert not curve.holds(100.1, 100.0)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Workload, ...]:
    return tuple(
        Workload(
            name=f"w{number}",
            model=draw(st.sampled_from(["small", "middle"])),
            rate_rps=draw(st.floats(20, 600)),
            slo_ms=draw(st.floats(5, 120)),
            percentile=draw(st.sampled_from([95.0, 99.0])),
        )
        for number in range(draw(st.integers(1, 2)))
    )


@settings(max_examples=5, deadline=None)
@given(problems(), st.sampled_from(["percentile", "percentile+0.9"]))
def test_limits_of_shares_are_never_too_low(workloads: tuple[Workload, ...], text: str) -> None:
    rule = rule_of(text)
    kind = fake_kind(
        FakePredictor(),
        workloads,
        text,
        batch_sizes=[1, 4],
        request_latency=request_latency,
        share_step_pct=10,
        extrapolate=True,
    )
    problem = Problem(classes=classes_of(workloads), kinds=(kind,), rule=rule)
    grid = grid_of(problem, kind)
    limits = limits_of(problem, 0, grid)
    for number, each in enumerate(problem.classes):
        workload, m = each.sample, int(limits.model[number])
        for batch, unit in np.argwhere(grid.allowed[m]).tolist():
            tenant = grid.tenant(m, batch, unit + 1)
            service_ms = kind.evaluator.predictor.service_ms(tenant)
            alone_ms, stretch = service_ms[-1], float(grid.stretch_alone[m, batch, unit])

            def keeps(latency_ms: float, alone_ms: float = alone_ms) -> bool:
                found = request_latency(
                    service_ms * latency_ms / alone_ms,  # noqa: B023
                    0.05,
                    workload.rate_rps,  # noqa: B023
                    workload.arrival,  # noqa: B023
                    (workload.percentile,),  # noqa: B023
                )
                return found.quantiles_ms[workload.percentile] <= workload.slo_ms  # noqa: B023

            gap_ms = 1000 * grid.batches[batch] * rule.max_utilisation / workload.rate_rps
            may = alone_ms <= limits.alone[number, batch, unit] * (1 + 1e-9)
            assert may == (alone_ms * stretch <= gap_ms and keeps(alone_ms * stretch))
            if may:
                beside = float(grid.stretch_together[m, batch, unit])
                limit_ms = float(limits.together[number, batch, unit]) * beside
                least = limit_ms / (1 + QUEUE_SLACK) * (1 + 1e-4)
                assert limit_ms >= gap_ms * (1 - 1e-9) or not keeps(least)
