"""What a deployment leaves on an engine that fails it; the engine is a fake."""

from __future__ import annotations

import os
import threading
import types
from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests

from igniter_prof.errors import OutsideFailure
from igniter_prof.records import Device, Status
from igniter_prof.serving import ServeOptions, cgroup, marks
from igniter_prof.serving.docker import container, readiness, remains
from igniter_prof.serving.docker.container import Container
from igniter_prof.serving.docker.deployment import DockerDeployment
from igniter_prof.serving.docker.engine import Address, Engine
from igniter_prof.serving.docker.spec import HOST_LABEL, MARK_LABEL, Recipe
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares import Grant
from igniter_prof.serving.shares.contract import Plain

GPU = Device(id="cuda:GPU-1", kind="cuda", name="x")


class FakeClient:
    """An engine's containers, by their ids."""

    def __init__(self) -> None:
        self.there: dict[str, dict[str, Any]] = {}
        self.down = False

    def add(self, mark: Mark) -> None:
        labels = {MARK_LABEL: mark.name, HOST_LABEL: remains.this_host()}
        self.there[f"c{len(self.there)}"] = labels

    def containers(self, *, all: bool, filters: dict[str, Any]) -> list[dict[str, Any]]:
        if self.down:
            raise requests.ConnectionError("connection refused")
        wanted = filters["label"]
        labels = [wanted] if isinstance(wanted, str) else wanted
        return [
            {"Id": name, "Labels": own}
            for name, own in self.there.items()
            if set(labels) <= {*own, *(f"{key}={value}" for key, value in own.items())}
        ]

    def volumes(self, *, filters: dict[str, Any]) -> dict[str, Any]:
        return {"Volumes": None}

    def remove_container(self, name: str, **_: object) -> None:
        del self.there[name]

    def stop(self, name: str, timeout: int) -> None:
        if name not in self.there:
            raise docker.errors.NotFound("no such container")

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(marks, "SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(cgroup, "named", lambda prefix: [])
    monkeypatch.setattr(marks, "marked_processes", lambda prefix: iter(()))
    return FakeClient()


def deployment(client: FakeClient, mark: Mark, *, containers: int = 2) -> DockerDeployment:
    mark.folder.mkdir(parents=True)
    address = Address("unix:///run/docker.sock", "test")
    marks.write_state(mark, {"complete": False, "engine": address.url})
    info = {"Name": os.uname().nodename, "KernelVersion": os.uname().release}
    engine = Engine(address, client, info)  # type: ignore[arg-type]
    found = DockerDeployment(engine, mark, GPU, ServeOptions(runtime="docker"), watched=False)
    for index in range(containers):
        client.add(mark)
        recipe = Recipe((index,), "image", None, (), {}, Grant(), 1)
        found.containers.append(
            Container(engine, recipe, f"c{index}", f"{mark.name}-{index}", mark.folder / "log")
        )
    return found


def ended(mark: Mark) -> Mark:
    """The same mark of an igprof that is gone."""
    return Mark(mark.kind, 4194301, 1, mark.boot, mark.namespace, mark.token)


def test_a_container_that_others_removed_keeps_no_other_from_it(client: FakeClient) -> None:
    found = deployment(client, marks.mint())
    del client.there["c0"]
    found.close()
    assert client.there == {}
    assert not found.mark.folder.exists()


def test_a_launch_that_could_not_be_removed_is_removed_by_the_next(client: FakeClient) -> None:
    mark = ended(marks.mint(launched=True))
    found = deployment(client, mark)
    client.down = True
    with pytest.raises(OutsideFailure):
        found.close()
    client.down = False
    assert marks.reap() == []  # any igprof, also one without Docker
    assert remains.reap(found.engine) == [mark.name]
    assert client.there == {}
    assert not mark.folder.exists()


def test_a_launch_that_was_killed_before_its_first_container_leaves_no_folder(
    client: FakeClient,
) -> None:
    found = deployment(client, ended(marks.mint(launched=True)), containers=0)
    assert remains.reap(found.engine) == [found.mark.name]
    assert not found.mark.folder.exists()


def test_no_time_of_a_cold_start_is_nobodys(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server works already while the engine is asked for its address."""
    clock = iter([10.0, 11.0])  # the engine takes a second to start it
    fake = types.SimpleNamespace(monotonic=lambda: next(clock, 14.0))
    for module in (container, readiness):
        monkeypatch.setattr(module, "time", fake)
    each = deployment(client, marks.mint(), containers=1).containers[0]
    monkeypatch.setattr(client, "start", lambda name: None, raising=False)
    monkeypatch.setattr(each, "_inspect", lambda: {"State": {}})
    monkeypatch.setattr(each, "ending", lambda: None)
    monkeypatch.setattr(readiness, "_answers", lambda each: True)
    monkeypatch.setattr(readiness, "_is_ready", lambda each: True)
    monkeypatch.setattr(each, "read_log", lambda: "")
    each.phases.create_s = 0.5
    each.start()
    readiness.await_ready(each, 60, threading.Event())
    assert (each.phases.start_s, each.phases.serve_s, each.phases.ready_s) == (1.0, 3.0, 4.5)


class Faulty(Plain):
    """A mechanism whose daemon has gone, but tells so only who asks freshly."""

    def trouble(self, *, fresh: bool = False) -> str | None:
        """As MPS."""
        return "the fault of a client ended all on this GPU" if fresh else None


@pytest.mark.parametrize(
    ("own", "containers", "expected"),
    [
        (None, 2, None),
        (("crashed", "x"), 2, "invalid"),  # nobody can tell whose fault it was
        (("crashed", "x"), 1, "crashed"),  # alone: its own
        (("oom", "x"), 2, "oom"),
    ],
)
def test_whose_end_it_was(
    client: FakeClient,
    own: tuple[Status, str] | None,
    containers: int,
    expected: str | None,
) -> None:
    found = deployment(client, marks.mint(), containers=containers)
    found.mechanism = Faulty(GPU, (), ServeOptions())
    found.containers[0]._ended = own
    found.containers[0]._asked_s = float("inf")
    seen = found.ending(0)
    assert (None if seen is None else seen[0]) == expected
