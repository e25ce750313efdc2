"""One tenant's container: created, started, ready, used, ended."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker.errors
import requests

from igniter_prof.errors import MissingCapability, OutsideFailure
from igniter_prof.records import HttpServer, Status, Usage
from igniter_prof.serving import cgroup, logs, marks
from igniter_prof.serving.cgroup import Group
from igniter_prof.serving.contract import TenantFailure
from igniter_prof.serving.docker.engine import Engine, Lifeline, asking, gone
from igniter_prof.serving.docker.oom import OomWatch
from igniter_prof.serving.docker.spec import Recipe
from igniter_prof.serving.docker.stats import usage_of

POLL_S = 0.01
ASK_EVERY_S = 1.0
"""How often an engine elsewhere is asked whether a container still runs."""
SETTLE_S = 5.0
"""How long the engine may take to notice that a container ended."""
MOMENT_S = 0.3
"""After a death the engine is given that long to go away too, before the tenant is blamed."""
LOG_LINES = 500
REMOVED = "removed"
ENGINE_SAYS = "by the word of the engine (no counter could be read) the kernel killed it"
_NO_GPUS = ("could not select device driver", "nvidia-container-cli", "libnvidia-container")
_OOM_AT_START = "OOM-killed"


@dataclass
class Phases:
    """Seconds of each phase of a start; None: not there yet."""

    create_s: float | None = None
    start_s: float | None = None
    serve_s: float | None = None
    load_s: float | None = None

    @property
    def ready_s(self) -> float | None:
        """All of them together."""
        parts = (self.create_s, self.start_s, self.serve_s, self.load_s)
        return None if None in parts else sum(part or 0.0 for part in parts)


@dataclass
class Container:
    """A container that was created. May be used from several threads once it is ready."""

    engine: Engine
    recipe: Recipe
    id: str
    name: str
    log: Path
    """Where its log is copied to when somebody wants to read it."""
    models: tuple[str, ...] = ()
    """Triton's models in it."""
    http: HttpServer | None = None
    lifeline: Lifeline | None = None
    """Where the engine tells of memory that ran out."""
    phases: Phases = field(default_factory=Phases)
    started_s: float | None = None
    """Monotonic clock when the engine had started it."""
    pid: int | None = None
    """Of its first process, as this host numbers it; None with an engine elsewhere."""
    group: Group | None = None
    addresses: Mapping[int, str] = field(default_factory=dict)
    """``host:port`` of each of its ports."""
    start_ticks: int | None = None
    """When that process started, so that a recycled id is not mistaken for it."""
    _oom: OomWatch | None = None
    _ended: tuple[Status, str] | None = None
    _asked_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Start it and find out where it is.

        Raises:
            TenantFailure: it did not start: its program is missing, or it ran out of memory at
                once.
            MissingCapability: it was granted a GPU, and the engine cannot give one.
            OutsideFailure: the engine went away.
        """
        began = time.monotonic()
        try:
            self.engine.client.start(self.id)
        except docker.errors.APIError as error:
            self._expect_engine("while a container was started")
            text = str(error.explanation or error)
            if any(part in text for part in _NO_GPUS):
                raise MissingCapability(
                    f"the engine cannot give a container a GPU: {text}",
                    where=self.engine.version,
                    hint="install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure"
                    " --runtime=docker && sudo systemctl restart docker",
                ) from error
            status: Status = "oom" if _OOM_AT_START in text else "crashed"
            raise TenantFailure(self.recipe.indices[0], status, f"did not start: {text}") from error
        except (requests.RequestException, OSError) as error:
            raise gone(self.engine, "while a container was started") from error
        self.started_s = time.monotonic()
        self.phases.start_s = self.started_s - began
        state = self._inspect()
        if self.engine.local and state["State"].get("Pid"):
            self.pid = int(state["State"]["Pid"])
            self.start_ticks = marks.start_ticks(self.pid)
            self.group = cgroup.of_process(self.pid)
            if self.group is not None and self.id not in str(self.group.cpu):
                self.group = None  # it ended meanwhile, and its id is somebody else's now
            if self.group is not None and self.group.memory is not None:
                self._oom = OomWatch(self.group)
        self.addresses = self._find_addresses(state)

    def _find_addresses(self, state: dict[str, Any]) -> dict[int, str]:
        network = state.get("NetworkSettings") or {}
        if self.engine.local:
            # its own address on the bridge: what is published goes through a proxy
            networks = network.get("Networks") or {}
            address = next((each["IPAddress"] for each in networks.values()), "")
            return {port: f"{address}:{port}" for port in self.recipe.ports} if address else {}
        host = self.engine.address.host
        shown = f"[{host}]" if ":" in host else host
        found = {}
        for port in self.recipe.ports:
            bindings = (network.get("Ports") or {}).get(f"{port}/tcp") or ()
            if bindings:
                found[port] = f"{shown}:{bindings[0]['HostPort']}"
        return found

    def alive(self) -> bool:
        """Whether its first process runs (local engine); cheap."""
        return self.pid is not None and marks.start_ticks(self.pid) == self.start_ticks is not None

    def ending(self) -> tuple[Status, str] | None:
        """How it ended and why; None while it is alive and whole.

        With a local engine this reads two small files; the engine is asked when the process is
        gone. An engine elsewhere is asked once a second.

        Raises:
            OutsideFailure: the engine went away.
        """
        with self._lock:
            if self._ended is None:
                self._ended = self._find_ending()
            return self._ended

    def _find_ending(self) -> tuple[Status, str] | None:
        if self._kills():
            return self._out_of_memory("the kernel killed it")
        if self.alive():
            return None
        if self.group is None and self.lifeline and self.lifeline.ran_out_of_memory(self.id):
            return self._out_of_memory(ENGINE_SAYS)
        if self.pid is None:
            if time.monotonic() - self._asked_s < ASK_EVERY_S:
                return None
            self._asked_s = time.monotonic()
        state = self._settled()
        if state is None:
            return None
        if self._kills():
            return self._out_of_memory("the kernel killed it")
        if state.get("OOMKilled"):
            return self._out_of_memory(ENGINE_SAYS)
        self._expect_engine(f"when {self.name} ended")
        return "crashed", self._crash(state)

    def _expect_engine(self, when: str) -> None:
        """Raise OutsideFailure if the engine goes too: then it is no end of the container's own."""
        time.sleep(MOMENT_S)
        with asking(self.engine, when):
            self.engine.client.ping()

    def _kills(self) -> int:
        """OOM kills by the counter; nobody watched it before we were there (a launched one)."""
        if self._oom is not None:
            return self._oom.kills
        return (self.group.oom_kills() or 0) if self.group is not None else 0

    def _settled(self) -> dict[str, Any] | None:
        """What the engine says of the end, once it knows of it; None while all is well."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            state: dict[str, Any] = self._inspect()["State"]
            if state.get("OOMKilled"):
                return state  # perhaps its first process lives on, of no use
            if not state.get("Running") and state.get("Status") in ("exited", "dead", REMOVED):
                return state
            if self.pid is None:
                return None
            if time.monotonic() > deadline:
                raise OutsideFailure(
                    "the engine says that a container runs whose process is gone",
                    where=self.name,
                    hint="sudo systemctl restart docker",
                )
            time.sleep(POLL_S)

    def _out_of_memory(self, who: str) -> tuple[Status, str]:
        cap = self.recipe.grant.caps.memory_mib
        limit = "for want of memory" if cap is None else f"at its memory cap of {cap:g} MiB"
        return "oom", f"{who} {limit}"

    def _crash(self, state: dict[str, Any]) -> str:
        if state["Status"] == REMOVED:
            return "it was removed by somebody"
        code = int(state.get("ExitCode") or 0)
        self._save_log()
        reason = logs.cause(self.log)
        if code > 128 and code - 128 in set(signal.Signals):
            name = signal.Signals(code - 128).name
            return f"ended by {name} (exit status {code}); its log ends with: {reason}"
        return f"ended with exit status {code}; its log ends with: {reason}"

    def usage(self) -> Usage | None:
        """What it has used so far; None once it has ended."""
        if self.group is not None:
            found = self.group.usage()
            if found is not None and self._oom is not None:
                kills = max(found.oom_kills or 0, self._oom.kills)
                found = found.model_copy(update={"oom_kills": kills})
            return found
        try:
            stats = self.engine.client.stats(self.id, stream=False, one_shot=_one_shot(self.engine))
        except (docker.errors.DockerException, requests.RequestException, OSError):
            return None
        return usage_of(stats, limited=self.recipe.grant.caps.quota_us is not None)

    def pids(self) -> list[int]:
        """Its processes, as the engine's host numbers them. Raises OutsideFailure."""
        with asking(self.engine, f"{self.name} cannot be looked into"):
            table = self.engine.client.top(self.id)
        column = table["Titles"].index("PID")
        return [int(row[column]) for row in table["Processes"] or ()]

    def log_tail(self, lines: int = logs.TAIL_LINES) -> str:
        """The last lines of its log, without Triton's tables."""
        self._save_log()
        return logs.tail(self.log, lines)

    def close(self) -> None:
        """Stop watching; the container stays."""
        if self._oom is not None:
            self._oom.close()

    def _inspect(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.engine.client.inspect_container(self.id)
        except docker.errors.NotFound:
            # removed by somebody: nothing is known of how it ended
            return {"State": {"Status": REMOVED}}
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise gone(self.engine, f"while it was asked for {self.name}") from error
        return found

    def read_log(self) -> str:
        """The end of its log; empty if there is none, or the engine does not answer."""
        try:
            raw: bytes = self.engine.client.logs(self.id, tail=LOG_LINES)
        except (docker.errors.DockerException, requests.RequestException, OSError):
            return ""
        return raw.decode(errors="replace")

    def _save_log(self) -> None:
        text = self.read_log()
        if text:
            with contextlib.suppress(OSError):
                self.log.write_text(text)


def _one_shot(engine: Engine) -> bool | None:
    """Without, the engine waits a second for another sample; older ones cannot but."""
    major, minor = (int(part) for part in engine.client.api_version.split("."))
    return True if (major, minor) >= (1, 41) else None


def of_tenant(containers: Sequence[Container], index: int) -> Container:
    """The container that serves a tenant."""
    return next(each for each in containers if index in each.recipe.indices)
