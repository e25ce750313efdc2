"""Import directions (docs/architecture.md), and what must not be imported for --help."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "igniter_prof"

# leaves that everybody may import
LEAVES = {"errors", "units", "records", "files", "statistics", "probe", "__init__"}
# package or module: what it may import besides the leaves and itself
MAY_IMPORT = {
    "config": set(),
    "zoo": set(),
    "serving": {"zoo", "config"},
    "load": set(),
    "capture": set(),
    "proxy": set(),
    "monitors": {"capture"},
    "session": {"serving", "load", "monitors", "config"},
    "dataset": set(),
    "profiling": {"config", "session", "dataset", "load", "serving", "zoo"},
    "fitting": {"dataset"},
    "provisioning": {"config", "fitting", "zoo"},
    "deployment": {"provisioning", "serving", "config"},
    "evaluation": {"deployment", "session", "serving", "load", "config"},
    "reporting": {"dataset"},
    "schemas": {"dataset", "config"},
}


def _part(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == "igniter_prof":
                names = [f"igniter_prof.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "igniter_prof" and len(parts) > 1 and parts[1] != "__version__":
                found.add(parts[1])
    return found


def _bound(path: Path) -> bool:
    """The command line may import everything; the models run in the server."""
    return _part(path) not in {"cli", "__main__"} and "model_repository" not in path.parts


@pytest.mark.parametrize(
    "path",
    sorted(filter(_bound, PACKAGE.rglob("*.py"))),
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_point_in_one_direction(path: Path) -> None:
    part = _part(path)
    allowed = LEAVES | {part} | (set() if part in LEAVES else MAY_IMPORT[part])
    assert _imports(path) <= allowed


def test_relative_imports_are_not_used() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


def test_help_imports_nothing_heavy() -> None:
    heavy = ["numpy", "pandas", "scipy", "pulp", "matplotlib", "grpc", "pydantic", "onnx", "rich"]
    code = (
        "import sys; sys.argv=['igprof','--help']\n"
        "from igniter_prof.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "profile" in done.stdout
