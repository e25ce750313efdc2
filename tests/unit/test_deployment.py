"""What is launched, by its state files; no server is started here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from igniter_prof import serving
from igniter_prof.cli.status_verb import command as status
from igniter_prof.cli.stop_verb import command as stop_command
from igniter_prof.deployment import (
    Launched,
    all_launched,
    damaged,
    find_launched,
    health,
    stop_all,
    unplanned,
)
from igniter_prof.deployment.launched import LaunchedDevice
from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.files import cache_dir, write_json
from igniter_prof.provisioning import read_plan
from igniter_prof.records import Device, Endpoint, Plan, PlanDevice, PlanTenant, Tenant
from igniter_prof.serving import LaunchedState, cgroup, marks

DEVICE = Device(id="cpu:0", kind="cpu", name="x", cores=(0,))


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(marks, "SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(cgroup, "named", lambda prefix: [])
    monkeypatch.setattr(marks, "marked_processes", lambda prefix: iter(()))


def _running(model: str) -> LaunchedState:
    """Servers as ``serving.launch`` leaves them, without any process."""
    mark = marks.mint(launched=True)
    mark.folder.mkdir()
    state = LaunchedState(
        mark=mark.name,
        started_at="2026-01-01",
        device=DEVICE,
        server="own",
        endpoints=(Endpoint(tenant=Tenant(model=model), model_name=model),),
        servers=(),
        program="tritonserver",
    )
    marks.write_state(mark, {"complete": True, "launched": state.model_dump(mode="json")})
    return state


def _note(name: str, state: LaunchedState) -> Path:
    """The file of a launched plan."""
    path = cache_dir() / "launched" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    device = LaunchedDevice(name="device-0", device=DEVICE, workloads=("w",), state=state)
    write_json(
        path,
        Launched(plan_hash=name, plan_path=f"/{name}", started_at="2026-01-01", devices=(device,)),
    )
    return path


def test_a_damaged_file_keeps_no_other_plan_from_being_seen_and_stopped() -> None:
    whole = _note("a" * 16, _running("a"))
    broken = _note("b" * 16, _running("b"))
    os.truncate(broken, 99)
    assert [each.plan_hash for each in all_launched()] == ["a" * 16]
    assert damaged() == [broken]
    assert [state.endpoints[0].model_name for state in unplanned()] == ["b"]
    assert stop_all() == 2
    assert serving.launched_states() == []
    assert not whole.exists()
    assert not broken.exists()


def test_status_tells_of_damaged_files_and_of_servers_without_a_plan() -> None:
    os.truncate(_note("b" * 16, _running("orphan")), 99)
    shown = CliRunner().invoke(status, [])
    assert shown.exit_code == 0
    assert "is damaged" in shown.output
    assert "no plan knows of: orphan b1" in shown.output
    assert "igprof stop --all" in shown.output
    assert "nothing is launched" not in shown.output
    assert CliRunner().invoke(stop_command, ["--all"]).exit_code == 0
    assert "nothing is launched" in CliRunner().invoke(status, []).output


def test_a_state_without_names_of_workloads_is_read() -> None:
    path = _note("c" * 16, _running("c").model_copy(update={"mark": "igprof-l-of-another-boot"}))
    document = json.loads(path.read_text())
    del document["devices"][0]["workloads"]
    path.write_text(json.dumps(document))
    (row,) = health(all_launched()[0])
    assert (row.workload, row.model, row.status) == ("", "c", "crashed")


def test_a_plan_whose_file_is_damaged_says_how_to_stop_it() -> None:
    plan = Plan(
        strategy="x",
        igprof="0",
        created_at="2026-01-01",
        devices=(
            PlanDevice(
                name="device-0",
                tenants=(
                    PlanTenant(
                        workload="w",
                        model="a",
                        batch_size=1,
                        share_pct=50,
                        rate_rps=1,
                        slo_ms=9,
                    ),
                ),
            ),
        ),
    )
    os.truncate(_note(plan.digest()[:16], _running("a")), 99)
    with pytest.raises(BadInput, match=r"damaged\n.*stop --all"):
        find_launched(plan, "plan.json")


@pytest.mark.parametrize("model", ["../../etc", "/etc", "-v", ""])
def test_a_strangers_plan_names_models_and_no_paths(tmp_path: Path, model: str) -> None:
    tenant = {
        **{"workload": "w", "model": model, "batch_size": 1, "share_pct": 50},
        **{"rate_rps": 1, "slo_ms": 9},
    }
    plan = {"strategy": "x", "igprof": "0", "created_at": "2026-01-01"}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan, "devices": [{"name": "device-0", "tenants": [tenant]}]}))
    with pytest.raises(BadInput, match="model"):
        read_plan(path)


def test_servers_that_cannot_be_stopped_keep_no_others_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = [_running(model) for model in ("a", "b", "c")]
    _note("1", states[0])
    _note("2", states[1])
    stopped = []

    def stop(state: LaunchedState) -> None:
        if state.mark == states[0].mark:
            raise OutsideFailure("the container engine went away")
        stopped.append(state.mark)

    monkeypatch.setattr(serving, "stop", stop)
    with pytest.raises(OutsideFailure, match="engine went away"):
        stop_all()
    assert stopped == [states[1].mark, states[2].mark]
    assert [each.plan_path for each in all_launched()] == ["/1"]  # to be stopped another time


def test_health_leaves_no_connection_to_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Attached:
        open = True

        def ending(self, index: int) -> None:
            raise OutsideFailure("the container engine went away")

        def detach(self) -> None:
            self.open = False

    found = Attached()
    monkeypatch.setattr(serving, "attach", lambda state: found)
    _note("1", _running("a"))
    with pytest.raises(OutsideFailure):
        health(all_launched()[0])
    assert not found.open
