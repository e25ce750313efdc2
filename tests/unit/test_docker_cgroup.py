"""The control group of a container, whichever engine's driver named it, and its counters."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from igniter_prof.serving import cgroup
from igniter_prof.serving.cgroup import Group
from igniter_prof.serving.docker.oom import OomWatch

ID = "4f" * 32


def process(tmp_path: Path, text: str) -> Path:
    proc = tmp_path / "proc"
    (proc / "7").mkdir(parents=True)
    (proc / "7" / "cgroup").write_text(text)
    return proc


@pytest.mark.parametrize(
    "path",
    [f"/docker/{ID}", f"/system.slice/docker-{ID}.scope", f"/user.slice/u.service/docker-{ID}"],
    ids=["cgroupfs", "systemd", "rootless"],
)
def test_version_2(tmp_path: Path, path: str) -> None:
    root = tmp_path / "cgroup"
    folder = root / path.lstrip("/")
    folder.mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu memory io")
    (folder / "cpu.stat").write_text("usage_usec 2000000\nnr_periods 5\nnr_throttled 1\n")
    (folder / "cpu.max").write_text("5000 10000\n")
    (folder / "memory.current").write_text(f"{100 << 20}\n")
    (folder / "memory.stat").write_text(f"anon {40 << 20}\nfile {50 << 20}\nshmem {10 << 20}\n")
    (folder / "memory.events").write_text("oom 0\noom_kill 0\n")
    (folder / "io.stat").write_text(
        "8:0 rbytes=4096 wbytes=512 rios=1 wios=1 dbytes=0 dios=0\n"
        "8:16 rbytes=4 wbytes=2 rios=1 wios=1 dbytes=0 dios=0\n"
    )
    group = cgroup.of_process(7, root=root, proc=process(tmp_path, f"0::{path}\n"))
    assert group is not None
    assert group.folders == (folder,)
    usage = group.usage()
    assert usage is not None
    assert (usage.cpu_s, usage.periods, usage.throttled_periods) == (2.0, 5, 1)
    assert (usage.memory_mib, usage.memory_working_mib) == (100, 60)
    assert (usage.memory_peak_mib, usage.oom_kills) == (None, 0)  # no memory.peak before 5.19
    assert (usage.read_bytes, usage.written_bytes) == (4100, 514)


def test_version_1(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    folders = {name: root / name / "docker" / ID for name in ("cpu", "cpuacct", "memory", "blkio")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    (folders["cpu"] / "cpu.stat").write_text("nr_periods 5\nnr_throttled 1\nthrottled_time 9\n")
    (folders["cpu"] / "cpu.cfs_quota_us").write_text("-1")
    (folders["cpuacct"] / "cpuacct.usage").write_text("1500000000\n")
    (folders["memory"] / "memory.usage_in_bytes").write_text(f"{100 << 20}\n")
    (folders["memory"] / "memory.max_usage_in_bytes").write_text(f"{120 << 20}\n")
    (folders["memory"] / "memory.stat").write_text(
        f"cache 1\ntotal_cache {50 << 20}\ntotal_shmem {5 << 20}\n"
    )
    (folders["memory"] / "memory.oom_control").write_text("under_oom 0\noom_kill 2\n")
    (folders["blkio"] / "blkio.throttle.io_service_bytes_recursive").write_text(
        "8:0 Read 4096\n8:0 Write 512\n8:0 Sync 4608\n8:0 Total 4608\n8:16 Read 4\nTotal 4612\n"
    )
    lines = "".join(
        f"{number}:{name}:/docker/{ID}\n" for number, name in enumerate(folders, start=1)
    )
    group = cgroup.of_process(7, root=root, proc=process(tmp_path, lines + "0::/\n"))
    assert group is not None
    assert group.io == folders["blkio"]
    usage = group.usage()
    assert usage is not None
    assert (usage.cpu_s, usage.periods) == (1.5, None)
    assert (usage.memory_peak_mib, usage.memory_working_mib, usage.oom_kills) == (120, 55, 2)
    assert (usage.read_bytes, usage.written_bytes) == (4100, 512)


def test_a_group_outside_of_our_view_is_none(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    root.mkdir()
    (root / "cgroup.controllers").write_text("cpu")
    proc = process(tmp_path, f"0::/../../docker/{ID}\n")
    assert cgroup.of_process(7, root=root, proc=proc) is None
    assert cgroup.of_process(8, root=root, proc=proc) is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_kill_is_remembered_when_the_group_is_gone(tmp_path: Path, version: int) -> None:
    folder = tmp_path / "group"
    folder.mkdir()
    counter = folder / {1: "memory.oom_control", 2: "memory.events"}[version]
    counter.write_text("oom_kill 0\n")
    watch = OomWatch(Group(version=version, cpu=folder, cpuacct=folder, memory=folder))  # type: ignore[arg-type]
    try:
        assert watch.kills == 0
        counter.write_text("oom_kill 1\n")
        assert watch.kills == 1
        counter.unlink()
        assert watch.kills == 1
    finally:
        watch.close()
    watch.close()  # again is no error


def test_a_group_at_its_cap_is_not_read_on_and_on_for_want_of_page_cache(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 1\noom 0\noom_kill 0\n")
    watch = OomWatch(Group(version=2, cpu=tmp_path, cpuacct=tmp_path, memory=tmp_path))
    try:
        with contextlib.ExitStack() as stack:
            _, short = watch._subscribe(stack)
            events.write_text("low 0\nhigh 0\nmax 9\noom 0\noom_kill 0\n")
            assert not short()
            events.write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\n")
            assert short()
            assert not short()
    finally:
        watch.close()


def test_without_the_kernels_notice_the_counter_is_polled(tmp_path: Path) -> None:
    # as without root: the group's events cannot be asked for
    (tmp_path / "memory.oom_control").write_text("oom_kill 3\n")
    watch = OomWatch(Group(version=1, cpu=tmp_path, cpuacct=tmp_path, memory=tmp_path))
    deadline = time.monotonic() + 10
    while watch._kills == 0 and time.monotonic() < deadline:
        time.sleep(0.005)
    watch.close()
    assert watch._kills == 3
