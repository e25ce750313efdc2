"""``igprof predict``: the latency of cells from coefficients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from igniter_prof.cli.common import json_option, note, print_json, warn_of_outside
from igniter_prof.cli.options import OutFile, cells_option, keep_inputs

if TYPE_CHECKING:
    from igniter_prof.config.cells_csv import CellRow, CellTable
    from igniter_prof.fitting import CellPredictor


@click.command("predict")
@click.argument("coefficients", metavar="COEFFICIENTS.json", type=click.Path(path_type=Path))
@cells_option
@click.option("--out", type=OutFile(), required=True, help="CSV of the predictions.")
@json_option
def command(coefficients: Path, cells_path: Path, out: Path, as_json: bool) -> None:
    """Predict the mean latency of a batch, and its 90% interval, for each tenant of each cell.

    Where they were measured, also the power and clock of the device, and the energy of an inference
    and the memory of each tenant. Of the model acprof, what lies outside of what was profiled has a
    note in the answer.
    """
    from igniter_prof.config.cells_csv import read_cells, write_answers
    from igniter_prof.fitting import cell_predictor, load_coefficients

    keep_inputs(out, coefficients, cells_path)
    model = cell_predictor(load_coefficients(coefficients))
    table = read_cells(cells_path, models=model.models, device=model.coefficients.device)
    cells = table.cells
    notes = _notes(model, table)
    predictions = model.predict(cells)
    write_answers(
        out,
        table,
        [
            [
                # memory_mib of a row is the tenant's cap
                vars(each) | {"memory_used_mib": each.memory_mib, "note": told}
                for each in cell
            ]
            for cell, told in zip(predictions, notes, strict=True)
        ],
    )
    warnings = model.outside_of_all(cells)
    warn_of_outside(warnings)
    if as_json:
        print_json(
            {
                "cells": len(cells),
                "tenants": sum(len(cell) for cell in cells),
                "out": str(out),
                "warnings": warnings,
            }
        )
    else:
        note(f"{len(cells)} cells predicted: {out}")


def _notes(model: CellPredictor, table: CellTable) -> list[str | None]:
    """What of each row lies outside of what was profiled: of container models, a column."""
    if model.coefficients.model != "acprof":
        return [None] * len(table.rows)
    return [_note(model, table, row) for row in table.rows]


def _note(model: CellPredictor, table: CellTable, row: CellRow) -> str | None:
    from igniter_prof.errors import BadInput

    try:
        return "; ".join(model.outside(list(row.tenants.values()))) or None
    except BadInput as error:
        where = f"{table.path}, line {row.line}"
        raise BadInput(error.what, where=where, hint=error.hint) from error
