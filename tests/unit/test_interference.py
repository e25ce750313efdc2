"""The latency model ``igprof``: known coefficients, a textbook Gaussian process, hard cases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from igniter_prof.errors import BadInput
from igniter_prof.fitting import fit as fit_coefficients
from igniter_prof.fitting.interference import together
from igniter_prof.fitting.interference.contention import NAMES
from igniter_prof.fitting.interference.model import TERMS, IgprofFitted, IgprofModel
from igniter_prof.fitting.points import FloatArray, Observations, Points, arrange
from igniter_prof.fitting.predictor import Predictor
from igniter_prof.records import Coefficients, Parameter, Tenant
from tests.unit import fitting_cells
from tests.unit.interference_cells import (
    CONTENTION,
    DELAY_US,
    DROP_MHZ_PER_W,
    GPU,
    LIMIT_W,
    MODELS,
    TRANSFER,
    Cells,
    alone_cells,
    demand_w,
    measure,
    mixed_cells,
    observed,
    true_ms,
)

MODEL = IgprofModel()


@pytest.fixture(scope="module")
def data() -> Observations:
    return observed(measure([*alone_cells(), *mixed_cells(110, sizes=(2, 2, 3))]))


@pytest.fixture(scope="module")
def fitted(data: Observations) -> IgprofFitted:
    return MODEL.fit(data, 0)


@pytest.fixture(scope="module")
def half() -> Observations:
    return observed(measure([*alone_cells(), *mixed_cells(55, sizes=(2, 2, 3))]))


@pytest.fixture(scope="module")
def physics(half: Observations) -> IgprofFitted:
    """Without the correction."""
    return IgprofModel.lacking(together.TERMS).fit(half, 0)


@pytest.fixture(scope="module")
def few() -> Observations:
    """Enough where what is asked is not how well it fits."""
    return observed(measure([*alone_cells((1, 16), (20, 50, 80)), *mixed_cells(24)]))


def points(cells: Cells, models: Sequence[str] = MODELS) -> Points:
    return arrange(cells, {m: i for i, m in enumerate(models)}, GPU)


def truth(cells: Cells) -> FloatArray:
    return np.array([value for cell in cells for value in true_ms(cell)])


def coefficients(found: IgprofFitted, models: Sequence[str] = MODELS) -> Coefficients:
    """What a file holds, read back."""
    document = found.document()
    made = Coefficients(
        model="igprof",
        device=GPU,
        profile_hash="",
        igprof="0",
        created_at="",
        shared=document.shared,
        models={m: document.models[m] for m in models},
        extra={"fitted": document.extra},
    )
    return Coefficients.model_validate_json(made.model_dump_json())


# --- what is recovered -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_known_coefficients_are_recovered_within_three_standard_errors(seed: int) -> None:
    cells = [*alone_cells(), *mixed_cells(110, seed, sizes=(2, 2, 3))]
    found = MODEL.fit(observed(measure(cells, seed=seed)), 0)
    for value, error, true in zip(
        found.contention.values,
        found.contention.errors,
        (CONTENTION, TRANSFER, DELAY_US),
        strict=True,
    ):
        assert abs(value - true) < 3 * error
        # and the error says something
        assert error < 0.06 * true
    power = found.traits.power
    assert power is not None
    assert power.shared["clock_drop_mhz_per_w"].value == pytest.approx(DROP_MHZ_PER_W, rel=0.05)


def test_mixes_that_were_never_measured_are_predicted(fitted: IgprofFitted) -> None:
    cells = mixed_cells(150, 77, sizes=(2, 3, 4))
    # the clock matters here
    assert sum(demand_w(cell) > LIMIT_W + 20 for cell in cells) > 40
    error = np.abs(fitted.latency_ms(points(cells)) / truth(cells) - 1)
    assert error.mean() < 0.004
    assert error.max() < 0.03


@pytest.mark.parametrize("term", ["contention", "transfer", "scheduling", "clock"])
def test_each_term_of_physics_is_worth_something(
    half: Observations, physics: IgprofFitted, term: str
) -> None:
    cells = mixed_cells(150, 77, sizes=(2, 3))
    lacking = IgprofModel.lacking([term, *together.TERMS]).fit(half, 0)
    x, true = points(cells), truth(cells)
    without = np.abs(np.log(lacking.latency_ms(x) / true)).mean()
    assert without > 1.5 * np.abs(np.log(physics.latency_ms(x) / true)).mean()


def bent(tenants: Sequence[Tenant]) -> list[float]:
    """The truth, and what no term has: ``wire`` suffers from ``heavy``, more with its batch."""
    found = true_ms(tenants)
    for i, own in enumerate(tenants):
        heavy = [t for k, t in enumerate(tenants) if k != i and t.model == "heavy"]
        if own.model == "wire":
            found[i] *= 1 + sum(0.04 + 0.02 * np.log(t.batch_size) for t in heavy)
    return found


def test_the_correction_learns_what_physics_leaves() -> None:
    cells = [*alone_cells(), *mixed_cells(150, 3)]
    seen = observed(measure(cells, truth=bent))
    test = mixed_cells(150, 4)
    true = np.array([v for cell in test for v in bent(cell)])
    error = {
        name: np.abs(IgprofModel.lacking(terms).fit(seen, 0).latency_ms(points(test)) / true - 1)
        for name, terms in (("all", ()), ("physics", together.TERMS))
    }
    assert error["all"].mean() < 0.008
    assert error["all"].mean() < 0.4 * error["physics"].mean()


# --- against a textbook ------------------------------------------------------------------------


class Textbook:
    """The joint Gaussian of ln latency, every covariance summed by hand."""

    def __init__(self, fitted: IgprofFitted, with_mixed: bool = True) -> None:
        self.fitted = fitted
        training = fitted.training
        rows = np.flatnonzero(with_mixed | (training.x.tenants == 1))
        self.rows = self.described(training.x, rows)
        y = training.log_ms[rows] - self.mean(training.x)[rows]
        noise = [
            training.noise[i]
            + (
                fitted.correction.kernel.noise
                if training.x.tenants[i] > 1
                else self.alone_theta(int(training.x.model[i]))[6]
            )
            for i in rows
        ]
        self.k = self.covariance(self.rows, self.rows) + np.diag(noise)
        self.y = y

    def alone_theta(self, model: int) -> FloatArray:
        process = self.fitted.alone.processes[model]
        assert process is not None
        return np.exp(process.theta)

    def mean(self, x: Points) -> FloatArray:
        f = self.fitted
        lone = replace(x, tenants=np.ones(len(x)))
        alone_ms = np.exp(f.alone.log_ms(lone))
        mixed = x.tenants > 1
        slowdown = np.where(mixed, f.contention.log_slowdown(x, alone_ms), 0.0)
        return np.asarray(np.log(f.physics.latency_ms(lone)) + slowdown)

    def described(self, x: Points, rows: Any) -> list[dict[str, Any]]:
        f = self.fitted
        alone_ms = np.exp(f.alone.log_ms(replace(x, tenants=np.ones(len(x)))))
        z = (f.traits.features(x, alone_ms) - f.scale.mean) / f.scale.spread
        return [
            {
                "model": int(x.model[i]),
                "at": np.log([x.batch[i], x.share[i], x.scale[i], x.instances[i]]),
                "pairs": [
                    (int(x.model[i]), int(x.model[j]), z[i], z[j], (i, j), x)
                    for j in np.flatnonzero(x.cell == x.cell[i])
                    if j != i
                ],
            }
            for i in rows
        ]

    def covariance(self, a: list[dict[str, Any]], b: list[dict[str, Any]]) -> FloatArray:
        return np.array([[self.alone(r, s) + self.beside(r, s) for s in b] for r in a])

    def alone(self, r: dict[str, Any], s: dict[str, Any]) -> float:
        if r["model"] != s["model"]:
            return 0.0
        theta, away = self.alone_theta(r["model"]), r["at"] - s["at"]
        smooth = theta[0] * np.exp(-0.5 * ((away / theta[1:5]) ** 2).sum())
        return float(smooth + theta[5] * bool(np.allclose(away, 0, atol=1e-12)))

    def beside(self, r: dict[str, Any], s: dict[str, Any]) -> float:
        kernel = self.fitted.correction.kernel
        theta = np.exp(kernel.theta)
        n = kernel.n_features
        total = 0.0
        for own, other, z, w, (i, j), x in r["pairs"]:
            for own2, other2, z2, w2, (i2, j2), x2 in s["pairs"]:
                k = theta[0] + theta[1] * z[0] * z2[0] + theta[2] * w[0] * w2[0]
                away = np.concatenate([z - z2, w - w2]) / theta[8 : 8 + 2 * n]
                k += theta[3] * np.exp(-0.5 * (away**2).sum())
                k += theta[4] * (own == own2) + theta[5] * (other == other2)
                if own == own2 and other == other2:
                    place = [x.batch[i], x.share[i], x.batch[j], x.share[j]]
                    place2 = [x2.batch[i2], x2.share[i2], x2.batch[j2], x2.share[j2]]
                    d = np.sqrt(5) * np.abs(np.log(place) - np.log(place2)) / theta[8 + 2 * n :]
                    k += theta[6] * ((1 + d + d**2 / 3) * np.exp(-d)).prod()
                total += float(k)
        return total

    def posterior(self, x: Points) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of ln latency."""
        asked = self.described(x, range(len(x)))
        cross = self.covariance(asked, self.rows)
        mean = self.mean(x) + cross @ np.linalg.solve(self.k, self.y)
        covered = cross @ np.linalg.solve(self.k, cross.T)
        return mean, self.covariance(asked, asked) - covered


@pytest.fixture(scope="module")
def small() -> IgprofFitted:
    """Few enough rows for the textbook; neighbours cost so much that no floor is near."""

    def costly(tenants: Sequence[Tenant]) -> list[float]:
        return [v * 1.15 ** (len(tenants) - 1) for v in true_ms(tenants)]

    cells = [*alone_cells((1, 16), (20, 60)), *mixed_cells(7, 5, sizes=(2, 3))]
    return MODEL.fit(observed(measure([*cells, cells[-1]], truth=costly)), 0)


ASKED = [
    (Tenant(model="heavy", batch_size=3, share_pct=30),),
    (Tenant(model="wire", batch_size=16, share_pct=60),),
    (
        Tenant(model="wire", batch_size=7, share_pct=35),
        Tenant(model="light", batch_size=2, share_pct=35),
    ),
    (
        Tenant(model="light", batch_size=16, share_pct=20),
        Tenant(model="light", batch_size=16, share_pct=20),
        Tenant(model="heavy", batch_size=8, share_pct=60, input_scale=0.9),
    ),
]


def test_mean_and_covariance_are_those_of_a_textbook_gaussian_process(small: IgprofFitted) -> None:
    x = points(ASKED)
    mean, covariance = Textbook(small).posterior(x)
    assert np.log(small.latency_ms(x)) == pytest.approx(mean, abs=2e-6)
    assert small.covariance(x) == pytest.approx(covariance, rel=1e-4, abs=1e-9)


def test_the_scale_is_the_textbook_deviation_of_a_measured_mean(small: IgprofFitted) -> None:
    x = points(ASKED)
    variance = np.diag(Textbook(small).posterior(x)[1]) + small.correction.kernel.noise
    alone = Textbook(small, with_mixed=False)
    lone = x.tenants == 1
    noise = np.array([alone.alone_theta(int(m))[6] for m in x.model])
    expected = np.where(lone, np.diag(alone.posterior(x)[1]) + noise, variance)
    assert small.log_scale(x) == pytest.approx(np.sqrt(expected), rel=1e-4)


def test_noise_is_that_of_co_located_cells(small: IgprofFitted) -> None:
    assert small.noise == pytest.approx(small.correction.kernel.noise)


def test_the_covariance_is_symmetric_and_no_variance_is_negative(fitted: IgprofFitted) -> None:
    covariance = fitted.covariance(points([*alone_cells((1, 16), (30, 80)), *mixed_cells(40, 8)]))
    assert covariance == pytest.approx(covariance.T, abs=1e-12)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


# --- physics -----------------------------------------------------------------------------------


def test_one_more_neighbour_never_helps_even_where_the_data_say_so() -> None:
    """Neighbours that seem to help: the correction is negative, and physics wins."""

    def helping(tenants: Sequence[Tenant]) -> list[float]:
        return [v * 0.93 ** (len(tenants) - 1) for v in true_ms(tenants)]

    found = MODEL.fit(observed(measure([*alone_cells(), *mixed_cells(60)], truth=helping)), 0)
    full = mixed_cells(40, 6, sizes=(6,))
    for cell in full:
        first = [found.latency_ms(points([cell[:n]]))[0] for n in range(1, 7)]
        assert all(b >= a for a, b in pairwise(first))


def test_nobody_is_faster_than_alone(fitted: IgprofFitted) -> None:
    cells = mixed_cells(200, 9, sizes=(2, 3, 5, 8))
    x = points(cells)
    lone = replace(x, cell=np.arange(len(x)), tenants=np.ones(len(x)))
    assert (fitted.latency_ms(x) >= fitted.latency_ms(lone)).all()


def test_more_share_is_never_slower_by_more_than_one_per_cent(fitted: IgprofFitted) -> None:
    steps = np.arange(10, 72.5, 2.5)
    for model in MODELS:
        for batch in (1, 4, 12, 32):
            beside = Tenant(model="heavy", batch_size=8, share_pct=25)
            cells = [
                (Tenant(model=model, batch_size=batch, share_pct=float(s)), beside) for s in steps
            ]
            ms = fitted.latency_ms(points(cells))[::2]
            assert (ms[1:] / ms[:-1]).max() < 1.01


def jagged(tenants: Sequence[Tenant]) -> list[float]:
    """Latencies that fall with the share, but in steps that no smooth curve follows."""
    step = {10: 1.0, 20: 0.97, 30: 1.05, 40: 0.96, 50: 1.06, 80: 0.98, 100: 1.02}
    return [
        ms * step.get(int(t.share_pct or 100), 1.0)
        for t, ms in zip(tenants, true_ms(tenants), strict=True)
    ]


def test_more_share_alone_is_never_slower_though_points_are_jagged() -> None:
    shares = (10, 20, 30, 40, 50, 80, 100)
    measured = measure(alone_cells(shares=shares), noise=0.0, truth=jagged)
    found = IgprofModel().fit(observed(measured), 0)
    steps = np.arange(5, 102.5, 2.5)
    for model in MODELS:
        for batch in (1, 4, 16, 32):
            cells = [(Tenant(model=model, batch_size=batch, share_pct=float(s)),) for s in steps]
            ms = found.latency_ms(points(cells))
            assert (np.diff(ms) <= 1e-9 * ms[1:]).all()
            at = [int(np.flatnonzero(steps == s)[0]) for s in shares]
            # and the measured points themselves are kept, near enough
            assert ms[at] == pytest.approx([jagged(cells[k])[0] for k in at], rel=0.02)


@pytest.mark.parametrize("size", range(1, 9))
def test_any_number_of_tenants(fitted: IgprofFitted, size: int) -> None:
    cells = mixed_cells(5, size, sizes=(size,))
    same = tuple(Tenant(model="light", batch_size=4, share_pct=5.0) for _ in range(size))
    x = points([*cells, same])
    assert np.isfinite(fitted.latency_ms(x)).all()
    assert np.isfinite(fitted.log_scale(x)).all()
    # equal tenants are equally slow
    assert fitted.latency_ms(x)[-size:] == pytest.approx(fitted.latency_ms(x)[-1], rel=1e-12)


def test_far_beyond_the_profile_the_prediction_is_finite_and_unsure(fitted: IgprofFitted) -> None:
    far = [
        tuple(
            Tenant(model=m, batch_size=1024, share_pct=1.0, input_scale=2.0, instances=8)
            for m in MODELS
        ),
        (
            Tenant(model="wire", batch_size=1, share_pct=1.0, input_scale=0.1),
            Tenant(model="light", batch_size=1024, share_pct=90),
        ),
    ]
    near = mixed_cells(20, 31)
    ms, scale = fitted.latency_ms(points(far)), fitted.log_scale(points(far))
    assert np.isfinite(ms).all()
    assert (ms > 0).all()
    assert (scale < 3).all()
    assert scale.min() > 1.3 * np.median(fitted.log_scale(points(near)))
    slowdown = ms / fitted.latency_ms(points([(t,) for cell in far for t in cell]))
    assert (slowdown < 20).all()


# --- how sure ----------------------------------------------------------------------------------


def test_a_pair_never_measured_together_is_less_sure() -> None:
    pairs = [("heavy", "light"), ("light", "wire")]
    cells = [cell for i, p in enumerate(pairs) for cell in two(*p, count=30, seed=i)]
    found = MODEL.fit(observed(measure([*alone_cells(), *cells])), 0)
    seen = found.log_scale(points(two("heavy", "light", count=30, seed=9)))
    unseen = found.log_scale(points(two("heavy", "wire", count=30, seed=9)))
    assert np.median(unseen) > 1.3 * np.median(seen)


def two(first: str, second: str, count: int, seed: int) -> list[tuple[Tenant, ...]]:
    rng = np.random.default_rng(seed)
    return [
        (
            Tenant(model=first, batch_size=int(b), share_pct=float(s)),
            Tenant(model=second, batch_size=int(c), share_pct=95.0 - float(s)),
        )
        for b, c, s in zip(
            rng.choice([1, 4, 8, 16, 32], count),
            rng.choice([1, 4, 8, 16, 32], count),
            rng.choice([15.0, 30.0, 45.0, 60.0, 75.0], count),
            strict=True,
        )
    ]


def test_without_co_located_cells_the_priors_are_told_and_unsure(fitted: IgprofFitted) -> None:
    found = MODEL.fit(observed(measure(alone_cells())), 0)
    assert any("no co-located cells" in note for note in found.document().notes)
    x = points(mixed_cells(30, 2, sizes=(2, 3)))
    assert np.isfinite(found.latency_ms(x)).all()
    assert found.log_scale(x).min() > fitted.log_scale(x).max()
    assert np.isfinite(found.covariance(x)).all()


# --- order, seeds, starts, files ---------------------------------------------------------------


def test_the_order_of_cells_and_tenants_changes_nothing() -> None:
    cells = measure([*alone_cells((1, 8, 32), (20, 50, 100)), *mixed_cells(170, 4)])
    rng = np.random.default_rng(5)
    other = [
        cells[i].model_copy(update={"tenants": tuple(reversed(cells[i].tenants))})
        for i in rng.permutation(len(cells))
    ]
    # more pairs than choose the kernel: which do must not depend on the order either
    assert sum(len(c.tenants) for c in cells if len(c.tenants) > 1) > 300
    x = points(mixed_cells(60, 12, sizes=(1, 2, 3)))
    one, two_ = MODEL.fit(observed(cells), 0), MODEL.fit(observed(other), 0)
    assert two_.latency_ms(x) == pytest.approx(one.latency_ms(x), rel=1e-4)
    assert two_.log_scale(x) == pytest.approx(one.log_scale(x), rel=1e-2)


def test_a_fit_is_the_same_for_the_same_seed(few: Observations) -> None:
    assert MODEL.fit(few, 0).document() == MODEL.fit(few, 0).document()


def test_a_refit_from_a_start_is_close_to_a_fresh_one(
    data: Observations, fitted: IgprofFitted
) -> None:
    part = data.take(data.points.cell % 5 != 0) if _keeps(data) else data
    x = points(mixed_cells(60, 12, sizes=(2, 3)))
    fresh, started = MODEL.fit(part, 0), MODEL.fit(part, 0, fitted)
    assert started.latency_ms(x) == pytest.approx(fresh.latency_ms(x), rel=5e-3)


def test_what_was_fitted_with_other_terms_is_no_start(few: Observations) -> None:
    other, full = IgprofModel.lacking(["pair"]).fit(few, 0), MODEL.fit(few, 0)
    assert MODEL.fit(few, 0, other).document() == full.document()
    # which a start of the same terms is
    assert MODEL.fit(few, 0, full).document() != full.document()


def _keeps(data: Observations) -> bool:
    kept = (data.points.cell % 5 != 0) & (data.points.tenants == 1)
    return len(np.unique(data.points.model[kept])) == len(data.models)


def test_what_is_read_back_predicts_the_same(fitted: IgprofFitted) -> None:
    again = MODEL.load(coefficients(fitted))
    x = points(mixed_cells(80, 13, sizes=(1, 2, 3, 5)))
    assert again.latency_ms(x) == pytest.approx(fitted.latency_ms(x), rel=1e-9)
    assert again.log_scale(x) == pytest.approx(fitted.log_scale(x), rel=1e-7)
    assert again.covariance(x) == pytest.approx(fitted.covariance(x), abs=1e-11)
    assert again.overlapped_ms(x, again.latency_ms(x)) == pytest.approx(
        fitted.overlapped_ms(x, fitted.latency_ms(x)), rel=1e-9
    )
    assert again.document().extra["rows"]["log_ms"] == fitted.document().extra["rows"]["log_ms"]


def test_cells_may_have_any_number(fitted: IgprofFitted) -> None:
    x = points(mixed_cells(20, 14, sizes=(2, 3)))
    odd = replace(x, cell=x.cell * 37 % 101 + 5)
    assert fitted.latency_ms(odd) == pytest.approx(fitted.latency_ms(x), rel=1e-12)
    assert fitted.log_scale(odd) == pytest.approx(fitted.log_scale(x), rel=1e-12)


def test_nothing_asked_nothing_answered(fitted: IgprofFitted) -> None:
    x = points([])
    for found in (
        fitted.latency_ms(x),
        fitted.log_scale(x),
        fitted.overlapped_ms(x, fitted.latency_ms(x)),
    ):
        assert found.shape == (0,)
    assert fitted.covariance(x).shape == (0, 0)
    assert all(term.shape == (0,) for term in fitted.explain(x).values())


def test_the_terms_sum_to_the_latency(fitted: IgprofFitted) -> None:
    x = points([*alone_cells((1, 5), (10, 77)), *mixed_cells(60, 15, sizes=(2, 3, 6))])
    terms = fitted.explain(x)
    assert sum(terms.values()) == pytest.approx(fitted.latency_ms(x), rel=1e-12)
    for name in ("transfer", "active alone", "cache and memory", "bus", "scheduling", "clock"):
        assert (terms[name] >= 0).all()


def test_cells_asked_for_apart_or_together_are_the_same(fitted: IgprofFitted) -> None:
    """The factored sums over many cells are those of one cell at a time."""
    cells = mixed_cells(60, 16, sizes=(2, 3))
    together_ms = fitted.latency_ms(points(cells))
    apart = np.concatenate([fitted.latency_ms(points([cell])) for cell in cells])
    assert together_ms == pytest.approx(apart, rel=1e-10)


def test_little_memory_gives_the_same(
    fitted: IgprofFitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = points(mixed_cells(60, 16, sizes=(2, 3)))
    ms, scale = fitted.latency_ms(x), fitted.log_scale(x)
    covariance = fitted.covariance(x)
    monkeypatch.setattr(together, "_NUMBERS", 1000)
    assert fitted.latency_ms(x) == pytest.approx(ms, rel=1e-10)
    assert fitted.log_scale(x) == pytest.approx(scale, rel=1e-10)
    assert fitted.covariance(x) == pytest.approx(covariance, abs=1e-12)


# --- hard data ---------------------------------------------------------------------------------

ONE = Tenant(model="light", batch_size=4, share_pct=40)
HARD: dict[str, Callable[[], Cells]] = {
    "one cell": lambda: [(ONE,)],
    "two cells": lambda: [(ONE,), (ONE, ONE)],
    "one configuration, again and again": lambda: [*[(ONE,)] * 12, *[(ONE, ONE)] * 12],
    "one model": lambda: [c for c in alone_cells() if c[0].model == "wire"],
    "one model with itself": lambda: [
        *[c for c in alone_cells() if c[0].model == "wire"],
        *mixed_cells(20, models=("wire",), sizes=(2, 4)),
    ],
    "one pair of cells a model": lambda: [
        *[(Tenant(model=m, batch_size=1),) for m in MODELS],
        *mixed_cells(3),
    ],
    "cells of eight": lambda: [*alone_cells((1, 8), (10, 50)), *mixed_cells(12, sizes=(8,))],
    "scales and instances": lambda: [
        (Tenant(model="heavy", batch_size=b, share_pct=50, input_scale=s, instances=i),)
        for b in (1, 8)
        for s in (0.5, 1.0, 2.0)
        for i in (1, 3)
    ],
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("counters", [True, False])
def test_hard_profiles_are_fitted(name: str, counters: bool) -> None:
    cells = HARD[name]()
    for noise in (0.0, 0.01):
        seen = observed(measure(cells, noise, counters=counters, power=counters))
        found = MODEL.fit(seen, 0)
        ms = found.latency_ms(seen.points)
        assert np.isfinite(ms).all()
        lone = seen.points.tenants == 1
        assert np.abs(np.log(ms / seen.latency_ms))[lone].max() < 0.05
        assert (found.log_scale(seen.points) > 0).all()
        again = MODEL.load(coefficients(found, seen.models))
        assert again.latency_ms(seen.points) == pytest.approx(ms, rel=1e-9)


def test_zero_bytes_and_a_model_without_counters() -> None:
    cells = measure([*alone_cells((1, 16), (20, 80)), *mixed_cells(30)])
    for field, change in (("input_bytes", 0.0), ("kernels", None), ("kernels", 0)):
        changed = [
            m.model_copy(
                update={
                    "tenants": tuple(
                        t.model_copy(
                            update={"counters": t.counters.model_copy(update={field: change})}
                        )
                        if t.tenant.model == "light" and t.counters
                        else t
                        for t in m.tenants
                    )
                }
            )
            for m in cells
        ]
        found = MODEL.fit(observed(changed), 0)
        x = points(mixed_cells(30, 3))
        assert np.isfinite(found.latency_ms(x)).all()
        assert np.isfinite(found.overlapped_ms(x, found.latency_ms(x))).all()
        assert MODEL.load(coefficients(found)).latency_ms(x) == pytest.approx(found.latency_ms(x))


def test_a_power_of_some_models_only_is_no_power() -> None:
    cells = [
        m
        if all(t.tenant.model != "wire" for t in m.tenants)
        else m.model_copy(update={"power": None})
        for m in measure([*alone_cells((1, 16), (20, 80)), *mixed_cells(30)])
    ]
    found = MODEL.fit(observed(cells), 0)
    assert found.traits.power is None
    assert np.isfinite(found.latency_ms(points(mixed_cells(30, 3)))).all()


def test_a_cpu_with_caps_and_no_counters() -> None:
    cells = [*fitting_cells.solo_cells(), *fitting_cells.pair_cells()]
    capped = (Tenant(model="small", batch_size=4, cpu_cores=1),)
    made = fitting_cells.measure_truth([*cells, capped], noise=0.005)
    found = fit_coefficients(made, fitting_cells.CPU, profile_hash="", holdout=0.0)
    predictor = Predictor(found)
    triple = [
        Tenant(model="small", batch_size=4, share_pct=30),
        Tenant(model="middle", batch_size=4, share_pct=30),
        Tenant(model="large", batch_size=2, share_pct=30),
    ]
    predicted = [p.latency_ms for p in predictor.predict([triple])[0]]
    assert predicted == pytest.approx(fitting_cells.true_latencies(triple), rel=0.3)
    pair = fitting_cells.pair_cells(batches=(2, 6), shares=(35,))
    ms = np.array([p.latency_ms for cell in predictor.predict(pair) for p in cell])
    true = np.array([v for cell in pair for v in fitting_cells.true_latencies(cell)])
    assert np.abs(ms / true - 1).mean() < 0.04
    half = Tenant(model="small", batch_size=4, share_pct=50)
    both = predictor.predict([[half], list(capped)])
    assert both[0][0].latency_ms == both[1][0].latency_ms


def test_a_model_never_measured_alone_is_refused() -> None:
    with pytest.raises(BadInput, match="never measured alone"):
        MODEL.fit(observed(measure(mixed_cells(10))), 0)


# --- damaged files -----------------------------------------------------------------------------

Damage = Callable[[dict[str, Any]], object]
DAMAGED: dict[str, Damage] = {
    "no rows": lambda e: e.pop("rows"),
    "no kernel": lambda e: e.pop("kernel"),
    "a short kernel": lambda e: e["kernel"].pop(),
    "a huge kernel": lambda e: e.update(kernel=[800.0] * len(e["kernel"])),
    "a kernel of NaN": lambda e: e.update(kernel=[float("nan")] * len(e["kernel"])),
    "a kernel of text": lambda e: e.update(kernel="abc"),
    "one list shorter": lambda e: e["rows"]["log_ms"].pop(),
    "an unknown list": lambda e: e["rows"].update(more=[]),
    "no lists": lambda e: e.update(rows={k: [] for k in e["rows"]}),
    "a model that is not there": lambda e: e["rows"]["model"].__setitem__(0, 3),
    "a negative model": lambda e: e["rows"]["model"].__setitem__(0, -1),
    "half a model": lambda e: e["rows"]["model"].__setitem__(0, 0.5),
    "a huge model": lambda e: e["rows"]["model"].__setitem__(0, 10**30),
    "a negative cell": lambda e: e["rows"]["cell"].__setitem__(0, -1),
    "a cell beyond integers": lambda e: e["rows"]["cell"].__setitem__(0, 10**30),
    "no batch": lambda e: e["rows"]["batch"].__setitem__(0, 0),
    "a negative share": lambda e: e["rows"]["share"].__setitem__(0, -0.1),
    "a scale of text": lambda e: e["rows"]["scale"].__setitem__(0, "x"),
    "infinite instances": lambda e: e["rows"]["instances"].__setitem__(0, float("inf")),
    "a negative noise": lambda e: e["rows"]["noise"].__setitem__(0, -1e-6),
    "a latency of NaN": lambda e: e["rows"]["log_ms"].__setitem__(0, float("nan")),
    "a model's process short": lambda e: e["alone"][0].pop(),
    "a model's process too many": lambda e: e["alone"].append(e["alone"][0]),
    "a model's process huge": lambda e: e["alone"].__setitem__(0, [900.0] * 7),
    "a spread of zero": lambda e: e["feature_spread"].__setitem__(0, 0.0),
    "one spread too few": lambda e: e["feature_spread"].pop(),
    "one feature fewer": lambda e: (e["feature_spread"].pop(), e["feature_mean"].pop()),
    "load over 1": lambda e: e["load_fraction"].__setitem__(0, 2.0),
    "kernels of fewer models": lambda e: e["traits"]["kernels"].pop(),
    "negative kernels": lambda e: e["traits"]["kernels"].__setitem__(0, -1),
    "no bandwidth": lambda e: e["traits"].update(bytes_per_ms=0),
    "no power of a model": lambda e: e["traits"]["power"]["models"].pop("wire"),
    "a power without idle": lambda e: e["traits"]["power"]["shared"].pop("idle_power_w"),
    "a drop of no clock": lambda e: e["traits"]["power"]["shared"].pop("max_clock_mhz"),
    "a clock of zero": lambda e: e["traits"]["power"]["shared"]["max_clock_mhz"].update(value=0),
    "other features than the kernel's": lambda e: (
        e["traits"].update(power=None) or e["traits"].update(item_bytes=[None] * 3)
    ),
    "a term left out that is none": lambda e: e.update(without=["magic"]),
}


@pytest.fixture(scope="module")
def kept(fitted: IgprofFitted) -> Coefficients:
    return coefficients(fitted)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_coefficients_are_refused(kept: Coefficients, name: str) -> None:
    extra = copy.deepcopy(kept.extra)
    DAMAGED[name](extra["fitted"])
    with pytest.raises(BadInput):
        MODEL.load(kept.model_copy(update={"extra": extra}))


@pytest.mark.parametrize("fitted_part", [None, [], "x", 1])
def test_coefficients_without_their_part_are_refused(kept: Coefficients, fitted_part: Any) -> None:
    with pytest.raises(BadInput):
        MODEL.load(kept.model_copy(update={"extra": {"fitted": fitted_part}}))


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_negative_parameters_of_the_device_are_refused(
    kept: Coefficients, name: str
) -> None:
    without = {k: v for k, v in kept.shared.items() if k != name}
    for shared in (without, {**kept.shared, name: Parameter(value=-0.01)}):
        with pytest.raises(BadInput, match=name):
            MODEL.load(kept.model_copy(update={"shared": shared}))


def test_huge_cell_numbers_cost_nothing(kept: Coefficients, fitted: IgprofFitted) -> None:
    extra = copy.deepcopy(kept.extra)
    cell = extra["fitted"]["rows"]["cell"]
    extra["fitted"]["rows"]["cell"] = [10**12 + 7 * c for c in cell]
    x = points(mixed_cells(10, 3))
    again = MODEL.load(kept.model_copy(update={"extra": extra}))
    assert again.latency_ms(x) == pytest.approx(fitted.latency_ms(x), rel=1e-9)


def test_every_term_can_be_left_out_and_is_remembered() -> None:
    data = observed(measure([*alone_cells((1, 16), (20, 80)), *mixed_cells(20, sizes=(2, 3))]))
    x = points(mixed_cells(20, 3, sizes=(2, 3)))
    for term in TERMS:
        found = IgprofModel.lacking([term]).fit(data, 0)
        again = MODEL.load(coefficients(found))
        assert again.latency_ms(x) == pytest.approx(found.latency_ms(x), rel=1e-9)
