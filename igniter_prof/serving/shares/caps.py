"""What a tenant's share and caps come to on a device: pure arithmetic, no control groups."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from igniter_prof.config.devices import host_memory_mib
from igniter_prof.errors import BadInput
from igniter_prof.records import Device, Tenant

SHARE_PERIOD_US = 10_000
"""Period of every CPU quota. Measured in docs/serving.md: with 10 ms the achieved share is exact
and the spread of latencies is smallest; the kernel's default of 100 ms makes it five times wider.
"""
MIN_QUOTA_US = 1_000
"""The smallest quota that Linux takes."""


@dataclass(frozen=True)
class Caps:
    """Limits of one server. None: no limit."""

    cpu_cores: float | None = None
    memory_mib: float | None = None
    cpuset: tuple[int, ...] = ()
    """The only cores that it may use; empty: those of the device."""

    @property
    def any(self) -> bool:
        """Whether there is a limit at all (a set of cores needs no control group)."""
        return self.cpu_cores is not None or self.memory_mib is not None

    @property
    def quota_us(self) -> int | None:
        """CPU time in each period of SHARE_PERIOD_US."""
        return None if self.cpu_cores is None else round(self.cpu_cores * SHARE_PERIOD_US)


def caps_of(tenant: Tenant, device: Device) -> Caps:
    """The limits of a tenant's server: ``share_pct`` of a CPU device is a quota of its cores.

    Raises:
        BadInput: share and CPU cap are both set (on a CPU they are the same knob), the cap exceeds
            the device, or the quota is less than Linux can give.
    """
    where = f"tenant {tenant.model}"
    cores = tenant.cpu_cores
    if device.kind == "cuda":
        pass  # the share is one of the GPU's, and no matter of control groups
    elif tenant.share_pct is not None:
        if cores is not None:
            raise BadInput(
                "share_pct and cpu_cores are both set; on a CPU device they are the same knob",
                where=where,
                hint=f"leave one out; cpu_cores {cores:g} is a share of"
                f" {100 * cores / len(device.cores):g}% of {device.id}",
            )
        cores = tenant.share_pct / 100 * len(device.cores)
    elif cores is not None and cores > len(device.cores):
        raise BadInput(
            f"cpu_cores {cores:g} is more than the {len(device.cores)} cores of {device.id}",
            where=where,
        )
    caps = Caps(cpu_cores=cores, memory_mib=tenant.memory_mib)
    if caps.quota_us is not None and caps.quota_us < MIN_QUOTA_US:
        least = MIN_QUOTA_US / SHARE_PERIOD_US
        raise BadInput(
            f"{cores:g} cores is too small a quota, the least is {least:g} of a core",
            where=where,
            hint=f"on {device.id} that is a share of {100 * least / len(device.cores):g}%",
        )
    return caps


def exceeds(tenants: Sequence[Tenant], device: Device) -> str | None:
    """Why these tenants are more than a device and its host have; None if they are not.

    No mistake in what was asked for: a sweep for larger machines has such cells, and skips them.
    """
    cores = len(device.cores) if device.kind == "cpu" else (os.cpu_count() or 0)
    for tenant in tenants:
        if tenant.gpu and device.kind != "cuda":
            return f"{tenant.model} wants a GPU, and {device.id} is none"
        if tenant.cpu_cores is not None and cores and tenant.cpu_cores > cores:
            return f"{tenant.model} wants {tenant.cpu_cores:g} cores, there are {cores}"
    wanted_mib = sum(tenant.memory_mib or 0 for tenant in tenants)
    there_mib = host_memory_mib() if device.kind == "cuda" else device.memory_mib
    if there_mib is not None and wanted_mib > there_mib:
        return f"the memory caps add up to {wanted_mib:g} MiB, there are {there_mib:.0f}"
    return None


def threads_of(caps: Caps, device: Device) -> int:
    """Threads for the framework's pool: the quota's cores rounded up, else all that it may use."""
    cores = float(len(caps.cpuset or device.cores))
    if caps.cpu_cores is not None:
        cores = caps.cpu_cores
    return max(1, math.ceil(cores - 1e-9))
