"""Tenants and measurements as arrays: what the equations and the fit work on.

One row is one tenant; the rows of a cell share its number, so that a sum over a tenant's
neighbours is a sum over its cell less itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.records import (
    Device,
    DevicePower,
    IgniterProfile,
    Measurement,
    Tenant,
    TenantMeasurement,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MODEL_ERROR = 0.02
"""Relative error that the equations have at best: a cell measured much better counts no more."""


@dataclass(frozen=True)
class Points:
    """Tenants as arrays of shape (n_rows,).

    ``model`` and ``cell`` are indices, ``share`` is the part of the device (0-1], ``tenants`` the
    number of tenants in the row's cell; ``batch``, ``scale``, ``instances`` as in ``Tenant``.
    """

    model: IntArray
    batch: FloatArray
    share: FloatArray
    scale: FloatArray
    instances: FloatArray
    cell: IntArray
    tenants: FloatArray

    def __len__(self) -> int:
        return len(self.model)

    def take(self, rows: IntArray) -> Points:
        """Rows by their indices; they must keep cells whole."""
        return Points(
            model=self.model[rows],
            batch=self.batch[rows],
            share=self.share[rows],
            scale=self.scale[rows],
            instances=self.instances[rows],
            cell=self.cell[rows],
            tenants=self.tenants[rows],
        )

    def repeated(self, count: int) -> Points:
        """The same cells ``count`` times, one after the other, as cells of their own."""
        cells = int(self.cell.max()) + 1 if len(self) else 0
        again = {each.name: np.tile(getattr(self, each.name), count) for each in fields(self)}
        again["cell"] = again["cell"] + np.repeat(np.arange(count) * cells, len(self))
        return Points(**again)

    def quantities(self) -> dict[str, FloatArray]:
        """What a profile varies, by the names that a region has, each (n_rows,)."""
        return {
            "batch_size": self.batch,
            "share_pct": self.share * 100.0,
            "input_scale": self.scale,
            "instances": self.instances,
            "tenants": self.tenants,
        }

    def alone(self) -> Points:
        """The same tenants, each in a cell of its own."""
        return replace(self, cell=np.arange(len(self)), tenants=np.ones(len(self)))

    def over_cell(self, value: FloatArray) -> FloatArray:
        """Sum of a row's value over the rows of its cell, itself included, shape (n_rows,)."""
        if len(self) == 0:
            return np.zeros(0)
        return np.asarray(np.bincount(self.cell, value)[self.cell], dtype=np.float64)

    def over_neighbours(self, value: FloatArray) -> FloatArray:
        """Sum of a row's value over the other rows of its cell, shape (n_rows,)."""
        total = self.over_cell(value)
        # a lone tenant has no neighbours: exactly zero, no rounding
        return np.where(self.tenants > 1, np.maximum(total - value, 0.0), 0.0)


@dataclass(frozen=True)
class Observations:
    """Measured tenants; arrays have shape (n_rows,).

    ``weight`` is in (0, 1], less where the measurement itself is uncertain; ``cv`` is the measured
    standard deviation over the mean, NaN if not known; rows with the same ``group`` are the same
    point, measured again. ``igniter`` is iGniter's lightweight profile where there is one.
    """

    models: tuple[str, ...]
    device: Device
    points: Points
    latency_ms: FloatArray
    weight: FloatArray
    cv: FloatArray
    group: IntArray
    cell_id: tuple[str, ...]
    tenant: tuple[TenantMeasurement, ...]
    power: tuple[DevicePower | None, ...]
    igniter: IgniterProfile | None = None

    def __len__(self) -> int:
        return len(self.latency_ms)

    def take(self, rows: BoolArray) -> Observations:
        """The rows where a mask (n_rows,) is true; the mask must keep cells whole."""
        kept = np.flatnonzero(rows)
        return replace(
            self,
            points=self.points.take(kept),
            latency_ms=self.latency_ms[kept],
            weight=self.weight[kept],
            cv=self.cv[kept],
            group=self.group[kept],
            cell_id=tuple(self.cell_id[i] for i in kept),
            tenant=tuple(self.tenant[i] for i in kept),
            power=tuple(self.power[i] for i in kept),
        )

    def configurations(self, rows: BoolArray) -> int:
        """How many different (batch, share, scale, instances) the rows of a mask hold."""
        p = self.points
        table = np.stack([p.batch, p.share, p.scale, p.instances], axis=1)[rows]
        return len(np.unique(table, axis=0)) if len(table) else 0


def effective_share(tenant: Tenant, device: Device) -> float:
    """The part of the device that a tenant may use, in (0, 1].

    On a CPU device a cap in cores is the same knob as a share; a tenant with neither has it all.
    """
    if tenant.share_pct is not None:
        return tenant.share_pct / 100.0
    if device.kind == "cpu" and tenant.cpu_cores is not None and device.cores:
        return min(1.0, tenant.cpu_cores / len(device.cores))
    return 1.0


def unknown_model(name: str, known: Mapping[str, int]) -> BadInput:
    """What to raise for a model that is not among those profiled."""
    return BadInput(f"the model '{name}' was not profiled", hint=did_you_mean(name, known))


def arrange(cells: Sequence[Sequence[Tenant]], index: Mapping[str, int], device: Device) -> Points:
    """Cells as arrays, rows in the order of the cells and of their tenants.

    Raises:
        BadInput: a model is not in ``index``.
    """
    rows: list[tuple[int, int, float, float, int, int, int]] = []
    for number, cell in enumerate(cells):
        for tenant in cell:
            model = index.get(tenant.model)
            if model is None:
                raise unknown_model(tenant.model, index)
            rows.append(
                (
                    model,
                    tenant.batch_size,
                    effective_share(tenant, device),
                    tenant.input_scale,
                    tenant.instances,
                    number,
                    len(cell),
                )
            )
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return Points(
        model=table[:, 0].astype(np.int64),
        batch=table[:, 1],
        share=table[:, 2],
        scale=table[:, 3],
        instances=table[:, 4],
        cell=table[:, 5].astype(np.int64),
        tenants=table[:, 6],
    )


def observe(
    measurements: Sequence[Measurement], device: Device, igniter: IgniterProfile | None = None
) -> tuple[Observations, tuple[str, ...]]:
    """Usable measurements as arrays, and notes on what was left out and why.

    Only whole cells count: where a tenant failed, its neighbours were not loaded all the time.
    Only a closed loop of one batch in flight measures what the model predicts.

    Raises:
        BadInput: nothing usable is left.
    """
    usable: list[Measurement] = []
    left_out: Counter[str] = Counter()
    for measurement in measurements:
        reason = _unusable(measurement)
        if reason is None:
            usable.append(measurement)
        else:
            left_out[reason] += 1
    notes = tuple(f"{count} cells left out: {reason}" for reason, count in left_out.items())
    if not usable:
        raise BadInput(
            "no cell of the profile can be fitted"
            + (f" ({'; '.join(notes)})" if notes else " (it is empty)"),
            hint="profile each model alone with a closed loop: igprof profile --models NAME ...",
        )
    models = tuple(sorted({t.tenant.model for m in usable for t in m.tenants}))
    missing = {t.tenant.model for m in measurements for t in m.tenants} - set(models)
    if missing:
        notes += (f"never measured with success, so not fitted: {', '.join(sorted(missing))}",)
    points = arrange(
        [[t.tenant for t in m.tenants] for m in usable],
        {model: i for i, model in enumerate(models)},
        device,
    )
    tenants = tuple(t for m in usable for t in m.tenants)
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(_point_key(m), len(numbers)) for m in usable]
    return (
        Observations(
            models=models,
            device=device,
            points=points,
            latency_ms=np.array([_mean_ms(t) for t in tenants]),
            weight=np.array([_weight(t) for t in tenants]),
            cv=np.array([_cv(t) for t in tenants]),
            group=np.array([g for g, m in zip(groups, usable, strict=True) for _ in m.tenants]),
            cell_id=tuple(m.cell_id for m in usable for _ in m.tenants),
            tenant=tenants,
            power=tuple(m.power for m in usable for _ in m.tenants),
            igniter=igniter,
        ),
        notes,
    )


def _unusable(measurement: Measurement) -> str | None:
    load = measurement.cell.load
    if any(t.status != "ok" or t.latency is None for t in measurement.tenants):
        return "a tenant failed"
    if any(t.latency is not None and not t.latency.mean_ms > 0 for t in measurement.tenants):
        return "a latency is not positive"
    if load.kind != "closed" or load.concurrency != 1:
        return "the load was not a closed loop of one batch in flight"
    if any(
        t.tenant.queue_delay_us is not None and t.tenant.batch_size > 1 for t in measurement.tenants
    ):
        return "with dynamic batching the executed batch is not the configured one"
    return None


def _point_key(measurement: Measurement) -> str:
    tenants = sorted(t.tenant.model_dump_json() for t in measurement.tenants)
    return measurement.cell.server + "".join(tenants)


def _mean_ms(tenant: TenantMeasurement) -> float:
    assert tenant.latency is not None
    return tenant.latency.mean_ms


def _weight(tenant: TenantMeasurement) -> float:
    assert tenant.latency is not None
    if tenant.latency.mean_ci_ms is None:
        return 1.0
    relative = tenant.latency.mean_ci_ms / 1.96 / tenant.latency.mean_ms
    return float(1.0 / np.hypot(1.0, relative / MODEL_ERROR))


def _cv(tenant: TenantMeasurement) -> float:
    assert tenant.latency is not None
    count, std_ms = tenant.latency.count, tenant.latency.std_ms
    if std_ms is None or (count is not None and count < 2):
        return float("nan")
    return std_ms / tenant.latency.mean_ms
