"""The control daemon of MPS: started, asked, stopped; or one that was there, which is only asked.

All is said to it through ``nvidia-cuda-mps-control``, whose standard input takes commands and whose
environment names the folder of the daemon's pipes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from igniter_prof import files
from igniter_prof.errors import MissingCapability, OutsideFailure
from igniter_prof.serving import marks
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares.mps_clients import Client, parse_clients

PROGRAM = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
LOGS = "CUDA_MPS_LOG_DIRECTORY"
DRIVER_PROGRAMS = "/usr/local/nvidia/bin"
"""Where NVIDIA's container tools mount the driver's programs; not always on PATH."""
USUAL_PIPES = Path("/tmp/nvidia-mps")
PID_FILE = f"{PROGRAM}.pid"
LONGEST_SOCKET = "control_privileged"
"""The longest name of a socket that the daemon makes in its folder."""
SOCKET_PATH_MAX = 107
"""Characters of a Unix socket's path (sun_path without its end)."""
ASK_TIMEOUT_S = 10.0
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 10.0
FIX = "install the NVIDIA driver's compute utilities (nvidia-compute-utils)"


@dataclass(frozen=True)
class Daemon:
    """A control daemon, by the folder of its pipes."""

    pipes: Path
    own: bool
    """Whether igprof started it, and so may stop it."""

    def ask(self, command: str, timeout_s: float = ASK_TIMEOUT_S) -> str:
        """What the daemon answers to a command.

        Raises:
            OutsideFailure: it does not answer, or says no.
        """
        try:
            done = subprocess.run(
                [program()],
                input=f"{command}\n",
                env=_environment(self.pipes),
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OutsideFailure(
                f"the MPS daemon does not answer to '{command}': {error}", where=str(self.pipes)
            ) from error
        if done.returncode != 0 or "Cannot find MPS control daemon" in done.stdout + done.stderr:
            said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
            raise OutsideFailure(
                f"no MPS daemon answers to '{command}': {said}", where=str(self.pipes)
            )
        return done.stdout

    def answers(self) -> bool:
        """Whether a daemon listens at these pipes."""
        try:
            self.servers()
        except (OutsideFailure, MissingCapability):
            return False
        return True

    def servers(self) -> list[int]:
        """Process ids of its servers; none before the first client."""
        return _numbers(self.ask("get_server_list"))

    def fault(self) -> str | None:
        """Why one of its servers takes no work any more; None while all do."""
        for server in self.servers():
            try:
                status = self.ask(f"get_server_status {server}").strip()
            except OutsideFailure:
                if server in self.servers():
                    raise
                continue  # it ended in between
            if "FAULT" in status.upper():
                return f"its server {server} is in state {status}"
        return None

    def clients(self) -> list[Client]:
        """Its client processes: by ``ps``, or by the lists that older daemons know."""
        with contextlib.suppress(OutsideFailure):
            found = parse_clients(self.ask("ps"))
            if found is not None:
                return found
        return [
            Client(pid)
            for server in self.servers()
            for pid in _numbers(self.ask(f"get_client_list {server}"))
        ]

    def default_pct(self) -> float | None:
        """The percentage that its clients' own cannot exceed; None where it does not tell."""
        try:
            return float(self.ask("get_default_active_thread_percentage").strip())
        except (OutsideFailure, ValueError):
            return None

    def user(self) -> int:
        """The user id of the daemon, by its socket. Raises OutsideFailure."""
        try:
            return (self.pipes / "control").stat().st_uid
        except OSError as error:
            raise OutsideFailure(
                f"the MPS daemon's socket cannot be seen: {error.strerror}", where=str(self.pipes)
            ) from error

    def server_users(self) -> set[int]:
        """The user ids of its servers: it serves one user at a time."""
        found = set()
        for server in self.servers():
            with contextlib.suppress(OSError):
                found.add((marks.PROC / str(server)).stat().st_uid)
        return found

    def visible(self) -> tuple[str, ...] | None:
        """The devices that it was started for; None: all, or that is not to be known."""
        try:
            pid = int((self.pipes / PID_FILE).read_text())
            environment = (marks.PROC / str(pid) / "environ").read_bytes()
        except (OSError, ValueError):
            return None
        for variable in environment.decode(errors="replace").split("\0"):
            name, _, value = variable.partition("=")
            if name == "CUDA_VISIBLE_DEVICES" and value:
                return tuple(part.strip() for part in value.split(","))
        return None

    def quit(self) -> None:
        """Have our own end with its servers; given up after a while, since its mark ends it."""
        assert self.own, "a daemon of others is never stopped"
        with contextlib.suppress(OutsideFailure, MissingCapability):
            self.ask("quit", timeout_s=STOP_TIMEOUT_S)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self.answers() and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(self.pipes, ignore_errors=True)


def find() -> str | None:
    """The path of ``nvidia-cuda-mps-control``; None if it is not installed."""
    return shutil.which(PROGRAM) or shutil.which(PROGRAM, path=DRIVER_PROGRAMS)


def program() -> str:
    """The path of ``nvidia-cuda-mps-control``. Raises MissingCapability."""
    found = find()
    if found is None:
        raise MissingCapability(f"MPS needs {PROGRAM}, which is not on PATH", hint=FIX)
    return found


def folder() -> Path:
    """Where the pipes of our daemons are: not in a run's folder, whose name is long for sockets."""
    return files.cache_dir() / "mps"


def remove_leftovers() -> None:
    """Remove the pipes of daemons whose runs are gone (``marks.reap`` ended the daemons)."""
    if folder().is_dir():
        tokens = {entry.name.rpartition("-")[2] for entry in marks.runs().iterdir()}
        for entry in folder().iterdir():
            if entry.name not in tokens:
                shutil.rmtree(entry, ignore_errors=True)


def listening() -> Daemon | None:
    """The daemon that clients would find by themselves; None if none answers."""
    named = os.environ.get(PIPES)
    daemon = Daemon(Path(named) if named else USUAL_PIPES, own=False)
    # a folder that we may not enter has none for us
    return daemon if os.access(daemon.pipes / "control", os.F_OK) and daemon.answers() else None


def existing(uuid: str) -> Daemon | None:
    """The daemon that clients of a GPU would find by themselves; None if there is none for it."""
    daemon = listening()
    seen = None if daemon is None else daemon.visible()
    names = [name for name in seen or () if name.startswith(uuid[:4])]
    # indices, or a card where a slice is asked for, mean nothing here: then the clients will tell
    if seen and len(names) == len(seen) and not any(uuid.startswith(name) for name in names):
        return None
    return daemon


def start(uuid: str, mark: Mark) -> Daemon:
    """Start a daemon for one GPU, and wait until it answers.

    Args:
        uuid: of the GPU or slice.
        mark: in its environment, and so in that of its servers; its folder takes the logs.

    Raises:
        MissingCapability: there is no such program, or the folder's name is too long for sockets.
        OutsideFailure: it does not start, or does not answer.
    """
    remove_leftovers()
    daemon = Daemon(folder() / mark.token, own=True)
    longest = str(daemon.pipes / LONGEST_SOCKET)
    if len(os.fsencode(longest)) > SOCKET_PATH_MAX:
        raise MissingCapability(
            f"is too long a name for a Unix socket ({len(os.fsencode(longest))} characters,"
            f" {SOCKET_PATH_MAX} are possible)",
            where=longest,
            hint="set XDG_CACHE_HOME to a shorter folder, such as /tmp/cache",
        )
    logs = mark.folder / "mps"
    for each in (daemon.pipes, logs):
        files.make_cached(each)
    daemon.pipes.chmod(0o755)  # containers' users must reach the sockets
    environment = {
        **_environment(daemon.pipes),
        LOGS: str(logs),
        "CUDA_VISIBLE_DEVICES": uuid,
        marks.VARIABLE: f"{mark.name}-mps",
    }
    output = logs / "start.log"
    # a file, since the daemon keeps what it is given and a pipe would never end
    with output.open("wb") as log:
        try:
            done = subprocess.run(
                [program(), "-d"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                timeout=START_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OutsideFailure(f"the MPS daemon does not start: {error}", where=uuid) from error
    deadline = time.monotonic() + START_TIMEOUT_S
    while done.returncode == 0 and time.monotonic() < deadline:
        if daemon.answers():
            return daemon
        time.sleep(0.1)
    shutil.rmtree(daemon.pipes, ignore_errors=True)
    said = _tail([output, logs / "control.log"]) or f"exit status {done.returncode}"
    raise OutsideFailure(
        f"the MPS daemon does not start: {said}",
        where=uuid,
        hint=f"try it by hand: CUDA_VISIBLE_DEVICES={uuid} {PROGRAM} -f",
    )


def _environment(pipes: Path) -> dict[str, str]:
    # it finds the program of its servers there
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{DRIVER_PROGRAMS}"
    return {"PATH": path, PIPES: str(pipes)}


def _numbers(text: str) -> list[int]:
    return [int(line) for line in text.split() if line.isdigit()]


def _tail(logs: Sequence[Path]) -> str:
    lines: list[str] = []
    for log in logs:
        with contextlib.suppress(OSError):
            lines += log.read_text(errors="replace").splitlines()
    return "; ".join(line.strip() for line in lines[-3:] if line.strip())
