"""Which real device each device of a plan runs on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.records import Device, Plan, PlanDevice, PlanDeviceType


def type_of(plan: Plan, device: PlanDevice) -> PlanDeviceType | None:
    """The type of a plan's device; None in an imported plan, which knows no types.

    Raises:
        BadInput: the plan has no type of that name.
    """
    if not plan.device_types:
        return None
    if device.type is None:
        return plan.device_types[0]
    for each in plan.device_types:
        if each.name == device.type:
            return each
    raise BadInput(
        f"is of type '{device.type}', which the plan does not describe",
        where=f"the plan, {device.name}",
        hint=did_you_mean(device.type, [each.name for each in plan.device_types]),
    )


def assign(plan: Plan, given: Sequence[tuple[str | None, Device]]) -> list[Device]:
    """A real device for each of the plan's, in its order.

    A real device goes to the next of the plan's devices that has none, or to the next one of the
    type that it is given for. Where there are fewer, devices of one type have to take turns: a real
    device then stands there several times. More than the plan has are left out.

    Args:
        plan: which devices are wanted.
        given: real devices, each with the name of a type of the plan, or None.

    Raises:
        BadInput: a real device is there twice, is of another kind than the plan's (a CPU for a
            GPU), is for a type that the plan does not use, or there is none for some type.
    """
    if len({real.id for _, real in given}) < len(given):
        raise BadInput("a device is named twice", where="--on")
    wanted = [type_of(plan, device) for device in plan.devices]
    names = [None if each is None else each.name for each in wanted]
    found: list[Device | None] = [None] * len(wanted)
    for name, real in given:
        if name is not None and name not in names:
            known = {each for each in names if each is not None}
            raise BadInput(
                f"the plan uses no device type '{name}'",
                where="--on",
                hint=did_you_mean(name, known) if known else "write --on DEVICE",
            )
        place = next(
            (
                index
                for index, taken in enumerate(found)
                if taken is None and name in (None, names[index])
            ),
            None,
        )
        if place is None:
            continue
        profiled = wanted[place]
        if profiled is not None and profiled.device and real.kind != profiled.device.kind:
            raise BadInput(
                f"{plan.devices[place].name} is a {profiled.device.kind} device"
                f" ({profiled.name}), {real.id} is none",
                where="--on",
                hint="--on TYPE=DEVICE says what type of the plan's a device is",
            )
        found[place] = real
    turns = {
        name: cycle([real for real, of in zip(found, names, strict=True) if real and of == name])
        for name in names
    }
    assigned = []
    for planned, own, name in zip(plan.devices, found, names, strict=True):
        real_one = own or next(turns[name], None)
        if real_one is None:
            raise BadInput(
                f"no real device is named for {planned.name}"
                + ("" if name is None else f", which is a {name}"),
                where="--on",
                hint="name one for each type" if name is None else f"--on {name}=DEVICE",
            )
        assigned.append(real_one)
    return assigned
