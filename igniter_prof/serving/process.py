"""A server's process: started in its own session, watched whether or not it is our child."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from igniter_prof.errors import MissingCapability
from igniter_prof.serving import marks

UNKNOWN_EXIT = 1000
"""Exit code of a process that was not our child, so that only its parent knows it."""
DYING_S = 1.0


@dataclass
class Process:
    """A process by its id and start time, so that a recycled id is not mistaken for it."""

    pid: int
    start_ticks: int | None
    _exit: int | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def poll(self) -> int | None:
        """None while it runs; else its exit code, negative for a signal, or UNKNOWN_EXIT."""
        with self._lock:
            if self._exit is None:
                self._exit = self._ask()
            return self._exit

    def _ask(self) -> int | None:
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            # not our child: launched by another igprof
            running = marks.start_ticks(self.pid) == self.start_ticks
            return None if running and self.start_ticks is not None else UNKNOWN_EXIT
        deadline = time.monotonic() + DYING_S
        while pid == 0 and marks.start_ticks(self.pid) is None and time.monotonic() < deadline:
            # its first thread is dead and others are dying: it cannot be collected just yet
            time.sleep(0.001)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def bound(arguments: Sequence[str], cores: Sequence[int], *, with_parent: bool) -> list[str]:
    """``arguments`` wrapped so that they run on ``cores`` only.

    With ``with_parent`` the kernel kills the process when the thread that started it ends: only
    the main thread may ask for that, others end before their process does.
    """
    wrapped = list(arguments)
    if with_parent and threading.current_thread() is threading.main_thread():
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            wrapped = [setpriv, "--pdeathsig", "KILL", "--", *wrapped]
    if cores:
        wrapped = ["taskset", "--cpu-list", ",".join(map(str, cores)), *wrapped]
    return wrapped


def spawn(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """Start a program in a session of its own, so that a Ctrl-C at the terminal is not its.

    Raises:
        MissingCapability: the program is not there.
    """
    program = shutil.which(arguments[0])
    if program is None:
        raise MissingCapability(
            f"'{arguments[0]}' is missing", hint="sudo apt-get install util-linux"
        )
    output = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        program,
        list(arguments),
        dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), output, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        # Python ignores these, and a child would inherit that
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )
    return Process(pid=pid, start_ticks=marks.start_ticks(pid))
