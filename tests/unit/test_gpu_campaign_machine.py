"""The GPU campaign's machine, steps and bundle: state that survives, steps that always end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import SCRIPTS

FOLDER = SCRIPTS / "gpu_campaign.d"


@pytest.fixture(scope="module")
def steps() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import steps

        yield steps


@pytest.fixture
def machine(steps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with its folders in the test's own."""
    monkeypatch.setattr(steps.machine, "BUNDLE", tmp_path / "bundle")
    monkeypatch.setattr(steps.machine, "UNPACKED", tmp_path / "unpacked")
    (tmp_path / "bundle").mkdir()
    return steps.machine


@pytest.fixture
def work(machine: Any, tmp_path: Path) -> Any:
    """Work whose ``igprof`` runs Python code."""
    state = tmp_path / "unpacked" / "state"
    state.mkdir(parents=True)
    python = Path(sys.executable)
    command = [sys.executable, "-c"]
    return machine.Work(state, tmp_path / "out", "cpu:0", python, command, None, tmp_path, True)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- the state ---


def test_a_state_comes_back_as_it_was(machine: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "profiles/solo/cells").mkdir(parents=True)
    (state / "log.txt").write_text("a\n")
    (state / "profiles/solo/cells/1.zip").write_bytes(b"\0" * 100)
    (part,) = machine.pack_state(state, tmp_path / "out")
    assert part.name == "state.tar.xz"
    machine.unpack_state([part], tmp_path / "back")
    assert content(tmp_path / "back") == content(state)


def test_a_large_state_comes_in_parts_that_are_small_enough(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PART_BYTES", 20_000)
    state = tmp_path / "state"
    state.mkdir()
    for index in range(9):
        (state / f"{index}.bin").write_bytes(os.urandom(7_000))
    parts = machine.pack_state(state, tmp_path / "out")
    assert len(parts) > 1
    assert all(part.stat().st_size <= 20_000 for part in parts)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [p.name for p in parts]
    machine.unpack_state(parts, tmp_path / "back")
    assert content(tmp_path / "back") == content(state)


def test_a_file_that_is_too_large_alone_ends_no_packing(
    machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PART_BYTES", 1_000)
    state = tmp_path / "state"
    state.mkdir()
    (state / "large.bin").write_bytes(os.urandom(5_000))
    (state / "small.txt").write_text("x")
    parts = machine.pack_state(state, tmp_path / "out")
    assert len(parts) == 2


def test_what_was_measured_on_another_device_is_put_aside(machine: Any, work: Any) -> None:
    work.save("device.json", ["cuda:GPU-1", "Another"])
    work.save("profiles/solo/profile.json", {})
    machine._put_aside(work.__class__(**{**vars(work), "python": Path(sys.executable)}))
    assert (work.state / "earlier/1/profiles/solo/profile.json").exists()
    assert not (work.state / "profiles").exists()
    assert json.loads((work.state / "device.json").read_text())[0] == "cpu:0"
    before = content(work.state)
    machine._put_aside(work)  # the same device: nothing moves
    assert content(work.state) == before


def test_a_broken_archive_makes_no_state(machine: Any, tmp_path: Path) -> None:
    part = returned(machine, tmp_path, cells=1)
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises((EOFError, OSError, machine.tarfile.TarError, machine.lzma.LZMAError)):
        machine.unpack_state([part], tmp_path / "back")
    assert not (tmp_path / "back").exists()


# --- what came back ---


def returned(machine: Any, tmp_path: Path, cells: int) -> Path:
    """The archive of a state with so many cells."""
    state = tmp_path / f"with-{cells}"
    (state / "profiles/solo/cells").mkdir(parents=True)
    for index in range(cells):
        (state / f"profiles/solo/cells/{index}.zip").write_bytes(os.urandom(100))
    (part,) = machine.pack_state(state, tmp_path / f"came-{cells}")
    found: Path = part
    return found


@pytest.fixture
def keep(machine: Any) -> Any:
    import campaign

    return campaign._keep


def test_what_came_back_takes_the_place_of_what_was_kept(
    machine: Any, keep: Any, tmp_path: Path
) -> None:
    old = machine.BUNDLE / "state-1.tar.xz"
    shutil.copy(returned(machine, tmp_path, cells=1), old)
    part = returned(machine, tmp_path, cells=2)
    part.chmod(0o444)
    assert keep([part]) == 0
    (kept,) = machine.kept()
    assert kept.read_bytes() == part.read_bytes()
    assert keep([kept]) == 0  # itself
    assert kept.read_bytes() == part.read_bytes()


def test_a_state_with_fewer_cells_replaces_none(
    machine: Any, keep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as that of a piece to which ``.gpu`` was not carried."""
    keep([returned(machine, tmp_path, cells=3)])
    before = content(machine.BUNDLE)
    assert keep([returned(machine, tmp_path, cells=1)]) == 2
    assert "holds 1 cells, and the state that is kept holds 3" in capsys.readouterr().err
    assert content(machine.BUNDLE) == before


def test_only_whole_archives_of_a_state_are_kept(
    machine: Any, keep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = returned(machine, tmp_path, cells=1)
    summary = tmp_path / "summary.txt"
    shutil.copy(part, summary)
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    for wrong in (summary, part, tmp_path / "state.tar.xz"):
        assert keep([wrong]) == 2
        assert f"{wrong}: is no archive of a state" in capsys.readouterr().err
    assert machine.kept() == []


# --- igprof's verbs ---


def test_a_verb_that_fails_says_why(machine: Any, work: Any) -> None:
    code = "print('igprof: another sweep'); print('  choose another'); raise SystemExit(2)"
    with pytest.raises(RuntimeError, match="ended with 2: igprof: another sweep"):
        work.run([code], time.monotonic() + 20)
    with pytest.raises(RuntimeError, match="ended with 3: no such thing"):
        work.run(["print('no such thing', flush=True); raise SystemExit(3)"], time.monotonic() + 20)
    assert work.run(["raise SystemExit(7)"], time.monotonic() + 20, accept=(0, 7)) == 7


def test_a_verb_is_interrupted_once_when_the_time_is_up(machine: Any, work: Any) -> None:
    code = "import time\ntry: time.sleep(30)\nexcept KeyboardInterrupt: print('stored', flush=True)"
    began = time.monotonic()
    with pytest.raises(machine.OutOfTime):
        work.run([code], began + 2.0)
    assert time.monotonic() - began < 20
    assert "stored" in (work.state / "log.txt").read_text()


# --- the steps ---


@pytest.fixture
def campaign(steps: Any, machine: Any, work: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three steps in the place of the real ones: functions of what is returned."""
    names = ("first", "second", "third")
    module = types.SimpleNamespace(**dict.fromkeys(names, lambda work, until: None))
    monkeypatch.setattr(steps, "MODULES", dict.fromkeys(names, "of the test"))
    monkeypatch.setattr(steps, "ORDER", names)
    monkeypatch.setattr(steps, "PACKING_S", 0.0)
    monkeypatch.setattr(steps.importlib, "import_module", lambda name: module)
    monkeypatch.setattr(machine, "prepare", lambda device, out, *, quick: work)
    return module


def run(steps: Any, work: Any, seconds: float = 60.0, **options: Any) -> int:
    status: int = steps.run("cpu:0", work.out, time.monotonic() + seconds, quick=True, **options)
    return status


def test_a_step_that_fails_keeps_no_other_from_being_done(
    steps: Any, work: Any, campaign: Any
) -> None:
    def second(work: Any, until: float) -> None:
        raise ValueError("broken")

    campaign.second = second
    assert run(steps, work) == 0
    states = {name: each["state"] for name, each in steps.journal(work.state).items()}
    assert states == {"first": "done", "second": "failed", "third": "done"}
    summary = (work.out / "summary.txt").read_text()
    assert "ValueError: broken" in summary
    assert (work.out / "state.tar.xz").exists()


def test_what_is_done_is_not_done_again_and_what_is_not_is(
    steps: Any, work: Any, campaign: Any
) -> None:
    seen = []

    def first(work: Any, until: float) -> None:
        seen.append("first")

    def second(work: Any, until: float) -> None:
        seen.append("second")
        if seen.count("second") < 2:
            raise steps.OutOfTime("half of it")

    campaign.first, campaign.second = first, second
    run(steps, work)
    assert steps.journal(work.state)["second"]["state"] == "unfinished"
    run(steps, work)
    assert seen == ["first", "second", "second"]
    assert steps.journal(work.state)["second"]["state"] == "done"


def test_signals_are_as_they_were_when_it_ends(steps: Any, work: Any, campaign: Any) -> None:
    """Else all that this process starts would ignore them, too."""
    before = signal.getsignal(signal.SIGTERM)
    run(steps, work)
    assert signal.getsignal(signal.SIGTERM) == before


def test_only_named_steps_are_done(steps: Any, work: Any, campaign: Any) -> None:
    run(steps, work, only=("third",))
    assert list(steps.journal(work.state)) == ["third"]


def test_no_step_begins_when_the_time_is_up(steps: Any, work: Any, campaign: Any) -> None:
    assert run(steps, work, seconds=-1.0) == 4
    assert steps.journal(work.state) == {}
    assert "not begun" in (work.out / "summary.txt").read_text()


def test_an_interrupt_still_packs(steps: Any, work: Any, campaign: Any) -> None:
    def second(work: Any, until: float) -> None:
        raise KeyboardInterrupt

    campaign.second = second
    assert run(steps, work) == 0
    assert (work.out / "state.tar.xz").exists()
    assert "third" not in steps.journal(work.state)


def test_a_machine_that_cannot_be_prepared_is_told(
    steps: Any, machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(device: str, out: Path, *, quick: bool) -> Any:
        raise RuntimeError("no bundle")

    monkeypatch.setattr(machine, "prepare", prepare)
    assert steps.run("cuda:0", tmp_path / "out", time.monotonic() + 9, quick=True) == 4
    assert "no bundle" in (tmp_path / "out" / "summary.txt").read_text()


def test_a_gpu_without_the_bundle_is_refused(machine: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="bundle"):
        machine.prepare("cuda:0", tmp_path / "out", quick=False)


def test_what_came_anew_is_made_anew(machine: Any, tmp_path: Path) -> None:
    """On a machine that is still there, too: else a mended model would not be used."""
    source, folder = tmp_path / "source", tmp_path / "made"

    def make(fresh: Path) -> None:
        fresh.mkdir()
        shutil.copy(source, fresh)

    source.write_text("first")
    machine._made(folder, [source], make)
    machine._made(folder, [source], lambda fresh: pytest.fail("made twice"))
    source.write_text("mended")
    machine._made(folder, [source], make)
    assert (folder / "source").read_text() == "mended"


# --- the machine's python ---


def test_the_wrapper_finds_the_pythons_own_library_first(machine: Any, tmp_path: Path) -> None:
    python = tmp_path / "python"
    libraries = tmp_path / "lib"
    libraries.mkdir()
    python.write_text(f"#!/bin/sh\necho {libraries}; echo {tmp_path}\n")
    python.chmod(0o755)
    triton = tmp_path / "triton"
    if not any(Path(folder, machine.LIBPYTHON).exists() for folder in machine.SYSTEM_LIBRARIES):
        assert machine.libpython_folder(python, triton) == triton / "libpython"
    (libraries / machine.LIBPYTHON).touch()
    assert machine.libpython_folder(python, triton) == libraries


# --- the bundle ---


def test_the_bundle_takes_each_package_once_with_its_hashes(steps: Any) -> None:
    import bundle

    lock = (SCRIPTS.parent / "requirements.lock").read_text()
    lines = bundle.locked(lock, bundle.PACKAGES).splitlines()
    names = [line.partition("==")[0] for line in lines if not line.startswith(" ")]
    assert names == list(bundle.PACKAGES)
    assert all("--hash=sha256:" in line for line in lines if line.startswith(" "))
    assert len(lines) > 2 * len(names) - 1
    with pytest.raises(SystemExit, match="numpy"):
        bundle.locked(lock, ("numpy",))  # there for several Pythons
    with pytest.raises(SystemExit, match="nothing-of-ours"):
        bundle.locked(lock, ("nothing-of-ours",))
