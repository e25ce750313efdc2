"""A stand-in for TorchServe: its HTTP API without its models, to try a sweep without it.

It speaks what clients and igprof use: on the inference port ``GET /ping`` and ``POST`` or ``PUT``
to ``/predictions/<name>`` with a JPEG, a PNG or JSON as the body, on the management port
``GET /models`` and ``GET /models/<name>``; with TorchServe's JSON of errors. The "network" is a
fixed function of the body's bytes: it recognises nothing, and takes a time that grows with the
body. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import signal
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CLASSES = ("tabby", "tiger_cat", "Egyptian_cat", "lynx", "plastic_bag")
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
BYTES_LIMIT = 64 * 1024 * 1024


class Refused(Exception):
    """An answer in TorchServe's form of errors."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


def predict(content_type: str, body: bytes) -> dict[str, float]:
    """Five classes with probabilities that depend on the body only."""
    if content_type.partition(";")[0].strip().lower() == "application/json":
        try:
            json.loads(body)
        except ValueError as error:
            raise Refused(400, "BadRequestException", f"invalid JSON: {error}") from error
    elif not body.startswith(MAGIC):
        raise Refused(503, "InternalServerException", "Prediction failed")
    zlib.compress(body, 1)  # work that grows with the body, as a network's does with its input
    digest = hashlib.sha256(body).digest()
    scores = [math.exp(3 * byte / 255) for byte in digest[: len(CLASSES)]]
    ranked = sorted(zip(scores, CLASSES, strict=True), reverse=True)
    return {name: score / sum(scores) for score, name in ranked}


class Handler(BaseHTTPRequestHandler):
    """What both ports have in common."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    models: tuple[str, ...] = ()

    def answer(self, status: int, document: Any) -> None:
        body = json.dumps(document, indent=2).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, error: Refused) -> None:
        self.answer(error.status, {"code": error.status, "type": error.kind, "message": str(error)})

    def model(self, prefix: str) -> str:
        name = self.path.removeprefix(prefix).partition("/")[0].partition("?")[0]
        if name not in self.models:
            raise Refused(404, "ModelNotFoundException", f"Model not found: {name}")
        return name

    def nothing_here(self) -> Refused:
        return Refused(404, "ResourceNotFoundException", "Requested resource is not found")

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request would be most of its work."""


class Inference(Handler):
    def do_GET(self) -> None:
        if self.path == "/ping":
            self.answer(200, {"status": "Healthy"})
        else:
            self.refuse(self.nothing_here())

    def do_POST(self) -> None:
        try:
            body = self.body()
            if not self.path.startswith("/predictions/"):
                raise self.nothing_here()
            self.model("/predictions/")
            self.answer(200, predict(self.headers.get("Content-Type", ""), body))
        except Refused as error:
            self.refuse(error)

    do_PUT = do_POST

    def body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BYTES_LIMIT:
            self.close_connection = True  # what follows is not read
            raise Refused(413, "RequestEntityTooLargeException", "a body of a known, sane length")
        return self.rfile.read(int(length))


class Management(Handler):
    def do_GET(self) -> None:
        try:
            if self.path.partition("?")[0] == "/models":
                listed = [{"modelName": name, "modelUrl": f"{name}.mar"} for name in self.models]
                self.answer(200, {"models": listed})
            elif self.path.startswith("/models/"):
                worker = {"id": "9000", "status": "READY", "gpu": False}
                name = self.model("/models/")
                self.answer(200, [{"modelName": name, "batchSize": 1, "workers": [worker]}])
            else:
                raise self.nothing_here()
        except Refused as error:
            self.refuse(error)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is nobody's error."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")
    parser.add_argument("--port", type=int, default=8080, help="of inference; 0: any")
    parser.add_argument("--management-port", type=int, default=8081, help="0: any")
    parser.add_argument("--models", default="densenet161", help="comma-separated names")
    arguments = parser.parse_args()
    Handler.models = tuple(arguments.models.split(","))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        Server((arguments.host, arguments.port), Inference) as inference,
        Server((arguments.host, arguments.management_port), Management) as management,
    ):
        threading.Thread(target=management.serve_forever, daemon=True).start()
        print(f"inference {inference.server_port}, management {management.server_port}", flush=True)
        inference.serve_forever()


if __name__ == "__main__":
    main()
