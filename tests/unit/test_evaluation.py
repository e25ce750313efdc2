from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from igniter_prof.errors import BadInput
from igniter_prof.evaluation import evaluate, judge, loads_of, run
from igniter_prof.records import (
    MEASURED,
    REQUEST_DTYPE,
    WARMUP,
    Device,
    Load,
    Plan,
    PlanDevice,
    PlanTenant,
    Stopping,
)
from igniter_prof.serving import ServeOptions, TenantFailure
from igniter_prof.session import Observed, Window
from tests.kserve import FakeDeployment, KServe, kserve

DEVICES = [Device(id=f"cpu:{core}", kind="cpu", name="a CPU", cores=(core,)) for core in range(2)]
STOPPING = Stopping(warmup_s=0.1, warmup_requests=2, cooldown_s=0, request_timeout_s=5)


def _tenant(name: str = "w", **changes: Any) -> PlanTenant:
    fields: dict[str, Any] = {
        "workload": name,
        "model": "net",
        "batch_size": 4,
        "share_pct": 50,
        "rate_rps": 50,
        "slo_ms": 10,
        "percentile": 99,
    }
    return PlanTenant(**{**fields, **changes})


def _rows(latency_ms: list[float], *, sent_late_ms: float = 0.0, failed: int = 0) -> np.ndarray:
    found = np.zeros(len(latency_ms) + 1, REQUEST_DTYPE)
    found["intended_ns"] = np.arange(len(found)) * 1_000_000
    found["sent_ns"] = found["intended_ns"] + int(sent_late_ms * 1e6)
    found["done_ns"] = found["intended_ns"] + (np.array([0.0, *latency_ms]) * 1e6).astype("i8")
    found["phase"] = MEASURED
    found["phase"][0] = WARMUP
    found["ok"] = 1
    found["ok"][1 : 1 + failed] = 0
    return found


def test_latency_counts_from_the_intended_instant() -> None:
    seen = Observed(rows=_rows([8.0] * 100, sent_late_ms=5.0), status="ok")
    result = judge(_tenant(), "d", seen, 1000, 10 * 10**9)
    assert result.latency is not None
    assert result.latency_sent is not None
    assert result.latency.mean_ms == pytest.approx(8.0)
    assert result.latency_sent.mean_ms == pytest.approx(3.0)
    assert result.lagged_pct == 100.0
    assert result.throughput_rps == pytest.approx(10.0, rel=1e-3)


@pytest.mark.parametrize(
    ("slow", "failed", "met"),
    [(0, 0, True), (1, 0, True), (2, 0, False), (0, 1, True), (1, 1, False)],
)
def test_the_slo_is_met_if_few_enough_are_late_or_failed(slow: int, failed: int, met: bool) -> None:
    latency_ms = [5.0] * (100 - slow) + [20.0] * slow
    result = judge(_tenant(), "d", Observed(_rows(latency_ms, failed=failed), "ok"), 1000, 10**9)
    assert result.slo_met is met
    assert result.violations_pct == pytest.approx(slow + failed)
    assert result.failed_requests == failed
    assert result.goodput_rps == pytest.approx(100 - slow - failed, rel=1e-3)


def test_exactly_the_allowed_violations_meet_the_slo() -> None:
    seen = Observed(_rows([5.0] * 999 + [20.0]), "ok")
    assert judge(_tenant(percentile=99.9), "d", seen, 1000, 2 * 10**9).slo_met is True


def test_throughput_is_what_was_answered_in_time_and_not_what_was_offered() -> None:
    # a server that needs 4 s for the requests of 1 s
    seen = Observed(_rows([index * 4.0 for index in range(1000)]), "ok")
    result = judge(_tenant(), "d", seen, 1000, 10**9)
    assert result.requests == 1000
    assert result.throughput_rps == pytest.approx(200, rel=0.05)


def test_a_failed_tenant_misses_its_slo() -> None:
    seen = Observed(np.zeros(0, REQUEST_DTYPE), status="oom", detail="killed")
    result = judge(_tenant(), "d", seen, None, None)
    assert (result.status, result.slo_met, result.latency) == ("oom", False, None)


def test_no_request_in_the_window_is_no_success() -> None:
    result = judge(_tenant(), "d", Observed(np.zeros(0, REQUEST_DTYPE), "ok"), 0, 10**9)
    assert result.slo_met is False
    assert "no request" in (result.detail or "")


def test_loads_are_the_planned_open_loops() -> None:
    device = PlanDevice(name="d", tenants=(_tenant(arrival="constant", rate_rps=7),))
    (load,) = loads_of(device)
    assert (load.kind, load.rate_rps) == ("constant", 7)
    device = PlanDevice(name="d", tenants=(_tenant(arrival="bursty", burstiness=4, rate_rps=7),))
    assert loads_of(device) == [Load(kind="bursty", rate_rps=7, burstiness=4)]


def test_bursty_arrivals_of_unknown_burstiness_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "deploy", None)
    with pytest.raises(BadInput, match="'w' has bursty arrivals without"):
        _evaluate(_plan((_tenant(),), (_tenant(arrival="bursty"),)), 1)


@pytest.fixture
def server() -> Iterator[KServe]:
    with kserve() as one:
        one.service_s = lambda: 0.002
        yield one


def _plan(*devices: tuple[PlanTenant, ...]) -> Plan:
    return Plan(
        strategy="test",
        igprof="0",
        created_at="2026-01-01",
        devices=tuple(
            PlanDevice(name=f"device-{index}", tenants=tenants)
            for index, tenants in enumerate(devices)
        ),
    )


def _evaluate(plan: Plan, count: int, **changes: Any) -> Any:
    return evaluate(
        plan,
        [DEVICES[index % count] for index in range(len(plan.devices))],
        ServeOptions(),
        launched=False,
        duration_s=0.6,
        stopping=STOPPING,
        **changes,
    )


def test_a_plan_for_two_devices_is_evaluated_in_turn_on_one(
    server: KServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def deploy(device: Device, tenants: Any, *, options: ServeOptions) -> Any:
        used.append(device.id)
        assert [tenant.batch_size for tenant in tenants] == [4]
        assert [tenant.queue_delay_us for tenant in tenants] == [0]
        return contextlib.nullcontext(FakeDeployment([server], tenants))

    monkeypatch.setattr(run, "deploy", deploy)
    plan = _plan((_tenant("a"),), (_tenant("b"),))
    result = _evaluate(plan, 1)
    assert used == ["cpu:0", "cpu:0"]
    assert [each.workload for each in result.workloads] == ["a", "b"]
    assert any("in turn" in note for note in result.notes)
    assert result.plan_hash == plan.digest()
    # a request of a workload is one inference, whatever the planned batch
    assert all(each.requests > 10 for each in result.workloads)
    used.clear()
    assert not any("in turn" in note for note in _evaluate(plan, 2).notes)
    assert sorted(used) == ["cpu:0", "cpu:1"]


def test_devices_are_loaded_at_once_and_judged_apart(
    server: KServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kserve() as other:
        other.service_s = lambda: 0.02
        servers = {"cpu:0": server, "cpu:1": other}
        monkeypatch.setattr(
            run,
            "deploy",
            lambda device, tenants, *, options: contextlib.nullcontext(
                FakeDeployment([servers[device.id]], tenants)
            ),
        )
        slow = _tenant("b", slo_ms=15, rate_rps=20)
        result = _evaluate(_plan((_tenant("a", slo_ms=500),), (slow,)), 2)
    assert [(each.workload, each.device) for each in result.workloads] == [
        ("a", "device-0"),
        ("b", "device-1"),
    ]
    assert [each.slo_met for each in result.workloads] == [True, False]


def test_a_tenant_that_does_not_start_is_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def deploy(device: Device, tenants: Any, *, options: ServeOptions) -> Any:
        raise TenantFailure(1, "crashed", "no such file")
        yield

    monkeypatch.setattr(run, "deploy", deploy)
    result = _evaluate(_plan((_tenant("a"), _tenant("b"))), 1)
    assert [each.status for each in result.workloads] == ["invalid", "crashed"]
    assert result.slo_met is False


def test_replicas_are_judged_apart_and_what_is_left_out_is_said(
    server: KServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kserve() as other:
        other.service_s = lambda: 0.03
        servers = {"cpu:0": server, "cpu:1": other}
        monkeypatch.setattr(
            run,
            "deploy",
            lambda device, tenants, *, options: contextlib.nullcontext(
                FakeDeployment([servers[device.id]], tenants)
            ),
        )
        replicas = [
            _tenant(f"w.{k}", replica_of="w", rate_rps=rate_rps, slo_ms=slo_ms)
            for k, rate_rps, slo_ms in ((1, 60, 500), (2, 20, 15))
        ]
        plan = _plan(*((each,) for each in replicas)).model_copy(update={"left_out": ("idle",)})
        result = _evaluate(plan, 2)
    first, second = result.workloads
    assert (first.workload, first.slo_met) == ("w.1", True)
    assert (second.workload, second.slo_met) == ("w.2", False)
    assert first.requests > 1.5 * second.requests > 0
    assert any(note.endswith("leaves out, and so this evaluation: idle") for note in result.notes)


def test_devices_take_turns_on_the_real_ones_that_they_share(
    server: KServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[list[str]] = []
    monkeypatch.setattr(
        run,
        "deploy",
        lambda device, tenants, *, options: contextlib.nullcontext(
            FakeDeployment([server], tenants)
        ),
    )

    def load(running: Any, *_: Any) -> Window:
        turns.append([planned.name for planned, _ in running])
        ended = Observed(np.zeros(0, REQUEST_DTYPE), "oom")
        return Window((ended,) * len(running), None, None)

    monkeypatch.setattr(run, "_load", load)
    plan = _plan(*((_tenant(name),) for name in "abcd"))
    real = [DEVICES[0], DEVICES[0], DEVICES[1], DEVICES[0]]
    result = evaluate(plan, real, ServeOptions(), launched=False, duration_s=1, stopping=STOPPING)
    assert turns == [["device-0", "device-2"], ["device-1"], ["device-3"]]
    assert [each.workload for each in result.workloads] == ["a", "b", "c", "d"]
    assert any("4 devices were evaluated in turn on 2 (cpu:0, cpu:1)" in n for n in result.notes)


def test_bursts_ask_for_more_requests(server: KServe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run,
        "deploy",
        lambda device, tenants, *, options: contextlib.nullcontext(
            FakeDeployment([server] * len(tenants), tenants)
        ),
    )
    seen = Observed(_rows([5.0] * 700), "ok")
    monkeypatch.setattr(run, "_load", lambda *_: Window((seen, seen), 1000, 10**9))
    bursty = _tenant("b", arrival="bursty", burstiness=4)
    notes = _evaluate(_plan((_tenant("a"), bursty)), 1).notes
    assert [note for note in notes if "few" in note] == [
        "b: 700 requests are few for a p99 (2648 are the least); evaluate longer"
    ]


def test_few_requests_are_noted(server: KServe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        run,
        "deploy",
        lambda device, tenants, *, options: contextlib.nullcontext(
            FakeDeployment([server], tenants)
        ),
    )
    result = _evaluate(_plan((_tenant("a"),)), 1)
    assert any("few for a p99" in note for note in result.notes)
