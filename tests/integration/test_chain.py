"""The whole chain through the command line, on a real Triton: as scripts/demo, and with faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.config.devices import resolve_device
from igniter_prof.dataset import ProfileStore
from igniter_prof.records import Tenant
from igniter_prof.serving import ServeOptions, deploy, marks
from tests.integration.local_runtime import needs_local_runtime

pytestmark = needs_local_runtime

QUICK = [
    "--precision",
    "20",
    "--min-time",
    "0.3",
    "--max-time",
    "1",
]


def _igprof(*arguments: Any, status: int = 0, timeout_s: float = 240) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "igniter_prof", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == status, (
        f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    assert "Traceback" not in done.stderr
    return done


def _json(*arguments: Any, status: int = 0) -> Any:
    return json.loads(_igprof(*arguments, "--json", status=status).stdout)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test may leave a server running."""
    before = {pid for pid, _ in marks.marked_processes("igprof-")}
    yield
    deadline = time.monotonic() + 10
    while left := {pid for pid, _ in marks.marked_processes("igprof-")} - before:
        assert time.monotonic() < deadline, f"left running: {left}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of two models, alone and together."""
    folder = tmp_path_factory.mktemp("chain")
    sweep = folder / "sweep.yaml"
    sweep.write_text(
        """
device: cpu:0
models: [mlp, encoder]
batch_sizes: [1, 4]
shares: [50, 100]
colocate: pairs
colocate_shares: [[50, 50]]
colocate_batch_sizes: [4]
stopping: {precision_pct: 20, min_s: 0.3, max_s: 1, min_requests: 10, cooldown_s: 0.5}
baseline_every: 0
"""
    )
    dry = _json("profile", sweep, "--dry-run")
    assert dry["count"] == 2 * 2 * 2 + 1
    summary = _json("profile", sweep, "--out", folder / "profile")
    assert summary["stored"] == dry["count"]
    assert summary["failed_tenants"] == 0
    return folder


def test_from_profile_to_verdict_and_report(profiled: Path) -> None:
    profile, coefficients = profiled / "profile", profiled / "c.json"
    _igprof("dataset", "check", profile)
    assert _json("profile", profiled / "sweep.yaml", "--out", profile)["measured_now"] == 0
    _igprof("fit", profile, "--out", coefficients)

    cells = profiled / "cells.csv"
    cells.write_text(
        "model_1,batch_size_1,share_pct_1,model_2,batch_size_2,share_pct_2\nmlp,2,50,encoder,2,50\nmlp,1,100,,,\n"
    )
    _igprof("predict", coefficients, "--cells", cells, "--out", profiled / "p.csv")
    header, *lines = (profiled / "p.csv").read_text().splitlines()
    assert "latency_low_ms_2" in header
    assert len(lines) == 2

    workloads = profiled / "w.yaml"
    workloads.write_text(
        "workloads:\n"
        "  - {name: fast, model: mlp, rate_rps: 20, slo_ms: 2000}\n"
        "  - {name: slow, model: encoder, rate_rps: 2, slo_ms: 4000}\n"
    )
    plan = profiled / "plan.json"
    planned = _json("plan", coefficients, workloads, "--out", plan)
    assert len(planned["devices"]) == 1
    _igprof("check", plan, coefficients)

    launched = _json("launch", plan)
    try:
        pids = [
            server["pid"] for each in launched["devices"] for server in each["state"]["servers"]
        ]
        assert len(pids) == 2
        assert {tenant["status"] for tenant in _json("status", plan)[0]["tenants"]} == {"ok"}
        assert "launched already" in _igprof("launch", plan, status=2).stderr
        result = _json("evaluate", plan, "--out", profiled / "result.json", "--duration", 4)
    finally:
        _igprof("stop", plan)
    assert result["slo_met"] is True
    by_name = {each["workload"]: each for each in result["workloads"]}
    assert by_name["fast"]["requests"] > 40
    assert by_name["fast"]["latency"]["mean_ms"] > 0
    assert by_name["fast"]["violations_pct"] == 0
    assert _igprof("status", plan, status=2)

    report = profiled / "report.html"
    _igprof("report", profile, coefficients, plan, profiled / "result.json", "--out", report)
    assert report.stat().st_size > 10_000
    _igprof("export", profile, "--to", "csv", "--out", profiled / "rows.csv")
    assert len((profiled / "rows.csv").read_text().splitlines()) == 1 + 2 * 2 * 2 + 2


def test_an_impossible_slo_is_infeasible_and_a_violated_one_is_told(profiled: Path) -> None:
    coefficients = profiled / "c2.json"
    _igprof("fit", profiled / "profile", "--out", coefficients)
    workloads = profiled / "w2.yaml"
    workloads.write_text("workloads: [{name: dream, model: encoder, rate_rps: 1, slo_ms: 0.01}]\n")
    failed = _igprof("plan", coefficients, workloads, "--out", profiled / "no.json", status=6)
    assert "dream" in failed.stderr
    assert not (profiled / "no.json").exists()

    workloads.write_text("workloads: [{name: w, model: encoder, rate_rps: 2, slo_ms: 4000}]\n")
    plan = profiled / "plan2.json"
    _igprof("plan", coefficients, workloads, "--out", plan)
    document = json.loads(plan.read_text())
    document["devices"][0]["tenants"][0]["slo_ms"] = 0.01
    plan.write_text(json.dumps(document))
    assert "w" in _igprof("check", plan, coefficients, status=7).stderr
    result = profiled / "r2.json"
    told = _igprof("evaluate", plan, "--out", result, "--duration", 2, status=7)
    assert "miss their SLO: w" in told.stderr
    assert json.loads(result.read_text())["workloads"][0]["violations_pct"] == 100.0


def test_bad_input_is_refused_before_anything_starts(profiled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases = [
        (("profile", "--models", "resnet5", "--out", out), "resnet50"),
        (("profile", "--models", "mlp", "--shares", "0", "--out", out), "'shares.0'"),
        (("profile", "--models", "mlp", "--batch-sizes", "0", "--out", out), "'batch_sizes.0'"),
        (("profile", "--models", "mlp", "--device", "cpu:999", "--out", out), "999"),
        (("profile", "--models", "mlp"), "--out"),
        (("profil",), "profile"),
        (
            ("profile", "--models", "mlp", "--device", "cpu:0", "--out", profiled / "profile"),
            "another sweep",
        ),
        (("fit", tmp_path, "--out", out), "profile"),
        (("plan", profiled / "sweep.yaml", profiled / "sweep.yaml", "--out", out), "sweep.yaml"),
    ]
    for arguments, word in cases:
        done = _igprof(*arguments, status=2)
        assert word in done.stderr, arguments
        assert done.stdout == ""
    assert not out.exists()


def _start(*arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "igniter_prof", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _servers(owner: int) -> list[int]:
    return [
        pid
        for pid, mark in marks.marked_processes("igprof-")
        if mark.pid == owner and "tritonserver" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


def _wait_for_server(owner: subprocess.Popen[str]) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and owner.poll() is None:
        if found := _servers(owner.pid):
            return found
        time.sleep(0.05)
    raise AssertionError("no server was started")


def test_a_server_that_dies_in_the_middle_is_a_result(tmp_path: Path) -> None:
    run = _start(
        "profile", "--models", "mlp", "--device", "cpu:0", "--shares", "50,100",
        "--precision", "0.001", "--min-time", "4", "--max-time", "4", "--out", tmp_path / "p",
    )  # fmt: skip
    (server,) = _wait_for_server(run)
    time.sleep(4)  # it is being measured by now
    os.kill(server, signal.SIGKILL)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    statuses = sorted(
        tenant.status
        for measurement in ProfileStore.open(tmp_path / "p").measurements()
        for tenant in measurement.tenants
    )
    assert statuses == ["crashed", "ok"]


def test_a_model_that_does_not_load_is_a_result(tmp_path: Path) -> None:
    broken = tmp_path / "repository" / "broken"
    (broken / "1").mkdir(parents=True)
    (broken / "1" / "model.py").write_text("raise ImportError('no such wheel')\n")
    (broken / "config.pbtxt").write_text(
        'name: "broken" backend: "python" max_batch_size: 8\n'
        'input [{name: "x" data_type: TYPE_FP32 dims: [4]}]\n'
        'output [{name: "y" data_type: TYPE_FP32 dims: [4]}]\n'
        "instance_group [{kind: KIND_CPU}]\n"
    )
    summary = _json(
        "profile", "--models", "broken,mlp", "--repository", tmp_path / "repository",
        "--device", "cpu:0", *QUICK, "--out", tmp_path / "p",
    )  # fmt: skip
    assert summary["stored"] == summary["cells"]
    told = {
        tenant.tenant.model: (tenant.status, tenant.detail or "")
        for measurement in ProfileStore.open(tmp_path / "p").measurements()
        for tenant in measurement.tenants
    }
    assert told["broken"][0] == "crashed"
    assert "no such wheel" in told["broken"][1]
    assert told["mlp"][0] == "ok"
    # --strict makes it an exit status
    _igprof(
        "profile", "--models", "broken,mlp", "--repository", tmp_path / "repository",
        "--device", "cpu:0", *QUICK, "--out", tmp_path / "p", "--strict", status=5,
    )  # fmt: skip


def test_interrupts_finish_the_cell_then_stop_at_once_and_leave_nothing(tmp_path: Path) -> None:
    arguments = (
        "profile", "--models", "mlp", "--device", "cpu:0", "--shares", "25,50,75,100",
        "--min-time", "1", "--max-time", "1", "--out", tmp_path / "p",
    )  # fmt: skip
    run = _start(*arguments)
    _wait_for_server(run)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert len(ProfileStore.open(tmp_path / "p").done_ids()) == 1

    run = _start(*arguments)
    _wait_for_server(run)
    run.send_signal(signal.SIGINT)
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert time.monotonic() - began < 10
    assert len(ProfileStore.open(tmp_path / "p").done_ids()) == 1


def test_a_running_triton_is_profiled_from_outside(tmp_path: Path) -> None:
    tenants = [Tenant(model="mlp", batch_size=4), Tenant(model="encoder", batch_size=4)]
    with deploy(
        resolve_device("cpu:0"), tenants, options=ServeOptions(server="shared")
    ) as deployment:
        endpoint = deployment.endpoints[0]
        summary = _json(
            "profile", "--models", "mlp,encoder", "--runtime", "remote",
            "--address", f"http://{endpoint.http_address}",
            "--grpc-address", endpoint.grpc_address, "--protocol", "grpc",
            "--batch-sizes", "1,4", "--colocate", "pairs", *QUICK, "--out", tmp_path / "p",
        )  # fmt: skip
        # what the server does not have is said before anything is measured
        told = _igprof(
            "profile", "--models", "mpl", "--runtime", "remote",
            "--address", endpoint.http_address, *QUICK, "--out", tmp_path / "q", status=2,
        )  # fmt: skip
        assert "mlp" in told.stderr
    assert summary["failed_tenants"] == 0
    found = ProfileStore.open(tmp_path / "p").measurements()
    assert {measurement.cell.server for measurement in found} == {"shared"}
    assert {measurement.conditions.runtime for measurement in found} == {"remote"}
    assert any(len(measurement.tenants) == 2 for measurement in found)
    assert all(each.usage is None for measurement in found for each in measurement.tenants)
    _igprof("dataset", "check", tmp_path / "p")


def test_models_share_one_server_under_an_open_loop(tmp_path: Path) -> None:
    _igprof(
        "profile", "--models", "mlp,encoder", "--server", "shared", "--device", "cpu:0",
        "--colocate", "pairs", "--load", "poisson", "--rate", "20", *QUICK,
        "--out", tmp_path / "p",
    )  # fmt: skip
    found = ProfileStore.open(tmp_path / "p").measurements()
    assert {len(measurement.tenants) for measurement in found} == {1, 2}
    for measurement in found:
        for tenant in measurement.tenants:
            assert tenant.status == "ok", tenant.detail
            assert tenant.tenant.share_pct is None
            assert tenant.latency_intended is not None
            assert tenant.latency is not None
            assert tenant.latency_intended.mean_ms >= tenant.latency.mean_ms
