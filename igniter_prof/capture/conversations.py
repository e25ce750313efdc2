"""What two ends of a TCP connection speak, found out from the client's first bytes."""

from __future__ import annotations

from typing import Protocol

from igniter_prof.capture import http1, http2
from igniter_prof.capture.exchanges import Buffer, Ledger
from igniter_prof.capture.http1 import METHODS, Http1
from igniter_prof.capture.http2 import PREFACE, Http2
from igniter_prof.capture.turns import Turns

AUTO, HTTP, GRPC, TCP = "auto", "http", "grpc", "tcp"
PROTOCOLS = (AUTO, HTTP, GRPC, TCP)
TLS, OTHER = "tls", "other"

MAX_KEPT = 1 << 20
"""Bytes that are kept of a connection until it is clear what it speaks."""
UNKNOWN_TURNS = 3
"""So many requests that are not understood, and a connection of which the begin is missing is
taken for another protocol."""
_TLS_RECORDS = (0x14, 0x15, 0x16, 0x17)


class Reader(Protocol):
    """One direction of a connection."""

    def feed(self, buffer: Buffer, at: int, captured: int, length: int, time_ns: int) -> None:
        """Take the next bytes of the stream, of which the first ``captured`` are in the buffer."""

    def gap(self, length: int) -> None:
        """That many bytes of the stream were never seen."""


class Conversation(Protocol):
    """What passes in a connection."""

    opaque: bool
    """Nothing more can be understood of it."""

    @property
    def client(self) -> Reader:
        """Reads what the client sends."""

    @property
    def server(self) -> Reader:
        """Reads what the server sends."""

    def finished(self, client: bool, time_ns: int) -> None:
        """One direction was closed in order (FIN)."""

    def reset(self) -> None:
        """The connection was reset."""

    def close(self) -> None:
        """The capture ends."""


def begins(data: bytes) -> str | None:
    """What a connection speaks whose client begins so; None: too little to tell."""
    if data.startswith(PREFACE):
        return GRPC
    if data.startswith(METHODS):
        return HTTP
    if any(word.startswith(data) for word in (PREFACE, *METHODS)):
        return None
    if data[0] == 0x16:
        return None if len(data) < 2 else (TLS if data[1] == 3 else OTHER)
    return OTHER


def goes_on(data: bytes) -> str | None:
    """As ``begins``, for a segment of a connection that began before; None: not recognised."""
    if http1.looks_like_request(data):
        return HTTP
    if len(data) >= 5 and data[0] in _TLS_RECORDS and data[1] == 3 and data[2] <= 4:
        return TLS
    if data.startswith(PREFACE) or http2.plausible(data):
        return GRPC
    return None


class Unknown:
    """A connection until it is clear what it speaks; then ``found`` is what it became.

    Until then what was seen is kept, and given to the right readers afterwards.
    """

    def __init__(
        self, ledger: Ledger, connection: int, server: int, midway: bool, expected: str
    ) -> None:
        self.client: Reader = _Listener(self, client=True)
        self.server: Reader = _Listener(self, client=False)
        self.opaque = False
        self.found: Conversation | None = None
        self._make = (ledger, connection, server)
        self._midway = midway
        self._expected = expected
        self._kept: list[tuple[bool, bytes, int, int]] = []
        self._size = 0
        self._prefix = b""
        self._turn = False
        self._unknown_turns = 0

    def heard(self, client: bool, data: bytes, length: int, time_ns: int) -> None:
        """A segment passed; ``data`` is what was captured of it."""
        if self._midway:
            if not client:
                self._turn = True
                return
            kind = goes_on(data)
            self._unknown_turns += self._turn
            self._turn = False
            if kind is None and self._unknown_turns >= UNKNOWN_TURNS:
                kind = OTHER
        else:
            kind = None
            if client:
                self._prefix += data
                # what was cut away will not come any more
                kind = begins(self._prefix) or (OTHER if len(data) < length else None)
        self._kept.append((client, data, length, time_ns))
        self._size += len(data)
        if kind is None and self._size > MAX_KEPT:
            kind = OTHER
        if kind is not None:
            self._become(kind)
        elif self._midway:
            self._kept.clear()
            self._size = 0

    def missed(self) -> None:
        """Bytes were never seen: as if the connection had begun before the capture."""
        self._midway = True
        self._kept.clear()
        self._size = 0

    def _become(self, kind: str) -> None:
        ledger = self._make[0]
        if kind == HTTP:
            self.found = Http1(*self._make, self._midway)
        elif kind == GRPC:
            self.found = Http2(*self._make, self._midway)
        elif kind == OTHER and self._expected == AUTO:
            self.found = Turns(*self._make, self._midway)
        else:
            self.opaque = True
            ledger.encrypted += kind == TLS
            ledger.opaque += kind != TLS
            return
        kept, self._kept = self._kept, []
        # what a server says before it is asked (the settings of HTTP/2) is no answer
        for client, data, length, time_ns in sorted(kept, key=lambda each: not each[0]):
            reader = self.found.client if client else self.found.server
            reader.feed(data, 0, len(data), length, time_ns)

    def finished(self, client: bool, time_ns: int) -> None:
        """One direction was closed in order (FIN): nothing was asked."""

    def reset(self) -> None:
        """The connection was reset: nothing was asked."""

    def close(self) -> None:
        """The capture ends: nothing was asked."""


class _Listener:
    """One direction of an unknown connection."""

    def __init__(self, unknown: Unknown, *, client: bool) -> None:
        self._unknown = unknown
        self._client = client

    def feed(self, buffer: Buffer, at: int, captured: int, length: int, time_ns: int) -> None:
        self._unknown.heard(self._client, bytes(buffer[at : at + captured]), length, time_ns)

    def gap(self, length: int) -> None:
        self._unknown.missed()


def conversation(
    ledger: Ledger, connection: int, server: int, midway: bool, expected: str
) -> Conversation:
    """The reader of a new connection; ``expected`` is one of PROTOCOLS."""
    if expected == TCP:
        return Turns(ledger, connection, server, midway)
    return Unknown(ledger, connection, server, midway, expected)
