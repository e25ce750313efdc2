"""``igprof fit``: a latency model from a profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from igniter_prof.cli.common import (
    json_option,
    note,
    print_json,
    print_table,
    tell,
    told_to_terminal,
)
from igniter_prof.cli.options import OutFile

if TYPE_CHECKING:
    from igniter_prof.records import FitError, FitReport

_VALIDATION_S = 45.0
"""Seconds from the start of the fit after which no further part of the validation begins."""

_LEFT_OUT = {
    "points": "points",
    "co-located points": "co-located points",
    "pairs": "sets of models (never measured together)",
    "models": "models (measured alone only)",
    "devices": "devices",
}


@click.command("fit")
@click.argument("profile", metavar="PROFILE_DIR", type=click.Path(path_type=Path))
@click.option("--out", type=OutFile(), required=True, help="Coefficients file to write.")
@click.option(
    "--model",
    default="igprof",
    show_default=True,
    help="Latency model: igprof; igniter, gpulets, none to compare with; acprof for one container"
    " over its size and input.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the hold-out and the optimiser.",
)
@click.option(
    "--holdout",
    "holdout_pct",
    type=click.FloatRange(0, 50),
    default=20.0,
    show_default=True,
    help="Percent of the cells that the reported error is about.",
)
@click.option(
    "--no-validation",
    "--quick",
    "quick",
    is_flag=True,
    help="Leave out the cross-validation by pair, model and device, and the learning curve.",
)
@json_option
def command(
    profile: Path,
    out: Path,
    model: str,
    seed: int,
    holdout_pct: float,
    quick: bool,
    as_json: bool,
) -> None:
    """Fit a latency model to a profile and report its error on cells that it did not see.

    igprof, igniter, gpulets, none: models that share a device. acprof: latency, and energy where it
    was measured, of one container over input size, CPU cores, memory, batch and GPU on or off.
    """
    from igniter_prof.dataset import ProfileStore
    from igniter_prof.files import write_json
    from igniter_prof.fitting import fit

    store = ProfileStore.open(profile)
    coefficients = fit(
        store.measurements(),
        store.manifest.device,
        profile_hash=store.digest(),
        model=model,
        seed=seed,
        holdout=holdout_pct / 100.0,
        igniter=store.manifest.igniter,
        validation_s=0.0 if quick else _VALIDATION_S,
        tell=_progress,
    )
    _progress("")
    write_json(out, coefficients)
    for line in coefficients.extra["notes"]:
        note(f"note: {line}")
    if as_json:
        print_json(coefficients)
        return
    report = coefficients.report
    if report is not None:
        rows = [
            _row("fitted cells", report.train),
            _row("hold-out", report.holdout),
            _row(f"hold-out, {report.naive}", report.holdout_none),
            *(_row(f"  {group}", error) for group, error in report.by_group.items()),
            *(_row(f"  {group}, fitted", error) for group, error in report.train_by_group.items()),
        ]
        print_table(
            f"Relative error of the predicted latency, model '{model}'",
            ["cells", "number", "mean %", "median %", "p90 %", "p99 %", "R²"],
            rows,
        )
        _print_resources(report)
        _print_validation(report)
    for task in coefficients.extra.get("tasks", ()):
        mode = "gpu" if task["gpu"] else "cpu"
        note(f"{task['target']} of {task['model']} {mode}: form '{task['form']}'")
    note(f"{len(coefficients.models)} models fitted: {out}")


def _progress(what: str) -> None:
    """What is being fitted, on one line of a terminal that the next one takes over."""
    if told_to_terminal():
        tell(f"\r\033[Kfitting: {what} …" if what else "\r\033[K")


def _print_resources(report: FitReport) -> None:
    given = {"power": report.power, "energy": report.energy, "memory": report.memory}
    if rows := [_row(name, error) for name, error in given.items() if error is not None]:
        print_table(
            "Relative error of power and memory on cells that the fit had not seen",
            ["predicted", "cells", "mean %", "median %", "p90 %", "p99 %", "R²"],
            rows,
        )


def _print_validation(report: FitReport) -> None:
    if report.cross_validated:
        print_table(
            "Cross-validated: what the fit had not seen",
            ["left out in turn", "cells", "mean %", "median %", "p90 %", "p99 %", "R²"],
            [_row(_LEFT_OUT.get(name, name), e) for name, e in report.cross_validated.items()],
        )
    if report.learning_curve:
        print_table(
            "Learning curve: error of the co-located cells of the hold-out",
            ["co-located cells fitted", "number", "mean %", "median %", "p90 %", "p99 %", "R²"],
            [
                [f"{point.fraction_pct:g}%", point.cells, *_row("", point.error)[2:]]
                for point in report.learning_curve
            ],
        )
    if report.intervals:
        print_table(
            "90% intervals, each of a fit that had not seen the cell",
            ["cells", "tenants", "inside %", "half-width %, median"],
            [
                [name, check.tenants, _text(check.coverage_pct, 1), _text(check.half_width_pct, 2)]
                for name, check in report.intervals.items()
            ],
        )


def _row(label: str, error: FitError) -> list[str | int | None]:
    percents = (error.mean_pct, error.median_pct, error.p90_pct, error.p99_pct)
    return [label, error.cells, *(_text(value, 2) for value in percents), _text(error.r2, 4)]


def _text(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
