"""One TCP connection with its HTTP/1.1 state, its flow control and its time stamps."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, cast

import h11

HEAD_LIMIT_BYTES = 64 * 1024
"""Of a request's or a response's head, and of a chunk's."""
TOGETHER_BYTES = 16 * 1024
"""What is larger goes out at once, and is not copied to go with what is before it."""
UNREAD_LIMIT_BYTES = 256 * 1024
"""Received and not yet read; beyond it the peer has to wait."""


class Wire(asyncio.Protocol):
    """Reads whole HTTP events and writes them; data is stamped when it arrives, not when read."""

    def __init__(self, role: Any, on_connect: Callable[[Wire], None] | None = None) -> None:
        self.http = h11.Connection(our_role=role, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        self.ended = False
        """The peer sends no more, or the connection is gone."""
        self.used = False
        """It has carried an exchange before."""
        self.on_end: Callable[[], None] | None = None
        """Called once when the peer ends."""
        self.first_ns: int | None = None
        """Monotonic clock at the first data since ``mark``."""
        self.last_ns = 0
        """Monotonic clock at the last data."""
        self._on_connect = on_connect
        self._transport: asyncio.Transport | None = None
        self._lost = False
        self._unsent: list[bytes] = []
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._paused = False
        self._reader: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def mark(self) -> None:
        """Await the first data of something new; what came too early is taken to come now."""
        early = bool(self._unread) or bool(self.http.trailing_data[0])
        self.first_ns = time.monotonic_ns() if early else None

    async def next_event(self) -> Any:
        """The next HTTP event of the peer. Raises h11.RemoteProtocolError for what is none."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.http.receive_data(await self._read())

    def send(self, event: Any) -> None:
        """Write an event, at the latest in the loop's next turn, so that small ones go together.

        Nothing happens if the connection is gone. See ``flush``, ``drain``.
        """
        data = self.http.send(event)
        if not data:
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self.flush)
        self._unsent.append(data)
        if len(data) > TOGETHER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand all that was sent to the kernel, as far as it takes it."""
        unsent, self._unsent = self._unsent, []
        if self._transport is None or self._lost:
            return
        if len(unsent) > 1 and len(unsent[-1]) > TOGETHER_BYTES:
            self._transport.write(b"".join(unsent[:-1]))
            unsent = unsent[-1:]
        if unsent:
            self._transport.write(b"".join(unsent))

    async def drain(self) -> None:
        """Wait until the peer takes data again. Raises ConnectionResetError if it is gone."""
        if not self._writable.is_set():
            await self._writable.wait()
        if self._lost:
            raise ConnectionResetError

    def cycled(self) -> bool:
        """Make ready for the next exchange; False if this connection cannot carry one."""
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        self.http.start_next_cycle()
        self.used = True
        return not self._lost

    def close(self) -> None:
        """Close when all is written."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    async def discard(self, limit_s: float) -> None:
        """Say that no more comes from us, and read what the peer still sends, to no use.

        A connection that is closed over unread data is reset, and the peer may lose our answer.
        """
        if self._transport is None or self._lost or self.ended:
            return
        self.flush()
        with contextlib.suppress(OSError, RuntimeError):
            self._transport.write_eof()
        deadline = time.monotonic() + limit_s
        with contextlib.suppress(asyncio.TimeoutError):
            while not self.ended:
                await asyncio.wait_for(self._read(), max(0.0, deadline - time.monotonic()))

    def abort(self) -> None:
        """Close at once: the peer must not take what it got for the whole."""
        self._unsent = []
        if self._transport is not None:
            self._transport.abort()
        self._end()

    async def _read(self) -> bytes:
        while not self._unread and not self.ended:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        if self._paused and self._transport is not None and not self._lost:
            self._paused = False
            self._transport.resume_reading()
        return data

    def _end(self) -> None:
        self.ended = True
        self._wake()
        callback, self.on_end = self.on_end, None
        if callback is not None:
            callback()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # --- what asyncio calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        if self._on_connect is not None:
            self._on_connect(self)

    def data_received(self, data: bytes) -> None:
        """Stamp and keep."""
        self.last_ns = time.monotonic_ns()
        if self.first_ns is None:
            self.first_ns = self.last_ns
        self._unread.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > UNREAD_LIMIT_BYTES and not self._paused:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The peer sends no more; it may still read what is on its way."""
        self._end()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Gone, by whichever side."""
        self._lost = True
        self._writable.set()
        self._end()

    def pause_writing(self) -> None:
        """The peer reads slower than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()
