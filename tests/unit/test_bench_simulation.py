"""``scripts/bench/simulation.py``: the queues against known results, the events by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.errors import BadInput
from igniter_prof.fitting.queueing import request_latency
from igniter_prof.records import Plan, PlanDevice, PlanTenant, Prediction, Tenant
from tests.scripts import SCRIPTS, load

simulation = load(SCRIPTS / "bench" / "simulation.py")
LONG = simulation.Conduct(window_s=400.0, least_seeds=2, most_seeds=2)
SHORT = simulation.Conduct(window_s=5.0, warmup_s=0.5, least_seeds=2, most_seeds=2)


class Known:
    """``service_ms`` of a batch alone; each neighbour's executed request adds ``pressure``."""

    models: Iterable[str] = ("m",)

    def __init__(self, service_ms: Sequence[float], pressure: float = 0.0) -> None:
        self._service_ms = np.asarray(service_ms, dtype=np.float64)
        self._pressure = pressure
        self.unsendable = lambda: None  # as in what is fitted: no process can be sent it

    def service_ms(self, tenant: Tenant, neighbours: Sequence[Tenant] = ()) -> Any:
        slower = 1.0 + self._pressure * sum(each.batch_size for each in neighbours)
        return self._service_ms[: tenant.batch_size] * slower

    def predict(self, cells: Sequence[Sequence[Tenant]]) -> list[list[Prediction]]:
        return [
            [
                Prediction(
                    latency_ms=float(self.service_ms(tenant)[-1]),
                    latency_low_ms=0.1,
                    latency_high_ms=100.0,
                    throughput_rps=100.0,
                    cv=0.25,
                )
                for tenant in cell
            ]
            for cell in cells
        ]


def served(name: str = "w", *, batch: int = 1, rate: float = 100.0, **more: Any) -> Any:
    tenant = Tenant(model="m", batch_size=batch, share_pct=50)
    given_ = {"rate_rps": rate, "slo_ms": 30.0, "percentile": 99.0, **more}
    return simulation.Served(workload=name, tenant=tenant, **given_)


def alone(of: Any, service_ms: Sequence[float], conduct: Any = LONG) -> Any:
    room = simulation.Room("device-1", (of,), Known(service_ms))
    (found,) = simulation.simulate([room], conduct)
    return found


# --- queues against known results -------------------------------------------------------------


def test_exponential_services_are_those_of_m_m_1() -> None:
    # a sojourn is exponential with the rate mu - lambda
    found = alone(served(rate=120.0, cv=1.0), [5.0])
    assert found.mean_ms == pytest.approx(1000 / (200 - 120), rel=0.05)
    assert found.p50_ms == pytest.approx(1000 * math.log(2) / 80, rel=0.05)
    assert found.percentile_ms == pytest.approx(1000 * math.log(100) / 80, rel=0.08)


@pytest.mark.parametrize("rate", [60.0, 140.0])
def test_fixed_services_wait_as_pollaczek_and_khinchine_say(rate: float) -> None:
    load_ = rate * 0.005
    found = alone(served(rate=rate), [5.0])
    assert found.mean_ms == pytest.approx(5.0 + load_ * 5.0 / (2 * (1 - load_)), rel=0.03)


@pytest.mark.parametrize(
    ("service_ms", "cv", "rate"),
    [
        ([5.0, 6.0, 7.0, 8.0], 0.0, 300.0),
        ([5.0, 6.0, 7.0, 8.0], 0.3, 400.0),
        ([3.0 + 0.5 * n for n in range(1, 17)], 0.1, 1000.0),
        ([2.0 * n for n in range(1, 9)], 0.2, 250.0),
    ],
)
def test_batches_wait_as_the_queueing_estimate_says(
    service_ms: list[float], cv: float, rate: float
) -> None:
    found = alone(served(batch=len(service_ms), rate=rate, cv=cv), service_ms)
    wanted = request_latency(np.array(service_ms), cv, rate, "poisson", (50.0, 99.0))
    assert found.mean_ms == pytest.approx(wanted.mean_ms, rel=0.02)
    assert found.p50_ms == pytest.approx(wanted.quantiles_ms[50.0], rel=0.02)
    assert found.percentile_ms == pytest.approx(wanted.quantiles_ms[99.0], rel=0.05)
    assert found.percentile_low_ms <= wanted.quantiles_ms[99.0] <= found.percentile_high_ms
    assert found.mean_batch == pytest.approx(wanted.mean_batch, rel=0.02)


def test_constant_arrivals_wait_as_the_queueing_estimate_says() -> None:
    service_ms = [4.0, 5.0, 6.0]
    found = alone(served(batch=3, rate=400.0, cv=0.2, arrival="constant"), service_ms)
    wanted = request_latency(np.array(service_ms), 0.2, 400.0, "constant", (50.0, 99.0))
    assert found.p50_ms == pytest.approx(wanted.quantiles_ms[50.0], rel=0.03)
    assert found.percentile_ms == pytest.approx(wanted.quantiles_ms[99.0], rel=0.05)


# --- verdicts ---------------------------------------------------------------------------------


def test_a_verdict_is_only_given_where_noise_cannot_have_made_it() -> None:
    service_ms = [5.0, 6.0, 7.0, 8.0]
    p99 = request_latency(np.array(service_ms), 0.2, 400.0, "poisson", (99.0,)).quantiles_ms[99.0]
    conduct = simulation.Conduct()

    def verdicts(slo_ms: float) -> set[str]:
        of = served(batch=4, rate=400.0, cv=0.2, slo_ms=slo_ms)
        return {alone(of, service_ms, replace(conduct, seed=k)).verdict for k in range(6)}

    assert "missed" not in verdicts(p99 * 1.01)
    assert "kept" not in verdicts(p99 * 0.99)
    assert verdicts(p99 * 1.5) == {"kept"}
    assert verdicts(p99 * 0.6) == {"missed"}


def test_open_verdicts_ask_for_more_seeds() -> None:
    conduct = simulation.Conduct(window_s=2.0, least_seeds=1, most_seeds=5)
    quick = alone(served(slo_ms=1000.0, percentile=50.0), [1.0], conduct)
    assert quick.verdict == "kept"
    assert quick.requests < 250
    close = alone(served(slo_ms=1.0, percentile=90.0), [1.0], conduct)  # who waits at all is late
    assert close.verdict == "open"
    assert close.requests > 900


def test_few_requests_prove_little() -> None:
    none_late = np.zeros(100, dtype=bool)
    low, high = simulation.share_interval(none_late, np.arange(100) // 10)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert high > 0.05  # (1 - 0.05)^100 is still 0.6%
    assert simulation.share_interval(~none_late, np.arange(100) // 10)[1] == pytest.approx(1.0)


def test_an_interval_knows_that_lateness_comes_in_runs() -> None:
    block = np.arange(10_000) // 1000
    even = np.arange(10_000) % 20 == 0
    in_a_row = np.arange(10_000) < 500
    assert even.mean() == in_a_row.mean()
    narrow, wide = (simulation.share_interval(hit, block) for hit in (even, in_a_row))
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


# --- events by hand ---------------------------------------------------------------------------


def test_a_batch_slows_down_while_a_neighbour_is_busy() -> None:
    # alone 10, both busy 20: a starts at 0, b at 5 with half of a done; a needs 10 more, b then
    # has 10 of its 20 done and the rest alone takes 5
    def durations(executing: tuple[int, ...]) -> list[float]:
        return [20.0, 20.0] if all(executing) else [10.0, 10.0]

    first, second = simulation.serve([[0.0], [5.0]], [1, 1], [[1.0], [1.0]], durations)
    assert first.ends_ms == pytest.approx([15.0])
    assert second.ends_ms == pytest.approx([20.0])


def test_a_factor_stretches_the_whole_batch() -> None:
    def durations(executing: tuple[int, ...]) -> list[float]:
        return [20.0, 20.0] if all(executing) else [10.0, 10.0]

    first, second = simulation.serve([[0.0], [5.0]], [1, 1], [[2.0], [0.5]], durations)
    # a: 5 of 20 done, then half speed; b: 5 of work at half speed until 15; then a alone
    assert second.ends_ms == pytest.approx([15.0])
    assert first.ends_ms == pytest.approx([25.0])


def test_a_free_tenant_takes_what_waits_and_no_more_than_its_batch() -> None:
    arrivals = [0.0, 1.0, 2.0, 3.0, 4.0, 30.0]
    (done,) = simulation.serve([arrivals], [3], [[1.0] * 6], lambda executing: [5.0])
    assert done.sizes == [1, 3, 1, 1]
    assert done.ends_ms == [5.0, 10.0, 15.0, 35.0]
    assert simulation.latencies_ms(np.array(arrivals), done, [0.0] * 3).tolist() == [
        5,
        9,
        8,
        7,
        11,
        5,
    ]


def test_a_queue_delay_holds_back_until_it_is_over_or_the_batch_is_full() -> None:
    arrivals = [0.0, 1.0, 20.0, 20.5, 21.0, 40.0]
    (done,) = simulation.serve([arrivals], [3], [[1.0] * 6], lambda executing: [5.0], [2.0])
    assert done.sizes == [2, 3, 1]
    assert done.ends_ms == pytest.approx([7.0, 26.0, 47.0])


instants = st.lists(st.floats(0.0, 50.0), max_size=30).map(sorted)


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(instants, min_size=1, max_size=4),
    largest=st.integers(1, 5),
    delay_ms=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_every_request_is_served_once_in_order_and_never_too_fast(
    arrivals: list[list[float]], largest: int, delay_ms: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    factors = [draw.uniform(0.5, 2.0, len(own)).tolist() for own in arrivals]

    def durations(executing: tuple[int, ...]) -> list[float]:
        return [2.0 * own + sum(executing) for own in executing]

    count = len(arrivals)
    done = simulation.serve(arrivals, [largest] * count, factors, durations, [delay_ms] * count)
    for own, batches, stretched in zip(arrivals, done, factors, strict=True):
        assert sum(batches.sizes) == len(own)
        assert all(1 <= size <= largest for size in batches.sizes)
        first, free = 0, 0.0
        for size, end, factor in zip(batches.sizes, batches.ends_ms, stretched, strict=False):
            began = max(free, own[first + size - 1])  # at the earliest
            assert end >= began + 3.0 * size * factor - 1e-6
            # beside all others with full batches, at the latest
            held = max(free, own[first] + delay_ms)
            assert end <= held + (2.0 * size + largest * count) * factor + 1e-6
            first, free = first + size, end


# --- arrivals, rooms, runs --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrival", "square"), [("constant", 0.0), ("poisson", 1.0), ("bursty", 4)]
)
def test_arrivals_have_their_rate_and_their_burstiness(arrival: str, square: float) -> None:
    of = served(rate=200.0, arrival=arrival, burstiness=4.0 if arrival == "bursty" else None)
    instants_ms = simulation.arrivals_ms(of, 500_000.0, np.random.default_rng(1))
    gaps = np.diff(instants_ms)
    assert (gaps >= 0).all()
    assert instants_ms[-1] < 500_000.0
    assert len(instants_ms) == pytest.approx(100_000, rel=0.03)
    assert (gaps.std() / gaps.mean()) ** 2 == pytest.approx(square, rel=0.05, abs=1e-6)


def test_bursty_arrivals_need_a_burstiness() -> None:
    with pytest.raises(BadInput, match="burstiness"):
        alone(served(arrival="bursty"), [1.0], SHORT)


def test_more_bursty_arrivals_wait_longer() -> None:
    calm, bursty = (
        alone(served(rate=120.0, arrival="bursty", burstiness=of), [5.0], SHORT).percentile_ms
        for of in (1.0, 4.0)
    )
    assert bursty > 1.3 * calm


def beside(pressure: float = 0.2, count: int = 3) -> list[Any]:
    service_ms = [4.0, 5.0, 6.0, 7.0]
    return [
        simulation.Room(
            f"device-{number}",
            tuple(served(f"w{number}{k}", batch=4, rate=120.0, cv=0.1) for k in range(2)),
            Known(service_ms, pressure),
        )
        for number in range(count)
    ]


def test_the_same_seed_gives_the_same_answer_in_any_number_of_processes() -> None:
    once = simulation.simulate(beside(), SHORT)
    assert simulation.simulate(beside(), SHORT, processes=2) == once
    assert [each.device for each in once] == [f"device-{k}" for k in (0, 0, 1, 1, 2, 2)]
    assert simulation.simulate(beside(), replace(SHORT, seed=1)) != once


def test_neighbours_that_are_always_busy_are_the_upper_side() -> None:
    busy, always = (
        simulation.simulate(beside(), replace(SHORT, neighbours=which))
        for which in ("busy", "always")
    )
    none = simulation.simulate(beside(pressure=0.0), SHORT)
    for least, between, most in zip(none, busy, always, strict=True):
        assert least.mean_ms < between.mean_ms < most.mean_ms
        assert least.percentile_ms < between.percentile_ms < most.percentile_ms


def test_always_is_what_the_queueing_estimate_assumes() -> None:
    room = beside()[0]
    conduct = replace(LONG, neighbours="always")
    service_ms = np.array([4.0, 5.0, 6.0, 7.0]) * (1 + 0.2 * 4)
    wanted = request_latency(service_ms, 0.1, 120.0, "poisson", (99.0,))
    for found in simulation.simulate([room], conduct):
        assert found.mean_ms == pytest.approx(wanted.mean_ms, rel=0.03)
        assert found.percentile_ms == pytest.approx(wanted.quantiles_ms[99.0], rel=0.05)


class Loaded(Known):
    """A batch of n takes 2 ms + n, of which n are loading."""

    def __init__(self) -> None:
        super().__init__([3.0, 4.0])

    def predict(self, cells: Sequence[Sequence[Tenant]]) -> list[list[Prediction]]:
        return [
            [
                Prediction(
                    latency_ms=2.0 + tenant.batch_size,
                    latency_low_ms=0.1,
                    latency_high_ms=100.0,
                    throughput_rps=1000.0 * tenant.batch_size / 2.0,
                    cv=0.0,
                )
                for tenant in cell
            ]
            for cell in cells
        ]


def test_loading_may_overlap_with_the_batch_before() -> None:
    # one request every 2.5 ms: a batch of it takes 3, one of which may overlap
    room = simulation.Room("d", (served(batch=2, rate=400.0, arrival="constant"),), Loaded())
    serial, overlapped = (
        simulation.simulate([room], replace(SHORT, loading=how))[0]
        for how in ("serial", "overlapped")
    )
    assert overlapped.mean_batch == 1.0
    assert overlapped.mean_ms == pytest.approx(3.0)
    assert serial.mean_batch > 1.1
    assert serial.mean_ms > 3.5


def planned(**more: Any) -> Plan:
    tenant = {
        "workload": "w",
        "model": "m",
        "batch_size": 2,
        "share_pct": 50,
        "rate_rps": 20,
        "slo_ms": 30,
        "queue_delay_us": 500,
    }
    device = PlanDevice(name="device-1", tenants=(PlanTenant.model_validate({**tenant, **more}),))
    return Plan(strategy="ffd", igprof="0", created_at="now", devices=(device,))


def test_a_plan_becomes_rooms_with_the_spread_of_the_coefficients() -> None:
    (room,) = simulation.rooms(planned(), {None: Known([1.0, 2.0])})
    (of,) = room.tenants
    assert (of.workload, of.rate_rps, of.slo_ms, of.queue_delay_us) == ("w", 20, 30, 500)
    assert of.tenant == Tenant(model="m", batch_size=2, share_pct=50)
    assert of.cv == 0.25
    assert of.arrival == "poisson"
    (room,) = simulation.rooms(planned(), {None: Known([1.0, 2.0])}, arrival="constant")
    assert room.tenants[0].arrival == "constant"


@pytest.mark.parametrize(
    ("more", "complaint"), [({"model": "other"}, "know no model"), ({"instances": 2}, "instances")]
)
def test_what_cannot_be_simulated_is_refused(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        simulation.rooms(planned(**more), {None: Known([1.0, 2.0])})


def test_a_device_type_without_coefficients_is_refused() -> None:
    with pytest.raises(BadInput, match="coefficients"):
        simulation.rooms(planned(), {"v100": Known([1.0])})


def test_a_window_without_requests_says_so() -> None:
    with pytest.raises(BadInput, match="longer"):
        alone(served(rate=0.001), [1.0], SHORT)
