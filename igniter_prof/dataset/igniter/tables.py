"""``solo.csv`` and ``pairs.csv``: rows as tenants with what was measured of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from igniter_prof.dataset.igniter import formats
from igniter_prof.errors import BadInput
from igniter_prof.files import read_text
from igniter_prof.records import Tenant

Kind = Literal["config", "solo", "pairs"]
COLUMNS = {"solo": formats.SOLO_COLUMNS, "pairs": formats.PAIR_COLUMNS}
SUFFIXES = {"solo": ("",), "pairs": ("_1", "_2")}
"""What a tenant's columns end in."""


@dataclass(frozen=True)
class TenantRow:
    """One tenant of a row, with what was measured of it, by column; None: an empty field."""

    tenant: Tenant
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Table:
    """A file's rows, each of one tenant or two, and its columns that are not read."""

    rows: tuple[tuple[TenantRow, ...], ...]
    ignored: tuple[str, ...]


def kind_of(path: Path) -> Kind:
    """Which of the three files it is, by its beginning.

    Raises:
        BadInput: it is not there, or is none of them.
    """
    text = read_text(path).removeprefix("\ufeff").lstrip()
    if text.startswith("{"):
        return "config"
    header = [name.strip() for name in text.partition("\n")[0].split(",")]
    if "model_1" in header:
        return "pairs"
    if "model" in header and "share_pct" in header:
        return "solo"
    raise BadInput(
        "is none of iGniter's files, by its first line",
        where=str(path),
        hint="name it with --config, --solo or --pairs (docs/igniter.md)",
    )


def read_table(path: Path, kind: Literal["solo", "pairs"]) -> Table:
    """Read one of the two tables.

    Raises:
        BadInput: it is not there or empty, a column is missing or there twice, a field is not what
            it should be (names line and column), the shares of a pair are more than the GPU.
    """
    columns = COLUMNS[kind]
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if header:
            header[0] = header[0].removeprefix("\ufeff")
        _require_header(path, header, columns)
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            where = f"{path}, line {reader.line_num}"
            if len(values) != len(header):
                raise BadInput(f"has {len(values)} fields, the header {len(header)}", where=where)
            fields = {name: one.strip() for name, one in zip(header, values, strict=True)}
            rows.append(_row(fields, SUFFIXES[kind], columns, where))
    except csv.Error as error:
        raise BadInput(
            f"is not valid CSV ({error})", where=f"{path}, line {reader.line_num}"
        ) from error
    return Table(tuple(rows), tuple(name for name in header if name not in columns))


def _require_header(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    where = f"{path}, line 1"
    if not any(header):
        raise BadInput("is empty", where=str(path), hint=f"columns: {','.join(columns)}")
    for name in header:
        if header.count(name) > 1:
            raise BadInput("two columns have this name", where=f"{where}, column {name}")
    for name in columns:
        if name not in header:
            raise BadInput(
                f"has no column '{name}'", where=where, hint=f"columns: {','.join(columns)}"
            )


def _row(
    fields: Mapping[str, str], suffixes: Sequence[str], columns: Sequence[str], where: str
) -> tuple[TenantRow, ...]:
    row = tuple(_tenant_row(fields, suffix, columns, where) for suffix in suffixes)
    total = sum(one.tenant.share_pct or 0.0 for one in row)
    if total > formats.ALL_PCT:
        shares = " and ".join(f"share_pct{suffix}" for suffix in suffixes)
        raise BadInput(
            f"the shares add up to {total:g}, over 100", where=f"{where}, columns {shares}"
        )
    return row


def _tenant_row(
    fields: Mapping[str, str], suffix: str, columns: Sequence[str], where: str
) -> TenantRow:
    values = {}
    for name, column in formats.MEASURED.items():
        if f"{name}{suffix}" in columns:
            text = fields[f"{name}{suffix}"]
            empty = not text and column.may_be_empty
            at = f"{where}, column {name}{suffix}"
            values[name] = None if empty else _number(text, column.limits, at)
    batch_size = _number(
        fields[f"batch_size{suffix}"], formats.POSITIVE, f"{where}, column batch_size{suffix}"
    )
    if batch_size != int(batch_size):
        raise BadInput(
            f"{batch_size:g} is no whole number", where=f"{where}, column batch_size{suffix}"
        )
    share_pct = _number(
        fields[f"share_pct{suffix}"], formats.SHARE, f"{where}, column share_pct{suffix}"
    )
    try:
        tenant = Tenant(
            model=fields[f"model{suffix}"], batch_size=int(batch_size), share_pct=share_pct
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(
            f"{first['msg']}, got {first['input']!r}",
            where=f"{where}, column {first['loc'][0]}{suffix}",
        ) from error
    return TenantRow(tenant, values)


def _number(text: str, limits: formats.Limits, where: str) -> float:
    try:
        return limits.require(formats.number(text))
    except ValueError as error:
        raise BadInput(str(error), where=where) from error
