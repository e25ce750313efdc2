"""From packets to connections: IPv4, IPv6 and TCP headers, and which side is the server."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from igniter_prof.capture.conversations import AUTO, conversation
from igniter_prof.capture.exchanges import Buffer, Ledger
from igniter_prof.capture.streams import MASK, Connection, Counters, Half

IPV4_PLAIN = 0x45
_V4_TCP = struct.Struct("!xxHxxHxBxx12sIIBB")
"""IPv4 without options, and TCP: length, fragment, protocol, addresses and ports, numbers."""
_TCP = struct.Struct("!4sIIBB")
_V6 = struct.Struct("!4xHBx32s")
PROTOCOL_TCP = 6
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
FRAGMENT_OFFSET = 0x1FFF
SHORTEST = 40
"""IPv4 and TCP without options."""
_V6_EXTENSIONS = {0, 43, 60}
PURGE_EVERY = 1 << 16
"""Packets after which connections that ended are forgotten."""
FORGET_NS = 10 * 1_000_000_000
IDLE_NS = 600 * 1_000_000_000
MAX_CONNECTIONS = 1 << 16


class Server(NamedTuple):
    """Whose requests are looked for."""

    address: bytes
    """4 or 16 bytes; empty: any."""
    port: int
    """0: any."""
    protocol: str = AUTO


class Dissector:
    """Takes packets in the order in which they passed, and fills a ledger."""

    def __init__(self, servers: Sequence[Server], mtu: int = 65535) -> None:
        self.ledger = Ledger()
        self.servers: list[tuple[bytes, int]] = []
        """(address, port) of the servers that were seen; exchanges have their index."""
        self.counters: list[Counters] = []
        """For each server that was seen."""
        self.packets = 0
        self.not_understood = 0
        """Packets that are no whole TCP header over IP, or pieces of fragmented ones."""
        self._wanted = tuple(servers)
        self._mtu = mtu
        self._halves: dict[bytes, Half] = {}
        self._purge_at = PURGE_EVERY
        self._indexes: dict[tuple[bytes, int], int] = {}

    def packet(self, buffer: Buffer, at: int, captured: int, wire: int, time_ns: int) -> None:
        """Take a packet that begins with its IP header.

        Args:
            buffer: holds it.
            at: where in the buffer it begins.
            captured: bytes of it that are there.
            wire: bytes that it had.
            time_ns: when it passed.
        """
        self.packets += 1
        if captured < SHORTEST or buffer[at] != IPV4_PLAIN:
            return self._unusual(buffer, at, captured, wire, time_ns)
        total, fragment, protocol, key, seq, ack, offset, flags = _V4_TCP.unpack_from(buffer, at)
        if protocol != PROTOCOL_TCP or fragment & FRAGMENT_OFFSET:
            self.not_understood += 1
            return
        header = 20 + (offset >> 4) * 4
        # the length is 0 where the kernel merged more than it can say (BIG TCP)
        length = (total or wire) - header
        self._segment(
            key, seq, ack, flags, buffer, at + header, captured - header, length, wire, time_ns
        )

    def close(self) -> None:
        """The capture ends."""
        for half in self._halves.values():
            half.connection.close()

    def _unusual(self, buffer: Buffer, at: int, captured: int, wire: int, time_ns: int) -> None:
        """IPv6, options of IPv4, and what is neither."""
        end = at + captured
        version = buffer[at] >> 4 if captured else 0
        if version == 4 and captured >= SHORTEST:
            inner = at + (buffer[at] & 0xF) * 4
            total, fragment = struct.unpack_from("!HxxH", buffer, at + 2)
            protocol, addresses = buffer[at + 9], bytes(buffer[at + 12 : at + 20])
            total = total or wire
            if fragment & FRAGMENT_OFFSET:
                protocol = -1
        elif version == 6 and captured >= SHORTEST + 20:
            payload, protocol, addresses = _V6.unpack_from(buffer, at)
            total = payload + SHORTEST if payload else wire
            inner = at + SHORTEST
            while protocol in _V6_EXTENSIONS and inner + 8 <= end:
                protocol, inner = buffer[inner], inner + 8 + 8 * buffer[inner + 1]
        else:
            protocol = -1
        if protocol != PROTOCOL_TCP or inner + 20 > end:
            self.not_understood += 1
            return
        ports, seq, ack, offset, flags = _TCP.unpack_from(buffer, inner)
        header = inner - at + (offset >> 4) * 4
        key = addresses + ports
        self._segment(
            key,
            seq,
            ack,
            flags,
            buffer,
            at + header,
            captured - header,
            total - header,
            wire,
            time_ns,
        )

    def _segment(
        self,
        key: bytes,
        seq: int,
        ack: int,
        flags: int,
        buffer: Buffer,
        at: int,
        captured: int,
        length: int,
        wire: int,
        time_ns: int,
    ) -> None:
        half = self._halves.get(key)
        if half is None or flags & SYN:
            half = self._open(key, half, seq, ack, flags, time_ns)
            if half is None:
                return
            if flags & SYN:
                seq = (seq + 1) & MASK
        connection = half.connection
        connection.seen_ns = time_ns
        counters = connection.counters
        counters.packets += 1
        if wire > self._mtu:
            counters.merged += 1
        if self.packets >= self._purge_at:
            self._purge_at = self.packets + PURGE_EVERY
            self._purge(time_ns)
        if connection.over:
            return
        if flags & RST:
            connection.reset()
            return
        peer = half.peer
        if flags & ACK and ack != peer.next:
            if peer.next < 0:
                peer.next = ack  # so that what is lost from here on is noticed
            else:
                peer.acknowledged(ack)
        if length > 0:
            captured = min(max(captured, 0), length)
            if seq == half.next and not half.held:
                half.next = (seq + length) & MASK
                if not connection.opaque:
                    half.reader.feed(buffer, at, captured, length, time_ns)
                    connection.settle()
                if half.fin >= 0:
                    half.check_end(time_ns)
            else:
                half.segment(seq, buffer, at, captured, length, time_ns)
        if flags & FIN and half.fin < 0:
            half.end_at((seq + max(length, 0)) & MASK, time_ns)

    def _open(
        self, key: bytes, half: Half | None, seq: int, ack: int, flags: int, time_ns: int
    ) -> Half | None:
        """The half of a connection that is new, or begins anew; None: it is of no interest."""
        following = (seq + 1) & MASK
        if half is not None:  # a SYN
            if half.next < 0 and flags & ACK:  # the answer to the client's
                half.next = following
                return half
            if not half.connection.over and (flags & ACK or half.next == following):
                return half  # sent again
            half.connection.close()
        if flags & RST:
            return None
        size = (len(key) - 4) // 2
        source = (key[:size], int.from_bytes(key[-4:-2], "big"))
        target = (key[size : 2 * size], int.from_bytes(key[-2:], "big"))
        found = self._role(source, target, flags)
        if found is None:
            return None
        client, protocol = found
        server = self._index(target if client else source)
        midway = not flags & SYN
        self.ledger.connections += 1
        self.ledger.midway += midway
        connection = Connection(
            conversation(self.ledger, self.ledger.connections, server, midway, protocol),
            self.counters[server],
        )
        half = connection.client if client else connection.server
        half.next = following if flags & SYN else seq
        if flags & SYN and flags & ACK:
            half.peer.next = ack
        backwards = target[0] + source[0] + key[-2:] + key[-4:-2]
        self._halves[key], self._halves[backwards] = half, half.peer
        return half

    def _role(
        self, source: tuple[bytes, int], target: tuple[bytes, int], flags: int
    ) -> tuple[bool, str] | None:
        """Whether the sender is the client, and the protocol; None: of no interest."""
        to = next((each for each in self._wanted if _matches(each, target)), None)
        come = next((each for each in self._wanted if _matches(each, source)), None)
        if to is None and come is None:
            return None
        if to is not None and come is not None:
            # both could be: who opens it is the client, else who has the higher port
            client = not flags & ACK if flags & SYN else source[1] > target[1]
            return client, (to if client else come).protocol
        return to is not None, (to or come or self._wanted[0]).protocol

    def _index(self, server: tuple[bytes, int]) -> int:
        index = self._indexes.get(server)
        if index is None:
            index = self._indexes[server] = len(self.servers)
            self.servers.append(server)
            self.counters.append(Counters())
        return index

    def _purge(self, now_ns: int) -> None:
        """Forget connections that ended, and the idle ones if there are too many."""
        many = len(self._halves) > 2 * MAX_CONNECTIONS
        gone = []
        for key, half in self._halves.items():
            connection = half.connection
            idle_ns = now_ns - connection.seen_ns
            if connection.over:
                if idle_ns > FORGET_NS:
                    gone.append(key)
            elif many and idle_ns > IDLE_NS:
                connection.close()
                gone.append(key)
        for key in gone:
            del self._halves[key]


def _matches(server: Server, end: tuple[bytes, int]) -> bool:
    return server.address in (b"", end[0]) and server.port in (0, end[1])
