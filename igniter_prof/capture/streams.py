"""TCP: segments of two directions put in order by their sequence numbers [RFC 9293].

Retransmitted bytes count once; what came out of order waits for what is missing. What the other
side has acknowledged although it was never seen is gone: the capture lost it.
"""

from __future__ import annotations

from igniter_prof.capture.conversations import Conversation, Reader, Unknown
from igniter_prof.capture.exchanges import Buffer

MASK = 0xFFFFFFFF
AHEAD = 0x80000000
MAX_HELD = 4096
"""Segments that wait for a missing one; with more, it is taken for lost."""
MAX_HELD_BYTES = 8 << 20

Held = tuple[int, bytes, int, int]
"""Sequence number, what was captured, length, time."""


class Counters:
    """What passed of one server's connections."""

    __slots__ = ("merged", "packets", "retransmitted")

    def __init__(self) -> None:
        self.packets = 0
        self.retransmitted = 0
        self.merged = 0


class Connection:
    """One TCP connection with its two directions."""

    def __init__(self, conversation: Conversation, counters: Counters) -> None:
        self.conversation = conversation
        self.counters = counters
        self.client = Half(self, client=True)
        self.server = Half(self, client=False)
        self.client.peer, self.server.peer = self.server, self.client
        self._read_by(conversation)
        self.over = False
        self.opaque = False
        self.seen_ns = 0

    def settle(self) -> None:
        """Look what has become of the conversation; called after an unknown one was fed."""
        conversation = self.conversation
        if isinstance(conversation, Unknown) and conversation.found is not None:
            self.conversation = conversation.found
            self._read_by(conversation.found)
        if self.conversation.opaque:
            self.opaque = True

    def _read_by(self, conversation: Conversation) -> None:
        self.client.reader, self.server.reader = conversation.client, conversation.server

    def finish(self, half: Half, time_ns: int) -> None:
        """One direction ended in order."""
        half.ended = True
        if not self.opaque:
            self.conversation.finished(half.client, time_ns)
        self.over = self.client.ended and self.server.ended

    def reset(self) -> None:
        """The connection was reset."""
        if not self.over and not self.opaque:
            self.conversation.reset()
        self.over = True

    def close(self) -> None:
        """The capture ends, or the connection's numbers are used anew."""
        if not self.over and not self.opaque:
            self.conversation.close()
        self.over = True


class Half:
    """One direction of a connection."""

    __slots__ = (
        "_held_bytes",
        "client",
        "connection",
        "ended",
        "fin",
        "held",
        "next",
        "peer",
        "reader",
    )

    peer: Half
    reader: Reader

    def __init__(self, connection: Connection, *, client: bool) -> None:
        self.connection = connection
        self.client = client
        self.next = -1
        """The sequence number that is awaited; -1: none was seen yet."""
        self.fin = -1
        """The number of the end of this direction; -1: not seen."""
        self.ended = False
        self.held: list[Held] = []
        self._held_bytes = 0

    def segment(
        self, seq: int, buffer: Buffer, at: int, captured: int, length: int, time_ns: int
    ) -> None:
        """Take a segment with data that is not the awaited one, or while others wait."""
        if self.next < 0:
            self.next = seq
        ahead = (seq - self.next) & MASK
        if ahead >= AHEAD:
            known = (self.next - seq) & MASK
            # one byte of what is known asks only whether the other side is there (keep-alive)
            self.connection.counters.retransmitted += not (length == 1 and known == 1)
            if known >= length:
                return
            seq, at, captured, length = self.next, at + known, captured - known, length - known
            captured = max(0, captured)
            ahead = 0
        if ahead:
            self.held.append((seq, bytes(buffer[at : at + captured]), length, time_ns))
            self._held_bytes += captured
            if len(self.held) > MAX_HELD or self._held_bytes > MAX_HELD_BYTES:
                self.acknowledged(self._nearest()[0])
            return
        self._deliver(buffer, at, captured, length, time_ns)
        if self.held:
            self._release(time_ns)

    def acknowledged(self, number: int) -> None:
        """The other side has all up to that number: what was not seen of it is lost."""
        while self.next >= 0:
            missing = (number - self.next) & MASK
            if missing == 0 or missing >= AHEAD:
                return
            if self.fin >= 0 and missing == 1 and self.fin == self.next:
                return
            if self.held:
                missing = min(missing, (self._nearest()[0] - self.next) & MASK)
            self.next = (self.next + missing) & MASK
            if not self.connection.opaque:
                self.reader.gap(missing)
            self._release(0)

    def end_at(self, number: int, time_ns: int) -> None:
        """This direction ends there (FIN)."""
        self.fin = number
        if self.next < 0:
            self.next = number
        self.check_end(time_ns)

    def check_end(self, time_ns: int) -> None:
        """Whether all up to the end was seen."""
        if self.fin == self.next and not self.ended:
            self.next = (self.next + 1) & MASK
            self.connection.finish(self, time_ns)

    def _nearest(self) -> Held:
        # what begins before the awaited byte comes first: its end may be beyond
        return min(self.held, key=lambda each: (each[0] - self.next + AHEAD) & MASK)

    def _release(self, time_ns: int) -> None:
        """Deliver what waited for what has come; it was readable from then on, not before."""
        while self.held:
            nearest = self._nearest()
            seq, data, length, seen_ns = nearest
            ahead = (seq - self.next) & MASK
            if 0 < ahead < AHEAD:
                return
            self.held.remove(nearest)
            self._held_bytes -= len(data)
            known = (self.next - seq) & MASK
            if known < length:
                at = min(known, len(data))
                self._deliver(data, at, len(data) - at, length - known, max(time_ns, seen_ns))
        self.check_end(time_ns)

    def _deliver(self, buffer: Buffer, at: int, captured: int, length: int, time_ns: int) -> None:
        self.next = (self.next + length) & MASK
        connection = self.connection
        if not connection.opaque:
            self.reader.feed(buffer, at, captured, length, time_ns)
            connection.settle()
