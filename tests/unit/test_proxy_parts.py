"""The proxy's parts that need no socket: what is forwarded, rows, sums, addresses."""

from __future__ import annotations

import asyncio
import csv
from datetime import datetime, timezone
from pathlib import Path

import h11
import pytest

from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.proxy import COLUMNS, Proxy, Row, RowFile, Tally, parse_place
from igniter_prof.proxy.headers import (
    origin_form,
    path_of,
    refusal,
    request_headers,
    response_headers,
)
from igniter_prof.proxy.pool import Pool
from igniter_prof.proxy.tally import OTHERS, PATHS_LIMIT

VIA = b"igprof-1"


def _request(
    *headers: tuple[str, str], method: str = "POST", version: bytes = b"1.1"
) -> h11.Request:
    host = [] if version == b"1.0" else [("Host", "a")]
    return h11.Request(method=method, target="/x", headers=[*host, *headers], http_version=version)


def _forwarded(request: h11.Request) -> dict[bytes, bytes]:
    return dict(request_headers(request, b"server:1", VIA))


def test_what_concerns_one_connection_is_not_forwarded() -> None:
    request = _request(
        ("Connection", "keep-alive, X-Mine"),
        ("X-Mine", "1"),
        ("X-Theirs", "2"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic x"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("Content-Length", "3"),
    )
    assert _forwarded(request) == {
        b"Host": b"a",
        b"X-Theirs": b"2",
        b"Content-Length": b"3",
        b"Via": b"1.1 igprof-1",
    }
    assert refusal(request, VIA) is None


def test_a_client_cannot_have_the_framing_removed() -> None:
    request = _request(("Connection", "content-length, host"), ("Content-Length", "3"))
    forwarded = _forwarded(request)
    assert forwarded[b"Content-Length"] == b"3"
    assert forwarded[b"Host"] == b"a"


def test_chunks_stay_chunks_and_an_old_client_gets_a_host() -> None:
    assert (
        _forwarded(_request(("Transfer-Encoding", "chunked")))[b"Transfer-Encoding"] == b"chunked"
    )
    old = _forwarded(_request(("Expect", "100-continue"), version=b"1.0"))
    assert old == {b"Host": b"server:1", b"Via": b"1.0 igprof-1"}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (_request(method="CONNECT"), 501),
        (_request(("Upgrade", "websocket"), ("Connection", "upgrade")), 501),
        (_request(("Content-Length", "3"), ("Transfer-Encoding", "chunked")), 400),
        (_request(("Transfer-Encoding", "chunked"), version=b"1.0"), 400),
        (_request(("Via", "1.1 other, 1.1 igprof-1")), 508),
        (h11.Request(method="PRI", target="*", headers=[], http_version=b"2.0"), 505),
    ],
)
def test_what_is_refused(request_: h11.Request, status: int) -> None:
    found = refusal(request_, VIA)
    assert found is not None
    assert found.status == status


def test_a_chunked_response_has_no_length() -> None:
    response = h11.Response(
        status_code=200,
        headers=[("Transfer-Encoding", "chunked"), ("Content-Length", "7"), ("Server", "x")],
    )
    assert response_headers(response) == [(b"Server", b"x")]


def test_a_path_has_neither_host_nor_query() -> None:
    assert path_of(b"http://host:1/a/b?key=secret") == "/a/b"
    assert path_of(b"/a?b?c#d") == "/a"
    assert origin_form(b"http://host:1?b") == b"/?b"
    assert origin_form(b"*") == b"*"


@pytest.mark.parametrize(
    ("target", "origin"),
    [
        (b"http://[", b"/"),
        (b"HTTP://[::1/a", b"/a"),
        (b"http://a]b?c/d", b"/?c/d"),
        (b"https://", b"/"),
        (b"http://a#/b", b"/"),
    ],
)
def test_a_target_with_a_broken_host_ends_nothing(target: bytes, origin: bytes) -> None:
    assert origin_form(target) == origin
    assert path_of(target) == origin.partition(b"?")[0].decode()


def _row(path: str = "/a", latency_ms: int = 10, error: str = "") -> Row:
    return Row(
        method="POST",
        path=path,
        status=200,
        received_ns=1_000_000,
        sent_ns=2_000_000,
        first_byte_ns=4_000_000,
        last_byte_ns=1_000_000 + latency_ms * 1_000_000,
        request_bytes=5,
        error=error,
    )


def test_rows_are_on_disk_as_soon_as_they_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with RowFile(path) as rows:
        rows.append(_row(path='/a,"b"\n'))
        with path.open(newline="") as file:
            (row,) = csv.DictReader(file)
    assert tuple(row) == COLUMNS
    assert datetime.fromisoformat(row["received_at"]) < datetime.now(timezone.utc)
    assert (row["path"], row["latency_ms"], row["upload_ms"]) == (
        '/a,"b"\n',
        "10.000000",
        "1.000000",
    )
    assert (row["server_ms"], row["download_ms"]) == ("2.000000", "7.000000")
    with pytest.raises(BadInput, match="there already"):
        RowFile(path)


def test_what_did_not_happen_is_empty(tmp_path: Path) -> None:
    early = Row(received_ns=1, sent_ns=9, first_byte_ns=5, last_byte_ns=10)
    values = dict(zip(COLUMNS, early.values(), strict=True))
    assert values["server_ms"] is None  # it answered before it had the whole request
    assert Row().values()[3:8] == [None] * 5


def test_a_full_disk_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    rows = RowFile.__new__(RowFile)
    rows._path = Path("/dev/full")
    rows._file = Path("/dev/full").open("w")  # noqa: SIM115
    rows._writer = csv.writer(rows._file)
    with pytest.raises(MissingCapability, match="no disk space"):
        rows.append(_row())
    with pytest.raises(OSError, match="No space"):
        rows._file.close()


def test_sums_are_by_path_and_leave_failures_out() -> None:
    tally = Tally()
    for latency_ms in (10, 20):
        tally.add(_row(latency_ms=latency_ms))
    tally.add(_row(path="/b", error="the client left"))
    tally.add(Row(path="/b"))
    first, second = tally.summary()
    assert first.latency is not None
    assert (first.path, first.requests, first.failed, first.latency.mean_ms) == ("/a", 2, 0, 15.0)
    assert (second.path, second.requests, second.failed, second.latency) == ("/b", 2, 2, None)
    assert (tally.requests, tally.failed, tally.mean_ms) == (4, 2, 15.0)


def test_paths_without_end_take_no_memory_without_end() -> None:
    tally = Tally()
    for index in range(PATHS_LIMIT + 50):
        tally.add(_row(path=f"/{index}"))
    summary = tally.summary()
    assert len(summary) == PATHS_LIMIT + 1
    assert (summary[0].path, summary[0].requests) == (OTHERS, 50)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("host:80", ("host", 80)),
        ("http://host:80/", ("host", 80)),
        ("[::1]:80", ("::1", 80)),
        ("9000", ("127.0.0.1", 9000)),
        (":9000", ("127.0.0.1", 9000)),
    ],
)
def test_places(text: str, place: tuple[str, int]) -> None:
    assert parse_place(text, "--listen", "127.0.0.1") == place


@pytest.mark.parametrize(
    "text", ["", "host", "https://host:1", "me:pw@host:1", "host:1/x", "host:x"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--to") as refused:
        parse_place(text, "--to")
    assert "pw" not in str(refused.value)


def test_a_name_that_none_can_have_is_told() -> None:
    with pytest.raises(OutsideFailure, match="its name is not known"):
        Pool("a..b", 80)

    async def listen() -> None:
        await Proxy(Pool("127.0.0.1", 80), lambda row: None).start("a..b", 0)

    with pytest.raises(BadInput, match="no name of a host"):
        asyncio.run(listen())
