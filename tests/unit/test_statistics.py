from __future__ import annotations

import numpy as np
import pytest

from igniter_prof.records import AFTER, MEASURED, REQUEST_DTYPE, WARMUP
from igniter_prof.statistics import (
    _interval_ranks,
    batch_count,
    latencies_ms,
    mean_half_width,
    stability,
    standard_error,
    student_t,
    summarise,
)


def test_only_measured_and_successful_requests_count() -> None:
    rows = np.zeros(4, REQUEST_DTYPE)
    rows["intended_ns"] = 0
    rows["sent_ns"] = 1_000_000
    rows["done_ns"] = [2_000_000, 3_000_000, 4_000_000, 5_000_000]
    rows["phase"] = [WARMUP, MEASURED, MEASURED, AFTER]
    rows["ok"] = [1, 1, 0, 1]
    assert latencies_ms(rows).tolist() == [2.0]
    assert latencies_ms(rows, intended=True).tolist() == [3.0]


def test_known_values() -> None:
    summary = summarise(np.arange(1.0, 1001.0))
    assert summary.count == 1000
    assert summary.mean_ms == pytest.approx(500.5)
    assert summary.std_ms == pytest.approx(288.8194361)
    assert (summary.min_ms, summary.max_ms) == (1.0, 1000.0)
    assert summary.p50 is not None
    assert summary.p50.value_ms == pytest.approx(500.5)
    # binomial(1000, 0.5): 469 and 531 are its 2.5% and 97.5% quantiles
    assert (summary.p50.low_ms, summary.p50.high_ms) == (469.0, 532.0)


def test_batch_means_of_ten_are_the_textbook_interval() -> None:
    # ten batches of one: the plain t interval, with t(9) = 2.262157
    values = np.array([4.9, 5.1, 5.3, 4.7, 5.0, 5.2, 4.8, 5.1, 4.9, 5.0])
    half_width = mean_half_width(values)
    assert half_width == pytest.approx(2.262157 * values.std(ddof=1) / np.sqrt(10))
    assert half_width is not None
    assert standard_error(half_width, 10) == pytest.approx(values.std(ddof=1) / np.sqrt(10))
    assert student_t(9) == pytest.approx(2.262157, rel=1e-6)


@pytest.mark.parametrize(("samples", "batches"), [(10, 10), (99, 10), (400, 20), (10**6, 30)])
def test_batches_grow_with_the_root_of_the_samples(samples: int, batches: int) -> None:
    assert batch_count(samples) == batches


@pytest.mark.parametrize(
    ("count", "p50", "p95", "p99"),
    [
        (3, None, None, None),
        (4, "value", None, None),
        (6, "interval", None, None),
        (39, "interval", None, None),
        (40, "interval", "value", None),
        (71, "interval", "value", None),
        (72, "interval", "interval", None),
        (199, "interval", "interval", None),
        (200, "interval", "interval", "value"),
        (367, "interval", "interval", "value"),
        (368, "interval", "interval", "interval"),
    ],
)
def test_percentiles_need_samples(
    count: int, p50: str | None, p95: str | None, p99: str | None
) -> None:
    summary = summarise(np.linspace(1, 2, count))
    for quantile, expected in ((summary.p50, p50), (summary.p95, p95), (summary.p99, p99)):
        if expected is None:
            assert quantile is None
        else:
            assert quantile is not None
            assert (quantile.low_ms is not None) == (expected == "interval")
            assert (quantile.high_ms is not None) == (expected == "interval")


def test_few_samples_have_no_interval_and_none_is_refused() -> None:
    assert summarise(np.ones(9)).mean_ci_ms is None
    assert summarise(np.ones(10)).mean_ci_ms == 0.0
    assert summarise(np.array([3.0])).std_ms == 0.0
    for bad in (np.array([]), np.array([1.0, np.nan]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="non-empty series of finite"):
            summarise(bad)


def noisy(count: int, spread: float, seed: int = 0) -> np.ndarray:
    return 5 * (1 + spread * np.random.default_rng(seed).standard_normal(count))


def test_a_steady_series_is_stable_and_says_how_well_it_is_known() -> None:
    found = stability(noisy(1000, 0.05), precision_pct=2, max_drift_pct=5)
    assert found.stable
    assert not found.drifting
    assert found.precision_pct == pytest.approx(100 * 0.05 / np.sqrt(1000) * 2.05, rel=0.4)
    assert "wanted: 2 %" in found.reason


def test_few_or_noisy_requests_are_not_stable() -> None:
    few = stability(noisy(9, 0.01), precision_pct=2, max_drift_pct=5)
    assert (few.stable, few.precision_pct, few.drift_pct) == (False, None, None)
    assert "only 9 requests" in few.reason
    wild = stability(noisy(50, 0.5), precision_pct=2, max_drift_pct=5)
    assert not wild.stable
    assert wild.precision_pct is not None
    assert wild.precision_pct > 2


def test_drift_is_significant_and_large_or_it_is_none() -> None:
    trend = noisy(1000, 0.02) * np.linspace(1.0, 1.15, 1000)
    drifting = stability(trend, precision_pct=50, max_drift_pct=5)
    assert drifting.drifting
    assert not drifting.stable
    assert drifting.drift_pct == pytest.approx(7.2, abs=1)
    assert "drift of +7" in drifting.reason
    # the same drift is fine where it is allowed, and a step in constants has no noise to hide in
    assert stability(trend, precision_pct=50, max_drift_pct=10).stable
    step = np.repeat([1.0, 2.0], 50)
    assert stability(step, precision_pct=1000, max_drift_pct=5).drifting
    # large by chance only: noisy halves
    found = [
        stability(noisy(20, 0.5, seed), precision_pct=1000, max_drift_pct=5) for seed in range(100)
    ]
    large = [each for each in found if each.drift_pct is not None and abs(each.drift_pct) > 5]
    assert len(large) > 50
    assert sum(each.drifting for each in large) <= 12


@pytest.mark.parametrize(("count", "p"), [(6, 0.5), (100, 0.95), (367, 0.99), (368, 0.99)])
def test_ranks_agree_with_the_binomial_distribution(count: int, p: float) -> None:
    from scipy.stats import binom

    low, high = _interval_ranks(count, p)
    assert (low, high) == (int(binom.ppf(0.025, count, p)), int(binom.ppf(0.975, count, p)) + 1)
    # each end leaves out at most 2.5%
    assert binom.cdf(low - 1, count, p) <= 0.025
    assert 1 - binom.cdf(high - 1, count, p) <= 0.025 + 1e-12


def test_constant_and_zero_series() -> None:
    assert stability(np.full(100, 5.0), precision_pct=2, max_drift_pct=5).stable
    assert not stability(np.zeros(100), precision_pct=2, max_drift_pct=5).stable
