"""Images are downloaded only if a flag says so, and what that took is known; a real pull.

The registry is a small server of the test's own on 127.0.0.1, with an image of random bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import secrets
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.errors import MissingCapability, OutsideFailure
from igniter_prof.serving import ServeOptions
from igniter_prof.serving.contract import silent
from igniter_prof.serving.docker import engine as engines
from igniter_prof.serving.docker import images
from igniter_prof.serving.docker.engine import Engine
from tests.integration.docker_engine import PrivateEngine, needs_docker

pytestmark = needs_docker

LAYER_BYTES = 3_000_000
SCHEMA = "application/vnd.docker.distribution.manifest.v2+json"
PULL = ServeOptions(runtime="docker", pull=True)


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry:
    """One image of two layers, as a registry serves it."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        layers, diffs = [], []
        for number in range(2):
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w") as tar:
                member = tarfile.TarInfo(f"layer-{number}")
                member.size = LAYER_BYTES
                tar.addfile(member, io.BytesIO(secrets.token_bytes(LAYER_BYTES)))
            diffs.append(digest(archive.getvalue()))
            layers.append(
                self._blob(gzip.compress(archive.getvalue(), 1), "image.rootfs.diff.tar.gzip")
            )
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"org.igniter-prof.framework": "onnxruntime 9.9"}},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        }
        self.compressed = sum(layer["size"] for layer in layers)
        manifest = {
            "schemaVersion": 2,
            "mediaType": SCHEMA,
            "config": self._blob(json.dumps(config).encode(), "container.image.v1+json"),
            "layers": layers,
        }
        self.manifest = json.dumps(manifest).encode()

    def _blob(self, data: bytes, kind: str) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        media = f"application/vnd.docker.{kind}"
        return {"mediaType": media, "size": len(data), "digest": digest(data)}


@pytest.fixture
def registry() -> Iterator[tuple[Registry, str]]:
    content = Registry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            content.asked.append(self.path)
            kind, data = "application/json", b"{}"
            status = 200
            if "/manifests/" in self.path:
                kind, data = SCHEMA, content.manifest
            elif "/blobs/" in self.path:
                kind = "application/octet-stream"
                data = content.blobs[self.path.rpartition("/")[2]]
            if "/nothing/" in self.path:
                status, data = 404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            if "/manifests/" in self.path:
                self.send_header("Docker-Content-Digest", digest(data))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield content, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def engine(
    on_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Engine]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = engines.connect()
    yield engine
    engine.close()


def test_a_download_is_counted_and_timed(engine: Engine, registry: tuple[Registry, str]) -> None:
    content, address = registry
    name = f"{address}/tests/random:1"
    with pytest.raises(MissingCapability, match="is not there"):
        images.obtain(engine, name, ServeOptions(runtime="docker"), silent)
    assert content.asked == []  # without the flag nobody was asked
    told: list[str] = []
    pulled = images.obtain(engine, name, PULL, told.append)
    try:
        assert told == [f"downloading the image {name}"]
        assert pulled.pull_s is not None
        assert 0 < pulled.pull_s < 60
        assert pulled.pull_bytes == content.compressed
        assert pulled.info.compressed_bytes == content.compressed
        assert pulled.info.registry_digest == digest(content.manifest)
        assert pulled.info.layers == 2
        assert pulled.info.disk_bytes == 2 * LAYER_BYTES
        assert pulled.framework == "onnxruntime 9.9"
        again = images.obtain(engine, name, PULL, silent)
        assert (again.pull_s, again.pull_bytes) == (None, None)
        assert again.info == pulled.info
    finally:
        engine.client.remove_image(name, force=True)


def test_a_download_that_fails_is_told(engine: Engine, registry: tuple[Registry, str]) -> None:
    _, address = registry
    with pytest.raises(OutsideFailure, match="cannot be downloaded"):
        images.obtain(engine, f"{address}/tests/nothing:1", PULL, silent)
    with pytest.raises(OutsideFailure, match="cannot be downloaded"):
        images.obtain(engine, "127.0.0.1:1/tests/nothing:1", PULL, silent)


def test_the_usual_image_is_the_one_that_is_there(engine: Engine) -> None:
    found = images.triton_image(engine, ServeOptions(runtime="docker"), silent)
    assert found.info.name == images.OWN_IMAGE
    assert not found.nvidia
    assert (found.framework or "").startswith("onnxruntime ")
    # a flag alone downloads nothing where there is one
    assert images.triton_image(engine, PULL, silent).info == found.info
