"""A stand-in for Triton's HTTP service, and a deployment of it, for tests without the real one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from igniter_prof.records import Endpoint, Status, Tenant, Usage


class KServe(ThreadingHTTPServer):
    """Serves one model ``net``: one request at a time, each taking ``service_s()``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.turn = threading.Lock()
        self.service_s = lambda: 0.004
        self.status = 200
        self.executions = 0
        self.seen_ns: list[tuple[int, int]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle are part of the tests."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: KServe

    def do_GET(self) -> None:
        if self.path.endswith("/config"):
            self._answer({"max_batch_size": 64})
        elif self.path.endswith("/stats"):
            count = self.server.executions
            part = {"count": count, "ns": count * 1_000_000}
            stats = {
                f"{name}": part
                for name in ("queue", "compute_input", "compute_infer", "compute_output")
            }
            self._answer(
                {
                    "model_stats": [
                        {
                            "inference_count": 2 * count,
                            "execution_count": count,
                            "inference_stats": stats,
                        }
                    ]
                }
            )
        else:
            self._answer(
                {"name": "net", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
            )

    def do_POST(self) -> None:
        begin = time.monotonic_ns()
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.turn:
            time.sleep(self.server.service_s())
            self.server.executions += 1
        self.server.seen_ns.append((begin, time.monotonic_ns()))
        self._answer({}, self.server.status)

    def _answer(self, document: Any, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class FakeDeployment:
    """Stand-ins in the place of a deployment's servers."""

    runtime = "local"
    headers: tuple[tuple[str, str], ...] = ()
    ca_file: Path | None = None

    def __init__(self, servers: Sequence[KServe], tenants: Sequence[Tenant]) -> None:
        self.endpoints = tuple(
            Endpoint(tenant=tenant, model_name="net", http_address=server.address)
            for server, tenant in zip(servers, tenants, strict=True)
        )
        self.endings: dict[int, tuple[Status, str]] = {}
        self.readings = 0

    def usage(self, index: int) -> Usage | None:
        self.readings += 1
        return Usage(cpu_s=float(self.readings), oom_kills=0)

    def ending(self, index: int) -> tuple[Status, str] | None:
        return self.endings.get(index)

    def log_tail(self, index: int) -> str:
        return ""

    def conditions(self) -> dict[str, Any]:
        return {"runtime": "local", "triton": "0.0-stand-in"}


@contextmanager
def kserve() -> Iterator[KServe]:
    with KServe() as server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
