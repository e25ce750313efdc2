"""``igprof dataset check``: every row of a profile, against its own raw requests and its peers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from igniter_prof.dataset import cellfile
from igniter_prof.dataset.cellfile import Requests, Traces
from igniter_prof.dataset.conditions import disagreements, require_device
from igniter_prof.dataset.monitored import incomplete_monitors, network_disagreements
from igniter_prof.dataset.points import by_place
from igniter_prof.dataset.store import CELLS, LOCK, ProfileStore, leftovers
from igniter_prof.errors import BadInput
from igniter_prof.records import (
    AFTER,
    MEASURED,
    WARMUP,
    LatencySummary,
    Measurement,
    Quantile,
    TenantMeasurement,
)
from igniter_prof.statistics import answered_rps, counted, latencies_ms, summarise
from igniter_prof.units import NS_PER_S

Level = Literal["error", "warning"]

RELATIVE_TOLERANCE = 1e-6
"""Stored and recomputed statistics may differ by rounding only."""
THROUGHPUT_TOLERANCE = 0.02
DRIFT_PCT = 5.0
"""Repeats of one solo point that lie further apart than that are reported."""


@dataclass(frozen=True)
class Finding:
    """Something wrong (error) or doubtful (warning) in a profile."""

    level: Level
    where: str
    """The name of a file in the profile, and the tenant (from 1) where it is about one."""
    what: str


def check_profile(path: Path) -> list[Finding]:
    """Everything wrong with a profile; errors first.

    Raises:
        BadInput: the folder is no profile at all, or its manifest cannot be read.
    """
    store = ProfileStore.open(path)
    findings: list[Finding] = list(_check_folder(store))
    measurements: list[Measurement] = []
    for file in store.cell_paths():
        try:
            measurement, requests = cellfile.read_requests(file)
            traces = cellfile.read_traces(file)
        except BadInput as error:
            findings.append(Finding("error", file.name, error.what))
            continue
        measurements.append(measurement)
        try:
            require_device(measurement, store.manifest.device, file.name)
        except BadInput as error:
            findings.append(Finding("error", file.name, error.what))
        findings += check_cell(measurement, requests)
        findings += check_traces(measurement, traces)
    findings += _check_conditions(measurements)
    findings += [
        Finding("warning", where, what) for where, what in incomplete_monitors(measurements)
    ]
    findings += check_drift(sorted(measurements, key=lambda one: one.anchor_wall_ns))
    return sorted(findings, key=lambda finding: finding.level != "error")


def check_cell(measurement: Measurement, requests: Sequence[Requests]) -> list[Finding]:
    """What is wrong with one cell: its window, its tenants, its statistics."""
    name = f"{measurement.cell_id}{cellfile.SUFFIX}"
    findings = [Finding("error", name, what) for what in _check_window(measurement)]
    if [tenant.tenant for tenant in measurement.tenants] != list(measurement.cell.tenants):
        findings.append(Finding("error", name, "the tenants measured are not those of the cell"))
    for number, (tenant, rows) in enumerate(zip(measurement.tenants, requests, strict=True), 1):
        raw = len(rows) > 0 or not _is_imported(measurement)
        where = f"{name}, tenant {number}"
        problems = [
            *_check_status(tenant, imported=_is_imported(measurement)),
            *_check_requests(rows),
            *_check_phases(rows, measurement),
            *(_check_statistics(tenant, rows, measurement) if raw else ()),
        ]
        findings += [Finding(level, where, what) for level, what in problems]
    return findings


def check_traces(measurement: Measurement, traces: Traces) -> list[Finding]:
    """Where what a monitor gave and the samples that it stored do not agree."""
    name = f"{measurement.cell_id}{cellfile.SUFFIX}"
    return [
        Finding("warning", f"{name}, tenant {index + 1}", what)
        for index, what in network_disagreements(measurement, traces)
    ]


def check_drift(measurements: Sequence[Measurement]) -> list[Finding]:
    """Solo points that were repeated and came out differently, in order of time."""
    return [
        Finding(
            "warning",
            label,
            f"{len(means_ms)} repeats alone differ by {_spread_pct(means_ms):.1f} %"
            f" (first {means_ms[0]:.3g} ms, last {means_ms[-1]:.3g} ms):"
            " the machine was not the same throughout",
        )
        for label, means_ms in _solo_repeats(measurements)
        if _spread_pct(means_ms) > DRIFT_PCT
    ]


def drift_pct(measurements: Sequence[Measurement]) -> float | None:
    """How far the repeats of a solo point lie apart at most, largest over smallest mean less one.

    None where nothing was repeated.
    """
    spreads = [_spread_pct(means_ms) for _, means_ms in _solo_repeats(measurements)]
    return max(spreads, default=None)


def _spread_pct(means_ms: Sequence[float]) -> float:
    return 100 * (max(means_ms) / min(means_ms) - 1)


def _solo_repeats(measurements: Sequence[Measurement]) -> Iterator[tuple[str, list[float]]]:
    """Label and mean latencies, in order of time, of the solo points that were repeated."""
    solo = (one for one in measurements if len(one.cell.tenants) == 1)
    for repeats in by_place(solo).values():
        means_ms = [tenant.latency.mean_ms for _, tenant in repeats if tenant.latency is not None]
        if len(means_ms) > 1 and min(means_ms) > 0:
            yield repeats[0][0].tenant.label, means_ms


def _is_imported(measurement: Measurement) -> bool:
    """Whether it came from another tool, which may have kept neither requests nor windows."""
    return measurement.conditions.runtime.startswith("import:")


Problems = Iterator[tuple[Level, str]]


def _check_folder(store: ProfileStore) -> Iterator[Finding]:
    for file in leftovers(store.path):
        yield Finding("warning", file.name, "left over from a killed igprof, or one is at work")
    known = {path.name for path in (*store.cell_paths(), *leftovers(store.path))}
    cells = store.path / CELLS
    for entry in sorted(cells.iterdir()) if cells.is_dir() else []:
        if entry.name not in known and entry.name != LOCK:
            yield Finding("warning", f"{CELLS}/{entry.name}", "is no cell's file; it is ignored")


def _check_conditions(measurements: Iterable[Measurement]) -> Iterator[Finding]:
    for name, known in disagreements([one.conditions for one in measurements]).items():
        shown = ", ".join(map(str, known))
        yield Finding("error", "all cells", f"measured under different {name}: {shown}")


def _check_window(measurement: Measurement) -> Iterator[str]:
    start, end = measurement.window_start_ns, measurement.window_end_ns
    done = any(tenant.status == "ok" for tenant in measurement.tenants)
    if done and None in (start, end) and not _is_imported(measurement):
        yield "a tenant is ok but there is no counted window"
    if start is not None and start < measurement.anchor_monotonic_ns:
        yield "the counted window begins before the cell"
    if start is not None and end is not None:
        if end <= start:
            yield "the counted window ends before it begins"
        # a second of slack: the cell's duration is rounded
        if end - measurement.anchor_monotonic_ns > (measurement.duration_s + 1) * NS_PER_S:
            yield "the counted window ends after the cell"


def _check_status(tenant: TenantMeasurement, *, imported: bool) -> Problems:
    if tenant.status == "ok":
        if tenant.latency is None:
            yield "error", "is ok but has no latency"
        if tenant.stable is None and not imported:
            yield "warning", "is ok but has no verdict on its stability"
        return
    if tenant.stable:
        yield "error", f"ended with status {tenant.status} and is called stable"
    if not tenant.detail:
        yield "warning", f"ended with status {tenant.status} and no reason"


def _check_requests(rows: Requests) -> Problems:
    if not np.isin(rows["phase"], (WARMUP, MEASURED, AFTER)).all():
        yield "error", "a request has an unknown phase"
    if not np.isin(rows["ok"], (0, 1)).all():
        yield "error", "a request is neither good nor failed"
    if (rows["sent_ns"] < rows["intended_ns"]).any():
        yield "error", "a request was sent before its intended instant"
    good = rows[rows["ok"] == 1]
    if (good["done_ns"] < good["sent_ns"]).any():
        yield "error", "a request ended before it was sent"


def _check_phases(rows: Requests, measurement: Measurement) -> Problems:
    """A request is of the phase in which its intended instant lies."""
    start, end = measurement.window_start_ns, measurement.window_end_ns
    intended = rows["intended_ns"]
    phase = np.full(len(rows), WARMUP)
    if start is not None:
        phase[intended >= start] = MEASURED
        if end is not None:
            phase[intended >= end] = AFTER
    wrong = int((phase != rows["phase"]).sum())
    if wrong:
        yield "error", f"{wrong} of {len(rows)} requests are not of the phase that they lie in"


def _check_statistics(
    tenant: TenantMeasurement, rows: Requests, measurement: Measurement
) -> Problems:
    failed = int(((rows["phase"] == MEASURED) & (rows["ok"] == 0)).sum())
    if tenant.failed_requests != failed:
        yield (
            "error",
            f"failed_requests is {tenant.failed_requests}, the raw requests say {failed}",
        )
    for name, stored, intended in (
        ("latency", tenant.latency, False),
        ("latency_intended", tenant.latency_intended, True),
    ):
        if stored is None:
            continue
        latency_ms = latencies_ms(rows, intended=intended)
        if len(latency_ms) == 0:
            yield "error", f"{name} is given, but no request counts"
            continue
        differ = list(_differences(stored, summarise(latency_ms)))
        if differ:
            yield "error", f"{name} disagrees with the raw requests: {', '.join(differ)}"
    yield from _check_throughput(tenant, rows, measurement)


def _check_throughput(
    tenant: TenantMeasurement, rows: Requests, measurement: Measurement
) -> Problems:
    """A closed loop's inferences from first send to last answer; an open loop's answers."""
    start, end = measurement.window_start_ns, measurement.window_end_ns
    good = rows[counted(rows)]
    if tenant.throughput_rps is None or len(good) == 0 or start is None or end is None:
        return
    if end <= start:
        return  # told of as the window's own problem
    span_ns = max(1, int(good["done_ns"].max() - good["sent_ns"].min()))
    possible = [
        rate * tenant.tenant.batch_size
        for rate in (len(good) * NS_PER_S / span_ns, answered_rps(rows, start, end))
    ]
    if not any(
        math.isclose(tenant.throughput_rps, rate, rel_tol=THROUGHPUT_TOLERANCE) for rate in possible
    ):
        yield (
            "error",
            f"throughput_rps is {tenant.throughput_rps:.6g}, the raw requests say"
            f" {possible[-1] if possible else 0:.6g}",
        )


def _differences(stored: LatencySummary, computed: LatencySummary) -> Iterator[str]:
    """``field: stored, not computed``, in the fields in which two summaries differ."""
    for name in LatencySummary.model_fields:
        for part, old, new in _parts(name, getattr(stored, name), getattr(computed, name)):
            if not _close(old, new):
                yield f"{part} is {_show(old)}, not {_show(new)}"


def _parts(name: str, old: object, new: object) -> Iterator[tuple[str, float | None, float | None]]:
    if isinstance(old, Quantile) and isinstance(new, Quantile):
        for field in Quantile.model_fields:
            yield f"{name}.{field}", getattr(old, field), getattr(new, field)
    elif isinstance(old, Quantile) or isinstance(new, Quantile):
        yield (
            name,
            old.value_ms if isinstance(old, Quantile) else None,
            new.value_ms if isinstance(new, Quantile) else None,
        )
    else:
        assert old is None or isinstance(old, (int, float))
        assert new is None or isinstance(new, (int, float))
        yield name, old, new


def _close(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is new
    return math.isclose(old, new, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-9)


def _show(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
