"""``igprof explain``: the terms that a prediction is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from igniter_prof.cli.common import json_option, note, print_json, print_table, warn_of_outside
from igniter_prof.cli.options import OutFile, cells_option, keep_inputs

if TYPE_CHECKING:
    from igniter_prof.config.cells_csv import CellTable
    from igniter_prof.fitting import Explanation


@click.command("explain")
@click.argument("coefficients", metavar="COEFFICIENTS.json", type=click.Path(path_type=Path))
@cells_option
@click.option("--out", type=OutFile(), help="CSV of the terms, one row a tenant.")
@json_option
def command(coefficients: Path, cells_path: Path, out: Path | None, as_json: bool) -> None:
    """Split the predicted latency of each tenant of each cell into its terms.

    The terms, in ms and in percent of the prediction, sum to what igprof predict says. Which there
    are depends on the latency model.
    """
    from igniter_prof.config.cells_csv import read_cells
    from igniter_prof.files import write_csv
    from igniter_prof.fitting import explain, load_coefficients

    if out is not None:
        keep_inputs(out, coefficients, cells_path)
    known = load_coefficients(coefficients)
    table = read_cells(cells_path, models=known.models, device=known.device)
    explained = explain(known, table.cells)
    rows = _rows(table, explained)
    if out is not None:
        write_csv(out, [_fields(row) for row in rows], list(_fields(rows[0])))
    warn_of_outside(explained.warnings)
    if as_json:
        print_json({"model": known.model, "tenants": rows, "warnings": explained.warnings})
    elif out is None:
        _print(known.model, explained, rows)
    if out is not None:
        note(f"{len(table.rows)} cells explained: {out}")


def _rows(table: CellTable, explained: Explanation) -> list[dict[str, Any]]:
    """One document a tenant; ``line`` is its cell's in the file."""
    answers = iter(zip(explained.latency_ms, explained.terms_ms, strict=True))
    rows = []
    for row in table.rows:
        for number, tenant in row.tenants.items():
            latency_ms, terms = next(answers)
            rows.append(
                {
                    "line": row.line,
                    "tenant": number,
                    "model": tenant.model,
                    "batch_size": tenant.batch_size,
                    "share_pct": tenant.share_pct,
                    "latency_ms": latency_ms,
                    "terms": {
                        name: {"ms": value, "pct": 100.0 * value / latency_ms}
                        for name, value in terms.items()
                    },
                }
            )
    return rows


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """A tenant's document as a row of a CSV file."""
    flat = {name: value for name, value in row.items() if name != "terms"}
    for term, value in row["terms"].items():
        column = term.replace(",", "").replace(" ", "_").lower()
        flat |= {f"{column}_ms": value["ms"], f"{column}_pct": value["pct"]}
    return {k: format(v, ".9g") if isinstance(v, float) else v for k, v in flat.items()}


def _print(model: str, explained: Explanation, rows: list[dict[str, Any]]) -> None:
    print_table(
        f"Terms of the predicted latency, ms and percent of it, model '{model}'",
        ["tenant", "batch", "share %", "latency", *explained.names],
        [
            [
                f"{row['line']}.{row['tenant']} {row['model']}",
                row["batch_size"],
                None if row["share_pct"] is None else f"{row['share_pct']:g}",
                f"{row['latency_ms']:.4g}",
                *(f"{value['ms']:.3g} ({value['pct']:.1f}%)" for value in row["terms"].values()),
            ]
            for row in rows
        ],
    )
    note("a tenant is its cell's line in the file, its number k there, and its model")
