"""What an untrusted sweep may name: images and variables, and nothing that is more than a name."""

from __future__ import annotations

import re

from igniter_prof.errors import BadInput
from igniter_prof.records import HttpServer
from igniter_prof.serving.contract import ServeOptions

_IMAGE = re.compile(
    r"(?:sha256:[0-9a-f]{64}"
    r"|(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?/)?"  # registry
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?)",
    re.ASCII,
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_THREADS = "${threads}"
_OURS = re.compile(
    # the loader's and the interpreters' (they run other code), the search paths, and what decides
    # on GPUs, shares and marks
    r"LD_.*|GLIBC_TUNABLES|GCONV_PATH|(?:.*_)?PATH|PYTHON.*|PERL5.*|RUBY.*|NODE_OPTIONS"
    r"|(?:_?JAVA|JDK_JAVA)_.*|BASH_ENV|ENV|IFS|SHELLOPTS|PS4"
    r"|CUDA_.*|NVIDIA_.*|IGPROF_.*|DOCKER_.*|HOME|USER|HOSTNAME",
    re.ASCII,
)


def check_image(name: str) -> str:
    """The name of an image, if it is one and nothing else. Raises BadInput."""
    if len(name) > 512 or not _IMAGE.fullmatch(name):
        raise BadInput(
            f"{name!r} is no name of a container image",
            hint="write it as [registry/]name[:tag][@sha256:...]",
        )
    return name


def environment_of(http: HttpServer, threads: int) -> dict[str, str]:
    """The variables that a sweep gives its server, with the number of its cores filled in.

    Raises:
        BadInput: one is no variable, or one that is not a sweep's to set.
    """
    found = {}
    for name, value in http.environment.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise BadInput(f"{name!r} is no environment variable", where="http.environment")
        if _OURS.fullmatch(name.upper()):
            raise BadInput(
                f"{name} may not be set by a sweep",
                where="http.environment",
                hint="it changes which code runs, or which GPU; set it in the image",
            )
        found[name] = value.replace(_THREADS, str(threads))
    return found


def wants_threads(http: HttpServer) -> bool:
    """Whether a server is told how many threads it should use."""
    return any(_THREADS in value for value in http.environment.values())


def check_options(options: ServeOptions) -> None:
    """Raise BadInput unless what is named can be started as containers."""
    if options.image is not None:
        check_image(options.image)
    for model, server in options.http.items():
        if server.image is None:
            raise BadInput(
                "the docker runtime needs the image of its server",
                where=f"model {model}, http",
                hint="image: name:tag",
            )
        check_image(server.image)
        environment_of(server, 1)
