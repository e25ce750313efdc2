"""The columns of an export: one row a tenant of a cell, units in the names.

They follow from the records: a field added there is a column here, with the field's description.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from igniter_prof.records import (
    ColdStart,
    Conditions,
    ContainerUsage,
    DevicePower,
    GpuCounters,
    HostPower,
    ImageInfo,
    LatencySummary,
    Measurement,
    NetworkTimes,
    Quantile,
    ServerTimes,
    Tenant,
    TenantEnergy,
    TenantMeasurement,
    TritonMetrics,
    Usage,
    labels,
)
from igniter_prof.units import NS_PER_S

Value = str | int | float | bool | None
Type = type[str] | type[int] | type[float] | type[bool]
PLAIN_TYPES: tuple[Type, ...] = (bool, int, float)

MEANINGS = {
    "model": "name of the model",
    "batch_size": "inferences that a request carries (with dynamic batching: at most batched)",
    "instances": "instances of the model in its server",
    "input_scale": "size of the inputs, relative to the model's own",
    "status": "how it ended: ok, oom, crashed, timeout, refused, skipped or invalid",
    "stable": "the mean is known well enough and does not drift",
    "failed_requests": "requests of the counted window that failed",
    "input_shapes": "shapes of the inputs sent, JSON",
    "threads": "threads of the framework's pool",
    "model_hash": "SHA-256 of the model's files",
    "config_hash": "SHA-256 of the rendered configuration",
    "count": "requests counted: answered with success, meant for the window",
    "mean_ms": "mean",
    "std_ms": "standard deviation of single requests",
    "min_ms": "least",
    "max_ms": "greatest",
    "value_ms": "the percentile; null: too few requests",
    "low_ms": "lower end of the percentile's 95% interval",
    "high_ms": "upper end of the percentile's 95% interval",
    "queue_ms": "Triton: waiting in the queue, mean of a request",
    "compute_input_ms": "Triton: preparing inputs, mean of a request",
    "compute_infer_ms": "Triton: executing the model, mean of a request",
    "compute_output_ms": "Triton: preparing outputs, mean of a request",
    "inferences": "Triton: inferences in the window",
    "executions": "Triton: executions of the model in the window",
    "cpu_s": "CPU time used in the window",
    "throttled_periods": "CPU quota periods in which it was throttled",
    "throttled_s": "time for which it was throttled",
    "oom_kills": "processes killed for memory",
}
"""Meanings of fields whose record says no more than their name."""


@dataclass(frozen=True)
class Column:
    """One column of an export."""

    name: str
    type: Type
    meaning: str
    of: Callable[[Measurement, int], Value]
    """The value for a tenant (its index from 0) of a measurement; None: not there, not known."""


def _window_s(measurement: Measurement, _: int) -> Value:
    start, end = measurement.window_start_ns, measurement.window_end_ns
    return None if start is None or end is None else (end - start) / NS_PER_S


def _neighbours(measurement: Measurement, index: int) -> str:
    tenants = measurement.cell.tenants
    return labels(other for i, other in enumerate(tenants) if i != index)


_CELL = [
    Column("cell_id", str, "id of the cell", lambda m, k: m.cell_id),
    Column("started_at", str, "start of the cell, ISO 8601, UTC", lambda m, k: m.started_at),
    Column("device", str, "id of the device", lambda m, k: m.cell.device),
    Column("repeat", int, "0 for the first measurement of this point", lambda m, k: m.cell.repeat),
    Column(
        "baseline", bool, "a solo cell repeated to watch for drift", lambda m, k: m.cell.baseline
    ),
    Column("server", str, "own: one a tenant; shared: one for all", lambda m, k: m.cell.server),
    Column("protocol", str, "http or grpc", lambda m, k: m.cell.protocol),
    Column("load_kind", str, "closed, constant, poisson or trace", lambda m, k: m.cell.load.kind),
    Column(
        "load_concurrency",
        int,
        "requests in flight; empty for open loops",
        lambda m, k: m.cell.load.concurrency if m.cell.load.kind == "closed" else None,
    ),
    Column(
        "load_rate_rps",
        float,
        "requests per second offered to each tenant; empty for closed loops",
        lambda m, k: m.cell.load.rate_rps,
    ),
    Column("tenants", int, "number of tenants of the cell", lambda m, k: len(m.cell.tenants)),
    Column("tenant", int, "number of this tenant, from 1", lambda m, k: k + 1),
    Column("neighbours", str, "the other tenants; empty if alone", _neighbours),
]

_AFTER = [
    Column("window_s", float, "length of the counted window", _window_s),
    Column(
        "duration_s",
        float,
        "length of the whole cell, start to cool-down",
        lambda m, k: m.duration_s,
    ),
    Column("cooldown", str, "how the cool-down ended", lambda m, k: m.cooldown),
    Column("power_w", float, "mean power of the device", lambda m, k: m.power_w),
    Column("energy_j", float, "energy of the device over the window", lambda m, k: m.energy_j),
    Column(
        "monitors",
        str,
        "the monitors that ran; ! marks one that lost something",
        lambda m, k: (
            ",".join(each.name + ("" if each.complete else "!") for each in m.monitors) or None
        ),
    ),
    Column(
        "cell_extra",
        str,
        "of other monitors, of the cell as a whole, by their name",
        lambda m, k: _plain(m.extra),
    ),
]


def _plain(value: Any) -> Value:
    """A field's value as one cell of a table; lists and mappings become JSON."""
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value) if value else None
    assert value is None or isinstance(value, (str, int, float, bool))
    return value


def _type(annotation: Any) -> Type:
    """The type of a column from that of a field, null aside; what is no single number is text."""
    union = get_origin(annotation) in (Union, UnionType)
    candidates = get_args(annotation) if union else (annotation,)
    # limits of a value (Annotated) are none of its type
    bare = [get_args(each)[0] if get_origin(each) is Annotated else each for each in candidates]
    return next((plain for plain in PLAIN_TYPES if plain in bare), str)


def _fields(
    record: type[BaseModel],
    prefix: str,
    find: Callable[[Measurement, int], BaseModel | None],
    skip: Iterable[str] = (),
) -> list[Column]:
    """A column for each plain field of a (nested, possibly absent) record."""

    def reader(name: str) -> Callable[[Measurement, int], Value]:
        def read(measurement: Measurement, index: int) -> Value:
            found = find(measurement, index)
            return None if found is None else _plain(getattr(found, name))

        return read

    return [
        Column(
            # a percentile's own value needs no name beside the percentile's
            f"{prefix}{name}".replace("_value_ms", "_ms"),
            _type(field.annotation),
            field.description or MEANINGS.get(name) or name.replace("_", " "),
            reader(name),
        )
        for name, field in record.model_fields.items()
        if name not in skip
    ]


def _latency(prefix: str, path: Sequence[str] = ()) -> list[Column]:
    """The columns of one latency summary; ``path`` leads to it from a tenant's measurement."""

    def summary(measurement: Measurement, index: int) -> LatencySummary | None:
        found: Any = measurement.tenants[index]
        for name in path or (prefix,):
            found = None if found is None else getattr(found, name)
        assert found is None or isinstance(found, LatencySummary)
        return found

    def quantile(name: str) -> Callable[[Measurement, int], Quantile | None]:
        def find(measurement: Measurement, index: int) -> Quantile | None:
            found = summary(measurement, index)
            return None if found is None else getattr(found, name)

        return find

    names = ("p50", "p95", "p99")
    columns = _fields(LatencySummary, f"{prefix}_", summary, skip=names)
    for name in names:
        columns += _fields(Quantile, f"{prefix}_{name}_", quantile(name))
    return columns


def _tenant(measurement: Measurement, index: int) -> TenantMeasurement:
    return measurement.tenants[index]


_NESTED: dict[str, tuple[str, type[BaseModel]]] = {
    "server_": ("server_times", ServerTimes),
    "usage_": ("usage", Usage),
    "network_": ("network", NetworkTimes),
    "container_": ("container", ContainerUsage),
    "metrics_": ("metrics", TritonMetrics),
    "estimate_": ("energy", TenantEnergy),
    "counters_": ("counters", GpuCounters),
    "cold_start_": ("cold_start", ColdStart),
    "image_": ("image", ImageInfo),
}
"""Records in a tenant's measurement, by the prefix of their columns."""
_SUMMARIES = {"network": ("server", "total")}
"""Latency summaries in these records."""


def _nested(prefix: str) -> list[Column]:
    """The columns of one record in a tenant's measurement."""
    name, record = _NESTED[prefix]

    def find(measurement: Measurement, index: int) -> BaseModel | None:
        found: BaseModel | None = getattr(measurement.tenants[index], name)
        return found

    summaries = _SUMMARIES.get(name, ())
    columns = _fields(record, prefix, find, skip=summaries)
    for summary in summaries:
        columns += _latency(f"{prefix}{summary}", (name, summary))
    return columns


COLUMNS: tuple[Column, ...] = (
    *_CELL,
    *_fields(Tenant, "", lambda m, k: m.tenants[k].tenant),
    *_fields(
        TenantMeasurement,
        "",
        _tenant,
        skip=("tenant", "latency", "latency_intended", *(name for name, _ in _NESTED.values())),
    ),
    *_latency("latency"),
    *_latency("latency_intended"),
    *(column for prefix in _NESTED for column in _nested(prefix)),
    *_AFTER,
    *_fields(DevicePower, "device_", lambda m, k: m.power),
    *_fields(HostPower, "host_", lambda m, k: m.host_power),
    *_fields(Conditions, "condition_", lambda m, k: m.conditions),
)
"""All columns, in order."""


def rows(measurements: Iterable[Measurement]) -> list[dict[str, Value]]:
    """One row a tenant of a cell, as a mapping from column name to value."""
    return [
        {column.name: column.of(measurement, index) for column in COLUMNS}
        for measurement in measurements
        for index in range(len(measurement.tenants))
    ]


TABLE_BEGIN, TABLE_END = "<!-- columns: begin -->", "<!-- columns: end -->"
_TYPE_NAMES = {str: "text", int: "integer", float: "number", bool: "boolean"}


def documented(page: str) -> str:
    """A Markdown page with the table of columns between its two markers brought up to date."""
    before, _, rest = page.partition(TABLE_BEGIN)
    _, _, after = rest.partition(TABLE_END)
    lines = ["| column | type | meaning |", "|---|---|---|"]
    lines += [
        f"| `{column.name}` | {_TYPE_NAMES[column.type]} | {column.meaning} |" for column in COLUMNS
    ]
    table = "\n".join(lines)
    return f"{before}{TABLE_BEGIN}\n{table}\n{TABLE_END}{after}"
