"""The machine that measures: what is unpacked there, the paths, the processes, the state.

Standard library only: on that machine this runs before anything of ours is unpacked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
BUNDLE = Path(os.environ.get("IGPROF_GPU_BUNDLE", ROOT / ".gpu"))
"""What travels beside the tracked files; made by ``bundle``."""
UNPACKED = Path(os.environ.get("IGPROF_GPU_FOLDER", "/tmp/igprof-gpu"))
LIBPYTHON = "libpython3.12.so.1.0"
SYSTEM_LIBRARIES = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"))
NETWORKS = (*("resnet50", "vgg19", "alexnet", "mobilenet_v2", "ssd", "fcn_resnet50", "encoder"),)
PART_BYTES = 15 << 20
"""The largest file that is sent back."""
ARCHIVES = "state*.tar.xz"
"""The names of a state's archives."""
JOURNAL = "steps.json"
UNFINISHED = ("unfinished", "failed")
"""How a step stands that the next piece goes on with."""
GRACE_S = 40.0
"""How long a verb may take to finish its cell after it was interrupted."""


class OutOfTime(Exception):
    """The step's time is over; what it has is saved, and the next piece goes on with it."""


@dataclass(frozen=True)
class Work:
    """Where and with what a step works."""

    state: Path
    """The folder of everything measured so far; what is there is not measured again."""
    out: Path
    """The folder that comes back."""
    device: str
    """``cuda:0``, or ``cpu:0`` in a rehearsal."""
    python: Path
    """The machine's Python, which has PyTorch."""
    igprof: list[str]
    """The command line that igprof's verbs are put after."""
    server: Path | None
    """The ``tritonserver`` (a wrapper that knows its libraries); None: igprof's own."""
    repository: Path
    """The Triton model repository; igprof runs beside it, since a profile stores its path."""
    quick: bool
    """A rehearsal: a few cells of each step."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that igprof's processes need beside ours."""

    @property
    def on_gpu(self) -> bool:
        """Whether this is no rehearsal on the CPU."""
        return self.device.startswith("cuda")

    @property
    def serving(self) -> list[str]:
        """The options of igprof's verbs that say how models are served."""
        server = [] if self.server is None else ["--triton", str(self.server)]
        return [*server, "--repository", self.repository.name]

    def log(self, text: str) -> None:
        """Append a line to the state's log and show it."""
        line = f"{time.strftime('%H:%M:%S', time.gmtime())} {text}"
        print(line, flush=True)
        with (self.state / "log.txt").open("a") as log:
            log.write(line + "\n")

    def save(self, name: str, document: object) -> Path:
        """Write a JSON document into the state, whole or not at all."""
        path = self.state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(document, indent=1, default=str) + "\n")
        temporary.replace(path)
        return path

    def run(
        self, arguments: Sequence[str | Path], until: float, *, accept: Iterable[int] = (0,)
    ) -> int:
        """Run a verb of igprof; its output goes to the state's log.

        At ``until`` it is interrupted once, so that it finishes and stores its cell.

        Raises:
            OutOfTime: it was interrupted.
            RuntimeError: its exit status is not one of ``accept``.
        """
        command = [*self.igprof, *map(str, arguments)]
        self.log("$ igprof " + " ".join(map(str, arguments)))
        with (self.state / "log.txt").open("a") as log:
            start = log.tell()
            process = subprocess.Popen(
                command,
                cwd=self.repository.parent,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            status, cut = _await(process, until)
        if cut:
            raise OutOfTime(f"igprof {arguments[0]} was interrupted")
        if status not in accept:
            raise RuntimeError(f"igprof {arguments[0]} ended with {status}: {self._reason(start)}")
        return status

    def _reason(self, start: int) -> str:
        """What igprof told last, as its error if it told one, from a place of the log on."""
        told = (self.state / "log.txt").read_bytes()[start:].decode(errors="replace")
        lines = told.strip().splitlines() or [""]
        return next((line for line in reversed(lines) if line.startswith("igprof: ")), lines[-1])


def _await(process: subprocess.Popen[bytes], until: float) -> tuple[int, bool]:
    """A process's exit status, and whether it had to be interrupted for want of time."""
    try:
        return process.wait(max(0.0, until - time.monotonic())), False
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None and sys.exc_info()[0] is not None:
            process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(GRACE_S), True
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(10), True
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the driver stays
        process.wait(5)
    return -signal.SIGKILL, True


# --- unpacking ------------------------------------------------------------------------------------


def prepare(device: str, out: Path, *, quick: bool) -> Work:
    """Unpack what came along, once, and say where everything is.

    A rehearsal on a CPU where nothing was bundled uses what is installed there: igprof's own
    Triton, and the zoo's ONNX models.

    Raises:
        RuntimeError: something is missing without which nothing can be measured.
    """
    python = Path(sys.executable)
    UNPACKED.mkdir(parents=True, exist_ok=True)
    state = state_folder()
    if not state.is_dir():
        unpack_state(kept(), state)
    environment = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    bundled = sys.version_info[:2] == (3, 12) and (BUNDLE / "site.tar.xz").is_file()
    server = None
    if bundled:
        site = _unpack(BUNDLE / "site.tar.xz", UNPACKED / "site")
        triton = _unpack(BUNDLE / "triton.tar.xz", UNPACKED / "triton")
        server = UNPACKED / "tritonserver"
        server.write_text(_wrapper(triton, python))
        server.chmod(0o755)
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(site)])
        # MPS's pipes lie in there, and the names of sockets are short
        environment["XDG_CACHE_HOME"] = str(UNPACKED / "cache")
    elif not device.startswith("cpu"):
        raise RuntimeError(
            f"{device} needs Python 3.12 and what 'scripts/gpu_campaign bundle' makes"
        )
    work = Work(
        state=state,
        out=out,
        device=device,
        python=python,
        igprof=[str(python), "-m", "igniter_prof"],
        server=server,
        repository=UNPACKED / "repository",
        quick=quick,
        environment=environment,
    )
    _build_repository(work)
    _put_aside(work)
    return work


def _put_aside(work: Work) -> None:
    """What was measured on another device is kept whole in ``earlier/``; all begins anew."""
    ask = (
        "import sys; from igniter_prof.config.devices import resolve_device;"
        "device = resolve_device(sys.argv[1]); print(device.id, device.name, sep=chr(10))"
    )
    command = [str(work.python), "-c", ask, work.device]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **work.environment}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"no device {work.device}: {done.stderr.strip().splitlines()[-1:]}")
    ours = done.stdout.split("\n")[:2]
    noted = work.state / "device.json"
    theirs = json.loads(noted.read_text()) if noted.exists() else ours
    if theirs != ours:
        earlier = work.state / "earlier"
        place = earlier / str(1 + sum(1 for _ in earlier.glob("*")))
        place.mkdir(parents=True)
        for path in work.state.iterdir():
            if path != earlier:
                path.rename(place / path.name)
    work.save("device.json", ours)


def state_folder() -> Path:
    """Where this machine keeps the state; it outlives a piece while the machine is kept."""
    return UNPACKED / "state"


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive of the bundle, once; its folder."""
    if not archive.is_file():
        raise RuntimeError(f"no {archive}; run 'scripts/gpu_campaign bundle' first")

    def unpack(fresh: Path) -> None:
        with tarfile.open(archive) as packed:
            packed.extractall(fresh, filter="data")

    return _made(folder, [archive], unpack)


def _made(folder: Path, sources: Iterable[Path], make: Callable[[Path], None]) -> Path:
    """A folder that is made once, and anew when what it follows from has changed since."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    noted = folder.with_name(f"{folder.name}.from")
    if not (folder.is_dir() and noted.exists() and noted.read_text() == digest):
        fresh = folder.with_name(f"{folder.name}.new")
        for old in (fresh, folder):
            shutil.rmtree(old, ignore_errors=True)
        make(fresh)
        fresh.rename(folder)
        noted.write_text(digest)
    return folder


def _wrapper(triton: Path, python: Path) -> str:
    """A ``tritonserver`` that finds its libraries, its backend, and the machine's Python.

    The stub of Triton's Python backend embeds the Python whose ``python3`` is first on PATH, with
    the packages of its virtual environment, and needs that Python's shared library. The server
    itself is kept off the GPU, where its pools of memory would make it one more client.
    """
    libraries = [triton / "nvidia_pytriton.libs", libpython_folder(python, triton)]
    server = triton / "pytriton" / "tritonserver"
    return f"""#!/bin/sh
export PATH="{python.parent}:/usr/local/bin:/usr/bin:/bin"
export LD_LIBRARY_PATH="{":".join(map(str, libraries))}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
unset PYTHONPATH PYTHONHOME
exec "{server}/bin/tritonserver" --backend-directory="{server}/backends" \\
    --backend-config=python,stub-timeout-seconds=120 \\
    --cuda-memory-pool-byte-size=0:0 --pinned-memory-pool-byte-size=0 "$@" --allow-gpu-metrics=false
"""


def libpython_folder(python: Path, triton: Path) -> Path:
    """The folder with the shared library of a Python: its own, else the one that came along."""
    ask = (
        "import sys, sysconfig;"
        "print(sysconfig.get_config_var('LIBDIR'), sys.base_prefix, sep=chr(10))"
    )
    own = subprocess.run([str(python), "-I", "-c", ask], capture_output=True, text=True, check=True)
    libraries, prefix = map(Path, own.stdout.splitlines()[:2])
    folders = [libraries, prefix / "lib", *SYSTEM_LIBRARIES]
    found = (folder for folder in folders if (folder / LIBPYTHON).exists())
    return next(found, triton / "libpython")


def _build_repository(work: Work) -> None:
    """The models: on PyTorch, or in a rehearsal without the bundle the zoo's smallest."""
    networks = [*NETWORKS, "--torch", "both"] if work.server else ["mlp", "encoder"]
    environment = {**os.environ, **work.environment}

    def build(fresh: Path) -> None:
        command = [*work.igprof, "zoo", "build", *networks, "--into", str(fresh)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)

    folders = (ROOT / "igniter_prof" / "zoo", ROOT / "model_repository")
    every = sorted(path for folder in folders for path in folder.rglob("*"))
    _made(work.repository, (path for path in every if path.suffix in (".py", ".pbtxt")), build)


# --- the state ------------------------------------------------------------------------------------


def journal(state: Path) -> dict[str, dict[str, Any]]:
    """How each step stands that was begun: ``done``, ``unfinished`` or ``failed``."""
    path = state / JOURNAL
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def kept() -> list[Path]:
    """The archives of earlier pieces' state that came along."""
    return sorted(BUNDLE.glob(ARCHIVES))


def unpack_state(parts: Sequence[Path], state: Path) -> None:
    """Make a state folder from its archives, whole or not at all; each holds whole files."""
    fresh = state.with_name(f"{state.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for part in parts:
        with tarfile.open(part) as archive:
            archive.extractall(fresh, filter="data")
    fresh.rename(state)


def broken_archives(parts: Sequence[Path]) -> list[Path]:
    """Those of some files that are no whole archives."""
    return [part for part in parts if _members(part) is None]


def _members(archive: Path) -> list[str] | None:
    try:
        with tarfile.open(archive) as opened:
            return opened.getnames()
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError):
        return None


def cells_in(parts: Sequence[Path]) -> int:
    """How many cells some archives of a state hold, those that were put aside included."""
    names = (name for part in parts for name in _members(part) or ())
    return sum(fnmatch(name, "*/cells/*.zip") for name in names)


def pack_state(state: Path, out: Path) -> list[Path]:
    """Pack a state folder into ``out``: ``state.tar.xz``, or ``state-1.tar.xz``… if it is large.

    Each archive holds whole files and is at most ``PART_BYTES`` long, unless a single file is not.
    """
    files = sorted(path for path in state.rglob("*") if path.is_file())
    parts = _packed(state, out, [files])
    for part in parts:
        part.replace(part.with_name(part.name.removesuffix(".new")))
    return [part.with_name(part.name.removesuffix(".new")) for part in parts]


def _packed(state: Path, out: Path, groups: list[list[Path]]) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    while True:
        parts = []
        for index, group in enumerate(groups):
            name = "state.tar.xz" if len(groups) == 1 else f"state-{index + 1}.tar.xz"
            part = out / f"{name}.new"
            with tarfile.open(part, "w:xz", preset=2) as archive:
                for path in group:
                    archive.add(path, path.relative_to(state))
            parts.append(part)
        large = [i for i, part in enumerate(parts) if part.stat().st_size > PART_BYTES]
        large = [i for i in large if len(groups[i]) > 1]
        if not large:
            return parts
        for part in parts:
            part.unlink()
        groups = [
            half
            for i, group in enumerate(groups)
            for half in (_halves(group) if i in large else [group])
        ]


def _halves(group: list[Path]) -> list[list[Path]]:
    """Two parts of about the same number of bytes, in order; neither is empty."""
    total = sum(path.stat().st_size for path in group)
    seen = 0
    for index, path in enumerate(group[:-1]):
        seen += path.stat().st_size
        if 2 * seen >= total:
            return [group[: index + 1], group[index + 1 :]]
    return [group[:-1], group[-1:]]
