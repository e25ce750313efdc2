"""What lies inside a container, read through the engine."""

from __future__ import annotations

import contextlib
import tarfile
from typing import Any, cast

import docker.errors
import requests

from igniter_prof.serving.docker.engine import Engine


def total_bytes(engine: Engine, container: str, path: str) -> int | None:
    """Size of a file or folder in a container; None if it is not there.

    A folder is read as a stream, a file is not read at all.
    """
    try:
        stream, found = engine.client.get_archive(container, path)
    except (docker.errors.DockerException, requests.RequestException, OSError):
        return None
    with contextlib.closing(stream):
        if found is None:
            return None
        if not int(found["mode"]) & (1 << 31):  # Go's bit for a folder
            return None if found.get("linkTarget") else int(found["size"])
        try:
            with tarfile.open(fileobj=cast("Any", _Reader(stream)), mode="r|") as archive:
                return sum(int(member.size) for member in archive if member.isfile())
        except (tarfile.TarError, requests.RequestException, OSError):
            return None


class _Reader:
    """A stream of chunks as a file that tarfile can read."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = iter(chunks)
        self._left = b""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        while len(self._left) < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._left += chunk
        part, self._left = self._left[:size], self._left[size:]
        return part
