"""Which measurements may stand in one profile: same device, and conditions that agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from igniter_prof.errors import BadInput
from igniter_prof.records import CONDITIONS_THAT_MUST_AGREE, Conditions, Device, Measurement


def differing_fields(first: BaseModel | None, second: BaseModel | None) -> list[str]:
    """``field: old -> new`` for each top-level field in which two records differ."""
    if first is None or second is None:
        if first is second:
            return []
        return ["there is none" if first is None else f"{type(first).__name__} -> none"]
    old, new = first.model_dump(), second.model_dump()
    return [f"{name}: {old[name]} -> {new[name]}" for name in old if old[name] != new[name]]


def same_device(first: Device, second: Device) -> bool:
    """Whether two records describe one device (its memory may be reported a little differently)."""
    return (first.id, first.kind, first.name) == (second.id, second.kind, second.name)


def values(conditions: Iterable[Conditions], name: str) -> list[object]:
    """The distinct known values of a field, in order of appearance; None is not known."""
    found: dict[object, None] = {}
    for one in conditions:
        value = getattr(one, name)
        if value is not None:
            found.setdefault(value)
    return list(found)


def disagreements(conditions: Sequence[Conditions]) -> dict[str, list[object]]:
    """The fields that must agree and do not, each with its values.

    A value that is not known agrees with all: a tenant that never started says little.
    """
    found = {name: values(conditions, name) for name in CONDITIONS_THAT_MUST_AGREE}
    return {name: known for name, known in found.items() if len(known) > 1}


def common(conditions: Sequence[Conditions]) -> Conditions:
    """What is known of conditions that agree, in one record (other fields: those of the first)."""
    known = {name: values(conditions, name) for name in CONDITIONS_THAT_MUST_AGREE}
    return conditions[0].model_copy(
        update={name: found[0] if found else None for name, found in known.items()}
    )


def require_agreement(conditions: Sequence[Conditions], where: str) -> None:
    """Refuse to mix measurements whose conditions differ.

    Raises:
        BadInput: names the fields and their values.
    """
    found = disagreements(conditions)
    if found:
        raise BadInput(
            "measurements under different conditions: "
            + "; ".join(
                f"{name} is {' and '.join(map(str, known))}" for name, known in found.items()
            ),
            where=where,
            hint="keep them in separate profiles; 'igprof dataset compare' says what changed",
        )


def require_device(measurement: Measurement, device: Device, where: str) -> None:
    """Refuse a measurement of another device. Raises BadInput."""
    if measurement.cell.device != device.id:
        raise BadInput(
            f"was measured on {measurement.cell.device}, the profile is of {device.id}",
            where=where,
            hint="move the file out of this profile",
        )
