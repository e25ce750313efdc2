"""When a container's server is ready, and how long each phase until then took."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from datetime import datetime
from urllib.parse import quote

from igniter_prof import probe
from igniter_prof.errors import OutsideFailure
from igniter_prof.serving.contract import TenantFailure
from igniter_prof.serving.docker.container import POLL_S, Container
from igniter_prof.serving.docker.spec import HTTP_PORT

PROBE_TIMEOUT_S = 1.0
_LOADED = re.compile(
    r"^I(\d{4} \d\d:\d\d:\d\d\.\d+) .*\"?(?:loading: |successfully loaded )", re.MULTILINE
)


def start_all(all_containers: Sequence[Container], timeout_s: float) -> None:
    """Start all at once and wait for all; the first failure ends the wait.

    Raises:
        TenantFailure: one ended, or was not ready in time.
        OutsideFailure: the engine went away.
    """
    stop = threading.Event()

    def run(each: Container) -> None:
        each.start()
        await_ready(each, timeout_s, stop)

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


def await_ready(container: Container, timeout_s: float, stop: threading.Event) -> None:
    """Wait until the server and all its models are ready; times the phases.

    Args:
        container: that was started.
        timeout_s: since then.
        stop: set when the answer is of no interest any more.

    Raises:
        TenantFailure: it ended, or was not ready in time.
        OutsideFailure: the engine went away.
    """
    phases = container.phases
    # it works while the engine is asked where it is
    began = container.started_s or time.monotonic()
    while not stop.is_set():
        if phases.serve_s is None and _answers(container):
            phases.serve_s = time.monotonic() - began
        ready = phases.serve_s is not None and _is_ready(container)
        waited_s = time.monotonic() - began
        if (ending := container.ending()) is not None:
            raise TenantFailure(container.recipe.indices[0], *ending)
        if ready:
            assert phases.serve_s is not None
            phases.load_s = waited_s - phases.serve_s
            _split_by_log(container)
            return
        if waited_s > timeout_s:
            raise TenantFailure(
                container.recipe.indices[0],
                "timeout",
                f"not ready after {timeout_s:g} s; its log ends with:\n{container.log_tail(5)}",
            )
        stop.wait(POLL_S)


def http_address(container: Container) -> str | None:
    """``host:port`` of its HTTP service; None if it has no address yet."""
    port = HTTP_PORT if container.http is None else container.http.port
    return container.addresses.get(port)


def _answers(container: Container) -> bool:
    """Whether its server answers at all, whatever."""
    address, server = http_address(container), container.http
    if address is None:
        return False
    try:
        if server is not None and server.ready_path is None:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S).close()
        else:
            path = "/v2/health/live" if server is None else str(server.ready_path)
            probe.get(address, path, timeout_s=PROBE_TIMEOUT_S)
    except (probe.Unreachable, OSError):
        return False
    return True


def _is_ready(container: Container) -> bool:
    address, server = http_address(container), container.http
    assert address is not None, "it answered"
    if server is None:
        names = (quote(name, safe="") for name in container.models)
        paths = ["/v2/health/ready", *(f"/v2/models/{name}/ready" for name in names)]
    elif server.ready_path is None:
        return True
    else:
        paths = [server.ready_path]
    try:
        statuses = [probe.get(address, path, timeout_s=PROBE_TIMEOUT_S)[0] for path in paths]
    except probe.Unreachable:
        return False
    return all(200 <= status < 300 for status in statuses)


def _split_by_log(container: Container) -> None:
    """Triton answers only when its models are loaded: its log tells how long that took."""
    phases = container.phases
    if container.http is not None or phases.serve_s is None or phases.load_s is None:
        return
    stamps = [
        datetime.strptime(f"2000{text}", "%Y%m%d %H:%M:%S.%f")
        for text in _LOADED.findall(container.read_log())
    ]
    if len(stamps) < 2:
        return
    loading_s = (max(stamps) - min(stamps)).total_seconds()
    if 0 < loading_s < phases.serve_s:
        phases.serve_s -= loading_s
        phases.load_s += loading_s
