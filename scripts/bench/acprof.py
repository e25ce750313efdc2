"""How well AC-Prof's published results can be fitted, by file: train and test apart, against peers.

Every result file is imported into a profile of its own with ``igprof import acprof`` and fitted
with the model ``acprof``; nothing of the test set is seen by the choice of the form or by the fit.
The peers are fitted to, and judged on, the same configurations.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import describe_setting, markdown, run, setting

from igniter_prof.cli.common import note, print_json
from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.acprof import import_acprof
from igniter_prof.dataset.acprof.formats import kind_of
from igniter_prof.errors import BadInput
from igniter_prof.files import atomic_write, read_text
from igniter_prof.fitting.accuracy import interval, relative_error
from igniter_prof.fitting.acprof.choosing import fit_form, refitted
from igniter_prof.fitting.acprof.fitter import TARGETS, TaskFit, fit_task
from igniter_prof.fitting.acprof.nearest import linear, nearest
from igniter_prof.fitting.acprof.tasks import Task, tasks_of
from igniter_prof.records import FitError, Measurement

COLUMNS = [
    "file, task",
    "rows",
    "refused",
    "train",
    "test",
    "form",
    "train mean/median/p90 %",
    "test mean/median/p90 %",
    "R² train/test",
    "in 90% interval",
    "nearest, test %",
    "linear, test %",
    "unseen cores, %",
    "repeat noise %",
]


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--splits", type=int, default=5, help="seeds, each with its own test set")
    parser.add_argument("--holdout", type=float, default=20.0, help="percent of configurations")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = parser.parse_args()
    where = setting()
    rows = [
        row
        for file in _result_files(asked.data)
        for row in _of_file(file, asked.data, asked.splits, asked.holdout / 100)
    ]
    document = {"setting": where, "splits": asked.splits, "rows": rows}
    if asked.out:
        with atomic_write(asked.out) as out:
            out.write(json.dumps(document, indent=2).encode())
    if asked.json:
        print_json(document)
        return 0
    print(markdown(COLUMNS, [[row[column] for column in COLUMNS] for row in rows]))
    print(f"Means over {asked.splits} splits. {describe_setting(where)}.")
    return 0


def _result_files(folder: Path) -> list[Path]:
    found = [
        path
        for path in sorted(Path(folder).rglob("*.csv"))
        if kind_of([name.strip() for name in read_text(path).splitlines()[0].split(",")])
        in ("long", "wide")
    ]
    if not found:
        raise BadInput("holds no result file of AC-Prof", where=str(folder))
    return found


def _of_file(file: Path, data: Path, splits: int, holdout: float) -> Iterator[dict[str, Any]]:
    note(f"{file.relative_to(data)} ...")
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stderr(io.StringIO()):
            report = import_acprof([file], Path(folder) / "profile")
        store = ProfileStore.open(Path(folder) / "profile")
        measurements, device = store.measurements(), store.manifest.device
    counts = report.files[str(file)]
    for target, cost_of in TARGETS.items():
        for task in tasks_of(measurements, device, cost_of)[0]:
            fits = [fit_task(task, target, seed, holdout) for seed in range(splits)]
            yield {
                COLUMNS[0]: f"{file.relative_to(data)}, {fits[0].label}",
                "rows": counts["in"],
                "refused": counts["refused"],
                **_figures(task, fits, measurements, target),
            }


def _figures(
    task: Task, fits: list[TaskFit], measurements: list[Measurement], target: str
) -> dict[str, Any]:
    train, test = ([fit.error(holdout=held) for fit in fits] for held in (False, True))
    peers = {
        name: np.mean([_peer(fit, predict) for fit in fits])
        for name, predict in (("nearest", nearest), ("linear", linear))
    }
    forms: dict[str, int] = {}
    for fit in fits:
        forms[fit.choice.form.name] = forms.get(fit.choice.form.name, 0) + 1
    return {
        "train": len(task) - int(fits[0].held.sum()),
        "test": int(fits[0].held.sum()),
        "form": ", ".join(f"{name} {count}" for name, count in forms.items()),
        "train mean/median/p90 %": _three(train),
        "test mean/median/p90 %": _three(test),
        "R² train/test": f"{_mean(train, 'r2', 3)} / {_mean(test, 'r2', 3)}",
        "in 90% interval": f"{100 * np.mean([_covered(fit) for fit in fits]):.0f}%",
        "nearest, test %": f"{peers['nearest']:.1f}",
        "linear, test %": f"{peers['linear']:.1f}",
        "unseen cores, %": _unseen_cores(task, fits[0]),
        "repeat noise %": _noise(task, measurements, target),
    }


def _peer(fit: TaskFit, predict: Any) -> float:
    train, test = fit.task.take(~fit.held), fit.task.take(fit.held)
    return relative_error(test.cost, predict(train, test), len(test)).mean_pct or 0.0


def _covered(fit: TaskFit) -> float:
    """Part of the test set within the interval that the training part alone gives."""
    low, high = interval(fit.choice.log_errors)
    test = fit.task.take(fit.held)
    error = np.log(test.cost / fit.tested.predict(test))
    return float(np.mean((error >= low) & (error <= high)))


def _three(errors: list[FitError]) -> str:
    return " / ".join(_mean(errors, f"{name}_pct", 1) for name in ("mean", "median", "p90"))


def _mean(errors: list[FitError], name: str, digits: int) -> str:
    known = [value for one in errors if (value := getattr(one, name)) is not None]
    return f"{np.mean(known):.{digits}f}" if known else "-"


def _unseen_cores(task: Task, fit: TaskFit) -> str | None:
    """Mean error for numbers of cores none of whose configurations was fitted, ends excepted."""
    levels = np.unique(task.x["cpu_cores"])[1:-1]
    errors = []
    for level in levels:
        held = task.x["cpu_cores"] == level
        train, test = task.take(~held), task.take(held)
        fitted = fit_form(refitted(fit.choice.form, train), train)
        errors.append(relative_error(test.cost, fitted.predict(test), len(test)).mean_pct or 0.0)
    return f"{np.mean(errors):.1f}" if errors else None


def _noise(task: Task, measurements: list[Measurement], target: str) -> str | None:
    """Mean |row / mean of its configuration - 1|, and what that leaves of a mean of n rows."""
    single, mean = [], []
    for one in measurements:
        if one.cell_id not in task.cell_id:
            continue
        rows = one.tenants[0].extra["acprof"]["rows"]
        name = "latency_s" if target == "latency" else "energy_j"
        values = np.array([row[name] for row in rows if row["warmup"] != 1])
        if len(values) < 2 or not values.mean() > 0:
            continue
        single += np.abs(values / values.mean() - 1).tolist()
        # of a normal variable the mean deviation is 0.8 standard deviations
        mean.append(0.8 * values.std(ddof=1) / np.sqrt(len(values)) / values.mean())
    if not single:
        return None
    return f"{100 * np.mean(single):.1f}; of a mean {100 * np.mean(mean):.1f}"


if __name__ == "__main__":
    run(main)
