"""Connections to the server, kept for the next request."""

from __future__ import annotations

import asyncio
import socket
import time

import h11

from igniter_prof.errors import OutsideFailure
from igniter_prof.proxy.wire import Wire

CONNECT_S = 10.0
IDLE_S = 1.0
"""A connection that rested longer is not used again: a server that closes it just then would cost
a request. Servers keep idle connections for 2 s and more."""


class Pool:
    """Connects to one server, whose name was resolved once."""

    def __init__(self, host: str, port: int) -> None:
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            # UnicodeError: no name can be like that, a label is empty or too long
            reason = getattr(error, "strerror", None) or "it is no name of a host"
            raise OutsideFailure(
                f"its name is not known: {reason}", where=host, hint="check --to"
            ) from error
        self._addresses = [str(sockaddr[0]) for *_, sockaddr in found]
        self._port = port
        self._idle: list[tuple[float, Wire]] = []

    async def take(self, *, fresh: bool = False) -> Wire:
        """A connection that is open, as far as can be known. Raises OSError."""
        now = time.monotonic()
        while self._idle and not fresh:
            since, wire = self._idle.pop()  # the warmest
            if not wire.ended and now - since <= IDLE_S:
                return wire
            wire.close()
        return await self._connect()

    def give_back(self, wire: Wire) -> None:
        """Keep a connection whose exchange is over, or close it."""
        now = time.monotonic()
        while self._idle and (self._idle[0][1].ended or now - self._idle[0][0] > IDLE_S):
            self._idle.pop(0)[1].close()
        if wire.cycled() and not wire.ended:
            self._idle.append((now, wire))
        else:
            wire.close()

    def close(self) -> None:
        """Close what rests."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _connect(self) -> Wire:
        failure: OSError = ConnectionError("no address")
        for address in list(self._addresses):
            try:
                _, wire = await asyncio.wait_for(
                    asyncio.get_running_loop().create_connection(
                        lambda: Wire(h11.CLIENT), address, self._port
                    ),
                    CONNECT_S,
                )
            except (OSError, asyncio.TimeoutError) as error:
                failure = error if isinstance(error, OSError) else TimeoutError("no answer")
                continue
            # the next one goes where this one was taken
            self._addresses.remove(address)
            self._addresses.insert(0, address)
            return wire
        raise failure
