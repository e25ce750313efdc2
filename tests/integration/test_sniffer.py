"""Real packets: the loopback, a veth and a bridge of a network namespace, a real Triton."""

from __future__ import annotations

import contextlib
import csv
import http.client
import http.server
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from igniter_prof.capture.exchanges import MIDWAY, OPEN, PAIRED
from igniter_prof.capture.live import Capture, Captured, check
from igniter_prof.capture.packets import Server
from igniter_prof.config.devices import resolve_device
from igniter_prof.errors import MissingCapability
from igniter_prof.records import Cell, Load, Protocol, Stopping, Tenant
from igniter_prof.serving import ServeOptions
from igniter_prof.session.cell import CellContext, run_cell
from tests.integration.local_runtime import needs_local_runtime

LOCAL = socket.inet_aton("127.0.0.1")
SLACK_NS = 200_000
"""Between two clocks that are read one after the other."""


def _missing() -> str:
    try:
        check()
    except MissingCapability as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing() or "it can run")
SERVER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        left = int(self.headers.get("Content-Length", 0))
        while left:
            left -= len(self.rfile.read(min(left, 1 << 16)))
        if self.path == "/slow":
            time.sleep(0.02)
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(30):
                self.wfile.write(b"2710\\r\\n" + b"y" * 10000 + b"\\r\\n")
            self.wfile.write(b"0\\r\\n\\r\\n")
        else:
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def http_server(*prefix: str, address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """An HTTP server in a process of its own; yields its port."""
    command = [*prefix, sys.executable, "-c", SERVER, address, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def client(address: str, port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(address, port, timeout=20)
    with contextlib.closing(connection):
        yield connection


def ask(connection: http.client.HTTPConnection, path: str, body: bytes) -> tuple[int, int]:
    """One request; when it was sent and when its answer was there."""
    sent_ns = time.monotonic_ns()
    connection.request("POST", path, body)
    connection.getresponse().read()
    return sent_ns, time.monotonic_ns()


def by_start(captured: Captured) -> np.ndarray:
    return np.sort(captured.rows, order="request_ns")


def test_large_bodies_lie_between_the_stamps_of_the_client() -> None:
    with http_server() as port, Capture("lo", [Server(LOCAL, port, "http")]) as capture:
        with client("127.0.0.1", port) as connection:
            stamps = np.array([ask(connection, "/slow", b"x" * 600_000) for _ in range(40)])
            stamps = np.concatenate(
                [stamps, [ask(connection, "/", b"x" * 600_000) for _ in range(200)]]
            )
        captured = capture.end()
    rows = by_start(captured)
    assert (captured.drops, len(rows), captured.paired.sum()) == (0, 240, 240)
    assert (rows["request_ns"] > stamps[:, 0] - SLACK_NS).all()
    assert (rows["response_end_ns"] < stamps[:, 1] + SLACK_NS).all()
    assert (rows["request_bytes"] > 600_000).all()
    slow_ms = (rows["response_ns"] - rows["request_end_ns"])[:40] / 1e6
    assert 18 < np.median(slow_ms) < 60
    # each packet of the loopback was seen once, not as it left and once more as it came
    assert captured.counters[0][1] < 20


def test_pipelined_and_chunked_messages_and_a_connection_from_before() -> None:
    with http_server() as port, socket.create_connection(("127.0.0.1", port)) as before:
        request = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        before.sendall(request % 0)
        before.recv(1 << 16)
        with Capture("lo", [Server(LOCAL, port, "auto")]) as capture:
            before.sendall(request % 1)
            before.recv(1 << 16)
            with socket.create_connection(("127.0.0.1", port)) as pipelined:
                pipelined.sendall(b"".join(request % number for number in range(2, 12)))
                answers = b""
                while answers.count(b"hello") < 10:
                    answers += pipelined.recv(1 << 16)
            with client("127.0.0.1", port) as connection:
                ask(connection, "/chunked", b"")  # shows that whole packets are needed
                time.sleep(0.3)
            with client("127.0.0.1", port) as connection:
                for _ in range(5):
                    ask(connection, "/chunked", b"abc")
                chunks = [b"z" * 5000] * 20
                connection.request("POST", "/up", iter(chunks), encode_chunked=True)
                connection.getresponse().read()
            captured = capture.end()
    rows = by_start(captured)
    labels = [captured.labels[row["label"]][1].split()[1] for row in rows]
    assert rows["outcome"][0] == MIDWAY
    assert labels[:11] == [f"/{number}" for number in range(1, 12)]
    assert (rows["outcome"][1:11] == PAIRED).all()
    assert labels[12:] == ["/chunked"] * 5 + ["/up"]
    assert (rows["outcome"][12:] == PAIRED).all()
    assert (rows["response_bytes"][12:17] > 300_000).all()
    assert rows["request_bytes"][17] > 100_000


def test_the_verb_captures_writes_and_reads_and_tshark_agrees(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.pcap", tmp_path / "a.csv"
    with http_server() as port:
        command = [
            *(sys.executable, "-m", "igniter_prof", "sniff", "--host", "127.0.0.1"),
            *("--port", str(port), "--json", "--write", str(path), "--duration", "4"),
            *("--out", str(rows)),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as verb:
            assert verb.stderr is not None
            assert "capturing on lo" in verb.stderr.readline()
            with client("127.0.0.1", port) as connection:
                for number in range(100):
                    ask(connection, "/", b"x" * (number * 100))
            out, errors = verb.communicate(timeout=60)
    assert verb.returncode == 0, errors
    live = json.loads(out)
    assert (live["network"]["paired"], live["packets_dropped"]) == (100, 0)
    again = subprocess.run(
        [sys.executable, "-m", "igniter_prof", "sniff", "--read", str(path), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(again.stdout)["network"]["total"]["count"] == 100
    if shutil.which("tshark") is None:
        return
    found = subprocess.run(
        [
            *("tshark", "-r", str(path), "-Y", "http.response", "-T", "fields", "-e", "http.time"),
            *("-o", "tcp.desegment_tcp_streams:TRUE", "-d", f"tcp.port=={port},http"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert len(found) == 100
    with rows.open() as table:
        ours = [
            (int(row["response_end_ns"]) - int(row["request_end_ns"])) / 1e9
            for row in csv.DictReader(table)
        ]
    # tshark counts from the packet that ends a request to the one that ends its response
    assert [float(each) for each in found] == pytest.approx(ours, abs=1e-9)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_verb_without_duration_is_ended_by_a_signal(number: int) -> None:
    # env(1): interrupts ignored, as a shell does it to what runs in the background
    command = [
        *("env", "--ignore-signal=INT", sys.executable, "-m", "igniter_prof", "sniff", "--json"),
        *("--interface", "lo", "--port"),
    ]
    with (
        http_server() as port,
        subprocess.Popen(
            [*command, str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as verb,
    ):
        try:
            assert verb.stderr is not None
            assert "ends it" in verb.stderr.readline()
            with client("127.0.0.1", port) as connection:
                ask(connection, "/", b"x")
            time.sleep(0.2)  # until it waits, and the packets are in its ring
            os.killpg(verb.pid, number)
            out, errors = verb.communicate(timeout=30)
        finally:
            verb.kill()
    assert verb.returncode == 0, errors
    assert json.loads(out)["network"]["paired"] == 1


@pytest.fixture
def bridged() -> Iterator[tuple[str, str, str, str]]:
    """A namespace behind a veth in a bridge: its name, the bridge, the veth, its address."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    token = secrets.token_hex(3)
    space, bridge, outer, inner = (f"igt{kind}{token}" for kind in ("n", "b", "o", "i"))
    net = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}"
    setup = [
        f"ip netns add {space}",
        f"ip link add {bridge} type bridge",
        f"ip link add {outer} type veth peer name {inner} netns {space}",
        f"ip link set {outer} master {bridge} up",
        f"ip addr add {net}.1/24 dev {bridge}",
        f"ip link set {bridge} up",
        f"ip -n {space} addr add {net}.2/24 dev {inner}",
        f"ip -n {space} link set {inner} up",
    ]
    try:
        for line in setup:
            done = subprocess.run(line.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{line}: {done.stderr.strip()}")
        yield space, bridge, outer, f"{net}.2"
    finally:
        for line in (f"ip netns del {space}", f"ip link del {bridge}", f"ip link del {outer}"):
            subprocess.run(line.split(), capture_output=True, check=False)


def test_a_bridge_and_a_veth_see_each_request_once(bridged: tuple[str, str, str, str]) -> None:
    space, bridge, outer, address = bridged
    server = [Server(socket.inet_aton(address), 8080, "http")]
    with (
        http_server("ip", "netns", "exec", space, address="0.0.0.0", port=8080),
        Capture(bridge, server) as on_bridge,
        Capture(outer, server) as on_veth,
    ):
        with client(address, 8080) as connection:
            stamps = np.array([ask(connection, "/", b"x" * 100_000) for _ in range(100)])
        seen = [on_bridge.end(), on_veth.end()]
    for captured in seen:
        rows = by_start(captured)
        assert (captured.drops, len(rows), captured.paired.sum()) == (0, 100, 100)
        assert captured.counters[0][1] < 20  # retransmissions of TCP, not second copies
        assert (rows["request_ns"] > stamps[:, 0] - SLACK_NS).all()
        assert (rows["response_end_ns"] < stamps[:, 1] + SLACK_NS).all()
    assert seen[0].counters[0][2] > 0  # merged by the kernel: longer than the MTU
    found = subprocess.run(
        [
            *(sys.executable, "-c"),
            "from igniter_prof.capture.interfaces import leading_to; import socket, sys;"
            "print(leading_to(socket.inet_aton(sys.argv[1])))",
            address,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == bridge


def test_drops_of_the_kernel_are_counted() -> None:
    with http_server() as port, Capture("lo", [Server(LOCAL, port, "grpc")]) as capture:
        # a capturing process that does not get to run, until the ring is full
        os.kill(capture._process.pid, 19)
        with client("127.0.0.1", port) as connection:
            for _ in range(400):
                ask(connection, "/", b"x" * 600_000)
        os.kill(capture._process.pid, 18)
        captured = capture.end()
    assert captured.drops
    assert captured.freezes
    rows = captured.rows[captured.paired]
    assert (rows["request_bytes"] > 600_000).all()
    assert len(rows) < 400
    assert (captured.rows["outcome"] != OPEN).any()


def test_without_the_right_the_verb_says_how_to_get_it() -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can give its rights up, with setpriv")
    verb = [sys.executable, "-m", "igniter_prof", "sniff", "--host", "127.0.0.1", "--port", "9"]
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-net_raw", *verb],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3, done.stderr
    assert "CAP_NET_RAW" in done.stderr
    assert "setcap" in done.stderr


@needs_local_runtime
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_request_to_a_real_triton_is_paired(protocol: Protocol) -> None:
    device = resolve_device("cpu")
    cell = Cell(
        device=device.id,
        tenants=(Tenant(model="mlp"), Tenant(model="mlp", batch_size=4)),
        load=Load(kind="closed", concurrency=2),
        protocol=protocol,
    )
    stopping = Stopping(min_s=1.0, max_s=1.5, warmup_s=0.3, cooldown_s=1)
    context = CellContext(device, ServeOptions(), stopping, monitors=("client", "sniffer"))
    measured = run_cell(cell, context)
    for tenant in measured.measurement.tenants:
        assert tenant.status == "ok", tenant.detail
    report = next(each for each in measured.measurement.monitors if each.name == "sniffer")
    assert report.complete, report.notes
    for index, tenant in enumerate(measured.measurement.tenants):
        network, latency = tenant.network, tenant.latency
        assert network is not None
        assert latency is not None
        assert network.server is not None
        assert network.total is not None
        assert (network.unpaired, network.dropped_packets) == (0, 0)
        assert abs(network.paired - latency.count) <= 4
        assert 0 < network.server.mean_ms <= network.total.mean_ms < latency.mean_ms
        trace = measured.traces[f"sniffer_{index}"]
        assert (trace["outcome"] == PAIRED).sum() >= network.paired


def test_nothing_is_left_behind() -> None:
    with http_server() as port:
        threads = threading.active_count()
        for _ in range(3):
            with Capture("lo", [Server(LOCAL, port)]) as capture:
                process = capture._process
            assert process.returncode is not None
        assert threading.active_count() == threads
