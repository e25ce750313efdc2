"""The proxy passes bodies on whole, whatever pieces they come in, both ways."""

from __future__ import annotations

import asyncio

import h11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igniter_prof.proxy import Proxy, Row
from igniter_prof.proxy.pool import Pool

BODIES = st.lists(st.binary(max_size=300), max_size=5)
"""A body as the pieces in which it is sent."""
CUTS = st.lists(st.integers(1, 97), min_size=1, max_size=6)
"""Lengths of what is written at once, in turn."""


async def _events(http: h11.Connection, reader: asyncio.StreamReader) -> tuple[object, bytes]:
    """The head and the whole body of the peer's next message."""
    head, body = None, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(64))
        elif type(event) is h11.Data:
            body += event.data
        elif type(event) is h11.EndOfMessage:
            return head, body
        else:
            head = event


async def _write(writer: asyncio.StreamWriter, data: bytes, cuts: list[int]) -> None:
    position, turn = 0, 0
    while position < len(data):
        size = cuts[turn % len(cuts)]
        writer.write(data[position : position + size])
        await writer.drain()
        await asyncio.sleep(0)
        position, turn = position + size, turn + 1


def _message(http: h11.Connection, head: object, pieces: list[bytes]) -> bytes:
    parts = [http.send(head), *(http.send(h11.Data(data=each)) for each in pieces)]  # type: ignore[call-overload]
    parts.append(http.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)


def _framing(pieces: list[bytes], chunked: bool) -> list[tuple[str, str]]:
    if chunked:
        return [("Transfer-Encoding", "chunked")]
    return [("Content-Length", str(sum(map(len, pieces))))]


async def _through(
    requests: list[tuple[list[bytes], bool]],
    answers: list[tuple[list[bytes], str]],
    cuts: list[int],
    pipelined: bool,
) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            try:
                _, body = await _events(http, reader)
            except h11.RemoteProtocolError:
                break
            if http.their_state is h11.CLOSED:
                break
            pieces, kind = answers[len(seen)]
            seen.append(body)
            if kind == "until close":
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                await _write(writer, b"".join(pieces), cuts)
                break
            headers = _framing(pieces, kind == "chunked")
            data = _message(http, h11.Response(status_code=200, headers=headers), pieces)
            await _write(writer, data, cuts)
            http.start_next_cycle()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    rows: list[Row] = []
    proxy = Proxy(Pool("127.0.0.1", server.sockets[0].getsockname()[1]), rows.append)
    reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start("127.0.0.1", 0))
    try:
        written = []
        for pieces, chunked in requests:
            headers = [("Host", "x"), *_framing(pieces, chunked)]
            head = h11.Request(method="POST", target="/p?q=1", headers=headers)
            written.append(_message(h11.Connection(h11.CLIENT), head, pieces))
        if pipelined:
            await _write(writer, b"".join(written), cuts)
        receiving = h11.Connection(h11.CLIENT)
        for data, (pieces, _) in zip(written, answers, strict=True):
            if not pipelined:
                await _write(writer, data, cuts)
            receiving.send(h11.Request(method="POST", target="/p", headers=[("Host", "x")]))
            receiving.send(h11.EndOfMessage())
            _, body = await asyncio.wait_for(_events(receiving, reader), 10)
            assert body == b"".join(pieces)
            receiving.start_next_cycle()
    finally:
        writer.close()
        await proxy.stop()
        server.close()
    bodies = [b"".join(pieces) for pieces, _ in requests]
    assert seen == bodies
    assert [row.request_bytes for row in rows] == [len(body) for body in bodies]
    assert [row.response_bytes for row in rows] == [sum(map(len, each)) for each, _ in answers]
    for row in rows:
        assert (row.error, row.path, row.status) == ("", "/p", 200)
        assert None not in (row.received_ns, row.sent_ns, row.first_byte_ns, row.last_byte_ns)
        assert row.received_ns <= row.sent_ns  # type: ignore[operator]
        assert row.first_byte_ns <= row.last_byte_ns  # type: ignore[operator]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    exchanges=st.lists(
        st.tuples(
            st.tuples(BODIES, st.booleans()),
            st.tuples(BODIES, st.sampled_from(["length", "chunked", "until close"])),
        ),
        min_size=1,
        max_size=4,
    ),
    cuts=CUTS,
    pipelined=st.booleans(),
)
def test_bodies_come_through_whole(
    exchanges: list[tuple[tuple[list[bytes], bool], tuple[list[bytes], str]]],
    cuts: list[int],
    pipelined: bool,
) -> None:
    requests = [request for request, _ in exchanges]
    answers = [answer for _, answer in exchanges]
    asyncio.run(_through(requests, answers, cuts, pipelined))


@settings(max_examples=40, deadline=None)
@given(data=st.binary(min_size=1, max_size=200))
def test_what_is_no_http_gets_an_answer_or_is_closed(data: bytes) -> None:
    async def send() -> list[Row]:
        rows: list[Row] = []
        proxy = Proxy(Pool("127.0.0.1", 1), rows.append)
        port = await proxy.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await proxy.stop()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        return rows

    assert len(asyncio.run(send())) <= 2
