"""An engine that is reached over TCP counts as remote: no files, no packets, no processes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from igniter_prof.errors import BadInput
from igniter_prof.records import Tenant
from igniter_prof.serving import TenantFailure, deploy, device_for, server_conditions
from tests.integration.docker_engine import FLASK_IMAGE, PrivateEngine, needs_docker
from tests.integration.test_docker_sweep import igprof, inside, measurements, options_for

pytestmark = needs_docker


@pytest.fixture
def over_tcp(on_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch) -> PrivateEngine:
    monkeypatch.setenv("DOCKER_HOST", on_engine.tcp_url)
    return on_engine


def test_models_go_in_by_copy_and_statistics_come_from_the_engine(over_tcp: PrivateEngine) -> None:
    options = options_for()
    device = device_for("cpu", options)
    assert device.id.endswith("@127.0.0.1")
    assert len(device.cores) > 0
    tenants = [Tenant(model="mlp", share_pct=50), Tenant(model="flask", memory_mib=200)]
    with deploy(device, tenants, options=options) as deployment:
        for endpoint in deployment.endpoints:
            assert (endpoint.pid, endpoint.cgroup, endpoint.interface) == (None, None, None)
            assert endpoint.host == "127.0.0.1"
            assert str(endpoint.http_address).startswith("127.0.0.1:")
            assert endpoint.container_id is not None
            assert endpoint.cold_start is not None
            assert endpoint.cold_start.ready_s is not None
        first = deployment.endpoints[0]
        assert first.grpc_address is not None
        (found,) = json.loads(over_tcp.docker("inspect", str(first.container_id)).stdout)
        assert [(mount["Type"], mount["RW"]) for mount in found["Mounts"]] == [("volume", False)]
        assert not inside(deployment.endpoints[1].http_address)["writable"]["/opt"]
        for index in range(2):
            assert deployment.ending(index) is None
            usage = deployment.usage(index)
            assert usage is not None
            assert usage.cpu_s is not None
            assert usage.cpu_s > 0
            assert usage.memory_working_mib is not None
            assert usage.memory_mib is not None
            assert 0 < usage.memory_working_mib <= usage.memory_mib
            assert usage.oom_kills is None  # an engine does not count them
        limited, free = deployment.usage(0), deployment.usage(1)
        assert limited is not None
        assert limited.periods is not None
        assert free is not None
        assert free.periods is None
        conditions = server_conditions(deployment)
        assert conditions["triton"] == "2.51.0"
        assert conditions["cpu_model"] is None


def test_out_of_memory_is_told_as_the_engines_word(over_tcp: PrivateEngine) -> None:
    options = options_for()
    device = device_for("cpu", options)
    with (
        pytest.raises(TenantFailure) as failure,
        deploy(device, [Tenant(model="mlp", memory_mib=20)], options=options),
    ):
        pass
    assert failure.value.status == "oom"
    assert failure.value.detail.startswith("by the word of the engine")


def test_a_sweep_on_an_engine_elsewhere(over_tcp: PrivateEngine, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"""
runtime: docker
models:
  - name: flask
    http: {{image: {FLASK_IMAGE}, ready_path: /health, inputs: {{x: {{shape: [4, 8]}}}},
           body: {{tensor: "${{x}}"}}}}
cpu_cores: [1]
baseline_every: 0
monitors: [client, container]
stopping: {{precision_pct: 20, min_s: 0.5, max_s: 1.5, min_requests: 10, cooldown_s: 0.3}}
"""
    )
    igprof("profile", sweep, "--out", tmp_path / "out")
    (cell,) = measurements(tmp_path / "out")
    assert cell.tenants[0].status == "ok", cell.tenants[0].detail
    assert cell.cell.device.endswith("@127.0.0.1")
    container = cell.tenants[0].container
    assert container is not None
    assert container.cpu_mean_cores is not None
    assert container.cpu_mean_cores > 0


def test_a_gpu_of_an_engine_elsewhere_is_refused(over_tcp: PrivateEngine) -> None:
    with pytest.raises(BadInput, match="engine elsewhere"):
        device_for("cuda:0", options_for())
    with pytest.raises(BadInput, match="not at there"):
        device_for("cpu@there", options_for())
