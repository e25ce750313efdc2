"""An untrusted sweep or model repository gets its containers, and nothing more of the host."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from igniter_prof.cli.profile_verb import command
from igniter_prof.errors import BadInput
from igniter_prof.records import HttpServer, Tenant
from igniter_prof.serving import ServeOptions, TenantFailure, deploy, device_for
from tests.integration.docker_engine import FLASK_IMAGE, PrivateEngine, needs_docker
from tests.integration.test_docker_sweep import inside, options_for

pytestmark = needs_docker

HTTP: dict[str, Any] = {"image": FLASK_IMAGE, "ready_path": "/health", "body": {"tensor": [[1]]}}


def sweep_of(tmp_path: Path, **document: Any) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"runtime": "docker", "baseline_every": 0, **document}))
    return path


@pytest.mark.parametrize(
    "document",
    [
        {"models": ["../../etc"]},
        {"models": ["/etc"]},
        {"models": ["--model-repository=/"]},
        {"models": ["mlp"], "image": "--privileged"},
        {"models": ["mlp"], "image": "-v /:/host igprof-triton"},
        {"models": ["mlp"], "image": "../x"},
        {"models": [{"name": "x", "http": {**HTTP, "image": "--volume=/:/x"}}]},
        {"models": [{"name": "x", "http": {**HTTP, "privileged": True}}]},
        {"models": [{"name": "x", "http": {**HTTP, "volumes": ["/:/host"]}}]},
        {"models": [{"name": "x", "http": {**HTTP, "command": ["sh"]}}]},
        {"models": [{"name": "x", "http": {**HTTP, "environment": {"LD_PRELOAD": "/tmp/x.so"}}}]},
        {"models": [{"name": "x", "http": {**HTTP, "environment": {"PATH": "/tmp"}}}]},
        {
            "models": [
                {"name": "x", "http": {**HTTP, "environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}}
            ]
        },
        {
            "models": [
                {"name": "x", "http": {**HTTP, "environment": {"CUDA_MPS_PIPE_DIRECTORY": "/x"}}}
            ]
        },
        {"models": [{"name": "x", "http": {**HTTP, "environment": {"IGPROF_MARK": "y"}}}]},
        {"models": ["mlp"], "share_mechanism": "host"},
        {"models": ["mlp"], "mounts": ["/:/host"]},
    ],
    ids=str,
)
def test_a_sweep_cannot_ask_for_more(
    on_engine: PrivateEngine, tmp_path: Path, document: dict[str, Any]
) -> None:
    sweep = sweep_of(tmp_path, **document)
    done = CliRunner().invoke(command, [str(sweep), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, BadInput), done.output
    assert on_engine.containers() == []


def _repository(tmp_path: Path) -> Path:
    model = tmp_path / "repository" / "own"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text('name: "own" backend: "python"\n')
    (model / "1" / "model.py").write_text("raise RuntimeError('it ran')\n")
    return tmp_path / "repository"


def _refused(repository: Path, match: str) -> None:
    options = options_for(repository=repository)
    device = device_for("cpu", options)
    with (
        pytest.raises(BadInput, match=match),
        deploy(device, [Tenant(model="own")], options=options),
    ):
        pass


def test_a_repository_cannot_take_files_of_the_host_along(
    on_engine: PrivateEngine, tmp_path: Path
) -> None:
    repository = _repository(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    link = repository / "own" / "1" / "weights.bin"
    for target in (secret, Path("/etc/shadow"), Path("../../../secret")):
        link.symlink_to(target)
        _refused(repository, "leads out of the model repository")
        link.unlink()
    folder = repository / "own" / "2"
    folder.symlink_to("/etc")
    _refused(repository, "leads out of the model repository")
    folder.unlink()
    link.symlink_to("nowhere")
    _refused(repository, "leads nowhere")
    link.unlink()
    circle = repository / "own" / "circle"
    circle.symlink_to(repository / "own")
    _refused(repository, "circle")
    circle.unlink()
    os.mkfifo(link)
    _refused(repository, "neither a file nor a folder")
    link.unlink()
    (repository / "own").rename(tmp_path / "moved")
    (repository / "own").symlink_to(tmp_path / "moved")
    _refused(repository, "leads out of the model repository")
    assert on_engine.containers() == []


def test_an_ensemble_cannot_name_a_step_elsewhere(on_engine: PrivateEngine, tmp_path: Path) -> None:
    repository = _repository(tmp_path)
    config = repository / "own" / "config.pbtxt"
    step = 'step [{ model_name: "../../secrets" model_version: 1 }]'
    config.write_text(f'name: "own" platform: "ensemble" ensemble_scheduling {{ {step} }}\n')
    _refused(repository, "no name of a model")
    assert not (tmp_path / "secrets").exists()


def test_links_within_a_repository_are_followed(on_engine: PrivateEngine, tmp_path: Path) -> None:
    repository = _repository(tmp_path)
    real = repository / "own" / "1" / "model.py"
    real.rename(repository / "shared.py")
    real.symlink_to("../../shared.py")
    options = options_for(repository=repository)
    with (
        pytest.raises(TenantFailure, match="it ran"),  # so it was there
        deploy(device_for("cpu", options), [Tenant(model="own")], options=options),
    ):
        pass


def test_a_model_sees_nothing_of_the_host_and_of_others(
    on_engine: PrivateEngine, tmp_path: Path
) -> None:
    http = HttpServer(image=FLASK_IMAGE, ready_path="/health")
    options = ServeOptions(runtime="docker", http={"flask": http})
    device = device_for("cpu", options)
    tenants = [Tenant(model="flask"), Tenant(model="mlp")]
    with deploy(device, tenants, options=options) as deployment:
        there = inside(deployment.endpoints[0].http_address)
        assert not any(mount.startswith("/models") for mount in there["mounts"])
        assert not any(name.startswith(("nvidia", "sd", "vd", "kvm")) for name in there["devices"])
        assert "docker.sock" not in json.dumps(there["mounts"])
        assert "DOCKER_HOST" not in there["environment"]


def test_an_images_other_name_for_root_is_refused(on_engine: PrivateEngine, tmp_path: Path) -> None:
    users = tmp_path / "passwd"
    users.write_text("app:x:0:0::/:/bin/sh\n")
    image = "igprof-alias:test"
    on_engine.docker("create", "--name", "alias", FLASK_IMAGE)
    on_engine.docker("cp", str(users), "alias:/etc/passwd")
    on_engine.docker("commit", "--change", "USER app", "alias", image)
    on_engine.docker("rm", "alias")
    server = HttpServer.model_validate({**HTTP, "image": image})
    options = ServeOptions(runtime="docker", http={"x": server})
    tenant = Tenant(model="x")
    with (
        pytest.raises(BadInput, match="'app' is root by another name"),
        deploy(device_for("cpu", options), [tenant], options=options),
    ):
        pytest.fail("it ran as root")
    on_engine.docker("rmi", image)
    assert on_engine.containers() == []
