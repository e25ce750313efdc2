"""iGniter's plan format: five lists in JSON, one file a device.

Its ``slos`` are half of what the user asked for, because its planner leaves the other half to
batching and queueing. Ours are the user's: doubled on import, halved on export.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from igniter_prof import __version__
from igniter_prof.errors import BadInput
from igniter_prof.files import atomic_write, now_utc, parse, read_json
from igniter_prof.provisioning.assignment_check import type_name
from igniter_prof.provisioning.names import canonical
from igniter_prof.records import Plan, PlanDevice, PlanTenant, Positive, Record

SUFFIX = "_dynamic"
NETWORKS = ("alexnet", "resnet50", "ssd", "vgg19")
"""Its four networks; their names carry ``_dynamic`` there."""


class FiveLists(Record):
    """One device of an iGniter plan: entry k of each list belongs to workload k."""

    models: tuple[str, ...] = Field(min_length=1)
    rates: tuple[Positive, ...] = Field(description="requests per second")
    slos: tuple[Positive, ...] = Field(description="half of the user's SLO, ms")
    resources: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(
        description="share of the SMs, percent"
    )
    batches: tuple[Annotated[int, Field(ge=1, le=1024)], ...]

    @model_validator(mode="after")
    def _same_length(self) -> FiveLists:
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"the five lists differ in length ({listed})")
        if sum(self.resources) > 100 + 1e-9:
            raise ValueError(f"the resources add up to {sum(self.resources):g}, over 100")
        return self


def import_plan(path: Path) -> Plan:
    """Read one device of an iGniter plan as a plan of ours, without predictions.

    Its networks get the names that they have in our zoo.

    Raises:
        BadInput: it is unreadable, a list is missing, or the lists differ in length.
    """
    lists = parse(read_json(path), FiveLists, str(path))
    models = [canonical(model) for model in lists.models]
    tenants = []
    for index, model in enumerate(models):
        number = models[: index + 1].count(model)
        tenants.append(
            PlanTenant(
                workload=model if models.count(model) == 1 else f"{model}-{number}",
                model=model,
                batch_size=lists.batches[index],
                share_pct=lists.resources[index],
                rate_rps=lists.rates[index],
                slo_ms=2 * lists.slos[index],
            )
        )
    return Plan(
        strategy="import:igniter",
        latency_rule="half-mean",
        igprof=__version__,
        created_at=now_utc(),
        devices=(PlanDevice(name="device-1", tenants=tuple(tenants)),),
        notes=(
            "the SLOs are the user's: twice those of the file, which holds halves",
            "the file names no percentile and no arrivals: 99 and Poisson are assumed",
        ),
    )


def export_plan(plan: Plan, out: Path) -> list[Path]:
    """Write a plan as iGniter's JSON, one file a device; returns what was written.

    ``out`` is the file where the plan has one device and ``out`` is no folder; else a folder
    (made if need be) that gets ``DEVICE.json`` for each device, in a folder for each type of device
    where there are several. A replica is a workload there, with its part of the rate.

    Raises:
        BadInput: a tenant has several instances, which the format cannot say; or the place cannot
            be written.
    """
    for device in plan.devices:
        for tenant in device.tenants:
            if tenant.instances > 1:
                raise BadInput(
                    f"workload '{tenant.workload}' has {tenant.instances} instances, which"
                    " iGniter's format cannot say",
                )
        for name in filter(None, (device.name, device.type)):
            if Path(name).name != name:
                raise BadInput(f"the name '{name}' of a device or its type can be no file name")
    out = Path(out)
    if len(plan.devices) == 1 and not out.is_dir():
        targets = [out]
    else:
        typed = len(plan.device_types) > 1
        targets = [
            (out / type_name(plan, device) if typed else out) / f"{device.name}.json"
            for device in plan.devices
        ]
        for folder in {target.parent for target in targets}:
            _make(folder)
    for device, target in zip(plan.devices, targets, strict=True):
        with atomic_write(target) as file:
            file.write((json.dumps(_lists(device), indent=4) + "\n").encode())
    return targets


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "a plan of several devices needs a folder, for one file a device"
        what = f"cannot be made a folder: {error.strerror}"
        raise BadInput(what, where=str(folder), hint=hint) from error


def _lists(device: PlanDevice) -> dict[str, list[str] | list[float] | list[int]]:
    tenants = device.tenants
    return {
        "models": [_their_name(t.model) for t in tenants],
        "rates": [_plain(t.rate_rps) for t in tenants],
        "slos": [_plain(t.slo_ms / 2) for t in tenants],
        "resources": [_plain(t.share_pct) for t in tenants],
        "batches": [t.batch_size for t in tenants],
    }


def _their_name(model: str) -> str:
    name = canonical(model)
    return name + SUFFIX if name in NETWORKS else model


def _plain(value: float) -> float:
    """An integer where it is one, as their files have it."""
    return int(value) if value == int(value) else value
