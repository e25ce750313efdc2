"""One request to the server and its response back, both streamed at once."""

from __future__ import annotations

import asyncio
import contextlib
import time

import h11

from igniter_prof.proxy.headers import (
    Refusal,
    origin_form,
    refusal,
    request_headers,
    response_headers,
)
from igniter_prof.proxy.pool import Pool
from igniter_prof.proxy.rows import Row
from igniter_prof.proxy.wire import Wire

LINGER_S = 1.0
"""A request that is still coming in after its response is read for that long, then cut off."""
CLIENT_LEFT = "the client left"


class _Stale(Exception):
    """The server had closed a kept connection; nothing of the request can have had an effect."""


class Exchange:
    """Takes one request through; fills its row."""

    def __init__(
        self, client: Wire, request: h11.Request, row: Row, pool: Pool, via: bytes
    ) -> None:
        self._client = client
        self._request = request
        self._row = row
        self._pool = pool
        self._via = via
        self._answered = False
        self._whole = False

    async def run(self) -> None:
        """Until the response is with the client, or nothing can be done any more."""
        refused = refusal(self._request, self._via)
        if refused is not None:
            await self._answer_ourselves(refused)
            return
        try:
            await self._attempt(again=False)
        except _Stale:
            await self._attempt(again=True)

    async def _attempt(self, *, again: bool) -> None:
        """One attempt; again: on a new connection, with a request that was read to its end."""
        client, row = self._client, self._row
        try:
            server = await self._pool.take(fresh=again)
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            await self._answer_ourselves(Refusal(502, f"the server takes no connection: {reason}"))
            return

        def client_left() -> None:
            self._fail(CLIENT_LEFT)
            server.abort()

        if client.ended:
            row.fail(CLIENT_LEFT)
            self._pool.give_back(server)
            return
        client.on_end = client_left
        server.mark()
        upload = asyncio.create_task(self._upload(server, again))
        try:
            await self._download(server, upload)
            if not upload.done():
                await asyncio.wait([upload], timeout=LINGER_S)
        except (h11.ProtocolError, ConnectionResetError) as error:
            server.abort()
            await self._server_failed(server, error)
        finally:
            client.on_end = None
            upload.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await upload
            self._pool.give_back(server)

    async def _upload(self, server: Wire, again: bool) -> None:
        """The request, from the client to the server. Never raises but when cancelled."""
        request, row = self._request, self._row
        try:
            server.send(
                h11.Request(
                    method=request.method,
                    target=origin_form(request.target),
                    headers=request_headers(request, self._pool.authority.encode(), self._via),
                )
            )
            while True:
                # what is sent again has no body, and its end was read before
                event = h11.EndOfMessage() if again else await self._client.next_event()
                if type(event) is h11.Data:
                    row.request_bytes += len(event.data)
                    server.send(h11.Data(data=event.data))
                    await server.drain()
                else:  # the end of the message: anything else is a RemoteProtocolError
                    server.send(h11.EndOfMessage(headers=event.headers.raw_items()))
                    server.flush()
                    row.sent_ns = time.monotonic_ns()
                    return
        except h11.RemoteProtocolError as error:
            self._fail(CLIENT_LEFT if self._client.ended else f"a malformed request: {error}")
            server.abort()
        except (ConnectionResetError, h11.LocalProtocolError):
            # the server hung up, perhaps after an answer: the download tells
            return

    async def _download(self, server: Wire, upload: asyncio.Task[None]) -> None:
        """The response, from the server to the client."""
        client, row = self._client, self._row
        event = await server.next_event()
        while type(event) is h11.InformationalResponse:
            if self._request.http_version != b"1.0":
                client.send(
                    h11.InformationalResponse(
                        status_code=event.status_code, headers=response_headers(event)
                    )
                )
            server.mark()
            event = await server.next_event()
        if type(event) is not h11.Response:
            raise h11.RemoteProtocolError("the server hung up without an answer")
        row.first_byte_ns = server.first_ns
        row.status = event.status_code
        headers = response_headers(event)
        if not upload.done():
            headers.append((b"Connection", b"close"))  # where its end would be is not known
        self._answered = True
        client.send(
            h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
        )
        while True:
            event = await server.next_event()
            if type(event) is h11.Data:
                row.response_bytes += len(event.data)
                client.send(h11.Data(data=event.data))
                await client.drain()
            else:
                row.last_byte_ns = server.last_ns
                # what ends in trailers came in chunks, and goes on in chunks but to HTTP/1.0
                trailers = event.headers.raw_items() if self._request.http_version > b"1.0" else []
                client.send(h11.EndOfMessage(headers=trailers))
                client.flush()
                await client.drain()
                self._whole = True
                return

    def _fail(self, reason: str) -> None:
        """Note what happened to the request, unless its answer is with the client already."""
        if not self._whole:
            self._row.fail(reason)

    async def _server_failed(self, server: Wire, error: Exception) -> None:
        """Tell the client what can still be told."""
        row = self._row
        if self._client.ended and not row.error:
            row.fail(CLIENT_LEFT)
        if self._answered:
            row.fail(f"the server broke off: {error}")
            self._client.abort()
            return
        if row.error:
            if not self._client.ended:
                await self._answer_ourselves(Refusal(400, row.error))
            return
        bodiless = row.sent_ns is not None and row.request_bytes == 0
        if server.used and server.first_ns is None and bodiless and self._safe():
            raise _Stale
        reason = "the server hung up without an answer"
        if server.first_ns is not None:
            reason = f"the server's answer is malformed: {error}"
        await self._answer_ourselves(Refusal(502, reason))

    def _safe(self) -> bool:
        return self._request.method in (b"GET", b"HEAD", b"OPTIONS")

    async def _answer_ourselves(self, answer: Refusal) -> None:
        self._row.status = answer.status
        self._row.fail(answer.reason)
        await reply(self._client, answer, head=self._request.method == b"HEAD")


async def reply(client: Wire, answer: Refusal, *, head: bool = False) -> None:
    """Answer a client in the server's place; the connection is of no use afterwards."""
    body = f"igprof proxy: {answer.reason}\n".encode()
    with contextlib.suppress(h11.LocalProtocolError, ConnectionResetError):
        client.send(
            h11.Response(
                status_code=answer.status,
                headers=[
                    (b"Content-Type", b"text/plain; charset=utf-8"),
                    (b"Content-Length", str(len(body)).encode()),
                    (b"Connection", b"close"),
                ],
            )
        )
        if not head:
            client.send(h11.Data(data=body))
        client.send(h11.EndOfMessage())
        await client.drain()
