"""Finding and fetching Triton, with nothing fetched."""

from __future__ import annotations

import platform
import subprocess
import zipfile
from pathlib import Path

import pytest

from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.serving import interpreter, triton
from igniter_prof.serving.interpreter import Interpreter


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a unit test starts a process: {args}")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interpreter:
    found = Interpreter("3.11", Path("/usr/bin/python3.11"), tmp_path)
    monkeypatch.setattr(interpreter, "find", lambda fetched: found)
    monkeypatch.setattr(triton, "unsupported", lambda: None)
    return found


def make_wheel(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        base = "pytriton/tritonserver"
        archive.writestr(f"{base}/bin/tritonserver", "program")
        archive.writestr(f"{base}/backends/python/libtriton_python.so", "library")
        stub = f"{base}/python_backend_stubs/3.11/triton_python_backend_stub"
        archive.writestr(stub, "stub of 3.11")


def pretend(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str | None]) -> list[str]:
    """Stand in for commands: what each says, by a word of it; the commands are kept."""
    commands: list[str] = []

    def run(command: list[str]) -> str | None:
        line = " ".join(command)
        commands.append(line)
        word = next(word for word in answers if word in line)
        if word == "venv" and answers[word] is None:
            folder = Path(command[-1]) / "bin"
            folder.mkdir()
            (folder / "python").touch()
        return answers[word]

    monkeypatch.setattr(triton, "_run", run)
    return commands


def test_a_triton_on_path_is_used_as_it_is(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "tritonserver"
    program.touch(mode=0o755)
    found = triton.ensure()
    assert found.program == program
    assert (found.backends, found.environment, found.framework()) == (None, None, None)


def test_a_named_triton_comes_before_that_on_path(tmp_path: Path) -> None:
    (tmp_path / "bin" / "tritonserver").touch(mode=0o755)
    named = tmp_path / "opt" / "bin" / "tritonserver"
    named.parent.mkdir(parents=True)
    named.touch(mode=0o755)
    assert triton.ensure(named).program == named
    assert triton.ensure(tmp_path / "opt").program == named


def test_a_named_triton_that_is_no_program_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "text").touch(mode=0o644)
    for path in (tmp_path / "text", tmp_path / "nowhere"):
        with pytest.raises(BadInput, match="no program"):
            triton.ensure(path)


@pytest.mark.parametrize(
    ("machine", "libc", "word"),
    [
        ("aarch64", ("glibc", "2.36"), "aarch64"),
        ("x86_64", ("glibc", "2.31"), "2.31"),
        ("x86_64", ("", ""), "another libc"),
    ],
)
def test_a_machine_that_cannot_run_the_wheel_is_told(
    machine: str, libc: tuple[str, str], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    with pytest.raises(MissingCapability, match=word) as refusal:
        triton.ensure()
    assert "--triton" in str(refusal.value)


@pytest.mark.usefixtures("python")
def test_without_a_network_it_says_what_to_get_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"venv": None, "pip install": None, "pip download": "ERROR: no network"})
    with pytest.raises(MissingCapability, match="no network") as refusal:
        triton.ensure()
    assert triton.WHEEL in str(refusal.value)
    assert str(triton.root()) in str(refusal.value)
    # nothing half made is left, and what was done is kept
    assert not [path for path in triton.root().iterdir() if path.name.startswith(".download")]
    assert len(list(triton.root().glob("python-3.11-*"))) == 1
    assert not triton.cached()


@pytest.mark.usefixtures("python")
def test_packages_that_fail_to_install_leave_no_half_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, {"venv": None, "pip install": "ERROR: hashes do not match"})
    with pytest.raises(MissingCapability, match="hashes do not match"):
        triton.ensure()
    assert [path.name for path in triton.root().iterdir()] == [".lock"]


@pytest.mark.usefixtures("python")
def test_a_python_without_venv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"venv": "ensurepip is not available"})
    with pytest.raises(MissingCapability) as refusal:
        triton.ensure()
    assert "apt-get install python3.11-venv" in str(refusal.value)


@pytest.mark.usefixtures("python")
def test_a_wheel_put_into_the_cache_is_verified_and_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = pretend(monkeypatch, {"venv": None, "pip install": None})
    wheel = triton.root() / triton.WHEEL
    make_wheel(wheel)
    with pytest.raises(MissingCapability, match="not the Triton that igprof knows"):
        triton.ensure()
    import hashlib

    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(triton, "WHEEL_SHA256", digest)
    told: list[str] = []
    found = triton.ensure(progress=told.append)
    assert found.program.read_text() == "program"
    assert found.program.stat().st_mode & 0o111
    assert found.backends is not None
    stub = found.backends / "python" / "triton_python_backend_stub"
    assert stub.read_text() == "stub of 3.11"
    assert stub.stat().st_mode & 0o111
    assert (found.backends / "python" / "libtriton_python.so").exists()
    assert found.environment is not None
    environment = dict(found.environment)
    assert "PYTHONPATH" not in environment
    assert environment["PATH"].startswith(f"{found.packages}/bin:")
    assert any("unpacking" in line for line in told)
    assert not wheel.exists()
    # a second time nothing is made, fetched or told
    done = len(commands)
    told.clear()
    assert triton.ensure(progress=told.append) == found
    assert (len(commands), told) == (done, [])
    assert triton.cached()


@pytest.mark.usefixtures("python")
def test_leftovers_of_a_killed_unpacking_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    pretend(monkeypatch, {"venv": None, "pip install": None})
    wheel = triton.root() / triton.WHEEL
    make_wheel(wheel)
    monkeypatch.setattr(triton, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    half = triton.root() / f".pytriton-{triton.WHEEL_VERSION}.half"
    half.mkdir()
    triton.ensure()
    assert not half.exists()


@pytest.mark.usefixtures("python")
def test_too_little_disk_space_is_said_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton, "NEEDED_MIB", 10**12)
    with pytest.raises(MissingCapability, match="MiB of disk space"):
        triton.ensure()


def test_the_framework_is_read_from_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "lib/python3.11/site-packages/onnxruntime-1.2.3.dist-info").mkdir(parents=True)
    found = triton.Installation(tmp_path / "x", None, None, tmp_path)
    assert found.framework() == "onnxruntime 1.2.3"


def test_the_lock_pins_every_package_by_hash() -> None:
    lines = triton.LOCK.read_text().splitlines()
    packages = [line for line in lines if line and line[0].isalpha()]
    assert {line.partition("==")[0] for line in packages} >= {"numpy", "onnxruntime"}
    for number, line in enumerate(lines):
        if line in packages:
            assert "==" in line
            assert "--hash=sha256:" in lines[number + 1]


# --- interpreters ---------------------------------------------------------------------------------


def candidates(monkeypatch: pytest.MonkeyPatch, *found: Interpreter) -> None:
    monkeypatch.setattr(interpreter, "_candidates", lambda fetched: iter(found))


def test_a_python_with_its_library_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = Interpreter("3.12", Path("/a"), None)
    having = Interpreter("3.11", Path("/b"), tmp_path)
    candidates(monkeypatch, without, having)
    assert interpreter.find(tmp_path) == having


def test_a_missing_library_is_fetched_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates(monkeypatch, Interpreter("3.11", Path("/usr/bin/python3.11"), None))
    (tmp_path / "bin" / "apt-get").touch(mode=0o755)
    (tmp_path / "bin" / "dpkg-deb").touch(mode=0o755)

    def run(command: list[str], cwd: Path, **kwargs: object) -> None:
        if command[0] == "apt-get":
            assert command == ["apt-get", "download", "libpython3.11"]
        else:
            (cwd / "usr/lib").mkdir(parents=True)
            (cwd / "usr/lib/libpython3.11.so.1.0").write_text("library")

    monkeypatch.setattr(subprocess, "run", run)
    found = interpreter.find(tmp_path / "lib")
    assert found.library_folder == tmp_path / "lib"
    assert [path.name for path in (tmp_path / "lib").iterdir()] == ["libpython3.11.so.1.0"]


def test_a_missing_library_that_cannot_be_fetched_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates(monkeypatch, Interpreter("3.11", Path("/usr/bin/python3.11"), None))
    with pytest.raises(MissingCapability) as refusal:
        interpreter.find(tmp_path)
    assert "sudo apt-get install libpython3.11" in str(refusal.value)
    candidates(monkeypatch)
    with pytest.raises(MissingCapability, match="needs CPython"):
        interpreter.find(tmp_path)
