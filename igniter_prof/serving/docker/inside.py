"""What lies inside a container, read through the engine."""

from __future__ import annotations

import contextlib
import re
import tarfile
from typing import Any, cast

import docker.errors
import requests

from igniter_prof.serving.docker.engine import Engine

MAX_PASSWD_BYTES = 1 << 20


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


def user_id(engine: Engine, container: str, name: str) -> int | None:
    """The number of a user by a container's own list; None if it is not in it.

    Read as the engine reads it: the first entry of that name counts, and what is no number is 0.
    """
    try:
        stream, _ = engine.client.get_archive(container, "/etc/passwd")
    except (docker.errors.DockerException, requests.RequestException, OSError):
        return None
    with contextlib.closing(stream):
        try:
            with tarfile.open(fileobj=cast("Any", _Reader(stream)), mode="r|") as archive:
                member = archive.next()
                # what a link leads to would be somebody else's word
                content = None if member is None else archive.extractfile(member)
                if content is None or member is None or not member.isreg():
                    return None
                text = content.read(MAX_PASSWD_BYTES).decode(errors="replace")
        except (tarfile.TarError, requests.RequestException, OSError):
            return None
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if fields[0] == name:
            number = fields[2] if len(fields) > 2 else ""
            return int(number) if re.fullmatch(r"[+-]?[0-9]+", number) else 0
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
