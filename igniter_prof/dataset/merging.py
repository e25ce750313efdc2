"""``igprof dataset merge``: profiles of one device under one set of conditions, as one."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from igniter_prof import __version__
from igniter_prof.dataset.cellfile import encode
from igniter_prof.dataset.conditions import require_agreement, same_device
from igniter_prof.dataset.store import ProfileStore
from igniter_prof.errors import BadInput
from igniter_prof.files import now_utc, write_error
from igniter_prof.records import Measurement, ProfileManifest


@dataclass(frozen=True)
class Merged:
    """What a merge did."""

    cells: int
    """Cells in the new profile."""
    renumbered: int
    """Cells that got another repeat, as their own was taken by another measurement."""
    identical: int
    """Cells left out, as the same measurement was there already."""


def merge_profiles(sources: Sequence[Path], out: Path) -> Merged:
    """Join profiles into a new one, which appears as a whole or not at all.

    A cell that was measured in more than one of them is kept each time: the later ones get the next
    free repeat (and so another id). A measurement that is there already is left out.

    Raises:
        BadInput: a source is no profile or damaged, devices or conditions differ (naming the
            fields and values), or ``out`` is there already.
        MissingCapability: no disk space.
    """
    stores = [ProfileStore.open(path) for path in sources]
    if not stores:
        raise BadInput("no profile to merge", hint="name at least one")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput("is there already", where=str(out), hint="choose another --out")
    manifest = _manifest(stores)
    cells = [
        (store, measurement) for store in stores for measurement in store.measurements(strict=True)
    ]
    require_agreement(
        [measurement.conditions for _, measurement in cells], " + ".join(map(str, sources))
    )

    # a folder that nobody takes for a profile, until it is whole
    building = out.parent / f".{out.name}.merging"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        try:
            merged = _write(building, manifest, cells)
            building.replace(out)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise write_error(out, error) from error
    return merged


def _write(
    path: Path, manifest: ProfileManifest, cells: Sequence[tuple[ProfileStore, Measurement]]
) -> Merged:
    taken: dict[str, set[int]] = {}
    contents: set[bytes] = set()
    renumbered = identical = 0
    with ProfileStore.create(path, manifest) as store:
        for source, measurement in cells:
            original = measurement.cell_id
            requests = source.requests(original)
            # one measurement is the same whatever the repeat that it is numbered with
            content = hashlib.sha256(encode(_renumber(measurement, 0), requests)).digest()
            if content in contents:
                identical += 1
                continue
            contents.add(content)
            numbers = taken.setdefault(_renumber(measurement, 0).cell_id, set())
            if measurement.cell.repeat in numbers:
                free = next(number for number in itertools.count() if number not in numbers)
                measurement = _renumber(measurement, free)
                renumbered += 1
            numbers.add(measurement.cell.repeat)
            store.append(measurement, requests, source.traces(original))
    return Merged(len(contents), renumbered, identical)


def _manifest(stores: Sequence[ProfileStore]) -> ProfileManifest:
    first = stores[0].manifest
    for store in stores[1:]:
        device = store.manifest.device
        if not same_device(first.device, device):
            raise BadInput(
                f"is of the device {device.id} ({device.name}), {stores[0].path} is of"
                f" {first.device.id} ({first.device.name})",
                where=str(store.path),
                hint="merge profiles of one device only",
            )
    lightweight = {
        store.manifest.igniter.digest(): store.manifest.igniter
        for store in stores
        if store.manifest.igniter is not None
    }
    if len(lightweight) > 1:
        raise BadInput(
            "the profiles hold different lightweight profiles of iGniter",
            where=" + ".join(str(store.path) for store in stores),
            hint="merge their files first, and import those: igprof import igniter",
        )
    one_sweep = all(store.manifest.sweep == first.sweep for store in stores)
    return ProfileManifest(
        sweep=first.sweep if one_sweep else None,
        device=first.device,
        created_at=now_utc(),
        igprof=__version__,
        source="merged",
        igniter=next(iter(lightweight.values()), None),
    )


def _renumber(measurement: Measurement, repeat: int) -> Measurement:
    cell = measurement.cell.model_copy(update={"repeat": repeat})
    return measurement.model_copy(update={"cell": cell, "cell_id": cell.cell_id})
