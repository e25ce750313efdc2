"""Python packages for an image, installed on this machine whatever Python it has."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from packaging.markers import Marker, default_environment

from igniter_prof import files
from igniter_prof.errors import MissingCapability

PYTHON = "3.11"
"""The CPython of the images."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
TIMEOUT_S = 900


def install(
    lock: Path, progress: Callable[[str], None], only: Collection[str] | None = None
) -> Path:
    """A folder with packages of a lock file for the images' Python, made once.

    Args:
        lock: requirements with hashes, for all Pythons.
        progress: told what takes long.
        only: these packages, and nothing that they depend on; None: all.

    Raises:
        MissingCapability: they cannot be downloaded, or the cache cannot be written.
    """
    wanted = for_python(lock.read_text(), only)
    digest = hashlib.sha256(f"{PYTHON} {PLATFORMS} {wanted}".encode()).hexdigest()[:12]
    root = files.make_cached(files.cache_dir() / "images")
    folder = root / f"packages-{digest}"
    if folder.is_dir():
        return folder
    progress(f"downloading the packages of {lock.name} for CPython {PYTHON}")
    with tempfile.TemporaryDirectory(prefix=".packages-", dir=root) as temporary:
        requirements = Path(temporary) / "requirements.txt"
        requirements.write_text(wanted)
        target = Path(temporary) / "target"
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-input", "--require-hashes", "--no-deps", "--no-compile", "--target"),
            *(str(target), "--only-binary=:all:", "--implementation=cp"),
            *(f"--python-version={PYTHON}", "--retries=2", "--timeout=20"),
            *(f"--platform={platform}" for platform in PLATFORMS),
            *("-r", str(requirements)),
        ]
        failed = _run(command)
        if failed is not None:
            raise MissingCapability(
                f"packages for an image cannot be downloaded: {failed}",
                where=str(lock),
                hint="they are needed once: connect to a network, or set PIP_INDEX_URL",
            )
        shutil.rmtree(target / "bin", ignore_errors=True)  # names this machine's Python
        target.chmod(0o755)
        try:
            target.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def _run(command: list[str]) -> str | None:
    """Run pip; None if it succeeded, else why not."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {TIMEOUT_S} s"
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or [done.stderr.strip()])[-1]


def for_python(lock: str, only: Collection[str] | None = None) -> str:
    """A lock file without what the images' Python leaves out, or all but some packages of it.

    pip decides markers by the Python that it runs with, even where it installs for another one.
    """
    environment = {str(key): str(value) for key, value in default_environment().items()} | {
        "python_version": PYTHON,
        "python_full_version": f"{PYTHON}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    kept = []
    for requirement in re.split(r"\n(?=[A-Za-z0-9])", lock):
        head, _, hashes = requirement.partition("\\\n")
        name, _, marker = head.partition(";")
        if not re.match(r"[A-Za-z0-9]", name):
            continue  # the comment at the top
        if only is not None and name.split("==")[0] not in only:
            continue
        if not marker.strip() or Marker(marker.strip()).evaluate(environment):
            kept.append(f"{name.strip()} \\\n{hashes}")
    return "\n".join(kept) + "\n"
