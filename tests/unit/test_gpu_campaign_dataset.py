"""The dataset that a campaign's state becomes: named after its device, whole, and reproducible."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.checking import check_profile
from igniter_prof.dataset.merging import merge_profiles
from igniter_prof.errors import BadInput
from igniter_prof.monitors.power.recording import Recording, read_recording, write_recording
from igniter_prof.monitors.power.trace import TraceInfo, unknown_rows
from igniter_prof.records import Device, DevicePower, Tenant
from tests.dataset_samples import CONDITIONS, cell, manifest, sample, write
from tests.scripts import SCRIPTS, load

GPU = Device(id="cuda:GPU-1", kind="cuda", name="NVIDIA H100 80GB HBM3", memory_mib=81559)
ON_GPU = CONDITIONS.model_copy(update={"share_mechanism": "mps", "driver": "580.159.04"})


@pytest.fixture(scope="module")
def dataset() -> Iterator[Any]:
    return load(SCRIPTS / "gpu_campaign.d" / "dataset.py")


def state(path: Path, device: Device = GPU) -> Path:
    """A state with three profiles: alone, a pair, and again."""

    def measured(mean_ms: float, *tenants: Tenant, start: int) -> tuple[Any, Any]:
        what = cell(*tenants, device=device.id)
        return sample(what, mean_ms, conditions=ON_GPU, start=start, seed=start)

    one, other = (Tenant(model=name, share_pct=50) for name in ("resnet50_fp16", "vgg19_fp32"))
    head = manifest("resnet50_fp16", device=device)
    for name, cells in {
        "solo": [measured(5, one, start=0), measured(9, other, start=60)],
        "pairs": [measured(7, one, other, start=120)],
        "again": [measured(5.2, one, start=3600)],
    }.items():
        (path / "profiles").mkdir(parents=True, exist_ok=True)
        write(path / "profiles" / name, cells, head)
    (path / "probe.json").write_text(json.dumps({"machine": {"commit": "abc123"}}))
    return path


def unpacked(folder: Path, to: Path) -> Path:
    with tarfile.open(folder / "profiles.tar.xz") as archive:
        archive.extractall(to, filter="data")
    return to / "profiles"


def test_the_dataset_is_named_after_its_gpu_and_can_be_used(dataset: Any, tmp_path: Path) -> None:
    folder = dataset.make(state(tmp_path / "state"), tmp_path / "out")
    assert folder.name == "nvidia-h100-80gb-hbm3"
    profiles = unpacked(folder, tmp_path)
    for name in ("solo", "pairs", "again"):
        assert check_profile(profiles / name) == []
    merged = merge_profiles([profiles / n for n in ("solo", "pairs", "again")], tmp_path / "all")
    assert (merged.cells, merged.renumbered) == (4, 1)
    assert ProfileStore.open(tmp_path / "all").manifest.device == GPU


def test_where_it_comes_from_is_told(dataset: Any, tmp_path: Path) -> None:
    folder = dataset.make(state(tmp_path / "state"), tmp_path / "out")
    found = json.loads((folder / "provenance.json").read_text())
    assert found["is_gpu_dataset"] is True
    assert found["commit"] == "abc123"
    assert found["conditions"]["share_mechanism"] == ["mps"]
    assert found["conditions"]["driver"] == ["580.159.04"]
    assert found["steps"]["pairs"] == {"cells": 1, "tenants": {"2": 1}, "status": {"ok": 2}}
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# NVIDIA H100 80GB HBM3\n")
    assert "| trace | not known |" in readme
    assert list(found["steps"]) == ["solo", "pairs", "again"]  # as they were measured
    assert "| again | 1 | 1 of 1 | 1 ok |" in readme


def test_the_same_state_gives_the_same_archive(dataset: Any, tmp_path: Path) -> None:
    made = state(tmp_path / "state")
    one, other = (
        (dataset.make(made, tmp_path / out) / "profiles.tar.xz").read_bytes() for out in "ab"
    )
    assert one == other


def test_a_cpu_makes_no_dataset_of_a_gpu(dataset: Any, tmp_path: Path) -> None:
    cpu = Device(id="cpu:0", kind="cpu", name="AMD EPYC", cores=(0,))
    made = state(tmp_path / "state", cpu)
    folder = dataset.make(made, tmp_path / "out")
    assert folder.name == "rehearsal-amd-epyc"
    assert (folder / "README.md").read_text().startswith("# Rehearsal on a CPU (AMD EPYC): no")
    assert json.loads((folder / "provenance.json").read_text())["is_gpu_dataset"] is False


def test_nothing_is_written_beside_the_kept_datasets(dataset: Any, tmp_path: Path) -> None:
    for out in (dataset.KEPT, dataset.KEPT / "other"):
        with pytest.raises(BadInput, match="is where datasets of GPUs are kept"):
            dataset.make(state(tmp_path / out.name), out)
    assert not (dataset.KEPT / "nvidia-h100-80gb-hbm3").exists()


def test_without_a_cell_there_is_none(
    dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dataset.make(tmp_path / "nothing", tmp_path / "out") is None
    assert "no measured cell" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_devices_are_refused(dataset: Any, tmp_path: Path) -> None:
    made = state(tmp_path / "state")
    other = GPU.model_copy(update={"id": "cuda:GPU-2"})
    write(
        made / "profiles" / "scales",
        [sample(cell(device=other.id), conditions=ON_GPU)],
        manifest(device=other),
    )
    with pytest.raises(BadInput, match=r"several devices.*GPU-2"):
        dataset.make(made, tmp_path / "out")


def test_what_is_too_large_loses_samples_then_requests(
    dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = state(tmp_path / "state")
    watched = ProfileStore.open(made / "profiles" / "solo")
    cell_id = sorted(watched.done_ids())[0]
    measurement, requests = dataset.cellfile.read_requests(watched.cell_path(cell_id))
    noise = np.random.default_rng(0).integers(0, 1 << 60, 4000)
    samples = np.array([(k, n) for k, n in enumerate(noise)], [("at_ns", "<i8"), ("x", "<i8")])
    content = dataset.cellfile.encode(measurement, requests, {"nvml": samples})
    watched.cell_path(cell_id).write_bytes(content)
    sizes, forms = [], []
    for budget in (1 << 20, 20_000, 1):
        monkeypatch.setattr(dataset, "BUDGET_BYTES", budget)
        folder = dataset.make(made, tmp_path / f"out{budget}")
        sizes.append((folder / "profiles.tar.xz").stat().st_size)
        forms.append(json.loads((folder / "provenance.json").read_text())["cells_hold"])
        store = ProfileStore.open(unpacked(folder, tmp_path / str(budget)) / "solo")
        assert store.measurements() == watched.measurements()
    assert forms == ["everything", "without samples", "without requests"]
    assert sizes == sorted(sizes, reverse=True)
    assert all(len(rows) == 0 for rows in store.requests(cell_id))


def test_the_recorded_trace_is_kept_for_replay(dataset: Any, tmp_path: Path) -> None:
    made = state(tmp_path / "state")
    trace = unknown_rows(101)
    trace["at_ns"] = np.arange(101) * 20_000_000
    trace["power_w"] = 100.0
    info = TraceInfo(uuid="GPU-1", name=GPU.name, window_start_ns=0)
    write_recording(made / "trace.npz", Recording(trace, info))
    folder = dataset.make(made, tmp_path / "out")
    kept = read_recording(folder / "trace.npz")
    assert kept.info == info
    assert len(kept.trace) == 101
    assert "101 samples in 2.0 s" in (folder / "README.md").read_text()


def test_without_a_recording_a_cells_trace_is_kept(dataset: Any, tmp_path: Path) -> None:
    made = state(tmp_path / "state")
    store = ProfileStore.open(made / "profiles" / "pairs")
    (cell_id,) = store.done_ids()
    measurement, requests = dataset.cellfile.read_requests(store.cell_path(cell_id))
    trace = unknown_rows(50)
    trace["at_ns"] = measurement.anchor_monotonic_ns + np.arange(50) * 20_000_000
    power = DevicePower(uuid="GPU-1", name=GPU.name, samples=50)
    for source, kept in (("replay:x.npz", None), ("nvml", f"the cell {cell_id} of pairs, 50")):
        told = measurement.model_copy(update={"power": power.model_copy(update={"source": source})})
        store.cell_path(cell_id).write_bytes(
            dataset.cellfile.encode(told, requests, {"nvml": trace})
        )
        folder = dataset.make(made, tmp_path / source.partition(":")[0])
        found = json.loads((folder / "provenance.json").read_text())["trace"]
        assert (found or "").startswith(kept or "")
        assert (folder / "trace.npz").exists() == (kept is not None)
