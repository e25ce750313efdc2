"""Reads ``DEVICES.yaml``: the types of device that a plan may use."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from igniter_prof.errors import BadInput
from igniter_prof.files import read_record
from igniter_prof.records import SCHEMA_VERSION, Positive, Record

DeviceTypeName = Annotated[
    str,
    # a CSV file separates several by ; or blanks, and --on writes NAME=DEVICE
    Field(pattern=r"^[^\s;=]+$", description="no blanks, no semicolon, no equals sign"),
]


class DeviceType(Record):
    """One type of device, such as a GPU, a MIG slice, or some cores of a CPU."""

    name: DeviceTypeName
    coefficients: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="file, relative to this one; None: the one given to igprof plan"
    )
    count: int | None = Field(
        default=None, ge=1, description="how many there are; None: any number"
    )
    share_step_pct: float | None = Field(
        default=None, ge=0.1, le=100, description="shares are multiples of it"
    )
    max_tenants: int | None = Field(default=None, ge=1, description="of one device")
    price_per_hour: Positive | None = Field(
        default=None, description="of one device, in any currency that is the same for all types"
    )
    memory_mib: Positive | None = Field(
        default=None, description="that tenants may use; None: that of the device profiled"
    )
    power_limit_w: Positive | None = Field(
        default=None, description="of a device's mean power at its load; None: none"
    )


class DevicesFile(Record):
    """``DEVICES.yaml``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    devices: tuple[DeviceType, ...] = Field(min_length=1)


def load_device_types(path: Path) -> tuple[DeviceType, ...]:
    """The device types of a file, in its order.

    Raises:
        BadInput: the file is unreadable or wrong, or two types have one name.
    """
    path = Path(path)
    file = read_record(path, DevicesFile)
    (name, times), *_ = Counter(each.name for each in file.devices).most_common(1)
    if times > 1:
        raise BadInput(
            f"{times} device types are named '{name}'",
            where=str(path),
            hint="give each its own name; 'count: n' says that there are n of one type",
        )
    return file.devices
