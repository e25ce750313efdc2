"""One row a request, appended to a CSV file as soon as the request has ended."""

from __future__ import annotations

import csv
import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from igniter_prof.errors import BadInput
from igniter_prof.files import write_error
from igniter_prof.units import NS_PER_MS, NS_PER_S

COLUMNS = (
    "received_at",
    "method",
    "path",
    "status",
    "latency_ms",
    "upload_ms",
    "server_ms",
    "download_ms",
    "request_bytes",
    "response_bytes",
    "received_ns",
    "sent_ns",
    "first_byte_ns",
    "last_byte_ns",
    "error",
)


@dataclass
class Row:
    """What was seen of one request. None: it did not come to that."""

    method: str = ""
    path: str = ""
    status: int | None = None
    received_ns: int | None = None
    """Its first byte arrived (monotonic clock, as all of them)."""
    sent_ns: int | None = None
    """Its last byte was handed on to the server."""
    first_byte_ns: int | None = None
    """The first byte of the final response arrived from the server."""
    last_byte_ns: int | None = None
    """The last byte of it arrived."""
    request_bytes: int = 0
    """Of the body, without chunk sizes."""
    response_bytes: int = 0
    error: str = ""

    def fail(self, reason: str) -> None:
        """Note why the exchange is not whole; the first reason stays."""
        self.error = self.error or reason

    @property
    def latency_ms(self) -> float | None:
        """From the request's first to the response's last byte."""
        return _between_ms(self.received_ns, self.last_byte_ns)

    def values(self) -> list[Any]:
        """One value for each of ``COLUMNS``; None becomes an empty field."""
        spans = (
            self.latency_ms,
            _between_ms(self.received_ns, self.sent_ns),
            _between_ms(self.sent_ns, self.first_byte_ns),
            _between_ms(self.first_byte_ns, self.last_byte_ns),
        )
        return [
            None if self.received_ns is None else _wall_clock(self.received_ns),
            self.method,
            self.path,
            self.status,
            *(None if span is None else f"{span:.6f}" for span in spans),
            self.request_bytes,
            self.response_bytes,
            self.received_ns,
            self.sent_ns,
            self.first_byte_ns,
            self.last_byte_ns,
            self.error,
        ]


def _wall_clock(instant_ns: int) -> str:
    """An instant of the monotonic clock, just past, as ISO 8601 in UTC."""
    wall_ns = time.time_ns() - (time.monotonic_ns() - instant_ns)
    return datetime.fromtimestamp(wall_ns / NS_PER_S, timezone.utc).isoformat(
        timespec="milliseconds"
    )


def _between_ms(begin_ns: int | None, end_ns: int | None) -> float | None:
    """Milliseconds between two instants; None if one lacks or they are in the wrong order.

    A server may answer before it has the whole request: it has no server time then.
    """
    if begin_ns is None or end_ns is None or end_ns < begin_ns:
        return None
    return (end_ns - begin_ns) / NS_PER_MS


class RowFile:
    """A new CSV file of rows; each is with the kernel when ``append`` returns. A context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("x", encoding="utf-8", newline="")
        except FileExistsError as error:
            raise BadInput(
                "is there already, and rows of different runs do not belong together",
                where=str(path),
                hint="choose another --out",
            ) from error
        except OSError as error:
            raise write_error(path, error) from error
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._write(COLUMNS)

    def append(self, row: Row) -> None:
        """Write a row. Raises MissingCapability if no disk space is left."""
        self._write(row.values())

    def _write(self, values: Any) -> None:
        try:
            self._writer.writerow(values)
            self._file.flush()
        except OSError as error:
            raise write_error(self._path, error) from error

    def __enter__(self) -> RowFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as failure:
            raise write_error(self._path, failure) from failure
