"""The device types that a plan was made with, and their coefficients, from the files it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from igniter_prof.config.device_types import DeviceType, load_device_types
from igniter_prof.errors import BadInput, Infeasible, did_you_mean
from igniter_prof.fitting import load_coefficients
from igniter_prof.provisioning.assignment_check import type_name, types_of
from igniter_prof.provisioning.inventory import Inventory, load_inventory
from igniter_prof.records import Coefficients, Plan, PlanDeviceType


def inventory_of_plan(
    plan: Plan,
    path: Path,
    *,
    coefficients: Path | None = None,
    devices: Path | None = None,
    lost: Sequence[str] = (),
) -> tuple[Inventory, list[str]]:
    """The device types that a plan was made with, or others in their place, and notes.

    Args:
        plan: the plan.
        path: its file. The coefficients are where it says, relative to the current folder or to
            its own, and must be those that it was made from.
        coefficients: in place of the only type's; a note says if they are others.
        devices: ``DEVICES.yaml``, whose types take the place of the plan's. Share step, limit of
            tenants and coefficients that it does not say are those of the plan's type of that name.
        lost: names of devices: of a limited type there is one less for each.

    Raises:
        BadInput: a file is missing, unreadable, or not what the plan was made from; the plan has
            several types and one file is given; or it has no device that is lost.
        Infeasible: no device is left.
    """
    types = types_of(plan)
    if coefficients is not None and devices is None and len(types) > 1:
        raise BadInput(
            f"the plan has {len(types)} device types, --coefficients is one file",
            hint="name the file of each type in a DEVICES.yaml, and give that with --devices",
        )
    if devices is None:
        wanted = [
            (each, _there(each, path) if coefficients is None else coefficients)
            for each in types.values()
        ]
    else:
        wanted = [
            _asked(each, types.get(each.name), path, coefficients, devices)
            for each in load_device_types(devices)
        ]
    notes, records, by_name = [], [], dict[str, Coefficients]()
    for record, file in wanted:
        fitted = by_name[record.name] = load_coefficients(file)
        said = types[record.name].coefficients_hash if record.name in types else None
        if said is not None and said != fitted.digest():
            if coefficients is None and devices is None:
                raise BadInput(
                    "these are not the coefficients that the plan was made from",
                    where=str(file),
                    hint=f"--coefficients {file} takes them all the same",
                )
            notes.append(f"{file}: not the coefficients that the plan was made from")
        update = {
            "device": fitted.device,
            "coefficients": str(file),
            "coefficients_hash": fitted.digest(),
        }
        records.append(record.model_copy(update=update))
    files = tuple(file for _, file in wanted)
    where = None if devices is None else str(devices)
    left = _without(plan, records, lost)
    return Inventory(left, {each.name: by_name[each.name] for each in left}, files, where), notes


def inventory_of_files(
    devices: Path | None, coefficients: Path | None, *, share_step_pct: float | None = None
) -> Inventory:
    """Device types of ``DEVICES.yaml``, or the one of some coefficients.

    Raises:
        BadInput: as ``load_inventory``; or a type has no coefficients.
    """
    if coefficients is None:
        if devices is None:
            raise BadInput("there are no coefficients", hint="give --devices or COEFFICIENTS.json")
        asked = load_device_types(devices)
        without = next((each.name for each in asked if each.coefficients is None), None)
        if without is not None:
            raise _no_coefficients(without, devices)
        coefficients = devices.parent / (asked[0].coefficients or "")
    return load_inventory(coefficients, devices, share_step_pct=share_step_pct)


def _asked(
    each: DeviceType,
    was: PlanDeviceType | None,
    path: Path,
    coefficients: Path | None,
    devices: Path,
) -> tuple[PlanDeviceType, Path]:
    record = PlanDeviceType(**each.model_dump(exclude={"coefficients"}))
    if was is not None:
        update = {
            "share_step_pct": each.share_step_pct or was.share_step_pct,
            "max_tenants": each.max_tenants or was.max_tenants,
            "extrapolate": was.extrapolate,
        }
        record = record.model_copy(update=update)
    if each.coefficients is not None:
        return record, devices.parent / each.coefficients
    if coefficients is not None:
        return record, coefficients
    if was is not None:
        return record, _there(was, path)
    raise _no_coefficients(each.name, devices)


def _no_coefficients(name: str, devices: Path) -> BadInput:
    return BadInput(
        f"device type '{name}' has no coefficients",
        where=str(devices),
        hint="add 'coefficients: FILE' to it",
    )


def _there(each: PlanDeviceType, path: Path) -> Path:
    """Where the coefficients of a plan's device type are."""
    if each.coefficients is None:
        raise BadInput(
            f"the plan does not say from which coefficients type '{each.name}' is",
            where=str(path),
            hint="give them with --coefficients",
        )
    named = Path(each.coefficients)
    for file in (named, path.parent / named):
        if file.is_file():
            return file
    raise BadInput(
        f"the coefficients of the plan, '{named}', are not there",
        where=str(path),
        hint="say where they are with --coefficients, or with --devices for several types",
    )


def _without(
    plan: Plan, records: Sequence[PlanDeviceType], lost: Sequence[str]
) -> tuple[PlanDeviceType, ...]:
    """The types, of a limited one a device less for each that is lost."""
    there = {device.name: type_name(plan, device) for device in plan.devices}
    for name in lost:
        if name not in there:
            raise BadInput(f"the plan has no device '{name}'", hint=did_you_mean(name, there))
    left = []
    for record in records:
        gone = sum(there[name] == record.name for name in set(lost))
        if record.count is None or not gone:
            left.append(record)
        elif record.count > gone:
            left.append(record.model_copy(update={"count": record.count - gone}))
    if not left:
        raise Infeasible("no device is left", hint="raise the count of a type with --devices")
    return tuple(left)
