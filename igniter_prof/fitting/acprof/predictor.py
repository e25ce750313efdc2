"""Predictions from coefficients of the model ``acprof``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.files import parse
from igniter_prof.fitting.acprof.fitter import prefix
from igniter_prof.fitting.acprof.forms import AXES, NAMES, Form
from igniter_prof.fitting.acprof.tasks import MODES, cores_of
from igniter_prof.fitting.model import MAKE_AGAIN
from igniter_prof.fitting.points import FloatArray
from igniter_prof.records import Coefficients, Finite, Positive, Prediction, Record, Tenant

_AGAIN = f"{MAKE_AGAIN} --model acprof"
_OUTSIDE = 0.5
"""How much a factor e beyond what was profiled widens an interval, as a logarithm.

What has no part in the fit counts as such a factor."""
_SAME = 1e-9
_WIDEST = 50.0
"""No side of an interval is wider, as a logarithm."""

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
    containers: Annotated[tuple[tuple[Finite, Finite], ...], Field(min_length=1)] | None = None
    interval: tuple[
        Annotated[float, Field(ge=-_WIDEST, le=0)], Annotated[float, Field(ge=0, le=_WIDEST)]
    ]
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
            BadInput: a cell of several tenants, several instances or a share of the GPU, a model
                or a mode (GPU or not) that was not measured, or a quantity that the fit needs is
                not given.
        """
        found = []
        for cell in cells:
            tenant = self._alone(cell)
            task = self._task(tenant, "latency")
            latency, low, high = self._cost(task, tenant)
            prediction = {
                "latency_ms": latency,
                "latency_low_ms": low,
                "latency_high_ms": high,
                "throughput_rps": tenant.batch_size / latency * 1000.0,
                "cv": task.cv,
            }
            energy = self._tasks.get((task.model, task.gpu, "energy"))
            if energy is not None:
                joules = self._cost(energy, tenant)
                names = ("energy_j", "energy_low_j", "energy_high_j")
                prediction |= dict(zip(names, joules, strict=True))
            found.append([Prediction(**prediction)])
        return found

    def outside(self, tenants: Sequence[Tenant]) -> list[str]:
        """What of a cell lies outside of what was profiled, in words; empty if nothing does."""
        tenant = self._alone(tenants)
        task = self._task(tenant, "latency")
        label = f"{task.model} {MODES[task.gpu]}"
        found = self._outside(task, tenant)
        energy = self._tasks.get((task.model, task.gpu, "energy"))
        more = [] if energy is None else self._outside(energy, tenant)
        return [
            *(f"{label}: {text}" for text in found),
            *(f"{label} energy: {text}" for text in more if text not in found),
        ]

    def _outside(self, task: TaskDocument, tenant: Tenant) -> list[str]:
        warnings = []
        for axis, value in self._values(task, tenant).items():
            low, high = task.region[axis]
            if not low * (1 - _SAME) <= value <= high * (1 + _SAME):
                name = task.size_name if axis == "size" else axis
                warnings.append(f"{name} {value:g} was not profiled ({low:g} to {high:g} was)")
        return warnings + self._unknown(task, tenant)

    def _unknown(self, task: TaskDocument, tenant: Tenant) -> list[str]:
        """What is asked for and has no part in the fit, so that its effect is not known."""
        given = self._given(task, tenant)
        found = [
            f"{axis} {value:g} was not profiled, so its effect is not known"
            for axis, value in given.items()
            if value is not None and axis not in task.region
        ]
        if task.size_name == "input_size" and tenant.input_scale != 1.0:
            found.append("it was profiled over input_size, so input_scale has no effect")
        if task.size_name == "input_scale" and tenant.input_size is not None:
            found.append("it was profiled over input_scale, so input_size has no effect")
        return found + self._odd_container(task, tenant)

    def outside_of_all(self, cells: Sequence[Sequence[Tenant]]) -> list[str]:
        """The different warnings of ``outside`` over many cells, in their order."""
        return list(dict.fromkeys(warning for cell in cells for warning in self.outside(cell)))

    def _odd_container(self, task: TaskDocument, tenant: Tenant) -> list[str]:
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
            f"{memory:g} MiB with {cores:g} cores was not profiled"
            " (memory was varied with the cores only, so its own effect is not known)"
        ]

    def _alone(self, cell: Sequence[Tenant]) -> Tenant:
        if len(cell) != 1:
            raise BadInput(
                "the latency model 'acprof' knows no neighbours",
                hint="one tenant a cell; co-located ones: igprof fit --model igniter",
            )
        tenant = cell[0]
        if tenant.instances != 1:
            raise BadInput(
                "the latency model 'acprof' knows no instances", hint="leave instances_k out"
            )
        on_gpu = self.coefficients.device.kind == "cuda"
        if on_gpu and tenant.gpu is not False and tenant.share_pct not in (None, 100.0):
            raise BadInput(
                "the latency model 'acprof' knows no shares of a GPU",
                hint="leave share_pct_k out; shares: igprof fit --model igniter",
            )
        return tenant

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

    def _given(self, task: TaskDocument, tenant: Tenant) -> dict[str, float | None]:
        """A tenant's value for each axis; None: it has none."""
        return {
            "size": tenant.input_size if task.size_name == "input_size" else tenant.input_scale,
            "cpu_cores": cores_of(tenant, self.coefficients.device),
            "memory_mib": tenant.memory_mib,
            "batch_size": float(tenant.batch_size),
        }

    def _values(self, task: TaskDocument, tenant: Tenant) -> dict[str, float]:
        """A tenant's value for each axis with a region; what was the same throughout is taken."""
        given = self._given(task, tenant)
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

    def _cost(self, task: TaskDocument, tenant: Tenant) -> tuple[float, float, float]:
        """The cost and its 90% interval, wider the further outside of what was profiled."""
        values = self._values(task, tenant)
        form, theta = self._fitted[task.model, task.gpu, task.target]
        point = {axis: np.array([values[axis]]) for axis in form.axes} or {"size": np.ones(1)}
        cost = float(np.exp(form.log_cost(theta, point)[0]))
        beyond = sum(
            max(0.0, float(np.log(low / values[axis])), float(np.log(values[axis] / high)))
            for axis, (low, high) in task.region.items()
            if axis in values
        ) + len(self._unknown(task, tenant))
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
    rising = all(list(knots) == sorted(set(knots)) for knots in task.knots.values())
    if not rising or any(low > high for low, high in task.region.values()):
        raise BadInput("knots or a region do not rise", where=where, hint=_AGAIN)
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
