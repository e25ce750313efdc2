"""Cells as CSV: one row a cell, the columns of tenant k end in ``_k`` (DESIGN.md, contracts)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.files import read_text, write_csv
from igniter_prof.records import Device, Tenant

_FIELDS = (
    "model",
    "batch_size",
    "share_pct",
    "input_scale",
    "instances",
    "cpu_cores",
    "memory_mib",
    "gpu",
    "input_size",
)
_ANSWERS = ("latency_ms", "latency_low_ms", "latency_high_ms")
_MORE_ANSWERS = (
    "energy_j",
    "energy_low_j",
    "energy_high_j",
    "power_w",
    "power_low_w",
    "power_high_w",
    "clock_mhz",
    "memory_used_mib",
    "note",
)
"""Columns of the answer that are there only if one has a value."""
_NUMBERED = re.compile(r"(?P<name>.+)_(?P<number>[1-9]\d{0,3})", re.ASCII)
_MISTYPED = re.compile(rf"(?P<name>{'|'.join(_FIELDS)})[\W_]*(?P<number>\d*)", re.IGNORECASE)
"""A tenant's column without its number, or with another way to write it."""


@dataclass(frozen=True)
class CellRow:
    """One row: its line in the file, its fields as written, its tenants by their number k."""

    line: int
    fields: dict[str, str]
    tenants: dict[int, Tenant]


@dataclass(frozen=True)
class CellTable:
    """A file of cells."""

    path: Path
    columns: tuple[str, ...]
    numbers: tuple[int, ...]
    rows: tuple[CellRow, ...]

    @property
    def cells(self) -> list[tuple[Tenant, ...]]:
        """The tenants of each row."""
        return [tuple(row.tenants.values()) for row in self.rows]


def read_cells(
    path: Path, *, models: Collection[str] | None = None, device: Device | None = None
) -> CellTable:
    """Read cells.

    Columns ``model_k`` and ``batch_size_k`` are needed for tenant 1; ``share_pct_k``,
    ``input_scale_k``, ``instances_k``, ``cpu_cores_k``, ``memory_mib_k``, ``gpu_k`` (true, false)
    and ``input_size_k`` may be there. A column that does not end in a number is kept, unread,
    unless its name is that of a tenant's column.

    Args:
        path: the CSV file.
        models: the models that are known; None: any.
        device: that the cells are for, where that is known. On a CPU device the share and the core
            cap are the same knob: only one may be set, and together they are at most the device.

    Raises:
        BadInput: with the file, its line, and the column.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = [name.strip().removeprefix("\ufeff") for name in next(reader, [])]
        numbers = _tenant_numbers(header, path)
        rows = [
            _row(path, reader.line_num, header, values, numbers, models, device)
            for values in reader
            if any(value.strip() for value in values)
        ]
    except csv.Error as error:
        raise BadInput(f"is not valid CSV ({error})", where=_at(path, reader.line_num)) from error
    if not rows:
        raise BadInput("holds no cells", where=str(path), hint="add one row for each cell")
    return CellTable(path, tuple(header), numbers, tuple(rows))


def write_answers(
    path: Path, table: CellTable, answers: Sequence[Sequence[Mapping[str, Any]]]
) -> None:
    """Write predictions: the columns as they were, then each tenant's latency and interval.

    ``answers`` has a mapping with the keys ``latency_ms``, ``latency_low_ms`` and
    ``latency_high_ms`` for each tenant of each row; it may have those of ``_MORE_ANSWERS``.
    """
    given = {
        name for cell in answers for found in cell for name in found if found[name] is not None
    }
    names = [*_ANSWERS, *(name for name in _MORE_ANSWERS if name in given)]
    columns = [f"{name}_{number}" for number in table.numbers for name in names]
    rows: list[dict[str, Any]] = []
    for row, cell in zip(table.rows, answers, strict=True):
        answer: dict[str, Any] = dict(row.fields)
        for number, found in zip(row.tenants, cell, strict=True):
            for name in names:
                value = found.get(name)
                shown = format(value, ".9g") if isinstance(value, float) else value
                answer[f"{name}_{number}"] = shown
        rows.append(answer)
    write_csv(path, rows, [*table.columns, *columns])


def _tenant_numbers(header: list[str], path: Path) -> tuple[int, ...]:
    where = _at(path, 1)
    if len(set(header)) < len(header):
        raise BadInput("two columns have the same name", where=where)
    numbers: set[int] = set()
    for column in header:
        match = _NUMBERED.fullmatch(column)
        if match is None:
            if mistyped := _MISTYPED.fullmatch(column):
                meant = f"{mistyped['name'].lower()}_{int(mistyped['number'][:4] or 1) or 1}"
                raise BadInput(
                    f"unknown column '{column}'", where=where, hint=f"did you mean '{meant}'?"
                )
            continue
        name, number = match["name"], int(match["number"])
        if name in (*_ANSWERS, *_MORE_ANSWERS):
            raise BadInput(
                f"the column '{column}' is one of the answer's",
                where=where,
                hint="remove it or give it another name",
            )
        if name not in _FIELDS:
            known = [f"{field}_{number}" for field in _FIELDS]
            raise BadInput(
                f"unknown column '{column}'", where=where, hint=did_you_mean(column, known)
            )
        numbers.add(number)
    for number in sorted(numbers | {1}):
        for field in ("model", "batch_size"):
            if f"{field}_{number}" not in header:
                raise BadInput(
                    f"the column '{field}_{number}' is missing",
                    where=where,
                    hint="a header is model_1,batch_size_1,share_pct_1,model_2,…",
                )
    return tuple(sorted(numbers))


def _row(
    path: Path,
    line: int,
    header: list[str],
    values: list[str],
    numbers: tuple[int, ...],
    models: Collection[str] | None,
    device: Device | None,
) -> CellRow:
    where = _at(path, line)
    if len(values) != len(header):
        raise BadInput(f"has {len(values)} fields, the header {len(header)}", where=where)
    fields = dict(zip(header, values, strict=True))
    tenants: dict[int, Tenant] = {}
    for number in numbers:
        given = {
            name: text for name in _FIELDS if (text := fields.get(f"{name}_{number}", "").strip())
        }
        if given:
            tenants[number] = _tenant(given, number, where, models, device)
    if not tenants:
        raise BadInput("has no tenant", where=where)
    total = sum(_share_pct(tenant, device) for tenant in tenants.values())
    if total > 100.0 + 1e-6:
        capped = any(tenant.share_pct is None and tenant.cpu_cores for tenant in tenants.values())
        what = "shares and core caps" if capped and _cores(device) else "shares"
        raise BadInput(f"the {what} add up to {total:g}%, over 100%", where=where)
    return CellRow(line, fields, tenants)


def _tenant(
    given: dict[str, str],
    number: int,
    where: str,
    models: Collection[str] | None,
    device: Device | None,
) -> Tenant:
    for name in ("model", "batch_size"):
        if name not in given:
            raise BadInput(f"'{name}_{number}' is empty", where=where)
    if models is not None and given["model"] not in models:
        raise BadInput(
            f"the model '{given['model']}' was not profiled",
            where=where,
            hint=did_you_mean(given["model"], models),
        )
    try:
        tenant = Tenant.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = f"{first['loc'][0]}_{number}"
        raise BadInput(f"'{field}': {first['msg']}, got {first['input']!r}", where=where) from error
    on_cpu = device is not None and device.kind == "cpu"
    if on_cpu and tenant.share_pct is not None and tenant.cpu_cores is not None:
        raise BadInput(
            f"share_pct_{number} and cpu_cores_{number} are the same knob on a CPU device",
            where=where,
            hint="set one of them",
        )
    cores = _cores(device)
    if cores and tenant.cpu_cores is not None and tenant.cpu_cores > cores:
        raise BadInput(
            f"'cpu_cores_{number}' is {tenant.cpu_cores:g}, the device has {cores} cores",
            where=where,
        )
    return tenant


def _share_pct(tenant: Tenant, device: Device | None) -> float:
    """What a tenant claims of the device, percent; 0 without a share or cap."""
    cores = _cores(device)
    if tenant.share_pct is None and tenant.cpu_cores is not None and cores:
        return 100.0 * tenant.cpu_cores / cores
    return tenant.share_pct or 0.0


def _cores(device: Device | None) -> int:
    """How many cores a CPU device has; 0 if it is none, or that is not known."""
    return len(device.cores) if device is not None and device.kind == "cpu" else 0


def _at(path: Path, line: int) -> str:
    return f"{path}, line {line}"
