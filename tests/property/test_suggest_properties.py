"""The greedy design against brute force, on covariances of any shape."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as changed

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.fitting import suggest
from igniter_prof.fitting.points import FloatArray, Points

CASES = settings(max_examples=40, deadline=None)


@dataclass(frozen=True)
class Known:
    """Rows whose covariance follows from their batch alone, so that any row may be asked for."""

    root: FloatArray
    noise: float

    def covariance(self, x: Points) -> FloatArray:
        rows = self.root[x.batch.astype(int) - 1]
        return rows @ rows.T


@st.composite
def problems(draw: st.DrawFn) -> tuple[Known, Points]:
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=7))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    rows = sum(sizes)
    root = rng.normal(size=(rows, draw(st.integers(1, rows)))) * rng.lognormal(size=(rows, 1))
    noise = draw(st.sampled_from([1e-4, 1e-2, 1.0]))
    return Known(0.1 * root, noise), points(sizes, rng.permutation(rows) + 1)


def points(sizes: list[int], batch: np.ndarray) -> Points:
    cell = np.repeat(np.arange(len(sizes)), sizes)
    return Points(
        model=np.zeros(len(cell), dtype=np.int64),
        batch=batch.astype(float),
        share=np.full(len(cell), 0.1),
        scale=np.ones(len(cell)),
        instances=np.ones(len(cell)),
        cell=cell,
        tenants=np.array(sizes, dtype=float)[cell],
    )


def trace(covariance: FloatArray, x: Points) -> float:
    """The mean over cells of the mean variance of their rows."""
    variance = np.diag(covariance)
    return float(np.mean([variance[x.cell == c].mean() for c in range(int(x.cell.max()) + 1)]))


def conditioned(covariance: FloatArray, rows: np.ndarray, noise: float) -> FloatArray:
    block = covariance[np.ix_(rows, rows)] + noise * np.eye(len(rows))
    return covariance - covariance[:, rows] @ np.linalg.solve(block, covariance[rows])


@CASES
@given(problems())
def test_each_choice_leaves_the_least_variance_that_a_single_cell_can(
    problem: tuple[Known, Points],
) -> None:
    known, x = problem
    covariance = known.covariance(x)
    left = set(range(int(x.cell.max()) + 1))
    start = trace(covariance, x)
    for choice in suggest.choose(known, x, len(left)):
        after = {c: conditioned(covariance, np.flatnonzero(x.cell == c), known.noise) for c in left}
        traces = {c: trace(each, x) for c, each in after.items()}
        assert traces[choice.index] <= min(traces.values()) + 1e-8 * start
        covariance = after[choice.index]
        left.remove(choice.index)
        deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        width = np.sqrt(deviation**2 + known.noise)
        cells = range(int(x.cell.max()) + 1)
        mean_width = np.mean([width[x.cell == c].mean() for c in cells])
        assert choice.half_width_after_pct == pytest.approx(164.49 * mean_width, rel=1e-4)
        mean_error = np.mean([deviation[x.cell == c].mean() for c in cells])
        expected = 100 * np.sqrt(2 / np.pi) * mean_error
        # what is left of a variance that is known entirely is rounding, and its root is not small
        assert choice.error_after_pct == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert not left


@CASES
@given(problems(), st.randoms(use_true_random=False), st.integers(1, 8))
def test_the_order_of_the_candidates_does_not_matter(
    problem: tuple[Known, Points], random: object, count: int
) -> None:
    known, x = problem
    cells = int(x.cell.max()) + 1
    order = list(range(cells))
    random.shuffle(order)  # type: ignore[attr-defined]
    rows = np.concatenate([np.flatnonzero(x.cell == c) for c in order])
    sizes = [int((x.cell == c).sum()) for c in order]
    moved = changed(x.take(rows), cell=np.repeat(np.arange(cells), sizes))

    first = suggest.choose(known, x, count)
    second = [order[choice.index] for choice in suggest.choose(known, moved, count)]

    assert len(first) == min(count, cells)
    gained = [c.error_before_pct - c.error_after_pct for c in first]
    for a, b, gain in zip([c.index for c in first], second, gained, strict=True):
        if a != b:  # only where both bring the same
            assert gain == pytest.approx(0, abs=1e-6)
            break


@CASES
@given(problems(), st.integers(1, 10), st.lists(st.booleans(), min_size=7, max_size=7))
def test_no_cell_is_chosen_twice_and_the_known_ones_come_last(
    problem: tuple[Known, Points], count: int, known_ones: list[bool]
) -> None:
    known, x = problem
    cells = int(x.cell.max()) + 1
    last = np.array(known_ones[:cells])
    chosen = [choice.index for choice in suggest.choose(known, x, count, last=last)]
    assert len(set(chosen)) == len(chosen) == min(count, cells)
    assert last[chosen].tolist() == sorted(last[chosen].tolist())


@CASES
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_in_parts_the_design_is_about_as_good_as_in_one(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [2] * 60
    at = rng.uniform(0, 8, size=120)
    root = np.exp(-((at[:, None] - np.linspace(0, 8, 40)) ** 2))
    known, x = Known(0.1 * root, 1e-4), points(sizes, np.arange(1, 121))
    whole = suggest.choose(known, x, count, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suggest, "EXACT_ROWS", 60)
        patch.setattr(suggest, "PART_ROWS", 30)
        patch.setattr(suggest, "REFERENCE_ROWS", 200)
        parts = suggest.choose(known, x, count, seed=seed)
        again = suggest.choose(known, x, count, seed=seed)
    assert parts == again
    assert len({choice.index for choice in parts}) == len(parts) == count
    assert parts[0].error_before_pct == pytest.approx(whole[0].error_before_pct)
    gained = whole[0].error_before_pct - whole[-1].error_after_pct
    assert parts[0].error_before_pct - parts[-1].error_after_pct > 0.8 * gained
