"""Which mechanism shares a device: the one asked for, else the device's usual one.

Adding a mechanism is a module with a factory, and its line in MECHANISMS.
"""

from __future__ import annotations

from collections.abc import Sequence

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.records import Device, ServerMode, Tenant
from igniter_prof.serving.contract import ServeOptions
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares import mps_daemon
from igniter_prof.serving.shares.contract import Grant, Mechanism, MechanismFactory
from igniter_prof.serving.shares.cpu import CfsQuota, Cpuset
from igniter_prof.serving.shares.gpu import WITHOUT_MPS, is_slice, uuid_of
from igniter_prof.serving.shares.green import GreenContext, GreenContextMps
from igniter_prof.serving.shares.mig import Mig
from igniter_prof.serving.shares.mps import Mps
from igniter_prof.serving.shares.timeslice import TimeSlicing

MECHANISMS: dict[str, MechanismFactory] = {
    "cfs-quota": CfsQuota,
    "cpuset": Cpuset,
    "mps": Mps,
    "mig": Mig,
    "green-context": GreenContext,
    "green-context-mps": GreenContextMps,
    "time-slicing": TimeSlicing,
}
DOCKER_MIN_MIB = 6
"""The smallest memory cap that Docker takes."""


def mechanism_for(
    device: Device,
    tenants: Sequence[Tenant],
    options: ServeOptions,
    mark: Mark | None = None,
) -> Mechanism:
    """The mechanism by which tenants share a device; nothing is started until it is entered.

    Args:
        device: what is shared.
        tenants: of one cell or plan's device.
        options: ``share_mechanism`` names it; None: the device's usual one.
        mark: what it starts carries that mark; None: one of its own.

    Raises:
        BadInput: there is no such mechanism, or these tenants cannot share the device in that way.
        MissingCapability: as ``usual``, or the device cannot be shared in that way.
    """
    name = options.share_mechanism or usual(device, tenants)
    if name not in MECHANISMS:
        raise BadInput(f"unknown share mechanism '{name}'", hint=did_you_mean(name, MECHANISMS))
    return MECHANISMS[name](device, tenants, options, mark)


def usual(device: Device, tenants: Sequence[Tenant]) -> str:
    """The name of a device's usual mechanism: MPS for a GPU wherever it is installed.

    It does not depend on how many tenants a cell has and what their shares are, since all cells of
    a profile must have the same.

    Raises:
        MissingCapability: tenants have shares of a GPU, and MPS, which gives them, is not there.
    """
    if device.kind == "cpu":
        return "cfs-quota"
    if is_slice(device):
        return "mig"
    if any(tenant.share_pct not in (None, 100) for tenant in tenants):
        mps_daemon.program()
    return "mps" if mps_daemon.find() else "time-slicing"


def shared_grant(device: Device) -> Grant:
    """What a server of all tenants is started with: the device, and no shares of it."""
    if device.kind == "cpu":
        return Grant()
    return Grant(environment=WITHOUT_MPS, gpus=(uuid_of(device),))


def check_tenants(
    tenants: Sequence[Tenant],
    device: Device,
    server: ServerMode,
    options: ServeOptions | None = None,
) -> None:
    """Raise BadInput or MissingCapability where these tenants cannot be served together.

    Args:
        tenants: what is to be served.
        device: what they share.
        server: whether each has a server of its own, or all have one.
        options: how they are to be served; None: the device's usual mechanism.
    """
    if not tenants:
        raise BadInput("there are no tenants to serve")
    total = sum(tenant.share_pct or 0 for tenant in tenants)
    if total > 100 + 1e-6:
        raise BadInput(
            f"the shares add up to {total:g}%", where=device.id, hint="at most 100% is there"
        )
    options = options or ServeOptions()
    small = next((t for t in tenants if (t.memory_mib or DOCKER_MIN_MIB) < DOCKER_MIN_MIB), None)
    if options.runtime == "docker" and small is not None:
        raise BadInput(
            f"a memory cap of {small.memory_mib:g} MiB is too small",
            where=f"tenant {small.model}",
            hint=f"Docker takes {DOCKER_MIN_MIB} MiB at least",
        )
    if server == "own":
        mechanism_for(device, tenants, options)
        return
    if options.share_mechanism is not None:
        raise BadInput(
            f"a shared server has no shares, so no '{options.share_mechanism}'",
            hint="leave share_mechanism out, or use 'server: own'",
        )
    for tenant in tenants:
        if (tenant.share_pct, tenant.cpu_cores, tenant.memory_mib) != (None, None, None):
            raise BadInput(
                "a shared server has no shares and no caps of its tenants",
                where=f"tenant {tenant.model}",
                hint="leave share_pct, cpu_cores and memory_mib out, or use 'server: own'",
            )
    models = [tenant.model for tenant in tenants]
    twice = next((model for model in models if models.count(model) > 1), None)
    if twice is not None:
        raise BadInput(
            f"model '{twice}' is there twice, and a Triton holds a name only once",
            hint="use 'server: own', or 'instances' of one tenant",
        )
