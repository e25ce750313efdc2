"""The container engine: which one (DOCKER_HOST, a context, the usual socket), and asking it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import docker
import docker.errors
import requests
from docker.context import ContextAPI
from docker.tls import TLSConfig

from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure

USUAL = "unix:///var/run/docker.sock"
TIMEOUT_S = 60.0
PING_TIMEOUT_S = 5.0
MIN_API = (1, 40)
"""Of Docker 19.03: the first whose containers can ask for GPUs."""
INSTALL_HINT = (
    "sudo apt-get install docker.io && sudo usermod -aG docker $USER, then log in again;"
    " or set DOCKER_HOST"
)


_PASSWORD = re.compile(r"(://[^/:@]*):.*@", re.DOTALL)
_answered: set[str] = set()
"""Addresses of engines that have answered this process."""


@dataclass(frozen=True)
class Address:
    """Where an engine is."""

    url: str
    """``unix://``, ``tcp://``, ``http(s)://`` or ``ssh://``."""
    source: str
    """Who said so, for people: DOCKER_HOST, a context, or the default."""
    tls: TLSConfig | None = None

    @property
    def host(self) -> str:
        """The machine that its published ports are reached at."""
        return urlsplit(self.url).hostname or "127.0.0.1"


@dataclass(frozen=True)
class Engine:
    """An engine that answered. Its methods may be called from several threads."""

    address: Address
    client: docker.APIClient
    info: dict[str, Any]
    """As ``docker info`` tells it."""

    @property
    def local(self) -> bool:
        """Whether its containers are processes of this very system, whose files we can read.

        Not so for a socket that leads elsewhere: into a virtual machine, out of a container.
        """
        return (
            self.address.url.startswith("unix://")
            and self.info.get("Name") == os.uname().nodename
            and self.info.get("KernelVersion") == platform.release()
        )

    @property
    def version(self) -> str:
        """Such as ``docker 20.10.24+dfsg1``."""
        return f"docker {self.info.get('ServerVersion', '?')}"

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def find() -> Address:
    """The engine that the ``docker`` command would use.

    DOCKER_HOST comes first, then DOCKER_CONTEXT, then the current context, then the usual socket.

    Raises:
        BadInput: the context does not exist or cannot be read, or the TLS settings are wrong.
    """
    if host := os.environ.get("DOCKER_HOST"):
        return Address(host, "DOCKER_HOST", _tls_from_environment())
    named = os.environ.get("DOCKER_CONTEXT")
    try:
        context = ContextAPI.get_context(named)
    except Exception as error:  # the SDK raises bare Exceptions for damaged files
        raise BadInput(
            f"the docker context cannot be read: {error}", hint="docker context ls"
        ) from error
    if context is None:
        raise BadInput(
            f"there is no docker context '{named or 'of the configuration'}'",
            hint="docker context ls",
        )
    if context.name == "default":
        return Address(USUAL, "default")
    endpoint = context.endpoints.get("docker") or {}
    if not endpoint.get("Host"):
        raise BadInput(f"the docker context '{context.name}' names no engine")
    return Address(endpoint["Host"], f"context {context.name}", context.tls_cfg.get("docker"))


def _tls_from_environment() -> TLSConfig | None:
    """As the docker command reads DOCKER_TLS_VERIFY and DOCKER_CERT_PATH."""
    verify, folder = os.environ.get("DOCKER_TLS_VERIFY"), os.environ.get("DOCKER_CERT_PATH")
    if not verify and not folder:
        return None
    folder = folder or os.path.expanduser("~/.docker")  # noqa: PTH111 (the SDK takes strings)
    try:
        return TLSConfig(
            client_cert=(f"{folder}/cert.pem", f"{folder}/key.pem"),
            ca_cert=f"{folder}/ca.pem" if verify else None,
            verify=bool(verify),
        )
    except docker.errors.TLSParameterError as error:
        raise BadInput(f"the certificates for the engine: {error}", where=folder) from error


def connect(address: Address | None = None) -> Engine:
    """Connect to the engine.

    Raises:
        BadInput: its address is none.
        MissingCapability: it does not answer, or is too old.
        OutsideFailure: it does not answer any more.
    """
    address = address or find()
    client = open_client(address)
    try:
        try:
            engine = Engine(address, client, client.info())
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise _unanswered(address, error) from error
        found = tuple(int(part) for part in client.api_version.split("."))
        if found < MIN_API:
            raise MissingCapability(
                f"the engine is too old: its API is {client.api_version}",
                where=engine.version,
                hint="igprof needs Docker 19.03 or later",
            )
    except BaseException:
        client.close()
        raise
    _answered.add(address.url)
    return engine


def open_client(address: Address) -> docker.APIClient:
    """A client of an engine. Raises as ``connect``."""
    try:
        return docker.APIClient(
            base_url=address.url,
            version="auto",
            timeout=int(TIMEOUT_S),
            tls=address.tls or False,
            use_ssh_client=address.url.startswith("ssh://"),
        )
    except docker.errors.TLSParameterError as error:
        raise BadInput(f"the certificates for the engine: {error}") from error
    # the SDK does not say that a port is no number: the URL's parser does
    except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as error:
        unread = isinstance(error, ValueError) and not isinstance(error, requests.RequestException)
        if unread or "Invalid bind address" in str(error):
            raise BadInput(
                f"'{_shown(address.url)}' is no address of an engine ({address.source})",
                hint="unix:///path, tcp://host:port or ssh://user@host",
            ) from error
        raise _unanswered(address, error) from error


def _unanswered(address: Address, error: BaseException) -> MissingCapability | OutsideFailure:
    """An engine that was there before has gone; one that never was is missing."""
    kind = OutsideFailure if address.url in _answered else MissingCapability
    return kind(
        f"no container engine answers: {_reason(error)}",
        where=f"{_shown(address.url)} ({address.source})",
        hint=_hint(address, error),
    )


@contextlib.contextmanager
def asking(engine: Engine, doing: str) -> Iterator[None]:
    """What goes wrong while the engine is asked becomes an OutsideFailure that says so."""
    try:
        yield
    except docker.errors.APIError as error:
        raise OutsideFailure(
            f"{doing}: {error.explanation or error}", where=engine.version
        ) from error
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise gone(engine, f"{doing}: {_reason(error)}") from error


def gone(engine: Engine, what: str) -> OutsideFailure:
    """The engine does not answer any more."""
    return OutsideFailure(
        f"the container engine went away ({what})",
        where=f"{_shown(engine.address.url)} ({engine.address.source})",
        hint="start it (sudo systemctl start docker), then run the same command again",
    )


class Lifeline:
    """Notices at once that an engine goes away: the stream of its events ends.

    An engine that is stopped closes its connections before it stops its containers, so that their
    deaths are not mistaken for something of their own. The events listened to are those of memory
    that ran out in containers with some label.
    """

    def __init__(self, engine: Engine, label: str) -> None:
        self._out_of_memory: set[str] = set()
        self._client = open_client(engine.address)
        self._lost = threading.Event()
        self._closing = False
        try:
            with asking(engine, "its events cannot be listened to"):
                self._stream = self._client.events(
                    filters={"label": label, "event": "oom"}, decode=True
                )
        except BaseException:
            self._client.close()
            raise
        self._thread = threading.Thread(target=self._listen, name="igprof-engine", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether the engine went away since."""
        return self._lost.is_set()

    def ran_out_of_memory(self, container: str) -> bool:
        """Whether the engine has said so of a container, by its id."""
        return container in self._out_of_memory

    def _listen(self) -> None:
        with contextlib.suppress(Exception):  # however the stream ends, it has ended
            for event in self._stream:
                self._out_of_memory.add(str(event.get("id")))
        if not self._closing:
            self._lost.set()

    def close(self) -> None:
        """Hang up."""
        self._closing = True
        with contextlib.suppress(Exception):  # of a connection that is closed already
            self._stream.close()
        self._thread.join(PING_TIMEOUT_S)
        self._client.close()


def _shown(url: str) -> str:
    """An address without the password that may be in it."""
    # by hand: it may be no URL at all
    return _PASSWORD.sub(r"\1:***@", url)


def _reason(error: BaseException) -> str:
    """The innermost reason of an error of the SDK, which wraps them deeply."""
    text = str(error)
    for known in ("Permission denied", "Connection refused", "No such file or directory"):
        if known in text:
            return known
    return text or type(error).__name__


def _hint(address: Address, error: BaseException) -> str:
    if address.url.startswith("unix://"):
        if "Permission denied" in str(error):
            return "sudo usermod -aG docker $USER, then log in again"
        if "Connection refused" in str(error):
            return "sudo systemctl start docker"
        return INSTALL_HINT
    if "paramiko" in str(error):
        return "the Python package paramiko makes ssh:// possible: pip install paramiko"
    return "check the address and that the engine listens there: docker version"
