"""Memory of tenants: weights, what a server needs besides, and something for each item of a batch.

docs/energy-model.md has the equations and says which number of a measurement is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from igniter_prof.fitting.model import require
from igniter_prof.fitting.non_negative import fit_non_negative
from igniter_prof.fitting.points import FloatArray, Observations, Points
from igniter_prof.fitting.power import SCALE_EXPONENT
from igniter_prof.records import Parameter, Record, TenantMeasurement
from igniter_prof.units import BYTES_PER_MIB

PER_MODEL: Final = ("memory_weights_mib", "memory_context_mib", "memory_item_mib")
"""Parameters of a model; the weights are known or 0, the others fitted; all >= 0."""

SHARED: Final = ("memory_base_mib",)
"""Memory of the device that no tenant causes; 0 where only cells alone were measured."""

Source = Literal["device", "container", "server"]

_BASE_RIDGE, _CONTEXT_RIDGE, _ITEM_RIDGE = 1e-4, 1e-6, 1e-9
"""What the cells cannot tell apart goes to the item, then to the model, then to the device."""


@dataclass(frozen=True)
class MemoryModel:
    """Fitted memory; NaN for models whose memory was never measured."""

    models: tuple[str, ...]
    source: Source
    shared: Mapping[str, Parameter]
    parameters: Mapping[str, Mapping[str, Parameter]]

    def tenant_mib(self, x: Points) -> FloatArray:
        """Memory of each tenant, MiB, (n_rows,); its neighbours do not change it."""
        unknown = [np.nan] * len(PER_MODEL)
        table = np.array(
            [
                [self.parameters[m][name].value for name in PER_MODEL]
                if m in self.parameters
                else unknown
                for m in self.models
            ]
        ).reshape(-1, len(PER_MODEL))
        mine = table[x.model]
        return np.asarray(mine[:, 0] + mine[:, 1] + mine[:, 2] * _items(x))

    def measured_mib(self, x: Points) -> FloatArray:
        """What would be measured, MiB, (n_rows,): of the row's whole cell where that is all."""
        tenant = self.tenant_mib(x)
        if self.source != "device" or not len(x):
            return tenant
        base = self.shared["memory_base_mib"].value
        return np.asarray(base + x.over_cell(tenant))

    def document(self) -> MemoryDocument:
        """Everything that ``MemoryDocument.load`` needs."""
        return MemoryDocument(
            source=self.source,
            shared=dict(self.shared),
            models={name: dict(found) for name, found in self.parameters.items()},
        )


class MemoryDocument(Record):
    """A memory model in a coefficients file, its parameters by name."""

    source: Source
    shared: dict[str, Parameter]
    models: dict[str, dict[str, Parameter]]

    def load(self, models: Sequence[str]) -> MemoryModel:
        """The memory model, for models in the order of the rows' indices.

        Raises:
            BadInput: a parameter is missing, negative, or none of them.
        """
        require(self.shared, SHARED, "extra.memory", known=SHARED)
        for found in self.models.values():
            require(found, PER_MODEL, "extra.memory", known=PER_MODEL)
        return MemoryModel(tuple(models), self.source, self.shared, self.models)


def fit_memory(data: Observations) -> MemoryModel | None:
    """Fit memory to a profile; None if it holds none.

    On a GPU from the device's memory, a sum over the tenants of a cell. On a CPU from each tenant's
    own: its container's or control group's without page cache, else its server's peak.
    """
    source, measured = measured_memory(data)
    if source is None:
        return None
    weights = _weights_mib(data)
    x = data.points
    usable = np.isfinite(measured)
    # one equation a cell where the device is measured, else one a tenant
    equation = x.cell if source == "device" else np.arange(len(x))
    _, first, number = np.unique(equation[usable], return_index=True, return_inverse=True)
    rows = np.flatnonzero(usable)
    total = measured[rows][first]
    known = np.bincount(number.reshape(-1), weights[x.model[rows]], len(total))
    design = np.zeros((len(total), len(data.models), 2))
    np.add.at(
        design,
        (number.reshape(-1), x.model[rows]),
        np.stack([np.ones(len(rows)), _items(x)[rows]], axis=1),
    )
    seen = np.unique(x.model[rows])
    a = design[:, seen].reshape(len(total), -1)
    ridge = np.tile([_CONTEXT_RIDGE, _ITEM_RIDGE], len(seen))
    if source == "device":
        a = np.concatenate([np.ones((len(total), 1)), a], axis=1)
        ridge = np.concatenate([[_BASE_RIDGE], ridge])
    value, error = fit_non_negative(a / total[:, np.newaxis], 1.0 - known / total, ridge)
    base = Parameter(value=0.0)
    if source == "device":
        base = _parameter(value[0], error[0])
        value, error = value[1:], error[1:]
    parameters = {
        data.models[model]: {
            "memory_weights_mib": Parameter(value=float(weights[model])),
            "memory_context_mib": _parameter(value[2 * i], error[2 * i]),
            "memory_item_mib": _parameter(value[2 * i + 1], error[2 * i + 1]),
        }
        for i, model in enumerate(seen.tolist())
    }
    return MemoryModel(data.models, source, {"memory_base_mib": base}, parameters)


def measured_memory(data: Observations) -> tuple[Source | None, FloatArray]:
    """Where memory was read, and MiB, (n_rows,): of the row's cell (device) or of its tenant.

    NaN where it was not read; None if it nowhere was.
    """
    if data.device.kind == "cuda":
        device = [None if p is None or p.scope != "gpu" else p.memory_peak_mib for p in data.power]
        return _numbers("device", device)
    found, values = _numbers("container", [_container_mib(t) for t in data.tenant])
    if found is None:
        return _numbers("server", [_server_mib(t) for t in data.tenant])
    return found, values


def _numbers(source: Source, values: Sequence[float | None]) -> tuple[Source | None, FloatArray]:
    found = np.array([v if v is not None and v > 0 else np.nan for v in values], dtype=np.float64)
    return (source if np.isfinite(found).any() else None), found


def _container_mib(tenant: TenantMeasurement) -> float | None:
    if tenant.container is not None and tenant.container.memory_working_peak_mib is not None:
        return tenant.container.memory_working_peak_mib
    return None if tenant.usage is None else tenant.usage.memory_working_mib


def _server_mib(tenant: TenantMeasurement) -> float | None:
    return None if tenant.usage is None else tenant.usage.memory_peak_mib


def _weights_mib(data: Observations) -> FloatArray:
    """(n_models,), 0 where it is not known."""
    result = np.zeros(len(data.models))
    for model, tenant in zip(data.points.model.tolist(), data.tenant, strict=True):
        result[model] = max(result[model], (tenant.weight_bytes or 0) / BYTES_PER_MIB)
    return result


def _items(x: Points) -> FloatArray:
    """What the memory of an item is multiplied with, (n_rows,): all instances hold a batch."""
    return np.asarray(x.batch * x.instances * x.scale**SCALE_EXPONENT)


def _parameter(value: float, error: float) -> Parameter:
    return Parameter(value=float(value), std_error=float(error) if np.isfinite(error) else None)
