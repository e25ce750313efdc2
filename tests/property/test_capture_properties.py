"""However TCP carries a conversation, the sniffer finds its requests, and never a wrong one."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igniter_prof.capture.exchanges import PAIRED
from tests.capture_packets import STEP_NS, Talk, dissect

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Said:
    """One request and response as bytes; sizes as they should be found."""

    label: str
    request: bytes
    interim: bytes
    response: bytes


def chunked(body: bytes, size: int, trailer: bytes = b"") -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    text = b"".join(f"{len(part):x};x=1\r\n".encode() + part + b"\r\n" for part in parts)
    return text + b"0\r\n" + trailer + b"\r\n"


@st.composite
def exchanges(draw: Any, index: int, last: bool) -> Said:
    kind = draw(st.sampled_from(["length", "chunked", "head", "empty", "not-modified", "continue"]))
    if last and draw(st.booleans()):
        kind = "close"
    up = draw(st.integers(0, 3000))
    down = 3001 + index * 7 + draw(st.integers(0, 5))
    method = "HEAD" if kind == "head" else "POST"
    label = f"{method} /{index}"
    body = bytes(draw(st.sampled_from([b"x", b"\r\n", b"HTTP/1.1 ", b"POST / "]))) * up
    head = f"{label} HTTP/1.1\r\nHost: a\r\n".encode()
    if kind == "chunked":
        request = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 500, b"T: 1\r\n")
    else:
        request = head + f"content-length:  {len(body)} \r\n\r\n".encode() + body
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" if kind == "continue" else b""
    answer = b"y" * down
    if kind == "chunked":
        response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
        response += chunked(answer, 777)
    elif kind == "close":
        response = b"HTTP/1.0 200 OK\r\n\r\n" + answer
    elif kind == "empty":
        response = f"HTTP/1.1 204 No Content\r\nX: {'z' * down}\r\n\r\n".encode()
    elif kind == "not-modified":
        response = f"HTTP/1.1 304 Not\r\nContent-Length: 99\r\nX: {'z' * down}\r\n\r\n".encode()
    else:
        response = f"HTTP/1.1 200 OK\r\nContent-Length: {down}\r\n\r\n".encode()
        response += b"" if kind == "head" else answer
    return Said(label, request, interim, response)


@st.composite
def conversations(draw: Any, pipelining: bool = True) -> list[list[Said]]:
    sizes = draw(st.lists(st.integers(1, 3 if pipelining else 1), min_size=1, max_size=4))
    total, index, groups = sum(sizes), 0, []
    for size in sizes:
        group = []
        for _ in range(size):
            group.append(draw(exchanges(index, index == total - 1)))
            index += 1
        groups.append(group)
    return groups


def disturbed(draw: Any, talk: Talk, who: int, data: bytes) -> None:
    """Say something cut anywhere, in any order, some of it twice with other cuts."""
    cuts = draw(st.lists(st.integers(1, max(1, len(data) - 1)), max_size=6))
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    pieces = list(itertools.pairwise(edges))
    for _ in range(draw(st.integers(0, 2))):
        begin = draw(st.integers(0, len(data) - 1))
        pieces.append((begin, draw(st.integers(begin + 1, len(data)))))
    base = talk.sent[who]
    for begin, end in draw(st.permutations(pieces)):
        talk.at(who, base + begin, data[begin:end])
    talk.sent[who] += len(data)


def readable_at(talk: Talk, who: int) -> np.ndarray:
    """When each byte of one side's stream could be read: when none before it was missing."""
    isn = (talk.client_isn, talk.server_isn)[who]
    address = (talk.client, talk.server)[who][0]
    length = talk.sent[who]
    there, times, prefix = np.zeros(length + 1, bool), np.zeros(length, np.int64), 0
    for packet in talk.packets:
        if packet.data[12:16] != address or len(packet.data) <= 40:
            continue
        begin = (struct.unpack_from("!I", packet.data, 24)[0] - isn - 1) & 0xFFFFFFFF
        there[begin : begin + len(packet.data) - 40] = True
        reached = int(np.argmin(there))
        times[prefix:reached] = packet.time_ns
        prefix = max(prefix, reached)
    return times


@QUICK
@given(st.data())
def test_any_segmentation_gives_the_same_pairs_and_times(data: st.DataObject) -> None:
    groups = data.draw(conversations())
    isn = st.integers(0, 2**32 - 1)
    near = st.integers(2**32 - 4000, 2**32 - 1)  # sequence numbers wrap
    talk = Talk(client_isn=data.draw(isn | near), server_isn=data.draw(isn | near))
    talk.open()
    expected, places = [], []
    for group in groups:
        up, down = talk.sent
        for said in group:
            first_up = up
            up += len(said.request)
            first_down = down + len(said.interim)
            down += len(said.interim) + len(said.response)
            expected.append((said.label, len(said.request), len(said.response)))
            places.append((first_up, up - 1, first_down, down - 1))
        disturbed(data.draw, talk, 0, b"".join(said.request for said in group))
        disturbed(data.draw, talk, 1, b"".join(said.interim + said.response for said in group))
    stamps = [readable_at(talk, who) for who in (0, 1)]
    talk.finish(1)
    talk.finish(0)
    captured = dissect(talk.packets, data.draw(st.sampled_from(["auto", "http"])))
    got = [
        (captured.labels[row["label"]][1], int(row["request_bytes"]), int(row["response_bytes"]))
        for row in captured.rows
    ]
    assert got == expected
    assert captured.paired.all()
    for row, (first, last, answer, end) in zip(captured.rows, places, strict=True):
        assert row["request_ns"] == stamps[0][first]
        assert row["request_end_ns"] == stamps[0][last]
        assert row["response_ns"] == stamps[1][answer]
        assert row["response_end_ns"] == stamps[1][end]


@QUICK
@given(st.data())
def test_what_is_lost_is_never_guessed(data: st.DataObject) -> None:
    """Packets that the capture lost, or from before it, cost requests, but pair none wrongly."""
    groups = data.draw(conversations(pipelining=False))
    talk = Talk()
    talk.open()
    sizes = {}
    for said in (said for group in groups for said in group):
        disturbed(data.draw, talk, 0, said.request)
        disturbed(data.draw, talk, 1, said.interim + said.response)
        sizes[said.label] = (len(said.request), len(said.response))
    talk.finish(1)
    packets = talk.packets[data.draw(st.integers(0, len(talk.packets))) :]
    gone = data.draw(st.sets(st.integers(0, len(talk.packets)), max_size=3))
    kept = [packet for index, packet in enumerate(packets) if index not in gone]
    captured = dissect(kept)
    for row in captured.rows[captured.paired]:
        label = captured.labels[row["label"]][1]
        if row["request_bytes"]:
            assert (row["request_bytes"], row["response_bytes"]) == sizes[label]
        assert row["request_ns"] <= row["request_end_ns"]
        assert row["response_ns"] <= row["response_end_ns"]
        assert row["request_ns"] % STEP_NS == 0


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + (
        payload
    )


@QUICK
@given(st.data())
def test_streams_of_http2_are_paired_however_they_interleave(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    talk = Talk()
    talk.open()
    talk.say(1, frame(4, 0, 0, b""))  # a server's settings may come first
    queues = []
    expected = {}
    for index in range(count):
        stream, name = 2 * index + 1, f"model{index}".encode()
        size = data.draw(st.integers(0, 40000))
        fields = b"\x0a" + bytes([len(name)]) + name + b"z" * size
        message = b"\0" + struct.pack("!I", len(fields)) + fields
        flags = data.draw(st.sampled_from([0, 4]))
        up = [frame(1, flags, stream, b"h" * 30)]
        if not flags:
            up.append(frame(9, 4, stream, b"more"))
        edges = [0, *sorted(data.draw(st.lists(st.integers(20, 30000), max_size=2))), len(message)]
        parts = [message[a:b] for a, b in itertools.pairwise(edges)]
        up += [frame(0, n == len(parts) - 1, stream, part) for n, part in enumerate(parts)]
        down = [frame(1, 4, stream, b"h"), frame(0, 0, stream, b"r" * (100 + index))]
        down += [frame(1, 1, stream, b"t"), frame(9, 4, stream, b"t")]
        queues.append((up, down))
        # a CONTINUATION is no frame of DATA or HEADERS: it is not counted
        label = name.decode() if size else f"{name.decode()} (no inputs)"
        expected[label] = (
            sum(len(each) for each in up if each[3] != 9),
            sum(len(each) for each in down if each[3] != 9),
        )

    def interleaved(parts: list[list[bytes]]) -> bytes:
        order = data.draw(st.permutations([n for n, part in enumerate(parts) for _ in part]))
        waiting = [list(part) for part in parts]
        out = b""
        for n in order:
            if waiting[n]:
                out += waiting[n].pop(0)
                while waiting[n] and waiting[n][0][3] == 9:  # CONTINUATION follows at once
                    out += waiting[n].pop(0)
        return out

    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"s" * 6)
    sent += interleaved([up for up, _ in queues])
    disturbed(data.draw, talk, 0, sent)
    disturbed(data.draw, talk, 1, frame(6, 1, 0, b"p" * 8) + interleaved([d for _, d in queues]))
    captured = dissect(talk.packets, data.draw(st.sampled_from(["auto", "grpc"])))
    assert captured.paired.all()
    got = {
        captured.labels[row["label"]][1]: (int(row["request_bytes"]), int(row["response_bytes"]))
        for row in captured.rows
    }
    assert got == expected


@QUICK
@given(st.data())
def test_turns_of_any_protocol(data: st.DataObject) -> None:
    talk = Talk()
    talk.open()
    sizes = data.draw(
        st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=5)
    )
    for up, down in sizes:
        disturbed(data.draw, talk, 0, b"\x01" * up)
        disturbed(data.draw, talk, 1, b"\x02" * down)
    talk.finish(0)
    talk.finish(1)
    captured = dissect(talk.packets, data.draw(st.sampled_from(["auto", "tcp"])))
    assert [(int(r["request_bytes"]), int(r["response_bytes"])) for r in captured.rows] == sizes
    assert captured.paired.all()


@QUICK
@given(st.lists(st.binary(max_size=120), max_size=20), st.binary(max_size=60))
def test_garbage_is_no_defect(packets: list[bytes], payload: bytes) -> None:
    talk = Talk()
    talk.open()
    talk.say(0, payload)
    talk.say(1, payload)
    dissected = dissect(
        [*talk.packets, *(talk.packets[0]._replace(data=each, wire=len(each)) for each in packets)]
    )
    assert (dissected.rows["outcome"] >= PAIRED).all()
