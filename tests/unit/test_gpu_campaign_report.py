"""The report of a campaign: every part from what is there, and a name for what is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof.dataset import ProfileStore
from igniter_prof.files import write_json
from igniter_prof.records import REQUEST_DTYPE, Device, DevicePower, Measurement, Tenant
from tests.dataset_samples import manifest
from tests.reporting_samples import (
    coefficients,
    measurement,
    plan,
    result,
    tenant_measurement,
)
from tests.scripts import SCRIPTS
from tests.unit.fitting_cells import CPU, measure_truth, pair_cells, solo_cells

GPU = Device(id="cuda:GPU-1", kind="cuda", name="NVIDIA H200")


@pytest.fixture(scope="module")
def report() -> Iterator[Any]:
    """The module; its neighbours stay importable as long as the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS / "gpu_campaign.d"))
        import report

        yield report
        for name in ("report", "dataset", "accuracy_trials", "common"):
            sys.modules.pop(name, None)


def sections(text: str) -> dict[str, str]:
    parts = text.split("\n## ")
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts[1:]}


def rows(section: str) -> list[list[str]]:
    """The rows of a section's first table, without its head."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def write_on(path: Path, cells: list[Measurement], device: Device) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with ProfileStore.create(path, manifest(device=device)) as store:
        for one in cells:
            store.append(one, [np.empty(0, REQUEST_DTYPE) for _ in one.tenants])


def moved(one: Measurement, device: Device) -> Measurement:
    """The same cell on another device."""
    cell = one.cell.model_copy(update={"device": device.id})
    return one.model_copy(update={"cell": cell, "cell_id": cell.cell_id})


def watched(one: Measurement, counter_j: float, integral_j: float, source: str) -> Measurement:
    power = DevicePower(
        uuid="GPU-1", source=source, energy_counter_j=counter_j, energy_integral_j=integral_j
    )
    return one.model_copy(update={"power": power})


def test_an_empty_state_names_all_that_is_missing(report: Any, tmp_path: Path) -> None:
    path = report.make(tmp_path / "state", tmp_path / "out")
    found = sections(path.read_text())
    assert set(found) == {*report.PARTS, "Plots"}
    assert all("Not there:" in text for text in found.values())
    assert "the step evaluate" in found["Plans under load"]
    assert "A rehearsal" in path.read_text()


def test_plans_and_promises_stand_beside_what_was_measured(report: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    made = plan()
    measured = measurement((tenant_measurement(Tenant(model="mlp"), 1),))
    for folder, record in (
        ("plans", made),
        ("evaluations", result(made)),
        ("coefficients", coefficients([measured])),
    ):
        (state / folder).mkdir(parents=True)
        write_json(state / folder / "igprof.json", record)
    (state / "plans" / "broken.json").write_text("{")
    path = report.make(state, tmp_path / "out")
    found = sections(path.read_text())
    ((name, strategy, devices, *_),) = rows(found["Plans"])
    assert (name, strategy, devices) == ("igprof", made.strategy, str(len(made.devices)))
    loaded = rows(found["Plans under load"])
    evaluated = result(made).workloads
    assert [row[1] for row in loaded] == [each.workload for each in evaluated]
    assert {row[-1] for row in loaded} >= {"met"}
    assert "p99 predicted over measured" in found["Plans under load"]
    ((_, model, *_),) = rows(found["Prediction error on the hold-out"])
    assert model == coefficients([measured]).model
    assert "broken.json" in found["What could not be read"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_errors_of_all_models_stand_beside_the_noise(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "FOLDS", 2)
    state = tmp_path / "state"
    alone, pairs = measure_truth(solo_cells()), measure_truth(pair_cells(), seed=1)
    again = [
        one.model_copy(update={"cell": cell, "cell_id": cell.cell_id})
        for one in measure_truth(solo_cells()[:6], seed=5)
        for cell in [one.cell.model_copy(update={"repeat": 1})]
    ]
    for name, cells in (("solo", alone), ("pairs", pairs), ("again", again)):
        of = state / "profiles" / name
        write_on(of, cells, CPU)
    found = sections(report.make(state, tmp_path / "out").read_text())
    compared = rows(found["Prediction error beside baselines"])
    # gpu-lets' model is fitted to counters of a GPU's profiler, which nobody here reads
    assert {row[1] for row in compared} == set(report.COMPARED) - {"gpulets"}
    assert (
        "gpulets: the latency model 'gpulets' needs" in found["Prediction error beside baselines"]
    )
    mean = {(row[0], row[1]): float(row[3]) for row in compared}
    label = "pairs, cross-validated in 2 parts"
    assert mean[label, "igprof"] < mean[label, "none"]
    assert (
        "quadruples, from alone, pairs and triples: no such cells"
        in found["Prediction error beside baselines"]
    )
    assert ["solo", "mean", "6"] in [row[:3] for row in rows(found["Noise between runs"])]
    assert "| solo | - | - |" in found["What was measured"]


def test_energies_of_cells_and_stretches_are_compared(report: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    one, other = measure_truth(solo_cells()[:2])
    cells = [
        watched(one, 100.0, 104.0, "nvml"),
        watched(other, 100.0, 300.0, "replay:x.npz"),  # never passes for a measurement
    ]
    write_on(state / "profiles" / "solo", cells, CPU)
    stretch = {"seconds": 5, "power_mean_w": 20, "energy_counter_j": 100, "energy_integral_j": 98}
    (state / "power.json").write_text(json.dumps({"load": stretch, "samples": 3}))
    found = sections(report.make(state, tmp_path / "out").read_text())
    text = found["Energy: integral against counter"]
    assert rows(text)[0] == ["1", "4", "4", "4", "4"]
    assert "| load | 5 | 20 | 100 | 98 | -2 |" in text


def test_a_gpus_report_is_no_rehearsal(report: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (cell,) = measure_truth(solo_cells()[:1])
    write_on(state / "profiles" / "solo", [moved(cell, GPU)], GPU)
    text = report.make(state, tmp_path / "out").read_text()
    assert text.startswith("# Report of a campaign on NVIDIA H200\n")
    assert "A rehearsal" not in text


def test_a_users_error_is_told_as_igprof_tells_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (cell,) = measure_truth(solo_cells()[:1])
    for name, device in (("solo", CPU), ("pairs", GPU)):
        write_on(state / "profiles" / name, [moved(cell, device)], device)

    def report(*arguments: Path) -> tuple[int, str]:
        command = [SCRIPTS / "gpu_campaign", "report", *arguments]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    status, said = report(state, Path("--out"), tmp_path / "out")
    assert status == 2
    assert said.startswith(f"gpu_campaign: {state}: is of several devices")
    assert (tmp_path / "out" / "report.md").is_file()  # which does not need one device
    status, said = report(tmp_path / "none", Path("--out"), tmp_path / "other")
    assert (status, said.count(str(tmp_path / "none"))) == (2, 1)


def test_one_part_that_fails_leaves_the_others(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(kept: Any) -> Any:
        raise ValueError("of no use")

    monkeypatch.setitem(report.PARTS, "Plans", fails)
    found = sections(report.make(tmp_path / "state", tmp_path / "out").read_text())
    assert "Could not be made: of no use" in found["Plans"]
    assert "Not there" in found["Plans under load"]
