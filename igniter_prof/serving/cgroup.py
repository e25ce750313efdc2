"""Control groups: a CPU quota and a memory cap for one server, and what it used.

Versions 1 (a hierarchy a controller) and 2 (one hierarchy, delegated by subtree_control) are both
written to directly, below a folder ``igprof``. Where that may not be, the user's systemd makes a
scope (:mod:`~igniter_prof.serving.scope`). Every path starts at ``root``, so that tests can hand
over a folder that only looks like a control-group file system.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from igniter_prof.errors import MissingCapability, OutsideFailure
from igniter_prof.records import Usage
from igniter_prof.serving.shares import SHARE_PERIOD_US, Caps
from igniter_prof.units import BYTES_PER_MIB, NS_PER_S

ROOT = Path("/sys/fs/cgroup")
FOLDER = "igprof"
PLACEMENT_FAILED = 125
"""Exit status of a server that could not enter its group."""
REMOVE_TIMEOUT_S = 10.0
US_PER_S = 1_000_000

Version = Literal[1, 2]


@dataclass(frozen=True)
class Group:
    """One server's control group: the folder of each controller (version 2: always the same)."""

    version: Version
    cpu: Path
    cpuacct: Path
    memory: Path | None
    io: Path | None = None
    """Version 1: of the blkio controller; None: nobody counts its I/O (version 2: in ``cpu``)."""

    @property
    def name(self) -> str:
        """The group's own name, which begins with its mark."""
        return self.cpu.name

    @property
    def folders(self) -> tuple[Path, ...]:
        """The group's folders, each once."""
        found = [self.cpu, self.cpuacct, *([self.memory] if self.memory else [])]
        return tuple(dict.fromkeys(found))

    def command(self, arguments: Sequence[str]) -> list[str]:
        """``arguments`` wrapped so that the process is in the group before it executes them."""
        script = (
            'n=$1; shift; while [ "$n" -gt 0 ]; do'
            f' echo $$ > "$1" || exit {PLACEMENT_FAILED}; shift; n=$((n-1)); done; exec "$@"'
        )
        gates = [str(folder / "cgroup.procs") for folder in self.folders]
        return ["/bin/sh", "-c", script, "igprof", str(len(gates)), *gates, *arguments]

    def limit(self, caps: Caps) -> None:
        """Write the limits. Swap is not given, so that a memory cap means memory."""
        quota_us = caps.quota_us
        if quota_us is not None:
            if self.version == 1:
                (self.cpu / "cpu.cfs_period_us").write_text(str(SHARE_PERIOD_US))
                (self.cpu / "cpu.cfs_quota_us").write_text(str(quota_us))
            else:
                (self.cpu / "cpu.max").write_text(f"{quota_us} {SHARE_PERIOD_US}")
        if caps.memory_mib is None:
            return
        if self.memory is None:
            raise MissingCapability(
                "there is no memory controller for control groups, so no memory cap can be set",
                where=str(self.cpu),
                hint="leave memory_mib out, or boot with cgroup_enable=memory",
            )
        size = str(int(caps.memory_mib * BYTES_PER_MIB))
        if self.version == 1:
            (self.memory / "memory.limit_in_bytes").write_text(size)
            both = self.memory / "memory.memsw.limit_in_bytes"  # only where swap is accounted
            if both.exists():
                both.write_text(size)
        else:
            (self.memory / "memory.max").write_text(size)
            swap = self.memory / "memory.swap.max"
            if swap.exists():
                swap.write_text("0")
            # a stub killed alone would leave a server that answers only errors
            (self.memory / "memory.oom.group").write_text("1")

    def lift(self) -> None:
        """Take the CPU quota away: a throttled process would die slowly."""
        with contextlib.suppress(OSError):
            if self.version == 1:
                (self.cpu / "cpu.cfs_quota_us").write_text("-1")
            else:
                (self.cpu / "cpu.max").write_text(f"max {SHARE_PERIOD_US}")

    def usage(self) -> Usage | None:
        """CPU time, throttling, memory, OOM kills and I/O so far.

        None if the group is gone. Throttling is None where there is no quota. Version 1 charges
        to a group only what it reads and what it writes synchronously, not what is written back
        later.
        """
        stat = _table(self.cpu / "cpu.stat")
        if not stat:
            return None
        limited = self._limited()
        if self.version == 1:
            used_ns = _number(self.cpuacct / "cpuacct.usage")
            cpu_s = None if used_ns is None else used_ns / NS_PER_S
            throttled_s = stat.get("throttled_time", 0) / NS_PER_S
        else:
            cpu_s = stat["usage_usec"] / US_PER_S if "usage_usec" in stat else None
            throttled_s = stat.get("throttled_usec", 0) / US_PER_S
        peak, now, working = self._memory()
        read, written = self._io()
        return Usage(
            cpu_s=cpu_s,
            periods=stat.get("nr_periods") if limited else None,
            throttled_periods=stat.get("nr_throttled") if limited else None,
            throttled_s=throttled_s if limited else None,
            memory_peak_mib=_mib(peak),
            oom_kills=self.oom_kills(),
            memory_mib=_mib(now),
            memory_working_mib=_mib(working),
            read_bytes=read,
            written_bytes=written,
        )

    def _memory(self) -> tuple[int | None, int | None, int | None]:
        """Bytes: the peak and now (page cache included), and now without page cache."""
        if self.memory is None:
            return None, None, None
        if self.version == 1:
            peak = _number(self.memory / "memory.max_usage_in_bytes")
            now = _number(self.memory / "memory.usage_in_bytes")
        else:
            peak = _number(self.memory / "memory.peak")
            now = _number(self.memory / "memory.current")
        return peak, now, without_cache(now, _table(self.memory / "memory.stat"))

    def _io(self) -> tuple[int | None, int | None]:
        """Bytes read from and written to block devices."""
        if self.version == 2:
            path = self.cpu / "io.stat"
            counted = re.findall(r"\b([rw])bytes=(\d+)", _text(path))
        elif self.io is None:
            return None, None
        else:
            path = self.io / "blkio.throttle.io_service_bytes_recursive"
            if not path.exists():
                path = self.io / "blkio.throttle.io_service_bytes"
            counted = re.findall(r"^\S+ ([RW])\w+ (\d+)$", _text(path), re.MULTILINE)
        if not path.exists():
            return None, None
        totals = {"r": 0, "w": 0}
        for kind, count in counted:
            totals[kind.lower()] += int(count)
        return totals["r"], totals["w"]

    def _limited(self) -> bool:
        if self.version == 1:
            return (_number(self.cpu / "cpu.cfs_quota_us") or -1) > 0
        return not _text(self.cpu / "cpu.max").startswith("max")

    def oom_kills(self) -> int | None:
        """How often the kernel killed a process of the group for want of memory."""
        if self.memory is None:
            return None
        names = {1: "memory.oom_control", 2: "memory.events"}
        return _table(self.memory / names[self.version]).get("oom_kill")

    def pids(self) -> list[int]:
        """The processes in the group."""
        found: set[int] = set()
        for folder in self.folders:
            found.update(int(line) for line in _text(folder / "cgroup.procs").split())
        return sorted(found)

    def kill(self) -> None:
        """Send SIGKILL to every process in the group."""
        self.lift()
        with contextlib.suppress(OSError):
            if (self.cpu / "cgroup.kill").exists():  # version 2 since Linux 5.14
                (self.cpu / "cgroup.kill").write_text("1")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def remove(self, timeout_s: float = REMOVE_TIMEOUT_S) -> None:
        """Kill what is in the group and remove it.

        Raises:
            OutsideFailure: a process did not end within ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        for folder in self.folders:
            while folder.is_dir():
                self.kill()
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError as error:  # EBUSY while a process is on its way out
                    if time.monotonic() > deadline:
                        raise OutsideFailure(
                            f"the control group cannot be removed: {error.strerror}",
                            where=str(folder),
                            hint=f"its processes: {self.pids()}",
                        ) from error
                    time.sleep(0.01)
            with contextlib.suppress(OSError):
                base = folder.parent
                # the last one out, unless an administrator made it for somebody else
                if base.name == FOLDER and base.stat().st_uid == os.geteuid():
                    base.rmdir()


def version(root: Path = ROOT) -> Version | None:
    """Which version has the CPU controller; None if none has."""
    if (root / "cgroup.controllers").exists():
        return 2
    return 1 if (root / "cpu").is_dir() else None


def create(name: str, caps: Caps, *, root: Path = ROOT, own: Path | None = None) -> Group:
    """Make a control group with its limits.

    Args:
        name: its name; begins with a mark.
        caps: its limits.
        root: where control groups are mounted.
        own: what ``/proc/self/cgroup`` would say.

    Raises:
        MissingCapability: this process may not make one; says the command that mends it.
    """
    kind = version(root)
    if kind is None:
        raise MissingCapability(
            "no control groups are mounted, so shares and caps cannot be set",
            where=str(root),
            hint="sudo mount -t cgroup2 none /sys/fs/cgroup",
        )
    problems: list[str] = []
    for base in _bases(kind, root, own):
        try:
            group = _make(kind, base, name)
        except OSError as error:
            problems.append(f"{base['cpu']}: {error.strerror}")
            continue
        try:
            group.limit(caps)
        except OSError as error:
            group.remove()
            problems.append(f"{group.cpu}: {error.strerror}")
            continue
        except BaseException:
            group.remove()
            raise
        return group
    said = "; ".join(dict.fromkeys(problems)) or "no place for one"
    raise MissingCapability(
        f"no control group can be made ({said})",
        where=str(root),
        hint=_remedy(kind, root),
    )


def named(prefix: str, *, root: Path = ROOT, own: Path | None = None) -> list[Group]:
    """All groups whose name begins with ``prefix`` at the places where they are made."""
    kind = version(root)
    if kind is None:
        return []
    found: dict[tuple[Path, ...], Group] = {}
    for base in _bases(kind, root, own):
        # a group half made or half removed counts too
        names = {entry.name for folder in base.values() for entry in folder.glob(f"{prefix}*")}
        for name in names:
            group = _group(kind, {key: folder / name for key, folder in base.items()})
            found[group.folders] = group
    return list(found.values())


def of_process(pid: int, *, root: Path = ROOT, proc: Path = Path("/proc")) -> Group | None:
    """The group that a process is in, whoever made it; None if its files cannot be seen here.

    The drivers of container engines (cgroupfs, systemd) name groups differently: the process
    knows. A path that leads out of our own cgroup namespace (``/..``) cannot be seen.
    """
    kind = version(root)
    paths = _own(proc / str(pid) / "cgroup")
    if kind is None or not paths:
        return None
    keys = ("cpu", "cpuacct", "memory", "blkio") if kind == 1 else ("",)
    folders = {}
    for key in keys:
        path = paths.get(key)
        if path is not None and "/.." not in path:
            folder = (root / key).resolve() / path.lstrip("/")
            if folder.is_dir():
                folders[key] = folder
    if kind == 2:
        folder = folders.get("", root)
        return (
            None if folder == root else Group(version=2, cpu=folder, cpuacct=folder, memory=folder)
        )
    if "cpu" not in folders:
        return None
    return Group(
        version=1,
        cpu=folders["cpu"],
        cpuacct=folders.get("cpuacct", folders["cpu"]),
        memory=folders.get("memory"),
        io=folders.get("blkio"),
    )


def without_cache(now: int | None, stat: Mapping[str, int]) -> int | None:
    """Memory in use less the page cache, in bytes; None where it is not told.

    Shared memory (and tmpfs) counts as cache, but cannot be dropped: it stays in. Where it is not
    told by itself (engines, version 1), it is what is anonymous by the lists of pages and not
    resident.

    Args:
        now: memory in use, page cache included.
        stat: ``memory.stat`` of either version.
    """
    cache = stat.get("total_cache", stat.get("cache", stat.get("file")))
    if now is None or cache is None:
        return None
    shared = stat.get("total_shmem", stat.get("shmem"))
    if shared is None:
        anonymous = [stat.get(f"total_{key}") for key in ("inactive_anon", "active_anon", "rss")]
        if any(value is None for value in anonymous):
            return None
        inactive, active, resident = (value or 0 for value in anonymous)
        shared = max(0, inactive + active - resident)
    return max(0, now - max(0, cache - shared))


def read(folders: Sequence[str], kind: Version) -> Group:
    """The group that a stored state names (see ``Group.folders``)."""
    paths = [Path(folder) for folder in folders]
    if kind == 2:
        return Group(version=2, cpu=paths[0], cpuacct=paths[0], memory=paths[0])
    memory = next((path for path in paths if "memory" in path.parts), None)
    cpu = [path for path in paths if path != memory]
    return Group(version=1, cpu=cpu[0], cpuacct=cpu[-1], memory=memory)


def _bases(kind: Version, root: Path, own: Path | None) -> Iterator[dict[str, Path]]:
    """Places for the folder ``igprof``, best first: a folder for each controller."""
    mine = _own(own)
    if kind == 1:
        mounts = {
            key: (root / key).resolve()
            for key in ("cpu", "cpuacct", "memory")
            if (root / key).is_dir()
        }
        mounts.setdefault("cpuacct", mounts["cpu"])
        yield {key: mount / FOLDER for key, mount in mounts.items()}
        yield {
            key: mount / mine.get(key, "/").lstrip("/") / FOLDER for key, mount in mounts.items()
        }
        return
    path = mine.get("", "/")
    ancestors = [root]
    for part in Path(path.lstrip("/")).parts:
        if part != "..":
            ancestors.append(ancestors[-1] / part)
    # a group with processes may not have groups with controllers: so not our own, unless the root
    for folder in ancestors[: max(1, len(ancestors) - 1)]:
        yield dict.fromkeys(("cpu", "cpuacct", "memory"), folder / FOLDER)


def _own(text: Path | None) -> dict[str, str]:
    """This process's group by controller; version 2 under the empty name."""
    result: dict[str, str] = {}
    for line in _text(text or Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            result[controller] = path
    return result


def _make(kind: Version, base: dict[str, Path], name: str) -> Group:
    group = _group(kind, {key: folder / name for key, folder in base.items()})
    try:
        for folder in group.folders:
            _make_folder(kind, folder)
    except BaseException:
        group.remove()
        raise
    return group


def _make_folder(kind: Version, folder: Path) -> None:
    for attempt in range(5):
        try:
            folder.parent.mkdir(exist_ok=True)
            if kind == 2:
                _delegate(folder.parent.parent)
                _delegate(folder.parent)
            folder.mkdir()
            return
        except FileNotFoundError:  # noqa: PERF203 (five attempts at most)
            # another igprof, the last one out, took the parent away in between
            if attempt == 4:
                raise


def _group(kind: Version, parts: dict[str, Path]) -> Group:
    return Group(
        version=kind,
        cpu=parts["cpu"],
        cpuacct=parts["cpuacct"],
        memory=parts.get("memory"),
    )


def _delegate(folder: Path) -> None:
    """Let the groups below ``folder`` have the CPU and memory controllers (version 2)."""
    control = folder / "cgroup.subtree_control"
    missing = {"cpu", "memory"} - set(control.read_text().split())
    if missing:
        control.write_text(" ".join(f"+{controller}" for controller in sorted(missing)))


def _remedy(kind: Version, root: Path) -> str:
    if kind == 1:
        folders = f"{root}/{{cpu,cpuacct,memory}}/{FOLDER}"
        return f"sudo mkdir -p {folders} && sudo chown $USER {folders}"
    if os.geteuid() == 0:
        return (
            "in a container: start it with --privileged --cgroupns=host, or move its processes"
            f" out of the way: mkdir {root}/init && for p in $(cat {root}/cgroup.procs); do"
            f" echo $p > {root}/init/cgroup.procs; done"
        )
    return (
        "log in with a systemd user session (loginctl enable-linger $USER, then log in again),"
        " or run igprof as root"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _mib(count: int | None) -> float | None:
    return None if count is None else count / BYTES_PER_MIB


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _table(path: Path) -> dict[str, int]:
    """A file of ``name number`` lines; empty if it cannot be read."""
    table = {}
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if value.strip().isdigit():
            table[name] = int(value)
    return table
