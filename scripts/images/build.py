"""Build container images of model servers from what igprof has in its cache; see docs/images.md.

An image is a folder here with a Dockerfile. Its context is streamed to the engine as a tar: the
folder's own files, the Python packages of its lock files, and what its entry in ``IMAGES`` adds.
So nothing is copied on this machine, and the build itself needs no network. An image whose inputs
have not changed is left alone: it carries their hash as a label.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from packages import install

from igniter_prof import zoo
from igniter_prof.errors import (
    INTERRUPTED,
    BadInput,
    IgprofError,
    MissingCapability,
    OutsideFailure,
)
from igniter_prof.serving import triton

HERE = Path(__file__).resolve().parent
BASE = "igprof-base:bookworm"
LABEL = "org.igniter-prof.image.inputs"
FRAMEWORK_LABEL = "org.igniter-prof.framework"
FLASK = ("blinker", "click", "flask", "itsdangerous", "jinja2", "markupsafe", "werkzeug")
"""Flask and what it needs, from the lock of our own tests."""
LEFT_OUT = {"__pycache__", "tests"}
"""Folders that no server needs."""
PROGRAMS = {"triton_python_backend_stub"}
"""Files to be executed though their mode in a wheel does not say so."""

Entry = tuple[str, Path]
"""A name in the build context and the file that it is."""


@dataclass(frozen=True)
class Image:
    """One image that can be built."""

    tag: str
    folder: str
    packages: tuple[tuple[str, Path, tuple[str, ...] | None], ...] = ()
    """Folders of the context, each with a lock file and what of it is in the folder (None: all)."""
    extra: Callable[[], list[Entry]] = list
    """More of the context."""


def tritonserver() -> list[Entry]:
    """The server, its Python backend and the libraries that they load, laid out as NVIDIA's."""
    wheel = triton.unpacked(say)
    server = wheel / "pytriton" / "tritonserver"
    backend = server / "backends" / "python"
    files = [
        ("bin/tritonserver", server / "bin" / "tritonserver"),
        *((f"backends/python/{path.name}", path) for path in backend.iterdir() if path.is_file()),
        (
            "backends/python/triton_python_backend_stub",
            server / "python_backend_stubs" / "3.11" / "triton_python_backend_stub",
        ),
        # the libpython among them is that of another stub
        *(
            (f"lib/{path.name}", path)
            for path in (wheel / "nvidia_pytriton.libs").iterdir()
            if not path.name.startswith("libpython")
        ),
        ("LICENSE", next(wheel.glob("*.dist-info/licenses/LICENSE"))),
    ]
    return [(f"tritonserver/{name}", path) for name, path in files]


def fcn_weights() -> list[Entry]:
    """The ONNX file of the zoo's segmentation network."""
    return [("fcn_resnet50.onnx", zoo.build("fcn_resnet50"))]


IMAGES = {
    "triton": Image(
        "igprof-triton:2.51.0-cpu", "triton", (("packages", triton.LOCK, None),), tritonserver
    ),
    "fcn_resnet50": Image(
        "igprof-fcn-resnet50:cpu",
        "fcn_resnet50",
        (("packages", triton.LOCK, None), ("flask", HERE.parents[1] / "requirements.lock", FLASK)),
        fcn_weights,
    ),
    "torchserve-standin": Image("igprof-torchserve-standin:latest", "torchserve_standin"),
}


def say(message: str) -> None:
    """Progress, on standard error."""
    print(message, file=sys.stderr, flush=True)


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Docker's command line and take what it says."""
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MissingCapability(
            "there is no docker on PATH", hint="install Docker's command line"
        ) from error


def image_id(name: str) -> str | None:
    """The id of an image that the engine has; None if it has none of that name."""
    found = docker("image", "inspect", "--format", "{{.Id}}", name)
    return found.stdout.strip() if found.returncode == 0 else None


def base_id(name: str) -> str:
    """The id of the base image, which is made or pulled if the engine has it not."""
    answer = docker("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}")
    if answer.returncode != 0:
        raise MissingCapability(
            f"no container engine answers: {answer.stderr.strip()}", hint="see: docker version"
        )
    if answer.stdout.strip() != "linux/amd64":
        raise MissingCapability(
            f"the images are for linux/amd64, the engine runs {answer.stdout.strip()}"
        )
    found = image_id(name)
    if found is None and name == BASE:
        made = subprocess.run([HERE / "base"], stdout=subprocess.DEVNULL, check=False)
        if made.returncode != 0:
            raise SystemExit(made.returncode)  # it has said why
        found = image_id(name)
    elif found is None:
        say(f"pulling {name}")
        pulled = docker("pull", "--quiet", name)
        if pulled.returncode != 0:
            raise OutsideFailure(
                f"the base image cannot be pulled: {pulled.stderr.strip()}",
                where=name,
                hint=f"without --base, {BASE} is made from Debian's packages",
            )
        found = image_id(name)
    assert found is not None, "made or pulled"
    return found


def own_files(image: Image) -> Iterator[Entry]:
    """The Dockerfile and what lies beside it."""
    folder = HERE / image.folder
    if not (folder / "Dockerfile").exists():
        raise BadInput("there is no Dockerfile", where=str(folder))
    yield from tree(folder, "")


def tree(folder: Path, name: str) -> Iterator[Entry]:
    """All files below a folder, in an order of their own."""
    for path in sorted(folder.iterdir()):
        if path.name in LEFT_OUT:
            continue
        inner = f"{name}/{path.name}" if name else path.name
        if path.is_dir():
            yield from tree(path, inner)
        else:
            yield inner, path


def digest_of(base: str, entries: list[Entry]) -> str:
    """What an image is made from, as one hash; how it is made counts, too."""
    digest = hashlib.sha256(f"{base}\n".encode() + Path(__file__).read_bytes())
    for name, path in entries:
        content = hashlib.sha256()
        with path.open("rb") as source:
            while chunk := source.read(1 << 20):
                content.update(chunk)
        digest.update(f"{name} {mode_of(path):o} {content.hexdigest()}\n".encode())
    return digest.hexdigest()


def mode_of(path: Path) -> int:
    """Its mode in the image, where it belongs to root and everybody may read it."""
    return 0o755 if os.access(path, os.X_OK) or path.name in PROGRAMS else 0o644


def framework_of(entries: list[Entry]) -> str:
    """``onnxruntime 1.23.0``, from the name of its metadata; empty if it is not in the context."""
    found = (re.search(r"/(onnxruntime-[^/]+)\.dist-info/METADATA$", name) for name, _ in entries)
    return next((match[1].replace("-", " ") for match in found if match), "")


def send(entries: list[Entry], out: IO[bytes]) -> None:
    """Write a build context; the same for the same files, so that the engine's cache holds."""
    with tarfile.open(fileobj=out, mode="w|", bufsize=1 << 20) as archive:
        for name, path in entries:
            member = tarfile.TarInfo(name)  # owner 0, time 0
            member.size = path.stat().st_size
            member.mode = mode_of(path)
            with path.open("rb") as content:
                archive.addfile(member, content)


def build(image: Image, base: str) -> None:
    """Build an image, unless the engine has it from the same inputs."""
    under = base_id(base)
    entries = list(own_files(image))
    for name, lock, only in image.packages:
        entries += tree(install(lock, say, only), name)
    entries += image.extra()
    digest = digest_of(under, entries)
    label = docker(
        "image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image.tag
    )
    if label.returncode == 0 and label.stdout.strip() == digest:
        return
    say(f"building {image.tag}")
    before = image_id(image.tag)
    environment, options = dict(os.environ), ["--load"]
    if docker("buildx", "version").returncode != 0:
        environment["DOCKER_BUILDKIT"], options = "0", []
    command = [
        *("docker", "build", *options, "--tag", image.tag, "--label", f"{LABEL}={digest}"),
        *("--label", f"{FRAMEWORK_LABEL}={framework_of(entries)}"),
        # all that it needs is in the context
        *("--network", "none", "--build-arg", f"BASE_IMAGE={base}", "-"),
    ]
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
        ) as builder:
            assert builder.stdin is not None, "a pipe"
            # a build that ends early says why in its log
            with contextlib.suppress(BrokenPipeError), builder.stdin as context:
                send(entries, context)
        if builder.returncode != 0:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
            raise OutsideFailure("docker build failed: " + "\n".join(said[-10:]), where=image.tag)
    if before is not None and before != image_id(image.tag):
        remove_untagged(before)


def remove_untagged(image: str) -> None:
    """Remove an image that a new build took the tag from, if it has no other and is not in use."""
    tags = docker("image", "inspect", "--format", "{{len .RepoTags}}", image)
    if tags.stdout.strip() == "0":
        docker("image", "rm", image)


def main() -> int:
    """Build what the command line names; its tags on standard output."""
    parser = argparse.ArgumentParser(prog="scripts/images/build", description=__doc__)
    parser.add_argument("image", nargs="+", choices=sorted(IMAGES))
    parser.add_argument(
        "--base", default=BASE, help="base image: CPython 3.11, glibc 2.35 or later"
    )
    parser.add_argument("-H", "--host", help="another engine, as docker -H (or DOCKER_HOST)")
    chosen = parser.parse_args()
    if chosen.host:
        os.environ["DOCKER_HOST"] = chosen.host
    try:
        for name in chosen.image:
            build(IMAGES[name], chosen.base)
            print(IMAGES[name].tag, flush=True)
    except IgprofError as error:
        say(f"images/build: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
