"""A server that already runs somewhere: no caps, no shares, no cold start, nothing to stop.

A Triton, or any HTTP model server that the sweep describes (``models[].http``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from igniter_prof import probe
from igniter_prof.errors import BadInput, OutsideFailure, did_you_mean
from igniter_prof.records import Device, Endpoint, HttpServer, Status, Tenant, Usage
from igniter_prof.serving.contract import Progress, ServeOptions

DEFAULT_PORT = 8000
ASK_EVERY_S = 1.0
CONNECT_S = 5.0


class RemoteDeployment:
    """Models on a server that somebody else runs."""

    def __init__(self, endpoints: tuple[Endpoint, ...], options: ServeOptions) -> None:
        self.endpoints = endpoints
        self._options = options
        self._asked_s = [0.0] * len(endpoints)

    @property
    def runtime(self) -> str:
        """``remote``."""
        return "remote"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What every request must carry (secrets: never stored)."""
        return self._options.headers

    @property
    def ca_file(self) -> Path | None:
        """Certificates that the server is checked against; None: the system's."""
        return self._options.ca_file

    def usage(self, index: int) -> Usage | None:
        """None: nobody tells what the server uses."""
        return None

    def ending(self, index: int) -> tuple[Status, str] | None:
        """None while the model answers that it is ready; asked at most once a second.

        Whoever measures may call this often; the server must not notice. One bad answer is asked
        after: a server under load may once be slow, and that is what is measured here. Of a server
        that is no Triton only a connection is wanted: one that does one thing at a time answers
        no question during an inference.
        """
        if time.monotonic() - self._asked_s[index] < ASK_EVERY_S:
            return None
        self._asked_s[index] = time.monotonic()
        return self._ask(index) and self._ask(index)

    def _ask(self, index: int) -> tuple[Status, str] | None:
        endpoint = self.endpoints[index]
        path = f"{_model_path(endpoint.model_name)}/ready"
        assert endpoint.http_address is not None
        if endpoint.http is not None:
            failed = _connect_error(endpoint.http_address)
            if failed is None or isinstance(failed, TimeoutError):
                return None  # the requests' own time-out tells of a slow one
            return "crashed", f"{endpoint.http_address} takes no connection: {failed}"
        try:
            status, _ = _get(endpoint.http_address, endpoint.tls, path, self._options)
        except probe.Unreachable as error:
            return "crashed", f"{endpoint.http_address} does not answer: {error}"
        return None if status == 200 else ("crashed", f"the model is not ready (HTTP {status})")

    def log_tail(self, index: int) -> str:
        """Empty: the log is on the server."""
        return ""

    def conditions(self) -> dict[str, Any]:
        """The version of Triton, if there is one; the rest is not known from outside."""
        version = None
        triton = next((each for each in self.endpoints if each.http is None), None)
        if triton is not None:
            assert triton.http_address is not None
            with contextlib.suppress(probe.Unreachable):
                _, body = _get(triton.http_address, triton.tls, "/v2", self._options)
                version = probe.document(body).get("version")
        return {"runtime": self.runtime, "triton": None if version is None else str(version)}


@contextlib.contextmanager
def deploy_remote(
    device: Device, tenants: Sequence[Tenant], options: ServeOptions, progress: Progress
) -> Iterator[RemoteDeployment]:
    """Use models of servers that already run; see ``serving.deploy``.

    Raises:
        BadInput: there is no address, it is malformed, a tenant has a share or a cap, or the
            server has no such model.
        OutsideFailure: a server does not answer, is not ready, or refuses us.
    """
    for tenant in tenants:
        caps = (tenant.share_pct, tenant.cpu_cores, tenant.memory_mib)
        if any(cap is not None for cap in caps):
            raise BadInput(
                "a remote server takes no shares and no caps from us",
                where=f"tenant {tenant.model}",
                hint="leave share_pct, cpu_cores and memory_mib out",
            )
    tritons = [tenant for tenant in tenants if tenant.model not in options.http]
    if tritons:
        _, address, tls = parse_address(options.address)
        progress(f"asking the Triton at {address}")
        _expect_ready(address, tls, options)
        for tenant in tritons:
            _expect_model(address, tls, tenant.model, options)
    yield RemoteDeployment(
        tuple(
            _other_server(tenant, options.http[tenant.model], options, progress)
            if tenant.model in options.http
            else _triton(tenant, options)
            for tenant in tenants
        ),
        options,
    )


def _triton(tenant: Tenant, options: ServeOptions) -> Endpoint:
    host, address, tls = parse_address(options.address)
    return Endpoint(
        tenant=tenant,
        model_name=tenant.model,
        http_address=address,
        grpc_address=options.grpc_address,
        metrics_address=options.metrics_address,
        tls=tls,
        host=host,
    )


def _other_server(
    tenant: Tenant, server: HttpServer, options: ServeOptions, progress: Progress
) -> Endpoint:
    """The endpoint of an HTTP model server that is ready."""
    host, address, tls = parse_address(server.address or options.address, server.port)
    progress(f"asking the server of {tenant.model} at {address}")
    if server.ready_path is None:
        error = _connect_error(address)
        if error is not None:
            raise OutsideFailure(
                f"no server of '{tenant.model}' answers: {error.strerror or error}",
                where=address,
                hint="check the address",
            )
    else:
        # the headers are secrets for the server that the user named
        asking = options if server.address is None else dataclasses.replace(options, headers=())
        _expect_ready(address, tls, asking, server.ready_path)
    return Endpoint(
        tenant=tenant,
        model_name=tenant.model,
        http_address=address,
        http=server,
        tls=tls,
        host=host,
    )


def _connect_error(address: str) -> OSError | None:
    """Why no connection is accepted at ``host:port``; None: one is."""
    parts = urlsplit(f"//{address}")
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), CONNECT_S).close()
    except OSError as error:
        return error
    return None


def parse_address(
    text: str | None, default_port: int = DEFAULT_PORT, *, where: str = "address"
) -> tuple[str, str, bool]:
    """Host, ``host:port`` and whether it is TLS, of ``host[:port]`` or ``http(s)://host[:port]``.

    Without a port it is that of TLS, or the default one. ``where`` is named in
    the error.

    Raises:
        BadInput: it is none of these.
    """
    if not text:
        raise BadInput(
            "the remote runtime needs the server's address", where=where, hint="--address host:port"
        )
    scheme, _, rest = text.rpartition("://")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # UnicodeError, a ValueError: no host can be called so
    except ValueError:
        host, port = None, None
    extra = not host or port == 0 or parts.path.strip("/") or parts.query or parts.username
    if extra or scheme not in ("", "http", "https"):
        # the text may hold a password: do not repeat it
        raise BadInput(
            "the server's address is none",
            where=where,
            hint="host:port or http(s)://host:port, without a path; credentials go into headers",
        )
    tls = scheme == "https"
    port = port or (443 if tls else default_port)
    assert host is not None
    shown = f"[{host}]" if ":" in host else host
    return host, f"{shown}:{port}", tls


def parse_header(text: str) -> tuple[str, str]:
    """Name and value of ``name: value``. Raises BadInput, which does not repeat the value."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or "\n" in text or "\r" in text:
        raise BadInput("a header is none", hint="write it as 'name: value'")
    return name.strip(), value.strip()


def _get(address: str, tls: bool, path: str, options: ServeOptions) -> tuple[int, bytes]:
    return probe.get(address, path, tls=tls, ca_file=options.ca_file, headers=options.headers)


def _expect_ready(address: str, tls: bool, options: ServeOptions, path: str | None = None) -> None:
    """Raise OutsideFailure unless a Triton, or the server with that path, is ready."""
    try:
        status, _ = _get(address, tls, path or "/v2/health/ready", options)
    except probe.Unreachable as error:
        raise OutsideFailure(
            f"no {'server' if path else 'Triton'} answers: {error}",
            where=address,
            hint="check the address, and --ca-file if it has a certificate of its own",
        ) from error
    if status in (401, 403):
        raise OutsideFailure(
            f"the server refuses us (HTTP {status})", where=address, hint="check --header"
        )
    if not (200 <= status < 300 if path else status == 200):
        raise OutsideFailure(f"the server is not ready (HTTP {status})", where=address)


def _expect_model(address: str, tls: bool, model: str, options: ServeOptions) -> None:
    try:
        status, body = _get(address, tls, _model_path(model), options)
    except probe.Unreachable as error:
        raise OutsideFailure(
            f"was ready and does not answer when asked for the model '{model}': {error}",
            where=address,
            hint="look at the server's log",
        ) from error
    if status == 200 and probe.document(body).get("inputs"):
        return
    known = _models(address, tls, options)
    raise BadInput(
        f"the server has no model '{model}' (HTTP {status})",
        where=address,
        hint=did_you_mean(model, known) if known else None,
    )


def _model_path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _models(address: str, tls: bool, options: ServeOptions) -> list[str]:
    """Names of the models with statistics: the index needs a POST, and these are the loaded."""
    try:
        _, body = _get(address, tls, "/v2/models/stats", options)
    except probe.Unreachable:
        return []
    stats = probe.document(body).get("model_stats", [])
    return [str(entry["name"]) for entry in stats if isinstance(entry, dict) and "name" in entry]
