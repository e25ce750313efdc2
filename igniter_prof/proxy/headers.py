"""What of a message is forwarded, and which requests are refused (RFC 9110, 9112). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import h11

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
"""Fields of one connection, which an intermediary does not forward (RFC 9110, 7.6.1)."""
_KEPT = {b"host", b"content-length", b"content-type", b"expect", b"via"}
"""Fields that ``Connection`` cannot make us drop."""


class Refusal(NamedTuple):
    """An answer that the proxy gives itself."""

    status: int
    reason: str


def refusal(request: h11.Request, via: bytes) -> Refusal | None:
    """Why a request is not forwarded; None: it is.

    Args:
        request: as it came.
        via: this proxy's own name in Via fields.
    """
    if request.http_version not in (b"1.0", b"1.1"):
        return Refusal(505, "HTTP/1.1 is spoken here, HTTP/2 (so gRPC) is not")
    if request.method == b"CONNECT":
        return Refusal(501, "this is no tunnel")
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names and b"content-length" in names:
        # the two ends could disagree on where it ends
        return Refusal(400, "a request has a length or is chunked, not both")
    if b"transfer-encoding" in names and request.http_version == b"1.0":
        return Refusal(400, "HTTP/1.0 has no chunks")  # RFC 9112, 6.1: its framing is faulty
    upgrades = tokens(request.headers, b"upgrade")
    if upgrades and upgrades != {b"h2c"}:
        return Refusal(501, "upgrades, such as to WebSocket, are refused")
    if any(via in value for name, value in request.headers if name == b"via"):
        return Refusal(508, "the proxy's target is the proxy itself")
    return None


def request_headers(request: h11.Request, authority: bytes, via: bytes) -> Headers:
    """The fields of a request as they are sent to the server.

    Args:
        request: one that is not refused.
        authority: the server's ``host:port``, for requests that name no host.
        via: this proxy's own name in Via fields.
    """
    headers = _end_to_end(request.headers)
    if request.http_version == b"1.0":
        headers = [(name, value) for name, value in headers if name.lower() != b"expect"]
    if not any(name.lower() == b"host" for name, _ in headers):
        headers.insert(0, (b"Host", authority))
    if tokens(request.headers, b"transfer-encoding"):
        headers.append((b"Transfer-Encoding", b"chunked"))
    headers.append((b"Via", request.http_version + b" " + via))
    return headers


def response_headers(response: h11.Response | h11.InformationalResponse) -> Headers:
    """The fields of a response as they are sent to the client; h11 adds the framing."""
    chunked = bool(tokens(response.headers, b"transfer-encoding"))
    return [
        (name, value)
        for name, value in _end_to_end(response.headers)
        if not (chunked and name.lower() == b"content-length")
    ]


def origin_form(target: bytes) -> bytes:
    """A request's target as a server wants it: ``http://host/a?b`` becomes ``/a?b``."""
    # not urlsplit: it raises for some hosts, and a client may send any
    if not target.lower().startswith((b"http://", b"https://")):
        return target
    rest = target.partition(b"://")[2].partition(b"#")[0]
    start = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    found = rest[start:]
    return found if found.startswith(b"/") else b"/" + found


def path_of(target: bytes) -> str:
    """The path of a target, without its query: that may hold secrets."""
    return origin_form(target).partition(b"?")[0].partition(b"#")[0].decode("ascii", "replace")


def tokens(headers: Sequence[tuple[bytes, bytes]], field: bytes) -> set[bytes]:
    """The comma-separated values of all fields of one (lower-case) name, in lower case."""
    return {
        token.strip().lower()
        for name, value in headers
        if name == field
        for token in value.split(b",")
        if token.strip()
    }


def _end_to_end(headers: Any) -> Headers:
    dropped = HOP_BY_HOP | (tokens(headers, b"connection") - _KEPT)
    return [(name, value) for name, value in headers.raw_items() if name.lower() not in dropped]
