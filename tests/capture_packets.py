"""Packets of made-up TCP connections, in the order in which a capture would see them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from igniter_prof.capture.live import Captured, captured_by
from igniter_prof.capture.packets import Dissector, Server

CLIENT, SERVER = (b"\x0a\0\0\x01", 40000), (b"\x0a\0\0\x02", 8000)
FIN, SYN, RST, ACK = 1, 2, 4, 16
STEP_NS = 1000


class Packet(NamedTuple):
    """What a capture has of a packet."""

    data: bytes
    wire: int
    time_ns: int


def ip_packet(
    source: tuple[bytes, int],
    target: tuple[bytes, int],
    seq: int,
    ack: int,
    flags: int,
    payload: bytes = b"",
) -> bytes:
    """A packet from its IP header on; IPv4 or IPv6 by the length of the addresses."""
    tcp = struct.pack(
        "!HHIIBBHHH",
        source[1],
        target[1],
        seq & 0xFFFFFFFF,
        ack & 0xFFFFFFFF,
        5 << 4,
        flags,
        65535,
        0,
        0,
    )
    length = len(tcp) + len(payload)
    if len(source[0]) == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, length + 20, 0, 0, 64, 6, 0)
    else:
        head = struct.pack("!IHBB", 6 << 28, length, 6, 64)
    return head + source[0] + target[0] + tcp + payload


@dataclass
class Talk:
    """One connection, written down as it is captured."""

    client: tuple[bytes, int] = CLIENT
    server: tuple[bytes, int] = SERVER
    client_isn: int = 1000
    server_isn: int = 5000
    snap: int = 1 << 20
    packets: list[Packet] = field(default_factory=list)
    sent: list[int] = field(default_factory=lambda: [0, 0])
    """Bytes that the client and the server have sent in all."""

    def open(self) -> None:
        """The handshake."""
        self.raw(0, SYN, self.client_isn, 0)
        self.raw(1, SYN | ACK, self.server_isn, self.client_isn + 1)

    def raw(self, who: int, flags: int, seq: int, ack: int, payload: bytes = b"") -> None:
        """Any packet; ``who`` is 0 for the client, 1 for the server."""
        ends = (self.client, self.server)
        data = ip_packet(ends[who], ends[1 - who], seq, ack, flags, payload)
        self.packets.append(Packet(data[: self.snap], len(data), (len(self.packets) + 1) * STEP_NS))

    def at(self, who: int, position: int, payload: bytes, flags: int = ACK) -> None:
        """A segment at a position of one side's stream; all of the other side is acknowledged."""
        isn = (self.client_isn, self.server_isn)
        seq = isn[who] + 1 + position
        self.raw(who, flags, seq, isn[1 - who] + 1 + self.sent[1 - who], payload)

    def say(self, who: int, payload: bytes, cuts: Sequence[int] = ()) -> None:
        """Data in order, cut at some places."""
        edges = [0, *sorted(set(cuts)), len(payload)]
        for begin, end in itertools.pairwise(edges):
            if end > begin:
                self.at(who, self.sent[who] + begin, payload[begin:end])
        self.sent[who] += len(payload)

    def finish(self, who: int) -> None:
        """One side closes."""
        self.at(who, self.sent[who], b"", FIN | ACK)
        self.sent[who] += 1


def dissect(
    packets: Sequence[Packet], protocol: str = "auto", server: Server | None = None
) -> Captured:
    """What the dissector finds in packets."""
    wanted = server or Server(SERVER[0], SERVER[1], protocol)
    dissector = Dissector([wanted], mtu=1500)
    for each in packets:
        dissector.packet(each.data, 0, len(each.data), each.wire, each.time_ns)
    dissector.close()
    return captured_by(dissector)


def found(captured: Captured) -> list[tuple[str, int, int, int]]:
    """Label, outcome, bytes up and down of each request, by its first byte."""
    rows = np.sort(captured.rows, order=["request_ns", "request_end_ns"], kind="stable")
    return [
        (
            captured.labels[row["label"]][1],
            int(row["outcome"]),
            int(row["request_bytes"]),
            int(row["response_bytes"]),
        )
        for row in rows
    ]
