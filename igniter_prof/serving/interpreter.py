"""Which Python runs inside Triton: its stub is linked to one CPython and loads libpython."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from igniter_prof.errors import MissingCapability

SUPPORTED = ("3.12", "3.11", "3.10", "3.13")
"""CPythons that both the wheel's stubs and our locked packages are made for, best first.

3.13 comes last, though igprof itself may run with it: the stubs are built for NumPy 1, which has
no 3.13. With NumPy 2 a user's model that makes its tensors from arrays answers with empty ones.
"""
_ASK = (
    "import json,sys,sysconfig;print(json.dumps(['%d.%d'%sys.version_info[:2],"
    "getattr(sys,'_base_executable',sys.executable),sysconfig.get_config_var('LIBDIR'),"
    "sysconfig.get_config_var('MULTIARCH')]))"
)


@dataclass(frozen=True)
class Interpreter:
    """A CPython that Triton's Python backend can embed."""

    version: str
    """Major and minor: ``3.11``."""
    executable: Path
    library_folder: Path | None
    """The folder with ``libpython<version>.so.1.0``; None if it is not installed."""

    @property
    def library(self) -> str:
        """The file name of the shared library that the stub loads."""
        return f"libpython{self.version}.so.1.0"


def find(fetched: Path) -> Interpreter:
    """The Python to embed: the one that igprof runs with if it will do, else one on PATH.

    One whose shared library is installed is preferred. Without any, Debian's package is unpacked
    into ``fetched``, which needs no root.

    Raises:
        MissingCapability: there is none, or its shared library is missing.
    """
    seen: list[Interpreter] = []
    for candidate in _candidates(fetched):
        if candidate.library_folder is not None and candidate.version != SUPPORTED[-1]:
            return candidate
        seen.append(candidate)
    last = next((candidate for candidate in seen if candidate.library_folder is not None), None)
    if last is not None:
        return last
    if not seen:
        raise MissingCapability(
            "Triton's Python backend needs CPython 3.10 to 3.13",
            where=f"Python {sys.version_info[0]}.{sys.version_info[1]} runs igprof",
            hint="sudo apt-get install python3 python3-venv",
        )
    first = seen[0]
    package = f"libpython{first.version}"
    folder = _fetch(package, first.library, fetched)
    if folder is None:
        raise MissingCapability(
            f"{first.library} is missing, which Triton's Python backend loads",
            where=str(first.executable),
            hint=f"sudo apt-get install {package}",
        )
    return Interpreter(first.version, first.executable, folder)


def _candidates(fetched: Path) -> Iterator[Interpreter]:
    programs = [sys.executable]
    programs += [f"python{version}" for version in SUPPORTED] + ["python3", "/usr/bin/python3"]
    seen: set[Path] = set()
    for program in programs:
        path = shutil.which(program)
        answer = _ask(path) if path else None
        if answer is None:
            continue
        version, executable, libdir, multiarch = answer
        if version not in SUPPORTED or Path(executable) in seen:
            continue
        seen.add(Path(executable))
        name = f"libpython{version}.so.1.0"
        folders = [libdir, f"/usr/lib/{multiarch}", "/usr/lib64", "/usr/lib", str(fetched)]
        found = next((Path(f) for f in folders if f and (Path(f) / name).exists()), None)
        yield Interpreter(version, Path(executable), found)


def _ask(program: str) -> tuple[str, str, str | None, str | None] | None:
    try:
        # -I: neither the caller's environment nor its folder may change the answer
        done = subprocess.run(
            [program, "-I", "-c", _ASK], capture_output=True, text=True, timeout=20, check=True
        )
        version, executable, libdir, multiarch = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # a shim without a version behind it, or no CPython
    return version, executable, libdir, multiarch


def _fetch(package: str, library: str, destination: Path) -> Path | None:
    """Unpack a Debian package's shared library into ``destination``; None if that fails."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return None
    destination.mkdir(parents=True, exist_ok=True)
    work = destination / f".{package}.{os.getpid()}"
    work.mkdir(exist_ok=True)
    try:
        for command in (
            ["apt-get", "download", package],
            ["sh", "-c", f"dpkg-deb -x {package}_*.deb ."],
        ):
            subprocess.run(command, cwd=work, capture_output=True, timeout=120, check=True)
        found = next((path for path in work.rglob(library) if path.is_file()), None)
        if found is None:
            return None
        found.replace(destination / library)
        return destination
    except (OSError, subprocess.SubprocessError):
        return None
    finally:
        shutil.rmtree(work, ignore_errors=True)
