"""``bundle``: what the machine lacks, in ``.gpu/``: Triton, a libpython, and wheels.

The machine is x86-64 with Python 3.12, PyTorch and most of science, and has no network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from machine import BUNDLE, LIBPYTHON, ROOT

LIMIT_BYTES = 60 << 20
"""Of all that travels, the repository's own files included."""
PACKAGES = (
    *("annotated-types", "click", "docker", "grpcio", "highspy", "protobuf", "pulp"),
    *("pydantic", "pydantic-core", "python-rapidjson", "tritonclient", "typing-extensions"),
    "typing-inspection",
)
"""Of our dependencies, as ``requirements.lock`` has them: those that the machine does not have.

click, grpcio, protobuf and typing-extensions are there, perhaps too old for the others. Scapy is
left out: it is for the sniffer only.
"""
UNNEEDED = ("bin", "pulp/solverdir", "pulp/tests")
"""Of what is in the packages: programs, and CBC for six platforms (HiGHS is there)."""
PLATFORMS = (
    "manylinux2014_x86_64",
    *(f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 31, 34)),
)
UBUNTU = "deb [trusted=yes arch=amd64] https://archive.ubuntu.com/ubuntu noble main"
LIBPYTHON_PACKAGE = "libpython3.12t64"
LIBPYTHON_SHA256 = "31df8af8521fb3fdf198d7507765d4ebf435c7165a50013b39d2761fd6c0d98c"
"""Of the package of Ubuntu 24.04, whose Python 3.12.3 is that machine's."""
UNNEEDED_LIBRARIES = "libpython3-"
"""PyTriton carries the library of one Python, which no part of Triton itself is linked to."""


def main() -> int:
    """Fill ``.gpu/``, print what it holds; 1 if that is more than may travel."""
    BUNDLE.mkdir(exist_ok=True)
    triton = BUNDLE / "triton.tar.xz"
    if not triton.exists():
        _pack_triton(triton)
    _pack_packages(BUNDLE / "site.tar.xz")
    return _table()


def _pack_triton(archive: Path) -> None:
    """The server, its Python backend with the stub of Python 3.12, libraries, and a libpython."""
    sys.path.insert(0, str(ROOT))
    from igniter_prof.serving import triton

    wheel = triton.unpacked(progress=print)
    inside = Path("pytriton/tritonserver")
    stub = wheel / inside / "python_backend_stubs/3.12/triton_python_backend_stub"
    libraries = sorted((wheel / "nvidia_pytriton.libs").iterdir())
    fresh = archive.with_suffix(".new")
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fresh, "w:xz") as packed:
        packed.add(wheel / inside / "bin", inside / "bin")
        packed.add(wheel / inside / "backends", inside / "backends")
        packed.add(stub, inside / "backends/python" / stub.name)
        for library in libraries:
            if not library.name.startswith(UNNEEDED_LIBRARIES):
                packed.add(library, Path("nvidia_pytriton.libs") / library.name)
        packed.add(_libpython(Path(folder)), Path("libpython") / LIBPYTHON)
    fresh.replace(archive)


def _libpython(folder: Path) -> Path:
    """Ubuntu's shared library of Python 3.12, for a machine where only the program is installed."""
    lists, cache = folder / "lists/partial", folder / "cache/archives/partial"
    for each in (lists, cache):
        each.mkdir(parents=True)
    (folder / "sources.list").write_text(UBUNTU + "\n")
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::Lists": lists.parent,
        "Dir::Cache": folder / "cache",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    for verb in (["update"], ["download", LIBPYTHON_PACKAGE]):
        # nothing of Ubuntu's is trusted but the file with the hash above
        subprocess.run([*apt, *verb], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    package = next(folder.glob("*.deb"))
    found = hashlib.sha256(package.read_bytes()).hexdigest()
    if found != LIBPYTHON_SHA256:
        raise SystemExit(f"{package.name}: its SHA-256 is {found}, not {LIBPYTHON_SHA256}")
    subprocess.run(["dpkg-deb", "-x", package, folder / "x"], check=True)
    return next(path for path in (folder / "x").rglob(LIBPYTHON) if path.is_file())


def _pack_packages(archive: Path) -> None:
    """``PACKAGES`` for the machine's Python, installed into one folder, checked by their hashes."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(locked((ROOT / "requirements.lock").read_text(), PACKAGES))
        site = Path(folder) / "site"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        command += ["--require-hashes", "--only-binary=:all:", "--implementation", "cp"]
        command += ["--python-version", "3.12", "--disable-pip-version-check"]
        command += [f"--platform={platform}" for platform in PLATFORMS]
        subprocess.run([*command, "--target", site, "-r", requirements], check=True)
        for unneeded in UNNEEDED:
            shutil.rmtree(site / unneeded)
        fresh = archive.with_suffix(".new")
        with tarfile.open(fresh, "w:xz") as packed:
            packed.add(site, ".")
        fresh.replace(archive)


def locked(lock: str, names: tuple[str, ...]) -> str:
    """The entries of some packages, with their hashes, out of a lock file.

    Raises:
        SystemExit: a package is not in it exactly once.
    """
    entries: dict[str, list[str]] = {}
    taking: list[str] = []
    for line in lock.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            taking = [line]
            entries.setdefault(line.partition("==")[0], []).extend(taking)
        elif line.lstrip().startswith("--hash"):
            name = taking[0].partition("==")[0]
            entries[name].append(line)
    found = []
    for name in names:
        lines = entries.get(name, [])
        if sum(not line[0].isspace() for line in lines) != 1:
            raise SystemExit(f"requirements.lock does not have one version of {name}")
        found += lines
    return "\n".join(found) + "\n"


def _table() -> int:
    sizes = {
        f"{BUNDLE.name}/{path.relative_to(BUNDLE)}": path.stat().st_size
        for path in sorted(BUNDLE.rglob("*"))
        if path.is_file()
    }
    sizes["the repository's files"] = _repository_bytes()
    total = sum(sizes.values())
    for name, size in sizes.items():
        print(f"{size / (1 << 20):8.2f} MiB  {name}")
    print(f"{total / (1 << 20):8.2f} MiB  in all, at most {LIMIT_BYTES >> 20}")
    if total > LIMIT_BYTES:
        print("that is more than may travel", file=sys.stderr)
        return 1
    return 0


def _repository_bytes() -> int:
    """Of the files that travel: tracked ones, and others that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    paths = (ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name)
    return sum(path.lstat().st_size for path in paths if path.exists())
