"""HTTP/1.1 in one TCP connection: keep-alive, pipelining, Content-Length, chunks [RFC 9112].

Only heads and chunk sizes are looked at; bodies are counted by their length, so they need not have
been captured.
"""

from __future__ import annotations

import re
from collections import deque

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

METHODS = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"CONNECT ")
RESPONSE = b"HTTP/1."
MAX_HEAD = 64 * 1024
MAX_LINE = 16 * 1024
CACHED_HEADS = 512

CHUNKED, UNTIL_CLOSE = -1, -2
"""Lengths of bodies that no header tells."""

UNBEGUN = -1
_HEAD, _BODY, _CHUNK_SIZE, _TRAILER, _CLOSE, _LOST = range(6)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*(?=\r)", re.IGNORECASE)
_TRANSFER = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked[ \t]*(?=\r)", re.IGNORECASE)

Head = tuple[bytes, int, int]
"""Label or nothing, status or 0, length of the body."""


def looks_like_request(data: bytes) -> bool:
    """Whether a request of HTTP/1.1 begins here."""
    return data.startswith(METHODS)


def parse_head(head: bytes, client: bool) -> Head | None:
    """What the head of a message tells, without its empty line; None if it is none."""
    line, _, _ = head.partition(b"\r\n")
    words = line.split(b" ", 2)
    if client:
        if len(words) != 3 or not words[2].startswith(b"HTTP/1"):
            return None
        # what follows the path may differ each time, and may be a secret
        target = words[1].partition(b"?")[0]
        label, status = (words[0] + b" " + target)[:200], 0
    else:
        if len(words) < 2 or not line.startswith(RESPONSE) or not words[1].isdigit():
            return None
        label, status = b"", int(words[1])
    if _TRANSFER.search(head):
        return label, status, CHUNKED
    found = _LENGTH.search(head)
    if found:
        return label, status, int(found[1])
    return label, status, 0 if client else UNTIL_CLOSE


class Http1:
    """One connection. ``client`` and ``server`` are the readers of its two directions."""

    def __init__(self, ledger: Ledger, connection: int, server: int, midway: bool) -> None:
        self.ledger = ledger
        self.number = connection
        self.server_index = server
        self.midway = midway
        """It is not certain which response belongs to which request, until none is awaited."""
        self.waiting: deque[Exchange] = deque()
        """Requests whose response has not ended, in order."""
        self.client = Reader(self, client=True, lost=midway)
        self.server = Reader(self, client=False, lost=midway)
        self.opaque = False

    def lose(self) -> None:
        """A message boundary was missed: nothing that is under way can be paired."""
        current = self.client.exchange
        if current is not None and current not in self.waiting:
            self.ledger.add(current, LOST)
        self.client.exchange = self.server.exchange = None
        self.ledger.add_all(self.waiting, LOST)
        self.waiting.clear()
        self.midway = True

    def leave(self) -> None:
        """Another protocol follows (an upgrade, a tunnel)."""
        self.opaque = True
        self.ledger.opaque += 1
        self.lose()

    def end(self, outcome: int) -> None:
        """The connection, or the capture, has ended."""
        current = self.client.exchange
        if current is not None and current not in self.waiting:
            self.ledger.add(current, outcome)
        self.client.exchange = None
        self.ledger.add_all(self.waiting, outcome)
        self.waiting.clear()

    def finished(self, client: bool, time_ns: int) -> None:
        """One direction was closed in order (FIN)."""
        if client:
            return  # half-closed: responses may still come
        if self.server.ends_with_connection():
            self.server.finish(self.server.seen_ns)
        self.end(UNANSWERED)

    def reset(self) -> None:
        """The connection was reset."""
        self.end(RESET)

    def close(self) -> None:
        """The capture ends."""
        self.end(OPEN)

    # --- what the readers tell ---

    def begin_request(self, time_ns: int) -> Exchange:
        """The first byte of a request was seen."""
        exchange = Exchange(self.number, self.server_index, time_ns, self.midway)
        self.waiting.append(exchange)
        return exchange

    def end_request(self, exchange: Exchange, time_ns: int, size: int) -> None:
        """The last byte of a request was seen."""
        exchange.request_end_ns, exchange.up, exchange.asked = time_ns, size, True
        if exchange.answered:
            self.ledger.add(exchange, PAIRED)

    def end_response(self, exchange: Exchange, time_ns: int, size: int) -> None:
        """The last byte of a response was seen."""
        exchange.response_end_ns, exchange.down, exchange.answered = time_ns, size, True
        self.waiting.popleft()
        if exchange.asked:
            self.ledger.add(exchange, PAIRED)
        if not self.waiting:
            self.midway = False


class Reader:
    """One direction of a connection: finds where messages begin and end."""

    __slots__ = (
        "_begun_at",
        "_begun_ns",
        "_chunked",
        "_client",
        "_connection",
        "_heads",
        "_kept",
        "_left",
        "_position",
        "_state",
        "exchange",
        "seen_ns",
    )

    def __init__(self, connection: Http1, *, client: bool, lost: bool) -> None:
        self._connection = connection
        self._client = client
        self._state = _LOST if lost else _HEAD
        self._left = 0
        self._chunked = False
        self._kept = b""
        self._position = 0
        self._begun_at = UNBEGUN
        self._begun_ns = 0
        self._heads: dict[bytes, Head] = {}
        self.exchange: Exchange | None = None
        self.seen_ns = 0
        """When the last byte was seen."""

    def feed(self, buffer: Buffer, at: int, captured: int, length: int, time_ns: int) -> None:
        """Take the next bytes of the stream, of which the first ``captured`` are in the buffer."""
        start, end, stop = at, at + captured, at + length
        offset = self._position - at  # from an index of the buffer to a position in the stream
        self._position += length
        self.seen_ns = time_ns
        while at < stop:
            state = self._state
            if state == _BODY:
                if self._left > stop - at:
                    self._left -= stop - at
                    return
                at += self._left
                self._left = 0
                if self._chunked:
                    self._state = _CHUNK_SIZE
                else:
                    self._finish(time_ns, offset + at)
            elif state == _HEAD:
                if at >= end:
                    return self._cut()
                part = min(end, at + MAX_LINE)
                cut = part == end < stop
                at = self._head(bytes(buffer[at:part]), at, offset, time_ns, cut)
            elif state in (_CHUNK_SIZE, _TRAILER):
                if at >= end:
                    return self._cut()
                at = self._line(bytes(buffer[at : min(end, at + MAX_LINE)]), at, offset, time_ns)
            elif state == _CLOSE or not self._recognises(buffer, start, at, end):
                return

    def gap(self, length: int) -> None:
        """That many bytes of the stream were never seen."""
        self._position += length
        if self._state == _BODY and self._left > length:
            self._left -= length
        elif self._state not in (_CLOSE, _LOST):
            self._lose()

    def ends_with_connection(self) -> bool:
        """Whether the close of the connection ends a message."""
        return self._state == _CLOSE and self.exchange is not None

    def finish(self, time_ns: int) -> None:
        """End the message whose end is that of the connection."""
        self._finish(time_ns, self._position)

    def _recognises(self, buffer: Buffer, start: int, at: int, end: int) -> bool:
        """Whether a message begins at this segment's begin, after the place was lost."""
        data = bytes(buffer[at : min(end, at + 8)])
        if at != start or not (
            looks_like_request(data) if self._client else data.startswith(RESPONSE)
        ):
            return False
        self._state = _HEAD
        self._kept = b""
        return True

    def _head(self, data: bytes, at: int, offset: int, time_ns: int, cut: bool) -> int:
        """Read a head from here on; returns where it ends in the buffer."""
        if self._begun_at == UNBEGUN:
            blank = len(data) - len(data.lstrip(b"\r\n"))  # allowed before a request
            if blank:
                return at + blank
            self._begun_at, self._begun_ns = offset + at, time_ns
            if self._client:
                self.exchange = self._connection.begin_request(time_ns)
        kept = len(self._kept)
        whole = self._kept + data if kept else data
        found = whole.find(b"\r\n\r\n", max(0, kept - 3))
        if found < 0:
            if cut or len(whole) > MAX_HEAD:
                self._cut()
            else:
                self._kept = whole
            return at + len(data)
        self._kept = b""
        at += found + 4 - kept
        text = whole[: found + 2]
        head = self._heads.get(text)
        if head is None:
            parsed = parse_head(text, self._client)
            if parsed is None:
                self._lose()
                return at
            head = parsed
            if len(self._heads) >= CACHED_HEADS:
                self._heads.clear()
            self._heads[text] = head
        self._begin(head, time_ns, offset + at)
        return at

    def _begin(self, head: Head, time_ns: int, position: int) -> None:
        label, status, length = head
        connection = self._connection
        if self._client:
            if self.exchange is not None:
                self.exchange.label = label
                self.exchange.bodiless = label.startswith(b"HEAD ")
        else:
            if 100 <= status < 200:
                self._begun_at = UNBEGUN
                if status == 101:
                    connection.leave()
                return
            self.exchange = connection.waiting[0] if connection.waiting else None
            if self.exchange is None:
                connection.ledger.unsolicited += 1
                connection.midway = True
            else:
                self.exchange.response_ns = self._begun_ns
                if self.exchange.label.startswith(b"CONNECT ") and status < 300:
                    return connection.leave()
            bodiless = self.exchange is not None and self.exchange.bodiless
            if bodiless or status == 204 or status == 304:
                length = 0
        self._chunked = length == CHUNKED
        if length == CHUNKED:
            self._state = _CHUNK_SIZE
            connection.ledger.framed += 1
        elif length == UNTIL_CLOSE:
            self._state = _CLOSE
        elif length:
            self._state, self._left = _BODY, length
        else:
            self._finish(time_ns, position)

    def _line(self, data: bytes, at: int, offset: int, time_ns: int) -> int:
        """Read a chunk's size, or a line of the trailer; returns where it ends in the buffer."""
        found = data.find(b"\n")
        if found < 0:
            self._kept += data
            if len(self._kept) > MAX_LINE:
                self._lose()
            return at + len(data)
        line = (self._kept + data[:found]).strip()
        self._kept = b""
        at += found + 1
        if self._state == _TRAILER:
            if not line:
                self._finish(time_ns, offset + at)
            return at
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            self._lose()
            return at
        if size:
            self._state, self._left = _BODY, size + 2  # with its line's end
        else:
            self._state = _TRAILER
        return at

    def _finish(self, time_ns: int, position: int) -> None:
        exchange, size = self.exchange, position - self._begun_at
        self._begun_at = UNBEGUN
        self._state = _HEAD
        self.exchange = None
        if exchange is None:
            return
        if self._client:
            self._connection.end_request(exchange, time_ns, size)
        else:
            self._connection.end_response(exchange, time_ns, size)

    def _cut(self) -> None:
        self._connection.ledger.cut += 1
        self._lose()

    def _lose(self) -> None:
        self._state = _LOST
        self._begun_at = UNBEGUN
        self._kept = b""
        self._connection.lose()
