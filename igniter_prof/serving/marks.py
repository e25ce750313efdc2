"""Marks: whose a process, a control group, a folder or a shared-memory region is.

A mark's name is in the environment of every server (``IGPROF_MARK``), and begins the names of its
control groups, its run folder and its shared-memory regions. It tells the owner by process id and
start time, so that a recycled id is not mistaken for it. ``reap`` removes what is transient and
whose owner is dead, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from igniter_prof import files
from igniter_prof.errors import OutsideFailure

PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")
VARIABLE = "IGPROF_MARK"
STATE_FILE = "state.json"
KILL_TIMEOUT_S = 10.0

_NAME = re.compile(
    r"igprof-(?P<kind>[tl])-(?P<pid>\d+)-(?P<start>\d+)-(?P<boot>[0-9a-f]{8})-(?P<space>\d+)"
    r"-(?P<token>[0-9a-f]{8})"
)


@dataclass(frozen=True)
class Mark:
    """Who owns something, and whether it may outlive its owner."""

    kind: Literal["t", "l"]
    """``t``: transient (a sweep's), ``l``: launched (a plan's)."""
    pid: int
    start_ticks: int
    boot: str
    namespace: int
    """The inode of the owner's PID namespace: ids mean nothing in another one."""
    token: str

    @property
    def name(self) -> str:
        """The mark as it stands in names and in the environment."""
        return (
            f"igprof-{self.kind}-{self.pid}-{self.start_ticks}-{self.boot}-{self.namespace}"
            f"-{self.token}"
        )

    @property
    def folder(self) -> Path:
        """Where the run's logs, rendered repositories and state are."""
        return runs() / self.name


def mint(*, launched: bool = False) -> Mark:
    """A new mark that this process owns."""
    pid = os.getpid()
    start = start_ticks(pid)
    assert start is not None, "this process has a start time"
    return Mark(
        kind="l" if launched else "t",
        pid=pid,
        start_ticks=start,
        boot=boot_id(),
        namespace=namespace(),
        token=secrets.token_hex(4),
    )


def parse(text: str) -> Mark | None:
    """The mark that a name begins with; None if it carries none."""
    match = _NAME.match(text)
    if match is None:
        return None
    return Mark(
        kind="l" if match["kind"] == "l" else "t",
        pid=int(match["pid"]),
        start_ticks=int(match["start"]),
        boot=match["boot"],
        namespace=int(match["space"]),
        token=match["token"],
    )


def owner_alive(mark: Mark) -> bool:
    """Whether the owner still runs; also True where that cannot be known (another namespace)."""
    if mark.boot != boot_id():
        return False
    if mark.namespace != namespace():
        return True
    return start_ticks(mark.pid) == mark.start_ticks


def boot_id() -> str:
    """Eight digits of this boot's id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:8]


def namespace() -> int:
    """The inode of this process's PID namespace."""
    return Path("/proc/self/ns/pid").stat().st_ino


def host_id() -> str:
    """This machine, as told apart from others that may share a home folder with it."""
    return os.uname().nodename


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    # the command's name is in parentheses and may hold anything, also blanks and parentheses
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def runs() -> Path:
    """The folder of all run folders, made if it is not there."""
    return files.make_cached(files.cache_dir() / "run")


def write_state(mark: Mark, state: dict[str, Any]) -> None:
    """Store what a run started in its folder (durably: a next igprof relies on it)."""
    document = {"host": host_id(), **state}
    with files.atomic_write(mark.folder / STATE_FILE) as out:
        out.write(json.dumps(document, indent=2).encode())


def read_state(folder: Path) -> dict[str, Any] | None:
    """A run's state; None if there is none (yet)."""
    try:
        state = json.loads((folder / STATE_FILE).read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def marked_processes(prefix: str) -> Iterator[tuple[int, Mark]]:
    """Processes of ours whose mark begins with ``prefix``: their ids and marks."""
    wanted = f"{VARIABLE}={prefix}".encode()
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # gone, or somebody else's
        if wanted not in environment:
            continue
        for variable in environment.split(b"\0"):
            if variable.startswith(wanted):
                mark = parse(variable.decode(errors="replace").partition("=")[2])
                if mark is not None:
                    yield int(entry.name), mark


def kill_marked(prefix: str, *, timeout_s: float = KILL_TIMEOUT_S) -> None:
    """Kill every process whose mark begins with ``prefix`` and wait until none is left.

    Raises:
        OutsideFailure: some outlived SIGKILL for ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while left := [pid for pid, _ in marked_processes(prefix)]:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise OutsideFailure(
                f"processes {left} do not end, though they were killed",
                hint="they wait in the kernel (a broken disk or driver?)",
            )
        time.sleep(0.01)


def remove_shared_memory(mark: Mark) -> None:
    """Remove the shared-memory regions of a mark (a killed server leaves its own behind)."""
    if SHARED_MEMORY.is_dir():
        for region in SHARED_MEMORY.glob(f"{mark.name}*"):
            with contextlib.suppress(OSError):  # anybody may put something of that name there
                region.unlink()


def sweep_up(mark: Mark) -> None:
    """Kill and remove all that carries a mark: processes, control groups, memory, folder."""
    from igniter_prof.serving import cgroup

    groups = cgroup.named(mark.name)
    for group in groups:
        group.lift()  # a throttled process dies slowly
    kill_marked(mark.name)
    for group in groups:
        group.remove()
    remove_shared_memory(mark)
    shutil.rmtree(mark.folder, ignore_errors=True)


def reap() -> list[str]:
    """Remove what is transient and whose owner is dead; the names of the marks removed.

    A launch that was killed before it was complete counts as transient.
    """
    from igniter_prof.serving import cgroup

    found: dict[str, Mark] = {}
    for _, mark in marked_processes("igprof-"):
        found[mark.name] = mark
    names = [entry.name for entry in runs().iterdir()]
    # these two are all users': what others' igprofs left is theirs to remove
    names += [group.name for group in cgroup.named("igprof-") if _ours(*group.folders)]
    if SHARED_MEMORY.is_dir():
        names += [entry.name for entry in SHARED_MEMORY.glob("igprof-*") if _ours(entry)]
    for name in names:
        named = parse(name)
        if named is not None:
            found[named.name] = named
    dead = [mark for mark in found.values() if _may_go(mark)]
    for mark in dead:
        sweep_up(mark)
    return sorted(mark.name for mark in dead)


def _ours(*paths: Path) -> bool:
    """Whether we may remove something, by those of its paths that are there: root may all."""
    if os.geteuid() == 0:
        return True
    owners = set()
    for path in paths:
        with contextlib.suppress(OSError):  # gone, or half made
            owners.add(path.lstat().st_uid)
    return owners == {os.geteuid()}


def _may_go(mark: Mark) -> bool:
    if owner_alive(mark):
        return False
    state = read_state(mark.folder)
    if mark.boot != boot_id() and (state is None or state.get("host") != host_id()):
        return False  # perhaps it lives on another machine that shares this home folder
    if mark.kind == "l":
        # only a launch that never got ready; without its state nobody knows, so it stays.
        # One with containers goes when its engine is asked, which needs the state to know of it
        return state is not None and state.get("complete") is False and "engine" not in state
    return True
