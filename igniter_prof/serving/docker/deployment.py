"""Tenants as containers: one a tenant (or one for all), in their caps and shares.

Everything that a deployment makes carries its mark as a label, and everything that carries the mark
is gone when its context is left, however it is left; after a ``kill -9`` the next deployment on
that engine removes it. Nothing else on the engine is touched.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igniter_prof import probe
from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.records import ColdStart, Device, Endpoint, Status, Tenant, Usage
from igniter_prof.serving import marks
from igniter_prof.serving.contract import Progress, ServeOptions
from igniter_prof.serving.docker import images, inside, models, naming, remains, spec
from igniter_prof.serving.docker.container import Container, of_tenant
from igniter_prof.serving.docker.engine import Engine, Lifeline, asking, gone
from igniter_prof.serving.docker.images import Image
from igniter_prof.serving.docker.readiness import http_address, start_all
from igniter_prof.serving.docker.recipes import Kitchen, http_recipe, triton_recipe
from igniter_prof.serving.docker.spec import GRPC_PORT, METRICS_PORT, Recipe
from igniter_prof.serving.local import GPU_GRACE_S
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares import (
    Grant,
    mechanism_for,
    shared_grant,
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
        self._removed = False
        self.mechanism: Mechanism | None = None
        # what is only looked at (a launched plan) is never closed, and has no thread
        self._lifeline = Lifeline(engine, f"{spec.MARK_LABEL}={mark.name}") if watched else None

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
        alone = len(self.containers) == 1
        if self.mechanism is None or (own is not None and (alone or own[0] == "oom")):
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
        triton = next((each for each in self.containers if each.http is None), None)
        if triton is not None:
            image = images.look_up(self.engine, triton.recipe.image)
            found["image"] = triton.recipe.image
            found["framework"] = None if image is None else image.framework
            found["triton"] = _version_of(triton)
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
        kitchen = Kitchen(self.engine, self.mark, self.device, self._options)
        rendered: dict[int, Rendered] = {}
        for indices in each:
            model = tenants[indices[0]].model
            image = found[model]
            grant = self._grant(indices)
            if (server := self._options.http.get(model)) is not None:
                recipe = http_recipe(kitchen, indices, server, image, grant)
            else:
                recipe, made = triton_recipe(kitchen, indices, tenants, image, grant)
                rendered.update(made)
            self.containers.append(self._create(recipe, tenants, progress))
        progress(f"starting {len(self.containers)} containers")
        start_all(self.containers, self._options.start_timeout_s)
        self._verify(tenants)
        self.endpoints = tuple(
            self._endpoint(tenant, index, found[tenant.model], rendered.get(index))
            for index, tenant in enumerate(tenants)
        )

    def close(self) -> None:
        """Remove everything that carries the deployment's mark. Raises OutsideFailure."""
        lost = self._hang_up()
        with contextlib.ExitStack() as last:
            last.callback(self.engine.close)
            last.callback(self._sweep_up)
            if self.mechanism is not None:
                last.push(self.mechanism)  # its clients end before it does
            if lost:
                raise gone(self.engine, "its containers could not be removed; the next run will")
            if self.device.kind == "cuda":
                with contextlib.suppress(OutsideFailure):  # what does not end is killed
                    self.terminate(GPU_GRACE_S)
            remains.remove(self.engine, self.mark)
            self._removed = True

    def _sweep_up(self) -> None:
        """Remove what carries the mark on this host.

        A launch whose containers could not be removed keeps its folder: only its state tells the
        next igprof with that engine that they may go.
        """
        if self._removed or self.mark.kind == "t":
            marks.sweep_up(self.mark)

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
            doing = f"{each.name} cannot be stopped"
            with asking(self.engine, doing), remains.unless_gone():
                self.engine.client.stop(each.id, timeout=int(grace_s))

        with futures.ThreadPoolExecutor(max_workers=max(1, len(self.containers))) as pool:
            list(pool.map(stop, self.containers))

    # --- what goes into the containers --------------------------------------------------------

    def _images(self, tenants: Sequence[Tenant], progress: Progress) -> dict[str, Image]:
        """The image of each model; what is missing is downloaded, if that is allowed."""
        found: dict[str, Image] = {}
        triton: Image | None = None
        for model in dict.fromkeys(tenant.model for tenant in tenants):
            server = self._options.http.get(model)
            if server is not None:
                assert server.image is not None, "check_options sees to it"
                found[model] = images.obtain(self.engine, server.image, self._options, progress)
            else:
                triton = triton or images.triton_image(self.engine, self._options, progress)
                found[model] = triton
        return found

    def _grant(self, indices: tuple[int, ...]) -> Grant:
        if self.mechanism is not None:
            return self.mechanism.grant(indices[0])
        return shared_grant(self.device)

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
        self._expect_no_root(created["Id"], arguments["user"], model)
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

    def _expect_no_root(self, container: str, user: str, model: str) -> None:
        """Raise BadInput where a user has a name that may be another one of root's."""
        name = user.partition(":")[0]
        if name.isascii() and name.isdigit():
            return  # never 0, see user_of
        if not inside.user_id(self.engine, container, name):
            raise BadInput(
                f"its image's user '{name}' is root by another name, or none",
                where=f"model {model}",
                hint="give the image a user by number, such as USER 1000",
            )

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
            http_address=http_address(each),
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


def _version_of(triton: Container) -> str | None:
    """As the server itself says."""
    address = http_address(triton)
    if address is not None:
        with contextlib.suppress(probe.Unreachable):
            version = probe.document(probe.get(address, "/v2")[1]).get("version")
            return None if version is None else str(version)
    return None
