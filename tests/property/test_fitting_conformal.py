"""Intervals hold what they promise, whatever the errors look like."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.fitting import conformal

SHAPES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "skewed": lambda rng, n: rng.exponential(1.0, n) - 0.5,
    "heavy": lambda rng, n: rng.standard_t(3, n),
    "biased": lambda rng, n: rng.normal(2.0, 0.3, n),
    "two scales": lambda rng, n: rng.standard_normal(n) * rng.choice([0.1, 3.0], n),
}


@settings(max_examples=40, deadline=None)
@given(shape=st.sampled_from(sorted(SHAPES)), seed=st.integers(0, 10**6), n=st.integers(19, 400))
def test_marginal_coverage_is_within_binomial_bounds(shape: str, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    draw = SHAPES[shape]
    repeats, fresh = 60, 60
    inside = 0
    for _ in range(repeats):
        low, high = conformal.interval(draw(rng, n))
        new = draw(rng, fresh)
        inside += int(((low <= new) & (new <= high)).sum())
    coverage = inside / (repeats * fresh)
    # of split conformal prediction: Beta(k, n + 1 - k) over calibrations, and the binomial's own
    # share; six standard errors, and 3% for the choice between two intervals
    over_calibrations = 0.09 / (n + 2) / repeats
    error = np.sqrt(over_calibrations + 0.09 / (repeats * fresh))
    assert coverage >= 0.9 - 6 * error - 0.03
    if shape != "biased":  # 0 is always inside: what is biased is covered more
        assert coverage <= 0.9 + 1.5 / (n + 1) + 6 * error + 0.03 + 2.0 / n


@settings(max_examples=100, deadline=None)
@given(
    scores=st.lists(st.floats(-10, 10, allow_subnormal=False), max_size=80),
    least_high=st.floats(0, 5),
)
def test_the_interval_holds_zero_reaches_what_it_must_and_nine_of_ten(
    scores: list[float], least_high: float
) -> None:
    found = np.array(scores)
    low, high = conformal.interval(found, least_high=least_high)
    assert low <= 0 <= high
    assert high >= least_high
    if len(found):
        assert ((low <= found) & (found <= high)).mean() >= 0.9
    assert low <= high


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    seed=st.integers(0, 10**6),
    n=st.integers(1, 300),
    low=st.floats(-3, 0),
    high=st.floats(0, 3),
)
def test_a_factor_makes_an_interval_hold_ninety_percent_and_never_narrows_it(
    shape: str, seed: int, n: int, low: float, high: float
) -> None:
    scores = SHAPES[shape](np.random.default_rng(seed), n)
    factor = conformal.factor(scores, (low, high))
    assert factor >= 1.0
    ends = factor * min(low, -1e-6), factor * max(high, 1e-6)
    inside = int(((ends[0] * (1 + 1e-9) <= scores) & (scores <= ends[1] * (1 + 1e-9))).sum())
    assert inside >= min(int(np.ceil(0.9 * (n + 1))), n)


def test_no_scores_ask_for_no_factor() -> None:
    assert conformal.factor(np.zeros(0), (-1.0, 1.0)) == 1.0
