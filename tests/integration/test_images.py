"""The images on a real engine (the tests' own): built without a network, run with no rights."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof import zoo
from igniter_prof.records import Tenant
from tests.integration.docker_engine import PrivateEngine, needs_docker
from tests.scripts import SCRIPTS

pytestmark = needs_docker

TRITON = "igprof-triton:2.51.0-cpu"
FCN = "igprof-fcn-resnet50:cpu"
READY_S = 60.0


def build(*names: str) -> list[str]:
    done = subprocess.run(
        [SCRIPTS / "images" / "build", *names], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@contextmanager
def running(engine: PrivateEngine, image: str, *arguments: str, ready: str) -> Iterator[Any]:
    """A container with as few rights as igprof gives one; yields its name and its URL."""
    options, command = arguments, ()
    if "--" in arguments:
        at = arguments.index("--")
        options, command = arguments[:at], arguments[at + 1 :]
    name = engine.docker(
        *("run", "--detach", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
        *("--read-only", "--tmpfs=/tmp", "--memory=2g", "--memory-swap=2g", "--cpus=1"),
        *(*options, image, *command),
    ).stdout.strip()
    try:
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        address = engine.docker("inspect", "--format", template, name).stdout.strip()
        port, _, path = ready.partition("/")
        url = f"http://{address}:{port}"
        deadline = time.monotonic() + READY_S
        while True:
            try:
                ask(f"{url}/{path}")
                break
            except OSError:
                state = engine.docker("inspect", "--format", "{{.State.Running}}", name).stdout
                if state.strip() != "true" or time.monotonic() > deadline:
                    logs = engine.docker("logs", name)
                    pytest.fail(f"{image} did not start:\n{logs.stdout}{logs.stderr}")
                time.sleep(0.1)
        yield name, url
    finally:
        engine.docker("rm", "--force", name)


def ask(url: str, document: Any = None) -> Any:
    data = None if document is None else json.dumps(document).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def rights_of(engine: PrivateEngine, name: str) -> dict[str, str]:
    """What the kernel says of the container's first process."""
    status = engine.docker("exec", name, "cat", "/proc/1/status").stdout
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


@pytest.fixture
def for_all() -> Iterator[Path]:
    """A folder that everybody may read; pytest's are for their owner alone."""
    with tempfile.TemporaryDirectory(prefix="igprof-images-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_triton_serves_the_zoo_without_any_right(on_engine: PrivateEngine, for_all: Path) -> None:
    assert build("triton") == [TRITON]
    zoo.render(Tenant(model="mlp"), for_all, threads=1)
    command = ("tritonserver", "--model-repository=/models", "--allow-gpu-metrics=false")
    with running(
        *(on_engine, TRITON, f"--volume={for_all}:/models:ro", "--", *command),
        ready="8000/v2/health/ready",
    ) as (name, url):
        data = np.linspace(0, 1, 784).tolist()
        tensor = {"name": "x", "shape": [1, 784], "datatype": "FP32", "data": data}
        answer = ask(f"{url}/v2/models/mlp/infer", {"inputs": [tensor]})
        assert answer["outputs"][0]["shape"] == [1, 10]
        assert ask(f"{url}/v2")["version"] == TRITON.split(":")[1].split("-")[0]
        rights = rights_of(on_engine, name)
    assert rights["Uid"].split() == ["10001"] * 4
    assert int(rights["CapEff"], 16) == 0
    assert rights["NoNewPrivs"] == "1"


def test_the_flask_server_answers_with_the_networks_own_classes(
    on_engine: PrivateEngine,
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert build("fcn_resnet50", "triton") == [FCN, TRITON]
    before = on_engine.docker("image", "inspect", "--format", "{{.Id}}", FCN).stdout
    assert build("fcn_resnet50") == [FCN]
    assert on_engine.docker("image", "inspect", "--format", "{{.Id}}", FCN).stdout == before
    image = np.random.default_rng(0).standard_normal((1, 3, 40, 64), dtype=np.float32)
    with running(on_engine, FCN, "--env=THREADS=1", ready="8006/health") as (name, url):
        document = {"tensor": image.tolist(), "orig_size": [40, 64]}
        classes = np.array(ask(f"{url}/predict", document)["segmentation"])
        document["orig_size"] = [20, 32]
        smaller = np.array(ask(f"{url}/predict", document)["segmentation"])
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(f"{url}/predict", {"tensor": [1]})
        rights = rights_of(on_engine, name)
    assert rights["Uid"].split() == ["10001"] * 4
    session = onnxruntime.InferenceSession(str(zoo.build("fcn_resnet50")))
    (expected,) = session.run(None, {"image": image})
    assert (classes == expected[0].argmax(axis=0)).mean() > 0.99
    np.testing.assert_array_equal(smaller, classes[1::2, 1::2])


def test_both_images_share_the_large_layers(on_engine: PrivateEngine) -> None:
    build("triton", "fcn_resnet50")
    layers = [
        json.loads(
            on_engine.docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", tag).stdout
        )
        for tag in (TRITON, FCN)
    ]
    # the base, the packages, and what makes an environment of them
    assert layers[0][:3] == layers[1][:3]


def test_the_tutorial_is_one_command(on_engine: PrivateEngine, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(SCRIPTS / "fcn_tutorial", "--quick", "--scales", "0.1,0.3", "--sizes", "1"),
            *("--out", tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    written = [Path(line) for line in done.stdout.split()]
    assert all(path.stat().st_size > 0 for path in written)
    header, first, second = (tmp_path / "cpu1_2gib.csv").read_text().splitlines()
    assert header == "scale,width,height,time"
    assert first.startswith("0.1000,22,22,")
    assert second.startswith("0.3000,67,67,")
    assert float(first.rpartition(",")[2]) > 0
