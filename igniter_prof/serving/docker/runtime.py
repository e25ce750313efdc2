"""The runtime ``docker``: what is checked before, and the context around a deployment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from igniter_prof import files
from igniter_prof.errors import BadInput, IgprofError, MissingCapability
from igniter_prof.records import Device, Tenant
from igniter_prof.serving import marks
from igniter_prof.serving.contract import Progress, ServeOptions
from igniter_prof.serving.docker import naming, remains
from igniter_prof.serving.docker.deployment import DockerDeployment
from igniter_prof.serving.docker.engine import Engine, asking, connect
from igniter_prof.serving.interrupts import uninterrupted
from igniter_prof.serving.shares import check_tenants


@contextlib.contextmanager
def deploy_docker(
    device: Device, tenants: Sequence[Tenant], options: ServeOptions, progress: Progress
) -> Iterator[DockerDeployment]:
    """Serve tenants as containers for the time of a context; see ``serving.deploy``."""
    check(tenants, device, options)
    engine = connect()
    deployment = prepare(engine, device, options)
    try:
        deployment.start(tenants, progress)
        yield deployment
    except BaseException:
        with uninterrupted(), contextlib.suppress(IgprofError):  # the first reason counts
            deployment.close()
        raise
    with uninterrupted():
        deployment.close()


def check(tenants: Sequence[Tenant], device: Device, options: ServeOptions) -> None:
    """Raise BadInput where these tenants cannot be served as containers on that device."""
    check_tenants(tenants, device, options.server, options)
    naming.check_options(options)
    used = {tenant.model for tenant in tenants}
    if options.server == "shared" and used & set(options.http):
        raise BadInput(
            "a shared server holds models of Triton only",
            where=f"model {min(used & set(options.http))}",
            hint="use 'server: own'",
        )


def prepare(
    engine: Engine, device: Device, options: ServeOptions, *, launched: bool = False
) -> DockerDeployment:
    """A deployment with its mark and folder, and no container yet; reaps first.

    Args:
        engine: closed by the deployment.
        device: what the tenants run on.
        options: how they are served.
        launched: whether it may outlive this process.

    Raises:
        BadInput, MissingCapability, OutsideFailure: as ``deploy``.
    """
    try:
        if not engine.local and device.kind == "cuda":
            raise BadInput(
                "a GPU of an engine elsewhere cannot be named from here",
                where=device.id,
                hint="run igprof on that host",
            )
        _expect_bridge(engine)
        remains.reap(engine)
        marks.reap()  # of runs that were killed before they had a container
        mark = marks.mint(launched=launched)
        files.make_cached(mark.folder)
        state: dict[str, Any] = {"complete": False}
        if launched:
            state["engine"] = engine.address.url
        marks.write_state(mark, state)
        try:
            return DockerDeployment(engine, mark, device, options)
        except BaseException:
            marks.sweep_up(mark)
            raise
    except BaseException:
        engine.close()
        raise


def _expect_bridge(engine: Engine) -> None:
    """Raise MissingCapability without the network that containers are put into."""
    with asking(engine, "its networks cannot be listed"):
        found = engine.client.networks(names=["bridge"])
    if not any(each["Name"] == "bridge" for each in found):
        raise MissingCapability(
            "the engine has no network 'bridge'",
            where=engine.version,
            hint="start dockerd without --bridge=none",
        )
