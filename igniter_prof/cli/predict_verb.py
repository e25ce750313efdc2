"""``igprof predict``: the latency of cells from coefficients."""

from __future__ import annotations

from pathlib import Path

import click

from igniter_prof.cli.common import json_option, note, print_json
from igniter_prof.cli.options import OutFile, keep_inputs

_WARNINGS = 10


@click.command("predict")
@click.argument("coefficients", metavar="COEFFICIENTS.json", type=click.Path(path_type=Path))
@click.option(
    "--cells",
    "cells_path",
    type=click.Path(path_type=Path),
    required=True,
    help="CSV, one row a cell: model_1,batch_size_1,share_pct_1,model_2,… (docs/predict.md).",
)
@click.option("--out", type=OutFile(), required=True, help="CSV of the predictions.")
@json_option
def command(coefficients: Path, cells_path: Path, out: Path, as_json: bool) -> None:
    """Predict the mean latency of a batch, and its 90% interval, for each tenant of each cell."""
    from igniter_prof.config.cells_csv import read_cells, write_answers
    from igniter_prof.fitting import load_coefficients, predictor

    keep_inputs(out, coefficients, cells_path)
    model = predictor(load_coefficients(coefficients))
    table = read_cells(cells_path, models=model.models, device=model.coefficients.device)
    cells = table.cells
    predictions = model.predict(cells)
    write_answers(out, table, [[each.model_dump() for each in cell] for cell in predictions])
    warnings = model.outside_of_all(cells)
    for warning in warnings[:_WARNINGS]:
        note(f"warning: {warning}")
    if len(warnings) > _WARNINGS:
        note(f"warning: and {len(warnings) - _WARNINGS} more kinds of cells outside the profile")
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
