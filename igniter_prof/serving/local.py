"""Triton as local processes: one for each tenant (or one for all), in its caps and shares.

Everything that a deployment starts carries its mark, and everything that carries the mark is gone
when its context is left, however it is left; after a ``kill -9`` the next deployment removes it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igniter_prof import files, probe
from igniter_prof.errors import MissingCapability
from igniter_prof.records import Device, Endpoint, Status, Tenant, Usage
from igniter_prof.serving import logs, marks, triton
from igniter_prof.serving.contract import Progress, ServeOptions, TenantFailure, silent
from igniter_prof.serving.interrupts import uninterrupted
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.ports import LOOPBACK
from igniter_prof.serving.server import POLL_S, Recipe, Server, start
from igniter_prof.serving.shares import (
    Grant,
    Mechanism,
    check_tenants,
    mechanism_for,
    shared_grant,
    threads_of,
)
from igniter_prof.serving.triton import Installation

if TYPE_CHECKING:
    from igniter_prof.zoo import Rendered

PORT_ATTEMPTS = 4
COLLECT_TIMEOUT_S = 10.0
GPU_GRACE_S = 5.0
"""How long servers on a GPU may take to leave it; a killed client upsets the driver's daemons."""


class LocalDeployment:
    """Tenants that run as local processes."""

    headers: tuple[tuple[str, str], ...] = ()
    ca_file: Path | None = None

    def __init__(
        self, mark: Mark, device: Device, options: ServeOptions, installation: Installation
    ) -> None:
        self.mark = mark
        self.device = device
        self.installation = installation
        self.servers: list[Server] = []
        self.endpoints: tuple[Endpoint, ...] = ()
        self.mechanism: Mechanism | None = None
        self._options = options

    @property
    def runtime(self) -> str:
        """``local``."""
        return "local"

    def usage(self, index: int) -> Usage | None:
        """What the tenant's server has used so far; None where there is no control group."""
        group = self._server(index).group
        return None if group is None else group.usage()

    def ending(self, index: int) -> tuple[Status, str] | None:
        """How the tenant's server ended and why, or what befell all; None while it is alive."""
        own = self._server(index).ending()
        alone = len(self.servers) == 1
        if self.mechanism is None or (own is not None and (alone or own[0] == "oom")):
            return own
        # the fault of one client ends its neighbours, and nobody can tell whose it was
        trouble = self.mechanism.trouble(fresh=own is not None)
        return own if trouble is None else ("invalid", trouble)

    def log_tail(self, index: int) -> str:
        """The last lines of the server's log, without Triton's tables."""
        return logs.tail(self._server(index).log)

    def conditions(self) -> dict[str, Any]:
        """Share mechanism, its period and step, versions of Triton and of the framework."""
        mechanism = self.mechanism
        return {
            "runtime": self.runtime,
            "share_mechanism": None if mechanism is None else mechanism.name,
            "share_period_us": None if mechanism is None else mechanism.period_us,
            "share_step_pct": None if mechanism is None else mechanism.step_pct,
            "triton": self._triton_version(),
            "framework": self.installation.framework(),
        }

    def start(self, tenants: Sequence[Tenant], progress: Progress = silent) -> None:
        """Start all servers at once and wait until each proved that its models are ready.

        Raises:
            TenantFailure: a server died, ran out of memory, or was not ready in time.
            BadInput: these tenants cannot be served together.
            MissingCapability: a share or a cap was asked for and cannot be set.
            OutsideFailure: a tenant runs without its share.
        """
        check_tenants(tenants, self.device, self._options.server, self._options)
        shared = self._options.server == "shared"
        each = [tuple(range(len(tenants)))] if shared else [(i,) for i in range(len(tenants))]
        if not shared:
            self.mechanism = mechanism_for(self.device, tenants, self._options, self.mark)
            self.mechanism.__enter__()
        pending = []
        rendered: dict[int, Rendered] = {}
        for indices in each:
            grant = self._grant(indices[0])
            threads = threads_of(grant.caps, self.device)
            for index in indices:
                rendered[index] = self._render(tenants[index], index, threads, grant)
            models = tuple(rendered[index].model_name for index in indices)
            folders = tuple(rendered[index].repository for index in indices)
            pending.append(Recipe(indices, models, folders, grant, threads))
        progress(f"starting {len(pending)} Triton server{'s' if len(pending) > 1 else ''}")
        ready_s: dict[int, float] = {}
        for attempt in range(PORT_ATTEMPTS):
            fresh = []
            for recipe in pending:
                server = start(recipe, self.mark, self.device, self.installation, attempt=attempt)
                self.servers.append(server)
                fresh.append(server)
            answers = _await_all(fresh, self._options.start_timeout_s)
            pending = []
            for server, seconds in zip(fresh, answers, strict=True):
                if seconds is None:  # somebody took a port in between: once more with others
                    self.servers.remove(server)
                    pending.append(server.recipe)
                else:
                    ready_s.update(dict.fromkeys(server.recipe.indices, seconds))
            if not pending:
                self._verify()
                self.endpoints = tuple(
                    self._endpoint(tenant, index, rendered[index], ready_s[index])
                    for index, tenant in enumerate(tenants)
                )
                return
        raise MissingCapability(
            f"no free ports: others took them {PORT_ATTEMPTS} times in a row",
            where=LOOPBACK,
            hint="see who holds them with: ss -tlnp",
        )

    def close(self) -> None:
        """End every server and remove everything that carries the deployment's mark."""
        try:
            if self.device.kind == "cuda":
                self.terminate(GPU_GRACE_S)
            if self.mechanism is not None:
                self.mechanism.__exit__(None, None, None)
        finally:
            marks.sweep_up(self.mark)
        deadline = time.monotonic() + COLLECT_TIMEOUT_S
        for server in self.servers:
            while server.process.poll() is None and time.monotonic() < deadline:
                time.sleep(POLL_S)  # until the kernel lets us collect the zombie

    def terminate(self, grace_s: float) -> None:
        """Ask all servers to end, and wait for that, but not longer than ``grace_s``."""
        for server in self.servers:
            if server.group is not None:
                server.group.lift()
            server.process.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(
            server.process.poll() is None for server in self.servers
        ):
            time.sleep(POLL_S)

    def _grant(self, index: int) -> Grant:
        return shared_grant(self.device) if self.mechanism is None else self.mechanism.grant(index)

    def _verify(self) -> None:
        """Whether each tenant really has its share. Raises OutsideFailure."""
        if self.mechanism is not None:
            for server in self.servers:
                self.mechanism.verify(server.recipe.indices[0], server.pids())

    def _server(self, index: int) -> Server:
        return next(server for server in self.servers if index in server.recipe.indices)

    def _endpoint(self, tenant: Tenant, index: int, rendered: Rendered, ready_s: float) -> Endpoint:
        server = self._server(index)
        return Endpoint(
            tenant=tenant,
            model_name=rendered.model_name,
            http_address=server.http_address,
            grpc_address=f"{LOOPBACK}:{server.ports.grpc}",
            metrics_address=f"{LOOPBACK}:{server.ports.metrics}",
            pid=server.process.pid,
            cgroup=None if server.group is None else str(server.group.cpu),
            interface="lo",
            threads=rendered.threads,
            model_hash=rendered.model_hash,
            config_hash=rendered.config_hash,
            ready_s=ready_s,
            sm_count=None if self.mechanism is None else self.mechanism.sm_count(index),
        )

    def _render(self, tenant: Tenant, index: int, threads: int, grant: Grant) -> Rendered:
        from igniter_prof import zoo

        folder = self.mark.folder / f"tenant-{index}"
        folder.mkdir()
        return zoo.render(
            tenant,
            folder,
            threads=threads,
            repository=self._options.repository,
            backend=self._options.backend,
            device="cuda" if grant.gpus else "cpu",
        )

    def _triton_version(self) -> str | None:
        for server in self.servers:
            with contextlib.suppress(probe.Unreachable):
                _, body = probe.get(server.http_address, "/v2")
                version = probe.document(body).get("version")
                return None if version is None else str(version)
        return None


@contextlib.contextmanager
def deploy_local(
    device: Device, tenants: Sequence[Tenant], options: ServeOptions, progress: Progress
) -> Iterator[LocalDeployment]:
    """Serve tenants as local processes for the time of a context; see ``serving.deploy``."""
    check_tenants(tenants, device, options.server, options)
    deployment = prepare(device, options, progress)
    try:
        deployment.start(tenants, progress)
        yield deployment
    finally:
        with uninterrupted():
            deployment.close()


def prepare(
    device: Device, options: ServeOptions, progress: Progress, *, launched: bool = False
) -> LocalDeployment:
    """A deployment with its mark and folder, and nothing started yet; reaps first."""
    marks.reap()
    installation = triton.ensure(options.triton, progress)
    if device.kind == "cuda" and not installation.serves_gpu(options.backend):
        raise MissingCapability(
            "the Triton that igprof brings along serves CPUs only",
            where=device.id,
            hint="name a tritonserver with GPU backends by --triton PATH",
        )
    mark = marks.mint(launched=launched)
    files.make_cached(mark.folder)
    marks.write_state(mark, {"complete": False})
    return LocalDeployment(mark, device, options, installation)


def _await_all(servers: Sequence[Server], timeout_s: float) -> list[float | None]:
    """Wait for all at once; the first failure ends the wait."""
    stop = threading.Event()
    with futures.ThreadPoolExecutor(max_workers=len(servers)) as pool:
        try:
            waits = [pool.submit(server.await_ready, timeout_s, stop) for server in servers]
            done, _ = futures.wait(waits, return_when=futures.FIRST_EXCEPTION)
            failures = [wait.exception() for wait in done]
            # an OOM kill says more than what it did to a neighbour's start
            failures.sort(key=lambda e: not (isinstance(e, TenantFailure) and e.status == "oom"))
            for failure in failures:
                if failure is not None:
                    raise failure
            return [wait.result() for wait in waits]
        finally:
            stop.set()
