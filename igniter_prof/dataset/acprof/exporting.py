"""``igprof export --to acprof``: a profile in the columns of AC-Prof's files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igniter_prof.dataset.acprof import formats
from igniter_prof.dataset.acprof.importing import REPORT
from igniter_prof.dataset.cellfile import Requests
from igniter_prof.dataset.store import ProfileStore
from igniter_prof.errors import BadInput
from igniter_prof.files import atomic_write, read_json, write_csv, write_error
from igniter_prof.records import (
    AFTER,
    WARMUP,
    Device,
    DevicePower,
    Measurement,
    TenantMeasurement,
)
from igniter_prof.units import NS_PER_MS, NS_PER_S

STATIC_COLUMNS = [
    "model_name",
    "model_download_url",
    "gpu",
    "model_weight_bytes",
    "docker_image_bytes",
]
TUTORIAL_COLUMNS = ["scale", "width", "height", "time"]

_BEFORE = ["timestamp_ms", "model_name", "cpu_cores", "gpu_mode", "gpu_name", "mem_cap_gb"]
_AFTER = ["repeat_idx", "warmup", "latency_s", *formats.NUMBERS, "status", "error"]
_ALWAYS = {
    "model_name",
    "cpu_cores",
    "gpu_mode",
    "mem_cap_gb",
    "batch_size",
    "repeat_idx",
    "warmup",
    "latency_s",
    "avg_power_w",
    "peak_power_w",
    "energy_j",
    "status",
    "error",
}
"""Columns that are written even where nothing is known."""

Table = list[dict[str, Any]]


@dataclass
class Exported:
    """What an export wrote, and what has no place in AC-Prof's columns."""

    written: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Point:
    """One cell with one tenant, as their columns tell it."""

    measurement: Measurement
    tenant: TenantMeasurement
    requests: Requests
    cpu_cores: float | None
    gpu: bool

    @property
    def container(self) -> dict[str, Any]:
        memory = self.tenant.tenant.memory_mib
        return {
            "cpu_cores": _number(self.cpu_cores),
            "gpu_mode": "on" if self.gpu else "off",
            "mem_cap_gb": None if memory is None else _number(memory / formats.MIB_PER_GB),
        }


def export_acprof(path: Path, out: Path) -> Exported:
    """Write a profile as a folder for each model.

    ``cpu.csv`` and ``gpu.csv`` are the long form, one row a request (of an imported profile: the
    rows as they were published); ``static_meta.csv`` has sizes; of models fed with images,
    ``inference_time_<container>.csv`` is the tutorial's table for each container.

    Raises:
        BadInput: no profile, a damaged one, nothing that their columns can hold, or a file cannot
            be written.
        MissingCapability: no disk space.
    """
    store = ProfileStore.open(path)
    done = Exported()
    points = _points(store, done)
    if not points:
        reasons = "; ".join(f"{count} {why}" for why, count in done.left_out.items())
        raise BadInput(
            f"holds nothing that AC-Prof's columns can tell ({reasons or 'it is empty'})",
            where=str(path),
        )
    by_file: dict[tuple[str, str], list[_Point]] = {}
    for point in points:
        mode = "gpu" if point.gpu else "cpu"
        by_file.setdefault((point.tenant.tenant.model, mode), []).append(point)
    for (model, mode), members in sorted(by_file.items()):
        folder = _folder(out / model)
        _write_long(folder, mode, members, done)
        _write_tutorial(folder, members, done)
    _write_static(store, out, points, done)
    return done


def _points(store: ProfileStore, done: Exported) -> list[_Point]:
    found = []
    for measurement in store.measurements():
        reason = _no_place(measurement, store.manifest.device)
        if reason is not None:
            done.left_out[reason] += 1
            continue
        tenant = measurement.tenants[0]
        cores = _cores(tenant, store.manifest.device)
        gpu = tenant.tenant.gpu
        if gpu is None:
            gpu = store.manifest.device.kind == "cuda"
        rows = store.requests(measurement.cell_id)[0]
        found.append(_Point(measurement, tenant, rows, cores, gpu))
    return sorted(found, key=_order)


def _order(point: _Point) -> tuple[float, ...]:
    """As the published files are: by container, then batch, then input; repeats as measured."""
    tenant = point.tenant.tenant
    size = tenant.input_scale if tenant.input_size is None else tenant.input_size
    return (point.cpu_cores or 0.0, tenant.memory_mib or 0.0, tenant.batch_size, size)


def _no_place(measurement: Measurement, device: Device) -> str | None:
    """Why a cell has no place in their columns; None: it has."""
    if len(measurement.tenants) > 1:
        return "cells: several tenants share the device"
    tenant = measurement.tenants[0].tenant
    if tenant.instances != 1:
        return "cells: several instances"
    if device.kind == "cuda" and tenant.share_pct not in (None, 100.0):
        return "cells: a share of the GPU"
    if measurement.cell.load.kind != "closed" or measurement.cell.load.concurrency != 1:
        return "cells: the load was not a closed loop of one request in flight"
    if measurement.tenants[0].status == "skipped":
        return "cells: it was skipped"
    return None


def _cores(measured: TenantMeasurement, device: Device) -> float | None:
    """The container's CPU cap; on a CPU device a share is one."""
    tenant = measured.tenant
    if tenant.cpu_cores is not None or device.kind != "cpu" or not device.cores:
        return tenant.cpu_cores
    return len(device.cores) * (tenant.share_pct or 100.0) / 100.0


def _write_long(folder: Path, mode: str, points: Sequence[_Point], done: Exported) -> None:
    """One table for each size column: a model's rows nearly always have one."""
    tables: dict[str, Table] = {}
    others: dict[str, dict[str, None]] = {}
    repeats: Counter[str] = Counter()
    for point in points:
        column, size = _size(point)
        published = point.tenant.extra.get("acprof", {})
        other = published.get("other", {})
        fixed = {
            **point.container,
            "model_name": published.get("model_name", point.tenant.tenant.model),
            "gpu_name": published.get("gpu_name") if published else _gpu_name(point),
            "batch_size": point.tenant.tenant.batch_size,
            column: size,
            **other,
        }
        key = json.dumps(fixed, sort_keys=True)
        rows = _published(published) if published else _own(point, repeats[key], done)
        repeats[key] += len(rows)
        tables.setdefault(column, []).extend({**fixed, **row} for row in rows)
        others.setdefault(column, {}).update(dict.fromkeys(other))
    for number, (column, table) in enumerate(sorted(tables.items()), 1):
        if not table:
            continue
        wanted = [*_BEFORE, "batch_size", *([column] if column else []), *others[column], *_AFTER]
        columns = [
            name
            for name in wanted
            if name in _ALWAYS | {column} or any(row.get(name) is not None for row in table)
        ]
        text = [{name: _text(name, row.get(name)) for name in columns} for row in table]
        suffix = "" if number == 1 else f"_{number}"  # a column's name may be no file's
        done.written.append(folder / f"{mode}{suffix}.csv")
        write_csv(done.written[-1], text, columns)


def _published(published: Mapping[str, Any]) -> Table:
    """The rows of an imported configuration, as they were."""
    return [
        {
            "status": "ok",
            **{name: value for name, value in row.items() if name not in ("line", "repeat")},
            "repeat_idx": row["repeat"],
        }
        for row in published["rows"]
    ]


def _own(point: _Point, repeat: int, done: Exported) -> Table:
    """One row a request; power and energy are those of the cell, above its idle baseline."""
    measured, rows = point.measurement, point.requests
    if not len(rows):
        if point.tenant.status == "ok":
            done.left_out["cells: no raw requests are stored"] += 1
            return []
        return [
            {
                "repeat_idx": repeat,
                "warmup": 0,
                "status": point.tenant.status,
                "error": point.tenant.detail,
            }
        ]
    late = rows["phase"] == AFTER
    done.left_out["requests after the counted window"] += int(late.sum())
    rows = rows[~late]
    cold = point.tenant.cold_start
    common = {
        "cold_start_s": cold.ready_s if cold is not None else point.tenant.ready_s,
        **_net_energy(measured, rows),
    }
    counts = {True: 0, False: 0}
    table: Table = []
    for row in rows:
        warm, good = bool(row["phase"] == WARMUP), bool(row["ok"])
        wall_ns = int(row["done_ns"]) - measured.anchor_monotonic_ns + measured.anchor_wall_ns
        table.append(
            {
                "timestamp_ms": wall_ns // NS_PER_MS,
                "repeat_idx": repeat + counts[warm],
                "warmup": int(warm),
                "latency_s": int(row["done_ns"] - row["sent_ns"]) / NS_PER_S,
                **common,
                "status": "ok" if good else "error",
                "error": None if good else point.tenant.detail or "no success",
            }
        )
        counts[warm] += 1
    return table


def _net_energy(measured: Measurement, rows: Requests) -> dict[str, float]:
    """Power and energy a request above idle with contexts; nothing where that is not known."""
    power = measured.power
    if power is None or power.scope != "gpu" or power.context_idle_w is None:
        return {}
    idle = power.context_idle_w
    found = {}
    if power.power_mean_w is not None:
        found["avg_power_w"] = power.power_mean_w - idle
    if power.power_peak_w is not None:
        found["peak_power_w"] = power.power_peak_w - idle
    gross, seconds = _gross_energy_j(power), _window_s(measured)
    good = int(((rows["phase"] != WARMUP) & (rows["ok"] == 1)).sum())
    if gross is not None and seconds is not None and good:
        found["energy_j"] = (gross - idle * seconds) / good
    return found


def _gross_energy_j(power: DevicePower) -> float | None:
    counter = power.energy_counter_j
    return power.energy_integral_j if counter is None else counter


def _window_s(measured: Measurement) -> float | None:
    start, end = measured.window_start_ns, measured.window_end_ns
    return None if start is None or end is None else (end - start) / NS_PER_S


def _size(point: _Point) -> tuple[str, float | int | None]:
    """The size column and its value; ('', None) where an input has no known size."""
    tenant = point.tenant.tenant
    if tenant.input_size is not None:
        unit = tenant.input_unit or "size"
        published = point.tenant.extra.get("acprof", {}).get("size_column")
        return published or formats.column_of_unit(unit), _number(tenant.input_size)
    picture = _picture(point)
    if picture is not None:
        return formats.column_of_unit("pixels"), picture[0] * picture[1]
    shapes = point.tenant.input_shapes
    if not shapes:
        return "", None
    elements = sum(int(np.prod(shape)) for shape in shapes.values())
    return "elements", max(1, elements // tenant.batch_size)


def _picture(point: _Point) -> tuple[int, int] | None:
    """Width and height of the input of a model that takes one image, channels first."""
    shapes = list(point.tenant.input_shapes.values())
    if len(shapes) != 1 or len(shapes[0]) not in (3, 4) or shapes[0][-3] not in (1, 3, 4):
        return None
    return shapes[0][-1], shapes[0][-2]


def _gpu_name(point: _Point) -> str | None:
    power = point.measurement.power
    return power.name if point.gpu and power is not None else None


def _write_tutorial(folder: Path, points: Sequence[_Point], done: Exported) -> None:
    """The tutorial's table, one a container and batch size, its time the mean latency."""
    tables: dict[str, Table] = {}
    for point in points:
        picture, latency = _picture(point), point.tenant.latency
        cell = point.measurement.cell
        if picture is None or latency is None or cell.repeat or cell.baseline:
            continue
        tenant = point.tenant.tenant
        parts = ["GPU"] if point.gpu else []
        parts += [f"CPU{point.cpu_cores:g}"] if point.cpu_cores is not None else []
        memory = tenant.memory_mib
        parts += [f"Mem{memory / formats.MIB_PER_GB:g}"] if memory is not None else []
        parts += [f"batch{tenant.batch_size}"] if tenant.batch_size != 1 else []
        tables.setdefault("+".join(parts) or "any", []).append(
            {
                "scale": f"{tenant.input_scale:.4f}",
                "width": picture[0],
                "height": picture[1],
                "time": f"{latency.mean_ms / 1000:.4f}",
            }
        )
    for container, table in sorted(tables.items()):
        done.written.append(folder / f"inference_time_{container}.csv")
        write_csv(
            done.written[-1],
            sorted(table, key=lambda row: float(row["scale"])),
            TUTORIAL_COLUMNS,
        )


def _write_static(store: ProfileStore, out: Path, points: Sequence[_Point], done: Exported) -> None:
    """Sizes, of models that nobody measured too, as far as the import kept them."""
    volumes: dict[str, int] = {}
    tables: dict[str, dict[str, Any]] = {}
    for point in points:
        tenant = point.tenant
        published = tenant.extra.get("acprof")
        statics: Iterable[Mapping[str, Any]] = published["static"] if published else ()
        for one in statics:
            _take_static(one, tables, volumes)
        if published is None and (tenant.weight_bytes or tenant.image):
            tables[tenant.tenant.model] = {
                "model_name": tenant.tenant.model,
                "gpu": _gpu_name(point),
                "model_weight_bytes": tenant.weight_bytes,
                "docker_image_bytes": tenant.image.disk_bytes if tenant.image else None,
            }
    for one in _static_only(store.path / REPORT):
        _take_static(one, tables, volumes)
    for name, row in sorted(tables.items()):
        done.written.append(_folder(out / formats.short_name(name)) / "static_meta.csv")
        write_csv(done.written[-1], [row], STATIC_COLUMNS)
    if volumes:
        document = {name: {"download volume": _volume(size)} for name, size in volumes.items()}
        done.written.append(out / "static_parameter.json")
        with atomic_write(done.written[-1]) as file:
            file.write(json.dumps(document, indent=2).encode() + b"\n")


def _static_only(report: Path) -> list[Mapping[str, Any]]:
    """What the import kept of models that nobody measured; none where there was no import."""
    document = read_json(report) if report.is_file() else None
    entries = document.get("static_only") if isinstance(document, dict) else None
    return [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []


def _take_static(
    one: Mapping[str, Any], tables: dict[str, dict[str, Any]], volumes: dict[str, int]
) -> None:
    name = one.get("model_name")
    if not isinstance(name, str) or not formats.is_model_name(formats.short_name(name)):
        return  # edited since the import: it must not lead out of the folder
    if (size := one.get("download_bytes")) is not None:
        volumes[name] = size
        return
    tables[name] = {
        "model_name": name,
        "model_download_url": one.get("download_url"),
        "gpu": one.get("gpu_name"),
        "model_weight_bytes": one.get("weight_bytes"),
        "docker_image_bytes": one.get("image_bytes"),
    }


def _volume(size: int) -> str:
    """Bytes as ``volume_bytes`` reads them back, in the fewest digits."""
    shown = (f"{size / 2**20:.{digits}f} MB" for digits in range(10))
    return next(text for text in shown if formats.volume_bytes(text) == size)


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def _number(value: float | None) -> float | int | None:
    """Whole numbers without a point, as the published files have them."""
    return int(value) if value is not None and value == int(value) else value


def _text(name: str, value: Any) -> Any:
    """Missing measured numbers are ``nan`` there, others are empty."""
    if name in formats.NUMBERS:
        return "nan" if value is None else _number(value)
    return value
