"""From AC-Prof's rows to our measurements: the rows of one configuration are one cell.

Its rows are successive requests of one container, so they are no repeats in the sense of
``Cell.repeat`` (a server started anew).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from pydantic import ValidationError

from igniter_prof import __version__
from igniter_prof.dataset.acprof import formats
from igniter_prof.dataset.acprof.formats import SOURCE, UNKNOWN, Refusal, Row, Static
from igniter_prof.dataset.cellfile import Requests
from igniter_prof.records import (
    MEASURED,
    REQUEST_DTYPE,
    WARMUP,
    Cell,
    ColdStart,
    Conditions,
    DevicePower,
    ImageInfo,
    Measurement,
    Status,
    Tenant,
    TenantEnergy,
    TenantMeasurement,
)
from igniter_prof.statistics import summarise
from igniter_prof.units import NS_PER_MS, NS_PER_S

NS = float(NS_PER_S)


@dataclass(frozen=True)
class Group:
    """The rows of one configuration, in the order of their file."""

    tenant: Tenant
    rows: tuple[Row, ...]

    @property
    def counted(self) -> list[Row]:
        """Good rows that are no warm-up."""
        return [row for row in self.rows if row.status == "ok" and not row.is_warmup]


def group_rows(rows: Sequence[Row]) -> tuple[list[Group], list[Refusal]]:
    """Rows by configuration, and those that contradict an earlier one or have no cell of ours."""
    refused: list[Refusal] = []
    names: dict[str, str] = {}
    groups: dict[str, tuple[Tenant, list[Row]]] = {}
    seen: dict[tuple[str, int, bool], Row] = {}

    def refuse(row: Row, reason: str) -> None:
        refused.append(Refusal(row.file, row.line, row.column, reason))

    for row in rows:
        name = formats.short_name(row.model_name)
        if names.setdefault(name, row.model_name) != row.model_name:
            refuse(row, f"its model's short name is that of {names[name]}: import it apart")
            continue
        try:
            tenant = _tenant(row, name)
        except ValidationError as error:
            first = error.errors()[0]
            refuse(row, f"{first['loc'][0]}: {first['msg']}, got {first['input']!r}")
            continue
        key = tenant.digest()
        _, members = groups.setdefault(key, (tenant, []))
        earlier = seen.setdefault((key, row.repeat, row.is_warmup), row)
        if earlier is not row:
            same = earlier.latency_s == row.latency_s and earlier.numbers == row.numbers
            what = "the same row" if same else "another value of this configuration and repeat"
            refuse(row, f"{what} is in {earlier.file}, line {earlier.line}")
        elif members and members[0].other != row.other:
            changed = [n for n in row.other if members[0].other.get(n) != row.other[n]]
            refuse(row, f"differs from line {members[0].line} in {', '.join(changed)}")
        else:
            members.append(row)
    return [
        Group(tenant, tuple(members)) for tenant, members in groups.values() if members
    ], refused


def _tenant(row: Row, name: str) -> Tenant:
    return Tenant(
        model=name,
        batch_size=row.batch_size,
        cpu_cores=row.cpu_cores,
        memory_mib=None if row.memory_gb is None else row.memory_gb * formats.MIB_PER_GB,
        gpu=row.gpu,
        input_size=row.size,
        input_unit=None if row.size_column is None else formats.size_unit(row.size_column),
    )


def measured(group: Group, gpu_name: str | None, statics: Sequence[Static]) -> Measurement:
    """The measurement of one configuration; its raw requests are ``requests_of``."""
    cell = Cell(device=SOURCE, tenants=(group.tenant,))
    rows = requests_of(group)
    first_ns, last_ns = _span_ns(group)
    at = datetime.fromtimestamp(first_ns / NS, timezone.utc) if first_ns else None
    window = rows["intended_ns"][rows["phase"] == MEASURED]
    return Measurement(
        cell_id=cell.cell_id,
        cell=cell,
        tenants=(_tenant_measurement(group, statics),),
        conditions=Conditions(igprof=__version__, runtime=SOURCE),
        started_at=at.isoformat(timespec="milliseconds") if at else UNKNOWN,
        anchor_monotonic_ns=first_ns,
        anchor_wall_ns=first_ns,
        window_start_ns=int(window[0]) if len(window) else None,
        window_end_ns=last_ns if len(window) else None,
        duration_s=(last_ns - first_ns) / NS,
        power=_power(group, gpu_name),
    )


def requests_of(group: Group) -> Requests:
    """The raw requests (n,) of a configuration whose rows are single requests with an instant.

    The wall clock at its end, to the millisecond, less its latency. There are none where a row is
    a statistic of several requests (``energy_agg_iters``) or has no instant: those values are kept
    as they were published, but they are no requests that could be stored as such.
    """
    known = all(
        row.timestamp_ms is not None
        and row.latency_s is not None
        and "energy_agg_iters" not in row.numbers
        for row in group.rows
    )
    ordered = [row.is_warmup for row in group.rows] == sorted(
        (row.is_warmup for row in group.rows), reverse=True
    )
    if not known or not ordered or not group.counted:
        return np.zeros(0, REQUEST_DTYPE)
    found = np.zeros(len(group.rows), REQUEST_DTYPE)
    for index, row in enumerate(group.rows):
        done = (row.timestamp_ms or 0) * NS_PER_MS
        found[index]["done_ns"] = done
        found[index]["sent_ns"] = done - round((row.latency_s or 0.0) * NS)
        found[index]["phase"] = WARMUP if row.is_warmup else MEASURED
        found[index]["ok"] = row.status == "ok"
    found["intended_ns"] = found["sent_ns"]
    if (np.diff(found["done_ns"]) < 0).any() or (np.diff(found["sent_ns"]) < 0).any():
        return np.zeros(0, REQUEST_DTYPE)  # the instants are not those of one client
    return found


def _span_ns(group: Group) -> tuple[int, int]:
    """First send and last answer, ns of the wall clock; (0, sum of latencies) if not known."""
    known = [
        (row.timestamp_ms, row.latency_s) for row in group.rows if row.timestamp_ms is not None
    ]
    if len(known) < len(group.rows):
        return 0, round(sum(row.latency_s or 0.0 for row in group.rows) * NS)
    starts = [ms * NS_PER_MS - round((latency or 0.0) * NS) for ms, latency in known]
    return min(starts), max(ms for ms, _ in known) * NS_PER_MS


def _tenant_measurement(group: Group, statics: Sequence[Static]) -> TenantMeasurement:
    counted = group.counted
    failed = [row for row in group.rows if row.status != "ok" and not row.is_warmup]
    first = group.rows[0]
    values: dict[str, Any] = {
        "failed_requests": len(failed),
        "cold_start": _cold_start(group),
        "weight_bytes": _weight_bytes(statics),
        "image": _image(statics),
        "energy": _energy(group),
        "extra": {
            "acprof": {
                "file": first.file,
                "model_name": first.model_name,
                "gpu_name": first.gpu_name,
                "size_column": first.size_column,
                "other": first.other,
                "rows": [_published(row) for row in group.rows],
                "static": [static.as_dict() for static in statics],
            }
        },
    }
    if not counted:
        status, detail = _end(failed)
        return TenantMeasurement(tenant=group.tenant, status=status, detail=detail, **values)
    latency_ns = [round((row.latency_s or 0.0) * NS) for row in counted]
    rates = _numbers(counted, "throughput_samples_per_s")
    return TenantMeasurement(
        tenant=group.tenant,
        status="ok",
        stable=False,
        verdict=f"{len(counted)} published values: too few to judge",
        latency=summarise(np.array(latency_ns, dtype=np.float64) / NS_PER_MS),
        throughput_rps=float(np.mean(rates)) if rates else None,
        **values,
    )


def _published(row: Row) -> dict[str, Any]:
    """What a row says beside its configuration, for the way back."""
    known: dict[str, Any] = {
        "line": row.line,
        "repeat": row.repeat,
        "warmup": row.warmup,
        "latency_s": row.latency_s,
        **row.numbers,
    }
    known |= {} if row.timestamp_ms is None else {"timestamp_ms": row.timestamp_ms}
    return known | ({} if row.status == "ok" else {"status": row.status, "error": row.error})


def _end(failed: Sequence[Row]) -> tuple[Status, str]:
    """How a configuration without a good row ended."""
    if not failed:
        return "invalid", "only warm-up rows were published"
    told = f"{failed[0].status} {failed[0].error}".strip()
    lower = told.lower()
    status: Status = "invalid"
    if "oom" in lower or "out of memory" in lower:
        status = "oom"
    elif "timeout" in lower or "timed out" in lower:
        status = "timeout"
    return status, told


def _numbers(rows: Sequence[Row], name: str) -> list[float]:
    return [row.numbers[name] for row in rows if name in row.numbers]


def _known(statics: Sequence[Static], name: str) -> int | None:
    return next((value for one in statics if (value := getattr(one, name)) is not None), None)


def _weight_bytes(statics: Sequence[Static]) -> int | None:
    """The weights' size; a download volume below ``IMAGE_FROM_BYTES`` is taken for it."""
    told = _known(statics, "weight_bytes")
    volume = _known(statics, "download_bytes")
    if told is None and volume is not None and volume < formats.IMAGE_FROM_BYTES:
        return volume
    return told


def _image(statics: Sequence[Static]) -> ImageInfo | None:
    """The image's size, on disk where that is told, or as a large download volume."""
    disk, volume = (_known(statics, name) for name in ("image_bytes", "download_bytes"))
    if volume is not None and volume < formats.IMAGE_FROM_BYTES:
        volume = None
    if disk is None and volume is None:
        return None
    return ImageInfo(name=UNKNOWN, id=UNKNOWN, disk_bytes=disk, compressed_bytes=volume)


def _cold_start(group: Group) -> ColdStart | None:
    """The container's, which every row of it repeats."""
    known = _numbers(group.rows, "cold_start_s")
    return ColdStart(ready_s=known[0]) if known else None


def _energy(group: Group) -> TenantEnergy | None:
    """Energy of an inference, mean of the counted rows; a row's is that of a batch."""
    known = _numbers(group.counted, "energy_j")
    if not known:
        return None
    windows = _numbers(group.counted, "energy_window_j") or known
    return TenantEnergy(
        energy_j=float(np.sum(windows)),
        per_inference_j=float(np.mean(known)) / group.tenant.batch_size,
        method=formats.NET_ENERGY,
    )


def _power(group: Group, gpu_name: str | None) -> DevicePower | None:
    mean, peak = (_numbers(group.counted, f"{name}_power_w") for name in ("avg", "peak"))
    if not mean and not peak:
        return None
    return DevicePower(
        uuid=UNKNOWN,
        name=gpu_name,
        source=SOURCE,
        samples=round(sum(_numbers(group.counted, "energy_iters"))),
        power_mean_w=float(np.mean(mean)) if mean else None,
        power_peak_w=max(peak) if peak else None,
        power_field=formats.NET_POWER,
    )


def statics_by_model(statics: Sequence[Static]) -> Mapping[str, list[Static]]:
    """Static entries by the short name of their model."""
    found: dict[str, list[Static]] = {}
    for one in statics:
        found.setdefault(formats.short_name(one.model_name), []).append(one)
    return found
