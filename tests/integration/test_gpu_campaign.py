"""The GPU campaign, rehearsed on a CPU core with a real Triton: in two pieces, on two machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from igniter_prof.dataset import ProfileStore
from tests.integration.local_runtime import needs_local_runtime
from tests.scripts import SCRIPTS

pytest.importorskip("onnxruntime")
pytestmark = [needs_local_runtime, pytest.mark.timeout(280)]


class Machine:
    """A machine with nothing but what was carried there."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.out, self.bundle = folder, folder / "out", bundle

    def campaign(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPTS / "gpu_campaign"), *arguments],
            env={
                **os.environ,
                "PYTHON": sys.executable,
                "OUT": str(self.out),
                "IGPROF_GPU_FOLDER": str(self.folder / "unpacked"),
                "IGPROF_GPU_BUNDLE": str(self.bundle),
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def run(self, *steps: str) -> dict[str, str]:
        """Do some steps; how each stands now."""
        options = ["--device", "cpu:0", "--quick", "--minutes", "3", "--only", ",".join(steps)]
        done = self.campaign("run", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        journal = json.loads((self.state / "steps.json").read_text())
        return {name: entry["state"] for name, entry in journal.items()}

    @property
    def state(self) -> Path:
        return self.folder / "unpacked" / "state"


def test_a_campaign_goes_on_on_the_next_machine(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    first, second = (Machine(tmp_path / name, bundle) for name in ("first", "second"))
    assert first.run("shares", "solo") == {"shares": "done", "solo": "done"}
    returned = first.out / "state.tar.xz"
    assert returned.stat().st_size < 1 << 20
    assert first.campaign("keep", str(returned)).returncode == 0

    found = second.run("solo", "pairs", "fit")
    assert found == dict.fromkeys(("shares", "solo", "pairs", "fit"), "done")
    solo = ProfileStore.open(second.state / "profiles" / "solo").measurements()
    began = {one.cell_id: one.started_at for one in solo}
    earlier = ProfileStore.open(first.state / "profiles" / "solo").measurements()
    assert began == {one.cell_id: one.started_at for one in earlier}
    assert len(began) == 8
    # each of the four servers was started once, and served both batch sizes
    assert sum(one.tenants[0].ready_s is not None for one in solo) == 4
    pairs = ProfileStore.open(second.state / "profiles" / "pairs").measurements()
    assert [tenant.status for one in pairs for tenant in one.tenants] == ["ok"] * 6
    coefficients = json.loads((second.state / "coefficients" / "igprof.json").read_text())
    assert coefficients["report"]
    assert "solo       done" in (second.out / "summary.txt").read_text()


def test_a_gpu_that_is_not_there_is_told_and_something_comes_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path, tmp_path / "none")
    done = machine.campaign("run", "--device", "cuda:0", "--minutes", "1")
    assert done.returncode == 4
    assert "scripts/gpu_campaign bundle" in (machine.out / "summary.txt").read_text()
    assert (machine.out / "state.tar.xz").exists()
