"""A sweep over containers of a real engine: Triton and a Flask server, caps, cold starts, usage."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from igniter_prof import monitors
from igniter_prof.dataset import ProfileStore
from igniter_prof.records import Device, HttpServer, Measurement, Tenant
from igniter_prof.serving import ServeOptions, deploy, device_for, exceeds, server_conditions
from igniter_prof.serving.shares import SHARE_PERIOD_US
from tests.integration.docker_engine import (
    BRIDGE,
    FLASK_IMAGE,
    WEIGHT_BYTES,
    PrivateEngine,
    needs_docker,
)

pytestmark = needs_docker

MODELS = f"""
models:
  - mlp
  - name: flask
    http:
      image: {FLASK_IMAGE}
      port: 8080
      ready_path: /health
      path: /predict
      inputs: {{x: {{shape: [4, 8], scaled_axes: [1]}}}}
      body: {{tensor: "${{x}}"}}
      success: {{json_field: sum}}
      weights: /opt/weights.bin
      environment: {{THREADS: "${{threads}}", STARTUP_S: "0.3"}}
"""
QUICK = "{precision_pct: 20, min_s: 0.5, max_s: 1.5, min_requests: 10, cooldown_s: 0.3}"
SERVER = HttpServer(
    image=FLASK_IMAGE,
    port=8080,
    ready_path="/health",
    path="/predict",
    environment={"THREADS": "${threads}"},
    weights="/opt",
)


def igprof(*arguments: Any, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "igniter_prof", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def measurements(profile: Path) -> list[Measurement]:
    with ProfileStore.open(profile) as store:
        return store.measurements()


def options_for(**more: Any) -> ServeOptions:
    return ServeOptions(runtime="docker", http={"flask": SERVER}, **more)


@pytest.fixture
def device(on_engine: PrivateEngine) -> Device:
    return device_for("cpu", options_for())


def inside(address: str | None) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{address}/environment", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_a_sweep_over_two_kinds_of_server_and_two_sizes(
    on_engine: PrivateEngine, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"runtime: docker\n{MODELS}sizes: [{{cpu_cores: 0.5, memory_mib: 256}},"
        " {cpu_cores: 1, memory_mib: 512}, {cpu_cores: 512, memory_mib: 512}]\n"
        f"baseline_every: 0\nmonitors: [client, container, sniffer]\nstopping: {QUICK}\n"
    )
    out = tmp_path / "profile"
    told = json.loads(igprof("profile", sweep, "--out", out, "--json").stdout)
    assert (told["stored"], told["skipped_cells"], told["failed_tenants"]) == (6, 2, 0)
    igprof("dataset", "check", out)
    sniffs = not monitors.check(["sniffer"], device_for("cpu", options_for()))
    cells = [one for one in measurements(out) if one.tenants[0].status != "skipped"]
    assert len(cells) == 4
    for cell in cells:
        (tenant,) = cell.tenants
        assert tenant.status == "ok", tenant.detail
        assert tenant.latency is not None
        start = tenant.cold_start
        assert start is not None
        assert start.ready_s is not None
        phases = [start.create_s, start.start_s, start.serve_s, start.load_s]
        assert all(phase is not None and phase >= 0 for phase in phases)
        assert sum(phase or 0 for phase in phases) == pytest.approx(start.ready_s)
        assert start.load_s is not None
        assert start.load_s > 0.1  # Triton loads a model, the Flask server waits 0.3 s
        assert start.first_ms is not None
        assert (start.pull_s, start.pull_bytes) == (None, None)
        usage = tenant.usage
        assert usage is not None
        assert usage.cpu_s is not None
        assert usage.cpu_s > 0
        assert usage.periods is not None
        assert usage.periods > 10
        assert usage.oom_kills == 0
        assert usage.memory_peak_mib is not None
        assert tenant.tenant.memory_mib is not None
        assert 10 < usage.memory_peak_mib <= tenant.tenant.memory_mib
        assert usage.memory_working_mib is not None
        assert 5 < usage.memory_working_mib <= usage.memory_peak_mib
        assert tenant.image is not None
        assert tenant.image.id.startswith("sha256:")
        assert tenant.image.disk_bytes is not None
        assert tenant.image.disk_bytes > 50_000_000
        assert tenant.container is not None
        assert tenant.container.cpu_mean_cores is not None
        assert tenant.container.cpu_mean_cores < 1.3 * (tenant.tenant.cpu_cores or 0)
        if sniffs:
            assert tenant.network is not None, cell.monitors
            assert tenant.network.interface == BRIDGE
            assert tenant.network.paired > 10
        if tenant.tenant.model == "flask":
            assert tenant.weight_bytes == WEIGHT_BYTES
        else:
            assert tenant.weight_bytes is not None
            assert tenant.weight_bytes > 1_000_000
            assert cell.conditions.image == tenant.image.id
            assert cell.conditions.triton == "2.51.0"
            assert (cell.conditions.framework or "").startswith("onnxruntime ")
        assert (cell.conditions.engine or "").startswith("docker ")
        assert cell.conditions.share_mechanism == "cfs-quota"
        assert cell.conditions.share_period_us == SHARE_PERIOD_US


def test_a_container_is_what_its_tenant_asks_for_and_no_more(
    device: Device, on_engine: PrivateEngine
) -> None:
    tenants = [Tenant(model="mlp", share_pct=25), Tenant(model="flask", memory_mib=200)]
    with deploy(device, tenants, options=options_for()) as deployment:
        triton, flask = deployment.endpoints
        assert triton.interface == flask.interface == BRIDGE
        assert str(triton.http_address).startswith("172.31.213.")
        assert triton.http_address != flask.http_address
        assert flask.http == SERVER
        assert (flask.grpc_address, flask.metrics_address) == (None, None)
        assert flask.weight_bytes is not None
        assert flask.weight_bytes > WEIGHT_BYTES  # a folder: all of it
        there = inside(flask.http_address)
        assert there["uid"] == 65534
        assert set(there["capabilities"]) == {"0" * 16}
        assert there["no_new_privileges"] is True
        assert there["writable"] == {
            "/": False,
            "/opt": False,
            "/tmp": True,
            "/models": False,
            "/dev/shm": True,
        }
        assert there["shm_bytes"] == 256 << 20
        assert there["cores"] == list(device.cores)
        assert there["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"
        assert there["environment"]["THREADS"] == str(len(device.cores))
        for endpoint, cap in ((triton, None), (flask, 200 << 20)):
            text = on_engine.docker("inspect", str(endpoint.container_id)).stdout
            (found,) = json.loads(text)
            limits = found["HostConfig"]
            assert limits["CapDrop"] == ["ALL"]
            assert not limits["Privileged"]
            assert not limits["CapAdd"]
            assert limits["NanoCpus"] == 0
            assert limits["MemorySwap"] == limits["Memory"] == (cap or 0)
            assert [mount["RW"] for mount in found["Mounts"]] == [False] * len(found["Mounts"])
        (found,) = json.loads(on_engine.docker("inspect", str(triton.container_id)).stdout)
        assert found["HostConfig"]["CpuPeriod"] == SHARE_PERIOD_US
        quota = 0.25 * len(device.cores) * SHARE_PERIOD_US
        assert found["HostConfig"]["CpuQuota"] == quota
        assert [mount["Destination"] for mount in found["Mounts"]] == ["/models"]
        assert deployment.ending(0) is None
        assert "Started HTTPService" in deployment.log_tail(0)
        usage = deployment.usage(1)
        assert usage is not None
        assert usage.oom_kills == 0
        assert usage.periods is None  # no quota
    assert on_engine.containers() == []


def test_cores_of_its_own_and_one_server_for_all(device: Device) -> None:
    options = options_for(share_mechanism="cpuset")
    with deploy(device, [Tenant(model="flask", cpu_cores=1)], options=options) as deployment:
        there = inside(deployment.endpoints[0].http_address)
        assert there["cores"] == [device.cores[0]]
        assert there["environment"]["THREADS"] == "1"
        assert server_conditions(deployment)["share_mechanism"] == "cpuset"
    shared = options_for(server="shared")
    tenants = [Tenant(model="mlp"), Tenant(model="encoder")]
    with deploy(device, tenants, options=shared) as deployment:
        first, second = deployment.endpoints
        assert first.container_id == second.container_id
        assert (first.model_name, second.model_name) == ("mlp", "encoder")
        assert first.model_hash != second.model_hash


def test_what_the_host_has_not_is_told(device: Device) -> None:
    assert exceeds([Tenant(model="mlp", cpu_cores=4096)], device) is not None
