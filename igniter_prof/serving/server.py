"""One Triton server as a local process: its command line, its control group, ready, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from igniter_prof import probe
from igniter_prof.errors import MissingCapability
from igniter_prof.records import Device, Status
from igniter_prof.serving import cgroup, logs, scope
from igniter_prof.serving.cgroup import Group
from igniter_prof.serving.contract import TenantFailure
from igniter_prof.serving.marks import PROC, VARIABLE, Mark
from igniter_prof.serving.ports import LOOPBACK, free_ports
from igniter_prof.serving.process import UNKNOWN_EXIT, Process, bound, spawn
from igniter_prof.serving.shares import Caps, Grant
from igniter_prof.serving.triton import Installation

POLL_S = 0.01
PROBE_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Recipe:
    """All that is needed to start a server; made before anything is started."""

    indices: tuple[int, ...]
    """The tenants that it serves."""
    models: tuple[str, ...]
    """Their names on the server."""
    repositories: tuple[Path, ...]
    grant: Grant
    threads: int

    @property
    def caps(self) -> Caps:
        """The limits of its control group."""
        return self.grant.caps


@dataclass(frozen=True)
class Ports:
    """Where a server listens, on the loopback interface."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True)
class Server:
    """A server that was started."""

    recipe: Recipe
    name: str
    """Its control group's name and what it calls itself: proof that ours answers at a port."""
    ports: Ports
    process: Process
    group: Group | None
    log: Path
    started_s: float
    """Monotonic clock at its start."""

    @property
    def http_address(self) -> str:
        """``host:port`` of its HTTP service."""
        return f"{LOOPBACK}:{self.ports.http}"

    def pids(self) -> list[int]:
        """Its process and all that come of it: stubs of the Python backend are processes."""
        children: dict[int, list[int]] = {}
        for entry in PROC.iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.process.pid]
        for pid in found:  # grows meanwhile
            found += children.get(pid, [])
        return found

    def ending(self) -> tuple[Status, str] | None:
        """How it ended and why; None while it is alive and whole."""
        # the counter decides: exit status 137 has other causes, and a killed stub leaves Triton up
        if self.group is not None and self.group.oom_kills():
            cap = self.recipe.caps.memory_mib
            limit = "for want of memory" if cap is None else f"at its memory cap of {cap:g} MiB"
            return "oom", f"the kernel killed it {limit}"
        code = self.process.poll()
        if code is None:
            return None
        reason = logs.cause(self.log)
        if code == UNKNOWN_EXIT:
            return "crashed", f"it is gone; its log ends with: {reason}"
        if code < 0:
            name = signal.Signals(-code).name
            return "crashed", f"ended by {name}; its log ends with: {reason}"
        return "crashed", reason

    def is_ready(self) -> bool:
        """Whether this very server answers that it and all of its models are ready."""
        paths = ["/v2/health/ready", *(f"/v2/models/{name}/ready" for name in self.recipe.models)]
        try:
            for path in paths:
                status, _ = probe.get(self.http_address, path, timeout_s=PROBE_TIMEOUT_S)
                if status != 200:
                    return False
            _, body = probe.get(self.http_address, "/v2", timeout_s=PROBE_TIMEOUT_S)
        except probe.Unreachable:
            return False
        return probe.document(body).get("name") == self.name

    def await_ready(self, timeout_s: float, stop: threading.Event) -> float | None:
        """Seconds from the start until it was ready; None if somebody took one of its ports.

        Args:
            timeout_s: from the start of the server.
            stop: set when the answer is of no interest any more.

        Raises:
            TenantFailure: it ended, or was not ready in time; with the reason in Triton's words.
        """
        while not stop.is_set():
            ready = self.is_ready()
            waited_s = time.monotonic() - self.started_s
            ending = self.ending()
            if ending is not None:
                status, detail = ending
                if status == "crashed" and logs.port_taken(self.log):
                    return None
                if self.process.poll() == cgroup.PLACEMENT_FAILED:
                    raise MissingCapability(
                        "the server may not enter its control group",
                        where=self.name,
                        hint=logs.tail(self.log, 1) or "run igprof as root",
                    )
                raise TenantFailure(self.recipe.indices[0], status, detail)
            if ready:
                return waited_s
            if waited_s > timeout_s:
                raise TenantFailure(
                    self.recipe.indices[0],
                    "timeout",
                    f"not ready after {timeout_s:g} s; its log ends with:\n"
                    f"{logs.tail(self.log, 5)}",
                )
            stop.wait(POLL_S)
        return None


def start(
    recipe: Recipe, mark: Mark, device: Device, installation: Installation, *, attempt: int = 0
) -> Server:
    """Start a server in its control group, on the device's cores, at ports that are free now.

    Raises:
        MissingCapability: limits were asked for and no control group can be made.
    """
    number = recipe.indices[0]
    name = f"{mark.name}-{number}" + (f"-{attempt}" if attempt else "")
    log = mark.folder / f"{name.removeprefix(mark.name + '-')}.log"
    ports = Ports(*free_ports(3))
    arguments = bound(
        _arguments(recipe, name, mark, ports, device, installation),
        recipe.caps.cpuset or device.cores,
        with_parent=mark.kind == "t",
    )
    group, in_scope = _place(name, recipe.caps)
    if group is not None:
        arguments = group.command(arguments)
    elif in_scope:
        arguments = scope.command(name, recipe.caps, arguments)
    started_s = time.monotonic()
    process = spawn(arguments, _environment(recipe, name, installation), log)
    if in_scope:
        group = scope.enter(process.pid, name, recipe.caps)
    return Server(recipe, name, ports, process, group, log, started_s)


def _place(name: str, caps: Caps) -> tuple[Group | None, bool]:
    """A group made by us, or True for a scope; neither if there is no limit and no right."""
    try:
        return cgroup.create(name, caps), False
    except MissingCapability:
        if scope.available():
            return None, True
        if caps.any:
            raise
        return None, False  # without limits the group is only there to be read


def _arguments(
    recipe: Recipe,
    name: str,
    mark: Mark,
    ports: Ports,
    device: Device,
    installation: Installation,
) -> list[str]:
    options = {
        "id": name,
        "http-address": LOOPBACK,
        "http-port": ports.http,
        "grpc-address": LOOPBACK,
        "grpc-port": ports.grpc,
        "metrics-address": LOOPBACK,
        "metrics-port": ports.metrics,
        # servers that share /dev/shm must not take each other's regions for their own
        "backend-config": f"python,shm-region-prefix-name={mark.name}-",
    }
    if installation.backends is not None:
        options["backend-directory"] = str(installation.backends)
    if device.kind == "cpu":
        options["allow-gpu-metrics"] = "false"
    return [
        str(installation.program),
        *(f"--{key}={value}" for key, value in options.items()),
        *(f"--model-repository={repository}" for repository in recipe.repositories),
    ]


def _environment(recipe: Recipe, name: str, installation: Installation) -> dict[str, str]:
    own = installation.environment
    variables = dict(os.environ) if own is None else dict(own)
    for key in [key for key in variables if key.startswith("CUDA_MPS_")]:
        del variables[key]  # a user's own settings are no share that was asked for
    threads = str(recipe.threads)
    # pools are sized from the host's cores unless they are told of the quota
    variables.update(OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads)
    variables["CUDA_VISIBLE_DEVICES"] = ",".join(recipe.grant.gpus)
    variables.update(recipe.grant.environment)
    # systemd-run --user finds its manager by these
    for key in ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"):
        if key in os.environ:
            variables[key] = os.environ[key]
    variables[VARIABLE] = name
    return variables
