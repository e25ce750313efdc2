"""From a profile's measurements to coefficients of the model ``acprof``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from igniter_prof import __version__
from igniter_prof.errors import BadInput
from igniter_prof.files import now_utc
from igniter_prof.fitting import accuracy
from igniter_prof.fitting.acprof.choosing import (
    Choice,
    Fitted,
    choose,
    fit_form,
    hold_out,
    refitted,
)
from igniter_prof.fitting.acprof.nearest import nearest
from igniter_prof.fitting.acprof.tasks import MODES, Task, energy_of, latency_of, tasks_of
from igniter_prof.fitting.points import BoolArray, FloatArray
from igniter_prof.records import (
    Coefficients,
    Device,
    FitError,
    FitReport,
    Measurement,
    Parameter,
    TenantMeasurement,
)

NAME: Final = "acprof"
NAIVE: Final = "the nearest measured configuration"

TARGETS: Final[dict[str, Callable[[TenantMeasurement], float | None]]] = {
    "latency": latency_of,
    "energy": energy_of,
}
"""What is fitted: latency of a request in ms, energy of an inference in J."""


@dataclass(frozen=True)
class TaskFit:
    """One task: its hold-out (n,), what was chosen without it, and the fits without and with it."""

    task: Task
    target: str
    held: BoolArray
    choice: Choice
    tested: Fitted
    final: Fitted

    @property
    def label(self) -> str:
        """The task, and ``energy`` where that is what was fitted."""
        return self.task.label if self.target == "latency" else f"{self.task.label} {self.target}"

    def error(self, *, holdout: bool) -> FitError:
        """Errors of the fit without the hold-out, on the hold-out or on what it was fitted to."""
        rows = self.held if holdout else ~self.held
        part = self.task.take(rows)
        return accuracy.relative_error(part.cost, self.tested.predict(part), len(part))

    def naive(self) -> FloatArray:
        """What ``NAIVE`` says of the hold-out, (n_held,)."""
        return nearest(self.task.take(~self.held), self.task.take(self.held))


def fit_task(task: Task, target: str, seed: int, holdout: float) -> TaskFit:
    """Hold out, choose a form on the rest, fit it to the rest and to all.

    Raises:
        BadInput: a single configuration.
    """
    held = hold_out(task, holdout, seed)
    train = task.take(~held)
    choice = choose(train, seed)
    tested = fit_form(choice.form, train)
    final = fit_form(refitted(choice.form, task), task) if held.any() else tested
    return TaskFit(task, target, held, choice, tested, final)


def fit_acprof(
    measurements: Sequence[Measurement],
    device: Device,
    *,
    profile_hash: str,
    seed: int = 0,
    holdout: float = 0.2,
) -> Coefficients:
    """Fit latency, and energy where it was measured, of each model with and without the GPU.

    Raises:
        BadInput: nothing usable.
    """
    fits: list[TaskFit] = []
    notes: list[str] = []
    for target, cost_of in TARGETS.items():
        tasks, more = tasks_of(measurements, device, cost_of)
        notes += more if target == "latency" else []
        for task in tasks:
            try:
                fits.append(fit_task(task, target, seed, holdout))
            except BadInput as error:
                notes.append(error.what)
                continue
            if holdout > 0 and not fits[-1].held.any():
                notes.append(f"{fits[-1].label}: too few configurations for a hold-out")
    if not any(fit.target == "latency" for fit in fits):
        raise BadInput(
            "no model of the profile can be fitted" + (f" ({'; '.join(notes)})" if notes else ""),
            hint="profile a model alone over input sizes, CPU cores or memory caps",
        )
    models: dict[str, dict[str, Parameter]] = {}
    for fit in fits:
        models.setdefault(fit.task.model, {}).update(_parameters(fit))
    return Coefficients(
        model=NAME,
        device=device,
        profile_hash=profile_hash,
        igprof=__version__,
        created_at=now_utc(),
        seed=seed,
        models=models,
        region=_region(fits),
        extra={"tasks": [_task_document(fit, measurements) for fit in fits], "notes": notes},
        report=_report(fits),
    )


def prefix(gpu: bool, target: str) -> str:
    """What a task's parameters are called in ``Coefficients.models``, before their own name."""
    return f"{MODES[gpu]}_{target}_"


def _parameters(fit: TaskFit) -> dict[str, Parameter]:
    start = prefix(fit.task.gpu, fit.target)
    values = zip(
        fit.final.form.parameters(),
        fit.final.theta.tolist(),
        fit.final.std_error.tolist(),
        strict=True,
    )
    return {
        start + name: Parameter(value=value, std_error=error if np.isfinite(error) else None)
        for name, value, error in values
    }


def _task_document(fit: TaskFit, measurements: Sequence[Measurement]) -> dict[str, Any]:
    """What the predictor needs beside the parameters, see ``predictor.TaskDocument``."""
    task, form = fit.task, fit.final.form
    known = {axis: values for axis, values in task.x.items() if not np.isnan(values).any()}
    sizes = np.unique(
        np.stack([np.nan_to_num(task.x[a]) for a in ("cpu_cores", "memory_mib")]), axis=1
    )
    return {
        "model": task.model,
        "gpu": task.gpu,
        "target": fit.target,
        "form": form.name,
        "axes": list(form.axes),
        "knots": {axis: list(values) for axis, values in form.knots.items()},
        "size_name": task.size_name,
        "region": {axis: [float(v.min()), float(v.max())] for axis, v in known.items()},
        # where memory goes with the cores, their pairs are the containers that were measured
        "containers": sizes.T.tolist() if _together(task) else None,
        "interval": accuracy.interval(fit.choice.log_errors),
        "cv": _spread(task, measurements),
        "scores_pct": {name: 100.0 * score for name, score in fit.choice.scores.items()},
    }


def _together(task: Task) -> bool:
    """Whether memory was varied, but only with the cores, so that it has no part in the form."""
    return "memory_mib" not in task.axes and len(np.unique(task.x["memory_mib"])) > 1


def _spread(task: Task, measurements: Sequence[Measurement]) -> float:
    """Typical standard deviation over mean of single requests; 0 where nothing tells it."""
    ids = set(task.cell_id)
    found = [
        latency.std_ms / latency.mean_ms
        for one in measurements
        if one.cell_id in ids
        and (latency := one.tenants[0].latency)
        and latency.std_ms is not None
        and latency.count != 1  # None: not known, but a deviation was published
    ]
    return float(np.median(found)) if found else 0.0


def _region(fits: Sequence[TaskFit]) -> dict[str, dict[str, tuple[float, float]]]:
    """Lowest and highest values of each model, over its tasks."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for fit in fits:
        edges = found.setdefault(fit.task.model, {})
        for axis, values in fit.task.x.items():
            if np.isnan(values).any():
                continue
            name = fit.task.size_name if axis == "size" else axis
            low, high = edges.get(name, (np.inf, -np.inf))
            edges[name] = (min(low, float(values.min())), max(high, float(values.max())))
    return found


def _report(fits: Sequence[TaskFit]) -> FitReport:
    latency = [fit for fit in fits if fit.target == "latency"]
    return FitReport(
        train=_joint(latency, lambda fit: ~fit.held, lambda fit: _predicted(fit, ~fit.held)),
        holdout=_joint(latency, lambda fit: fit.held, lambda fit: _predicted(fit, fit.held)),
        holdout_none=_joint(latency, lambda fit: fit.held, lambda fit: fit.naive()),
        naive=NAIVE,
        by_group={fit.label: fit.error(holdout=True) for fit in fits},
        train_by_group={fit.label: fit.error(holdout=False) for fit in fits},
        residuals=tuple(row for fit in fits for row in _residuals(fit)),
    )


def _predicted(fit: TaskFit, rows: BoolArray) -> FloatArray:
    return fit.tested.predict(fit.task.take(rows))


def _joint(
    fits: Sequence[TaskFit],
    rows: Callable[[TaskFit], BoolArray],
    predicted: Callable[[TaskFit], FloatArray],
) -> FitError:
    """Errors over several tasks."""
    measured = np.concatenate([fit.task.cost[rows(fit)] for fit in fits])
    return accuracy.relative_error(
        measured, np.concatenate([predicted(fit) for fit in fits]), len(measured)
    )


def _residuals(fit: TaskFit) -> list[dict[str, Any]]:
    task, predicted = fit.task, fit.tested.predict(fit.task)
    unit = "ms" if fit.target == "latency" else "j"
    return [
        {
            "cell_id": task.cell_id[row],
            "model": task.model,
            "gpu": task.gpu,
            task.size_name: float(task.x["size"][row]),
            "cpu_cores": _known(task.x["cpu_cores"][row]),
            "memory_mib": _known(task.x["memory_mib"][row]),
            "batch_size": int(task.x["batch_size"][row]),
            f"measured_{unit}": float(task.cost[row]),
            f"predicted_{unit}": float(predicted[row]),
            "holdout": bool(fit.held[row]),
        }
        for row in range(len(task))
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
