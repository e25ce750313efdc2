"""The queueing estimate against a simulation of the same queue, event by event."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from igniter_prof.fitting import request_latency

REQUESTS = 50_000

# a simulation takes a while, and a simpler failing queue says no more
NO_SHRINKING = (Phase.explicit, Phase.generate)


def simulate(
    service_ms: npt.NDArray[np.float64], cv: float, arrivals_ms: npt.NDArray[np.float64], seed: int
) -> tuple[npt.NDArray[np.float64], float]:
    """Latencies of all requests but the first, and the mean executed batch."""
    rng = np.random.default_rng(seed)
    largest, total = len(service_ms), len(arrivals_ms)
    latency = np.empty(total)
    first, batches, free = 0, 0, 0.0
    while first < total:
        start = max(free, arrivals_ms[first])
        waiting = int(np.searchsorted(arrivals_ms[first : first + largest], start, side="right"))
        took = service_ms[waiting - 1] * (rng.gamma(cv**-2, cv**2) if cv else 1.0)
        free = start + took
        latency[first : first + waiting] = free - arrivals_ms[first : first + waiting]
        first += waiting
        batches += 1
    return latency[total // 20 :], total / batches


@given(
    largest=st.integers(1, 16),
    fixed=st.floats(0.0, 4.0),
    load=st.floats(0.05, 0.8),
    cv=st.sampled_from([0.0, 0.05, 0.2, 0.5]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15, deadline=None, derandomize=True, phases=NO_SHRINKING)
def test_poisson_arrivals_as_simulated(
    largest: int, fixed: float, load: float, cv: float, seed: int
) -> None:
    service = 5.0 * (fixed + np.arange(1, largest + 1))
    rate = load * largest / service[-1] * 1000.0
    gaps = np.random.default_rng(seed + 5000).exponential(1000.0 / rate, REQUESTS)
    latency, mean_batch = simulate(service, cv, np.cumsum(gaps), seed)
    estimate = request_latency(service, cv, rate, "poisson", [50.0, 90.0, 99.0])
    assert estimate.mean_ms == pytest.approx(latency.mean(), rel=0.05)
    assert estimate.mean_batch == pytest.approx(mean_batch, rel=0.03)
    # where the distribution has atoms, the percentile itself jumps: compare it a little aside
    for percentile, value in estimate.quantiles_ms.items():
        margin = 1.5 if percentile < 95 else 0.4
        low, high = np.percentile(latency, [percentile - margin, percentile + margin])
        assert 0.96 * low <= value <= 1.04 * high


@given(
    largest=st.integers(1, 8),
    fixed=st.floats(0.0, 3.0),
    load=st.floats(0.05, 0.85),
    cv=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=15, deadline=None, derandomize=True, phases=NO_SHRINKING)
def test_constant_arrivals_as_simulated(largest: int, fixed: float, load: float, cv: float) -> None:
    service = 5.0 * (fixed + np.arange(1, largest + 1))
    gap = service[-1] / largest / load
    latency, _ = simulate(service, cv, np.arange(20_000) * gap, 3)
    estimate = request_latency(service, cv, 1000.0 / gap, "constant", [50.0, 95.0])
    assert estimate.mean_ms == pytest.approx(latency.mean(), rel=0.04)
    for percentile, value in estimate.quantiles_ms.items():
        low, high = np.percentile(latency, [percentile - 2.0, percentile + 2.0])
        assert 0.95 * low <= value <= 1.05 * high


@given(
    largest=st.integers(1, 16),
    fixed=st.floats(0.0, 4.0),
    load=st.floats(0.05, 0.7),
    cv=st.sampled_from([0.0, 0.05, 0.2, 0.5]),
    burstiness=st.floats(0.1, 6.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15, deadline=None, derandomize=True, phases=NO_SHRINKING)
def test_bursty_arrivals_as_simulated(
    largest: int, fixed: float, load: float, cv: float, burstiness: float, seed: int
) -> None:
    service = 5.0 * (fixed + np.arange(1, largest + 1))
    rate = load * largest / service[-1] * 1000.0
    draw = np.random.default_rng(seed + 5000)
    gaps = draw.gamma(1.0 / burstiness, burstiness * 1000.0 / rate, 2 * REQUESTS)
    latency, mean_batch = simulate(service, cv, np.cumsum(gaps), seed)
    estimate = request_latency(
        service, cv, rate, "bursty", [50.0, 90.0, 99.0], burstiness=burstiness
    )
    assert list(estimate.quantiles_ms.values()) == sorted(estimate.quantiles_ms.values())
    assert estimate.mean_ms == pytest.approx(latency.mean(), rel=0.06)
    assert estimate.mean_batch == pytest.approx(mean_batch, rel=0.03)
    for percentile, value in estimate.quantiles_ms.items():
        margin = 1.5 if percentile < 95 else 0.4
        low, high = np.percentile(latency, [percentile - margin, percentile + margin])
        assert 0.95 * low <= value <= 1.05 * high


@given(
    largest=st.integers(1, 32),
    fixed=st.floats(0.0, 4.0),
    load=st.floats(0.02, 0.95),
    cv=st.floats(0.0, 0.6),
    faster=st.floats(0.5, 1.0),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_quantiles_rise_with_percentile_and_rate(
    largest: int, fixed: float, load: float, cv: float, faster: float
) -> None:
    service = 5.0 * (fixed + np.arange(1, largest + 1))
    rate = load * largest / service[-1] * 1000.0
    assume(rate > 0)
    percentiles = [1.0, 50.0, 95.0, 99.0, 99.9]
    estimate = request_latency(service, cv, rate, "poisson", percentiles)
    values = list(estimate.quantiles_ms.values())
    assert values == sorted(values)
    assert estimate.mean_batch <= largest
    assert 0 < estimate.utilisation < 1
    calmer = request_latency(service, cv, faster * rate, "poisson", percentiles)
    assert calmer.mean_ms <= estimate.mean_ms * 1.002
