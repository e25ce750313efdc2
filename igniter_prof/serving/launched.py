"""Servers that outlive igprof: started, found again by a stored state, stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from igniter_prof import files
from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.records import Device, Endpoint, Record, ServerMode, Tenant
from igniter_prof.serving import cgroup, marks
from igniter_prof.serving.contract import Deployment, Progress, ServeOptions, silent
from igniter_prof.serving.interrupts import uninterrupted
from igniter_prof.serving.local import LocalDeployment, prepare
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.process import Process
from igniter_prof.serving.server import Ports, Recipe, Server
from igniter_prof.serving.shares import Caps, Grant, Mechanism
from igniter_prof.serving.shares.contract import Plain
from igniter_prof.serving.shares.mps import DaemonWatch, Mps
from igniter_prof.serving.shares.mps_daemon import Daemon
from igniter_prof.serving.triton import Installation

GRACE_S = 10.0
"""How long a launched server may take to end by itself before it is killed."""


class LaunchedServer(Record):
    """A server of a launched plan, as stored."""

    indices: tuple[int, ...]
    name: str
    pid: int
    start_ticks: int | None
    http_port: int
    grpc_port: int
    metrics_port: int
    group: tuple[str, ...] = ()
    group_version: Literal[1, 2] | None = None
    log: str
    models: tuple[str, ...]
    repositories: tuple[str, ...]
    cpu_cores: float | None = None
    memory_mib: float | None = None
    cpuset: tuple[int, ...] = ()
    threads: int


class LaunchedContainer(Record):
    """A container of a launched plan, as stored."""

    indices: tuple[int, ...]
    id: str
    name: str
    image: str
    models: tuple[str, ...]
    addresses: dict[int, str]
    pid: int | None = None
    start_ticks: int | None = None
    cpu_cores: float | None = None
    memory_mib: float | None = None
    cpuset: tuple[int, ...] = ()
    threads: int


class LaunchedShares(Record):
    """How the tenants of a launched plan share their device, as stored."""

    mechanism: str
    period_us: int | None = None
    step_pct: float | None = None
    mps_pipes: str | None = None
    """Where the daemon of MPS listens that the tenants are clients of."""
    mps_own: bool = False
    """Whether that daemon was started for them, and so ends with them."""


class LaunchedState(Record):
    """What is needed to find launched servers again; JSON by ``model_dump(mode="json")``."""

    mark: str
    started_at: str
    device: Device
    server: ServerMode
    endpoints: tuple[Endpoint, ...]
    servers: tuple[LaunchedServer, ...]
    program: str
    packages: str | None = None
    shares: LaunchedShares | None = None
    engine: str | None = None
    """Address of the container engine; None: the servers are processes."""
    containers: tuple[LaunchedContainer, ...] = ()


def launch(
    device: Device,
    tenants: Sequence[Tenant],
    options: ServeOptions,
    *,
    progress: Progress = silent,
) -> LaunchedState:
    """Start servers that outlive this process, and wait until they are ready.

    If that fails, or is interrupted or killed, nothing stays (after a ``kill -9``: not beyond the
    next start of any igprof).

    Raises:
        TenantFailure, BadInput, MissingCapability: as ``deploy``.
    """
    if options.runtime == "docker":
        from igniter_prof.serving.docker.launched import launch_docker

        return launch_docker(device, tenants, options, progress)
    if options.runtime != "local":
        raise BadInput(
            f"the runtime '{options.runtime}' cannot launch servers", hint="local and docker can"
        )
    deployment = prepare(device, options, progress, launched=True)
    try:
        deployment.start(tenants, progress)
        state = LaunchedState(
            mark=deployment.mark.name,
            started_at=files.now_utc(),
            device=device,
            server=options.server,
            endpoints=deployment.endpoints,
            servers=tuple(_stored(server) for server in deployment.servers),
            program=str(deployment.installation.program),
            packages=_text(deployment.installation.packages),
            shares=shares_of(deployment.mechanism),
        )
        marks.write_state(
            deployment.mark, {"complete": True, "launched": state.model_dump(mode="json")}
        )
    except BaseException:
        with uninterrupted():
            deployment.close()
        raise
    return state


class Resumed(Plain):
    """The mechanism of a launched plan, as far as it is needed once its tenants run."""

    def __init__(self, shares: LaunchedShares, device: Device) -> None:
        super().__init__(device, (), ServeOptions())
        self.name = shares.mechanism
        self.period_us = shares.period_us
        self.step_pct = shares.step_pct
        self._watch: DaemonWatch | None = None
        if shares.mps_pipes is not None:
            self._watch = DaemonWatch(Daemon(Path(shares.mps_pipes), shares.mps_own))
            with contextlib.suppress(OutsideFailure, MissingCapability):
                self._watch.settle()  # else ``trouble`` tells

    def __exit__(self, *_: object) -> None:
        """Stop the daemon if it was started for this plan."""
        if self._watch is not None and self._watch.daemon.own:
            self._watch.daemon.quit()

    def grant(self, index: int) -> Grant:
        """Nothing: its tenants were started long ago."""
        return Grant()

    def trouble(self, *, fresh: bool = False) -> str | None:
        """What befell the daemon, if there is one."""
        return None if self._watch is None else self._watch.trouble(fresh=fresh)


def attach(state: LaunchedState) -> Deployment:
    """A view of launched servers, dead ones included (``ending`` tells); leave them running.

    Raises:
        OutsideFailure: the state is of an earlier boot, or of another machine's container.
    """
    mark = marks.parse(state.mark)
    if mark is None or mark.boot != marks.boot_id() or mark.namespace != marks.namespace():
        raise OutsideFailure(
            "the servers are gone: the machine was started anew since they were launched",
            where=state.mark,
            hint="stop the plan, then launch it again",
        )
    if state.engine is not None:
        from igniter_prof.serving.docker.launched import attach_docker

        return attach_docker(state, mark)
    return _attach_local(state, mark)


def detach(deployment: Deployment) -> None:
    """Let go of what ``attach`` gave: close the connection to a container engine."""
    let_go = getattr(deployment, "detach", None)  # processes need none
    if let_go is not None:
        let_go()


def _attach_local(state: LaunchedState, mark: Mark) -> LocalDeployment:
    installation = Installation(
        program=Path(state.program),
        backends=None,
        environment=None,
        packages=None if state.packages is None else Path(state.packages),
    )
    deployment = LocalDeployment(
        mark, state.device, ServeOptions(server=state.server), installation
    )
    deployment.endpoints = state.endpoints
    deployment.servers = [_restored(server) for server in state.servers]
    if state.shares is not None:
        deployment.mechanism = Resumed(state.shares, state.device)
    return deployment


def stop(state: LaunchedState, *, grace_s: float = GRACE_S) -> None:
    """End launched servers, gracefully if they will, and remove all that is theirs. Idempotent.

    Raises:
        OutsideFailure: a process outlived being killed.
    """
    mark = marks.parse(state.mark)
    if mark is None:
        return
    if state.engine is not None:
        from igniter_prof.serving.docker.launched import stop_docker

        stop_docker(state, mark, grace_s)
        return
    if mark.boot == marks.boot_id() and mark.namespace == marks.namespace():
        deployment = _attach_local(state, mark)
        deployment.terminate(grace_s)
        deployment.close()
    else:
        marks.sweep_up(mark)


def launched_states() -> list[LaunchedState]:
    """All complete launches of this machine that were not stopped, oldest first.

    Raises:
        BadInput: another igprof stored one in another form.
    """
    found = []
    for folder in marks.runs().iterdir():
        state = marks.read_state(folder) or {}
        if state.get("host") == marks.host_id() and state.get("complete"):
            found.append(files.parse(state.get("launched"), LaunchedState, str(folder)))
    return sorted(found, key=lambda state: state.started_at)


def shares_of(mechanism: Mechanism | None) -> LaunchedShares | None:
    """How tenants share their device, to be stored."""
    if mechanism is None:
        return None
    daemon = mechanism.daemon if isinstance(mechanism, Mps) else None
    return LaunchedShares(
        mechanism=mechanism.name,
        period_us=mechanism.period_us,
        step_pct=mechanism.step_pct,
        mps_pipes=None if daemon is None else str(daemon.pipes),
        mps_own=daemon is not None and daemon.own,
    )


def _stored(server: Server) -> LaunchedServer:
    group, recipe = server.group, server.recipe
    return LaunchedServer(
        indices=recipe.indices,
        name=server.name,
        pid=server.process.pid,
        start_ticks=server.process.start_ticks,
        http_port=server.ports.http,
        grpc_port=server.ports.grpc,
        metrics_port=server.ports.metrics,
        group=() if group is None else tuple(map(str, group.folders)),
        group_version=None if group is None else group.version,
        log=str(server.log),
        models=recipe.models,
        repositories=tuple(map(str, recipe.repositories)),
        cpu_cores=recipe.caps.cpu_cores,
        memory_mib=recipe.caps.memory_mib,
        cpuset=recipe.caps.cpuset,
        threads=recipe.threads,
    )


def _restored(stored: LaunchedServer) -> Server:
    recipe = Recipe(
        indices=stored.indices,
        models=stored.models,
        repositories=tuple(map(Path, stored.repositories)),
        grant=Grant(caps=Caps(stored.cpu_cores, stored.memory_mib, stored.cpuset)),
        threads=stored.threads,
    )
    kind = stored.group_version
    return Server(
        recipe=recipe,
        name=stored.name,
        ports=Ports(stored.http_port, stored.grpc_port, stored.metrics_port),
        process=Process(stored.pid, stored.start_ticks),
        group=None if kind is None else cgroup.read(stored.group, kind),
        log=Path(stored.log),
        started_s=0.0,
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
