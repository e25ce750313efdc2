"""``igprof import igniter``: iGniter's three files, or some of them, as one profile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from igniter_prof import __version__
from igniter_prof.dataset.igniter import formats, tables
from igniter_prof.dataset.igniter.cells import cells_of_config, cells_of_rows
from igniter_prof.dataset.igniter.config import read_config
from igniter_prof.dataset.store import ProfileStore
from igniter_prof.errors import BadInput
from igniter_prof.files import now_utc, write_error
from igniter_prof.records import (
    REQUEST_DTYPE,
    Device,
    IgniterProfile,
    Measurement,
    ProfileManifest,
)

_WRITERS = 8


@dataclass(frozen=True)
class Sources:
    """The files to read; None: that one is not there."""

    config: Path | None = None
    solo: Path | None = None
    pairs: Path | None = None


@dataclass
class ImportReport:
    """What was read of which file."""

    cells: dict[str, int] = field(default_factory=dict)
    """Number of cells by file."""
    models: tuple[str, ...] = ()
    ignored: list[str] = field(default_factory=list)
    """Columns that are not read, with their file."""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def find_sources(given: Sequence[Path], named: Sources) -> Sources:
    """Files told apart by their beginning, and those of a folder by name, beside those named.

    Raises:
        BadInput: one is not there or is none of iGniter's files, or two are of one kind.
    """
    found = {kind: path for kind, path in asdict(named).items() if path is not None}

    def take(kind: str, path: Path) -> None:
        if kind in found:
            raise BadInput(
                f"is a second file of this kind ({kind}), beside {found[kind]}",
                where=str(path),
                hint="join them first, or import them one by one and merge the profiles",
            )
        found[kind] = path

    for path in given:
        if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a long name
            raise BadInput("no such file or folder", where=str(path), hint="check the path")
        if not path.is_dir():
            take(tables.kind_of(path), path)
            continue
        names = {"config": formats.CONFIG, "solo": formats.SOLO, "pairs": formats.PAIRS}
        inside = {kind: path / name for kind, name in names.items() if (path / name).is_file()}
        if not inside:
            raise BadInput(f"holds none of {', '.join(names.values())}", where=str(path))
        for kind, file in inside.items():
            take(kind, file)
    return Sources(**found)


def import_igniter(
    sources: Sources, out: Path, *, device_name: str = formats.UNKNOWN
) -> ImportReport:
    """Read iGniter's files into a new profile, which appears as a whole or not at all.

    Args:
        sources: at least one file.
        out: the profile's folder, which must not be there, or be empty.
        device_name: of the GPU; the files do not tell.

    Raises:
        BadInput: no file is named, one is not what it should be, nothing is in them, or ``out`` is
            there already.
        MissingCapability: no disk space.
    """
    out = Path(out)
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise BadInput("is there already", where=str(out), hint="choose another --out")
    if sources == Sources():
        raise BadInput("no file to import", hint="name at least one: --config, --solo or --pairs")
    report = ImportReport()
    profile = None if sources.config is None else read_config(sources.config)
    cells = _cells(sources, profile, report)
    if not cells:
        raise BadInput(
            "holds no row", where=", ".join(str(p) for p in asdict(sources).values() if p)
        )
    report.models = tuple(sorted({one.model for cell in cells for one in cell.cell.tenants}))
    manifest = ProfileManifest(
        sweep=None,
        device=Device(id=formats.DEVICE_ID, kind="cuda", name=device_name),
        created_at=now_utc(),
        igprof=__version__,
        source=formats.SOURCE,
        igniter=profile,
    )
    _write(out, manifest, cells)
    return report


def _cells(
    sources: Sources, profile: IgniterProfile | None, report: ImportReport
) -> list[Measurement]:
    step_pct = None if profile is None else profile.hardware.share_step_pct
    cells: list[Measurement] = []
    if profile is not None:
        cells += cells_of_config(profile)
        report.cells[formats.CONFIG] = len(cells)
    both: tuple[tuple[Path | None, Literal["solo", "pairs"], str], ...] = (
        (sources.solo, "solo", formats.SOLO),
        (sources.pairs, "pairs", formats.PAIRS),
    )
    for path, kind, name in both:
        if path is not None:
            table = tables.read_table(path, kind)
            report.ignored += [f"{path}: column {column}" for column in table.ignored]
            report.cells[name] = len(table.rows)
            cells += cells_of_rows(table.rows, name, step_pct)
    return cells


def _write(out: Path, manifest: ProfileManifest, cells: Sequence[Measurement]) -> None:
    # a folder that nobody takes for a profile, until it is whole
    building = out.parent / f".{out.name}.importing"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        try:
            with ProfileStore.create(building, manifest) as store:
                _append(store, cells)
            building.replace(out)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise write_error(out, error) from error


def _append(store: ProfileStore, cells: Sequence[Measurement]) -> None:
    """Store cells, several at a time: a disk syncs eight files in little more than one's time."""
    nothing = np.zeros(0, REQUEST_DTYPE)

    def append(cell: Measurement) -> None:
        store.append(cell, [nothing] * len(cell.tenants))

    # from the first on the store knows the conditions, which are those of all
    append(cells[0])
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(append, cells[1:]))  # the first failure is raised, the rest called off
