"""What is fitted: the configurations of one model, with or without the GPU, and their costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from igniter_prof.fitting.acprof.forms import AXES
from igniter_prof.fitting.points import BoolArray, FloatArray
from igniter_prof.records import Device, Measurement, Tenant, TenantMeasurement

MODES = {True: "gpu", False: "cpu"}


@dataclass(frozen=True)
class Task:
    """The configurations of one container image and mode; one row each, repeats averaged.

    ``x``: values (n,) by axis, those of ``axes`` vary. ``cost``: (n,), the mean latency of a
    request in ms, or the mean energy of an inference in J. ``repeats``: (n,) how many requests.
    """

    model: str
    gpu: bool
    size_name: str
    axes: tuple[str, ...]
    x: dict[str, FloatArray]
    cost: FloatArray
    repeats: FloatArray
    cell_id: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cost)

    @property
    def label(self) -> str:
        """The model and ``gpu`` or ``cpu``."""
        return f"{self.model} {MODES[self.gpu]}"

    def take(self, rows: BoolArray) -> Task:
        """The rows where a mask (n,) is true; ``axes`` stays."""
        return Task(
            self.model,
            self.gpu,
            self.size_name,
            self.axes,
            {axis: values[rows] for axis, values in self.x.items()},
            self.cost[rows],
            self.repeats[rows],
            tuple(one for one, kept in zip(self.cell_id, rows, strict=True) if kept),
        )


def on_gpu(tenant: Tenant, device: Device) -> bool:
    """Whether a tenant has the GPU: as it says, else if the device is one."""
    return device.kind == "cuda" if tenant.gpu is None else tenant.gpu


def cores_of(tenant: Tenant, device: Device) -> float | None:
    """CPU cores of a tenant's container: its cap, else its share of the device's, else all."""
    if tenant.cpu_cores is not None:
        return tenant.cpu_cores
    if device.kind == "cpu" and device.cores:
        return len(device.cores) * (tenant.share_pct or 100.0) / 100.0
    return None


def latency_of(measured: TenantMeasurement) -> float | None:
    """Mean latency of a request, ms."""
    return measured.latency.mean_ms if measured.latency is not None else None


def energy_of(measured: TenantMeasurement) -> float | None:
    """Mean energy of an inference, J."""
    return measured.energy.per_inference_j if measured.energy is not None else None


def tasks_of(
    measurements: Sequence[Measurement],
    device: Device,
    cost_of: Callable[[TenantMeasurement], float | None],
) -> tuple[list[Task], list[str]]:
    """The tasks of a profile, and notes on what was left out and why."""
    left_out: Counter[str] = Counter()
    rows: dict[tuple[str, bool], list[tuple[Measurement, float]]] = {}
    for measurement in measurements:
        reason = _unusable(measurement, device)
        cost = None if reason else cost_of(measurement.tenants[0])
        if reason is None and (cost is None or not cost > 0):
            reason = "nothing positive was measured"
        if reason is not None or cost is None:
            left_out[str(reason)] += 1
            continue
        tenant = measurement.cell.tenants[0]
        rows.setdefault((tenant.model, on_gpu(tenant, device)), []).append((measurement, cost))
    notes = [f"{count} cells left out: {reason}" for reason, count in left_out.items()]
    tasks = []
    for (model, gpu), members in sorted(rows.items()):
        task, more = _task(model, gpu, members, device)
        tasks.append(task)
        notes += more
    return tasks, notes


def _unusable(measurement: Measurement, device: Device) -> str | None:
    tenant, load = measurement.cell.tenants[0], measurement.cell.load
    if len(measurement.tenants) > 1:
        return "this model knows no neighbours"
    if measurement.tenants[0].status != "ok":
        return "the tenant failed"
    if load.kind != "closed" or load.concurrency != 1:
        return "the load was not a closed loop of one request in flight"
    if tenant.queue_delay_us is not None and tenant.batch_size > 1:
        return "with dynamic batching the executed batch is not the configured one"
    if tenant.instances != 1:
        return "this model knows no instances"
    if device.kind == "cuda" and tenant.share_pct not in (None, 100.0):
        return "this model knows no shares of a GPU"
    return None


def _task(
    model: str, gpu: bool, members: Sequence[tuple[Measurement, float]], device: Device
) -> tuple[Task, list[str]]:
    tenants = [measurement.cell.tenants[0] for measurement, _ in members]
    sized = [tenant.input_size is not None for tenant in tenants]
    notes = []
    if any(sized) and not all(sized):
        notes.append(f"{model}: {sized.count(False)} cells left out: others have an input size")
        members = [one for one, kept in zip(members, sized, strict=True) if kept]
        tenants = [measurement.cell.tenants[0] for measurement, _ in members]
    table = np.array([_values(tenant, device) for tenant in tenants], dtype=np.float64)
    for column, axis in enumerate(AXES):
        known = ~np.isnan(table[:, column])
        if known.any() and not known.all():
            # no cap is no value to fit over; what was capped is
            notes.append(
                f"{model}: {(~known).sum()} cells left out: without {axis}, others have it"
            )
            table, members = table[known], [m for m, k in zip(members, known, strict=True) if k]
    points: dict[tuple[float, ...], list[int]] = {}
    for index, values in enumerate(np.nan_to_num(table, nan=-1.0).tolist()):
        points.setdefault(tuple(values), []).append(index)
    first = [indices[0] for indices in points.values()]
    x = {axis: table[first, column] for column, axis in enumerate(AXES)}
    costs = np.array([cost for _, cost in members])
    counts = np.array([_count(measurement) for measurement, _ in members], dtype=np.float64)
    task = Task(
        model,
        gpu,
        "input_size" if any(sized) else "input_scale",
        _varied(x),
        x,
        np.array([float(costs[indices].mean()) for indices in points.values()]),
        np.array([float(counts[indices].sum()) for indices in points.values()]),
        tuple(members[i][0].cell_id for i in first),
    )
    return task, notes


def _values(tenant: Tenant, device: Device) -> tuple[float, ...]:
    cores = cores_of(tenant, device)
    return (
        tenant.input_scale if tenant.input_size is None else tenant.input_size,
        np.nan if cores is None else cores,
        np.nan if tenant.memory_mib is None else tenant.memory_mib,
        float(tenant.batch_size),
    )


def _count(measurement: Measurement) -> int:
    latency = measurement.tenants[0].latency
    return 1 if latency is None or latency.count is None else latency.count


def _varied(x: dict[str, FloatArray]) -> tuple[str, ...]:
    """The axes that vary; memory only if it does not simply go with the cores."""
    varied = [axis for axis in AXES if len(np.unique(x[axis][~np.isnan(x[axis])])) > 1]
    if {"cpu_cores", "memory_mib"} <= set(varied):
        pairs = np.unique(np.stack([x["cpu_cores"], x["memory_mib"]]), axis=1).shape[1]
        if pairs == len(np.unique(x["cpu_cores"])):
            varied.remove("memory_mib")
    return tuple(varied)
