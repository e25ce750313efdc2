"""Marks: whose something is, and what may go."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from igniter_prof.serving import cgroup, marks
from igniter_prof.serving.marks import Mark


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(marks, "SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(cgroup, "named", lambda prefix: [])
    monkeypatch.setattr(marks, "marked_processes", lambda prefix: iter(()))
    (tmp_path / "shm").mkdir()


def dead(mark: Mark) -> Mark:
    """The same mark of an owner that is gone: its id now belongs to another process."""
    assert mark.start_ticks
    return dataclasses.replace(mark, start_ticks=mark.start_ticks - 1)


def leave(mark: Mark, state: dict[str, object] | None = None) -> None:
    mark.folder.mkdir()
    (marks.SHARED_MEMORY / f"{mark.name}-region").touch()
    if state is not None:
        marks.write_state(mark, state)


@pytest.mark.parametrize("launched", [False, True])
def test_a_mark_is_read_back_from_any_name_that_begins_with_it(launched: bool) -> None:
    mark = marks.mint(launched=launched)
    assert mark.pid == os.getpid()
    assert marks.parse(mark.name) == mark
    assert marks.parse(f"{mark.name}-0.scope") == mark
    assert marks.mint() != marks.mint()


@pytest.mark.parametrize("name", ["", "igprof", "igprof-x-1-2-00000000-1-00000000", "other"])
def test_other_names_carry_no_mark(name: str) -> None:
    assert marks.parse(name) is None


def test_an_owner_is_alive_only_with_its_start_time() -> None:
    mark = marks.mint()
    assert marks.owner_alive(mark)
    assert not marks.owner_alive(dead(mark))
    assert not marks.owner_alive(dataclasses.replace(mark, boot="00000000"))
    # another PID namespace: nobody knows, so it is left alone
    assert marks.owner_alive(dataclasses.replace(dead(mark), namespace=1))


def test_reap_removes_the_dead_owners_things_and_nothing_else() -> None:
    alive, gone = marks.mint(), dead(marks.mint())
    leave(alive, {"complete": False})
    leave(gone, {"complete": False})
    (marks.SHARED_MEMORY / "triton_python_backend_shm_region_1").touch()
    (marks.runs() / "somebody-elses").mkdir()
    assert marks.reap() == [gone.name]
    assert not gone.folder.exists()
    assert alive.folder.exists()
    assert (marks.runs() / "somebody-elses").exists()
    names = sorted(path.name for path in marks.SHARED_MEMORY.iterdir())
    assert names == sorted([f"{alive.name}-region", "triton_python_backend_shm_region_1"])


@pytest.mark.parametrize(
    ("state", "goes"), [({"complete": False}, True), ({"complete": True}, False), (None, False)]
)
def test_launched_things_outlive_their_owner_once_complete(
    state: dict[str, object] | None, goes: bool
) -> None:
    mark = dead(marks.mint(launched=True))
    leave(mark, state)
    assert marks.reap() == ([mark.name] if goes else [])
    assert mark.folder.exists() is not goes


@pytest.mark.parametrize(("host", "goes"), [(None, True), ("another-machine", False)])
def test_an_earlier_boot_is_cleared_but_not_another_machines_run(
    host: str | None, goes: bool
) -> None:
    mark = dataclasses.replace(marks.mint(), boot="00000000")
    leave(mark, {"complete": False, **({"host": host} if host else {})})
    assert marks.reap() == ([mark.name] if goes else [])


def test_a_truncated_state_is_no_state() -> None:
    mark = marks.mint()
    leave(mark)
    (mark.folder / marks.STATE_FILE).write_text('{"comp')
    assert marks.read_state(mark.folder) is None


def test_the_start_time_is_read_past_any_command_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "PROC", tmp_path)
    (tmp_path / "5").mkdir()
    rest = " ".join(str(number) for number in range(4, 40))
    (tmp_path / "5" / "stat").write_text(f"5 (a) b) (c) S {rest}")
    assert marks.start_ticks(5) == 22
    (tmp_path / "5" / "stat").write_text(f"5 (a) Z {rest}")
    assert marks.start_ticks(5) is None
    assert marks.start_ticks(6) is None


def test_another_users_leftovers_are_no_business_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "groups" / f"{dead(marks.mint()).name}-0"
    folder.mkdir(parents=True)
    group = cgroup.Group(version=2, cpu=folder, cpuacct=folder, memory=folder)
    monkeypatch.setattr(cgroup, "named", lambda prefix: [group])
    (marks.SHARED_MEMORY / f"{dead(marks.mint()).name}-region").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)  # these are not that user's
    assert marks.reap() == []
    assert folder.exists()


def test_a_folder_in_shared_memory_that_is_named_as_ours_stops_nothing() -> None:
    name = f"{dead(marks.mint()).name}-region"
    (marks.SHARED_MEMORY / name).mkdir()
    marks.reap()  # it is no region, and stays
    assert (marks.SHARED_MEMORY / name).is_dir()


def test_a_killed_launch_with_containers_is_left_to_its_engine() -> None:
    mark = dead(marks.mint(launched=True))
    leave(mark, {"complete": False, "engine": "unix:///run/docker.sock"})
    assert marks.reap() == []
    assert mark.folder.exists()  # else nobody would know that its containers may go
