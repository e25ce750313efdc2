"""What the runtimes of ``serving`` share: their options, what they yield, how a tenant fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from igniter_prof.records import Endpoint, HttpServer, ServerMode, Status, Usage

Backend = Literal["python", "onnxruntime", "tensorrt"]
Progress = Callable[[str], None]


def silent(message: str) -> None:
    """The progress callback of those who do not want to hear of it."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How tenants are served; resolved once, then only passed down."""

    runtime: str = "local"
    """``local``, ``docker``, ``remote``, or an entry point of ``igniter_prof.runtimes``."""
    triton: Path | None = None
    """A ``tritonserver`` to use instead of the one on PATH or the cached wheel (local)."""
    repository: Path | None = None
    """The user's own model repository (local); None: the one that comes with igprof."""
    backend: Backend = "python"
    """The Triton backend that the tenants are rendered for (local)."""
    server: ServerMode = "own"
    """``own``: a server a tenant; ``shared``: all tenants in one server, without shares."""
    start_timeout_s: float = 120.0
    """How long a server and its models may take to become ready."""
    address: str | None = None
    """``host:port`` or ``http(s)://host:port`` of a Triton that already runs (remote)."""
    grpc_address: str | None = None
    """``host:port`` of its gRPC service; None: not known (remote)."""
    metrics_address: str | None = None
    """``host:port`` of its metrics; None: not known (remote)."""
    ca_file: Path | None = None
    """Certificates that a TLS server is checked against; None: the system's (remote)."""
    headers: tuple[tuple[str, str], ...] = ()
    """Names and values sent with every request, such as Authorization. Never stored (remote)."""
    image: str | None = None
    """Triton's container image; None: the usual one (docker)."""
    pull: bool = False
    """Whether images that are not there may be downloaded; only a user's flag says so (docker)."""
    share_mechanism: str | None = None
    """One of ``serving.shares.MECHANISMS``; None: the device's usual."""
    http: Mapping[str, HttpServer] = field(default_factory=dict)
    """The models that are served by no Triton, and how (docker, remote)."""

    def __repr__(self) -> str:
        # header values are secrets: a traceback or a log must not show them
        names = ", ".join(name for name, _ in self.headers)
        return f"ServeOptions(runtime={self.runtime!r}, server={self.server!r}, headers=[{names}])"


class TenantFailure(Exception):
    """A tenant that could not be served: no failure of igprof, but the result of its cell."""

    def __init__(self, index: int, status: Status, detail: str) -> None:
        super().__init__(f"tenant {index}: {status}: {detail}")
        self.index = index
        self.status: Status = status
        self.detail = detail


class Deployment(Protocol):
    """Tenants that run. May be used from several threads; ends with the context that made it."""

    @property
    def runtime(self) -> str:
        """``local``, ``remote``, ..."""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """One for each tenant, in their order."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What every request must carry (secrets: never stored)."""

    @property
    def ca_file(self) -> Path | None:
        """Certificates that a TLS server is checked against."""

    def usage(self, index: int) -> Usage | None:
        """What a tenant's server has used so far; None where it is not known.

        With a shared server it is that of the whole server.
        """

    def ending(self, index: int) -> tuple[Status, str] | None:
        """How a tenant's server ended and why; None while it is alive."""

    def log_tail(self, index: int) -> str:
        """The last lines of a tenant's server log; empty where there is none."""

    def conditions(self) -> dict[str, Any]:
        """Fields of :class:`~igniter_prof.records.Conditions` that the runtime knows."""
