"""Container images: which one, is it there, what does it weigh; pulled only if a user says so."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any

import docker.errors

from igniter_prof import files
from igniter_prof.errors import MissingCapability, OutsideFailure
from igniter_prof.records import ImageInfo
from igniter_prof.serving.contract import Progress, ServeOptions
from igniter_prof.serving.docker.engine import Engine, asking
from igniter_prof.serving.docker.naming import check_image

NVIDIA_IMAGE = "nvcr.io/nvidia/tritonserver:25.01-py3"
"""NVIDIA's Triton, pinned."""
OWN_IMAGE = "igprof-triton:2.51.0-cpu"
"""What ``scripts/images/build triton`` makes."""
FRAMEWORK_LABEL = "org.igniter-prof.framework"
TELL_EVERY_S = 5.0
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Image:
    """An image that is there."""

    info: ImageInfo
    config: dict[str, Any]
    """Environment, labels and user, as in the image's configuration."""
    pull_s: float | None = None
    """How long its download took, if it was downloaded just now."""
    pull_bytes: int | None = None

    @property
    def nvidia(self) -> bool:
        """Whether it is NVIDIA's Triton, whose Python has no ONNX Runtime but a backend has."""
        return any(
            str(entry).startswith("NVIDIA_TRITON_SERVER_VERSION=")
            for entry in self.config.get("Env") or ()
        )

    @property
    def framework(self) -> str | None:
        """Such as ``onnxruntime 1.23.0``, where the image's labels say it."""
        labels = self.config.get("Labels") or {}
        return labels.get(FRAMEWORK_LABEL) or None

    @property
    def user(self) -> str:
        """The user that it is made for; empty or ``0`` for root."""
        return str(self.config.get("User") or "")


def triton_image(engine: Engine, options: ServeOptions, progress: Progress) -> Image:
    """The image with Triton: the one asked for, else NVIDIA's, else our own, whichever is there.

    Raises:
        BadInput: its name is none.
        MissingCapability: it is not there.
        OutsideFailure: its download failed.
    """
    if options.image is not None:
        return obtain(engine, options.image, options, progress)
    for name in (NVIDIA_IMAGE, OWN_IMAGE):
        if (found := look_up(engine, name)) is not None:
            return found
    if options.pull:
        return obtain(engine, NVIDIA_IMAGE, options, progress)
    raise MissingCapability(
        f"neither {NVIDIA_IMAGE} nor {OWN_IMAGE} is there",
        where=engine.version,
        hint="scripts/images/build triton makes one for CPUs; --pull downloads NVIDIA's;"
        " --image names another",
    )


def obtain(engine: Engine, name: str, options: ServeOptions, progress: Progress) -> Image:
    """The image of that name, downloaded if it is not there and a user's flag allows it.

    Raises:
        BadInput: it is no name of an image.
        MissingCapability: it is not there, and may not be downloaded.
        OutsideFailure: its download failed.
    """
    found = look_up(engine, check_image(name))
    if found is not None:
        return found
    if not options.pull:
        raise MissingCapability(
            f"the image {name} is not there",
            where=engine.version,
            hint="build it (scripts/images/build), or give --pull to have it downloaded",
        )
    return _pull(engine, name, progress)


def look_up(engine: Engine, name: str) -> Image | None:
    """The image of that name; None if it is not there."""
    with asking(engine, f"looking for the image {name}"):
        try:
            found = engine.client.inspect_image(name)
        except docker.errors.ImageNotFound:
            return None
    digests = found.get("RepoDigests") or []
    info = ImageInfo(
        name=name,
        id=found["Id"],
        registry_digest=digests[0].rpartition("@")[2] if digests else None,
        disk_bytes=found.get("Size"),
        compressed_bytes=_noted_bytes(found["Id"]),
        layers=len((found.get("RootFS") or {}).get("Layers") or ()) or None,
    )
    return Image(info, found.get("Config") or {})


def _pull(engine: Engine, name: str, progress: Progress) -> Image:
    progress(f"downloading the image {name}")
    repository, tag = _parts(name)
    totals: dict[str, int] = {}
    fresh: set[str] = set()
    began = told = time.monotonic()
    with asking(engine, f"the image {name} cannot be downloaded"):
        for line in engine.client.pull(repository, tag=tag, stream=True, decode=True):
            if "error" in line:
                raise OutsideFailure(
                    f"the image {name} cannot be downloaded: {line['error']}",
                    where=engine.version,
                    hint="docker login, if it needs one; or build one: scripts/images/build",
                )
            layer, detail = line.get("id"), line.get("progressDetail") or {}
            if line.get("status") == "Downloading" and layer and detail.get("total"):
                totals[layer] = int(detail["total"])
            if line.get("status") in ("Download complete", "Pull complete") and layer:
                fresh.add(layer)
            if time.monotonic() - told > TELL_EVERY_S:
                told = time.monotonic()
                progress(f"downloading {name}: {sum(totals.values()) / MEGABYTE:.0f} MB so far")
    seconds = time.monotonic() - began
    # a small layer may come at once, without its size: then the sum would not be the whole
    count = sum(totals.values()) if totals and fresh <= set(totals) else None
    found = look_up(engine, name)
    if found is None:
        raise OutsideFailure(f"the image {name} was downloaded and is not there")
    layers = found.info.layers
    if count is not None and layers is not None and len(totals) >= layers:
        _note_bytes(found.info.id, count)  # all layers came now: that is its compressed size
    info = found.info.model_copy(update={"compressed_bytes": _noted_bytes(found.info.id)})
    return Image(info, found.config, pull_s=seconds, pull_bytes=count)


def _parts(name: str) -> tuple[str, str]:
    """Repository, and tag or digest; without either the engine would download all tags."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")


def _notes(image_id: str) -> Any:
    return files.cache_dir() / "images" / f"{image_id.removeprefix('sha256:')[:32]}.json"


def _note_bytes(image_id: str, compressed: int) -> None:
    path = _notes(image_id)
    files.make_cached(path.parent)
    with files.atomic_write(path) as out:
        out.write(json.dumps({"compressed_bytes": compressed}).encode())


def _noted_bytes(image_id: str) -> int | None:
    """What was downloaded for it when it was: the engine itself does not keep it."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(_notes(image_id).read_text())["compressed_bytes"])
    return None
