"""The sniffer against tshark's pairing and against client time stamps, and what it costs.

Three passes over each case, all with igprof's own load generator:

- *client*: one capture over the whole load; every request of the client must be seen once, and its
  time on the wire lies within the client's.
- *tshark*: a capture that writes its packets too; tshark pairs the same packets.
- *cost*: the load runs on without a break while a capture is switched on and off every second; the
  latencies of each second with it are divided by those of the second before without it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import itertools
import multiprocessing
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import describe_setting, markdown, run, setting, warn_if_busy

from igniter_prof.capture.live import Capture, Captured
from igniter_prof.capture.packets import Server
from igniter_prof.cli.common import note, print_json
from igniter_prof.config.devices import client_cores, resolve_device
from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.files import atomic_write
from igniter_prof.load import InputSource, generators
from igniter_prof.records import (
    Device,
    Endpoint,
    HttpInput,
    HttpServer,
    Load,
    Status,
    Stopping,
    Tenant,
    Usage,
)
from igniter_prof.serving import Deployment, ServeOptions, deploy
from igniter_prof.session import measure

LOOPBACK = socket.inet_aton("127.0.0.1")
BODIES = {"bare 1 KB": 250, "bare 600 KB": 150_000}
"""Numbers of 4 bytes in a request to the bare server."""
SWITCH_S, SETTLE_S = 1.0, 0.25
"""A capture stays on or off for that long; what is sent in the first part of it does not count."""
INFER = "/infer"


@dataclass(frozen=True)
class Case:
    """A server, a protocol, a load."""

    server: str
    protocol: str
    load: Load
    tshark_s: float = 2.0

    @property
    def name(self) -> str:
        """The case for people."""
        load = self.load
        what = f"{load.concurrency} in flight" if load.kind == "closed" else f"{load.rate_rps:g}/s"
        return f"{self.server}, {self.protocol}, {what}"


def closed(count: int) -> Load:
    return Load(kind="closed", concurrency=count)


def constant(rate_rps: float) -> Load:
    return Load(kind="constant", rate_rps=rate_rps)


CASES = (
    Case("mlp", "http", closed(1)),
    Case("mlp", "http", constant(2000)),
    Case("mlp", "grpc", closed(1)),
    Case("mlp", "grpc", constant(2000)),
    Case("mobilenet_v2", "http", closed(2)),
    Case("mobilenet_v2", "grpc", closed(2)),
    Case("bare 1 KB", "http", constant(2000)),
    Case("bare 600 KB", "http", closed(2), tshark_s=0.3),
)


@dataclass(frozen=True)
class Outcome:
    """What one case gave; times in µs."""

    case: str
    rate_rps: float
    requests: int
    paired_pct: float
    drops: int
    ahead_us: float
    """Median from the client's stamp before it sends to the first byte on the wire."""
    behind_us: float
    """Median from the last byte on the wire to the client's stamp after it received."""
    outside: int
    """Requests whose time on the wire is not within the client's."""
    difference_us: float
    """Client latency less time on the wire, median."""
    difference_p99_us: float
    cpu_pct: float
    """Of one core, of the capturing process."""
    tshark_pairs: int | None = None
    tshark_of: int | None = None
    tshark_difference_us: float | None = None
    """Largest difference to tshark's times."""
    tshark_drops: int | None = None
    cost_mean_pct: float | None = None
    cost_low_pct: float | None = None
    cost_high_pct: float | None = None
    """Effect on the mean latency: median over the pairs of seconds, with its 95% interval."""
    cost_p50_pct: float | None = None


# --- servers ---------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads a body and says yes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read1(min(left, 1 << 20)))
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


class Quiet(http.server.ThreadingHTTPServer):
    """Says nothing of clients that leave."""

    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_: object) -> None:
        pass


def serve(channel: Any) -> None:
    """A bare HTTP server, in a process of its own."""
    server = Quiet(("127.0.0.1", 0), Handler)
    channel.send(server.server_port)
    server.serve_forever()


class Bare:
    """The bare server as a deployment."""

    runtime = "local"
    headers: tuple[tuple[str, str], ...] = ()
    ca_file = None

    def __init__(self, port: int, numbers: int) -> None:
        http = HttpServer(
            path=INFER, inputs={"x": HttpInput(shape=(numbers,))}, body="${x.raw}", port=port
        )
        self.endpoints = (
            Endpoint(
                tenant=Tenant(model="bare"),
                model_name="bare",
                http_address=f"127.0.0.1:{port}",
                http=http,
            ),
        )

    def usage(self, index: int) -> Usage | None:
        return None

    def ending(self, index: int) -> tuple[Status, str] | None:
        return None

    def log_tail(self, index: int) -> str:
        return ""

    def conditions(self) -> dict[str, Any]:
        return {}


@contextlib.contextmanager
def served(case: Case, device: Device) -> Iterator[Deployment]:
    """The case's server."""
    if case.server not in BODIES:
        with deploy(device, (Tenant(model=case.server),), options=ServeOptions()) as deployment:
            yield deployment
        return
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs,), daemon=True
    )
    process.start()
    try:
        yield Bare(ours.recv(), BODIES[case.server])
    finally:
        process.kill()
        process.join()


# --- the passes ------------------------------------------------------------------------------


def loaded(
    case: Case, deployment: Deployment, cores: tuple[int, ...], seconds: float
) -> np.ndarray:
    """Load the server for that long; returns the client's requests, good ones only.

    Raises:
        OutsideFailure: the server failed.
    """
    with generators(1) as clients:
        window = measure(
            deployment,
            clients,
            loads=[case.load],
            sources=[InputSource()],
            protocol=case.protocol,
            stopping=Stopping(warmup_s=0.5),
            cores=cores,
            seed=0,
            duration_s=seconds,
        )
    seen = window.tenants[0]
    if seen.status != "ok":
        raise OutsideFailure(f"the server ended: {seen.status} ({seen.detail})", where=case.name)
    rows = seen.rows[seen.rows["ok"] == 1]
    return np.sort(rows, order="sent_ns")


def target(case: Case, deployment: Deployment) -> Server:
    """Whose packets are captured."""
    endpoint = deployment.endpoints[0]
    address = endpoint.grpc_address if case.protocol == "grpc" else endpoint.http_address
    assert address is not None
    return Server(LOOPBACK, int(address.rpartition(":")[2]), case.protocol)


def inferences(captured: Captured) -> np.ndarray:
    """The captured requests without those for metadata and statistics, by their first byte."""
    wanted = np.array([not label.startswith("GET ") for _, label in captured.labels] or [False])
    return np.sort(captured.rows[wanted[captured.rows["label"]]], order="request_ns")


def against_client(
    case: Case, deployment: Deployment, cores: tuple[int, ...], seconds: float
) -> dict[str, Any]:
    """Every request of the client beside what passed on the wire."""
    with Capture("lo", [target(case, deployment)], cores=cores) as capture:
        began = time.monotonic()
        asked = loaded(case, deployment, cores, seconds)
        captured = capture.end()
        elapsed_s = time.monotonic() - began
    seen = inferences(captured)
    # requests that were in flight when the load stopped have no row of the client's
    seen = seen[seen["request_ns"] <= asked["sent_ns"].max() + 1_000_000_000]
    good = seen[seen["outcome"] == 0]
    matched, found = match(asked, good)
    ahead = (found["request_ns"] - matched["sent_ns"]) / 1e3
    behind = (matched["done_ns"] - found["response_end_ns"]) / 1e3
    span_s = (asked["done_ns"].max() - asked["sent_ns"].min()) / 1e9
    return {
        "rate_rps": round(len(asked) / span_s, 1),
        "requests": len(asked),
        "paired_pct": round(100 * len(found) / len(asked), 3),
        "drops": captured.drops,
        "ahead_us": round(float(np.median(ahead)), 1),
        "behind_us": round(float(np.median(behind)), 1),
        "outside": int(((ahead < 0) | (behind < 0)).sum()),
        "difference_us": round(float(np.median(ahead + behind)), 1),
        "difference_p99_us": round(float(np.quantile(ahead + behind, 0.99)), 1),
        "cpu_pct": round(100 * (captured.cpu_s or 0) / elapsed_s, 2),
    }


def match(asked: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The client's requests and those on the wire, one to one.

    Each request on the wire goes to the one of the client that was sent last before it and is not
    taken; where several are in flight, two that were sent within microseconds may be swapped, but
    none is made up.
    """
    pairs, waiting, at = [], [], 0
    for index, begin in enumerate(seen["request_ns"]):
        while at < len(asked) and asked["sent_ns"][at] <= begin:
            waiting.append(at)
            at += 1
        fitting = [
            each for each in waiting if asked["done_ns"][each] >= seen["response_end_ns"][index]
        ]
        if fitting:
            # in the order in which they ended: the earliest end that is late enough
            best = min(fitting, key=lambda each: asked["done_ns"][each])
            waiting.remove(best)
            pairs.append((best, index))
        waiting = [each for each in waiting if asked["done_ns"][each] >= begin]
    left = np.array([a for a, _ in pairs], int)
    return asked[left], seen[np.array([b for _, b in pairs], int)]


def against_tshark(
    case: Case, deployment: Deployment, cores: tuple[int, ...], folder: Path
) -> dict[str, Any]:
    """The same packets, paired by both."""
    path = folder / "capture.pcap"
    server = target(case, deployment)
    with (
        path.open("wb") as out,
        Capture("lo", [server], cores=cores, write_fd=out.fileno()) as capture,
    ):
        loaded(case, deployment, cores, case.tshark_s)
        captured = capture.end()
    good = captured.rows[captured.paired]
    ours = np.sort(good["response_end_ns"] - good["request_end_ns"]) / 1e3
    pairs = http2_times if case.protocol == "grpc" else http1_times
    theirs = np.sort(np.array(pairs(path, server.port), float)) * 1e6
    path.unlink()
    alike = len(ours) == len(theirs)
    return {
        "tshark_pairs": len(ours),
        "tshark_of": len(theirs),
        "tshark_difference_us": round(float(np.abs(ours - theirs).max()), 3) if alike else None,
        "tshark_drops": captured.drops,
    }


def tshark(path: Path, port: int, kind: str, shown: str, *names: str) -> list[list[str]]:
    """Fields of the packets that a display filter lets through."""
    fields = [word for name in names for word in ("-e", name)]
    done = subprocess.run(
        [
            *("tshark", "-r", str(path), "-d", f"tcp.port=={port},{kind}"),
            *("-Y", shown, "-T", "fields", *fields),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


def http1_times(path: Path, port: int) -> list[float]:
    """tshark's own time of each response, in s: from the request's end to the response's end."""
    found = tshark(path, port, "http", "http.response && http.request_in", "http.time")
    return [float(each) for (values,) in found for each in values.split(",")]


def http2_times(path: Path, port: int) -> list[float]:
    """The same by tshark's stream numbers: between the frames that end a stream's two sides."""
    rows = tshark(
        path,
        port,
        "http2",
        "http2.flags.end_stream == 1",
        "tcp.stream",
        "tcp.dstport",
        "frame.time_epoch",
        "http2.streamid",
        "http2.type",
        "http2.flags",
    )
    asked: dict[tuple[str, str], float] = {}
    times = []
    for connection, to, epoch, streams, kinds, flags in rows:
        each = zip(streams.split(","), kinds.split(","), flags.split(","), strict=True)
        for stream, kind, flag in each:
            if kind in ("0", "1") and int(flag, 16) & 1:
                # a float of seconds since 1970 is exact to 0.2 µs only
                seconds = float(epoch.partition(".")[0][-5:] + "." + epoch.partition(".")[2])
                if int(to) == port:
                    asked[connection, stream] = seconds
                elif (connection, stream) in asked:
                    times.append(seconds - asked.pop((connection, stream)))
    return times


def cost(
    case: Case, deployment: Deployment, cores: tuple[int, ...], seconds: float
) -> dict[str, Any]:
    """Latency with a capture over latency without, second by second under one load."""
    switched: list[tuple[bool, int]] = []
    ended = threading.Event()
    server = target(case, deployment)

    def switch() -> None:
        while not ended.wait(SWITCH_S):
            with Capture("lo", [server], cores=cores) as capture:
                switched.append((True, time.monotonic_ns()))
                ended.wait(SWITCH_S)
                begin_ns = time.monotonic_ns()
                capture.end()
            switched.append((False, begin_ns))

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        rows = loaded(case, deployment, cores, seconds)
    finally:
        ended.set()
        thread.join()
    latency_ms = (rows["done_ns"] - rows["sent_ns"]) / 1e6
    parts: list[tuple[bool, np.ndarray]] = []
    for (on, begin), (_, end) in itertools.pairwise(switched):
        settled = begin + int(SETTLE_S * 1e9)
        parts.append((on, latency_ms[(rows["sent_ns"] >= settled) & (rows["done_ns"] < end)]))
    means, medians = [], []
    for (_, with_it), (on, without) in itertools.pairwise(parts):
        # off after on, and on after off, in turn: a drift favours neither
        first, second = (without, with_it) if on else (with_it, without)
        if len(first) > 20 and len(second) > 20:
            means.append(100 * (first.mean() / second.mean() - 1))
            medians.append(100 * (np.median(first) / np.median(second) - 1))
    if not means:
        return {}
    ordered = np.sort(means)
    # ranks of a distribution-free 95% interval of the median
    half = 0.98 * np.sqrt(len(ordered))
    low, high = len(ordered) / 2 - half, len(ordered) / 2 + half
    return {
        "cost_mean_pct": round(float(np.median(means)), 2),
        "cost_low_pct": round(float(ordered[max(0, int(low))]), 2),
        "cost_high_pct": round(float(ordered[min(len(ordered) - 1, int(high))]), 2),
        "cost_p50_pct": round(float(np.median(medians)), 2),
    }


# --- the program -----------------------------------------------------------------------------


def measured(case: Case, device: Device, seconds: float, cost_s: float) -> Outcome:
    """All passes over one case."""
    cores = client_cores(device)[0]
    with (
        served(case, device) as deployment,
        tempfile.TemporaryDirectory(prefix="igprof-sniffer-") as folder,
    ):
        found = against_client(case, deployment, cores, seconds)
        if shutil.which("tshark"):
            found |= against_tshark(case, deployment, cores, Path(folder))
        if cost_s:
            found |= cost(case, deployment, cores, cost_s)
    return Outcome(case=case.name, **found)


def _range(outcome: Outcome) -> str | None:
    if outcome.cost_low_pct is None:
        return None
    return f"{outcome.cost_low_pct:+.1f} to {outcome.cost_high_pct:+.1f}%"


def tables(outcomes: list[Outcome]) -> str:
    """Markdown for docs/benchmarks.md."""
    first = markdown(
        ["case", "requests", "per s", "paired", "drops", "client less wire, median", "p99",
         "outside", "CPU of one core"],
        [
            [o.case, o.requests, f"{o.rate_rps:.0f}", f"{o.paired_pct:g}%", o.drops,
             f"{o.difference_us:.0f} µs", f"{o.difference_p99_us:.0f} µs", o.outside,
             f"{o.cpu_pct:.1f}%"]
            for o in outcomes
        ],
    )  # fmt: skip
    second = markdown(
        ["case", "pairs: ours / tshark's", "largest difference", "drops", "mean latency with it",
         "95% interval", "median latency with it"],
        [
            [
                o.case,
                f"{o.tshark_pairs} / {o.tshark_of}",
                None if o.tshark_difference_us is None else f"{o.tshark_difference_us:g} µs",
                o.tshark_drops,
                None if o.cost_mean_pct is None else f"{o.cost_mean_pct:+.1f}%",
                _range(o),
                None if o.cost_p50_pct is None else f"{o.cost_p50_pct:+.1f}%",
            ]
            for o in outcomes
        ],
    )  # fmt: skip
    return f"{first}\n{second}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu:0", help="of the servers (cpu:0)")
    parser.add_argument("--seconds", type=float, default=5, help="of the load beside the client")
    parser.add_argument("--cost-seconds", type=float, default=30, help="of switching; 0: not")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="2 s each, and no switching")
    parser.add_argument("--out", type=Path, help="write the tables there")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    flags = parser.parse_args()
    cases = [case for case in CASES if flags.only in case.name]
    if not cases:
        raise BadInput(
            f"no case has '{flags.only}' in its name", hint=", ".join(c.name for c in CASES)
        )
    if shutil.which("tshark") is None:
        note("tshark is not there: that comparison is left out (sudo apt-get install tshark)")
    warn_if_busy()
    where = setting()
    device = resolve_device(flags.device)
    outcomes = []
    for case in cases:
        note(case.name)
        seconds, cost_s = (2, 0) if flags.quick else (flags.seconds, flags.cost_seconds)
        outcomes.append(measured(case, device, seconds, cost_s))
    text = f"{tables(outcomes)}\n{describe_setting(where)}\n"
    if flags.out:
        with atomic_write(flags.out) as out:
            out.write(text.encode())
    if flags.json:
        print_json({"setting": where, "outcomes": [asdict(each) for each in outcomes]})
    else:
        sys.stdout.write(text)
    failed = [each.case for each in outcomes if each.paired_pct < 100 or each.drops]
    if failed:
        raise OutsideFailure(f"not every request was paired: {', '.join(failed)}")
    return 0


if __name__ == "__main__":
    run(main)
