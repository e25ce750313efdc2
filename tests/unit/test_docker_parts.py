"""Parts of the Docker runtime that need no engine: where it is, statistics, models, marks."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.serving import marks
from igniter_prof.serving.docker import engine, inside, models, remains, stats
from igniter_prof.serving.docker.engine import Address, Engine
from igniter_prof.zoo import Rendered

V1 = {
    "cpu_stats": {
        "cpu_usage": {"total_usage": 2_000_000_000},
        "throttling_data": {"periods": 10, "throttled_periods": 4, "throttled_time": 500_000_000},
    },
    "memory_stats": {
        "usage": 100 << 20,
        "max_usage": 120 << 20,
        "stats": {
            "total_cache": 50 << 20,
            "total_inactive_anon": 30 << 20,
            "total_active_anon": 30 << 20,
            "total_rss": 50 << 20,
        },
    },
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"op": "Read", "value": 4096},
            {"op": "Write", "value": 512},
            {"op": "Total", "value": 4608},
        ]
    },
}
V2 = {
    "cpu_stats": {"cpu_usage": {"total_usage": 1_000_000_000}, "throttling_data": {}},
    "memory_stats": {"usage": 100 << 20, "stats": {"file": 40 << 20, "shmem": 10 << 20}},
    "blkio_stats": {"io_service_bytes_recursive": None},
}


@pytest.fixture(autouse=True)
def _no_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("DOCKER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_statistics_of_version_1() -> None:
    usage = stats.usage_of(V1, limited=True)
    assert usage is not None
    assert (usage.cpu_s, usage.periods, usage.throttled_periods) == (2.0, 10, 4)
    assert usage.throttled_s == 0.5
    assert (usage.memory_mib, usage.memory_peak_mib) == (100, 120)
    # 10 MiB of the 50 of cache are shared memory, which cannot be dropped
    assert usage.memory_working_mib == 60
    assert (usage.read_bytes, usage.written_bytes, usage.oom_kills) == (4096, 512, None)


def test_statistics_of_version_2_lack_a_peak() -> None:
    usage = stats.usage_of(V2, limited=False)
    assert usage is not None
    assert (usage.memory_peak_mib, usage.memory_working_mib) == (None, 70)
    assert (usage.periods, usage.throttled_s, usage.read_bytes) == (None, None, None)


def test_a_container_that_ended_has_no_statistics() -> None:
    assert stats.usage_of({"cpu_stats": {}, "memory_stats": {}}, limited=True) is None


def test_the_engine_is_the_one_that_docker_would_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert engine.find() == Address(engine.USUAL, "default")
    folder = tmp_path / ".docker"
    _context(folder, "far", "tcp://far.example:2375")
    _context(folder, "near", "ssh://me@near.example")
    (folder / "config.json").write_text(json.dumps({"currentContext": "far"}))
    assert engine.find() == Address("tcp://far.example:2375", "context far")
    monkeypatch.setenv("DOCKER_CONTEXT", "near")
    found = engine.find()
    assert (found.url, found.host) == ("ssh://me@near.example", "near.example")
    monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
    with pytest.raises(BadInput, match="no docker context 'nowhere'"):
        engine.find()
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/x.sock")
    assert engine.find().url == "unix:///run/x.sock"


def _context(folder: Path, name: str, host: str) -> None:
    from docker.context.config import get_context_id

    meta = folder / "contexts" / "meta" / get_context_id(name)
    meta.mkdir(parents=True)
    document = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host}}}
    (meta / "meta.json").write_text(json.dumps(document))


def test_a_damaged_context_is_told(tmp_path: Path) -> None:
    folder = tmp_path / ".docker"
    _context(folder, "far", "tcp://far.example:2375")
    (folder / "config.json").write_text(json.dumps({"currentContext": "far"}))
    next(folder.glob("contexts/meta/*/meta.json")).write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        engine.find()


def test_certificates_that_are_not_there_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://far.example:2376")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="certificates"):
        engine.find()


def _engine(url: str, **info: Any) -> Engine:
    return Engine(Address(url, "test"), None, info)


def test_only_an_engine_of_this_very_system_is_local() -> None:
    here = {"Name": os.uname().nodename, "KernelVersion": os.uname().release}
    assert _engine("unix:///run/docker.sock", **here).local
    # the socket of a virtual machine, and an engine that is reached over the network
    assert not _engine("unix:///run/docker.sock", **{**here, "KernelVersion": "1"}).local
    assert not _engine("unix:///run/docker.sock", **{**here, "Name": "another"}).local
    assert not _engine("tcp://127.0.0.1:2375", **here).local


def test_an_address_is_shown_without_its_password() -> None:
    assert engine._shown("ssh://me:secret@host") == "ssh://me:***@host"

    assert engine._shown("tcp://me:se[cr@t@host:1") == "tcp://me:***@host:1"
    assert engine._shown("tcp://[::1]:2375") == "tcp://[::1]:2375"


@pytest.mark.parametrize(
    "address",
    ["nonsense://x", "tcp://h:port", "tcp://h:99999", "http://[x", "tcp://u:se[cret@h:1", " "],
)
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(BadInput, match="no address of an engine") as caught:
        engine.connect()
    assert "se[cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("passwd", "number"),
    [
        (b"root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n", 1000),
        (b"app:x:0:0::/:/bin/sh\n", 0),
        (b"app:x:0:0::/:\napp:x:1000:1000::/:\n", 0),  # the first one counts
        (b"app:x: 5:0::/:\n", 0),  # to the engine that is no number
        (b"app\n", 0),
        (b"other:x:5:5::/:\n", None),
        (None, None),  # a link
    ],
)
def test_a_user_is_looked_up_as_the_engine_does(passwd: bytes | None, number: int | None) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("passwd")
        if passwd is None:
            member.type, member.linkname = tarfile.SYMTYPE, "elsewhere"
        else:
            member.size = len(passwd)
        archive.addfile(member, None if passwd is None else io.BytesIO(passwd))

    class Client:
        def get_archive(self, container: str, path: str) -> tuple[Any, dict[str, Any]]:
            return (chunk for chunk in [packed.getvalue()]), {}

    asked = Engine(Address("unix:///x", "test"), Client(), {})  # type: ignore[arg-type]
    assert inside.user_id(asked, "c", "app") == number


def test_an_engine_that_has_answered_before_has_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"unix://{tmp_path}/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", url)
    with pytest.raises(MissingCapability):  # exit status 3
        engine.connect()
    monkeypatch.setattr(engine, "_answered", {url})
    with pytest.raises(OutsideFailure):  # 4
        engine.connect()


def test_files_that_not_everybody_may_read_are_copied(tmp_path: Path) -> None:
    original = tmp_path / "original.onnx"
    original.write_bytes(b"weights")
    original.chmod(0o600)
    folder = tmp_path / "rendered"
    (folder / "1").mkdir(parents=True)
    os.link(original, folder / "1" / "hard.onnx")
    (folder / "1" / "soft.onnx").symlink_to(original)
    (folder / "config.pbtxt").write_text("x")
    folder.chmod(0o700)
    models.make_readable(folder)
    for name in ("hard.onnx", "soft.onnx"):
        path = folder / "1" / name
        assert not path.is_symlink()
        assert path.read_bytes() == b"weights"
        assert path.stat().st_mode & 0o777 == 0o644
    assert original.stat().st_mode & 0o777 == 0o600  # it is not ours to open
    assert folder.stat().st_mode & 0o777 == 0o755


def test_weights_are_what_is_no_text(tmp_path: Path) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("x" * 10)
    rendered = Rendered("m", tmp_path, "", None, None)
    assert models.weight_bytes(rendered) is None
    (version / "model.onnx").write_bytes(b"x" * 1000)
    (tmp_path / "m" / "labels.txt").write_text("x" * 10)
    assert models.weight_bytes(rendered) == 1000


def test_a_tar_for_an_engine_elsewhere_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "a" / "m" / "1").mkdir(parents=True)
    (tmp_path / "a" / "m" / "1" / "model.onnx").write_bytes(b"x")
    models.pack({"": tmp_path / "a", "1": tmp_path / "a"}, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as archive:
        names = {member.name.removeprefix("./") for member in archive}
        assert {"m/1/model.onnx", "1/m/1/model.onnx"} <= names
        assert {(member.uid, member.uname) for member in archive} == {(0, "")}


def _dead(mark: marks.Mark) -> marks.Mark:
    return marks.Mark(mark.kind, 4194301, 1, mark.boot, mark.namespace, mark.token)


def test_only_what_is_transient_and_whose_owner_is_dead_may_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    alive, launched = marks.mint(), _dead(marks.mint(launched=True))
    assert not remains._may_go(alive)
    assert remains._may_go(_dead(alive))
    assert not remains._may_go(launched)  # nobody knows how far it came
    launched.folder.mkdir(parents=True)
    marks.write_state(launched, {"complete": True})
    assert not remains._may_go(launched)
    marks.write_state(launched, {"complete": False})
    assert remains._may_go(launched)
