"""One file a cell: a zip with the measurement as JSON and the raw requests of each tenant.

``requests_<k>.npy`` is int64 of shape (5, n): its rows are the differences between successive
intended instants (the first: to the measurement's monotonic anchor), the delay from intended to
sent, the latency from sent to done (all ns), the phase and whether it succeeded. Small numbers
deflate well (about 7 bytes a request, not 26), and ``numpy.load`` reads them anywhere.
``traces/<name>.npy`` are what monitors sampled, as they gave it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igniter_prof.errors import BadInput
from igniter_prof.files import ZIP_DAMAGE, parse
from igniter_prof.records import REQUEST_DTYPE, Measurement

Requests = NDArray[np.void]
"""(n,), REQUEST_DTYPE; times are ns of the host's monotonic clock."""

Traces = Mapping[str, NDArray[Any]]
"""What monitors sampled, by name: structured arrays, ``at_ns`` of the monotonic clock."""

SUFFIX = ".zip"
TRACES = "traces/"
MEASUREMENT = "measurement.json"

_EPOCH = (1980, 1, 1, 0, 0, 0)  # no time of writing: the same content is the same file


def encode(
    measurement: Measurement, requests: Sequence[Requests], traces: Traces | None = None
) -> bytes:
    """The content of a cell's file; the same cell gives the same bytes (with the same zlib)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        _write(archive, MEASUREMENT, measurement.model_dump_json().encode())
        for index, rows in enumerate(requests):
            buffer = io.BytesIO()
            np.save(buffer, _pack(rows, measurement.anchor_monotonic_ns), allow_pickle=False)
            _write(archive, _requests_name(index), buffer.getvalue())
        for name, samples in sorted((traces or {}).items()):
            buffer = io.BytesIO()
            np.save(buffer, samples, allow_pickle=False)
            _write(archive, f"{TRACES}{name}.npy", buffer.getvalue())
    return out.getvalue()


def read_measurement(path: Path) -> Measurement:
    """The measurement in a cell's file.

    Raises:
        BadInput: the file is damaged, of another schema version, or its name is not its cell's id.
    """
    measurement = _parse(path, _members(path, [MEASUREMENT])[0])
    named = path.name.removesuffix(SUFFIX)
    if not measurement.cell_id == measurement.cell.cell_id == named:
        raise BadInput(
            f"is named {named} and says that it is {measurement.cell_id}, but holds the cell"
            f" {measurement.cell.cell_id}",
            where=str(path),
            hint="the file was renamed or edited; delete it and run the same profile again",
        )
    return measurement


def read_requests(path: Path) -> tuple[Measurement, list[Requests]]:
    """The measurement and the raw requests of each of its tenants. Raises as read_measurement."""
    measurement = read_measurement(path)
    names = [_requests_name(index) for index in range(len(measurement.tenants))]
    try:
        requests = [
            _unpack(np.load(io.BytesIO(data), allow_pickle=False), measurement.anchor_monotonic_ns)
            for data in _members(path, names)
        ]
    except ZIP_DAMAGE as error:
        raise damaged(path, error) from error
    return measurement, requests


def read_traces(path: Path) -> dict[str, NDArray[Any]]:
    """What the monitors sampled in a cell, by name. Raises BadInput: the file is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.startswith(TRACES)]
        return {
            name.removeprefix(TRACES).removesuffix(".npy"): np.load(
                io.BytesIO(data), allow_pickle=False
            )
            for name, data in zip(names, _members(path, names), strict=True)
        }
    except FileNotFoundError as error:
        raise BadInput("no such cell in the profile", where=str(path)) from error
    except ZIP_DAMAGE as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> BadInput:
    """What to raise for a file that cannot be read back."""
    return BadInput(
        f"is damaged ({error})",
        where=str(path),
        hint="delete it and run the same profile again: only this cell is measured anew",
    )


def _parse(path: Path, data: bytes) -> Measurement:
    import json

    try:
        document = json.loads(data)
    except ValueError as error:
        raise damaged(path, error) from error
    return parse(document, Measurement, str(path))


def _members(path: Path, names: Sequence[str]) -> list[bytes]:
    """Whole members, so that zipfile compares their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [archive.read(name) for name in names]
    except FileNotFoundError as error:
        raise BadInput("no such cell in the profile", where=str(path)) from error
    except ZIP_DAMAGE as error:
        raise damaged(path, error) from error


def _requests_name(index: int) -> str:
    return f"requests_{index}.npy"


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.external_attr = 0o644 << 16
    archive.writestr(member, data, zipfile.ZIP_DEFLATED)


def _pack(rows: Requests, anchor_ns: int) -> NDArray[np.int64]:
    if rows.dtype != REQUEST_DTYPE or rows.ndim != 1:
        raise ValueError(f"requests must be one row a request of {REQUEST_DTYPE}")
    return np.stack(
        [
            np.diff(rows["intended_ns"], prepend=np.int64(anchor_ns)),
            rows["sent_ns"] - rows["intended_ns"],
            rows["done_ns"] - rows["sent_ns"],
            rows["phase"].astype(np.int64),
            rows["ok"].astype(np.int64),
        ]
    )


def _unpack(columns: NDArray[np.int64], anchor_ns: int) -> Requests:
    if columns.dtype != np.int64 or columns.ndim != 2 or len(columns) != 5:
        raise ValueError(f"requests of shape {columns.shape} and type {columns.dtype}")
    rows = np.empty(columns.shape[1], REQUEST_DTYPE)
    rows["intended_ns"] = np.int64(anchor_ns) + np.cumsum(columns[0])
    rows["sent_ns"] = rows["intended_ns"] + columns[1]
    rows["done_ns"] = rows["sent_ns"] + columns[2]
    rows["phase"] = columns[3]
    rows["ok"] = columns[4]
    return rows
