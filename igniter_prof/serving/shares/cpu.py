"""Shares of a CPU: a quota of the cores' time, or cores of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from igniter_prof.config.devices import format_cores, parse_cores
from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.records import Device, Tenant
from igniter_prof.serving.contract import ServeOptions
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares.caps import SHARE_PERIOD_US, Caps, caps_of
from igniter_prof.serving.shares.contract import Grant, Plain

WHOLE = 1e-6
"""How far from a whole number of cores a share may be (it was once a rounded percentage)."""


class CfsQuota(Plain):
    """A share is CPU time of the device's cores in each period; tenants run on all of them."""

    name = "cfs-quota"
    period_us = SHARE_PERIOD_US

    def __init__(
        self,
        device: Device,
        tenants: Sequence[Tenant],
        options: ServeOptions,
        mark: Mark | None = None,
    ) -> None:
        super().__init__(device, tenants, options, mark)
        expect_cpu(device, self.name)
        self._caps = [caps_of(tenant, device) for tenant in tenants]
        # Linux takes a quota in microseconds
        self.step_pct = 100 / (SHARE_PERIOD_US * len(device.cores)) if device.cores else None

    def grant(self, index: int) -> Grant:
        """A quota."""
        return Grant(caps=self._caps[index])


class Cpuset(Plain):
    """A share is whole cores of the device, and nobody else's; taken in the tenants' order."""

    name = "cpuset"

    def __init__(
        self,
        device: Device,
        tenants: Sequence[Tenant],
        options: ServeOptions,
        mark: Mark | None = None,
    ) -> None:
        super().__init__(device, tenants, options, mark)
        expect_cpu(device, self.name)
        self.step_pct = 100 / len(device.cores) if device.cores else None
        self._sets = cores_of(tenants, device)

    def grant(self, index: int) -> Grant:
        """Cores, and no quota of their time."""
        memory_mib = self.tenants[index].memory_mib
        return Grant(caps=Caps(memory_mib=memory_mib, cpuset=self._sets[index]))

    def verify(self, index: int, pids: Sequence[int]) -> None:
        """Every thread may run on the tenant's cores only (a program may choose others itself)."""
        own = set(self._sets[index])
        for pid in pids:
            for status in Path("/proc", str(pid), "task").glob("*/status"):
                beyond = _allowed(status) - own
                if beyond:
                    raise OutsideFailure(
                        f"a thread of its server may run on core {min(beyond)}, which is not its",
                        where=f"tenant {self.tenants[index].model}, process {pid}",
                        hint=f"its cores are {format_cores(self._sets[index])}; does the model set"
                        " its affinity?",
                    )


def cores_of(tenants: Sequence[Tenant], device: Device) -> list[tuple[int, ...]]:
    """The cores of each tenant: its share or core cap in whole cores, in order, none twice.

    A tenant that is alone and has neither gets all of the device.

    Raises:
        BadInput: a share is no whole number of cores, tenants want more than there are, or one of
            several says nothing.
    """
    left = list(device.cores)
    found = []
    for tenant in tenants:
        where = f"tenant {tenant.model}"
        wanted = caps_of(tenant, device).cpu_cores
        if wanted is None:
            if len(tenants) > 1:
                raise BadInput(
                    "with cpuset each of several tenants needs a share or a core cap",
                    where=where,
                    hint=f"set its share_pct or cpu_cores; {device.id} has"
                    f" {len(device.cores)} cores",
                )
            wanted = float(len(device.cores))
        count = round(wanted)
        if count < 1 or abs(wanted - count) > WHOLE:
            raise BadInput(
                f"{wanted:g} is no whole number of cores, and cpuset gives whole cores only",
                where=where,
                hint=f"on {device.id} shares come in steps of {100 / len(device.cores):g}%;"
                " cfs-quota gives parts of cores",
            )
        if count > len(left):
            raise BadInput(
                f"wants {count} cores of its own, {len(left)} of {device.id} are left",
                where=where,
                hint="cfs-quota lets tenants use the same cores",
            )
        found.append(tuple(left[:count]))
        del left[:count]
    return found


def expect_cpu(device: Device, name: str) -> None:
    """Raise BadInput for a device that is no CPU."""
    if device.kind != "cpu":
        raise BadInput(
            f"'{name}' shares the cores of a CPU",
            where=device.id,
            hint="a GPU is shared by mps, mig or time-slicing",
        )


def _allowed(status: Path) -> set[int]:
    """The cores that a thread may run on, as the kernel lists them; empty if it is gone."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return set()
    prefix = "Cpus_allowed_list:"
    found = next((line for line in lines if line.startswith(prefix)), prefix)
    text = found.removeprefix(prefix).strip()
    return set(parse_cores(text)) if text else set()
