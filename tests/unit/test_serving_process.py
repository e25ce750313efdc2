"""Processes are watched by id and start time, our children or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from igniter_prof.errors import MissingCapability
from igniter_prof.serving import marks
from igniter_prof.serving.ports import free_ports
from igniter_prof.serving.process import UNKNOWN_EXIT, Process, bound, spawn


def await_end(process: Process) -> int | None:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process.poll()


def test_a_child_runs_in_its_own_session_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "echo $VALUE; echo error >&2; exit 7"
    process = spawn(["/bin/sh", "-c", script], {"VALUE": "given"}, log)
    assert await_end(process) == 7
    assert log.read_text() == "given\nerror\n"
    process.signal(signal.SIGKILL)  # to one that has ended: nothing


def test_a_killed_child_is_told_by_its_signal(tmp_path: Path) -> None:
    process = spawn(["/bin/sleep", "60"], {}, tmp_path / "log")
    assert process.poll() is None
    assert os.getsid(process.pid) == process.pid
    process.signal(signal.SIGKILL)
    assert await_end(process) == -signal.SIGKILL


def test_a_child_that_ignores_pipes_at_its_parent_does_not_inherit_that(tmp_path: Path) -> None:
    process = spawn(["/bin/sh", "-c", "kill -PIPE $$; exit 0"], {}, tmp_path / "log")
    assert await_end(process) == -signal.SIGPIPE


def test_somebody_elses_process_is_watched_too() -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os,time\nif os.fork(): os._exit(0)\n"
            "print(os.getpid(), flush=True)\ntime.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        process = Process(pid, marks.start_ticks(pid))
        assert process.poll() is None
        # the same id with another start time is another process
        assert Process(pid, 1).poll() == UNKNOWN_EXIT
        process.signal(signal.SIGKILL)
        assert await_end(process) == UNKNOWN_EXIT


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingCapability, match="no-such-program"):
        spawn(["no-such-program"], {}, tmp_path / "log")


def test_cores_are_bound_and_only_the_main_thread_ties_a_child_to_itself() -> None:
    assert bound(["server"], (), with_parent=False) == ["server"]
    assert bound(["server"], (0, 2), with_parent=False) == [
        "taskset",
        "--cpu-list",
        "0,2",
        "server",
    ]
    if "--pdeathsig" in bound(["server"], (), with_parent=True):
        seen: list[list[str]] = []
        thread = threading.Thread(target=lambda: seen.append(bound(["s"], (), with_parent=True)))
        thread.start()
        thread.join()
        assert seen == [["s"]]


def test_free_ports_differ_and_are_free() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    assert all(1024 <= port < 65536 for port in ports)


def test_no_free_port_is_a_missing_capability() -> None:
    with pytest.raises(MissingCapability, match="no free port"):
        free_ports(1, "192.0.2.1")  # an address that no machine has
