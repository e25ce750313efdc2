"""The append-only store of a profile: a folder with a manifest and one file a cell.

Guarantees: a cell is there once ``append`` returned, whatever happens next (kill -9, full disk),
and never in half; nothing stored is ever changed; one igprof writes at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from igniter_prof.dataset import cellfile
from igniter_prof.dataset.cellfile import Requests, Traces
from igniter_prof.dataset.conditions import (
    common,
    differing_fields,
    require_agreement,
    require_device,
    same_device,
)
from igniter_prof.errors import BadInput
from igniter_prof.files import atomic_write, read_record, write_error, write_json
from igniter_prof.records import Conditions, Measurement, ProfileManifest

MANIFEST = "profile.json"
CELLS = "cells"
LOCK = ".lock"

_CELL_FILE = re.compile(r"[0-9a-f]{16}\.zip")
_LEFTOVER = re.compile(r"\..*\.tmp")


class ProfileStore:
    """A profile on disk. Made by ``create`` (to write, holds a lock) or ``open`` (to read)."""

    def __init__(self, path: Path, manifest: ProfileManifest, lock: int | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock
        self._conditions: Conditions | None = None  # of what is stored, once it was asked for

    @classmethod
    def create(cls, path: Path, manifest: ProfileManifest) -> ProfileStore:
        """Open a profile for writing: a new one, or the one that is there if it is of this sweep.

        Leftovers of a killed writer are removed. Close it, or use it as a context.

        Raises:
            BadInput: the folder holds another sweep, another set of cells or another device,
                something that is no profile, or another igprof is writing it.
            MissingCapability: no disk space.
        """
        path = Path(path)
        if path.is_dir() and not is_profile(path) and not _is_blank(path):
            raise BadInput(
                "is not empty and holds no profile",
                where=str(path),
                hint="choose another --out",
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(path)
        except FileExistsError as error:
            raise BadInput(
                "is a file, a folder was expected", where=str(path), hint="choose another --out"
            ) from error
        except OSError as error:
            raise write_error(path, error) from error
        try:
            _remove_leftovers(path)
            if is_profile(path):
                stored = cls.open(path).manifest
                _require_same_sweep(stored, manifest, path)
                manifest = stored
            else:
                write_json(path / MANIFEST, manifest)
            try:
                (path / CELLS).mkdir(exist_ok=True)
            except OSError as error:
                raise write_error(path / CELLS, error) from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, manifest, lock)

    @classmethod
    def open(cls, path: Path) -> ProfileStore:
        """Open a profile for reading.

        Raises:
            BadInput: it is no profile, or one of another schema version.
        """
        path = Path(path)
        if not is_profile(path):
            raise BadInput(
                "is no profile" if path.exists() else "no such folder",
                where=str(path),
                hint=f"a profile is a folder with {MANIFEST}, made by 'igprof profile'",
            )
        return cls(path, read_record(path / MANIFEST, ProfileManifest))

    def close(self) -> None:
        """Let go of the lock; the store can still be read."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> ProfileStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def cell_path(self, cell_id: str) -> Path:
        """Where a cell is stored."""
        return self.path / CELLS / f"{cell_id}{cellfile.SUFFIX}"

    def cell_paths(self) -> list[Path]:
        """The files of all cells, sorted by name."""
        folder = self.path / CELLS
        if not folder.is_dir():
            return []
        return sorted(entry for entry in folder.iterdir() if _CELL_FILE.fullmatch(entry.name))

    def done_ids(self) -> set[str]:
        """The ids of the stored cells, from the names of their files."""
        return {path.name.removesuffix(cellfile.SUFFIX) for path in self.cell_paths()}

    def append(
        self,
        measurement: Measurement,
        requests: Sequence[Requests],
        traces: Traces | None = None,
    ) -> None:
        """Store a cell; it is on disk when this returns.

        Args:
            measurement: of this profile's device.
            requests: one (n,) array of REQUEST_DTYPE a tenant, in the order of the tenants; times
                in ns of the monotonic clock, in the order in which they ended.
            traces: what monitors sampled, by name.

        Raises:
            BadInput: the cell is stored already, of another device, or was measured under
                conditions that do not agree with those of the stored cells.
            MissingCapability: no disk space; nothing was stored.
            ValueError: the store is not open for writing, or the parts do not fit together.
        """
        if self._lock is None:
            raise ValueError("the profile is not open for writing")
        if measurement.cell_id != measurement.cell.cell_id:
            raise ValueError("cell_id is not that of the cell")
        if not len(requests) == len(measurement.tenants) == len(measurement.cell.tenants):
            raise ValueError("a cell needs one measurement and one array of requests a tenant")
        require_device(measurement, self.manifest.device, str(self.path))
        path = self.cell_path(measurement.cell_id)
        if path.exists():
            raise BadInput("this cell is stored already", where=str(path))
        conditions = [*self._stored_conditions(), measurement.conditions]
        require_agreement(conditions, str(self.path))
        content = cellfile.encode(measurement, requests, traces)
        with atomic_write(path) as out:
            out.write(content)
        self._conditions = common(conditions)

    def _stored_conditions(self) -> list[Conditions]:
        """What is known of the stored cells' conditions: none if none is stored, else one."""
        if self._conditions is None:
            stored = [one.conditions for one in self.measurements()]
            self._conditions = common(stored) if stored else None
        return [] if self._conditions is None else [self._conditions]

    def measurements(self, *, strict: bool = True) -> list[Measurement]:
        """All measurements, by the time at which they started.

        Args:
            strict: refuse cells of another device or under conditions that do not agree.

        Raises:
            BadInput: a file is damaged or of another schema version; see also ``strict``.
        """
        found = [cellfile.read_measurement(path) for path in self.cell_paths()]
        if strict:
            for measurement in found:
                where = str(self.cell_path(measurement.cell_id))
                require_device(measurement, self.manifest.device, where)
            require_agreement([one.conditions for one in found], str(self.path))
        return sorted(found, key=lambda one: (one.anchor_wall_ns, one.cell_id))

    def requests(self, cell_id: str) -> list[Requests]:
        """The raw requests of a cell, one (n,) array of REQUEST_DTYPE a tenant.

        Raises:
            BadInput: there is no such cell, or its file is damaged.
        """
        return cellfile.read_requests(self.cell_path(cell_id))[1]

    def traces(self, cell_id: str) -> dict[str, NDArray[Any]]:
        """What the monitors sampled in a cell, by name.

        Raises:
            BadInput: there is no such cell, or its file is damaged.
        """
        return cellfile.read_traces(self.cell_path(cell_id))

    def digest(self) -> str:
        """SHA-256 over the manifest and the cells' files: what a fit says that it came from."""
        total = hashlib.sha256()
        for path in [self.path / MANIFEST, *self.cell_paths()]:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{content}  {path.name}\n".encode())
        return total.hexdigest()


def is_profile(path: Path) -> bool:
    """Whether a folder holds a profile (of any schema version)."""
    return (Path(path) / MANIFEST).is_file()


def leftovers(path: Path) -> list[Path]:
    """Temporary files that a killed writer (or one at work) has in a profile."""
    folders = [folder for folder in (path, path / CELLS) if folder.is_dir()]
    return [
        entry
        for folder in folders
        for entry in sorted(folder.iterdir())
        if _LEFTOVER.fullmatch(entry.name)
    ]


def _remove_leftovers(path: Path) -> None:
    for entry in leftovers(path):
        entry.unlink(missing_ok=True)


def _is_blank(path: Path) -> bool:
    """Whether a folder is empty but for what a writer killed at its very start leaves behind."""
    return all(entry.name == LOCK or _LEFTOVER.fullmatch(entry.name) for entry in path.iterdir())


def _take_lock(path: Path) -> int:
    """Lock the profile; the kernel lets go of it when this process ends, however it ends."""
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BadInput(
            "another igprof is writing this profile",
            where=str(path),
            hint="wait for it to end, or choose another --out",
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_same_sweep(stored: ProfileManifest, asked: ProfileManifest, path: Path) -> None:
    if not same_device(stored.device, asked.device):
        what = f"the device {stored.device.id} ({stored.device.name})"
    elif stored.source != asked.source:
        what = f"a {stored.source} profile"
    elif stored.sweep != asked.sweep:
        changes = "; ".join(differing_fields(stored.sweep, asked.sweep))
        what = f"another sweep ({changes})"
    elif None not in (stored.cells_hash, asked.cells_hash) and (
        stored.cells_hash != asked.cells_hash
    ):
        what = "another set of cells"
    else:
        return
    raise BadInput(f"holds {what}", where=str(path), hint="choose another --out")
