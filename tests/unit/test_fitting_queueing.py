from __future__ import annotations

import numpy as np
import pytest

from igniter_prof.errors import BadInput
from igniter_prof.fitting import request_latency

PERCENTILES = [50.0, 95.0, 99.0, 99.9]


def test_single_exponential_server_is_m_m_1() -> None:
    # sojourn is exponential with rate mu - lambda
    estimate = request_latency(np.array([10.0]), 1.0, 80.0, "poisson", PERCENTILES)
    exact = [-np.log(1 - p / 100) / (0.1 - 0.08) for p in PERCENTILES]
    assert list(estimate.quantiles_ms.values()) == pytest.approx(exact, rel=0.003)
    assert estimate.mean_ms == pytest.approx(50.0, rel=0.002)
    assert estimate.utilisation == pytest.approx(0.8, rel=1e-6)
    assert estimate.mean_batch == pytest.approx(1.0)


@pytest.mark.parametrize("load", [0.99, 0.999, 0.99999])
def test_near_saturation_it_still_is_m_m_1(load: float) -> None:
    estimate = request_latency(np.array([10.0]), 1.0, 100.0 * load, "poisson", PERCENTILES)
    exact = [-10.0 * np.log(1 - p / 100) / (1.0 - load) for p in PERCENTILES]
    assert list(estimate.quantiles_ms.values()) == pytest.approx(exact, rel=0.005)
    assert estimate.mean_ms == pytest.approx(10.0 / (1.0 - load), rel=0.005)
    assert estimate.utilisation == pytest.approx(load, rel=1e-6)


def test_near_saturation_batches_wait_as_in_heavy_traffic() -> None:
    # the wait of M/G^b/1 near saturation is exponential; its decay solves E[exp(θS)] = (1 + θ/λ)^b
    service, cv, load = np.full(32, 10.0), 0.5, 0.999
    rate = load * 32 / 10.0
    estimate = request_latency(service, cv, 1000.0 * rate, "poisson", [90.0, 99.0, 99.9])
    theta = 2 * (32 - 32 * load) / (10.0 * load * 32 * cv**2 + 10.0 / load)  # to first order
    apart = np.diff(list(estimate.quantiles_ms.values()))
    assert apart == pytest.approx([np.log(10) / theta] * 2, rel=0.01)
    assert estimate.mean_batch == pytest.approx(32, rel=0.002)


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("cv", [0.0, 0.3, 1.0])
def test_single_server_mean_is_pollaczek_khinchine(load: float, cv: float) -> None:
    estimate = request_latency(np.array([10.0]), cv, 100.0 * load, "poisson", [50.0])
    exact = 10.0 + load * 10.0 * (1 + cv**2) / 2 / (1 - load)
    assert estimate.mean_ms == pytest.approx(exact, rel=0.003)


def test_single_fixed_server_is_m_d_1() -> None:
    # P(wait = 0) = 1 - load, so nearly half of the requests take one service exactly
    estimate = request_latency(np.array([10.0]), 0.0, 50.0, "poisson", [25.0, 49.0, 99.0])
    assert estimate.quantiles_ms[25.0] == pytest.approx(10.0, rel=0.005)
    assert estimate.quantiles_ms[49.0] == pytest.approx(10.0, rel=0.01)
    # Erlang's formula for the waiting time of M/D/1, at the 99th percentile of the sojourn
    assert erlang_m_d_1(0.5, estimate.quantiles_ms[99.0] / 10.0 - 1.0) == pytest.approx(
        0.99, abs=0.0005
    )


def erlang_m_d_1(load: float, time: float) -> float:
    """P(wait <= time) in units of the service time (Erlang 1909)."""
    total = 0.0
    factorial = 1.0
    for k in range(int(time) + 1):
        factorial *= max(k, 1)
        x = load * (k - time)
        total += x**k / factorial * np.exp(-x)
    return (1 - load) * total


def test_an_idle_server_takes_one_service() -> None:
    estimate = request_latency(np.array([10.0, 15.0, 20.0]), 0.0, 0.01, "poisson", [50.0, 99.0])
    assert list(estimate.quantiles_ms.values()) == pytest.approx([10.0, 10.0], rel=0.005)
    assert estimate.mean_batch == pytest.approx(1.0, abs=0.001)


def test_a_largest_batch_that_is_never_met_costs_no_accuracy() -> None:
    # a hundredth of the requests finds the server busy, so that p98 is one service of one
    service = np.linspace(1.0, 640.0, 64)
    estimate = request_latency(service, 0.05, 5.0, "poisson", [50.0, 98.0])
    assert estimate.quantiles_ms[50.0] == pytest.approx(1.0, rel=0.005)
    assert estimate.quantiles_ms[98.0] == pytest.approx(1.11, rel=0.02)


@pytest.mark.parametrize("arrival", ["poisson", "constant", "bursty"])
def test_more_than_full_batches_can_take_is_not_stable(arrival: str) -> None:
    service = np.array([10.0, 12.0])
    bursts = 4.0 if arrival == "bursty" else None
    estimate = request_latency(service, 0.1, 2 / 12 * 1000, arrival, [50.0], burstiness=bursts)
    assert not estimate.stable
    assert estimate.quantiles_ms == {50.0: np.inf}
    assert request_latency(service, 0.1, 160, arrival, [50.0], burstiness=bursts).stable


def test_constant_arrivals_at_a_rate_that_one_serves_do_not_wait() -> None:
    estimate = request_latency(np.array([8.0, 12.0]), 0.0, 100.0, "constant", [0.0, 50.0, 99.9])
    assert list(estimate.quantiles_ms.values()) == pytest.approx([8.0] * 3)
    assert estimate.utilisation == pytest.approx(0.8, abs=0.01)
    assert estimate.mean_batch == 1.0


def test_constant_arrivals_faster_than_one_serves_go_by_twos() -> None:
    # every 10 ms a request, a service of any batch takes 19 ms: batches of two alternate waits
    estimate = request_latency(np.array([19.0, 19.0, 19.0]), 0.0, 100.0, "constant", [99.0])
    assert 1.8 < estimate.mean_batch <= 2.0
    assert 19.0 <= estimate.quantiles_ms[99.0] <= 38.0


@pytest.mark.parametrize("burstiness", [0.25, 4.0, 16.0])
@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
def test_bursty_arrivals_at_an_exponential_server_are_gi_m_1(
    burstiness: float, load: float
) -> None:
    # the sojourn is exponential with rate mu (1 - sigma), sigma = E[exp(-mu (1 - sigma) A)]
    rate, mu = 0.1 * load, 0.1
    sigma = 0.0
    for _ in range(10_000):
        sigma = (1.0 + mu * (1.0 - sigma) * burstiness / rate) ** (-1.0 / burstiness)
    estimate = request_latency(
        np.array([10.0]), 1.0, 1000.0 * rate, "bursty", PERCENTILES, burstiness=burstiness
    )
    exact = [-np.log(1 - p / 100) / (mu * (1 - sigma)) for p in PERCENTILES]
    assert list(estimate.quantiles_ms.values())[1:] == pytest.approx(exact[1:], rel=0.05)
    assert estimate.mean_ms == pytest.approx(1 / (mu * (1 - sigma)), rel=0.06)
    assert estimate.utilisation == pytest.approx(load, rel=0.02)


@pytest.mark.parametrize("load", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("cv", [0.0, 0.2])
@pytest.mark.parametrize("largest", [1, 8])
def test_a_burstiness_of_one_is_poisson(largest: int, cv: float, load: float) -> None:
    service = np.linspace(10.0, 10.0 + 2.0 * (largest - 1), largest)
    rate = 1000.0 * load * largest / service[-1]
    exact = request_latency(service, cv, rate, "poisson", [50.0, 95.0, 99.0])
    estimate = request_latency(service, cv, rate, "bursty", [50.0, 95.0, 99.0], burstiness=1.0)
    assert list(estimate.quantiles_ms.values()) == pytest.approx(
        list(exact.quantiles_ms.values()), rel=0.03
    )
    assert estimate.mean_ms == pytest.approx(exact.mean_ms, rel=0.03)
    assert estimate.mean_batch == pytest.approx(exact.mean_batch, rel=0.02)
    assert estimate.utilisation == pytest.approx(exact.utilisation, rel=0.01)


@pytest.mark.parametrize(("burstiness", "close"), [(0.0, 1e-12), (5e-5, 1e-12), (1e-3, 0.03)])
@pytest.mark.parametrize("rate", [50.0, 180.0, 300.0])
def test_next_to_no_burstiness_is_constant(rate: float, burstiness: float, close: float) -> None:
    service = np.linspace(10.0, 24.0, 8)
    exact = request_latency(service, 0.1, rate, "constant", [50.0, 95.0, 99.0])
    near = request_latency(service, 0.1, rate, "bursty", [50.0, 95.0, 99.0], burstiness=burstiness)
    assert list(near.quantiles_ms.values()) == pytest.approx(
        list(exact.quantiles_ms.values()), rel=close
    )


def test_bursts_cost_latency_and_answers_repeat() -> None:
    service = np.linspace(10.0, 24.0, 8)
    found = [
        request_latency(service, 0.1, 200.0, "bursty", [99.0], burstiness=burstiness)
        for burstiness in (0.5, 1.0, 4.0, 16.0, 16.0)
    ]
    p99 = [each.quantiles_ms[99.0] for each in found]
    assert p99[:4] == sorted(p99[:4])
    assert p99[3] > 3 * p99[0]
    assert found[3] == found[4]


def test_waiting_for_more_requests_costs_at_most_the_delay() -> None:
    service = np.linspace(10, 20, 4)
    base = request_latency(service, 0.1, 50, "poisson", [50.0, 99.0])
    later = request_latency(service, 0.1, 50, "poisson", [50.0, 99.0], queue_delay_us=2000)
    assert later.quantiles_ms[50.0] == pytest.approx(base.quantiles_ms[50.0] + 2.0)
    alone = request_latency(service[:1], 0.1, 50, "poisson", [50.0])
    assert request_latency(service[:1], 0.1, 50, "poisson", [50.0], 2000) == alone


@pytest.mark.parametrize(
    ("service", "cv", "rate", "arrival", "percentiles"),
    [
        ([], 0.1, 1.0, "poisson", [50.0]),
        ([1.0, np.nan], 0.1, 1.0, "poisson", [50.0]),
        ([1.0], -0.1, 1.0, "poisson", [50.0]),
        ([1.0], 0.1, 0.0, "poisson", [50.0]),
        ([1.0], 0.1, 1.0, "bursty", [50.0]),
        ([1.0], 0.1, 1.0, "sudden", [50.0]),
        ([1.0], 0.1, 1.0, "poisson", [100.0]),
    ],
)
def test_numbers_out_of_range_are_refused(
    service: list[float], cv: float, rate: float, arrival: str, percentiles: list[float]
) -> None:
    with pytest.raises(BadInput):
        request_latency(np.array(service), cv, rate, arrival, percentiles)


@pytest.mark.parametrize(
    ("arrival", "burstiness"), [("poisson", 1.0), ("bursty", -1.0), ("bursty", float("nan"))]
)
def test_burstiness_is_of_bursty_arrivals(arrival: str, burstiness: float) -> None:
    with pytest.raises(BadInput, match="burstiness"):
        request_latency(np.array([1.0]), 0.1, 1.0, arrival, [50.0], burstiness=burstiness)
