"""The scripts that build images; no engine is asked here."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from igniter_prof.serving.docker.images import OWN_IMAGE
from tests.scripts import SCRIPTS, load

IMAGES = SCRIPTS / "images"


build = load(IMAGES / "build.py")
packages = load(IMAGES / "packages.py")

LOCK = """\
# by a tool
#    with arguments
numpy==1.26.4 ; python_full_version < '3.13' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via onnxruntime
numpy==2.5.5 ; python_full_version >= '3.13' \\
    --hash=sha256:cc
packaging==26.3 \\
    --hash=sha256:dd
pyreadline3==3.5.6 ; python_full_version < '3.11' and sys_platform == 'win32' \\
    --hash=sha256:ee
sympy==1.14.0 ; python_full_version < '3.11' \\
    --hash=sha256:ff
"""


def test_a_lock_is_read_for_the_images_python_not_for_ours() -> None:
    kept = packages.for_python(LOCK)
    assert re.findall(r"^\S+", kept, re.MULTILINE) == ["numpy==1.26.4", "packaging==26.3"]
    assert re.findall(r"sha256:(\w+)", kept) == ["aa", "bb", "dd"]
    assert ";" not in kept


def test_some_packages_of_a_lock() -> None:
    kept = packages.for_python(LOCK, {"packaging"})
    assert re.findall(r"^\S+", kept, re.MULTILINE) == ["packaging==26.3"]


def test_the_locks_of_the_images_hold_what_they_need() -> None:
    for image in build.IMAGES.values():
        for _, lock, only in image.packages:
            kept = packages.for_python(lock.read_text(), only)
            names = set(re.findall(r"^([\w.-]+)==", kept, re.MULTILINE))
            assert names >= set(only or ("numpy", "onnxruntime"))
            assert kept.count("numpy==") <= 1


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("Dockerfile", "a/tests/x.py", "a/__pycache__/y.pyc", "a/b.py", "run.sh"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "run.sh").chmod(0o700)
    (tmp_path / "a" / "b.py").chmod(0o600)
    return tmp_path


def test_a_context_is_the_same_for_the_same_files(tree: Path) -> None:
    entries = list(build.tree(tree, ""))
    before = io.BytesIO()
    build.send(entries, before)
    os.utime(tree / "Dockerfile", (1, 1))
    after = io.BytesIO()
    build.send(list(build.tree(tree, "")), after)
    assert before.getvalue() == after.getvalue()
    with tarfile.open(fileobj=io.BytesIO(after.getvalue())) as archive:
        assert {member.name: oct(member.mode) for member in archive} == {
            "Dockerfile": "0o644",
            "a/b.py": "0o644",
            "run.sh": "0o755",
        }
        assert {(member.uid, member.gid, member.mtime) for member in archive} == {(0, 0, 0)}


def test_an_image_is_built_again_when_an_input_changes(tree: Path) -> None:
    def digest(base: str = "sha256:base") -> str:
        return str(build.digest_of(base, list(build.tree(tree, ""))))

    first = digest()
    assert digest() == first
    assert digest("sha256:other") != first
    (tree / "run.sh").chmod(0o600)
    assert digest() != first
    (tree / "run.sh").chmod(0o700)
    assert digest() == first
    (tree / "a" / "b.py").write_text("changed")
    assert digest() != first


def dockerfile(name: str) -> list[str]:
    text = (IMAGES / build.IMAGES[name].folder / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", sorted(build.IMAGES))
def test_every_image_runs_as_nobody_in_particular_and_fetches_nothing(name: str) -> None:
    lines = dockerfile(name)
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1])  # a number: it needs no passwd
    assert lines[:2] == [lines[0], "FROM ${BASE_IMAGE}"]
    assert lines[0].startswith("ARG BASE_IMAGE=")
    commands = " ".join(line for line in lines if line.startswith(("RUN", "ADD")))
    assert not re.search(r"\b(apt|apt-get|pip install|curl|wget|https?)\b", commands)


def test_the_large_packages_are_one_layer_of_both_images() -> None:
    triton, flask = dockerfile("triton"), dockerfile("fcn_resnet50")
    assert triton[:4] == flask[:4]
    assert triton[3].startswith("RUN")


def test_the_docker_runtime_looks_for_the_image_that_is_built() -> None:
    assert build.IMAGES["triton"].tag == OWN_IMAGE


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--nonsense"], 2, "unknown argument"),
        (["--tarball"], 2, "needs a value"),
        (["--host", "unix:///nowhere/docker.sock"], 3, "no"),
        (["--help"], 0, ""),
    ],
)
def test_base_says_what_is_wrong(arguments: list[str], status: int, message: str) -> None:
    done = subprocess.run(
        [IMAGES / "base", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == status
    assert message in done.stderr
    assert (status == 0) == ("--tarball FILE" in done.stdout)
