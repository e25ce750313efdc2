"""A real Flask server for tests: the API of AC-Prof's tutorial, without a network."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from flask import Flask, request
from werkzeug.serving import WSGIRequestHandler, make_server


class KeepAlive(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *args: Any, **kwargs: Any) -> None:
        pass


class Segmentation:
    """What it was asked, and how it answers. ``delay_s`` is the time of an inference."""

    def __init__(self, delay_s: float = 0.002) -> None:
        self.delay_s = delay_s
        self.shapes: set[tuple[int, ...]] = set()
        self.sizes: list[list[int]] = []
        self.connections: list[str | None] = []
        self.clients: set[tuple[str, int]] = set()
        self.secrets: list[str | None] = []
        self.address = ""
        self.broken = False

    def app(self) -> Flask:
        app = Flask("segmentation")

        @app.get("/health")
        def health() -> tuple[str, int]:
            self.secrets.append(request.headers.get("Authorization"))
            return "ok", 200

        @app.post("/predict")
        def predict() -> Any:
            document = request.get_json()
            image = np.asarray(document["tensor"], np.float32)
            self.shapes.add(image.shape)
            self.secrets.append(request.headers.get("Authorization"))
            self.sizes.append(document["orig_size"])
            self.connections.append(request.headers.get("Connection"))
            self.clients.add((request.remote_addr or "", request.environ["REMOTE_PORT"]))
            time.sleep(self.delay_s)
            if self.broken:
                return {"error": "no network"}
            height, width = document["orig_size"]
            return {"segmentation": np.zeros((height, width), int).tolist()}

        return app


@contextmanager
def flask_server(server: Segmentation) -> Iterator[Segmentation]:
    """Serve it on a free port of this machine, by werkzeug's threaded server."""
    wsgi = make_server("127.0.0.1", 0, server.app(), threaded=True, request_handler=KeepAlive)
    wsgi.daemon_threads = True
    server.address = f"127.0.0.1:{wsgi.server_port}"
    thread = threading.Thread(target=wsgi.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        wsgi.shutdown()
        thread.join()
        wsgi.server_close()
