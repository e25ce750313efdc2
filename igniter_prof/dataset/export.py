"""A profile as CSV or Parquet: one row a tenant of a cell, and the raw requests if asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from igniter_prof.dataset.columns import COLUMNS, rows
from igniter_prof.dataset.store import ProfileStore
from igniter_prof.errors import MissingCapability
from igniter_prof.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["csv", "parquet"]

REQUEST_COLUMNS = {
    "cell_id": "id of the cell",
    "tenant": "number of the tenant in its cell, from 1",
    "intended_ms": "when the schedule wanted it sent (closed loop: when it was sent), from the"
    " start of the cell",
    "sent_ms": "when it was sent, from the start of the cell",
    "latency_ms": "from sent to done",
    "phase": "warmup, measured (in the counted window) or after",
    "ok": "whether the server answered with success",
}
"""Columns of the raw requests."""

DTYPES = {str: "string", int: "Int64", float: "Float64", bool: "boolean"}
"""The pandas type, with null, of a column."""

PHASES = np.array(["warmup", "measured", "after"])


def export_profile(
    path: Path, out: Path, format: Format, requests_out: Path | None = None
) -> list[Path]:
    """Write a profile's tenants, and its raw requests, as tables.

    Args:
        path: the profile.
        out: the file to write, one row a tenant.
        format: csv or parquet.
        requests_out: a second file, one row a request.

    Returns:
        The files written.

    Raises:
        BadInput: no profile, a damaged one, or a file cannot be written.
        MissingCapability: pyarrow is not installed (parquet), or no disk space.
    """
    require_writer(format)
    store = ProfileStore.open(path)
    write_table(tenants_table(store), out, format)
    if requests_out is None:
        return [out]
    write_table(requests_table(store), requests_out, format)
    return [out, requests_out]


def tenants_table(store: ProfileStore) -> pd.DataFrame:
    """One row a tenant of a cell; columns as in ``columns.COLUMNS``, missing values are null."""
    import pandas as pd

    found = rows(store.measurements())
    # typed by declaration: a column that is null throughout keeps its type
    return pd.DataFrame(
        {
            column.name: pd.Series([row[column.name] for row in found], dtype=DTYPES[column.type])
            for column in COLUMNS
        }
    )


def requests_table(store: ProfileStore) -> pd.DataFrame:
    """One row a request; columns as in ``REQUEST_COLUMNS``."""
    import pandas as pd

    from igniter_prof.units import NS_PER_MS

    parts = []
    for measurement in store.measurements():
        anchor_ns = measurement.anchor_monotonic_ns
        for index, requests in enumerate(store.requests(measurement.cell_id)):
            part = {
                "cell_id": np.full(len(requests), measurement.cell_id),
                "tenant": np.full(len(requests), index + 1),
                "intended_ms": (requests["intended_ns"] - anchor_ns) / NS_PER_MS,
                "sent_ms": (requests["sent_ns"] - anchor_ns) / NS_PER_MS,
                "latency_ms": (requests["done_ns"] - requests["sent_ns"]) / NS_PER_MS,
                "phase": PHASES[requests["phase"]],
                "ok": requests["ok"] == 1,
            }
            parts.append(pd.DataFrame(part))
    if not parts:
        return pd.DataFrame(columns=list(REQUEST_COLUMNS))
    return pd.concat(parts, ignore_index=True)


def require_writer(format: Format) -> None:
    """Raises MissingCapability if the format's library is not installed."""
    if format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise MissingCapability(
            "writing Parquet needs pyarrow, which is not installed",
            hint="pip install 'igniter-prof[parquet]', or use --to csv",
        )


def write_table(table: pd.DataFrame, out: Path, format: Format) -> None:
    """Write a table atomically; null becomes an empty field in CSV."""
    require_writer(format)
    with atomic_write(out) as file:
        if format == "parquet":
            table.to_parquet(file, index=False)
        else:
            file.write(table.to_csv(index=False, lineterminator="\n").encode())
