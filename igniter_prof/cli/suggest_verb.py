"""``igprof suggest``: which cells to measure next."""

from __future__ import annotations

from pathlib import Path

import click

from igniter_prof.cli.common import json_option, note, print_json
from igniter_prof.cli.options import OutFile, keep_inputs


@click.command("suggest")
@click.argument("profile", metavar="PROFILE_DIR", type=click.Path(path_type=Path))
@click.option(
    "--cells",
    "cells_path",
    type=click.Path(path_type=Path),
    required=True,
    help="CSV of the cells to choose from, one row a cell (docs/predict.md).",
)
@click.option(
    "-n", "count", metavar="N", type=click.IntRange(min=1), required=True, help="How many."
)
@click.option("--out", type=OutFile(), required=True, help="CSV of the chosen rows, best first.")
@click.option("--model", default="igprof", show_default=True, help="Latency model.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the fit, and of what stands for many candidates.",
)
@json_option
def command(
    profile: Path, cells_path: Path, count: int, out: Path, model: str, seed: int, as_json: bool
) -> None:
    """Choose the cells whose measurement would make the predictions of all of them most certain.

    The rows are those of --cells, unchanged. Measure them with igprof profile --cells.
    """
    from igniter_prof.config.cells_csv import read_cells
    from igniter_prof.config.csv_records import write_same_rows
    from igniter_prof.dataset import ProfileStore
    from igniter_prof.fitting.suggest import suggest

    keep_inputs(out, cells_path)
    store = ProfileStore.open(profile)
    manifest = store.manifest
    table = read_cells(cells_path, device=manifest.device)
    choices = suggest(
        store.measurements(),
        manifest.device,
        table.cells,
        count,
        model=model,
        seed=seed,
        igniter=manifest.igniter,
    )
    write_same_rows(out, table, [choice.index for choice in choices])
    if len(choices) < count:
        note(f"note: there are only {len(choices)} candidates; all are chosen")
    if as_json:
        print_json(
            {
                "out": str(out),
                "candidates": len(table.rows),
                "chosen": [
                    {
                        "line": table.rows[choice.index].line,
                        "half_width_before_pct": choice.half_width_before_pct,
                        "half_width_after_pct": choice.half_width_after_pct,
                    }
                    for choice in choices
                ],
            }
        )
        return
    before, after = choices[0].half_width_before_pct, choices[-1].half_width_after_pct
    note(
        f"{len(choices)} of {len(table.rows)} cells chosen: {out}; the mean 90% half-width of the"
        f" candidates is expected to go from {before:.2f}% to {after:.2f}%"
    )
