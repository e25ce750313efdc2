"""Asking a Triton over HTTP: is it ready, is its model ready, which version is it."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT_S = 5.0
MAX_BYTES = 16 << 20
"""Of a body: a stranger's server may send one without end."""


class Unreachable(Exception):
    """Nobody answered, or what answered is no HTTP server. The text is for people."""


def get(
    address: str,
    path: str,
    *,
    tls: bool = False,
    ca_file: Path | None = None,
    headers: Sequence[tuple[str, str]] = (),
    timeout_s: float = TIMEOUT_S,
) -> tuple[int, bytes]:
    """The status and body of a GET. Raises Unreachable."""
    connection: http.client.HTTPConnection
    try:
        if tls:
            context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
            connection = http.client.HTTPSConnection(address, timeout=timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(address, timeout=timeout_s)
    except (OSError, ssl.SSLError, http.client.InvalidURL) as error:
        raise Unreachable(str(error)) from error
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read(MAX_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # ValueError: a header with a line break; its value must not be repeated
        text = "a header has an invalid value" if isinstance(error, ValueError) else str(error)
        raise Unreachable(text or type(error).__name__) from None
    finally:
        connection.close()


def document(body: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one if it is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
