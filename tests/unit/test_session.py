from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from igniter_prof.dataset.conditions import disagreements
from igniter_prof.errors import OutsideFailure
from igniter_prof.load import InputSource, generators
from igniter_prof.monitors import TritonApi
from igniter_prof.records import (
    AFTER,
    MEASURED,
    REQUEST_DTYPE,
    WARMUP,
    Cell,
    ColdStart,
    Device,
    Endpoint,
    Load,
    Stopping,
    Tenant,
    Usage,
)
from igniter_prof.serving import ServeOptions, TenantFailure
from igniter_prof.session import CellContext, Window, come_to_rest, measure, run_cell, surroundings
from igniter_prof.session import cell as cell_module
from igniter_prof.session.cell import cold_start
from igniter_prof.session.measuring import _phased, usage_between
from igniter_prof.session.surroundings import conditions_of
from igniter_prof.statistics import latencies_ms, summarise
from tests.kserve import FakeDeployment, KServe, kserve

DEVICE = Device(id="cpu:0", kind="cpu", name="a CPU", cores=(0,))
QUICK = Stopping(
    precision_pct=50,
    max_drift_pct=1000,
    min_s=0.3,
    max_s=2,
    min_requests=10,
    warmup_requests=3,
    warmup_s=0.1,
    cooldown_s=0,
    request_timeout_s=5,
    start_timeout_s=5,
)


@pytest.fixture
def two() -> Iterator[tuple[KServe, KServe]]:
    with kserve() as first, kserve() as second:
        yield first, second


def _measure(deployment: FakeDeployment, **changes: Any) -> Window:
    count = len(deployment.endpoints)
    arguments: dict[str, Any] = {
        "loads": [Load()] * count,
        "sources": [InputSource()] * count,
        "protocol": "http",
        "stopping": QUICK,
        "cores": (),
        "seed": 0,
    }
    with generators(count) as clients:
        return measure(deployment, clients, **{**arguments, **changes})


def test_only_the_time_in_which_all_are_loaded_counts(two: tuple[KServe, KServe]) -> None:
    _, second = two
    second.service_s = lambda: 0.02
    window = _measure(FakeDeployment(two, [Tenant(model="a"), Tenant(model="b")]))
    assert window.start_ns is not None
    assert window.end_ns is not None
    for server, seen in zip(two, window.tenants, strict=True):
        assert seen.status == "ok"
        counted = seen.rows[seen.rows["phase"] == MEASURED]
        assert (counted["sent_ns"] >= window.start_ns).all()
        assert (counted["sent_ns"] < window.end_ns).all()
        assert (seen.rows["phase"] == WARMUP).sum() >= QUICK.warmup_requests
        # every request meant for the window was awaited
        assert (
            len(counted)
            == (
                (seen.rows["intended_ns"] >= window.start_ns)
                & (seen.rows["intended_ns"] < window.end_ns)
            ).sum()
        )
        # ... while this server was still loaded
        last_counted = max(
            each.rows[each.rows["phase"] == MEASURED]["done_ns"].max() for each in window.tenants
        )
        assert max(end for _, end in server.seen_ns) >= last_counted - 40e6
        assert (seen.rows["phase"] == AFTER).any() or server is second
    latency_ms = latencies_ms(window.tenants[1].rows)
    assert latency_ms.min() >= 20
    assert np.median(latency_ms) < 40


def test_server_times_and_usage_are_those_of_the_window(two: tuple[KServe, KServe]) -> None:
    deployment = FakeDeployment(two[:1], [Tenant(model="a", batch_size=2)])
    (seen,) = _measure(deployment).tenants
    assert seen.server_times is not None
    assert seen.server_times.executed_batch == 2.0
    assert seen.server_times.queue_ms == pytest.approx(1.0)
    counted = int((seen.rows["phase"] == MEASURED).sum())
    assert abs(seen.server_times.executions - counted) <= 25
    assert seen.usage == Usage(cpu_s=1.0, oom_kills=0)
    assert seen.shapes == {"x": (2, 4)}


def test_usage_is_read_next_to_the_window(
    two: tuple[KServe, KServe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics take a request each: what they take is no part of the window's CPU time."""
    asked: list[str] = []
    real = TritonApi.statistics
    monkeypatch.setattr(
        TritonApi, "statistics", lambda self: asked.append("statistics") or real(self)
    )
    deployment = FakeDeployment(two, [Tenant(model="a"), Tenant(model="b")])
    usage = deployment.usage
    monkeypatch.setattr(deployment, "usage", lambda index: asked.append("usage") or usage(index))
    _measure(deployment, duration_s=0.3)
    assert asked == [*["statistics"] * 2, *["usage"] * 4, *["statistics"] * 2]


def test_a_given_duration_is_kept_whatever_the_precision(two: tuple[KServe, KServe]) -> None:
    deployment = FakeDeployment(two[:1], [Tenant(model="a")])
    window = _measure(
        deployment,
        loads=[Load(kind="poisson", rate_rps=40)],
        duration_s=1.0,
        stopping=QUICK.model_copy(update={"precision_pct": 0.001}),
    )
    assert window.duration_s == pytest.approx(1.0, abs=0.2)
    (seen,) = window.tenants
    assert 20 <= (seen.rows["phase"] == MEASURED).sum() <= 65
    assert seen.stable is False


def test_what_is_not_precise_enough_stops_at_the_limit_and_says_so(
    two: tuple[KServe, KServe],
) -> None:
    deployment = FakeDeployment(two[:1], [Tenant(model="a")])
    stopping = QUICK.model_copy(update={"precision_pct": 0.0001, "max_s": 0.8})
    (seen,) = _measure(deployment, stopping=stopping).tenants
    assert seen.status == "ok"
    assert seen.stable is False
    assert "limit" in (seen.verdict or "")


def test_a_start_that_drifts_is_left_out(two: tuple[KServe, KServe]) -> None:
    server = two[0]
    began = time.monotonic()
    # slow for the first second, as with a cold cache
    server.service_s = lambda: 0.02 if time.monotonic() - began < 1.2 else 0.005
    stopping = QUICK.model_copy(
        update={"precision_pct": 10, "max_drift_pct": 20, "min_s": 0.3, "max_s": 8.0}
    )
    (seen,) = _measure(FakeDeployment([server], [Tenant(model="a")]), stopping=stopping).tenants
    assert seen.stable, seen.verdict
    # either the slow start was measured on its own before the change, or it was forgotten
    latency_ms = latencies_ms(seen.rows)
    assert latency_ms.std() / latency_ms.mean() < 0.5


def test_a_tenant_that_ends_makes_its_neighbours_invalid(two: tuple[KServe, KServe]) -> None:
    deployment = FakeDeployment(two, [Tenant(model="a"), Tenant(model="b")])

    def service_s() -> float:
        if two[1].executions > 100:
            deployment.endings[1] = ("oom", "killed")
        return 0.004

    two[1].service_s = service_s
    stopping = QUICK.model_copy(update={"precision_pct": 0.0001, "max_s": 5.0})
    window = _measure(deployment, stopping=stopping)
    assert [seen.status for seen in window.tenants] == ["invalid", "oom"]
    assert "b" in (window.tenants[0].detail or "")
    assert len(window.tenants[0].rows) > 0  # what was seen is kept
    assert window.end_ns is None


def test_refused_requests_are_a_status(two: tuple[KServe, KServe]) -> None:
    two[0].status = 400
    (seen,) = _measure(FakeDeployment(two[:1], [Tenant(model="a")])).tenants
    assert seen.status == "refused"
    assert "400" in (seen.detail or "")


def test_a_tenant_that_never_answers_times_out(two: tuple[KServe, KServe]) -> None:
    two[0].service_s = lambda: 3.0
    stopping = QUICK.model_copy(update={"start_timeout_s": 0.5})
    (seen,) = _measure(FakeDeployment(two[:1], [Tenant(model="a")]), stopping=stopping).tenants
    assert seen.status == "timeout"
    assert "warm-up" in (seen.detail or "")


def test_a_backend_that_dies_in_the_window_is_no_success(two: tuple[KServe, KServe]) -> None:
    deployment = FakeDeployment(two[:1], [Tenant(model="a")])

    def service_s() -> float:
        if two[0].executions > 100:
            two[0].status = 500
        return 0.004

    two[0].service_s = service_s
    stopping = QUICK.model_copy(update={"precision_pct": 0.0001, "max_s": 5.0})
    (seen,) = _measure(deployment, stopping=stopping).tenants
    assert seen.status == "crashed"
    assert "500" in (seen.detail or "")
    assert seen.rows["ok"].any()  # what it answered before is kept


def test_statistics_that_are_not_told_cost_only_themselves(
    two: tuple[KServe, KServe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: TritonApi) -> Any:
        raise OutsideFailure("does not answer")

    monkeypatch.setattr(TritonApi, "statistics", silent)
    (seen,) = _measure(FakeDeployment(two[:1], [Tenant(model="a")])).tenants
    assert seen.status == "ok"
    assert seen.server_times is None


@pytest.mark.parametrize("answer", [{}, {"model_stats": None}, {"model_stats": ["x"]}])
def test_statistics_that_are_not_tritons_are_none(
    answer: Any, two: tuple[KServe, KServe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TritonApi, "_get", lambda self, path: answer)
    api = TritonApi(FakeDeployment(two[:1], [Tenant(model="a")]).endpoints[0])
    with pytest.raises(OutsideFailure, match="not Triton's"):
        api.statistics()


def test_a_server_that_tells_nothing_of_its_model_is_a_result(
    two: tuple[KServe, KServe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: TritonApi) -> Any:
        raise OutsideFailure("does not answer")

    monkeypatch.setattr(TritonApi, "metadata", silent)
    with pytest.raises(TenantFailure) as caught:
        _measure(FakeDeployment(two[:1], [Tenant(model="a")]))
    assert caught.value.status == "timeout"


def test_what_an_overloaded_server_never_answers_has_failed(two: tuple[KServe, KServe]) -> None:
    deployment = FakeDeployment(two[:1], [Tenant(model="a")])
    two[0].service_s = lambda: 0.05  # 20/s
    load = Load(kind="constant", rate_rps=200)
    stopping = QUICK.model_copy(update={"request_timeout_s": 0.5})
    (seen,) = _measure(deployment, loads=[load], stopping=stopping, duration_s=1.0).tenants
    if seen.status == "ok":
        counted = seen.rows[seen.rows["phase"] == MEASURED]
        assert 190 <= len(counted) <= 215  # all that were meant for the second
        assert (counted["ok"] == 0).sum() > 100
    else:
        assert seen.status == "timeout"


def _cell(**changes: Any) -> Cell:
    return Cell(**{"device": "cpu:0", "tenants": (Tenant(model="a", batch_size=2),), **changes})


def _context() -> CellContext:
    return CellContext(device=DEVICE, options=ServeOptions(), stopping=QUICK, seed=5)


def test_a_cell_becomes_a_measurement(
    two: tuple[KServe, KServe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deploy(device: Device, tenants: Any, *, options: ServeOptions) -> Any:
        return contextlib.nullcontext(FakeDeployment(two[:1], tenants))

    monkeypatch.setattr(cell_module, "deploy", deploy)
    cell = _cell()
    measurement, (rows,), _ = run_cell(cell, _context())
    (tenant,) = measurement.tenants
    assert measurement.cell_id == cell.cell_id
    assert tenant.status == "ok"
    assert tenant.latency is not None
    assert tenant.latency.count == (rows["phase"] == MEASURED).sum()
    assert tenant.latency_intended is None  # a closed loop has no intended instants
    assert tenant.throughput_rps == pytest.approx(2 * 1000 / tenant.latency.mean_ms, rel=0.3)
    assert measurement.conditions.triton == "0.0-stand-in"
    assert measurement.window_start_ns is not None


def test_a_tenant_that_cannot_start_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def deploy(device: Device, tenants: Any, *, options: ServeOptions) -> Any:
        raise TenantFailure(0, "oom", "killed by its memory cap")

    monkeypatch.setattr(cell_module, "deploy", deploy)
    cell = _cell(tenants=(Tenant(model="a"), Tenant(model="b")))
    measurement, rows, _ = run_cell(cell, _context())
    assert [tenant.status for tenant in measurement.tenants] == ["oom", "invalid"]
    assert measurement.tenants[0].latency is None
    assert [len(part) for part in rows] == [0, 0]


@pytest.mark.parametrize("host", ["10.0.0.5", "localhost"])
def test_what_did_not_start_elsewhere_says_nothing_of_this_host(host: str) -> None:
    there = Device(id=f"cpu:0-7@{host}", kind="cpu", name="x86_64 of there", cores=tuple(range(8)))
    found = conditions_of(None, there, "docker")
    assert found.runtime == "docker"
    assert (found.os, found.kernel, found.cpu_model, found.cpu_count) == (None,) * 4
    # it may stand beside a cell of which the engine there told
    assert disagreements([found, found.model_copy(update={"cpu_count": 8})]) == {}
    assert conditions_of(None, DEVICE).cpu_count == os.cpu_count()


def test_a_device_elsewhere_is_not_seen_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def busy(cores: tuple[int, ...], over_s: float) -> float:
        asked.append(cores)
        return 0.0

    monkeypatch.setattr(surroundings, "_busy", busy)
    there = DEVICE.model_copy(update={"id": "cpu:0@10.0.0.5"})
    assert (come_to_rest(there, 1.0) or "").startswith("client at rest")
    assert (come_to_rest(DEVICE, 1.0) or "").startswith("at rest")
    assert asked == [(), (0,)]


def _request_rows(latencies_ms: list[float]) -> Any:
    rows = np.zeros(len(latencies_ms), REQUEST_DTYPE)
    rows["sent_ns"] = 1_000_000_000 * np.arange(len(rows))
    rows["done_ns"] = rows["sent_ns"] + (1e6 * np.array(latencies_ms)).astype(np.int64)
    rows["ok"] = 1
    return rows


def test_a_cold_start_ends_with_the_first_steady_inference() -> None:
    tenant = Tenant(model="a")
    endpoint = Endpoint(tenant=tenant, model_name="a", cold_start=ColdStart(create_s=0.5))
    rows = _request_rows([200.0, 40.0, 11.5, 10.5, 9.0, *[10.0] * 50])
    latency = summarise(latencies_ms(_phased(rows.copy(), 0, None)))
    found = cold_start(endpoint, rows[::-1], latency)  # rows come in the order of their ends
    assert found == ColdStart(create_s=0.5, first_ms=200.0, steady_ms=10.0, steady_after=3)
    assert cold_start(endpoint, rows[:0], None) == endpoint.cold_start
    assert cold_start(Endpoint(tenant=tenant, model_name="a"), rows, latency) is None


def test_usage_is_a_difference_of_counters_and_keeps_peaks() -> None:
    before = Usage(cpu_s=1.0, periods=10, throttled_periods=None, memory_peak_mib=5, oom_kills=0)
    after = Usage(cpu_s=3.5, periods=30, throttled_periods=7, memory_peak_mib=9, oom_kills=1)
    assert usage_between(before, after) == Usage(
        cpu_s=2.5, periods=20, throttled_periods=None, memory_peak_mib=9, oom_kills=1
    )
    assert usage_between(None, after) == after
    assert usage_between(before, None) is None
