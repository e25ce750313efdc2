"""From tenants to what their containers are made of: model repositories, users, variables."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from docker.types import Mount

from igniter_prof.records import Device, HttpServer, Tenant
from igniter_prof.serving.contract import Backend, ServeOptions
from igniter_prof.serving.docker import models, naming, remains, spec
from igniter_prof.serving.docker.engine import Engine, asking
from igniter_prof.serving.docker.images import Image
from igniter_prof.serving.docker.spec import GRPC_PORT, HTTP_PORT, METRICS_PORT, Recipe
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares import Grant, threads_of

if TYPE_CHECKING:
    from igniter_prof.zoo import Rendered


_NUMBER = re.compile(r"[+-]?[0-9]+")
"""What an engine takes for a user's number: +0 is root's, too."""


@dataclass(frozen=True)
class Kitchen:
    """What all recipes of one deployment share."""

    engine: Engine
    mark: Mark
    device: Device
    options: ServeOptions


def http_recipe(
    kitchen: Kitchen, indices: tuple[int, ...], server: HttpServer, image: Image, grant: Grant
) -> Recipe:
    """The container of a server that is no Triton: its image's own program."""
    threads = threads_of(grant.caps, kitchen.device)
    return Recipe(
        indices=indices,
        image=image.info.id,
        command=None,
        ports=(server.port,),
        environment=naming.environment_of(server, threads),
        grant=grant,
        threads=threads,
        # MPS serves one user at a time
        user=_own_user() if grant.host_ipc else user_of(image.user),
    )


def triton_recipe(
    kitchen: Kitchen,
    indices: tuple[int, ...],
    tenants: Sequence[Tenant],
    image: Image,
    grant: Grant,
) -> tuple[Recipe, dict[int, Rendered]]:
    """The container of a Triton with the models of some tenants, and what was rendered for each.

    Raises:
        BadInput: no such model, or one that leads out of its repository.
        OutsideFailure: models could not be copied to an engine elsewhere.
    """
    threads = threads_of(grant.caps, kitchen.device)
    gpu = bool(grant.gpus)
    rendered = {i: _render(kitchen, tenants[i], i, threads, image, gpu) for i in indices}
    mounts = {
        str(found.repository): spec.MODELS if len(indices) == 1 else f"{spec.MODELS}/{index}"
        for index, found in rendered.items()
    }
    folders = list(mounts.values())
    name = f"{kitchen.mark.name}-{indices[0]}"
    if not kitchen.engine.local:
        mounts = {_copied(kitchen, name, image, mounts): spec.MODELS}
    recipe = Recipe(
        indices=indices,
        image=image.info.id,
        command=spec.triton_command(name, kitchen.mark, folders, gpu=gpu),
        ports=(HTTP_PORT, GRPC_PORT, METRICS_PORT),
        environment=spec.triton_environment(threads),
        grant=grant,
        threads=threads,
        models=mounts,
        user=_own_user(),
    )
    return recipe, rendered


def _own_user() -> str:
    """Igprof's own user, whose alone its files may be; for root nobody, who can read them."""
    return user_of("") if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"


def user_of(wanted: str) -> str:
    """The user of an image if it is not root, else nobody."""
    name = wanted.partition(":")[0]
    root = name in ("", "root") or (_NUMBER.fullmatch(name) and int(name) == 0)
    return f"{spec.NOBODY}:{spec.NOBODY}" if root else wanted


def _render(
    kitchen: Kitchen, tenant: Tenant, index: int, threads: int, image: Image, gpu: bool
) -> Rendered:
    from igniter_prof import zoo

    options = kitchen.options
    if options.repository is not None:
        models.check_own(options.repository, tenant.model)
    backend: Backend = options.backend
    if backend == "python" and image.nvidia:
        backend = "onnxruntime"  # NVIDIA's Python has none, but a backend
    folder = kitchen.mark.folder / f"tenant-{index}"
    folder.mkdir()
    found = zoo.render(
        tenant,
        folder,
        threads=threads,
        repository=options.repository,
        backend=backend,
        device="cuda" if gpu else "cpu",
    )
    models.make_readable(folder)
    return found


def _copied(kitchen: Kitchen, name: str, image: Image, folders: dict[str, str]) -> str:
    """A volume with the models, for an engine that does not see our files; its name."""
    archive = kitchen.mark.folder / f"{name}.tar"
    names = {
        target.removeprefix(spec.MODELS).lstrip("/"): Path(source)
        for source, target in folders.items()
    }
    models.pack(names, archive)
    client = kitchen.engine.client
    labels = {spec.MARK_LABEL: kitchen.mark.name, spec.HOST_LABEL: remains.this_host()}
    with asking(kitchen.engine, "models cannot be copied into a volume"):
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
