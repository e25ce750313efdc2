"""The search for patterns, against trying every batch size and share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igniter_prof.fitting.fitter import fit
from igniter_prof.fitting.predictor import Predictor
from igniter_prof.provisioning.engine import Engine, within
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import Problem, classes_of
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.provisioning.search import Search
from igniter_prof.records import Workload
from tests.provisioning_fakes import MODELS, FakePower, FakePredictor, fake_kind
from tests.replan_files import coefficients
from tests.unit.interference_cells import GPU, alone_cells, measure, mixed_cells

STEP_PCT = 20
MOST = 3
FEW = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PREDICTOR = FakePredictor(profiled_batch=4, memory=True)


def engine_of(
    workloads: Sequence[Workload],
    rule: str = "half-mean",
    predictor: Any = PREDICTOR,
    **record: Any,
) -> Engine:
    kind = fake_kind(
        predictor,
        workloads,
        rule,
        **{"share_step_pct": STEP_PCT, "max_tenants": MOST, **record},
    )
    return Engine(Problem(classes=classes_of(workloads), kinds=(kind,), rule=rule_of(rule)))


def patterns(classes: int, most: int = MOST) -> Iterator[tuple[int, ...]]:
    for size in range(1, most + 1):
        yield from itertools.combinations_with_replacement(range(classes), size)


@dataclass(frozen=True)
class Tried:
    """Shares, in units, of all arrangements of a pattern that work: (n, k)."""

    units: list[tuple[int, ...]]

    @property
    def least_sum(self) -> int | None:
        return min(map(sum, self.units), default=None)


def tried(engine: Engine, pattern: tuple[int, ...]) -> Tried:
    """By judging each: within memory, power, and the rule."""
    (kind,) = engine.problem.kinds
    members = [engine.problem.classes[index].sample for index in pattern]
    choices = [kind.choices[each.model] for each in members]
    working = []
    for shares in itertools.product(*(each.shares_pct for each in choices)):
        if sum(shares) > 100 + 1e-9:
            continue
        for batches in itertools.product(*(each.batch_sizes for each in choices)):
            chosen = [Setting(b, s) for b, s in zip(batches, shares, strict=True)]
            if within(kind, members, chosen) and all(
                each.holds for each in kind.evaluator.judge(members, chosen)
            ):
                working.append(tuple(round(share / STEP_PCT) for share in shares))
                break
    return Tried(working)


def holds(engine: Engine, pattern: Sequence[int], option: Any, units: Any) -> bool:
    (kind,) = engine.problem.kinds
    members = [engine.problem.classes[index].sample for index in pattern]
    chosen = engine.settings(0, pattern, option, units)
    judged = kind.evaluator.judge(members, chosen)
    return within(kind, members, chosen) and all(each.holds for each in judged)


@st.composite
def mixes(draw: st.DrawFn, most: int = 3) -> tuple[Workload, ...]:
    return tuple(
        Workload(
            name=f"w{number}",
            model=draw(st.sampled_from(sorted(MODELS))),
            rate_rps=draw(st.sampled_from([20, 60, 150, 400])) + number / 100,
            slo_ms=draw(st.sampled_from([20, 40, 90, 150])),
            count=3,
        )
        for number in range(draw(st.integers(1, most)))
    )


MEMORIES = st.sampled_from([None, 700, 1100, 2000])


@FEW
@given(mixes(), MEMORIES)
def test_least_shares_and_arrangements_are_those_of_trying_everything(
    workloads: tuple[Workload, ...], memory_mib: float | None
) -> None:
    engine = engine_of(workloads, memory_mib=memory_mib)
    search = engine.searches[0]
    feasible = search.demand.feasible
    for index in range(len(engine.problem.classes)):
        assert bool(feasible[index]) == bool(tried(engine, (index,)).units)
    for pattern in patterns(len(engine.problem.classes)):
        if not all(feasible[index] for index in pattern):
            continue
        working = tried(engine, pattern)
        classes = np.array([pattern])
        units, fits = search.lowest(classes, search.least[classes])
        found = search.arrange(classes, units)
        fully = search.arrange_fully(classes, units)

        for shares in working.units:
            assert fits[0]
            assert (units[0] <= shares).all()
            assert len(search.beside) >= len(pattern)
            assert (search.beside[len(pattern) - 1, list(pattern)] <= shares).all()
        if found.works[0]:
            assert holds(engine, pattern, found.option[0], found.units[0])
        assert fully.decided[0]
        assert bool(fully.works[0]) == bool(working.units)
        if fully.works[0]:
            assert holds(engine, pattern, fully.option[0], fully.units[0])
            assert fully.units[0].sum() == working.least_sum


@FEW
@given(mixes(), MEMORIES, st.data())
def test_all_patterns_of_value_are_found(
    workloads: tuple[Workload, ...], memory_mib: float | None, data: st.DataObject
) -> None:
    engine = engine_of(workloads, memory_mib=memory_mib)
    n = len(engine.problem.classes)
    value = np.array(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))) / 6
    over = data.draw(st.sampled_from([0.3, 0.9, 1.2]))
    search = engine.searches[0]
    found, complete = search.valuable(value, over)

    assert complete
    seen = [tuple(row) for each in found for row in each.classes.tolist()]
    assert len(set(seen)) == len(seen)
    for each in found:
        assert each.value == pytest.approx(value[each.classes].sum(axis=1))
        assert (each.value > over).all()
    for pattern in patterns(n):
        if value[list(pattern)].min() > 0 and value[list(pattern)].sum() > over + 1e-9:
            assert pattern in seen or not tried(engine, pattern).units

    narrow, _ = search.valuable(value, over, widest=1)
    assert {tuple(row) for each in narrow for row in each.classes.tolist()} <= set(seen)


@FEW
@given(mixes(most=2), st.sampled_from(["percentile", "percentile+0.9"]))
def test_no_arrangement_under_a_percentile_is_overlooked(
    workloads: tuple[Workload, ...], rule: str
) -> None:
    engine = engine_of(workloads, rule)
    search = engine.searches[0]
    for pattern in patterns(len(engine.problem.classes)):
        working = tried(engine, pattern)
        if not working.units:
            continue
        classes = np.array([pattern])
        units, fits = search.lowest(classes, search.least[classes])
        assert fits[0]
        assert all((units[0] <= shares).all() for shares in working.units)
        assert search.arrange_fully(classes, units).works[0]


LIGHT = Workload(name="light", model="small", rate_rps=20, slo_ms=150)


def found_patterns(search: Search, over: float = 0.5) -> set[tuple[int, ...]]:
    found, complete = search.valuable(np.ones(len(search.least)), over)
    assert complete
    return {tuple(row) for each in found for row in each.classes.tolist()}


def test_no_more_of_a_class_than_may_be_beside_each_other() -> None:
    assert found_patterns(engine_of([LIGHT]).searches[0]) == {(0,)}
    twice = LIGHT.model_copy(update={"count": 2})
    assert found_patterns(engine_of([twice]).searches[0]) == {(0,), (0, 0)}
    # of six parts of two workloads at most two share a device
    split = LIGHT.model_copy(update={"count": 2, "replicas": 3, "rate_rps": 60})
    assert found_patterns(engine_of([split]).searches[0]) == {(0,), (0, 0)}


def test_those_with_one_label_are_kept_apart() -> None:
    workloads = [
        LIGHT.model_copy(
            update={"name": name, "rate_rps": rate, "anti_affinity": label, "count": 2}
        )
        for name, rate, label in (("a", 20, "x"), ("b", 21, "x"), ("c", 22, "y"), ("d", 23, None))
    ]
    found = found_patterns(engine_of(workloads).searches[0])

    assert (0, 2, 3) in found
    assert (2, 3, 3) in found
    assert not any({0, 1} <= set(each) for each in found)
    assert not any(each.count(index) > 1 for each in found for index in (0, 1, 2))


def test_memory_limits_what_is_beside_each_other_and_the_batch_sizes() -> None:
    # a batch of b of `small` takes 100 (1 + b) MiB; a batch of 1 is too slow for the rate
    busy = Workload(name="busy", model="small", rate_rps=3000, slo_ms=150, count=3)
    roomy = engine_of([busy], memory_mib=10_000).searches[0]
    assert roomy.demand.feasible[0]
    assert not engine_of([busy], memory_mib=250).searches[0].demand.feasible[0]

    light = [LIGHT.model_copy(update={"count": 3})]
    assert found_patterns(engine_of(light, memory_mib=450).searches[0]) == {(0,), (0, 0)}
    said = [light[0].model_copy(update={"memory_mib": 150})]
    assert (0, 0, 0) in found_patterns(engine_of(said, memory_mib=450).searches[0])


def test_batch_sizes_are_chosen_that_fit_into_the_memory_together() -> None:
    # either may run with a batch of 2 in less share, but only one of them has the memory
    pair = [
        Workload(name="a", model="small", rate_rps=900, slo_ms=30),
        Workload(name="b", model="small", rate_rps=901, slo_ms=30),
    ]
    for memory_mib in (400, 500, 600):
        engine = engine_of(pair, memory_mib=memory_mib)
        search, classes = engine.searches[0], np.array([[0, 1]])
        units, _ = search.lowest(classes, search.least[classes])
        fully = search.arrange_fully(classes, units)
        working = tried(engine, (0, 1))
        assert bool(fully.works[0]) == bool(working.units)
        if working.units:
            assert fully.units[0].sum() == working.least_sum


@pytest.mark.parametrize("rule", ["percentile", "half-mean", "percentile+0.9"])
@pytest.mark.parametrize("devices", [("other",), ()])
def test_a_kind_that_can_hold_nobody_is_searched_in_vain(
    rule: str, devices: tuple[str, ...]
) -> None:
    """Of another type, or with an SLO that is too short."""
    refused = [LIGHT.model_copy(update={"devices": devices, "slo_ms": 100 if devices else 0.01})]
    real = Predictor(coefficients(1.0))
    for predictor in (PREDICTOR, real):
        search = engine_of(refused, rule, predictor).searches[0]
        assert not search.demand.feasible.any()
        assert search.valuable(np.ones(1), 0.5) == ([], True)


def test_a_setting_within_the_power_limit_is_found_though_the_least_share_is_not() -> None:
    # a larger batch is busy for less of the time: 51.9 W with 8, 57.5 W with the 2 of least share
    power = FakePredictor(power=FakePower(40))
    workload = Workload(name="a", model="small", rate_rps=500, slo_ms=20)
    for limit_w, fits in ((50, False), (52, True), (58, True)):
        engine = engine_of([workload], "percentile", power, power_limit_w=limit_w, share_step_pct=5)
        assert engine.feasible(0) == fits
        if fits:
            configuration = engine.configure((0,), 0)
            assert configuration is not None
            (kind,) = engine.problem.kinds
            drawn_w = kind.evaluator.power_w([workload], configuration.settings)
            assert drawn_w is not None
            assert drawn_w <= limit_w


def test_the_search_on_a_fitted_model_misses_no_arrangement() -> None:
    cells = [*alone_cells(), *mixed_cells(40)]
    predictor = Predictor(fit(measure(cells), GPU, profile_hash="0" * 64, holdout=0.0))
    workloads = [
        Workload(name="a", model="heavy", rate_rps=60, slo_ms=120, count=2),
        Workload(name="b", model="light", rate_rps=300, slo_ms=60, count=2),
        Workload(name="c", model="wire", rate_rps=100, slo_ms=60, count=2),
    ]
    engine = engine_of(workloads, predictor=predictor, max_tenants=2)
    search = engine.searches[0]
    for pattern in patterns(3, 2):
        classes = np.array([pattern])
        units, fits = search.lowest(classes, search.least[classes])
        fully = search.arrange_fully(classes, units)
        working = tried(engine, pattern)
        assert bool(fully.works[0]) == bool(working.units), pattern
        for shares in working.units:
            assert fits[0]
            assert (units[0] <= shares).all()
