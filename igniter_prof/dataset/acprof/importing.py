"""``igprof import acprof``: the published files into a profile, row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igniter_prof import __version__
from igniter_prof.dataset.acprof import formats
from igniter_prof.dataset.acprof.cells import (
    Group,
    group_rows,
    measured,
    requests_of,
    statics_by_model,
)
from igniter_prof.dataset.acprof.formats import SOURCE, UNKNOWN, Row, Static
from igniter_prof.dataset.acprof.reading import Content, read_all
from igniter_prof.dataset.store import ProfileStore, is_profile
from igniter_prof.errors import BadInput
from igniter_prof.files import atomic_write, now_utc
from igniter_prof.records import Device, ProfileManifest

REPORT = "import.json"
"""In the profile: what was read, refused, and known of models that nobody measured."""


@dataclass(frozen=True)
class ImportReport:
    """What became of every row."""

    files: dict[str, dict[str, int]]
    """By result file: rows ``in``, ``counted``, ``warmup``, ``failed``, ``refused``."""
    cells: int
    refused: tuple[formats.Refusal, ...]
    static_only: tuple[Static, ...]
    """Models that a static file tells of and no result file."""
    ignored: tuple[str, ...]
    raw_power_w: dict[str, tuple[float, float]]
    """By file: what the readings lay between whose difference was published (``formats``)."""

    def as_dict(self) -> dict[str, Any]:
        """As a JSON document."""
        return {
            "format": "acprof",
            "igprof": __version__,
            "files": self.files,
            "cells": self.cells,
            "refused": [vars(one) for one in self.refused],
            "static_only": [one.as_dict() for one in self.static_only],
            "ignored": list(self.ignored),
            "raw_power_w": {file: list(edges) for file, edges in self.raw_power_w.items()},
            "power_is": formats.NET_POWER,
            "energy_is": formats.NET_ENERGY,
        }


def import_acprof(sources: Sequence[Path], out: Path) -> ImportReport:
    """Read AC-Prof's files and folders into a new profile.

    Args:
        sources: result files (long and wide form), static files, or folders of them.
        out: the profile's folder, which must not hold one.

    Raises:
        BadInput: a source is not there, nothing could be imported, the files name several GPUs, or
            ``out`` holds a profile.
        MissingCapability: no disk space.
    """
    if is_profile(out):
        raise BadInput(
            "holds a profile already", where=str(out), hint="choose another --out, or delete it"
        )
    content = read_all(sources)
    groups, more = group_rows(content.rows)
    content.refused += more
    if not groups:
        reasons = [f"\n  {one}" for one in content.refused[:5]]
        raise BadInput(
            "no latency in AC-Prof's form was found" + "".join(reasons),
            where=", ".join(map(str, sources)),
            hint="name its result files, or the folder that holds them (docs/acprof.md)",
        )
    statics = statics_by_model(content.statics)
    names = {id(group): _gpu_name(group, statics) for group in groups}
    manifest = ProfileManifest(
        sweep=None,
        device=_device(groups, {name for name in names.values() if name}),
        created_at=now_utc(),
        igprof=__version__,
        source=SOURCE,
    )
    with ProfileStore.create(out, manifest) as store:
        for group in groups:
            known = statics.get(group.tenant.model, [])
            store.append(measured(group, names[id(group)], known), [requests_of(group)])
        report = _report(content, groups, statics)
        with atomic_write(Path(out) / REPORT) as file:
            file.write(json.dumps(report.as_dict(), indent=2).encode() + b"\n")
    return report


def _gpu_name(group: Group, statics: Mapping[str, list[Static]]) -> str | None:
    """The GPU of a configuration, as its row or its model's static file names it."""
    if not group.tenant.gpu:
        return None
    named = [group.rows[0].gpu_name]
    named += [one.gpu_name for one in statics.get(group.tenant.model, [])]
    name = next((name for name in named if name), None)
    return None if name is None else name.strip().removeprefix("NVIDIA ")


def _device(groups: Sequence[Group], gpu_names: set[str]) -> Device:
    if len(gpu_names) > 1:
        raise BadInput(
            f"the files are of several GPUs: {', '.join(sorted(gpu_names))}",
            hint="a profile is of one device type: import them one by one",
        )
    gpu = any(group.tenant.gpu for group in groups)
    return Device(id=SOURCE, kind="cuda" if gpu else "cpu", name=next(iter(gpu_names), UNKNOWN))


def _report(
    content: Content, groups: Sequence[Group], statics: Mapping[str, list[Static]]
) -> ImportReport:
    files = {
        file: {"in": rows, "counted": 0, "warmup": 0, "failed": 0, "refused": 0}
        for file, rows in content.rows_in.items()
    }
    taken = [row for group in groups for row in group.rows]
    for row in taken:
        files[row.file][_way(row)] += 1
    for one in content.refused:
        if one.file in files and one.line is not None:
            files[one.file]["refused"] += 1
    raw = {file: formats.raw_power_range_w(_peaks(taken, file)) for file in files}
    measured_models = {group.tenant.model for group in groups}
    return ImportReport(
        files=files,
        cells=len(groups),
        refused=tuple(content.refused),
        static_only=tuple(
            one for name, known in statics.items() if name not in measured_models for one in known
        ),
        ignored=tuple(content.ignored),
        raw_power_w={file: edges for file, edges in raw.items() if edges is not None},
    )


def _way(row: Row) -> str:
    if row.is_warmup:
        return "warmup"
    return "counted" if row.status == "ok" else "failed"


def _peaks(rows: Sequence[Row], file: str) -> list[float]:
    return [
        row.numbers["peak_power_w"]
        for row in rows
        if row.file == file and "peak_power_w" in row.numbers
    ]
