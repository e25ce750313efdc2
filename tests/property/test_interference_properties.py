"""Gaussian processes and pairs of ``igprof``: gradients, sums, and what no profile may break."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.errors import BadInput
from igniter_prof.fitting.interference import alone, gaussian, together
from igniter_prof.fitting.interference.model import IgprofFitted, IgprofModel, Training, _some_cells
from igniter_prof.fitting.points import FloatArray, Points, arrange
from igniter_prof.records import Coefficients, Tenant
from tests.unit.interference_cells import GPU, MODELS, alone_cells, measure, mixed_cells, observed

CASES = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**31)


@cache
def fitted() -> IgprofFitted:
    cells = [*alone_cells((1, 8, 32), (10, 50, 100)), *mixed_cells(60, sizes=(2, 2, 3))]
    return IgprofModel().fit(observed(measure(cells)), 0)


def points(cells: Any) -> Points:
    return arrange(cells, {m: i for i, m in enumerate(MODELS)}, GPU)


TENANTS = st.builds(
    Tenant,
    model=st.sampled_from(MODELS),
    batch_size=st.integers(1, 1024),
    share_pct=st.sampled_from([1.0, 2.5, 5.0, 7.5, 10.0, 12.0]),
    input_scale=st.sampled_from([0.1, 1.0, 2.0]),
    instances=st.sampled_from([1, 2, 64]),
)


@CASES
@given(st.lists(TENANTS, min_size=1, max_size=8))
def test_cells_of_any_kind_have_a_latency_and_neighbours_never_help(cell: list[Tenant]) -> None:
    found = fitted()
    ms = [found.latency_ms(points([cell[:n]])) for n in range(1, len(cell) + 1)]
    for fewer, more in pairwise(ms):
        assert (more[: len(fewer)] >= fewer * (1 - 1e-12)).all()
    x = points([cell])
    lone = replace(x, cell=np.arange(len(x)), tenants=np.ones(len(x)))
    assert (ms[-1] >= found.latency_ms(lone)).all()
    assert np.isfinite(ms[-1]).all()
    scale = found.log_scale(x)
    assert ((scale > 0) & np.isfinite(scale)).all()
    assert sum(found.explain(x).values()) == pytest.approx(ms[-1], rel=1e-9)
    overlapped = found.overlapped_ms(x, found.latency_ms(x))
    assert ((overlapped >= 0) & (overlapped < ms[-1])).all()


@CASES
@given(st.lists(TENANTS, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_tenants_and_the_numbers_of_cells_change_nothing(
    cell: list[Tenant], random: Any
) -> None:
    order = list(range(len(cell)))
    random.shuffle(order)
    found, x = fitted(), points([cell])
    other = replace(x.take(np.array(order)), cell=np.full(len(x), random.randrange(1000)))
    assert found.latency_ms(other) == pytest.approx(found.latency_ms(x)[order], rel=1e-9)
    assert found.log_scale(other) == pytest.approx(found.log_scale(x)[order], rel=1e-6)


@CASES
@given(SEEDS, st.integers(1, 9), st.booleans())
def test_the_slopes_of_the_evidence_of_latencies_alone(seed: int, n: int, again: bool) -> None:
    rng = np.random.default_rng(seed)
    at = rng.normal(size=(n, 4))
    if again:
        at = np.concatenate([at, at[:1]])
    theta = np.log([v for v, _ in alone._PRIORS.values()]) + 0.3 * rng.normal(size=7)
    check_slopes(alone._evidence(at), theta)
    k = alone._evidence(at)(theta)[0]
    plain = alone._covariance(theta, at, at) + np.exp(theta[6]) * np.eye(len(at))
    assert k == pytest.approx(plain, rel=1e-9)


def check_slopes(covariance: gaussian.Covariance, theta: FloatArray) -> None:
    """Against central differences."""
    slopes = covariance(theta)[1]
    assert len(slopes) == len(theta)
    for which, slope in enumerate(slopes):
        step = np.zeros_like(theta)
        step[which] = 1e-5
        central = (covariance(theta + step)[0] - covariance(theta - step)[0]) / 2e-5
        assert slope == pytest.approx(central, rel=1e-5, abs=1e-9)


def cells_of(rng: np.random.Generator, most: int = 4) -> Points:
    """Random whole cells of three models, rows of a cell not beside one another."""
    sizes = rng.integers(2, most + 1, 5)
    cell = rng.permutation(np.repeat(rng.permutation(40)[:5], sizes))
    n = len(cell)
    return Points(
        model=rng.integers(0, 3, n),
        batch=rng.integers(1, 9, n).astype(float),
        share=rng.uniform(0.05, 0.4, n),
        scale=np.ones(n),
        instances=np.ones(n),
        cell=cell,
        tenants=np.bincount(cell)[cell].astype(float),
    )


def pairs_and_kernel(
    seed: int, most: int = 4
) -> tuple[Points, FloatArray, together.Pairs, together.Kernel]:
    rng = np.random.default_rng(seed)
    x = cells_of(rng, most)
    features = rng.normal(size=(len(x), 2))
    pairs = together.pairs_of(x, features, together.Scale(np.zeros(2), np.ones(2)))
    prior = together.prior(2)
    theta = prior.mean + 0.5 * rng.normal(size=len(prior.mean))
    return x, features, pairs, together.Kernel(theta, 2)


@CASES
@given(SEEDS)
def test_neighbours_are_all_others_of_the_cell(seed: int) -> None:
    x = cells_of(np.random.default_rng(seed))
    tenant, other = together.neighbours(x)
    expected = [
        (i, j) for i in range(len(x)) for j in range(len(x)) if i != j and x.cell[i] == x.cell[j]
    ]
    assert sorted(zip(tenant.tolist(), other.tolist(), strict=True)) == expected
    assert (np.diff(tenant) >= 0).all()


@CASES
@given(SEEDS, st.sampled_from([2, 4]))
def test_the_slopes_of_the_evidence_of_pairs(seed: int, most: int) -> None:
    x, _, pairs, kernel = pairs_and_kernel(seed, most)
    caught: list[gaussian.Covariance] = []

    def catch(covariance: gaussian.Covariance, *_: Any, **__: Any) -> FloatArray:
        caught.append(covariance)
        return kernel.theta

    n = len(x)
    shared = 1e-3 * np.eye(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "most_likely", catch)
        together.likely_kernel(pairs, np.zeros(n), shared, np.zeros(n), 2)
    check_slopes(caught[0], kernel.theta)
    # the same covariance as that which predicts
    expected = kernel.rows(pairs, pairs, n, n) + shared + kernel.noise * np.eye(n)
    assert caught[0](kernel.theta)[0] == pytest.approx(expected, rel=1e-9)
    assert kernel.diagonal(pairs, n) == pytest.approx(
        np.diag(kernel.rows(pairs, pairs, n, n)), rel=1e-9
    )


@CASES
@given(SEEDS, st.sampled_from([1, 50, 10_000_000]))
def test_the_factored_mean_is_the_direct_sum(seed: int, numbers: int) -> None:
    x, _, pairs, kernel = pairs_and_kernel(seed)
    rng = np.random.default_rng(seed + 1)
    n = len(x)
    left = 0.01 * rng.normal(size=n)
    known = together.condition(kernel, pairs, left, np.zeros((n, n)), np.zeros(n))
    other = cells_of(rng)
    asked = together.pairs_of(
        other, rng.normal(size=(len(other), 2)), together.Scale(np.zeros(2), np.ones(2))
    )
    cross = kernel.rows(asked, pairs, len(other), n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "_NUMBERS", numbers)
        mean = known.mean(asked, np.full(len(other), np.inf))
        assert kernel.rows(asked, pairs, len(other), n) == pytest.approx(cross, rel=1e-9)
    # two directions of one truth: the weights, and a solve by hand
    k = kernel.rows(pairs, pairs, n, n) + (kernel.noise + gaussian.JITTER) * np.eye(n)
    assert mean == pytest.approx(cross @ np.linalg.solve(k, left), rel=1e-6, abs=1e-10)
    covered = known.covered(cross)
    assert covered @ covered.T == pytest.approx(
        cross @ np.linalg.solve(k, cross.T), rel=1e-6, abs=1e-12
    )


@CASES
@given(SEEDS, st.integers(0, 30))
def test_a_part_of_the_cells_is_whole_and_the_same_in_any_order(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    x = cells_of(rng)
    training = Training(x, rng.normal(size=len(x)), np.zeros(len(x)))
    rows = _some_cells(training, most, 0)
    size = np.bincount(x.cell)
    kept = set(x.cell[rows].tolist())
    assert set(np.flatnonzero(np.isin(x.cell, list(kept))).tolist()) == set(rows.tolist())
    assert sum(int(size[c]) * (int(size[c]) - 1) for c in kept) <= max(
        most, 0 if len(rows) < len(x) else 10**9
    )
    order = rng.permutation(len(x))
    moved = x.take(order)
    moved = replace(moved, cell=rng.permutation(50)[moved.cell])
    again = _some_cells(Training(moved, training.log_ms[order], np.zeros(len(x))), most, 0)
    assert sorted(order[again].tolist()) == sorted(rows.tolist())


@CASES
@given(SEEDS)
def test_different_rows_of_a_table(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 3, (20, 3)).astype(float)
    rows, which = together.different(table)
    assert (rows[which] == table).all()
    assert len(np.unique(rows, axis=0)) == len(rows)


@cache
def kept() -> Coefficients:
    document = fitted().document()
    return Coefficients(
        model="igprof",
        device=GPU,
        profile_hash="",
        igprof="0",
        created_at="",
        shared=document.shared,
        models=document.models,
        extra={"fitted": document.extra},
    )


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.floats(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_junk_in_a_file_is_refused_or_gives_finite_latencies(draw: st.DataObject) -> None:
    """Never another error than BadInput, never a latency that is no number."""
    extra = kept().model_dump(mode="json")["extra"]
    at: Any = extra["fitted"]
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = draw.draw(st.sampled_from(keys))
        if not (isinstance(at[key], (dict, list)) and at[key]) or draw.draw(st.integers(0, 3)) == 0:
            break
        at = at[key]
    at[key] = draw.draw(JUNK)
    try:
        found = IgprofModel().load(kept().model_copy(update={"extra": extra}))
    except BadInput:
        return
    x = points([*mixed_cells(5, 3), *alone_cells((4,), (30,))])
    assert np.isfinite(found.latency_ms(x)).all()
    assert np.isfinite(found.log_scale(x)).all()
