"""Plans on containers: launched, shown, loaded, stopped; or started for an evaluation's time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from igniter_prof.files import write_json
from igniter_prof.records import Plan, PlanDevice, PlanTenant
from tests.integration.docker_engine import PrivateEngine, needs_docker
from tests.integration.test_docker_sweep import igprof

pytestmark = needs_docker


@pytest.fixture
def plan(on_engine: PrivateEngine, tmp_path: Path) -> Path:
    tenants = tuple(
        PlanTenant(workload=name, model="mlp", batch_size=2, share_pct=50, rate_rps=20, slo_ms=5000)
        for name in ("one", "two")
    )
    made = Plan(
        strategy="by hand",
        igprof="0",
        created_at="2026-01-01T00:00:00+00:00",
        devices=(PlanDevice(name="cpu-1", tenants=tenants),),
    )
    write_json(tmp_path / "plan.json", made)
    return tmp_path / "plan.json"


def test_a_launched_plan_runs_on_until_it_is_stopped(on_engine: PrivateEngine, plan: Path) -> None:
    igprof("launch", plan, "--runtime", "docker", "--on", "cpu")
    try:
        assert len(on_engine.containers()) == 2
        rows = json.loads(igprof("status", plan, "--json").stdout)
        assert "crashed" not in json.dumps(rows)
        result = plan.with_name("result.json")
        igprof("evaluate", plan, "--out", result, "--duration", 2)
        found = json.loads(result.read_text())
        assert [each["status"] for each in found["workloads"]] == ["ok", "ok"]
        assert found["conditions"]["runtime"] == "docker"
        assert found["conditions"]["image"].startswith("sha256:")
        assert found["conditions"]["triton"] == "2.51.0"
        assert len(on_engine.containers()) == 2
        on_engine.docker("kill", on_engine.containers()[0])
        told = igprof("status", plan, "--json").stdout
        assert "ended by SIGKILL" in told
    finally:
        igprof("stop", plan)
    assert on_engine.containers() == []


def test_an_evaluation_starts_containers_for_its_time(on_engine: PrivateEngine, plan: Path) -> None:
    result = plan.with_name("result.json")
    igprof(
        *("evaluate", plan, "--out", result, "--duration", 2),
        *("--runtime", "docker", "--on", "cpu"),
    )
    found = json.loads(result.read_text())
    assert found["slo_met"] is True
    assert found["conditions"]["runtime"] == "docker"
    assert found["conditions"]["image"].startswith("sha256:")
