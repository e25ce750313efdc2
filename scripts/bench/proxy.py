"""Latency with ``igprof proxy`` over latency without it, in turns, for small and large bodies.

A server in a process of its own answers at once; one client keeps one connection to it and one to
the proxy. Blocks of requests alternate, so that what else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from common import describe_setting, markdown, run, setting, warn_if_busy

from igniter_prof.cli.common import print_json

BLOCK = 50
SIZES = ((1_000, 1_000, 1), (600_000, 1_000, 2), (600_000, 600_000, 4))
"""Bytes of a request and of a response, and how many times fewer blocks of them are sent."""
IGPROF = (sys.executable, "-c", "from igniter_prof.cli import main; main()")
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_POST(self):
        size = int(self.headers["Answer-Bytes"])
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(bytes(size))
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def started(arguments: list[str], stream: str) -> Iterator[int]:
    """A process that prints its port in its first line."""
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, stream: subprocess.PIPE}
    process = subprocess.Popen(arguments, **streams, text=True, stdin=subprocess.DEVNULL)
    with process:
        try:
            line = getattr(process, stream).readline()
            yield int(line.split(" -> ")[0].rpartition(":")[2])
        finally:
            process.terminate()


def block_ms(connection: http.client.HTTPConnection, body: bytes, answer_bytes: int) -> list[float]:
    """Latencies of ``BLOCK`` requests, one after the other."""
    headers = {"Answer-Bytes": str(answer_bytes)}
    found = []
    for _ in range(BLOCK):
        began_ns = time.perf_counter_ns()
        connection.request("POST", "/predict", body, headers)
        connection.getresponse().read()
        found.append((time.perf_counter_ns() - began_ns) / 1e6)
    return found


def compare(
    server: int, proxy: int, body_bytes: int, answer_bytes: int, blocks: int
) -> dict[str, Any]:
    """Latencies without and with the proxy, in ms."""
    body = bytes(body_bytes)
    with (
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", server, timeout=30)) as direct,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy, timeout=30)) as through,
    ):
        for connection in (direct, through):
            block_ms(connection, body, answer_bytes)  # warm-up
        without, with_it, differences = [], [], []
        for _ in range(blocks):
            first = block_ms(direct, body, answer_bytes)
            second = block_ms(through, body, answer_bytes)
            without += first
            with_it += second
            differences.append(statistics.median(second) - statistics.median(first))
    return {
        "request_bytes": body_bytes,
        "response_bytes": answer_bytes,
        "requests": len(without),
        "without_p50_ms": float(np.quantile(without, 0.5)),
        "with_p50_ms": float(np.quantile(with_it, 0.5)),
        "without_p99_ms": float(np.quantile(without, 0.99)),
        "with_p99_ms": float(np.quantile(with_it, 0.99)),
        "added_p50_ms": statistics.median(differences),
        "added_low_ms": float(np.quantile(differences, 0.1)),
        "added_high_ms": float(np.quantile(differences, 0.9)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=40, help=f"of {BLOCK} requests, each way")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    warn_if_busy()
    where = setting()
    with (
        tempfile.TemporaryDirectory() as folder,
        started([sys.executable, "-c", SERVER], "stdout") as server,
        started(
            [
                *(*IGPROF, "proxy", "--listen", "0", "--to", f"127.0.0.1:{server}"),
                *("--out", f"{folder}/rows.csv"),
            ],
            "stderr",
        ) as proxy,
    ):
        found = [
            compare(server, proxy, body, answer, max(1, arguments.blocks // share))
            for body, answer, share in (
                (1_000, 1_000, 1),
                (600_000, 1_000, 2),
                (600_000, 600_000, 4),
            )
        ]
    if arguments.json:
        print_json({"setting": where, "results": found})
        return 0
    print(describe_setting(where) + "\n")
    columns = ["request, response", "requests", "p50 without", "p50 with", "added (80% of blocks)"]
    columns += ["p99 without", "p99 with"]
    print(
        markdown(
            columns,
            [
                [
                    f"{each['request_bytes'] // 1000} KB, {each['response_bytes'] // 1000} KB",
                    each["requests"],
                    f"{each['without_p50_ms']:.3f} ms",
                    f"{each['with_p50_ms']:.3f} ms",
                    f"{each['added_p50_ms']:.3f} ms ({each['added_low_ms']:.3f} to"
                    f" {each['added_high_ms']:.3f})",
                    f"{each['without_p99_ms']:.3f} ms",
                    f"{each['with_p99_ms']:.3f} ms",
                ]
                for each in found
            ],
        )
    )
    return 0


if __name__ == "__main__":
    run(main)
