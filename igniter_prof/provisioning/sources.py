"""Kinds of devices from files: those that a plan was made with, or those of ``DEVICES.yaml``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from igniter_prof.config.device_types import DeviceType, load_device_types
from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.fitting import load_coefficients, predictor
from igniter_prof.provisioning.assignment_check import types_of
from igniter_prof.provisioning.interface import RequestLatency
from igniter_prof.provisioning.kinds import device_kind
from igniter_prof.provisioning.names import known_as
from igniter_prof.provisioning.problem import DeviceKind
from igniter_prof.provisioning.rules import Rule
from igniter_prof.records import Coefficients, Plan, PlanDeviceType


def kinds_of_plan(
    plan: Plan,
    path: Path,
    *,
    models: Iterable[str],
    rule: Rule,
    coefficients: Path | None = None,
    devices: Path | None = None,
    lost: Sequence[str] = (),
    request_latency: RequestLatency | None = None,
) -> tuple[list[DeviceKind], list[str]]:
    """The kinds of devices that a plan was made with, and notes.

    Their coefficients are where the plan says, relative to the current folder or to the plan's, and
    must be those that it was made from. ``coefficients`` (for a plan of one type) or ``devices``
    take their place: a note says where they are others. What ``devices`` does not say of the share
    step, tenants and coefficients of a type is as in the plan. There is one less of a limited type
    for each ``lost`` device of it.

    Raises:
        BadInput: a file is missing, unreadable or not the one that the plan was made from; a lost
            device that the plan does not have.
    """
    notes: list[str] = []
    kinds: list[DeviceKind] = []
    types = types_of(plan)
    models = list(models)
    if coefficients is not None and devices is None and len(types) > 1:
        raise BadInput(
            f"the plan has {len(types)} device types, --coefficients is one file",
            hint="name the file of each type in a DEVICES.yaml, and give that with --devices",
        )
    for record, file in _wanted(plan, path, coefficients, devices):
        fitted = load_coefficients(file)
        said = types[record.name].coefficients_hash if record.name in types else None
        if said is not None and said != fitted.digest():
            if coefficients is None and devices is None:
                raise BadInput(
                    "these are not the coefficients that the plan was made from",
                    where=str(file),
                    hint=f"--coefficients {file} takes them all the same",
                )
            notes.append(f"{file}: not the coefficients that the plan was made from")
        kind, narrowed = _kind(record, file, fitted, models, rule, request_latency)
        kinds.append(kind)
        notes += _of_type(record, narrowed, len(types))
    return _without(plan, kinds, lost), notes


def kinds_of_file(
    devices: Path | None,
    coefficients: Path | None,
    *,
    models: Iterable[str],
    rule: Rule,
    share_step_pct: float | None = None,
) -> tuple[list[DeviceKind], list[str]]:
    """The kinds of devices of ``DEVICES.yaml``; without it, the one of some coefficients.

    Raises:
        BadInput: a file is missing or unreadable, or a type has no coefficients.
    """
    models, kinds, notes = list(models), [], list[str]()
    wanted = _of_file(devices, coefficients)
    for record, file in wanted:
        if share_step_pct is not None and record.share_step_pct is None:
            record = record.model_copy(update={"share_step_pct": share_step_pct})
        kind, narrowed = _kind(record, file, load_coefficients(file), models, rule, None)
        kinds.append(kind)
        notes += _of_type(record, narrowed, len(wanted))
    return kinds, notes


def _of_type(record: PlanDeviceType, notes: Iterable[str], types: int) -> list[str]:
    return [each if types == 1 else f"type {record.name}: {each}" for each in notes]


def _kind(
    record: PlanDeviceType,
    file: Path,
    fitted: Coefficients,
    models: Sequence[str],
    rule: Rule,
    request_latency: RequestLatency | None,
) -> tuple[DeviceKind, list[str]]:
    known = {known_as(model, fitted.models) for model in models} - {None}
    update = {
        "device": fitted.device,
        "coefficients": str(file),
        "coefficients_hash": fitted.digest(),
    }
    return device_kind(
        record.model_copy(update=update),
        predictor(fitted),
        rule,
        [model for model in known if model],
        request_latency=request_latency,
    )


def _wanted(
    plan: Plan, path: Path, coefficients: Path | None, devices: Path | None
) -> list[tuple[PlanDeviceType, Path]]:
    types = types_of(plan)
    if devices is None:
        return [
            (each, coefficients if coefficients is not None else _found(each, path))
            for each in types.values()
        ]
    wanted = []
    for each in load_device_types(devices):
        record, was = _record(each), types.get(each.name)
        if was is not None:
            record = record.model_copy(
                update={
                    "share_step_pct": each.share_step_pct or was.share_step_pct,
                    "max_tenants": each.max_tenants or was.max_tenants,
                    "extrapolate": was.extrapolate,
                }
            )
        if each.coefficients is not None:
            file = devices.parent / each.coefficients
        elif coefficients is not None:
            file = coefficients
        elif was is not None:
            file = _found(was, path)
        else:
            raise _no_coefficients(each.name, devices)
        wanted.append((record, file))
    return wanted


def _of_file(devices: Path | None, coefficients: Path | None) -> list[tuple[PlanDeviceType, Path]]:
    if devices is None:
        if coefficients is None:
            raise BadInput("there are no coefficients", hint="give --devices or COEFFICIENTS.json")
        return [(PlanDeviceType(name="device"), coefficients)]
    wanted = []
    for each in load_device_types(devices):
        if each.coefficients is not None:
            wanted.append((_record(each), devices.parent / each.coefficients))
        elif coefficients is not None:
            wanted.append((_record(each), coefficients))
        else:
            raise _no_coefficients(each.name, devices)
    return wanted


def _no_coefficients(name: str, devices: Path) -> BadInput:
    return BadInput(
        f"device type '{name}' has no coefficients",
        where=str(devices),
        hint="add 'coefficients: FILE' to it",
    )


def _record(each: DeviceType) -> PlanDeviceType:
    return PlanDeviceType(**each.model_dump(exclude={"coefficients"}))


def _found(each: PlanDeviceType, path: Path) -> Path:
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
        f"the plan's coefficients '{named}' are not there",
        where=str(path),
        hint="say where they are with --coefficients",
    )


def _without(plan: Plan, kinds: list[DeviceKind], lost: Sequence[str]) -> list[DeviceKind]:
    """The kinds, of a limited one a device less for each that is lost."""
    first, *_ = types_of(plan)
    there = {device.name: device.type or first for device in plan.devices}
    for name in lost:
        if name not in there:
            raise BadInput(f"the plan has no device '{name}'", hint=did_you_mean(name, there))
    left = []
    for kind in kinds:
        gone = sum(there[name] == kind.record.name for name in set(lost))
        if kind.record.count is None or not gone:
            left.append(kind)
        elif kind.record.count > gone:
            record = kind.record.model_copy(update={"count": kind.record.count - gone})
            left.append(replace(kind, record=record))
    return left
