"""Seconds and peak memory of ``igprof`` as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

IGPROF = (sys.executable, "-c", "from igniter_prof.cli import main; main()")

KILLED = -9

_LAUNCH = """\
import json, os, signal, sys, time
out, limit, program = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
began = time.perf_counter()
to = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
child = os.posix_spawn(
    program[0], program, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, to, 1)]
)
signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
signal.alarm(limit)
_, status, used = os.wait4(child, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - began, used.ru_maxrss]))
"""
"""Starts a program and reports on it. A program's peak memory includes that of the process that it
was forked from, up to then; so a small one has to do it."""


class Ended(NamedTuple):
    """How a process ended: its exit status (``KILLED``: at the limit), what it took."""

    status: int
    seconds: float
    peak_mib: float


def timed(
    *arguments: str | Path, out: Path = Path(os.devnull), limit_s: float = 0, quiet: bool = False
) -> Ended:
    """Run ``igprof`` with these arguments.

    Args:
        arguments: the verb and what follows it.
        out: takes its standard output.
        limit_s: it is killed after so many whole seconds; under 1: never.
        quiet: without its standard error.
    """
    launcher = [sys.executable, "-S", "-E", "-c", _LAUNCH, str(out), str(int(limit_s))]
    done = subprocess.run(
        [*launcher, *IGPROF, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        check=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    status, seconds, peak_kib = json.loads(done.stdout)
    return Ended(status, seconds, peak_kib / 1024)
