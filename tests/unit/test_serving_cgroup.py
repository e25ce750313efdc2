"""Control groups of both versions, on folders that look like their file systems."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from igniter_prof.errors import MissingCapability
from igniter_prof.serving import cgroup, scope
from igniter_prof.serving.shares import Caps

V1_FILES = {
    "cpu": ("cpu.cfs_period_us", "cpu.cfs_quota_us"),
    "cpuacct": (),
    "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
}


class FakeMkdir:
    """What the kernel does when a control group is made: its files are there at once."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        self.mkdir = Path.mkdir

    def __call__(self, path: Path, *args: object, **kwargs: object) -> None:
        fresh = not path.exists()
        self.mkdir(path, *args, **kwargs)  # type: ignore[arg-type]
        if fresh:
            for name, text in self.files.items():
                (path / name).write_text(text)


@pytest.fixture
def v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory")
    files = {"cgroup.subtree_control": "", "memory.swap.max": "max", "cgroup.procs": ""}
    fake = FakeMkdir(files)
    monkeypatch.setattr(Path, "mkdir", lambda path, *a, **k: fake(path, *a, **k))
    return tmp_path


@pytest.fixture
def v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for controller in V1_FILES:
        (tmp_path / controller).mkdir()
    fake = FakeMkdir({"memory.memsw.limit_in_bytes": "", "cgroup.procs": ""})
    monkeypatch.setattr(Path, "mkdir", lambda path, *a, **k: fake(path, *a, **k))
    return tmp_path


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own"
    path.write_text(text)
    return path


def test_the_version_is_that_of_the_cpu_controller(v2: Path, tmp_path: Path) -> None:
    assert cgroup.version(v2) == 2
    assert cgroup.version(tmp_path / "nowhere") is None
    (v2 / "cgroup.controllers").unlink()
    (v2 / "cpu").mkdir()
    assert cgroup.version(v2) == 1


def test_version_2_writes_limits_and_delegates_controllers(v2: Path) -> None:
    group = cgroup.create("igprof-x-0", Caps(0.5, 100), root=v2, own=own(v2, "0::/\n"))
    assert group.version == 2
    assert group.folders == (v2 / "igprof" / "igprof-x-0",)
    assert (group.cpu / "cpu.max").read_text() == "5000 10000"
    assert (group.cpu / "memory.max").read_text() == str(100 * 2**20)
    assert (group.cpu / "memory.swap.max").read_text() == "0"
    assert (group.cpu / "memory.oom.group").read_text() == "1"
    assert (v2 / "igprof" / "cgroup.subtree_control").read_text() == "+cpu +memory"
    # the root had them already: nothing was written there
    assert (v2 / "cgroup.subtree_control").read_text() == "cpu memory"


def test_version_2_reads_usage(v2: Path) -> None:
    group = cgroup.create("igprof-x-0", Caps(0.5, 100), root=v2, own=own(v2, "0::/\n"))
    (group.cpu / "cpu.stat").write_text(
        "usage_usec 1500000\nuser_usec 1\nnr_periods 20\nnr_throttled 7\nthrottled_usec 250000\n"
    )
    (group.cpu / "memory.peak").write_text(f"{3 * 2**20}\n")
    (group.cpu / "memory.events").write_text("low 0\nhigh 0\nmax 4\noom 1\noom_kill 2\n")
    usage = group.usage()
    assert usage is not None
    assert (usage.cpu_s, usage.periods, usage.throttled_periods) == (1.5, 20, 7)
    assert (usage.throttled_s, usage.memory_peak_mib, usage.oom_kills) == (0.25, 3, 2)


def test_without_a_quota_throttling_is_not_known_rather_than_zero(v2: Path) -> None:
    group = cgroup.create("igprof-x-0", Caps(), root=v2, own=own(v2, "0::/\n"))
    (group.cpu / "cpu.max").write_text("max 100000\n")
    (group.cpu / "cpu.stat").write_text("usage_usec 10\n")
    usage = group.usage()
    assert usage is not None
    assert (usage.periods, usage.throttled_periods, usage.throttled_s) == (None, None, None)
    assert (usage.memory_peak_mib, usage.oom_kills) == (None, None)


def test_a_group_that_is_gone_has_no_usage(v2: Path) -> None:
    group = cgroup.create("igprof-x-0", Caps(), root=v2, own=own(v2, "0::/\n"))
    for file in group.cpu.iterdir():
        file.unlink()
    group.cpu.rmdir()
    assert group.usage() is None
    group.remove()  # and removing it again is no error


def test_version_2_goes_below_the_first_ancestor_that_takes_it(v2: Path) -> None:
    (v2 / "user" / "session").mkdir(parents=True)
    # the root does not delegate; a folder in the way of its file stands for the kernel's refusal
    (v2 / "cgroup.subtree_control").write_text("")
    (v2 / "cgroup.subtree_control").chmod(0o400)
    real = Path.write_text

    def write(path: Path, text: str, *args: object, **kwargs: object) -> int:
        if path == v2 / "cgroup.subtree_control":
            raise PermissionError(13, "Permission denied")
        return real(path, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", write)
        patch.setattr(Path, "rmdir", lambda path: None)
        group = cgroup.create("igprof-x-0", Caps(1.0), root=v2, own=own(v2, "0::/user/session\n"))
        assert group.cpu == v2 / "user" / "igprof" / "igprof-x-0"
        # never in our own group: it has processes
        with pytest.raises(MissingCapability) as refusal:
            cgroup.create("igprof-x-1", Caps(1.0), root=v2, own=own(v2, "0::/session\n"))
    assert "Permission denied" in refusal.value.what
    assert refusal.value.hint


def test_version_1_writes_each_hierarchy(v1: Path) -> None:
    group = cgroup.create("igprof-x-0", Caps(1.5, 64), root=v1, own=own(v1, "4:memory:/job\n"))
    assert group.version == 1
    assert group.folders == tuple(v1 / key / "igprof" / "igprof-x-0" for key in V1_FILES)
    assert (group.cpu / "cpu.cfs_period_us").read_text() == "10000"
    assert (group.cpu / "cpu.cfs_quota_us").read_text() == "15000"
    assert group.memory is not None
    for name in V1_FILES["memory"]:
        assert (group.memory / name).read_text() == str(64 * 2**20)
    assert cgroup.read([str(folder) for folder in group.folders], 1) == group


def test_version_1_reads_usage(v1: Path) -> None:
    group = cgroup.create("igprof-x-0", Caps(1.5, 64), root=v1, own=own(v1, ""))
    assert group.memory is not None
    (group.cpu / "cpu.stat").write_text("nr_periods 9\nnr_throttled 4\nthrottled_time 2000000000\n")
    (group.cpuacct / "cpuacct.usage").write_text("500000000\n")
    (group.memory / "memory.max_usage_in_bytes").write_text(f"{2**20}\n")
    (group.memory / "memory.oom_control").write_text(
        "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"
    )
    usage = group.usage()
    assert usage is not None
    assert (usage.cpu_s, usage.throttled_s, usage.periods) == (0.5, 2.0, 9)
    assert (usage.memory_peak_mib, usage.oom_kills) == (1, 1)


def test_groups_are_found_by_the_beginning_of_their_name(v1: Path) -> None:
    text = own(v1, "")
    first = cgroup.create("igprof-a-0", Caps(), root=v1, own=text)
    cgroup.create("igprof-b-0", Caps(), root=v1, own=text)
    assert cgroup.named("igprof-a", root=v1, own=text) == [first]
    # half removed: only the memory hierarchy still has it
    for folder in (first.cpu, first.cpuacct):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert cgroup.named("igprof-a", root=v1, own=text) == [first]


def test_without_control_groups_the_remedy_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingCapability, match="no control groups are mounted"):
        cgroup.create("igprof-x-0", Caps(1.0), root=tmp_path)


def test_a_memory_cap_without_the_memory_controller_is_refused(v1: Path) -> None:
    (v1 / "memory").rmdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgroup.Group, "remove", lambda group: None)
        with pytest.raises(MissingCapability, match="memory controller"):
            cgroup.create("igprof-x-0", Caps(memory_mib=10), root=v1, own=own(v1, ""))


def test_the_process_is_in_its_group_before_it_runs_the_program(tmp_path: Path) -> None:
    folders = [tmp_path / key for key in V1_FILES]
    for folder in folders:
        folder.mkdir()
    group = cgroup.Group(version=1, cpu=folders[0], cpuacct=folders[1], memory=folders[2])
    probe = f'cat {folders[0]}/cgroup.procs {folders[2]}/cgroup.procs; echo $$ "$@"'
    command = group.command(["/bin/sh", "-c", probe, "name", "an argument", "$HOME"])
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    assert lines[0] == lines[1] == lines[2].split()[0]
    assert lines[2].endswith("an argument $HOME")


def test_a_process_that_cannot_enter_does_not_run_outside(tmp_path: Path) -> None:
    folder = tmp_path / "not-there"
    group = cgroup.Group(version=2, cpu=folder, cpuacct=folder, memory=folder)
    command = group.command(["touch", str(tmp_path / "ran")])
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == cgroup.PLACEMENT_FAILED
    assert not (tmp_path / "ran").exists()


# --- systemd scopes -------------------------------------------------------------------------------


def test_a_scope_has_the_limits_as_properties() -> None:
    command = scope.command("igprof-x-0", Caps(0.5, 100), ["server", "--flag"])
    assert command[-3:] == ["--", "server", "--flag"]
    assert "--unit=igprof-x-0.scope" in command
    for entry in ("CPUQuota=50.00%", "CPUQuotaPeriodSec=10000us", "MemorySwapMax=0"):
        assert entry in command
    assert f"MemoryMax={100 * 2**20}" in command
    assert "-p" not in scope.command("igprof-x-0", Caps(), ["server"])


@pytest.mark.parametrize(("quota", "works"), [("5000 10000", True), ("max 10000", False)])
def test_a_scope_whose_limits_systemd_ignored_is_refused(
    tmp_path: Path, quota: str, works: bool
) -> None:
    folder = tmp_path / "root" / "user" / "igprof-x-0.scope"
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text(quota)
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text("0::/user/igprof-x-0.scope\n")
    places = {"root": tmp_path / "root", "proc": tmp_path / "proc"}
    if works:
        assert scope.enter(7, "igprof-x-0", Caps(0.5), **places).cpu == folder
    else:
        with pytest.raises(MissingCapability, match="may not set cpu limits") as refusal:
            scope.enter(7, "igprof-x-0", Caps(0.5), **places)
        assert "Delegate=cpu" in str(refusal.value)


def test_a_process_without_a_scope_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingCapability, match="made no scope"):
        scope.enter(7, "igprof-x-0", Caps(0.5), root=tmp_path, proc=tmp_path)
