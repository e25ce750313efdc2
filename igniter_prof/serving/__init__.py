"""Serve tenants: ``deploy`` is a context that yields an endpoint for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from igniter_prof.config.devices import remote_device, resolve_device
from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.records import Device, Tenant
from igniter_prof.serving.conditions import host_conditions, server_conditions
from igniter_prof.serving.contract import (
    Deployment,
    Progress,
    ServeOptions,
    TenantFailure,
    silent,
)
from igniter_prof.serving.interrupts import uninterrupted
from igniter_prof.serving.launched import (
    LaunchedState,
    attach,
    detach,
    launch,
    launched_states,
    stop,
)
from igniter_prof.serving.local import deploy_local
from igniter_prof.serving.marks import reap
from igniter_prof.serving.remote import deploy_remote, parse_header
from igniter_prof.serving.shares import SHARE_PERIOD_US, check_tenants, exceeds

if TYPE_CHECKING:
    Runtime = Callable[
        [Device, Sequence[Tenant], ServeOptions, Progress], AbstractContextManager[Deployment]
    ]

__all__ = [
    "SHARE_PERIOD_US",
    "Deployment",
    "LaunchedState",
    "ServeOptions",
    "TenantFailure",
    "attach",
    "check_runtime",
    "check_tenants",
    "deploy",
    "detach",
    "device_for",
    "exceeds",
    "host_conditions",
    "launch",
    "launched_states",
    "parse_header",
    "reap",
    "server_conditions",
    "stop",
    "uninterrupted",
]


def deploy_docker(
    device: Device, tenants: Sequence[Tenant], options: ServeOptions, progress: Progress
) -> AbstractContextManager[Deployment]:
    """Serve tenants as containers for the time of a context; see ``deploy``."""
    from igniter_prof.serving import docker  # its SDK takes a while to import

    return docker.deploy_docker(device, tenants, options, progress)


RUNTIMES: dict[str, Runtime] = {
    "local": deploy_local,
    "docker": deploy_docker,
    "remote": deploy_remote,
}
ENTRY_POINTS = "igniter_prof.runtimes"


def deploy(
    device: Device,
    tenants: Sequence[Tenant],
    *,
    options: ServeOptions | None = None,
    progress: Progress = silent,
) -> AbstractContextManager[Deployment]:
    """Serve tenants on a device for the time of a context; all are ready when it is entered.

    Args:
        device: what they run on.
        tenants: what is served, with shares and caps.
        options: runtime, server mode, time-outs; None: the defaults.
        progress: told what takes long (a first download).

    Raises:
        TenantFailure: a tenant could not be served: the result of its cell (at entry).
        BadInput: these tenants cannot be served together, or there is no such runtime.
        MissingCapability: this machine lacks Triton, or a right (at entry).
        OutsideFailure: a remote server does not answer (at entry).
    """
    options = options or ServeOptions()
    return _runtime(options.runtime)(device, tenants, options, progress)


def device_for(spec: str, options: ServeOptions) -> Device:
    """The device that a user names, as the runtime sees it: a remote server's host is not ours.

    Nor is that of a container engine elsewhere.

    Raises:
        BadInput, MissingCapability: as ``config.devices.resolve_device``, or no engine answers.
    """
    if options.runtime == "remote" and options.address is not None:
        return remote_device(options.address)
    if options.runtime == "docker":
        from igniter_prof.serving import docker

        return docker.device_of(spec, options)
    return resolve_device(spec)


def check_runtime(name: str) -> None:
    """Raise BadInput if there is no such runtime."""
    known = [*RUNTIMES, *_plugins()]
    if name not in known:
        raise BadInput(f"unknown runtime '{name}'", hint=did_you_mean(name, known))


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _runtime(name: str) -> Runtime:
    check_runtime(name)
    if name in RUNTIMES:
        return RUNTIMES[name]
    runtime: Runtime = _plugins()[name].load()
    return runtime
