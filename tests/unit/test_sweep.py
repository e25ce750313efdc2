from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from igniter_prof.config import cells, load_sweep
from igniter_prof.config.cells_csv import read_cells
from igniter_prof.errors import BadInput


def _sweep(**fields: Any) -> Any:
    return load_sweep(None, {"models": ["a", "b"], "baseline_every": 0, **fields})


def test_solo_cells_are_the_product_of_the_dimensions() -> None:
    found = cells(_sweep(batch_sizes=(1, 4), shares=(50.0, 100.0)), "cpu:0")
    tenants = {(t.model, t.batch_size, t.share_pct) for c in found for t in c.tenants}
    assert tenants == {(m, b, s) for m in "ab" for b in (1, 4) for s in (50.0, 100.0)}
    assert all(len(cell.tenants) == 1 for cell in found)


def test_colocated_shares_add_up_to_at_most_100() -> None:
    sweep = _sweep(shares=(25.0, 50.0, 75.0), colocate="pairs")
    pairs = [cell for cell in cells(sweep, "cpu:0") if len(cell.tenants) == 2]
    splits = {tuple(tenant.share_pct for tenant in cell.tenants) for cell in pairs}
    assert splits == {
        (25.0, 25.0),
        (25.0, 50.0),
        (25.0, 75.0),
        (50.0, 25.0),
        (50.0, 50.0),
        (75.0, 25.0),
    }


def test_share_splits_can_be_given() -> None:
    sweep = _sweep(colocate="pairs", colocate_shares=[[30, 70]])
    pairs = [cell for cell in cells(sweep, "cpu:0") if len(cell.tenants) == 2]
    assert [tuple(t.share_pct for t in cell.tenants) for cell in pairs] == [(30.0, 70.0)]


def test_cores_memory_and_gpu_are_dimensions() -> None:
    found = cells(_sweep(cpu_cores=[1, 2], memory_mib=512, gpu=[True, False]), "cpu:0-1")
    sizes = {(t.cpu_cores, t.memory_mib, t.gpu, t.share_pct) for c in found for t in c.tenants}
    assert sizes == {(c, 512.0, g, None) for c in (1.0, 2.0) for g in (True, False)}


def test_sizes_go_together_and_take_the_place_of_the_dimensions() -> None:
    sizes = [{"cpu_cores": 1, "memory_mib": 2048}, {"cpu_cores": 2, "memory_mib": 4096}]
    found = cells(_sweep(sizes=sizes), "cpu:0-1")
    assert {(t.cpu_cores, t.memory_mib) for c in found for t in c.tenants} == {(1, 2048), (2, 4096)}
    with pytest.raises(BadInput, match="sizes and cpu_cores are both set"):
        _sweep(sizes=sizes, cpu_cores=[1])
    with pytest.raises(BadInput, match="caps cannot be set on a remote server"):
        _sweep(sizes=sizes, runtime="remote", address="localhost:1")


def test_the_baseline_is_a_cell_that_the_host_can_measure() -> None:
    sweep = _sweep(cpu_cores=[8, 4, 1], baseline_every=2)
    found = cells(sweep, "cpu:0-1", fits=lambda tenants: (tenants[0].cpu_cores or 0) <= 2)
    assert {c.tenants[0].cpu_cores for c in found if c.baseline} == {1.0}


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", ".", "..", "-x", "", "a\nb", "a\\b"])
def test_a_model_name_is_that_of_a_folder(name: str) -> None:
    with pytest.raises(BadInput, match="name"):
        _sweep(models=[{"name": name}])


def test_a_model_beside_itself_is_one_cell_in_either_order() -> None:
    sweep = _sweep(shares=(40.0, 60.0), colocate=[["a", "a"]])
    pairs = [cell for cell in cells(sweep, "cpu:0") if len(cell.tenants) == 2]
    splits = sorted(tuple(t.share_pct or 0 for t in cell.tenants) for cell in pairs)
    assert len(pairs) == 2  # 40+40 and one of 40+60, 60+40
    assert sorted(map(sorted, splits)) == [[40.0, 40.0], [40.0, 60.0]]


def test_order_is_random_with_the_seed_and_complete() -> None:
    first = cells(_sweep(batch_sizes=(1, 2, 4, 8), shares=(25.0, 50.0)), "cpu:0")
    same = cells(_sweep(batch_sizes=(1, 2, 4, 8), shares=(25.0, 50.0)), "cpu:0")
    other = cells(_sweep(batch_sizes=(1, 2, 4, 8), shares=(25.0, 50.0), seed=1), "cpu:0")
    assert first == same
    assert first != other
    assert {cell.cell_id for cell in first} == {cell.cell_id for cell in other}


def test_baselines_run_through_the_sweep() -> None:
    found = cells(_sweep(batch_sizes=(1, 2, 4), shares=(50.0, 100.0), baseline_every=5), "cpu:0")
    baselines = [index for index, cell in enumerate(found) if cell.baseline]
    assert baselines == [0, 6, 12, 15]
    assert len({cell.cell_id for cell in found}) == len(found)
    assert {cell.tenants[0].share_pct for cell in found if cell.baseline} == {100.0}


def test_repeats_are_cells_of_their_own() -> None:
    found = cells(_sweep(repeats=3), "cpu:0")
    assert sorted(cell.repeat for cell in found) == [0, 0, 1, 1, 2, 2]
    assert len({cell.cell_id for cell in found}) == 6


def test_shares_beside_core_caps_add_up_to_at_most_100_too() -> None:
    sweep = _sweep(
        models=["a", "b", "c"], shares=(40.0, 60.0), cpu_cores=[None, 0.5], colocate="triples"
    )
    sums = {
        sum(tenant.share_pct or 0 for tenant in cell.tenants)
        for cell in cells(sweep, "cpu:0")
        if len(cell.tenants) == 3
    }
    assert sums == {0.0, 40.0, 60.0, 80.0, 100.0}


def test_a_shared_server_has_no_shares() -> None:
    found = cells(_sweep(server="shared", shares=(50.0, 100.0), colocate="pairs"), "cpu:0")
    assert len(found) == 3
    assert all(t.share_pct is None for cell in found for t in cell.tenants)


def test_a_core_cap_takes_the_place_of_the_share() -> None:
    found = cells(_sweep(shares=(50.0, 100.0), cpu_cores=(0.5, 1.0)), "cpu:0")
    assert len(found) == 4
    assert all(t.share_pct is None for cell in found for t in cell.tenants)


def test_a_sample_of_colocated_cells_is_drawn_with_the_seed() -> None:
    fields: dict[str, Any] = {"shares": (25.0, 50.0, 75.0), "colocate": "pairs"}
    full = cells(_sweep(**fields), "cpu:0")
    some = cells(_sweep(**fields, colocate_sample=3), "cpu:0")
    assert sum(len(cell.tenants) == 2 for cell in some) == 3
    assert {cell.cell_id for cell in some} <= {cell.cell_id for cell in full}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shares": (0.0,)}, "'shares.0': Input should be greater than 0, got 0.0"),
        ({"shares": (50.0, 120.0)}, "'shares.1': Input should be less than or equal to 100"),
        ({"batch_sizes": (0,)}, "'batch_sizes.0': Input should be greater than or equal to 1"),
        ({"input_scales": (3.0,)}, "'input_scales.0': Input should be less than or equal to 2"),
        ({"instances": (0,)}, "'instances.0'"),
        ({"cpu_cores": (-1.0,)}, "'cpu_cores.0"),
        ({"memory_mib": (0.0,)}, "'memory_mib.0"),
        ({"models": [{"name": "a", "instances": [65]}]}, "'models.0.instances.0'"),
        ({"colocate": "pairs", "colocate_batch_sizes": [0]}, "'colocate_batch_sizes.0'"),
        ({"colocate": "pairs", "colocate_shares": [[120, -20]]}, "'colocate_shares.0.0'"),
        ({"stopping": {"min_s": 5.0, "max_s": 4.0}}, "shorter than the shortest (5 s)"),
        ({"load": {"kind": "trace", "trace_s": [1.0, 1.0]}}, "the same"),
        ({"colocate": [["a", "c"]]}, "model 'c'"),
        ({"colocate": [["a"]]}, "two or more"),
        ({"colocate": "pairs", "colocate_shares": [[60, 60]]}, "add up to 120"),
        ({"models": ["a", "a"]}, "listed twice"),
        ({"runtime": "remote"}, "address"),
        ({"runtime": "remote", "address": "x:1", "cpu_cores": (1.0,)}, "caps"),
        ({"batchsizes": (1,)}, "did you mean 'batch_sizes'"),
    ],
)
def test_what_cannot_be_measured_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        _sweep(**fields)
    assert message in str(caught.value)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "models: [mlp, {name: b, batch_sizes: [2]}]\nshares: 50\nstopping: {min_s: 2, max_s: 9}\n"
    )
    sweep = load_sweep(path, {"stopping": {"max_s": 4.0}, "seed": 3})
    assert [model.name for model in sweep.models] == ["mlp", "b"]
    assert sweep.models[1].batch_sizes == (2,)
    assert sweep.shares == (50.0,)
    assert (sweep.stopping.min_s, sweep.stopping.max_s, sweep.seed) == (2.0, 4.0, 3)


def _csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cells.csv"
    path.write_text(text)
    return path


def test_cells_are_read_from_csv(tmp_path: Path) -> None:
    path = _csv(
        tmp_path,
        "model_1,batch_size_1,share_pct_1,model_2,batch_size_2,share_pct_2,input_scale_2\n"
        "a,4,50,b,1,25,0.5\n"
        "a,2,100,,,,\n",
    )
    first, second = read_cells(path).cells
    assert [(t.model, t.batch_size, t.share_pct, t.input_scale) for t in first] == [
        ("a", 4, 50.0, 1.0),
        ("b", 1, 25.0, 0.5),
    ]
    assert [t.model for t in second] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "the column 'model_1' is missing"),
        ("model_1,batch_size_1,shre_pct_1\na,1,1\n", "did you mean 'share_pct_1'"),
        ("model_1,batch_size_1,share_pct_1\n", "holds no cells"),
        ("model_1,batch_size_1,share_pct_1\na,x,50\n", "line 2"),
        ("model_1,batch_size_1,share_pct_1\na,1\n", "line 2"),
        ("model_1,batch_size_1,share_pct_1\na,1,500\n", "share_pct"),
        (
            "model_1,batch_size_1,share_pct_1,model_2,batch_size_2,share_pct_2\na,1,60,b,1,60\n",
            "add up to 120",
        ),
        (
            "model_1,batch_size_1,share_pct_1,model_2,batch_size_2,share_pct_2\na,1,60,,1,40\n",
            "'model_2' is empty",
        ),
    ],
)
def test_bad_cells_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_cells(_csv(tmp_path, text))
    assert message in str(caught.value)
