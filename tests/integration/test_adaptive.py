"""An adaptive sweep through the command line, on a real Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.local_runtime import needs_local_runtime

pytestmark = needs_local_runtime

SWEEP = """
device: cpu:0
models: [mlp, encoder]
batch_sizes: [1, 4]
shares: [40, 60, 100]
colocate: pairs
colocate_shares: [[30, 70], [40, 60], [50, 50], [60, 40], [70, 30]]
stopping: {precision_pct: 20, min_s: 0.5, max_s: 1.5, min_requests: 10, cooldown_s: 0}
baseline_every: 0
"""


def _json(*arguments: Any) -> tuple[Any, str]:
    done = subprocess.run(
        [sys.executable, "-m", "igniter_prof", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout), done.stderr


def test_a_sweep_ends_by_itself_and_again_adds_nothing(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(SWEEP)
    # what a busy machine does to a window of a second is not what is tested here
    command = ("profile", sweep, "--out", tmp_path / "p", "--adaptive", "--target-error", "40")
    dry, _ = _json("profile", sweep, "--adaptive", "--dry-run")
    assert dry["count"] == 2 * 2 * 3 + 4 * 5
    first = sum(cell["first"] for cell in dry["cells"])
    assert 12 < first < dry["count"]

    summary, said = _json(*command)
    ended = summary["adaptive"]
    assert ended["reason"] == "target"
    assert ended["rounds"] >= 1
    assert ended["predicted_error_pct"] <= 40
    assert first < summary["stored"] == ended["measured_cells"] < dry["count"]
    assert ended["candidates_left"] == dry["count"] - summary["stored"]
    assert "predicted error of the other" in said

    again, _ = _json(*command)
    assert again["measured_now"] == 0
    assert again["adaptive"] == ended
