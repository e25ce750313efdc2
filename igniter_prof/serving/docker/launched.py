"""Containers that outlive igprof: started, found again by a stored state, stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from igniter_prof import files
from igniter_prof.errors import IgprofError, MissingCapability, OutsideFailure
from igniter_prof.records import Device, Tenant
from igniter_prof.serving import cgroup, marks
from igniter_prof.serving.contract import Progress, ServeOptions
from igniter_prof.serving.docker import remains
from igniter_prof.serving.docker.container import Container
from igniter_prof.serving.docker.deployment import DockerDeployment
from igniter_prof.serving.docker.engine import Address, Engine, connect, find
from igniter_prof.serving.docker.runtime import check, prepare
from igniter_prof.serving.docker.spec import Recipe
from igniter_prof.serving.interrupts import uninterrupted
from igniter_prof.serving.launched import LaunchedContainer, LaunchedState, Resumed, shares_of
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares import Caps, Grant


def launch_docker(
    device: Device, tenants: Sequence[Tenant], options: ServeOptions, progress: Progress
) -> LaunchedState:
    """Start containers that outlive this process; see ``serving.launch``."""
    check(tenants, device, options)
    deployment = prepare(connect(), device, options, launched=True)
    try:
        deployment.start(tenants, progress)
        state = LaunchedState(
            mark=deployment.mark.name,
            started_at=files.now_utc(),
            device=device,
            server=options.server,
            endpoints=deployment.endpoints,
            servers=(),
            program="",
            shares=shares_of(deployment.mechanism),
            engine=deployment.engine.address.url,
            containers=tuple(_stored(each) for each in deployment.containers),
        )
        marks.write_state(
            deployment.mark, {"complete": True, "launched": state.model_dump(mode="json")}
        )
    except BaseException:
        with uninterrupted(), contextlib.suppress(IgprofError):  # the first reason counts
            deployment.close()
        raise
    deployment.detach()
    return state


def attach_docker(state: LaunchedState, mark: Mark) -> DockerDeployment:
    """A view of launched containers, dead ones included; leave them running.

    Raises:
        OutsideFailure: the engine does not answer.
    """
    engine = _engine(state)
    options = ServeOptions(runtime="docker", server=state.server)
    deployment = DockerDeployment(engine, mark, state.device, options, watched=False)
    deployment.endpoints = state.endpoints
    deployment.containers = [_restored(each, engine, state, mark) for each in state.containers]
    if state.shares is not None:
        deployment.mechanism = Resumed(state.shares, state.device)
    return deployment


def stop_docker(state: LaunchedState, mark: Mark, grace_s: float) -> None:
    """End launched containers, gracefully if they will, and remove all that is theirs.

    Raises:
        OutsideFailure: the engine does not answer, or cannot remove them.
    """
    if mark.boot == marks.boot_id() and mark.namespace == marks.namespace():
        deployment = attach_docker(state, mark)
        with contextlib.suppress(OutsideFailure):  # what ended already
            deployment.terminate(grace_s)
        deployment.close()
        return
    engine = _engine(state)  # they ended with their machine, and lie there still
    with contextlib.closing(engine):
        remains.remove(engine, mark)
    marks.sweep_up(mark)


def _engine(state: LaunchedState) -> Engine:
    address = find()
    if address.url != state.engine:
        address = Address(str(state.engine), "where it was launched")
    try:
        return connect(address)
    except MissingCapability as error:
        raise OutsideFailure(error.what, where=error.where, hint=error.hint) from error


def _stored(each: Container) -> LaunchedContainer:
    caps = each.recipe.grant.caps
    return LaunchedContainer(
        indices=each.recipe.indices,
        id=each.id,
        name=each.name,
        image=each.recipe.image,
        models=each.models,
        pid=each.pid,
        start_ticks=None if each.pid is None else marks.start_ticks(each.pid),
        addresses=dict(each.addresses),
        cpu_cores=caps.cpu_cores,
        memory_mib=caps.memory_mib,
        cpuset=caps.cpuset,
        threads=each.recipe.threads,
    )


def _restored(
    stored: LaunchedContainer, engine: Engine, state: LaunchedState, mark: Mark
) -> Container:
    recipe = Recipe(
        indices=stored.indices,
        image=stored.image,
        command=None,
        ports=tuple(stored.addresses),
        environment={},
        grant=Grant(caps=Caps(stored.cpu_cores, stored.memory_mib, stored.cpuset)),
        threads=stored.threads,
    )
    each = Container(
        engine=engine,
        recipe=recipe,
        id=stored.id,
        name=stored.name,
        log=mark.folder / f"{stored.indices[0]}.log",
        models=stored.models,
        http=state.endpoints[stored.indices[0]].http,
        pid=stored.pid,
        addresses=stored.addresses,
        start_ticks=stored.start_ticks,
    )
    if each.alive() and stored.pid is not None:
        each.group = cgroup.of_process(stored.pid)
    return each
