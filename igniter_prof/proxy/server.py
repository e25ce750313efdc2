"""The proxy as a whole: it listens, serves each connection, and writes rows."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import signal
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import h11

from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.proxy.exchange import CLIENT_LEFT, LINGER_S, Exchange, reply
from igniter_prof.proxy.headers import Refusal, path_of
from igniter_prof.proxy.pool import Pool
from igniter_prof.proxy.rows import Row
from igniter_prof.proxy.wire import Wire

TICK_S = 1.0
STOPPED = "the proxy was stopped"
BACKLOG = 1024


class Proxy:
    """Passes requests on to one server and tells of each. Start and stop it in an event loop."""

    def __init__(self, pool: Pool, on_row: Callable[[Row], None]) -> None:
        self._pool = pool
        self._on_row = on_row
        self._via = f"igprof-{secrets.token_hex(8)}".encode()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self.failed: asyncio.Future[None] | None = None
        """Has an exception once a row could not be written, or for a defect."""

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (0: any that is free was asked for).

        Raises:
            MissingCapability: the port is taken, or may not be used.
            BadInput: the host is none of this machine's.
        """
        loop = asyncio.get_running_loop()
        self.failed = loop.create_future()
        try:
            self._listener = await loop.create_server(
                lambda: Wire(h11.SERVER, self._accepted), host, port, backlog=BACKLOG
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise MissingCapability(
                    f"cannot listen there: {reason}",
                    where=f"{host}:{port}",
                    hint="choose another --listen; port 0 is any that is free",
                ) from error
            raise BadInput(
                f"cannot listen there: {reason}", where=host, hint="check --listen"
            ) from error
        except UnicodeError as error:
            raise BadInput(
                "cannot listen there: it is no name of a host", where=host, hint="check --listen"
            ) from error
        chosen: int = self._listener.sockets[0].getsockname()[1]
        return chosen

    async def stop(self) -> None:
        """Take no more connections, cut off those in flight (each leaves its row), and close."""
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.close()
        await asyncio.sleep(0)  # the transports close in the loop's next turn
        if self.failed is not None and not self.failed.done():
            self.failed.cancel()

    def _accepted(self, client: Wire) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self.failed is not None and not self.failed.done():
            self.failed.set_exception(error)

    async def _serve(self, client: Wire) -> None:
        """All requests of one connection, one after the other: pipelined ones wait."""
        try:
            while await self._serve_one(client):
                pass
            await client.discard(LINGER_S)
        finally:
            client.close()

    async def _serve_one(self, client: Wire) -> bool:
        """One request; whether the connection can carry another one."""
        client.mark()
        try:
            event = await client.next_event()
        except h11.RemoteProtocolError as error:
            await self._misunderstood(client, error)
            return False
        if type(event) is not h11.Request:
            return False
        row = Row(
            method=event.method.decode("ascii", "replace"),
            path=path_of(event.target),
            received_ns=client.first_ns,
        )
        try:
            await Exchange(client, event, row, self._pool, self._via).run()
            return client.cycled()
        except asyncio.CancelledError:
            row.fail(STOPPED)
            client.abort()
            raise
        finally:
            self._on_row(row)

    async def _misunderstood(self, client: Wire, error: h11.RemoteProtocolError) -> None:
        """What came was no request."""
        row = Row(received_ns=client.first_ns)
        if client.ended:
            row.fail(CLIENT_LEFT)
        else:
            row.status = error.error_status_hint
            row.fail(f"a malformed request: {error}")
            await reply(client, Refusal(error.error_status_hint, row.error))
        self._on_row(row)


def run(
    listen: tuple[str, int],
    to: tuple[str, int],
    on_row: Callable[[Row], None],
    *,
    duration_s: float | None = None,
    on_ready: Callable[[int], None] = lambda port: None,
    on_tick: Callable[[], None] = lambda: None,
) -> bool:
    """Serve until a signal (SIGINT, SIGTERM) or for a time; call it in the main thread.

    Args:
        listen: host and port; port 0 is any that is free.
        to: host and port of the server.
        on_row: told of each request when it has ended.
        duration_s: None: until a signal.
        on_ready: told the port, once connections are taken.
        on_tick: called every second.

    Returns:
        Whether a signal ended it.

    Raises:
        MissingCapability: the port is taken, or the disk is full.
        BadInput: it cannot listen there.
        OutsideFailure: the server's name is not known.
    """
    pool = Pool(*to)
    return asyncio.run(_run(Proxy(pool, on_row), listen, duration_s, on_ready, on_tick))


async def _run(
    proxy: Proxy,
    listen: tuple[str, int],
    duration_s: float | None,
    on_ready: Callable[[int], None],
    on_tick: Callable[[], None],
) -> bool:
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, signalled.set)
    on_ready(await proxy.start(*listen))
    end_s = None if duration_s is None else loop.time() + duration_s
    assert proxy.failed is not None
    waiting: asyncio.Future[Any] = asyncio.ensure_future(signalled.wait())
    ends: list[asyncio.Future[Any]] = [waiting, proxy.failed]
    try:
        while not signalled.is_set() and not proxy.failed.done():
            left_s = TICK_S if end_s is None else min(TICK_S, end_s - loop.time())
            if left_s <= 0:
                break
            await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            on_tick()
    finally:
        waiting.cancel()
        failure = proxy.failed.exception() if proxy.failed.done() else None
        await proxy.stop()
    if failure is not None:
        raise failure
    return signalled.is_set()


def parse_place(text: str, option: str, default_host: str | None = None) -> tuple[str, int]:
    """Host and port of ``host:port``, ``[IPv6]:port``, or ``port`` where there is a default host.

    Raises:
        BadInput: it is none of these.
    """
    if default_host is not None and text.lstrip(":").isdecimal():
        text = f"{default_host}:{text.lstrip(':')}"
    scheme, _, rest = text.rpartition("://")
    host, port = None, None
    with contextlib.suppress(ValueError):
        parts = urlsplit(f"//{rest}")
        if not (parts.path.strip("/") or parts.query or parts.username):
            host, port = parts.hostname, parts.port
    if scheme not in ("", "http") or not host or port is None:
        raise BadInput(
            f"'{text}' is no place to connect to" if "@" not in text else "holds credentials",
            where=option,
            hint="write host:port; TLS is not spoken",
        )
    return host, port
