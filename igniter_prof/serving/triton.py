"""A real Triton without Docker: the one on PATH, or the wheel ``nvidia-pytriton``, cached.

The wheel is downloaded once, verified by its hash, and only unpacked: never installed into the
profiler's own environment. The Python that Triton embeds finds numpy and onnxruntime in a virtual
environment of its own, whose ``bin`` comes first on the server's PATH (PYTHONPATH does not work:
the stub resets it).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from igniter_prof import files
from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.serving import interpreter
from igniter_prof.serving.contract import Progress, silent
from igniter_prof.serving.interpreter import Interpreter

WHEEL_VERSION = "0.7.0"
WHEEL = f"nvidia_pytriton-{WHEEL_VERSION}-py3-none-manylinux_2_35_x86_64.whl"
WHEEL_SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
MIN_GLIBC = (2, 35)
NEEDED_MIB = 800
"""Disk space for the wheel, what is in it, and the servers' packages."""
LOCK = Path(__file__).parent / "server-requirements.lock"
DOWNLOAD_TIMEOUT_S = 900


@dataclass(frozen=True)
class Installation:
    """A Triton that can be started."""

    program: Path
    backends: Path | None
    """Its backends; None: where Triton itself looks for them."""
    environment: tuple[tuple[str, str], ...] | None
    """The server's whole environment; None: ours (a Triton of the user's knows its own)."""
    packages: Path | None
    """The virtual environment of the server's packages; None: not ours to know."""

    def serves_gpu(self, backend: str) -> bool:
        """Whether its models of a backend can use a GPU: of what comes with igprof, none can."""
        return self.environment is None

    def framework(self) -> str | None:
        """``onnxruntime <version>`` as installed for the servers; None if it is not known."""
        if self.packages is None:
            return None
        found = next(self.packages.glob("lib/python*/site-packages/onnxruntime-*.dist-info"), None)
        return None if found is None else found.name.removesuffix(".dist-info").replace("-", " ")


def root() -> Path:
    """The folder of everything that belongs to Triton in the cache, made if it is not there."""
    return files.make_cached(files.cache_dir() / "triton")


def locate(path: Path | None) -> Path | None:
    """A Triton that the user has: at ``path``, else on PATH. Raises BadInput for a wrong path."""
    if path is None:
        found = shutil.which("tritonserver")
        return Path(found) if found else None
    if path.is_dir():
        path = path / "bin" / "tritonserver"
    if not os.access(path, os.X_OK) or path.is_dir():
        raise BadInput(
            "is no program", where=str(path), hint="--triton takes the path of a tritonserver"
        )
    return path.absolute()


def ensure(path: Path | None = None, progress: Progress = silent) -> Installation:
    """A Triton that can be started; downloads the wheel and its packages at the first call.

    Args:
        path: a ``tritonserver`` to use instead.
        progress: told what takes long.

    Raises:
        BadInput: ``path`` is no program.
        MissingCapability: this machine cannot run the wheel, or it cannot be downloaded.
    """
    own = locate(path)
    if own is not None:
        return Installation(program=own, backends=None, environment=None, packages=None)
    reason = unsupported()
    if reason is not None:
        raise MissingCapability(
            f"the Triton of nvidia-pytriton cannot run here: {reason}",
            hint="put a tritonserver on PATH, or name it with --triton PATH",
        )
    with _locked():
        python = interpreter.find(root() / "lib")
        environment = _packages(python, progress)
        server = _server(environment, progress)
        backends = _backends(server, python)
    return _installation(server, backends, environment, python)


def cached() -> bool:
    """Whether the wheel is unpacked already, so that no network is needed."""
    return _server_folder().is_dir() and any(root().glob("python-*"))


def unpacked(progress: Progress = silent) -> Path:
    """The wheel's contents, for a container image; nothing of it need run on this machine.

    Raises:
        MissingCapability: it cannot be downloaded, or no disk space is left.
    """
    with _locked():
        return _server(Path(sys.prefix), progress)


def unsupported() -> str | None:
    """Why the wheel cannot run on this machine; None if it can."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return f"it is for Linux on x86-64, this is {platform.system()} on {platform.machine()}"
    library, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if library != "glibc" or numbers < MIN_GLIBC:
        wanted = ".".join(map(str, MIN_GLIBC))
        return f"it needs glibc {wanted} or later, here is {library or 'another libc'} {version}"
    return None


def _installation(
    server: Path, backends: Path, environment: Path, python: Interpreter
) -> Installation:
    assert python.library_folder is not None, "find() sees to it"
    libraries = [server / "nvidia_pytriton.libs", python.library_folder]
    variables = {
        # the embedded interpreter takes its packages from the first python3 on PATH
        "PATH": f"{environment / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",  # repositories are not ours to write to
        "PYTHONNOUSERSITE": "1",
    }
    return Installation(
        program=server / "pytriton" / "tritonserver" / "bin" / "tritonserver",
        backends=backends,
        environment=tuple(variables.items()),
        packages=environment,
    )


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One igprof at a time fills the cache; the lock goes with its process, however it ends."""
    with (root() / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _built(destination: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``destination`` at a clean exit, else vanishes."""
    for leftover in destination.parent.glob(f".{destination.name}.*"):
        shutil.rmtree(
            leftover, ignore_errors=True
        )  # of an igprof that was killed: we hold the lock
    work = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        yield work
        work.chmod(0o755)
        work.rename(destination)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _packages(python: Interpreter, progress: Progress) -> Path:
    """The virtual environment of the servers' packages, exactly as locked."""
    identity = f"{LOCK.read_text()}{python.executable}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    folder = root() / f"python-{python.version}-{digest}"
    if (folder / "bin" / "python").exists():
        return folder
    _check_space()
    progress(f"installing the servers' packages (numpy, onnxruntime) into {folder}")
    with _built(folder) as work:
        made = _run([str(python.executable), "-I", "-m", "venv", str(work)])
        if made is not None:
            raise MissingCapability(
                f"no virtual environment can be made: {made}",
                where=str(python.executable),
                hint=f"sudo apt-get install python{python.version}-venv",
            )
        failed = _run(
            [
                *(str(work / "bin" / "python"), "-m", "pip", "install", "--require-hashes"),
                *("--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"),
                *("--retries=2", "--timeout=20", "-r", str(LOCK)),
            ]
        )
        if failed is not None:
            raise MissingCapability(
                f"the servers' packages could not be downloaded: {failed}",
                where=str(folder),
                hint="they are needed once: connect to a network (or set PIP_INDEX_URL or"
                f" PIP_FIND_LINKS) and run the command again; they are listed in {LOCK}",
            )
    return folder


def _server_folder() -> Path:
    return root() / f"pytriton-{WHEEL_VERSION}"


def _server(environment: Path, progress: Progress) -> Path:
    """The unpacked wheel."""
    folder = _server_folder()
    if folder.is_dir():
        return folder
    _check_space()
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root()) as temporary:
        wheel = root() / WHEEL  # where somebody without a network may have put it
        if not wheel.exists():
            progress("downloading Triton (nvidia-pytriton, 55 MB)")
            wheel = _download(environment, Path(temporary))
        _verify(wheel)
        progress(f"unpacking Triton into {folder}")
        with _built(folder) as work, zipfile.ZipFile(wheel) as archive:
            archive.extractall(work)
            for program in ("bin/tritonserver", *_stubs(work)):
                (work / "pytriton" / "tritonserver" / program).chmod(0o755)
    (root() / WHEEL).unlink(missing_ok=True)
    return folder


def _stubs(unpacked: Path) -> list[str]:
    server = unpacked / "pytriton" / "tritonserver"
    return [
        str(path.relative_to(server))
        for path in server.glob("python_backend_stubs/*/triton_python_backend_stub")
    ]


def _download(environment: Path, destination: Path) -> Path:
    requirements = destination / "wheel.txt"
    requirements.write_text(f"nvidia-pytriton=={WHEEL_VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    failed = _run(
        [
            *(str(environment / "bin" / "python"), "-m", "pip", "download", "--no-deps"),
            *("--require-hashes", "--only-binary=:all:", "--no-input", "--no-cache-dir"),
            *("--disable-pip-version-check", "--quiet", "--retries=2", "--timeout=20"),
            *("-d", str(destination), "-r", str(requirements)),
        ]
    )
    if failed is not None or not (destination / WHEEL).exists():
        raise MissingCapability(
            f"Triton could not be downloaded: {failed}",
            where=f"nvidia-pytriton {WHEEL_VERSION} from PyPI",
            hint=f"connect to a network once, or put {WHEEL} into {root()},"
            " or name a tritonserver with --triton PATH",
        )
    return destination / WHEEL


def _verify(wheel: Path) -> None:
    digest = hashlib.sha256()
    with wheel.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != WHEEL_SHA256:
        raise MissingCapability(
            f"is not the Triton that igprof knows: its SHA-256 is {digest.hexdigest()}",
            where=str(wheel),
            hint=f"expected {WHEEL_SHA256}; remove the file and run the command again",
        )


def _backends(server: Path, python: Interpreter) -> Path:
    """The backends with the stub of one Python: the backend looks for it beside itself."""
    folder = root() / f"backends-{WHEEL_VERSION}-{python.version}"
    if folder.is_dir():
        return folder
    source = server / "pytriton" / "tritonserver"
    with _built(folder) as work:
        shutil.copytree(source / "backends", work, dirs_exist_ok=True)
        stub = f"python_backend_stubs/{python.version}/triton_python_backend_stub"
        shutil.copy2(source / stub, work / "python" / "triton_python_backend_stub")
    return folder


def _check_space() -> None:
    free_mib = shutil.disk_usage(root()).free / (1 << 20)
    if free_mib < NEEDED_MIB:
        raise MissingCapability(
            f"{free_mib:.0f} MiB of disk space are free, Triton needs {NEEDED_MIB}",
            where=str(root()),
            hint="free some, or set XDG_CACHE_HOME to a larger disk",
        )


def _run(command: list[str]) -> str | None:
    """Run a command; None if it succeeded, else the line of its output that says why not."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_USER")
    }
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {DOWNLOAD_TIMEOUT_S} s"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or [f"exit status {done.returncode}"])[-1]
