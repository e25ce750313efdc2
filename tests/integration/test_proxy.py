"""``igprof proxy`` between real sockets: a real Flask server, and servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from igniter_prof.proxy import Proxy, Row
from igniter_prof.proxy.pool import Pool
from tests.flask_server import Segmentation, flask_server

Serve = Callable[[socket.socket], None]


class Running:
    """A proxy in a thread of this process, and the rows that it told of."""

    def __init__(self, port: int) -> None:
        self.rows: list[Row] = []
        self.port = 0
        self._to = port
        self._stop = threading.Event()
        self._ready = threading.Event()

    def serve(self) -> None:
        async def run() -> None:
            proxy = Proxy(Pool("127.0.0.1", self._to), self.rows.append)
            self.port = await proxy.start("127.0.0.1", 0)
            self._ready.set()
            while not self._stop.is_set():
                await asyncio.sleep(0.01)
            await proxy.stop()

        asyncio.run(run())

    def row(self, number: int = 1) -> Row:
        """The last of that many rows, once there are so many."""
        deadline = time.monotonic() + 10
        while len(self.rows) < number:
            assert time.monotonic() < deadline, self.rows
            time.sleep(0.005)
        return self.rows[number - 1]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@contextlib.contextmanager
def proxied(port: int) -> Iterator[Running]:
    running = Running(port)
    thread = threading.Thread(target=running.serve)
    thread.start()
    assert running._ready.wait(10)
    try:
        yield running
    finally:
        running._stop.set()
        thread.join()


@contextlib.contextmanager
def raw_server(*serves: Serve) -> Iterator[int]:
    """Each function serves one connection, in turn."""

    def run() -> None:
        for serve in serves:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = connection.recv(65536)
        if not more:
            break
        data += more
    return data


def _answers(*answers: bytes) -> Serve:
    """A server that answers each request without a body with the next of these."""

    def serve(connection: socket.socket) -> None:
        for answer in answers:
            _read_until(connection, b"\r\n\r\n")
            connection.sendall(answer)
        connection.recv(1)  # until the proxy closes

    return serve


GET = b"GET /x?key=hunter2 HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_flask_server_is_asked_through_it() -> None:
    with flask_server(Segmentation()) as flask, proxied(int(flask.address.split(":")[1])) as proxy:
        client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        body = json.dumps(
            {"tensor": np.zeros((1, 3, 64, 64)).tolist(), "orig_size": [200, 300]}
        ).encode()
        with contextlib.closing(client):
            for _ in range(5):
                client.request("POST", "/predict?a=b", body, {"Content-Type": "application/json"})
                answer = client.getresponse()
                assert answer.status == 200
                assert np.shape(json.loads(answer.read())["segmentation"]) == (200, 300)
            client.request("GET", "/nothing")
            assert client.getresponse().read().startswith(b"<!doctype html>")
        last = proxy.row(6)
    assert (last.status, last.path, last.error) == (404, "/nothing", "")
    for row in proxy.rows[:5]:
        assert (row.method, row.path, row.status, row.error) == ("POST", "/predict", 200, "")
        assert row.request_bytes == len(body)
        assert row.response_bytes > 200 * 300
        assert row.latency_ms is not None
        assert row.latency_ms >= 2
        assert row.sent_ns is not None
        assert row.first_byte_ns is not None
        assert row.first_byte_ns - row.sent_ns >= 1e6


def test_connections_to_the_server_are_kept_and_shared() -> None:
    with raw_server(_answers(OK, OK, OK)) as port, proxied(port) as proxy:
        for _ in range(3):  # three clients, one connection to the server
            with proxy.connect() as client:
                client.sendall(GET)
                assert _read_until(client, b"ok").endswith(b"ok")
        proxy.row(3)
        assert [row.error for row in proxy.rows] == ["", "", ""]


def test_what_comes_in_pieces_is_passed_on_in_pieces() -> None:
    """The server sends the next piece only when the client has the last: nothing is kept back."""
    got = threading.Event()

    def serve(connection: socket.socket) -> None:
        _read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            got.clear()
            connection.sendall(b"5\r\nhello\r\n")
            assert got.wait(10)
        connection.sendall(b"0\r\n\r\n")

    with raw_server(serve) as port, proxied(port) as proxy, proxy.connect() as client:
        client.sendall(GET)
        _read_until(client, b"hello\r\n")
        got.set()
        for _ in range(4):
            assert _read_until(client, b"hello\r\n") == b"5\r\nhello\r\n"
            got.set()
        assert _read_until(client, b"0\r\n\r\n") == b"0\r\n\r\n"
        assert proxy.row().response_bytes == 25


def test_a_request_is_streamed_while_it_comes_in() -> None:
    arrived = threading.Event()

    def serve(connection: socket.socket) -> None:
        head = _read_until(connection, b"first\r\n")
        arrived.set()
        rest = _read_until(connection, b"0\r\n\r\n")
        assert b"second" in head + rest
        connection.sendall(OK)

    with raw_server(serve) as port, proxied(port) as proxy, proxy.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"5\r\nfirst\r\n")
        assert arrived.wait(10)
        client.sendall(b"6\r\nsecond\r\n0\r\n\r\n")
        assert _read_until(client, b"ok").endswith(b"ok")
        assert proxy.row().request_bytes == 11


def test_a_client_that_expects_100_continue_gets_it_from_the_server() -> None:
    def serve(connection: socket.socket) -> None:
        assert b"Expect: 100-continue" in _read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert _read_until(connection, b"body") == b"body"
        connection.sendall(OK)

    with raw_server(serve) as port, proxied(port) as proxy, proxy.connect() as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert _read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.sendall(b"body")
        assert _read_until(client, b"ok").startswith(b"HTTP/1.1 200 ")
        assert proxy.row().error == ""


def test_an_answer_before_the_end_of_the_request_comes_through() -> None:
    def serve(connection: socket.socket) -> None:
        _read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    with raw_server(serve) as port, proxied(port) as proxy, proxy.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        answer = _read_until(client, b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"Connection: close" in answer
        client.close()  # as clients do then
        row = proxy.row()
        assert (row.status, row.error) == (413, "")
        assert row.sent_ns is None


@pytest.mark.parametrize(
    ("request_", "answer", "expected"),
    [
        (
            b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\n",
            b"Content-Length: 700",
        ),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n", b"204 No Content"),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"304 Not Modified"),
    ],
)
def test_answers_without_a_body_leave_the_connection_open(
    request_: bytes, answer: bytes, expected: bytes
) -> None:
    with (
        raw_server(_answers(answer, OK)) as port,
        proxied(port) as proxy,
        proxy.connect() as client,
    ):
        client.sendall(request_)
        assert expected in _read_until(client, b"\r\n\r\n")
        client.sendall(GET)
        assert _read_until(client, b"ok").endswith(b"\r\n\r\nok")
        assert proxy.row(2).error == ""


def test_clients_of_http_1_0_get_no_chunks() -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    with raw_server(_answers(answer)) as port, proxied(port) as proxy, proxy.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        received = _read_until(client, b"never")
        assert received.endswith(b"\r\n\r\nok")
        assert b"chunked" not in received


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            501,
            "W",
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "gRPC"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501, "no tunnel"),
        (b"nonsense\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000, 431, "too long"),
    ],
)
def test_what_is_not_spoken_is_refused(request_: bytes, status: int, reason: str) -> None:
    with proxied(1) as proxy, proxy.connect() as client:
        client.sendall(request_)
        answer = _read_until(client, b"never")
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        row = proxy.row()
        assert row.status == status
        assert reason in row.error


def test_no_server_is_a_502() -> None:
    with proxied(1) as proxy, proxy.connect() as client:
        client.sendall(GET)
        assert b" 502 " in _read_until(client, b"never")
        assert "takes no connection" in proxy.row().error


def test_a_proxy_that_is_its_own_target_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    rows: list[Row] = []

    async def ask() -> bytes:
        proxy = Proxy(Pool("127.0.0.1", port), rows.append)
        await proxy.start("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.close()
        await proxy.stop()
        return answer

    assert b" 508 " in asyncio.run(ask())


def test_a_server_that_breaks_off_is_no_whole_answer() -> None:
    def serve(connection: socket.socket) -> None:
        _read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with raw_server(serve) as port, proxied(port) as proxy, proxy.connect() as client:
        client.sendall(GET)
        with contextlib.suppress(ConnectionResetError):
            assert len(_read_until(client, b"never")) < 150
        row = proxy.row()
        assert "broke off" in row.error
        assert row.last_byte_ns is None


def test_a_kept_connection_that_the_server_closes_costs_a_get_nothing() -> None:
    def closes_at_the_second(connection: socket.socket) -> None:
        for answer in (OK, b""):
            _read_until(connection, b"\r\n\r\n")
            connection.sendall(answer)

    with (
        raw_server(closes_at_the_second, _answers(OK, OK)) as port,
        proxied(port) as proxy,
        proxy.connect() as client,
    ):
        for _ in range(3):
            client.sendall(GET)
            answer = _read_until(client, b"ok")
            assert answer.endswith(b"ok")
            assert b"close" not in answer
        proxy.row(3)
        assert [row.error for row in proxy.rows] == ["", "", ""]


def test_a_kept_connection_that_the_server_closes_fails_a_post() -> None:
    """It may have had its effect: it is not sent twice."""

    def closes_at_the_second(connection: socket.socket) -> None:
        for answer in (OK, b""):
            _read_until(connection, b"body")
            connection.sendall(answer)

    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
    with raw_server(closes_at_the_second) as port, proxied(port) as proxy:
        with proxy.connect() as client:
            client.sendall(post)
            assert _read_until(client, b"ok").endswith(b"ok")
            client.sendall(post)
            assert b" 502 " in _read_until(client, b"never")
        assert "hung up" in proxy.row(2).error


def test_a_client_that_leaves_ends_the_request_at_the_server() -> None:
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError):
            _read_until(connection, b"never")
        ended.set()

    with raw_server(serve, serve) as port, proxied(port) as proxy:
        with proxy.connect() as client:
            client.sendall(GET)
            time.sleep(0.1)
        assert ended.wait(10)
        assert proxy.row().error == "the client left"
        with proxy.connect() as client:  # in the middle of its request
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
            time.sleep(0.1)
        assert proxy.row(2).error == "the client left"
        assert proxy.row(2).sent_ns is None


def test_large_bodies_both_ways_are_not_kept_in_memory() -> None:
    size = 64 * 1024 * 1024

    def serve(connection: socket.socket) -> None:
        _, _, body = _read_until(connection, b"\0").partition(b"\r\n\r\n")
        left = size - len(body)
        while left > 0:
            left -= len(connection.recv(1 << 20))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        piece = bytes(1 << 20)
        for _ in range(size >> 20):
            connection.sendall(piece)

    with raw_server(serve) as port, proxied(port) as proxy, proxy.connect() as client:
        before = _rss_bytes()
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        piece = bytes(1 << 20)
        for _ in range(size >> 20):
            client.sendall(piece)
        received = 0
        while received < size:
            received += len(client.recv(1 << 20))
        row = proxy.row()
        assert (row.request_bytes, row.response_bytes) == (size, size)
        assert _rss_bytes() - before < size // 2


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the verb ------------------------------------------------------------------------------------


def _start(*arguments: str | Path) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "igniter_prof", "proxy", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("http://127.0.0.1:"), line + process.stderr.read()
    return process, int(line.split(":")[2].split()[0])


def _ask(port: int, count: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(client):
        for _ in range(count):
            client.request("GET", "/health?token=hunter2", headers={"Authorization": "hunter2"})
            assert client.getresponse().read() == b"ok"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def flask() -> Iterator[Segmentation]:
    with flask_server(Segmentation()) as server:
        yield server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_with_all_rows(
    flask: Segmentation, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "rows.csv"
    process, port = _start("--listen", "0", "--to", flask.address, "--out", out, "--json")
    with process:
        _ask(port, 30)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    summary = json.loads(printed)
    assert (summary["requests"], summary["failed"]) == (30, 0)
    assert summary["paths"][0]["path"] == "/health"
    assert summary["paths"][0]["latency"]["count"] == 30
    rows = _rows(out)
    assert len(rows) == 30
    assert "hunter2" not in out.read_text()
    assert all(float(row["latency_ms"]) > 0 for row in rows)


def test_what_was_asked_is_on_disk_after_kill_9(flask: Segmentation, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    process, port = _start("--listen", "127.0.0.1:0", "--to", flask.address, "--out", out)
    with process:
        _ask(port, 20)
        time.sleep(0.05)
        process.kill()
        process.wait(30)
    assert len(_rows(out)) == 20


def test_requests_in_flight_leave_their_row(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    with raw_server(lambda connection: _read_until(connection, b"never") and None) as port:
        process, listening = _start("--listen", "0", "--to", f"127.0.0.1:{port}", "--out", out)
        with process, socket.create_connection(("127.0.0.1", listening)) as client:
            client.sendall(GET)
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=30)
        assert process.returncode == 0
    (row,) = _rows(out)
    assert (row["path"], row["error"]) == ("/x", "the proxy was stopped")
    assert "1 requests" in printed


def test_a_duration_ends_it_and_an_interrupt_before_is_130(
    flask: Segmentation, tmp_path: Path
) -> None:
    to = ("--to", flask.address, "--listen", "0")
    process, port = _start(*to, "--out", tmp_path / "a.csv", "--duration", "0.7")
    with process:
        _ask(port, 3)
        printed, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "/health" in printed
    process, _ = _start(*to, "--out", tmp_path / "b.csv", "--duration", "60")
    with process:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"--listen": "TAKEN"}, 3, "Address already in use"),
        ({"--to": "https://a:1"}, 2, "TLS is not spoken"),
        ({"--to": "no-such-host.invalid:1"}, 4, "its name is not known"),
        ({"--listen": "192.0.2.1:0"}, 2, "cannot listen there"),
        ({"--out": "/no/such/folder/x.csv"}, 2, "cannot be written"),
        ({"--duration": "0"}, 2, "duration"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path, changes: dict[str, str], status: int, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = {"--listen": "0", "--to": "127.0.0.1:1", "--out": str(tmp_path / "x.csv")}
        options.update({key: value.replace("TAKEN", str(port)) for key, value in changes.items()})
        done = subprocess.run(
            [
                *(sys.executable, "-m", "igniter_prof", "proxy"),
                *(word for pair in options.items() for word in pair),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
