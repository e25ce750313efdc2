"""Tenants as containers: one a tenant (or one for all), in their caps and shares.

Everything that a deployment makes carries its mark as a label, and everything that carries the mark
is gone when its context is left, however it is left; after a ``kill -9`` the next deployment on
that engine removes it. Nothing else on the engine is touched.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.types import Mount

from igniter_prof import files, probe
from igniter_prof.errors import BadInput, IgprofError, MissingCapability, OutsideFailure
from igniter_prof.records import ColdStart, Device, Endpoint, Status, Tenant, Usage
from igniter_prof.serving import marks
from igniter_prof.serving.contract import Backend, Progress, ServeOptions, TenantFailure
from igniter_prof.serving.docker import images, inside, models, naming, remains, spec
from igniter_prof.serving.docker.container import Container, of_tenant
from igniter_prof.serving.docker.engine import Engine, Lifeline, asking, connect, gone
from igniter_prof.serving.docker.images import Image
from igniter_prof.serving.docker.spec import GRPC_PORT, HTTP_PORT, METRICS_PORT, Recipe
from igniter_prof.serving.local import GPU_GRACE_S, uninterrupted
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares import (
    Grant,
    check_tenants,
    mechanism_for,
    shared_grant,
    threads_of,
)
from igniter_prof.serving.shares.contract import Mechanism

if TYPE_CHECKING:
    from igniter_prof.zoo import Rendered


class DockerDeployment:
    """Tenants that run as containers."""

    headers: tuple[tuple[str, str], ...] = ()
    ca_file: Path | None = None

    def __init__(
        self,
        engine: Engine,
        mark: Mark,
        device: Device,
        options: ServeOptions,
        *,
        watched: bool = True,
    ) -> None:
        self.engine = engine
        self.mark = mark
        self.device = device
        self.containers: list[Container] = []
        self.endpoints: tuple[Endpoint, ...] = ()
        self._options = options
        self.mechanism: Mechanism | None = None
        # what is only looked at (a launched plan) is never closed, and has no thread
        self._lifeline = Lifeline(engine, f"{spec.MARK_LABEL}={mark.name}") if watched else None
        self._triton: Image | None = None

    @property
    def runtime(self) -> str:
        """``docker``."""
        return "docker"

    def usage(self, index: int) -> Usage | None:
        """What the tenant's container has used so far.

        From its control group; with an engine elsewhere from the engine's statistics.
        """
        return of_tenant(self.containers, index).usage()

    def ending(self, index: int) -> tuple[Status, str] | None:
        """How the tenant's container ended and why; None while it is alive.

        Raises:
            OutsideFailure: the engine went away; then nobody's numbers mean anything.
        """
        if self._lifeline is not None and self._lifeline.lost:
            raise gone(self.engine, "it closed the connection")
        own = of_tenant(self.containers, index).ending()
        if self.mechanism is None or (own is not None and own[0] == "oom"):
            return own
        # the fault of one client ends its neighbours, and nobody can tell whose it was
        trouble = self.mechanism.trouble(fresh=own is not None)
        return own if trouble is None else ("invalid", trouble)

    def log_tail(self, index: int) -> str:
        """The last lines of the container's log, without Triton's tables."""
        return of_tenant(self.containers, index).log_tail()

    def conditions(self) -> dict[str, Any]:
        """Share mechanism, engine, Triton's image and version; the host, if it is not this one."""
        found: dict[str, Any] = {"runtime": self.runtime, "engine": self.engine.version}
        if self.mechanism is not None:
            found["share_mechanism"] = self.mechanism.name
            found["share_period_us"] = self.mechanism.period_us
            found["share_step_pct"] = self.mechanism.step_pct
        if self._triton is not None:
            found["image"] = self._triton.info.id
            found["framework"] = self._triton.framework
            found["triton"] = self._triton_version()
        if not self.engine.local:
            info = self.engine.info
            found["os"] = info.get("OperatingSystem")
            found["kernel"] = info.get("KernelVersion")
            found["cpu_count"] = info.get("NCPU")
            found["cpu_model"] = None  # an engine does not tell it
        return found

    def start(self, tenants: Sequence[Tenant], progress: Progress) -> None:
        """Create all containers, start them at once, and wait until each is ready.

        Raises:
            TenantFailure: a container ended, ran out of memory, or was not ready in time.
            BadInput: these tenants cannot be served together, or what they name is not allowed.
            MissingCapability: an image is not there.
            OutsideFailure: the engine went away.
        """
        found = self._images(tenants, progress)
        if self._options.server == "own":
            self.mechanism = mechanism_for(self.device, tenants, self._options, self.mark)
            self.mechanism.__enter__()
        shared = self._options.server == "shared"
        each = [tuple(range(len(tenants)))] if shared else [(i,) for i in range(len(tenants))]
        rendered: dict[int, Rendered] = {}
        for indices in each:
            model = tenants[indices[0]].model
            image = found[model]
            grant = self._grant(indices)
            if model in self._options.http:
                recipe = self._http_recipe(indices, model, image, grant)
            else:
                recipe = self._triton_recipe(indices, tenants, image, grant, rendered)
            self.containers.append(self._create(recipe, tenants, progress))
        progress(f"starting {len(self.containers)} containers")
        _start_all(self.containers, self._options.start_timeout_s)
        self._verify(tenants)
        self.endpoints = tuple(
            self._endpoint(tenant, index, found[tenant.model], rendered.get(index))
            for index, tenant in enumerate(tenants)
        )

    def close(self) -> None:
        """Remove everything that carries the deployment's mark. Raises OutsideFailure."""
        lost = self._hang_up()
        try:
            if lost:
                raise gone(self.engine, "its containers could not be removed; the next run will")
            if self.device.kind == "cuda":
                self.terminate(GPU_GRACE_S)
            remains.remove(self.engine, self.mark)
        finally:
            if self.mechanism is not None:
                self.mechanism.__exit__(None, None, None)
            marks.sweep_up(self.mark)
            self.engine.close()

    def detach(self) -> None:
        """Stop watching, and leave everything running."""
        self._hang_up()
        self.engine.close()

    def _hang_up(self) -> bool:
        """Stop watching; whether the engine went away."""
        for each in self.containers:
            each.close()
        if self._lifeline is None:
            return False
        lost = self._lifeline.lost
        self._lifeline.close()
        return lost

    def terminate(self, grace_s: float) -> None:
        """Ask all containers to end, and wait for that, but not longer than ``grace_s``."""

        def stop(each: Container) -> None:
            with asking(self.engine, f"{each.name} cannot be stopped"):
                self.engine.client.stop(each.id, timeout=int(grace_s))

        with futures.ThreadPoolExecutor(max_workers=max(1, len(self.containers))) as pool:
            list(pool.map(stop, self.containers))

    # --- what goes into the containers --------------------------------------------------------

    def _images(self, tenants: Sequence[Tenant], progress: Progress) -> dict[str, Image]:
        """The image of each model; what is missing is downloaded, if that is allowed."""
        found = {}
        for model in dict.fromkeys(tenant.model for tenant in tenants):
            server = self._options.http.get(model)
            if server is None:
                if self._triton is None:
                    self._triton = images.triton_image(self.engine, self._options, progress)
                found[model] = self._triton
            else:
                assert server.image is not None, "check_http sees to it"
                found[model] = images.obtain(self.engine, server.image, self._options, progress)
        return found

    def _grant(self, indices: tuple[int, ...]) -> Grant:
        if self.mechanism is not None:
            return self.mechanism.grant(indices[0])
        return shared_grant(self.device)

    def _http_recipe(
        self, indices: tuple[int, ...], model: str, image: Image, grant: Grant
    ) -> Recipe:
        server = self._options.http[model]
        threads = threads_of(grant.caps, self.device)
        return Recipe(
            indices=indices,
            image=image.info.id,
            command=None,
            ports=(server.port,),
            environment=naming.environment_of(server, threads),
            grant=grant,
            threads=threads,
            user=_user(image.user),
        )

    def _triton_recipe(
        self,
        indices: tuple[int, ...],
        tenants: Sequence[Tenant],
        image: Image,
        grant: Grant,
        rendered: dict[int, Rendered],
    ) -> Recipe:
        threads = threads_of(grant.caps, self.device)
        mounts = {}
        for index in indices:
            rendered[index] = self._render(tenants[index], index, threads, image, bool(grant.gpus))
            target = spec.MODELS if len(indices) == 1 else f"{spec.MODELS}/{index}"
            mounts[str(rendered[index].repository)] = target
        name = f"{self.mark.name}-{indices[0]}"
        folders = list(mounts.values())
        if not self.engine.local:
            volume = self._copied(name, image, mounts)
            mounts = {volume: spec.MODELS}
        return Recipe(
            indices=indices,
            image=image.info.id,
            command=spec.triton_command(name, self.mark, folders, gpu=bool(grant.gpus)),
            ports=(HTTP_PORT, GRPC_PORT, METRICS_PORT),
            environment=spec.triton_environment(threads),
            grant=grant,
            threads=threads,
            models=mounts,
            # what igprof wrote may be its user's alone: but root's is made readable for nobody
            user=_user("") if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}",
        )

    def _render(
        self, tenant: Tenant, index: int, threads: int, image: Image, gpu: bool
    ) -> Rendered:
        from igniter_prof import zoo

        repository = self._options.repository
        if repository is not None:
            models.check_own(repository, tenant.model)
        backend: Backend = self._options.backend
        if backend == "python" and image.nvidia:
            backend = "onnxruntime"  # NVIDIA's Python has none, but a backend
        folder = self.mark.folder / f"tenant-{index}"
        folder.mkdir()
        found = zoo.render(
            tenant,
            folder,
            threads=threads,
            repository=repository,
            backend=backend,
            device="cuda" if gpu else "cpu",
        )
        models.make_readable(folder)
        return found

    def _copied(self, name: str, image: Image, folders: dict[str, str]) -> str:
        """A volume with the models, for an engine that does not see our files."""
        archive = self.mark.folder / f"{name}.tar"
        names = {
            target.removeprefix(spec.MODELS).lstrip("/"): Path(source)
            for source, target in folders.items()
        }
        models.pack(names, archive)
        client = self.engine.client
        labels = {spec.MARK_LABEL: self.mark.name, spec.HOST_LABEL: remains.this_host()}
        with asking(self.engine, "models cannot be copied into a volume"):
            client.create_volume(name, labels=labels)
            # what is only created has its volumes already; it is never started
            loader = client.create_container(
                image.info.id,
                name=f"{name}-copy",
                labels=labels,
                command=["true"],
                host_config=client.create_host_config(mounts=[Mount(spec.MODELS, name)]),
            )["Id"]
            with archive.open("rb") as handle:
                client.put_archive(loader, spec.MODELS, handle)
            client.remove_container(loader)
        archive.unlink()
        return name

    # --- containers ---------------------------------------------------------------------------

    def _create(self, recipe: Recipe, tenants: Sequence[Tenant], progress: Progress) -> Container:
        name = f"{self.mark.name}-{recipe.indices[0]}"
        model = tenants[recipe.indices[0]].model
        arguments, limits = spec.creation(
            recipe,
            name,
            self.mark,
            remains.this_host(),
            self.device,
            publish=not self.engine.local,
        )
        client = self.engine.client
        began = time.monotonic()
        with asking(self.engine, f"a container for {model} cannot be created"):
            created = client.create_container(
                **arguments, host_config=client.create_host_config(**limits)
            )
        seconds = time.monotonic() - began
        for warning in created.get("Warnings") or ():
            progress(f"the engine warns: {warning}")
        found = Container(
            engine=self.engine,
            recipe=recipe,
            id=created["Id"],
            name=name,
            log=self.mark.folder / f"{recipe.indices[0]}.log",
            models=tuple(tenants[index].model for index in recipe.indices),
            http=self._options.http.get(model),
            lifeline=self._lifeline,
        )
        found.phases.create_s = seconds
        return found

    def _verify(self, tenants: Sequence[Tenant]) -> None:
        """See that each tenant really has its share. Raises OutsideFailure."""
        if self.mechanism is None:
            return
        for index in range(len(tenants)):
            each = of_tenant(self.containers, index)
            if each.pid is not None:
                self.mechanism.verify(index, each.pids())

    def _endpoint(
        self, tenant: Tenant, index: int, image: Image, rendered: Rendered | None
    ) -> Endpoint:
        each = of_tenant(self.containers, index)
        server = self._options.http.get(tenant.model)
        phases = each.phases
        weights = None if rendered is None else models.weight_bytes(rendered)
        if server is not None and server.weights is not None:
            weights = inside.total_bytes(self.engine, each.id, server.weights)
        return Endpoint(
            tenant=tenant,
            model_name=tenant.model,
            http_address=each.addresses.get(HTTP_PORT if server is None else server.port),
            grpc_address=None if server is not None else each.addresses.get(GRPC_PORT),
            metrics_address=None if server is not None else each.addresses.get(METRICS_PORT),
            http=server,
            host="localhost" if self.engine.local else self.engine.address.host,
            pid=each.pid,
            container_id=each.id,
            cgroup=None if each.group is None else str(each.group.cpu),
            interface=self._bridge() if self.engine.local else None,
            threads=self._threads(each, rendered),
            model_hash=None if rendered is None else rendered.model_hash,
            config_hash=rendered.config_hash if rendered else server.digest() if server else None,
            ready_s=phases.ready_s,
            cold_start=ColdStart(
                pull_s=image.pull_s,
                pull_bytes=image.pull_bytes,
                create_s=phases.create_s,
                start_s=phases.start_s,
                serve_s=phases.serve_s,
                load_s=phases.load_s,
                ready_s=phases.ready_s,
            ),
            image=image.info,
            weight_bytes=weights,
            sm_count=None if self.mechanism is None else self.mechanism.sm_count(index),
        )

    def _threads(self, each: Container, rendered: Rendered | None) -> int | None:
        """Of the framework's pool: as configured, or as told to a server that asked for it."""
        if rendered is not None:
            return rendered.threads
        asked = each.http is not None and naming.wants_threads(each.http)
        return each.recipe.threads if asked else None

    def _bridge(self) -> str | None:
        """The interface of this host that leads to the containers."""
        with asking(self.engine, "its network cannot be looked at"):
            network = self.engine.client.inspect_network("bridge")
        named = (network.get("Options") or {}).get("com.docker.network.bridge.name")
        return named or f"br-{network['Id'][:12]}"

    def _triton_version(self) -> str | None:
        for each in self.containers:
            address = each.addresses.get(HTTP_PORT)
            if each.http is None and address is not None:
                with contextlib.suppress(probe.Unreachable):
                    version = probe.document(probe.get(address, "/v2")[1]).get("version")
                    return None if version is None else str(version)
        return None


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
        networks = engine.client.networks(names=["bridge"]) if engine.local else [{}]
        if not any(each.get("Name", "bridge") == "bridge" for each in networks):
            raise MissingCapability("the engine has no network 'bridge'", where=engine.version)
        remains.reap(engine)
        mark = marks.mint(launched=launched)
        files.make_cached(mark.folder)
        marks.write_state(mark, {"complete": False})
        try:
            return DockerDeployment(engine, mark, device, options)
        except BaseException:
            marks.sweep_up(mark)
            raise
    except BaseException:
        engine.close()
        raise


def _user(wanted: str) -> str:
    """The user of an image if it is not root, else nobody."""
    name = wanted.partition(":")[0]
    root = name in ("", "root") or (name.isdigit() and int(name) == 0)
    return f"{spec.NOBODY}:{spec.NOBODY}" if root else wanted


def _start_all(all_containers: Sequence[Container], timeout_s: float) -> None:
    """Start all at once and wait for all; the first failure ends the wait."""
    stop = threading.Event()

    def run(each: Container) -> None:
        each.start()
        each.await_ready(timeout_s, stop)

    with futures.ThreadPoolExecutor(max_workers=len(all_containers)) as pool:
        try:
            waits = [pool.submit(run, each) for each in all_containers]
            done, _ = futures.wait(waits, return_when=futures.FIRST_EXCEPTION)
        finally:
            stop.set()
    failures = [error for wait in done if (error := wait.exception()) is not None]
    # an engine that went away explains every other failure, an OOM kill those of neighbours
    failures.sort(key=_rank)
    if failures:
        raise failures[0]


def _rank(error: BaseException) -> int:
    if isinstance(error, OutsideFailure):
        return 0
    return 1 if isinstance(error, TenantFailure) and error.status == "oom" else 2
