"""Reads ``DEVICES.yaml``: the types of device that a plan may use."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from igniter_prof.errors import BadInput
from igniter_prof.files import read_record
from igniter_prof.records import SCHEMA_VERSION, Record


class DeviceType(Record):
    """One type of device."""

    name: str = Field(min_length=1)
    coefficients: str | None = Field(
        default=None, description="file, relative to this one; None: the one given to igprof plan"
    )
    count: int | None = Field(
        default=None, ge=1, description="how many there are; None: any number"
    )
    share_step_pct: float | None = Field(
        default=None, ge=0.1, le=100, description="shares are multiples of it"
    )


class DevicesFile(Record):
    """``DEVICES.yaml``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    devices: tuple[DeviceType, ...] = Field(min_length=1)


def load_device_type(path: Path) -> DeviceType:
    """The one device type of a file.

    Raises:
        BadInput: the file is unreadable or wrong, or names several types, which are not planned
            together yet.
    """
    file = read_record(Path(path), DevicesFile)
    if len(file.devices) > 1:
        raise BadInput(
            f"names {len(file.devices)} device types; a plan has one type so far",
            where=str(path),
            hint="make one plan for each type, and compare them",
        )
    return file.devices[0]
