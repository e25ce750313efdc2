"""What the GPU campaign measures: cells that igprof takes, and that a fit can learn from."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.config import load_sweep
from igniter_prof.config.cells_csv import read_cells
from igniter_prof.config.workloads import load_workloads
from igniter_prof.zoo import PRECISIONS, TORCH_NETWORKS
from tests.scripts import SCRIPTS

FOLDER = SCRIPTS / "gpu_campaign.d"


@pytest.fixture(scope="module")
def measure() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import measure

        yield measure


@pytest.fixture(scope="module")
def conclude(measure: Any) -> Any:
    import conclude

    return conclude


@pytest.fixture(params=["GPU", "QUICK_TORCH", "QUICK_PLAIN"])
def design(measure: Any, request: pytest.FixtureRequest) -> Any:
    return getattr(measure, request.param)


def every(measure: Any, design: Any) -> list[Any]:
    return [
        *measure._solo(design),
        *measure._pairs(design),
        *measure._sets(design, 3),
        *measure._sets(design, 4),
    ]


def test_a_device_is_never_given_away_twice(measure: Any, design: Any) -> None:
    for cell in every(measure, design):
        assert sum(tenant.share_pct for tenant in cell) <= 100


def test_what_meets_others_was_measured_alone_as_well(measure: Any, design: Any) -> None:
    alone = {cell[0] for cell in measure._solo(design)}
    models = {tenant.model for tenant in alone}
    for cell in every(measure, design):
        for tenant in cell:
            assert tenant.model in models
            if tenant.model in design.main:
                assert tenant in alone
    assert set(design.scaled) <= models
    assert set(design.cold) <= models


def test_no_cell_is_there_twice(measure: Any, design: Any) -> None:
    cells = every(measure, design)
    assert len({tuple(sorted(cell)) for cell in cells}) == len(cells)


def test_the_gpus_models_are_those_of_the_zoo(measure: Any) -> None:
    known = {f"{network}_{precision}" for network in TORCH_NETWORKS for precision in PRECISIONS}
    used = {*measure.GPU.main, *measure.GPU.others}
    assert used <= known
    assert {name.rpartition("_")[0] for name in used} == set(TORCH_NETWORKS)
    assert {name.rpartition("_")[2] for name in used} == set(PRECISIONS)


def test_every_set_of_models_is_there(measure: Any) -> None:
    sizes = {size: len(measure._sets(measure.GPU, size)) for size in (3, 4)}
    assert sizes == {3: 10, 4: 6}
    pairs = {frozenset(t.model for t in cell) for cell in measure._pairs(measure.GPU)}
    assert len(pairs) == 10 + len(measure.GPU.more_pairs)


def work(measure: Any, tmp_path: Path, device: str = "cuda:0") -> Any:
    from machine import Work  # type: ignore[import-not-found]

    return Work(tmp_path, tmp_path, device, tmp_path, [], tmp_path / "server", tmp_path, False)


def test_igprof_reads_the_cells_as_they_are_meant(
    measure: Any, design: Any, tmp_path: Path
) -> None:
    cells = [*every(measure, design), (measure.Tenant("mlp", 1, 100, 0.5),)]
    sheet = tmp_path / "sweeps" / "all.csv"
    measure._write_cells(sheet, cells)
    found = [
        tuple((t.model, t.batch_size, t.share_pct, t.input_scale) for t in tenants)
        for tenants in read_cells(sheet).cells
    ]
    assert found == [tuple(map(tuple, cell)) for cell in cells]


def test_igprof_takes_the_sweep(measure: Any, tmp_path: Path) -> None:
    there = work(measure, tmp_path)
    there.save("shares.json", {"mechanism": "mps"})
    path = there.save("sweeps/solo.yaml", measure._sweep(there, "solo", measure._solo(measure.GPU)))
    sweep = load_sweep(path, {})
    assert sweep.share_mechanism == "mps"
    assert sweep.monitors == ("client", "nvml")
    assert sweep.baseline_every == 0
    again = measure._sweep(there, "again", measure._solo(measure.GPU))
    assert again["monitors"] == ["client"]
    assert {model.name for model in sweep.models} == {*measure.GPU.main, *measure.GPU.others}


def test_a_sweep_is_the_same_wherever_the_machine_has_its_folders(
    measure: Any, tmp_path: Path
) -> None:
    """Else a profile that came along could not be gone on with."""
    cells = measure._solo(measure.GPU)
    first, second = (
        measure._sweep(work(measure, tmp_path / name / "repository"), "solo", cells)
        for name in ("one", "other")
    )
    assert first == second


def test_a_step_says_how_many_cells_are_left(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = work(measure, tmp_path)
    commands = []

    def run(self: Any, arguments: Any, until: float, **options: Any) -> int:
        commands.append(arguments)
        cells = tmp_path / "profiles" / "solo" / "cells"
        cells.mkdir(parents=True)
        (cells / "0.zip").touch()
        return 0

    monkeypatch.setattr(type(there), "run", run)
    with pytest.raises(measure.OutOfTime, match="1 of 61 cells"):
        measure.solo(there, 0.0)
    (command,) = commands
    assert "--keep-servers" in command
    assert measure.profiles(there, "solo", "pairs") == [tmp_path / "profiles" / "solo"]


class Profiler:
    """In the place of ``Work.run``: stores a cell each time; it fails as often as it is told."""

    def __init__(self, failures: int, status: str = "ok", storing: bool = True) -> None:
        self.failures, self.status, self.storing = failures, status, storing
        self.sheets: list[str] = []

    def __call__(self, arguments: Any, until: float) -> int:
        folder = Path(arguments[arguments.index("--out") + 1])
        self.sheets.append(Path(arguments[arguments.index("--cells") + 1]).read_text())
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        if self.storing:
            document = {"tenants": [{"status": self.status, "detail": "no PyTorch"}]}
            with zipfile.ZipFile(folder / "cells" / f"{len(self.sheets)}.zip", "w") as stored:
                stored.writestr("measurement.json", json.dumps(document))
        if len(self.sheets) <= self.failures:
            raise RuntimeError("a tenant runs without its share")
        return 0


def profiled(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiler: Profiler, cells: int
) -> Any:
    there = work(measure, tmp_path)
    monkeypatch.setattr(type(there), "run", lambda self, *a, **k: profiler(*a, **k))
    wanted = [(measure.Tenant("mlp", 1, share),) for share in range(1, cells + 1)]
    measure._measure(there, "solo", wanted, time.monotonic() + 60)
    return there


def test_a_cell_that_cannot_be_measured_does_not_end_the_others(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiler = Profiler(failures=4)
    profiled(measure, tmp_path, monkeypatch, profiler, cells=5)
    assert len(set(profiler.sheets)) > 1  # in another order
    assert len({tuple(sorted(sheet.split())) for sheet in profiler.sheets}) == 1


def test_what_fails_without_a_new_cell_is_given_up(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiler = Profiler(failures=99, storing=False)
    with pytest.raises(RuntimeError, match="without its share"):
        profiled(measure, tmp_path, monkeypatch, profiler, cells=5)
    assert len(profiler.sheets) == measure.FRUITLESS


def test_cells_in_which_no_model_answered_are_measured_anew(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiler = Profiler(failures=0, status="failed")
    with pytest.raises(RuntimeError, match="no model answered: no PyTorch"):
        profiled(measure, tmp_path, monkeypatch, profiler, cells=1)
    assert not (tmp_path / "profiles" / "solo").exists()
    assert (tmp_path / "failed" / "solo" / "cells" / "1.zip").exists()


def test_without_shares_cells_are_told_apart_by_the_rest(measure: Any) -> None:
    cells = measure._without_shares(measure._solo(measure.GPU))
    assert len(cells) == len(measure.GPU.main) * 3 + len(measure.GPU.others) * 2
    assert {tenant.share_pct for cell in cells for tenant in cell} == {None}


def test_cold_starts_have_fresh_servers(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = work(measure, tmp_path)
    commands = []
    monkeypatch.setattr(
        type(there), "run", lambda self, arguments, until: commands.append(arguments)
    )
    with pytest.raises(measure.OutOfTime):
        measure.cold(there, 0.0)
    assert "--keep-servers" not in commands[0]


def test_workloads_follow_from_what_was_measured(conclude: Any, tmp_path: Path) -> None:
    found = conclude.workloads({"vgg19_fp16": (4.0, 250.0), "encoder_fp16": (1.0, 1000.0)})
    assert [each["model"] for each in found] == ["encoder_fp16", "vgg19_fp16"]
    assert (found[1]["slo_ms"], found[1]["rate_rps"]) == (16.0, 88.0)
    path = tmp_path / "workloads.yaml"
    path.write_text(json.dumps({"workloads": found}))
    assert len(load_workloads(path).workloads) == 2


def test_concluding_without_data_is_for_a_later_piece(
    measure: Any, conclude: Any, tmp_path: Path
) -> None:
    there = work(measure, tmp_path)
    for step in (conclude.fit, conclude.plan, conclude.evaluate):
        with pytest.raises(measure.OutOfTime):
            step(there, 0.0)


class Verbs:
    """In the place of ``Work.run``: notes the verbs, and writes what ``--out`` names."""

    def __init__(self, failing: tuple[str, ...] = ()) -> None:
        self.failing = failing
        self.seen: list[str] = []

    def __call__(self, arguments: Any, until: float, **options: Any) -> int:
        words = [str(each) for each in arguments]
        out = Path(words[words.index("--out") + 1])
        self.seen.append(f"{words[0]} {out.stem}")
        if any(word in self.failing for word in words):
            raise RuntimeError("no such counters")
        if words[:2] == ["dataset", "merge"]:
            out.mkdir()
            out = out / "profile.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"devices": [{}]}))
        return 0


@pytest.fixture
def measured(measure: Any, tmp_path: Path) -> Any:
    """Work whose steps are done, with one cell."""
    there = work(measure, tmp_path / "state")
    cells = there.state / "profiles" / "solo" / "cells"
    cells.mkdir(parents=True)
    document = {
        "tenants": [
            {
                "tenant": {"model": "mlp", "batch_size": 1, "share_pct": 50},
                "latency": {"mean_ms": 2.0},
            }
        ]
    }
    with zipfile.ZipFile(cells / "0.zip", "w") as stored:
        stored.writestr("measurement.json", json.dumps(document))
    there.save("steps.json", {"solo": {"state": "done", "seconds": 1}})
    return there


def concluded(there: Any, conclude: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    verbs = Verbs(**options)
    monkeypatch.setattr(type(there), "run", lambda self, *a, **k: verbs(*a, **k))
    until = time.monotonic() + 1000
    for step in (conclude.fit, conclude.plan, conclude.evaluate):
        step(there, until)
    return verbs.seen


def test_everything_that_follows_is_made_once(
    measured: Any, conclude: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = concluded(measured, conclude, monkeypatch)
    assert sum(each.startswith("fit") for each in seen) == len(conclude.MODELS)
    assert sum(each.startswith("plan") for each in seen) == len(conclude.STRATEGIES)
    assert sum(each.startswith("evaluate") for each in seen) == len(conclude.EVALUATED)
    assert concluded(measured, conclude, monkeypatch) == []


def test_new_cells_make_it_anew(
    measured: Any, conclude: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = concluded(measured, conclude, monkeypatch)
    later = time.time() + 5
    cells = measured.state / "profiles" / "solo" / "cells"
    (cells / "1.zip").write_bytes((cells / "0.zip").read_bytes())
    os.utime(cells / "1.zip", (later, later))
    seen = concluded(measured, conclude, monkeypatch)
    assert [each for each in seen if each.startswith("fit")] == [
        each for each in first if each.startswith("fit")
    ]


def test_a_baseline_that_cannot_be_fitted_ends_nothing(
    measured: Any, conclude: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = concluded(measured, conclude, monkeypatch, failing=("gpulets",))
    assert "evaluate optimal" in seen
    assert not (measured.state / "coefficients" / "gpulets.json").exists()
    (measured.state / "coefficients" / "igprof.json").unlink()
    with pytest.raises(RuntimeError, match="counters"):
        concluded(measured, conclude, monkeypatch, failing=("igprof",))


def test_a_plan_that_cannot_be_loaded_ends_nothing(
    measured: Any, conclude: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = str(measured.state / "evaluations" / "optimal.json")
    seen = concluded(measured, conclude, monkeypatch, failing=(lost,))
    assert "evaluate ffd" in seen
    assert not Path(lost).exists()


def test_what_is_made_from_a_part_is_not_done(
    measure: Any, measured: Any, conclude: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured.save("steps.json", {"pairs": {"state": "unfinished", "seconds": 1}})
    with pytest.raises(measure.OutOfTime, match="to go on: pairs"):
        concluded(measured, conclude, monkeypatch)
    assert (measured.state / "coefficients" / "igprof.json").exists()
