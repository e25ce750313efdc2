"""The built wheel works outside the repository: networks, schemas and templates are inside."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the unpacked wheel."""
    out = tmp_path_factory.mktemp("wheel")
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run(
        [sys.executable, "-m", *command, str(out), str(ROOT)], check=True, capture_output=True
    )
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    assert wheel.stat().st_size < 5 * 1024 * 1024  # no weights inside
    return out / "site"


def _run(site: Path, folder: Path, *arguments: str) -> str:
    code = (
        "import sys, igniter_prof; assert igniter_prof.__file__.startswith(sys.argv[1]);"
        "from igniter_prof.cli import main; main(sys.argv[2:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_works_outside_the_repository(site: Path, tmp_path: Path) -> None:
    assert "0." in _run(site, tmp_path, "--version")
    assert "resnet50" in _run(site, tmp_path, "zoo", "list")
    assert '"properties"' in _run(site, tmp_path, "schema", "plan")
    assert "mlp" in _run(site, tmp_path, "zoo", "build", "mlp", "--json")
    dry = _run(site, tmp_path, "profile", "--models", "mlp", "--shares", "50,100", "--dry-run")
    assert "mlp b1 50%" in dry


def test_the_wheel_renders_a_tenant_and_a_report(site: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from igniter_prof import zoo;"
        "from igniter_prof.records import Tenant;"
        "print(zoo.render(Tenant(model='mlp'), pathlib.Path('r'), threads=1).repository);"
        "from igniter_prof.reporting import write_report;"
        "write_report([pathlib.Path(sys.argv[1])], pathlib.Path('report.html'))"
    )
    plan = ROOT / "plans" / "igniter-published.plan.json"
    subprocess.run(
        [sys.executable, "-c", code, str(plan)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
    )
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert list((tmp_path / "r").rglob("config.pbtxt"))
