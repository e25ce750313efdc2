"""Predictions from coefficients of the model ``acprof``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.files import parse
from igniter_prof.fitting.acprof.fitter import prefix
from igniter_prof.fitting.acprof.forms import AXES, NAMES, Form
from igniter_prof.fitting.acprof.tasks import MODES, cores_of
from igniter_prof.fitting.points import FloatArray
from igniter_prof.records import Coefficients, Finite, Positive, Prediction, Record, Tenant

_AGAIN = "make it again: igprof fit --model acprof"
_OUTSIDE = 0.5
"""How much a factor e beyond what was profiled widens an interval, as a logarithm."""
_SAME = 1e-9

Knots = Annotated[tuple[Positive, ...], Field(min_length=1)]


class TaskDocument(Record, extra="ignore"):
    """One entry of ``Coefficients.extra["tasks"]``: a form and where it holds."""

    model: str
    gpu: bool
    target: Literal["latency", "energy"]
    form: str
    axes: tuple[str, ...] = ()
    knots: dict[str, Knots] = Field(default={})
    size_name: Literal["input_size", "input_scale"]
    region: dict[str, tuple[Positive, Positive]]
    containers: tuple[tuple[float, float], ...] | None = None
    interval: tuple[Finite, Finite]
    cv: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class _Extra(Record, extra="ignore"):
    tasks: tuple[TaskDocument, ...] = Field(min_length=1)


Key = tuple[str, bool, str]


class AcprofPredictor:
    """Latency and energy of containers that run alone."""

    def __init__(self, coefficients: Coefficients) -> None:
        """See ``igniter_prof.fitting.cell_predictor``."""
        self.coefficients = coefficients
        self.models: tuple[str, ...] = tuple(coefficients.models)
        extra = parse(coefficients.extra, _Extra, "coefficients, extra")
        self._tasks: dict[Key, TaskDocument] = {}
        self._fitted: dict[Key, tuple[Form, FloatArray]] = {}
        for task in extra.tasks:
            key = (task.model, task.gpu, task.target)
            self._tasks[key] = task
            self._fitted[key] = _form(task, coefficients)

    def predict(self, cells: Sequence[Sequence[Tenant]]) -> list[list[Prediction]]:
        """One prediction for each cell of one tenant.

        Raises:
            BadInput: a cell of several tenants, a model or a mode (GPU or not) that was not
                measured, or a quantity that the fit needs is not given.
        """
        found = []
        for cell in cells:
            tenant = self._alone(cell)
            task = self._task(tenant, "latency")
            values = self._values(task, tenant)
            latency, low, high = self._cost(task, values)
            prediction = {
                "latency_ms": latency,
                "latency_low_ms": low,
                "latency_high_ms": high,
                "throughput_rps": tenant.batch_size / latency * 1000.0,
                "cv": task.cv,
            }
            energy = self._tasks.get((task.model, task.gpu, "energy"))
            if energy is not None:
                joules = self._cost(energy, self._values(energy, tenant))
                names = ("energy_j", "energy_low_j", "energy_high_j")
                prediction |= dict(zip(names, joules, strict=True))
            found.append([Prediction(**prediction)])
        return found

    def outside(self, tenants: Sequence[Tenant]) -> list[str]:
        """What of a cell lies outside of what was profiled, in words; empty if nothing does."""
        tenant = self._alone(tenants)
        task = self._task(tenant, "latency")
        values = self._values(task, tenant)
        label = f"{task.model} {MODES[task.gpu]}"
        warnings = []
        for axis, value in values.items():
            low, high = task.region[axis]
            if not low * (1 - _SAME) <= value <= high * (1 + _SAME):
                name = task.size_name if axis == "size" else axis
                warnings.append(
                    f"{label}: {name} {value:g} was not profiled ({low:g} to {high:g} was)"
                )
        return warnings + self._odd_container(task, tenant, label)

    def outside_of_all(self, cells: Sequence[Sequence[Tenant]]) -> list[str]:
        """The different warnings of ``outside`` over many cells, in their order."""
        return list(dict.fromkeys(warning for cell in cells for warning in self.outside(cell)))

    def _odd_container(self, task: TaskDocument, tenant: Tenant, label: str) -> list[str]:
        """Where memory only went with the cores: a memory between those of its neighbours."""
        cores, memory = cores_of(tenant, self.coefficients.device), tenant.memory_mib
        if task.containers is None or cores is None or memory is None:
            return []
        known = np.array(task.containers)
        at_least = known[known[:, 0] <= cores * (1 + _SAME), 1]
        at_most = known[known[:, 0] >= cores * (1 - _SAME), 1]
        low = float(at_least.max(initial=0.0))
        high = float(at_most.min(initial=np.inf))
        if low * (1 - _SAME) <= memory <= high * (1 + _SAME):
            return []
        return [
            f"{label}: {memory:g} MiB with {cores:g} cores was not profiled"
            " (memory was varied with the cores only, so its own effect is not known)"
        ]

    def _alone(self, cell: Sequence[Tenant]) -> Tenant:
        if len(cell) != 1:
            raise BadInput(
                "the latency model 'acprof' knows no neighbours",
                hint="one tenant a cell; co-located ones: igprof fit --model igniter",
            )
        return cell[0]

    def _task(self, tenant: Tenant, target: str) -> TaskDocument:
        if tenant.model not in self.coefficients.models:
            raise BadInput(
                f"the model '{tenant.model}' was not profiled",
                hint=did_you_mean(tenant.model, self.models),
            )
        modes = [gpu for model, gpu, kind in self._tasks if (model, kind) == (tenant.model, target)]
        gpu = tenant.gpu
        if gpu is None:
            device_has = self.coefficients.device.kind == "cuda"
            if len(modes) > 1:
                raise BadInput(
                    f"the model '{tenant.model}' was profiled with and without the GPU",
                    hint="say which: the column gpu_k, true or false",
                )
            gpu = modes[0] if modes else device_has
        if gpu not in modes:
            without = "with" if gpu else "without"
            raise BadInput(f"the model '{tenant.model}' was not profiled {without} the GPU")
        return self._tasks[tenant.model, gpu, target]

    def _values(self, task: TaskDocument, tenant: Tenant) -> dict[str, float]:
        """A tenant's value for each axis with a region; what was the same throughout is taken."""
        size = tenant.input_size if task.size_name == "input_size" else tenant.input_scale
        given = {
            "size": size,
            "cpu_cores": cores_of(tenant, self.coefficients.device),
            "memory_mib": tenant.memory_mib,
            "batch_size": float(tenant.batch_size),
        }
        found: dict[str, float] = {}
        for axis, (low, high) in task.region.items():
            value = given[axis]
            if value is not None:
                found[axis] = value
            elif low == high:
                found[axis] = low
            elif axis in task.axes:
                name = task.size_name if axis == "size" else axis
                raise BadInput(
                    f"the model '{task.model}' was profiled over {name}, which is not given",
                    hint=f"add the column {name}_k ({low:g} to {high:g} was profiled)",
                )
        return found

    def _cost(self, task: TaskDocument, values: Mapping[str, float]) -> tuple[float, float, float]:
        """The cost and its 90% interval, wider the further outside of what was profiled."""
        form, theta = self._fitted[task.model, task.gpu, task.target]
        point = {axis: np.array([values[axis]]) for axis in form.axes} or {"size": np.ones(1)}
        cost = float(np.exp(form.log_cost(theta, point)[0]))
        beyond = sum(
            max(0.0, float(np.log(low / values[axis])), float(np.log(values[axis] / high)))
            for axis, (low, high) in task.region.items()
            if axis in values
        )
        low, high = task.interval
        wider = _OUTSIDE * beyond
        return cost, cost * float(np.exp(low - wider)), cost * float(np.exp(high + wider))


def check_acprof(coefficients: Coefficients, path: Path) -> None:
    """Refuse what the predictor would stumble over.

    Raises:
        BadInput: a task, a form or a parameter is missing or of a wrong type.
    """
    extra = parse(coefficients.extra, _Extra, f"{path}, extra")
    for task in extra.tasks:
        if task.model not in coefficients.models:
            raise BadInput(f"'{task.model}' is no model of it", where=str(path), hint=_AGAIN)
        _form(task, coefficients, path)
    for name in coefficients.models:
        if not any((task.model, task.target) == (name, "latency") for task in extra.tasks):
            raise BadInput(f"no latency of '{name}' is in it", where=str(path), hint=_AGAIN)


def _form(
    task: TaskDocument, coefficients: Coefficients, path: Path | None = None
) -> tuple[Form, FloatArray]:
    where = None if path is None else str(path)
    if task.form not in NAMES or not set(task.axes) == set(task.knots) <= set(AXES):
        raise BadInput(f"'{task.form}' is no form of this igprof", where=where, hint=_AGAIN)
    if not set(task.axes) <= set(task.region) <= set(AXES):
        raise BadInput("a region does not fit its form", where=where, hint=_AGAIN)
    form = Form(task.form, task.axes, task.knots)
    known = coefficients.models[task.model]
    start = prefix(task.gpu, task.target)
    missing = [name for name in form.parameters() if start + name not in known]
    if missing:
        raise BadInput(
            f"the model '{task.model}' lacks the parameter '{start}{missing[0]}'",
            where=where,
            hint=_AGAIN,
        )
    return form, np.array([known[start + name].value for name in form.parameters()])
