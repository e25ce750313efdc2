"""One request with its response, and where finished ones are kept."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence

Buffer = bytes | bytearray | memoryview | mmap.mmap
"""What packets are read from: a file's bytes, or the kernel's ring."""

UNSEEN = -1
"""A time that was not seen."""

PAIRED, UNANSWERED, RESET, LOST, MIDWAY, OPEN = range(6)
OUTCOMES = {
    PAIRED: "paired",
    UNANSWERED: "the connection ended without a whole response",
    RESET: "reset",
    LOST: "packets or their contents are missing",
    MIDWAY: "the connection began before the capture",
    OPEN: "not answered before the capture ended",
}
"""How a request ended, and what that is called."""

ROW = struct.Struct("<IIIqqqqQQ")
"""connection, label, outcome; ns of the first and last byte of request and response; their bytes.
"""
MAX_LABELS = 4096
"""Different requests (targets, models) that are told apart; those beyond share one label."""


class Exchange:
    """One request and its response while they pass; times in ns, UNSEEN until seen."""

    __slots__ = (
        "answered",
        "asked",
        "bodiless",
        "connection",
        "down",
        "first_ns",
        "label",
        "midway",
        "request_end_ns",
        "response_end_ns",
        "response_ns",
        "server",
        "up",
    )

    def __init__(self, connection: int, server: int, first_ns: int, midway: bool = False) -> None:
        self.connection = connection
        self.server = server
        self.label = b""
        self.first_ns = first_ns
        self.request_end_ns = UNSEEN
        self.response_ns = UNSEEN
        self.response_end_ns = UNSEEN
        self.up = 0
        self.down = 0
        self.asked = False
        """The whole request was seen."""
        self.answered = False
        """The whole response was seen."""
        self.bodiless = False
        """Its response has no body, whatever its headers say (HEAD)."""
        self.midway = midway
        """Seen before it was certain which response belongs to which request."""


class Ledger:
    """Finished exchanges in a compact form, and what else was counted."""

    def __init__(self) -> None:
        self.rows = bytearray()
        self.labels: list[tuple[int, bytes]] = []
        """(index of the server, label) by the number that rows have."""
        self.connections = 0
        self.midway = 0
        """Connections that began before the capture."""
        self.encrypted = 0
        """TLS connections."""
        self.opaque = 0
        """Connections that were upgraded or tunnelled, or are not understood."""
        self.framed = 0
        """Connections of HTTP/2 and chunked messages: all of their bytes are needed."""
        self.cut = 0
        """Messages lost because the snap length cut what was needed."""
        self.unsolicited = 0
        """Responses whose request was not seen."""
        self._numbers: dict[tuple[int, bytes], int] = {}

    def add(self, exchange: Exchange, outcome: int) -> None:
        """Keep a finished exchange."""
        if exchange.midway and outcome == PAIRED:
            outcome = MIDWAY
        # behind a gap, segments count from when they were seen, which may be out of order
        if exchange.request_end_ns != UNSEEN:
            exchange.request_end_ns = max(exchange.request_end_ns, exchange.first_ns)
        if exchange.response_end_ns != UNSEEN:
            exchange.response_end_ns = max(exchange.response_end_ns, exchange.response_ns)
        self.rows += ROW.pack(
            exchange.connection,
            self._number(exchange.server, exchange.label),
            outcome,
            exchange.first_ns,
            exchange.request_end_ns,
            exchange.response_ns,
            exchange.response_end_ns,
            exchange.up,
            exchange.down,
        )

    def add_all(self, exchanges: Sequence[Exchange], outcome: int) -> None:
        """Keep exchanges that ended alike."""
        for exchange in exchanges:
            self.add(exchange, outcome)

    def _number(self, server: int, label: bytes) -> int:
        number = self._numbers.get((server, label))
        if number is None:
            if len(self.labels) >= MAX_LABELS:
                label = b"(others)"
                known = self._numbers.get((server, label))
                if known is not None:
                    return known
            number = len(self.labels)
            self.labels.append((server, label))
            self._numbers[server, label] = number
        return number
