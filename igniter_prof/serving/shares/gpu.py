"""What the mechanisms of a GPU have in common: names, and what NVML knows of it."""

from __future__ import annotations

from igniter_prof.errors import BadInput
from igniter_prof.records import Device, Tenant


def expect_gpu(device: Device, name: str) -> None:
    """Raise BadInput for a device that is no GPU."""
    if device.kind != "cuda":
        raise BadInput(
            f"'{name}' shares a GPU",
            where=device.id,
            hint="a CPU is shared by cfs-quota or cpuset",
        )


def uuid_of(device: Device) -> str:
    """The UUID of a GPU or a MIG slice: ``GPU-...`` or ``MIG-...``."""
    return device.id.removeprefix("cuda:")


def is_slice(device: Device) -> bool:
    """Whether the device is a MIG slice."""
    return uuid_of(device).startswith("MIG-")


def on_gpu(tenant: Tenant) -> bool:
    """Whether a tenant on a GPU device is given the GPU. Raises BadInput for a share of none."""
    if tenant.gpu is False and tenant.share_pct is not None:
        raise BadInput(
            f"has a share of {tenant.share_pct:g}% of a GPU that it is not given",
            where=f"tenant {tenant.model}",
            hint="leave share_pct out, or gpu: false",
        )
    return tenant.gpu is not False
