"""Cells as CSV: one row a cell, numbered columns a tenant (contract in DESIGN.md).

``model_1,batch_size_1,share_pct_1[,model_2,batch_size_2,share_pct_2[,…]]``, and for each tenant k
optionally ``input_scale_k,instances_k,cpu_cores_k,memory_mib_k``. A row with fewer tenants leaves
the last ones empty; an empty optional field has its default.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.files import parse, read_text
from igniter_prof.records import Tenant

REQUIRED = ("model", "batch_size", "share_pct")
OPTIONAL = ("input_scale", "instances", "cpu_cores", "memory_mib")
_COLUMN = re.compile(r"([a-z_]+)_([1-9][0-9]*)")


def read_cell_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a cells file, as text. Raises BadInput (no header, no rows)."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    columns = list(reader.fieldnames or [])
    if "model_1" not in columns:
        raise BadInput(
            "has no column 'model_1'", where=f"{path}, line 1", hint="see docs/predict.md, cells"
        )
    known = {*REQUIRED, *OPTIONAL}
    for column in columns:
        match = _COLUMN.fullmatch(column)
        if match is None or match[1] not in known:
            raise BadInput(
                f"unknown column '{column}'",
                where=f"{path}, line 1",
                hint=did_you_mean(column.rstrip("0123456789_"), known),
            )
    rows = []
    for row in reader:
        if None in row or any(value is None for value in row.values()):
            raise BadInput(
                f"the header has {len(columns)} columns, this line has another number",
                where=f"{path}, line {reader.line_num}",
            )
        rows.append(row)
    if not rows:
        raise BadInput("holds no cells", where=str(path))
    return columns, rows


def read_cells(path: Path) -> list[tuple[Tenant, ...]]:
    """The tenants of each cell of a CSV file.

    Raises:
        BadInput: names the file, line and column.
    """
    _, rows = read_cell_rows(path)
    return [tenants_of_row(row, f"{path}, line {line}") for line, row in enumerate(rows, start=2)]


def tenants_of_row(row: dict[str, str], where: str) -> tuple[Tenant, ...]:
    """The tenants of one row; ``where`` names it in errors. Raises BadInput."""
    tenants = []
    number = 1
    while row.get(f"model_{number}"):
        fields: dict[str, str] = {}
        for name in (*REQUIRED, *OPTIONAL):
            text = (row.get(f"{name}_{number}") or "").strip()
            if text:
                fields[name] = text
        tenants.append(parse(fields, Tenant, f"{where}, tenant {number}"))
        number += 1
    beyond = [
        column
        for column, text in row.items()
        if text and int(column.rpartition("_")[2]) > len(tenants)
    ]
    if beyond or not tenants:
        column = beyond[0] if beyond else "model_1"
        raise BadInput(f"tenant {number} has no model but '{column}' is given", where=where)
    shares = [tenant.share_pct for tenant in tenants if tenant.share_pct is not None]
    if sum(shares) > 100 + 1e-6:
        raise BadInput(
            f"shares add up to {sum(shares):g}, at most 100 fit on a device", where=where
        )
    return tuple(tenants)
