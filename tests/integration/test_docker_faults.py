"""What goes wrong with containers: out of memory, killed, the engine restarted, igprof killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.errors import MissingCapability, OutsideFailure
from igniter_prof.records import Device, Measurement, Tenant
from igniter_prof.serving import TenantFailure, deploy, device_for, marks
from igniter_prof.serving.docker import engine as engines
from igniter_prof.serving.docker import remains
from tests.integration.docker_engine import FLASK_IMAGE, PrivateEngine, needs_docker
from tests.integration.test_docker_sweep import MODELS, QUICK, igprof, measurements, options_for

pytestmark = needs_docker

LEAKING = f"""
runtime: docker
models:
  - mlp
  - name: leaky
    http:
      image: {FLASK_IMAGE}
      ready_path: /health
      inputs: {{x: {{shape: [4, 8]}}}}
      body: {{tensor: "${{x}}"}}
      environment: {{LEAK_MIB: "4"}}
memory_mib: [200]
shares: [50]
colocate: [[mlp, leaky]]
baseline_every: 0
monitors: [client]
stopping: {{precision_pct: 0.1, min_s: 5, max_s: 20, cooldown_s: 0.3}}
"""


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def profiling(sweep: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "igniter_prof", "profile", str(sweep), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stored(out: Path) -> int:
    return len(list((out / "cells").glob("*.zip"))) if out.exists() else 0


def by_models(found: list[Measurement]) -> dict[str, Measurement]:
    return {"+".join(each.tenant.model for each in one.tenants): one for one in found}


def test_an_oom_kill_is_a_result_and_its_neighbours_numbers_are_invalid(
    on_engine: PrivateEngine, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep.yaml"
    # only the pair and what leaks alone: 50 requests are too many for 200 MiB
    sweep.write_text(LEAKING)
    out = tmp_path / "out"
    cells = tmp_path / "cells.csv"
    cells.write_text(
        "model_1,batch_size_1,share_pct_1,memory_mib_1,model_2,batch_size_2,share_pct_2,memory_mib_2\n"
        "mlp,1,50,256,leaky,1,50,200\n"
    )
    igprof("profile", sweep, "--cells", cells, "--out", out)
    (cell,) = measurements(out)
    mlp, leaky = cell.tenants
    assert leaky.status == "oom"
    assert leaky.detail == "the kernel killed it at its memory cap of 200 MiB"
    assert mlp.status == "invalid"
    assert "leaky" in (mlp.detail or "")
    assert leaky.cold_start is not None  # it had started
    igprof("dataset", "check", out)


def test_out_of_memory_at_the_start(on_engine: PrivateEngine) -> None:
    device = device_for("cpu", options_for())
    tenants = [Tenant(model="mlp", memory_mib=20), Tenant(model="flask")]
    with pytest.raises(TenantFailure) as failure, deploy(device, tenants, options=options_for()):
        pass
    assert (failure.value.index, failure.value.status) == (0, "oom")


def test_a_container_killed_from_outside_has_crashed(
    on_engine: PrivateEngine, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "runtime: docker\nmodels: [mlp]\nbaseline_every: 0\nmonitors: [client]\n"
        "stopping: {precision_pct: 0.1, min_s: 20, max_s: 60, cooldown_s: 0.3}\n"
    )
    out = tmp_path / "out"
    with profiling(sweep, out) as process:
        (name,) = until(on_engine.containers)
        until(lambda: "HTTPService" in _log(on_engine, name))
        time.sleep(1)
        on_engine.docker("kill", name)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    (cell,) = measurements(out)
    assert cell.tenants[0].status == "crashed"
    assert (cell.tenants[0].detail or "").startswith("ended by SIGKILL (exit status 137)")


def _log(engine: PrivateEngine, name: str) -> str:
    done = engine.docker("logs", name, check=False)
    return done.stdout + done.stderr


def test_a_crash_at_the_start_says_why(on_engine: PrivateEngine, tmp_path: Path) -> None:
    folder = tmp_path / "repository" / "broken" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("raise RuntimeError('no such luck')\n")
    (folder.parent / "config.pbtxt").write_text('name: "broken" backend: "python"\n')
    options = options_for(repository=tmp_path / "repository")
    device = device_for("cpu", options)
    with (
        pytest.raises(TenantFailure, match="no such luck") as failure,
        deploy(device, [Tenant(model="broken")], options=options),
    ):
        pass
    assert failure.value.status == "crashed"


def test_a_sweep_goes_on_after_the_engine_was_restarted_in_its_midst(
    on_engine: PrivateEngine, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"runtime: docker\n{MODELS}cpu_cores: [0.5, 1]\nbaseline_every: 0\n"
        f"monitors: [client]\nstopping: {QUICK}\n"
    )
    out = tmp_path / "out"
    with profiling(sweep, out) as process:
        # the second cell is in flight
        until(lambda: stored(out) >= 1)
        until(on_engine.containers)
        time.sleep(1.2)
        before = stored(out)
        on_engine.stop()
        try:
            _, told = process.communicate(timeout=60)
        finally:
            on_engine.start()
    assert process.returncode == 4, told
    assert "engine" in told
    assert "Traceback" not in told
    assert stored(out) == before  # the cell in flight is nobody's fault, and not stored
    summary = json.loads(igprof("profile", sweep, "--out", out, "--json").stdout)
    assert summary["stored"] == 4
    assert summary["measured_now"] == 4 - before
    assert summary["failed_tenants"] == 0
    found = measurements(out)
    assert len({one.cell_id for one in found}) == len(found) == 4
    # what the engine kept of the cell in flight is gone
    assert on_engine.containers() == []


def test_an_engine_that_is_killed_is_no_tenants_fault(on_engine: PrivateEngine) -> None:
    device = device_for("cpu", options_for())

    def serve_until_it_ends() -> None:
        with deploy(device, [Tenant(model="flask")], options=options_for()) as deployment:
            assert deployment.ending(0) is None
            on_engine.stop(signal.SIGKILL)
            until(lambda: deployment.ending(0), 10)

    try:
        with pytest.raises(OutsideFailure, match="engine went away"):
            serve_until_it_ends()
    finally:
        on_engine.start()
    # this process lives, so that what it left is not yet anybody's to take
    (name,) = on_engine.containers()
    engine = engines.connect()
    try:
        assert remains.reap(engine) == []
        mark = marks.parse(name)
        assert mark is not None
        remains.remove(engine, mark)
    finally:
        engine.close()


KILLED = """
import os, signal, sys
from igniter_prof.records import Tenant
from igniter_prof.serving import ServeOptions, deploy, device_for
options = ServeOptions(runtime="docker")
with deploy(device_for("cpu", options), [Tenant(model="mlp")], options=options) as deployment:
    print(deployment.containers[0].name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_igprof_left_is_reaped_and_nothing_else(on_engine: PrivateEngine) -> None:
    on_engine.docker("run", "--detach", "--name", "somebodys", FLASK_IMAGE)
    # a launched plan's, by its label: its owner is dead, and it stays
    launched = marks.mint(launched=True)
    dead = launched.name.replace(f"-{os.getpid()}-", "-4194301-")
    labels = [f"igprof.mark={dead}", f"igprof.host={remains.this_host()}"]
    flags = [word for label in labels for word in ("--label", label)]
    on_engine.docker("run", "--detach", "--name", "launched", *flags, FLASK_IMAGE)
    # one of another machine
    other = ["--label", f"igprof.mark={dead.replace('-l-', '-t-')}", "--label", "igprof.host=x/y"]
    on_engine.docker("run", "--detach", "--name", "elsewhere", *other, FLASK_IMAGE)
    try:
        done = subprocess.run(
            [sys.executable, "-c", KILLED], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        name = done.stdout.strip()
        assert name in on_engine.containers()
        device = device_for("cpu", options_for())
        with deploy(device, [Tenant(model="flask")], options=options_for()):
            assert name not in on_engine.containers()
        assert sorted(on_engine.containers()) == ["elsewhere", "launched", "somebodys"]
        mark = marks.parse(name)
        assert mark is not None
        assert not mark.folder.exists()
    finally:
        on_engine.docker("rm", "--force", "elsewhere", "launched", "somebodys", check=False)


def test_without_an_engine_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(MissingCapability, match="no container engine answers") as missing:
        device_for("cpu", options_for())
    assert "DOCKER_HOST" in str(missing.value)


def test_an_engine_without_gpus_is_no_tenants_fault(on_engine: PrivateEngine) -> None:
    if "nvidia" in on_engine.docker("info", "--format", "{{json .Runtimes}}").stdout:
        pytest.skip("this engine has the runtime for GPUs")
    device = Device(id="cuda:GPU-00000000-0000-0000-0000-000000000000", kind="cuda", name="none")
    # one server for all: no driver is asked about shares
    options = options_for(server="shared")
    with (
        pytest.raises(MissingCapability, match="cannot give a container a GPU"),
        deploy(device, [Tenant(model="mlp")], options=options),
    ):
        pass


def test_an_image_that_is_not_there_is_not_pulled(on_engine: PrivateEngine) -> None:
    options = options_for(image="igprof-nowhere:1")
    device = device_for("cpu", options)
    with (
        pytest.raises(MissingCapability, match="is not there") as missing,
        deploy(device, [Tenant(model="mlp")], options=options),
    ):
        pass
    assert "--pull" in str(missing.value)
