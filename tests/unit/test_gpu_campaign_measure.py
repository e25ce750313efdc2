"""What the GPU campaign measures: cells that igprof takes, and that a fit can learn from."""

from __future__ import annotations

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
    assert sizes == {3: 12, 4: 8}
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
    path = there.save("sweeps/solo.yaml", measure._sweep(there, measure._solo(measure.GPU)))
    sweep = load_sweep(path, {})
    assert sweep.share_mechanism == "mps"
    assert sweep.monitors == ("client", "nvml")
    assert sweep.baseline_every == 0
    assert {model.name for model in sweep.models} == {*measure.GPU.main, *measure.GPU.others}


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
    with pytest.raises(measure.OutOfTime, match="1 of 65 cells"):
        measure.solo(there, 0.0)
    (command,) = commands
    assert "--keep-servers" in command
    assert measure.profiles(there, "solo", "pairs") == [tmp_path / "profiles" / "solo"]


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
    import json

    path.write_text(json.dumps({"workloads": found}))
    assert len(load_workloads(path).workloads) == 2


def test_concluding_without_data_is_for_a_later_piece(
    measure: Any, conclude: Any, tmp_path: Path
) -> None:
    there = work(measure, tmp_path)
    for step in (conclude.fit, conclude.plan, conclude.evaluate):
        with pytest.raises(measure.OutOfTime):
            step(there, 0.0)
