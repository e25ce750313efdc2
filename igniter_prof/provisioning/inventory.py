"""The types of device that a plan is made or checked with, and the coefficients of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from igniter_prof.config.device_types import DeviceType, load_device_types
from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.fitting import load_coefficients, predictor
from igniter_prof.provisioning.assignment_check import types_of
from igniter_prof.provisioning.kinds import DEFAULT_SHARE_STEP_PCT, device_kind
from igniter_prof.provisioning.objectives import refuse_unknown_costs
from igniter_prof.provisioning.problem import (
    DEFAULT_MAX_TENANTS,
    DeviceKind,
    with_known_models,
)
from igniter_prof.provisioning.rules import Rule
from igniter_prof.records import Coefficients, Objective, Plan, PlanDeviceType, Workload


@dataclass(frozen=True)
class Inventory:
    """Device types as a plan states them, and the coefficients of each, by its name."""

    records: tuple[PlanDeviceType, ...]
    coefficients: Mapping[str, Coefficients]
    files: tuple[Path, ...]
    """That the coefficients were read from."""
    where: str | None
    """The file of the device types, if there is one."""


def load_inventory(
    coefficients: Path,
    devices: Path | None = None,
    *,
    share_step_pct: float | None = None,
    max_tenants: int | None = None,
    max_devices: int | None = None,
    extrapolate: bool = False,
) -> Inventory:
    """Read device types with their coefficients.

    Args:
        coefficients: of types that name none; of the only type without ``devices``.
        devices: ``DEVICES.yaml``.
        share_step_pct: of all types, whatever the file says; None: as it says, or 5.
        max_tenants: the same; None: as the file says, or 4.
        max_devices: how many there are of the only type; None: as the file says.
        extrapolate: plan outside of what was profiled.

    Raises:
        BadInput: a file is unreadable or wrong; no type uses ``coefficients``; or ``max_devices``
            is given for several types.
    """
    asked = load_device_types(devices) if devices is not None else ()
    if max_devices is not None and len(asked) > 1:
        raise BadInput(
            f"--max-devices limits one device type, there are {len(asked)}",
            where=str(devices),
            hint="write 'count:' to each of them",
        )
    folder = devices.parent if devices is not None else Path()
    if asked and all(each.coefficients is not None for each in asked):
        _refuse_unused(coefficients, devices, [folder / (t.coefficients or "") for t in asked])
    read: dict[Path, Coefficients] = {}
    records, by_name = [], {}
    for each in asked or (None,):
        given = coefficients
        if each is not None and each.coefficients is not None:
            given = folder / each.coefficients
        path = given.resolve()
        if path not in read:
            read[path] = load_coefficients(given)
        fitted = read[path]
        wanted = each or DeviceType(name=_name_of(fitted))
        by_name[wanted.name] = fitted
        records.append(
            PlanDeviceType(
                name=wanted.name,
                device=fitted.device,
                coefficients=wanted.coefficients or str(coefficients),
                coefficients_hash=fitted.digest(),
                share_step_pct=share_step_pct or wanted.share_step_pct or DEFAULT_SHARE_STEP_PCT,
                max_tenants=max_tenants or wanted.max_tenants or DEFAULT_MAX_TENANTS,
                count=max_devices or wanted.count,
                price_per_hour=wanted.price_per_hour,
                memory_mib=wanted.memory_mib,
                power_limit_w=wanted.power_limit_w,
                extrapolate=extrapolate,
            )
        )
    where = None if devices is None else str(devices)
    return Inventory(tuple(records), by_name, tuple(read), where)


def coefficients_of(
    plan: Plan, coefficients: Path, devices: Path | None = None
) -> dict[str, Coefficients]:
    """The coefficients of each device type of a plan, by its name.

    Those that it was made from where they are among the files given, else those that a type of the
    same name has in ``DEVICES.yaml``; a plan of one type gets ``coefficients``.

    Raises:
        BadInput: a file is unreadable or wrong, or nothing is given for a type.
    """
    given = load_coefficients(coefficients)
    named: dict[str, Coefficients] = {}
    for each in load_device_types(devices) if devices is not None else ():
        own = devices.parent / each.coefficients if devices and each.coefficients else None
        named[each.name] = given if own is None else load_coefficients(own)
    by_hash = {each.digest(): each for each in (*named.values(), given)}
    types = types_of(plan)
    found = {}
    for name, record in types.items():
        fitted = by_hash.get(record.coefficients_hash or "") or named.get(name)
        if fitted is None and len(types) > 1:
            stated = f" ({record.coefficients})" if record.coefficients else ""
            raise BadInput(
                f"the coefficients of the device type '{name}'{stated} are not among those given",
                hint="give --devices DEVICES.yaml that the plan was made with",
            )
        found[name] = fitted or given
    return found


def kinds_of(
    inventory: Inventory,
    workloads: Sequence[Workload],
    rule: Rule,
    objective: Objective | None = None,
) -> tuple[list[DeviceKind], list[str]]:
    """Kinds of devices to plan with, and notes about where their choices were narrowed.

    Raises:
        BadInput: a workload names a device type that there is not, no coefficients know a model,
            or the objective or a limit needs a price or a power that is not known.
    """
    refuse_unknown_types(workloads, inventory.records)
    predictors = {name: predictor(fitted) for name, fitted in inventory.coefficients.items()}
    refuse_unknown_costs(objective or Objective(), inventory.records, predictors, inventory.where)
    known = {model for each in predictors.values() for model in each.models}
    models = {each.model for each in with_known_models(workloads, known)}
    kinds, notes = [], []
    for record in inventory.records:
        kind, narrowed = device_kind(record, predictors[record.name], rule, models)
        kinds.append(kind)
        several = len(inventory.records) > 1
        notes += [f"{record.name}: {each}" if several else each for each in narrowed]
    return kinds, notes


def refuse_unknown_types(workloads: Sequence[Workload], records: Sequence[PlanDeviceType]) -> None:
    """Raise if a workload may only be on device types that there are not.

    Raises:
        BadInput: names the workload, the unknown type and those known.
    """
    known = [record.name for record in records]
    for workload in workloads:
        for name in workload.devices:
            if name not in known:
                raise BadInput(
                    f"workload '{workload.name}': there is no device type '{name}', but"
                    f" {', '.join(known)}",
                    hint=did_you_mean(name, known) if len(known) > 1 else "see --devices",
                )


def _name_of(fitted: Coefficients) -> str:
    """A name for the only type: that of the board, as names of types may be."""
    return re.sub(r"[\s;=]+", "-", fitted.device.name.strip()) or "device"


def _refuse_unused(coefficients: Path, devices: Path | None, named: Sequence[Path]) -> None:
    if coefficients.resolve() not in {path.resolve() for path in named}:
        raise BadInput(
            f"no device type has the coefficients {coefficients}: each names others",
            where=str(devices),
            hint="give one of those on the command line, or leave them out of one type",
        )
