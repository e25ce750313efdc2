"""The parts of ``scripts/bench/accuracy``: who is fitted, who is tested, what the noise is."""

from __future__ import annotations

import numpy as np
import pytest

from igniter_prof.records import Measurement, Tenant
from tests.scripts import SCRIPTS, load
from tests.unit.fitting_cells import (
    CPU,
    measure_truth,
    measured,
    pair_cells,
    solo_cells,
    true_latencies,
)

trials = load(SCRIPTS / "bench" / "accuracy_trials.py")


@pytest.fixture(scope="module")
def alone() -> list[Measurement]:
    return measure_truth(solo_cells())


@pytest.fixture(scope="module")
def pairs() -> list[Measurement]:
    return measure_truth(pair_cells(batches=(1, 4)), seed=1)


def test_folds_test_each_cell_once_and_never_fit_it(
    alone: list[Measurement], pairs: list[Measurement]
) -> None:
    again = [m.model_copy(update={"cell_id": f"{m.cell_id}-2"}) for m in pairs]
    drawn = list(trials.folds([*pairs, *again], alone, 4, seed=0))
    tested = [m.cell_id for trial in drawn for m in trial.test]
    assert sorted(tested) == sorted(m.cell_id for m in [*pairs, *again])
    for trial in drawn:
        assert not {trials.point(m) for m in trial.test} & {trials.point(m) for m in trial.train}
        assert len(trial.train) + len(trial.test) == len(alone) + 2 * len(pairs)


def test_a_pair_left_out_is_not_fitted(alone: list[Measurement], pairs: list[Measurement]) -> None:
    drawn = list(trials.one_pair_out(pairs, alone))
    assert len(drawn) == 3
    for trial in drawn:
        (name,) = {trials.mix(m) for m in trial.test}
        assert name not in {trials.mix(m) for m in trial.train}


def test_two_disjoint_pairs_have_no_model_in_common(alone: list[Measurement]) -> None:
    def pair(first: str, second: str) -> Measurement:
        return measured([Tenant(model=m, share_pct=50) for m in (first, second)], [1.0, 2.0])

    four = [pair("a", "b"), pair("b", "c"), pair("c", "d"), pair("d", "a")]
    drawn = list(trials.two_disjoint(four, []))
    assert [{trials.mix(m) for m in t.train} for t in drawn] == [
        {("a", "b"), ("c", "d")},
        {("a", "d"), ("b", "c")},
    ]
    assert all(len(t.test) == 2 for t in drawn)


def test_cells_of_the_pair_that_are_measured_after_all_are_not_judged(
    alone: list[Measurement], pairs: list[Measurement]
) -> None:
    profile = trials.Profile([*alone, *pairs], CPU, None)
    drawn = list(trials.one_pair_out(pairs, alone))
    after = list(trials.with_some_of_the_pair(profile, drawn, 3, 0, None))
    for before, now in zip(drawn, after, strict=True):
        assert len(now.train) == len(before.train) + 3
        assert len(now.test) == len(before.test) - 3
        assert not {m.cell_id for m in now.train} & {m.cell_id for m in now.test}


@pytest.mark.parametrize("intervals", [True, False])
def test_judging_predicts_what_was_not_fitted(
    alone: list[Measurement], pairs: list[Measurement], intervals: bool
) -> None:
    profile = trials.Profile([*alone, *pairs], CPU, None)
    (model,) = trials.models(["igniter", "nobody"])
    (trial, *_) = trials.folds(pairs, alone, 4, seed=0)
    found = trials.judge(profile, [trial], model, 0, intervals=intervals).figures()
    assert found["tenants"] == 2 * len(trial.test)
    # 1% noise
    assert 0.3 < found["mean_pct"] < 3
    assert (found["coverage_pct"] is not None) == intervals
    if intervals:
        assert 60 <= found["coverage_pct"] <= 100
        assert 0.5 < found["half_width_pct"] < 8


def test_each_term_of_ours_can_be_left_out() -> None:
    none, ours = trials.models(["none", "igprof"])
    assert trials.ablations(none) == {}
    parts = trials.ablations(ours)
    assert len(parts) > 3
    assert all(model.without == {term} for term, model in parts.items())


def test_the_noise_floor_is_what_a_perfect_model_would_show() -> None:
    rng = np.random.default_rng(0)
    cells = solo_cells() * 5
    sigma = 0.02
    noisy = [
        measured(c, [v * np.exp(sigma * rng.standard_normal()) for v in true_latencies(c)])
        for c in cells
    ]
    perfect = np.mean(
        [
            abs(t.latency.mean_ms / v - 1)
            for m, c in zip(noisy, cells, strict=True)
            for t, v in zip(m.tenants, true_latencies(c), strict=True)
            if t.latency
        ]
    )
    floor, source = trials.noise_floor(noisy)
    assert source.endswith("repeats")
    assert floor == pytest.approx(100 * perfect, rel=0.12)
    # without repeats: the intervals of the means, 0.5% at 1.96 standard errors
    floor, source = trials.noise_floor(noisy[: len(solo_cells())])
    assert source == "intervals of the means"
    assert floor == pytest.approx(0.5 / 1.96 * (2 / np.pi) ** 0.5, rel=1e-6)
    assert trials.noise_floor([]) == (None, "not known")
