"""The datasets of GPUs that are committed, and a made-up one: whole, named right, of use."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.checking import check_profile
from igniter_prof.dataset.merging import merge_profiles
from igniter_prof.fitting import fit
from igniter_prof.monitors.contract import Counted
from igniter_prof.monitors.power.recording import Recording, read_recording, write_recording
from igniter_prof.monitors.power.trace import TraceInfo, unknown_rows
from igniter_prof.monitors.replay import ReplayMonitor
from tests.scripts import SCRIPTS, load
from tests.unit.test_gpu_campaign_dataset import GPU, state

COMMITTED = sorted((SCRIPTS.parent / "docs" / "datasets").glob("*/provenance.json"))
WATTS = 300.0


@pytest.fixture(scope="module")
def dataset() -> Any:
    return load(SCRIPTS / "gpu_campaign.d" / "dataset.py")


@pytest.fixture(
    params=[None, *COMMITTED], ids=["made-up", *(path.parent.name for path in COMMITTED)]
)
def folder(request: pytest.FixtureRequest, dataset: Any, tmp_path: Path) -> Path:
    """The folder of a dataset."""
    if request.param is not None:
        return Path(request.param).parent
    made = state(tmp_path / "state")
    trace = unknown_rows(251)
    trace["at_ns"] = np.arange(251) * 20_000_000
    trace["power_w"] = WATTS + np.arange(251) % 2  # a reading that is updated with each sample
    trace["energy_j"] = 1000 + WATTS * trace["at_ns"] / 1e9
    info = TraceInfo(uuid="GPU-1", name=GPU.name, window_start_ns=0, bare_idle_w=70.0)
    write_recording(made / "trace.npz", Recording(trace, info))
    made_folder: Path = dataset.make(made, tmp_path / "out")
    return made_folder


@pytest.fixture
def profiles(folder: Path, tmp_path: Path) -> list[Path]:
    """Its profiles, unpacked."""
    with tarfile.open(folder / "profiles.tar.xz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    return sorted(path.parent for path in (tmp_path / "unpacked").rglob("profile.json"))


def test_it_is_of_the_gpu_that_it_is_named_after(
    dataset: Any, folder: Path, profiles: list[Path]
) -> None:
    found = json.loads((folder / "provenance.json").read_text())
    devices = {ProfileStore.open(path).manifest.device for path in profiles}
    (device,) = devices
    assert device.kind == "cuda"
    assert found["is_gpu_dataset"] is True
    assert folder.name == dataset.name_of(device)
    assert (folder / "README.md").read_text().startswith(f"# {device.name}\n")
    cells = sum(len(ProfileStore.open(path).done_ids()) for path in profiles)
    assert cells == sum(step["cells"] for step in found["steps"].values())


def test_its_cells_are_sound(folder: Path, profiles: list[Path]) -> None:
    whole = json.loads((folder / "provenance.json").read_text())["cells_hold"]
    for path in profiles:
        assert ProfileStore.open(path).measurements()
        if whole != "without requests":
            assert [each for each in check_profile(path) if each.level == "error"] == []


def test_a_model_can_be_fitted_to_it(profiles: list[Path], tmp_path: Path) -> None:
    merge_profiles(profiles, tmp_path / "all")
    store = ProfileStore.open(tmp_path / "all")
    found = fit(
        store.measurements(), store.manifest.device, profile_hash="", model="none", holdout=0.0
    )
    assert found.models


def test_its_trace_can_be_replayed_and_passes_for_no_measurement(folder: Path) -> None:
    path = folder / "trace.npz"
    assert path.is_file()
    recording = read_recording(path)
    monitor = ReplayMonitor(recording, path.name)
    with monitor:
        seen = monitor.seen(Counted(10**12, 10**12 + 2 * 10**9, ()))
    power = seen.fields["power"]
    assert power.source == "replay:trace.npz"
    assert power.name == recording.info.name
    assert "energy_j" not in seen.fields
    assert power.power_mean_w > 0
    assert power.energy_counter_j == pytest.approx(power.energy_integral_j, rel=0.25)
