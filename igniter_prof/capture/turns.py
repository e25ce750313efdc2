"""Any request/response protocol over TCP, by direction: who speaks after the other takes a turn.

A request is all that the client sends until the server answers, a response all that the server
sends until the client speaks again; so one request at a time can be in flight.
"""

from __future__ import annotations

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


class Turns:
    """One connection. ``client`` and ``server`` are the readers of its two directions."""

    def __init__(self, ledger: Ledger, connection: int, server: int, midway: bool) -> None:
        self.ledger = ledger
        self.number = connection
        self.server_index = server
        self.opaque = False
        self.exchange: Exchange | None = None
        self.lost = midway
        """What passes belongs to a turn whose begin was not seen."""
        self.client = TurnReader(self, client=True)
        self.server = TurnReader(self, client=False)

    def up(self, length: int, time_ns: int) -> None:
        """The client sent bytes."""
        exchange = self.exchange
        if exchange is not None and exchange.response_ns >= 0:
            self._end(PAIRED)
            exchange = None
        if exchange is None:
            if self.lost:
                return
            exchange = self.exchange = Exchange(self.number, self.server_index, time_ns)
        exchange.request_end_ns = time_ns
        exchange.up += length

    def down(self, length: int, time_ns: int) -> None:
        """The server sent bytes."""
        self.lost = False
        exchange = self.exchange
        if exchange is None:
            return  # a greeting, or the answer to what was not seen
        if exchange.response_ns < 0:
            exchange.response_ns = time_ns
        exchange.response_end_ns = time_ns
        exchange.down += length

    def lose(self) -> None:
        """Bytes were never seen: the turn in hand may have been another one."""
        self._end(LOST)
        self.lost = True

    def finished(self, client: bool, time_ns: int) -> None:
        """One direction was closed in order (FIN)."""
        if not client:
            self._end_open(UNANSWERED)

    def reset(self) -> None:
        """The connection was reset."""
        self._end_open(RESET)

    def close(self) -> None:
        """The capture ends."""
        self._end_open(OPEN)

    def _end_open(self, outcome: int) -> None:
        answered = self.exchange is not None and self.exchange.response_ns >= 0
        self._end(PAIRED if answered else outcome)

    def _end(self, outcome: int) -> None:
        if self.exchange is not None:
            self.ledger.add(self.exchange, outcome)
        self.exchange = None


class TurnReader:
    """One direction of a connection."""

    __slots__ = ("_client", "_turns")

    def __init__(self, turns: Turns, *, client: bool) -> None:
        self._turns = turns
        self._client = client

    def feed(self, buffer: Buffer, at: int, captured: int, length: int, time_ns: int) -> None:
        """Take the next bytes of the stream; what they are does not matter."""
        if self._client:
            self._turns.up(length, time_ns)
        else:
            self._turns.down(length, time_ns)

    def gap(self, length: int) -> None:
        """That many bytes of the stream were never seen."""
        self._turns.lose()
