"""Model servers that are no Triton: a real Flask server, and the stand-in for TorchServe."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from igniter_prof import zoo
from igniter_prof.dataset import ProfileStore
from igniter_prof.errors import OutsideFailure
from igniter_prof.load import Call, InputSource, Job, generators
from igniter_prof.load.senders import HttpSender, RequestFailed
from igniter_prof.load.worker import Shared
from igniter_prof.records import MEASURED, Device, Endpoint, HttpServer, Load, Stopping, Tenant
from igniter_prof.serving import ServeOptions, deploy
from igniter_prof.session import measure
from tests.flask_server import Segmentation, flask_server
from tests.kserve import FakeDeployment, kserve

ROOT = Path(__file__).parents[2]
DEVICE = Device(id="remote:x", kind="cpu", name="x")
QUICK: dict[str, Any] = {
    "precision_pct": 50,
    "max_drift_pct": 1000,
    "min_s": 0.3,
    "max_s": 2,
    "min_requests": 10,
    "warmup_requests": 3,
    "warmup_s": 0.1,
    "cooldown_s": 0,
    "request_timeout_s": 5,
    "start_timeout_s": 10,
}
FCN: dict[str, Any] = {
    "ready_path": "/health",
    "inputs": {
        "image": {"shape": [1, 3, 16, 20], "scaled_axes": [2, 3], "normalise": "imagenet"},
    },
    "body": {"tensor": "${image}", "orig_size": "${image.native_size}"},
    "success": {"json_field": "segmentation"},
    "fresh_connection": True,
}


@pytest.fixture
def flask() -> Iterator[Segmentation]:
    with flask_server(Segmentation()) as server:
        yield server


def _job(address: str, **call: Any) -> Job:
    return Job(
        address=address,
        protocol="http",
        call=Call(path="/predict", **call),
        bodies=((b'{"tensor": [1], "orig_size": [2, 2]}', 0),),
        headers=(("content-type", "text/plain"), ("Content-Type", "application/json")),
        load=Load(),
        seed=0,
        timeout_s=2.0,
        cores=(),
    )


def test_a_fresh_connection_for_each_request(flask: Segmentation) -> None:
    sender = HttpSender(_job(flask.address, fresh_connection=True))
    sender.connect()
    for _ in range(3):
        sender.judge(sender.send(sender._job.bodies[0]))
    assert len(flask.clients) == 3
    assert set(flask.connections) == {"close"}


def test_an_answer_without_its_field_has_failed(flask: Segmentation) -> None:
    sender = HttpSender(_job(flask.address, json_field="segmentation"))
    body = sender._job.bodies[0]
    sender.judge(sender.send(body))
    flask.broken = True
    answer = sender.send(body)
    for text in (answer, b"[1]", b"no json", b'"segmentation"'):
        with pytest.raises(RequestFailed, match="no field 'segmentation'") as failure:
            sender.judge(text)
        assert failure.value.kind == "refused"
    sender.close()


def test_a_connection_is_kept_until_the_server_closes_it() -> None:
    accepted = []

    def serve() -> None:
        for requests in (2, 1):
            connection, _ = listener.accept()
            with connection:
                for _ in range(requests):
                    request = b""
                    while not request.endswith(b"\r\n\r\nbody"):
                        request += connection.recv(65536)
                    accepted.append(request)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        sender = HttpSender(_job(f"127.0.0.1:{listener.getsockname()[1]}"))
        assert sender.send((b"body", 0)) == b"ok"
        assert sender.send((b"body", 0)) == b"ok"
        time.sleep(0.6)  # longer than IDLE_S; the server has hung up
        assert sender.send((b"body", 0)) == b"ok"
        sender.close()
        thread.join()
    assert [b"Content-Type: application/json" in request for request in accepted] == [True] * 3


def test_a_triton_and_another_server_in_one_cell(flask: Segmentation) -> None:
    with kserve() as triton:
        tenants = [Tenant(model="a"), Tenant(model="fcn", input_scale=0.5)]
        deployment = FakeDeployment([triton, triton], tenants)
        other = Endpoint(
            tenant=tenants[1],
            model_name="fcn",
            http_address=flask.address,
            http=HttpServer.model_validate(FCN),
        )
        deployment.endpoints = (deployment.endpoints[0], other)
        with generators(2) as clients:
            window = measure(
                deployment,
                clients,
                loads=[Load()] * 2,
                sources=[InputSource()] * 2,
                protocol="http",
                stopping=Stopping(**QUICK),
                cores=(),
                seed=0,
            )
    assert [seen.status for seen in window.tenants] == ["ok", "ok"]
    assert window.tenants[0].server_times is not None
    assert window.tenants[1].server_times is None
    assert window.tenants[1].shapes == {"image": (1, 3, 8, 10)}
    assert flask.shapes == {(1, 3, 8, 10)}
    assert flask.sizes[0] == [16, 20]
    rows = window.tenants[1].rows
    latency_ms = (rows["done_ns"] - rows["sent_ns"])[rows["phase"] == MEASURED] / 1e6
    assert latency_ms.min() >= 2  # the inference itself


def _options(triton: str, **http: Any) -> ServeOptions:
    servers = {"fcn": HttpServer.model_validate({**FCN, **http})}
    return ServeOptions(runtime="remote", address=triton, http=servers)


def test_a_remote_http_server_needs_no_triton() -> None:
    with flask_server(Segmentation()) as flask:
        options = _options(flask.address)
        with deploy(DEVICE, [Tenant(model="fcn")], options=options) as deployment:
            assert deployment.endpoints[0].http is not None
            assert deployment.conditions() == {"runtime": "remote", "triton": None}
            assert deployment.ending(0) is None
            deployment_ = deployment
        with (
            pytest.raises(OutsideFailure, match="HTTP 404"),
            deploy(
                DEVICE, [Tenant(model="fcn")], options=_options(flask.address, ready_path="/no")
            ),
        ):
            pytest.fail("it is not ready")
    deployment_._asked_s = [0.0]  # type: ignore[attr-defined]
    ending = deployment_.ending(0)
    assert ending is not None
    assert ending[0] == "crashed"


@pytest.mark.parametrize("ready_path", ["/health", None])
def test_nobody_at_the_address_is_an_outside_failure(ready_path: str | None) -> None:
    options = _options("127.0.0.1:1", ready_path=ready_path)
    with (
        pytest.raises(OutsideFailure, match="answers"),
        deploy(DEVICE, [Tenant(model="fcn")], options=options),
    ):
        pytest.fail("there is none")


def test_a_server_of_its_own_address_beside_the_triton(flask: Segmentation) -> None:
    with kserve() as triton:
        options = _options(triton.address, address=flask.address)
        tenants = [Tenant(model="net"), Tenant(model="fcn")]
        with deploy(DEVICE, tenants, options=options) as deployment:
            assert [each.http_address for each in deployment.endpoints] == [
                triton.address,
                flask.address,
            ]


@pytest.mark.parametrize("own_address", [True, False])
def test_secrets_go_to_the_server_that_the_user_named(
    flask: Segmentation, own_address: bool
) -> None:
    """A sweep from elsewhere must not be able to send a token where it likes."""
    options = _options(
        "127.0.0.1:1" if own_address else flask.address,
        address=flask.address if own_address else None,
    )
    options = dataclasses.replace(options, headers=(("Authorization", "Bearer hunter2"),))
    with (
        deploy(DEVICE, [Tenant(model="fcn")], options=options) as deployment,
        generators(1) as clients,
    ):
        measure(
            deployment,
            clients,
            loads=[Load()],
            sources=[InputSource()],
            protocol="http",
            stopping=Stopping(**QUICK),
            cores=(),
            seed=0,
        )
    assert len(flask.secrets) > 10
    assert set(flask.secrets) == {None if own_address else "Bearer hunter2"}


def _igprof(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "igniter_prof", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _sweep(folder: Path, **keys: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"runtime": "remote", **keys, "stopping": QUICK}))
    return path


def test_a_sweep_over_the_input_scale_of_a_flask_server(
    flask: Segmentation, tmp_path: Path
) -> None:
    path = _sweep(
        tmp_path,
        address=flask.address,
        models=[{"name": "fcn", "http": FCN}],
        input_scales=[0.5, 1.0, 2.0],
    )
    done = _igprof("profile", path, "--out", tmp_path / "profile", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["measured_now"] == 3
    assert flask.shapes == {(1, 3, 8, 10), (1, 3, 16, 20), (1, 3, 32, 40)}
    assert set(flask.connections) == {"close"}
    with ProfileStore.open(tmp_path / "profile") as store:
        found = list(store.measurements())
    assert {each.tenants[0].status for each in found} == {"ok"}
    assert all(each.tenants[0].failed_requests == 0 for each in found)


def test_wrong_answers_and_wrong_templates(flask: Segmentation, tmp_path: Path) -> None:
    flask.broken = True
    model = {"name": "fcn", "http": FCN}
    path = _sweep(tmp_path, address=flask.address, models=[model])
    done = _igprof("profile", path, "--out", tmp_path / "profile")
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stderr
    assert "no field 'segmentation'" in done.stderr
    wrong = {"name": "fcn", "http": {**FCN, "body": {"tensor": "${imago}"}}}
    done = _igprof("profile", _sweep(tmp_path, address="127.0.0.1:1", models=[wrong]), "--dry-run")
    assert done.returncode == 2
    assert "body.tensor" in done.stderr
    assert "did you mean 'image'" in done.stderr


@contextlib.contextmanager
def torchserve(models: str) -> Iterator[tuple[int, int]]:
    script = ROOT / "scripts/images/torchserve_standin/server.py"
    arguments = ["--host", "127.0.0.1", "--port", "0", "--management-port", "0"]
    process = subprocess.Popen(
        [sys.executable, script, *arguments, "--models", models],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        words = process.stdout.readline().replace(",", "").split()
        try:
            yield int(words[1]), int(words[3])
        finally:
            process.terminate()


def _get(port: int, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def _documented(name: str) -> dict[str, Any]:
    """A sweep of docs/http.md, by the file name in its first line."""
    blocks = (ROOT / "docs/http.md").read_text().split("```yaml\n")[1:]
    (text,) = [block.partition("```")[0] for block in blocks if block.startswith(f"# {name}")]
    sweep: dict[str, Any] = yaml.safe_load(text)
    return sweep


def test_the_stand_in_for_torchserve_is_profiled(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    documented = _documented("torchserve.yaml")
    image = documented["models"][0]
    tensor = {
        "name": "my_tensor",
        "http": {
            **image["http"],
            "path": "/predictions/my_tensor",
            "inputs": {"tensor": {"shape": [1, 8], "scaled_axes": [1]}},
            "body": {"data": "${tensor}"},
        },
    }
    absent = {"name": "absent", "http": {**image["http"], "path": "/predictions/absent"}}
    with torchserve("densenet161,my_tensor") as (port, management):
        assert _get(port, "/ping") == (200, {"status": "Healthy"})
        assert _get(port, "/predictions")[1]["type"] == "ResourceNotFoundException"
        assert _get(management, "/models/densenet161")[1][0]["workers"][0]["status"] == "READY"
        assert _get(management, "/models")[1]["models"][1]["modelName"] == "my_tensor"
        sweep = {**documented, "address": f"127.0.0.1:{port}", "models": [image, tensor, absent]}
        path = _sweep(tmp_path, **{**sweep, "input_scales": [0.5]})
        done = _igprof("profile", path, "--out", tmp_path / "profile")
    assert done.returncode == 0, done.stderr
    with ProfileStore.open(tmp_path / "profile") as store:
        tenants = {each.tenants[0].tenant.model: each.tenants[0] for each in store.measurements()}
    assert tenants["densenet161"].status == tenants["my_tensor"].status == "ok"
    assert tenants["densenet161"].input_shapes == {"image": (112, 112, 3)}
    assert tenants["absent"].status == "refused"
    assert "ModelNotFoundException" in (tenants["absent"].detail or "")


def test_fcn_resnet50_behind_flask_is_profiled(tmp_path: Path) -> None:
    """The documented sweep, against the server of the container image, outside a container."""
    pytest.importorskip("onnxruntime")
    shutil.copy(ROOT / "scripts/images/fcn_resnet50/server.py", tmp_path)
    (tmp_path / "fcn_resnet50.onnx").symlink_to(zoo.build("fcn_resnet50"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, tmp_path / "server.py"],
        env={**os.environ, "PORT": str(port), "THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert str(port) in process.stdout.readline()
            sweep = {**_documented("fcn.yaml"), "address": f"127.0.0.1:{port}"}
            path = _sweep(tmp_path, **{**sweep, "input_scales": [0.1]})
            done = _igprof("profile", path, "--out", tmp_path / "profile")
        finally:
            process.terminate()
    assert done.returncode == 0, done.stderr
    with ProfileStore.open(tmp_path / "profile") as store:
        (measurement,) = store.measurements()
    (tenant,) = measurement.tenants
    assert (tenant.status, tenant.failed_requests) == ("ok", 0)
    assert tenant.input_shapes == {"image": (1, 3, 22, 22)}


def test_the_field_of_a_large_answer_is_looked_for_after_the_clock(flask: Segmentation) -> None:
    """A large answer takes longer to parse than many a request: that is no latency."""
    job = _job(flask.address, json_field="segmentation")
    job = Job(**{**job.__dict__, "bodies": ((b'{"tensor": [1], "orig_size": [600, 600]}', 0),)})
    parsed: list[float] = []
    sender = HttpSender(job)
    judge = sender.judge

    def slow_judge(answer: bytes) -> None:
        time.sleep(0.25)
        judge(answer)
        parsed.append(len(answer))

    sender.judge = slow_judge  # type: ignore[method-assign]
    shared = Shared()
    assert shared.send(sender, job.bodies[0], None)
    sender.close()
    (_, sent_ns, done_ns, ok) = shared.rows[0]
    assert ok == 1
    assert parsed[0] > 700_000
    assert time.monotonic_ns() - done_ns >= 250e6
    assert done_ns > sent_ns
