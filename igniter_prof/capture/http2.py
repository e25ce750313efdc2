"""HTTP/2 in one TCP connection, as gRPC uses it: requests and responses by stream [RFC 9113].

Only frame headers are read (headers stay compressed), and the begin of a request's first message:
a Triton request names its model there, which is the label.
"""

from __future__ import annotations

import struct

from igniter_prof.capture.exchanges import (
    LOST,
    OPEN,
    PAIRED,
    RESET,
    UNANSWERED,
    Buffer,
    Exchange,
    Ledger,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE = range(9)
CONTINUATION = 9
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
FRAME = struct.Struct(">BHBBI")
FRAME_BYTES = 9
MAX_SYNC_FRAME = 1 << 20
"""Longer frames are not taken for such when the place in the stream was lost."""
LABEL_BYTES = 256
MESSAGE_AT = 5
"""A gRPC message comes after a flag and its length."""
NAME_TAG = 0x0A
"""Field 1, length-delimited: where a ModelInferRequest has its model's name."""
VERSION_TAG = 0x12
"""Field 2, length-delimited: where it has the model's version."""
EMPTY, NO_INPUTS = b"(empty)", b" (no inputs)"
"""Labels of requests that infer nothing: of an empty one, and behind a model's name."""
_FIXED = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_OF_STREAM = {DATA, HEADERS, PRIORITY, RST_STREAM, PUSH_PROMISE, CONTINUATION}
_OF_CONNECTION = {SETTINGS, PING, GOAWAY}


def plausible(data: bytes) -> bool:
    """Whether whole frame headers follow one another from here on, as far as data goes."""
    at, frames = 0, 0
    while at + FRAME_BYTES <= len(data):
        high, low, kind, _, stream = FRAME.unpack_from(data, at)
        length = (high << 16) + low
        if kind > CONTINUATION or stream >> 31 or length > MAX_SYNC_FRAME:
            return False
        if (kind in _OF_STREAM and not stream) or (kind in _OF_CONNECTION and stream):
            return False
        if _FIXED.get(kind, length) != length or (kind == SETTINGS and length % 6):
            return False
        at += FRAME_BYTES + length
        frames += 1
    return frames > 0


def model_name(message: bytes) -> bytes:
    """What a gRPC message asks for, by the fields of a ModelInferRequest.

    Questions about a model (ready, metadata, statistics) begin with its name as well, but have
    nothing besides except its version; those about the server are empty.

    Args:
        message: its begin, with the length before it; up to its model's version at least.

    Returns:
        The first field if it is text, NO_INPUTS behind it if nothing to infer follows; or EMPTY;
        nothing if it cannot be told.
    """
    if len(message) >= MESSAGE_AT and not any(message[1:MESSAGE_AT]):
        return EMPTY
    if len(message) < 7 or message[0] != 0 or message[5] != NAME_TAG or message[6] > 127:
        return b""
    end, at = MESSAGE_AT + int.from_bytes(message[1:MESSAGE_AT], "big"), 7 + message[6]
    name = message[7:at]
    if len(message) > at + 1 and message[at] == VERSION_TAG:
        at += 2 + message[at + 1]
    return name + NO_INPUTS if end <= at else name


class Http2:
    """One connection. ``client`` and ``server`` are the readers of its two directions."""

    def __init__(self, ledger: Ledger, connection: int, server: int, midway: bool) -> None:
        self.ledger = ledger
        self.number = connection
        self.server_index = server
        self.streams: dict[int, Exchange] = {}
        self.client = FrameReader(self, client=True, lost=midway)
        self.server = FrameReader(self, client=False, lost=midway)
        self.opaque = False
        ledger.framed += 1

    def end(self, outcome: int) -> None:
        """All streams have ended that way."""
        self.ledger.add_all(list(self.streams.values()), outcome)
        self.streams.clear()

    def finished(self, client: bool, time_ns: int) -> None:
        """One direction was closed in order (FIN)."""
        if not client:
            self.end(UNANSWERED)

    def reset(self) -> None:
        """The connection was reset."""
        self.end(RESET)

    def close(self) -> None:
        """The capture ends."""
        self.end(OPEN)

    # --- what the readers tell ---

    def frame(self, client: bool, kind: int, stream: int, size: int, time_ns: int) -> None:
        """A frame of DATA or HEADERS begins."""
        exchange = self.streams.get(stream)
        if client:
            if exchange is None:
                if kind != HEADERS or not stream % 2:
                    return  # its begin was not seen, or it is over
                exchange = self.streams[stream] = Exchange(
                    self.number, self.server_index, time_ns, midway=self.server.lost
                )
            exchange.up += size
        elif exchange is not None:
            if exchange.response_ns < 0:
                exchange.response_ns = time_ns
            exchange.down += size

    def end_stream(self, client: bool, stream: int, time_ns: int) -> None:
        """One side has sent all of a stream."""
        exchange = self.streams.get(stream)
        if exchange is None:
            return
        if client:
            exchange.request_end_ns, exchange.asked = time_ns, True
        else:
            exchange.response_end_ns, exchange.answered = time_ns, True
        if exchange.asked and exchange.answered:
            self.ledger.add(self.streams.pop(stream), PAIRED)

    def reset_stream(self, stream: int) -> None:
        """One side gave a stream up."""
        exchange = self.streams.pop(stream, None)
        if exchange is not None:
            self.ledger.add(exchange, RESET)


class FrameReader:
    """One direction of a connection: finds where frames begin and end."""

    __slots__ = (
        "_begun_ns",
        "_client",
        "_connection",
        "_ends",
        "_kept",
        "_kind",
        "_label",
        "_left",
        "_pad",
        "_stream",
        "_until",
        "lost",
    )

    def __init__(self, connection: Http2, *, client: bool, lost: bool) -> None:
        self._connection = connection
        self._client = client
        self.lost = lost
        self._kept = b""
        self._begun_ns = 0
        # a preface comes first; it is skipped as if it were a frame
        self._left = len(PREFACE) if client and not lost else 0
        self._kind = SETTINGS
        self._stream = 0
        self._ends = False
        """The frame in hand ends its stream's direction."""
        self._until = 0
        """A stream that ends with its header block, which CONTINUATION goes on with."""
        self._label: Exchange | None = None
        """The request whose first message is in hand, to learn what it asks for."""
        self._pad = False

    def feed(self, buffer: Buffer, at: int, captured: int, length: int, time_ns: int) -> None:
        """Take the next bytes of the stream, of which the first ``captured`` are in the buffer."""
        end, stop = at + captured, at + length
        if self.lost:
            data = bytes(buffer[at:end])
            if data.startswith(PREFACE):
                self._left, self._kind = len(PREFACE), SETTINGS
            elif not plausible(data):
                return
            self.lost = False
        while at < stop:
            if self._left:
                if self._label is not None:
                    self._learn(bytes(buffer[at : min(end, at + self._left, at + LABEL_BYTES)]))
                if self._left > stop - at:
                    self._left -= stop - at
                    return
                at += self._left
                self._left = 0
                self._end_frame(time_ns)
                continue
            if not self._kept:
                self._begun_ns = time_ns
            wanted = FRAME_BYTES - len(self._kept)
            header = self._kept + bytes(buffer[at : min(end, at + wanted)])
            if len(header) < FRAME_BYTES:
                if end < stop:
                    self._connection.ledger.cut += 1
                    return self._lose()
                self._kept = header
                return
            self._kept = b""
            at += wanted
            self._begin_frame(header)
            if not self._left:
                self._end_frame(time_ns)

    def gap(self, length: int) -> None:
        """That many bytes of the stream were never seen."""
        if not self.lost:
            if self._left > length and self._kind == DATA:
                self._left -= length
                self._label, self._kept = None, b""
            else:
                self._lose()

    def _begin_frame(self, header: bytes) -> None:
        high, low, kind, flags, stream = FRAME.unpack(header)
        stream &= 0x7FFFFFFF
        self._left, self._kind, self._stream = (high << 16) + low, kind, stream
        self._ends = False
        if kind in (DATA, HEADERS):
            self._connection.frame(
                self._client, kind, stream, self._left + FRAME_BYTES, self._begun_ns
            )
            if flags & END_STREAM:
                if kind == DATA or flags & END_HEADERS:
                    self._ends = True
                else:
                    self._until = stream
            if kind == DATA and self._client:
                exchange = self._connection.streams.get(stream)
                if exchange is not None and not exchange.label:
                    self._label, self._pad = exchange, bool(flags & PADDED)
        elif kind == CONTINUATION and flags & END_HEADERS and stream == self._until:
            self._ends, self._until = True, 0

    def _end_frame(self, time_ns: int) -> None:
        if self._label is not None:
            self._name(self._label, self._kept)
            self._label, self._kept = None, b""
        if self._ends:
            self._connection.end_stream(self._client, self._stream, time_ns)
        elif self._kind == RST_STREAM:
            self._connection.reset_stream(self._stream)

    def _learn(self, data: bytes) -> None:
        """Gather the begin of a request's first message."""
        self._kept += data
        if len(self._kept) >= LABEL_BYTES and self._label is not None:
            self._name(self._label, self._kept)
            self._label, self._kept = None, b""

    def _name(self, exchange: Exchange, message: bytes) -> None:
        exchange.label = model_name(message[1:] if self._pad else message)

    def _lose(self) -> None:
        """The place in the stream is lost: what is under way may have ended unseen."""
        self.lost = True
        self._left = self._until = 0
        self._kept, self._label = b"", None
        self._connection.end(LOST)
