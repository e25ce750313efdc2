"""From a campaign's state to a dataset that can be kept: ``docs/datasets/<gpu>/``.

The folder is named after the device in the profiles' own records. What was measured on a CPU is a
rehearsal by name, and is never put beside the datasets of GPUs.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps import ORDER

from igniter_prof import __version__
from igniter_prof.dataset import ProfileStore, cellfile
from igniter_prof.errors import BadInput, IgprofError
from igniter_prof.files import now_utc
from igniter_prof.monitors.power import TraceInfo
from igniter_prof.monitors.power.recording import Recording, read_recording, write_recording
from igniter_prof.records import Device, Measurement

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "docs" / "datasets"
"""Where datasets of GPUs are committed."""
BUDGET_BYTES = 6 << 20
"""Of the packed profiles; above it, samples of monitors and then raw requests are left out."""
ARCHIVE = "profiles.tar.xz"
TRACE = "trace.npz"
COPIED = ("probe.json", "shares.json", "power.json")
CONDITIONS = (
    "share_mechanism",
    "share_step_pct",
    "runtime",
    "triton",
    "framework",
    "driver",
    "cuda",
    "cudnn",
    "os",
    "kernel",
    "python",
    "cpu_model",
    "cpu_count",
    "client_apart",
    "igprof",
)
"""Of the cells' conditions, what the provenance names."""
FORMS = {
    "everything": "all cells, whole",
    "without samples": "all cells; the samples of monitors were left out for size",
    "without requests": "all cells and their statistics; samples of monitors and raw requests were"
    " left out for size, so 'igprof dataset check' cannot derive the statistics again and says so",
}
"""How much of each cell is kept."""
LEAST = "without requests"


@dataclass(frozen=True)
class Step:
    """The profile of one step."""

    name: str
    store: ProfileStore
    measurements: tuple[Measurement, ...]


def make(state: Path, out: Path) -> Path | None:
    """Write the dataset of a state; the folder, ``out/<name>``, or None where no cell is measured.

    Raises:
        BadInput: the profiles are of several devices, or as ``expect_place``.
    """
    expect_place(out)
    steps = profiles(state)
    if not steps:
        print(f"{state} holds no measured cell, so there is no dataset", file=sys.stderr)
        return None
    device = device_of(steps, state)
    folder = out / name_of(device)
    folder.mkdir(parents=True, exist_ok=True)
    form = _pack(steps, folder / ARCHIVE)
    for name in COPIED:
        if (state / name).is_file():
            shutil.copyfile(state / name, folder / name)
    trace = _trace(state, steps, folder / TRACE)
    found = provenance(steps, device, state)
    found |= {"cells_hold": form, "trace": trace}
    (folder / "provenance.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "README.md").write_text(_readme(found, device))
    return folder


def expect_place(out: Path) -> None:
    """Raise BadInput for the folder of kept datasets: more than the dataset is written there."""
    if out.resolve().is_relative_to(KEPT):
        raise BadInput(
            "is where datasets of GPUs are kept",
            where=str(out),
            hint="choose an --out elsewhere, and copy the folder with the GPU's name from there",
        )


def _stores(state: Path) -> list[ProfileStore]:
    manifests = sorted((state / "profiles").rglob("profile.json"))
    return [ProfileStore.open(manifest.parent) for manifest in manifests]


def profiles(state: Path) -> list[Step]:
    """The profiles of a state that hold a cell, in the order of the steps."""
    root = state / "profiles"
    found = []
    for store in _stores(state):
        measurements = tuple(store.measurements(strict=False))
        if measurements:
            found.append(Step(str(store.path.relative_to(root)), store, measurements))
    order = (*ORDER, *(step.name for step in found))
    return sorted(found, key=lambda step: order.index(step.name))


def device_of(steps: Sequence[Step], state: Path) -> Device:
    """The one device of all profiles. Raises BadInput: there are several."""
    devices = {step.store.manifest.device.id: step.store.manifest.device for step in steps}
    if len(devices) > 1:
        names = ", ".join(f"{device.id} ({device.name})" for device in devices.values())
        raise BadInput(
            f"is of several devices: {names}",
            where=str(state),
            hint="a lease's next machine is another one: keep the states of both apart",
        )
    return next(iter(devices.values()))


def name_of(device: Device) -> str:
    """The folder's name: the GPU's, or of a CPU one that says that it is a rehearsal."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    return slug if device.kind == "cuda" else f"rehearsal-{slug}"


def provenance(steps: Sequence[Step], device: Device, state: Path) -> dict[str, Any]:
    """Where a dataset comes from: device, dates, versions, share mechanism, cells of each step."""
    every = [one for step in steps for one in step.measurements]
    started = sorted(one.started_at for one in every)
    conditions: dict[str, list[Any]] = {}
    for name in CONDITIONS:
        values = {getattr(one.conditions, name) for one in every} - {None}
        conditions[name] = sorted(values, key=str)
    return {
        "device": device.model_dump(mode="json"),
        "is_gpu_dataset": device.kind == "cuda",
        "measured_from": started[0],
        "measured_to": started[-1],
        "made_at": now_utc(),
        "made_by": f"igprof {__version__}",
        "commit": _commit(state),
        "conditions": conditions,
        "steps": {
            step.name: {
                "cells": len(step.measurements),
                "tenants": dict(
                    sorted(Counter(str(len(one.tenants)) for one in step.measurements).items())
                ),
                "status": dict(
                    Counter(tenant.status for one in step.measurements for tenant in one.tenants)
                ),
            }
            for step in steps
        },
        "models": sorted({tenant.tenant.model for one in every for tenant in one.tenants}),
    }


def _commit(state: Path) -> str | None:
    """The commit that measured, if the state says it; else that of this checkout."""
    probed = _read(state / "probe.json").get("machine", {}).get("commit")
    if probed:
        return str(probed)
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return f"{done.stdout.strip()} (when this was made)" if done.returncode == 0 else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


# --- the files ------------------------------------------------------------------------------------


def _whole(step: Step, cell_id: str) -> bytes:
    return step.store.cell_path(cell_id).read_bytes()


def _without_samples(step: Step, cell_id: str) -> bytes:
    measurement, requests = cellfile.read_requests(step.store.cell_path(cell_id))
    return cellfile.encode(measurement, requests)


def _without_requests(step: Step, cell_id: str) -> bytes:
    measurement, requests = cellfile.read_requests(step.store.cell_path(cell_id))
    return cellfile.encode(measurement, [rows[:0] for rows in requests])


def _pack(steps: Sequence[Step], path: Path) -> str:
    """Write the archive of all profiles in the fullest form that fits; which form it is."""
    contents: dict[str, Callable[[Step, str], bytes]] = dict(
        zip(FORMS, (_whole, _without_samples, _without_requests), strict=True)
    )
    packed = ((form, _archive(steps, content)) for form, content in contents.items())
    form, data = next(each for each in packed if len(each[1]) <= BUDGET_BYTES or each[0] == LEAST)
    path.write_bytes(data)
    return form


def _archive(steps: Sequence[Step], content: Callable[[Step, str], bytes]) -> bytes:
    """A tar file; the same cells give the same bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz", preset=6) as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(f"profiles/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        for step in steps:
            add(f"{step.name}/profile.json", (step.store.path / "profile.json").read_bytes())
            for cell_id in sorted(step.store.done_ids()):
                add(f"{step.name}/cells/{cell_id}{cellfile.SUFFIX}", content(step, cell_id))
    return out.getvalue()


def _trace(state: Path, steps: Sequence[Step], out: Path) -> str | None:
    """Keep a trace for ``replay``: that of the step power, else a cell's; what it is of."""
    kept = state / TRACE
    if kept.is_file():
        recording = read_recording(kept)
        write_recording(out, recording)
        return f"the step power, {_length(recording)}"
    found: list[tuple[int, Recording, str]] = []
    for step in steps:
        for one in step.measurements:
            if one.power is None or one.power.source != TraceInfo().source:
                continue
            path = step.store.cell_path(one.cell_id)
            try:
                recording = read_recording(path)
            except IgprofError:
                continue
            found.append(
                (len(recording.trace), recording, f"the cell {one.cell_id} of {step.name}")
            )
    if not found:
        return None
    _, recording, where = max(found, key=lambda each: each[0])
    write_recording(out, recording)
    return f"{where}, {_length(recording)}"


def _length(recording: Recording) -> str:
    at_ns = recording.trace["at_ns"]
    return f"{len(at_ns)} samples in {float(at_ns[-1] - at_ns[0]) / 1e9:.1f} s"


def _readme(found: dict[str, Any], device: Device) -> str:
    gpu = device.kind == "cuda"
    title = device.name if gpu else f"Rehearsal on a CPU ({device.name}): no dataset of a GPU"
    rows = [
        ("device", f"{device.name}, `{device.id}`"),
        ("measured", f"{found['measured_from']} to {found['measured_to']} (UTC)"),
        ("commit", found["commit"]),
        ("made", f"{found['made_at']} by {found['made_by']}"),
        *((name, ", ".join(map(str, values))) for name, values in found["conditions"].items()),
        ("models", ", ".join(found["models"])),
        ("cells hold", FORMS[found["cells_hold"]]),
        ("trace", found["trace"]),
    ]
    lines = [f"# {title}", ""]
    lines += ["Measured by `scripts/gpu_campaign` ([how](../../gpu.md)).", ""] if gpu else []
    lines += ["| | |", "|---|---|", *(f"| {name} | {text or 'not known'} |" for name, text in rows)]
    lines += ["", "| step | cells | cells by tenants | how tenants ended |", "|---|---:|---|---|"]
    for name, step in found["steps"].items():
        tenants = ", ".join(f"{count} of {size}" for size, count in step["tenants"].items())
        ended = ", ".join(f"{count} {status}" for status, count in step["status"].items())
        lines.append(f"| {name} | {step['cells']} | {tenants} | {ended} |")
    folders = [f"profiles/{name}" for name in found["steps"]]
    lines += [
        "",
        "```console",
        f"$ tar -xf {ARCHIVE}",
        f"$ igprof dataset check {folders[0]}",
        f"$ igprof dataset merge {' '.join(folders)} --out all",
        "$ igprof fit all --out coefficients.json",
        "```",
        "",
        f"`{ARCHIVE}` holds a profile for each step, in [igprof's format](../../dataset.md).",
    ]
    if found["trace"]:
        lines.append(
            f"`{TRACE}` is played by the monitor [replay](../../energy.md#replay):"
            f" `--monitors client,replay:{TRACE}`."
        )
    lines.append(
        "`provenance.json` is the table above; `probe.json`, `shares.json` and `power.json`"
    )
    lines.append("are what the campaign found of the machine, where they are there.")
    return "\n".join(lines) + "\n"
