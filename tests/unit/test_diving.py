"""Plans of many classes: beams, prices in a box, and devices fixed on the way."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igniter_prof.provisioning import diving, optimal
from igniter_prof.provisioning.beam import grown
from igniter_prof.provisioning.columns import Box, covers, relax
from igniter_prof.provisioning.engine import Engine
from igniter_prof.provisioning.problem import Problem, classes_of
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import Workload
from tests.provisioning_fakes import MODELS, FakePredictor, fake_kind

FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def engine_of(workloads: list[Workload], rule: str = "half-mean", **record: object) -> Engine:
    kind = fake_kind(
        FakePredictor(profiled_batch=4, memory=True),
        workloads,
        rule,
        **{"share_step_pct": 10, "max_tenants": 4, **record},
    )
    return Engine(Problem(classes=classes_of(workloads), kinds=(kind,), rule=rule_of(rule)))


def different(count: int) -> list[Workload]:
    models = sorted(MODELS)
    return [
        Workload(
            name=f"w{number}",
            model=models[number % 3],
            rate_rps=30 + 7 * (number % 11) + number / 10,
            slo_ms=40 + 5 * (number % 7),
        )
        for number in range(count)
    ]


@st.composite
def mixes(draw: st.DrawFn) -> list[Workload]:
    return [
        Workload(
            name=f"w{number}",
            model=draw(st.sampled_from(sorted(MODELS))),
            rate_rps=draw(st.sampled_from([20, 60, 150])) + number / 100,
            slo_ms=draw(st.sampled_from([20, 40, 90, 150])),
            count=draw(st.integers(1, 3)),
            anti_affinity=draw(st.sampled_from([None, None, "x"])),
        )
        for number in range(draw(st.integers(1, 4)))
    ]


@FEW
@given(mixes(), st.sampled_from([None, 900, 2000]), st.data())
def test_wide_beams_find_every_pattern_of_a_root_and_its_partners_that_may_work(
    workloads: list[Workload], memory_mib: float | None, data: st.DataObject
) -> None:
    engine = engine_of(workloads, memory_mib=memory_mib)
    search, demand = engine.searches[0], engine.demands[0]
    everybody = np.arange(len(engine.problem.classes))
    drawn = data.draw(
        st.lists(st.booleans(), min_size=len(everybody), max_size=len(everybody)), "allowed"
    )
    allowed = np.array([drawn] * len(everybody))
    value = np.full(len(everybody), 0.3)
    found = grown(
        search, value, everybody, everybody, allowed, width=10_000, unit_worth=1 / demand.capacity
    )
    seen = [tuple(row) for each in found for row in each.classes.tolist()]

    wanted = set()
    for size in range(2, min(demand.max_tenants, len(search.beside)) + 1):
        for pattern in itertools.combinations_with_replacement(everybody.tolist(), size):
            # all but one of them, the root, are partners
            outside = [each for each in pattern if not drawn[each]]
            counts = np.bincount(pattern, minlength=len(everybody))
            apart = demand.apart is not None and any(
                demand.apart[a, b] for a, b in itertools.combinations(sorted(set(pattern)), 2)
            )
            if (
                len(outside) > 1
                or (counts > demand.at_most).any()
                or apart
                or search.memory[list(pattern)].sum() > demand.memory_limit_mib
                or not demand.feasible[list(pattern)].all()
            ):
                continue
            classes = np.array([pattern])
            if search.lowest(classes, search.least[classes])[1][0]:
                wanted.add(pattern)
    assert set(seen) == wanted
    assert len(seen) == len(set(seen))
    for each in found:
        assert each.value == pytest.approx(0.3 * each.classes.shape[1])
        assert (each.units.sum(axis=1) <= demand.capacity).all()


def test_a_narrow_beam_keeps_the_most_valuable() -> None:
    engine = engine_of(different(12))
    everybody = np.arange(12)
    value = np.linspace(0.1, 0.4, 12)

    def best(width: int) -> float:
        found = grown(
            engine.searches[0],
            value,
            np.array([0]),
            everybody,
            np.ones((1, 12), dtype=bool),
            width=width,
            unit_worth=0.01,
        )
        return max(float(each.value.max()) for each in found if len(each.value))

    assert best(1) >= 0.9 * best(10_000)


@FEW
@given(
    st.lists(st.floats(0.05, 0.9), min_size=4, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6),
)
def test_prices_stay_in_their_box(about: list[float], pairs: list[tuple[int, int]]) -> None:
    prices = np.array(about)
    box = Box(0.9 * prices, 1.1 * prices)
    columns = [(0, (each,)) for each in range(4)]
    # no pattern is worth more than its device at the lowest prices
    columns += [
        (0, pair) for pair in map(tuple, map(sorted, pairs)) if box.lowest[list(pair)].sum() <= 1
    ]
    found = relax(columns, [1.0] * len(columns), np.ones(4, dtype=int), [None], seed=0, box=box)
    assert found is not None
    assert (found.prices <= box.highest + 1e-6).all()
    # a price below its lowest pays only where that raises those of several partners
    partners = [set(pattern) for _, pattern in columns[4:]]
    if all(sum(each in some for some in partners) <= 1 for each in range(4)):
        assert (found.prices >= box.lowest - 1e-6).all()


def test_a_dive_fixes_devices_on_the_way_and_comes_near_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_of(different(40))
    proven = optimal.optimal(engine)
    assert proven.bound is not None
    # parts of ten classes, and an integer program for the last four
    monkeypatch.setattr(diving, "_PART", 10)
    monkeypatch.setattr(diving, "_LAST", 4)
    monkeypatch.setattr(optimal, "MOST_CLASSES", 5)
    plans = [optimal.optimal(engine) for _ in range(2)]

    for made in plans:
        devices = [(each.kind, each.pattern) for each in made.devices]
        assert covers(dict.fromkeys(devices, 1), np.ones(40, dtype=int), [None])
        assert sum(len(pattern) for _, pattern in devices) == 40
        assert made.bound is not None
        assert math.ceil(made.bound.value - 1e-6) <= len(proven.devices) <= len(devices)
        assert len(devices) <= 1.15 * len(proven.devices) + 1
    assert plans[0].devices == plans[1].devices


def test_a_dive_without_time_still_covers_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diving, "_LAST", 4)
    engine = engine_of(different(30))
    counts = np.ones(30, dtype=np.int64)
    generation = optimal._generation(engine, optimal.singles(engine), counts)
    generation.start_alone()
    chosen = diving.dive(
        generation, None, math.ceil, generation.alone() / 3, time.monotonic() - 1, 0
    )
    assert chosen is not None
    assert covers(chosen, counts, [None])
    assert sum(chosen.values()) < 30


def test_only_what_holds_by_the_rule_itself_is_used() -> None:
    engine = engine_of(different(12), "percentile")
    generation = optimal._generation(engine, optimal.singles(engine), np.ones(12, dtype=np.int64))
    generation.start_alone()
    asked = []

    def judged(kind: int, classes: np.ndarray, option: np.ndarray, units: np.ndarray) -> list[bool]:
        asked.append(tuple(classes[0].tolist()))
        return [len(classes[0]) != 2]

    chosen = diving.dive(
        generation, judged, math.ceil, generation.alone() / 3, time.monotonic() + 5, 0
    )
    assert chosen is not None
    assert {len(pattern) for _, pattern in chosen}.isdisjoint({2})
    assert {pattern for _, pattern in chosen} <= set(asked)
