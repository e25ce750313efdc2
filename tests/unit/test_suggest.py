"""igprof suggest: rows as they were, best first, and what cannot be answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from igniter_prof.cli.suggest_verb import command
from igniter_prof.errors import BadInput
from igniter_prof.fitting import latency_models
from igniter_prof.fitting.suggest import suggest
from igniter_prof.records import Measurement, Tenant
from tests.dataset_samples import manifest, sample, write
from tests.gaussian_process import ProcessModel
from tests.unit.fitting_cells import CPU, measure_truth, pair_cells, solo_cells

PAIRS = pair_cells(batches=(1, 8))


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency_models.MODELS, "process", ProcessModel())


@pytest.fixture(scope="module")
def measured() -> list[Measurement]:
    return measure_truth([*solo_cells(), *PAIRS[:4]])


def _chosen(measured: list[Measurement], count: int, **changes: Any) -> list[Any]:
    given = {"model": "process", **changes}
    return suggest(measured, CPU, given.pop("candidates", PAIRS), count, **given)


@pytest.mark.parametrize("model", ["process", "igprof"])
def test_each_cell_makes_the_rest_more_certain_and_the_best_comes_first(
    measured: list[Measurement], model: str
) -> None:
    chosen = _chosen(measured, 8, model=model)
    assert len({choice.index for choice in chosen}) == 8
    widths = [chosen[0].half_width_before_pct, *(choice.half_width_after_pct for choice in chosen)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0]
    assert _chosen(measured, 8, model=model) == chosen
    assert not {choice.index for choice in chosen} & set(range(4))


def test_what_is_measured_or_twice_there_comes_last(measured: list[Measurement]) -> None:
    swapped = [tuple(reversed(PAIRS[10]))]
    chosen = [c.index for c in _chosen(measured, 99, candidates=[*PAIRS, *swapped])]
    assert sorted(chosen) == list(range(len(PAIRS) + 1))
    # of two that are the same one is fresh, the first of them
    assert set(chosen[-5:]) == {0, 1, 2, 3, len(PAIRS)}


def test_pairs_that_were_never_together_go_before_those_that_were() -> None:
    known = [cell for cell in PAIRS if {t.model for t in cell} == {"small", "middle"}]
    chosen = _chosen(measure_truth([*solo_cells(), *known[:9]]), 3)
    assert all({t.model for t in PAIRS[c.index]} != {"small", "middle"} for c in chosen)


def test_a_model_never_measured_alone_is_told_of(measured: list[Measurement]) -> None:
    strange = [(Tenant(model="other", batch_size=1, share_pct=50),)]
    with pytest.raises(BadInput, match="'other' of the candidates was never measured alone") as why:
        _chosen(measured, 1, candidates=strange)
    assert "--models other" in str(why.value.hint)


@pytest.mark.parametrize("model", ["none", "igniter"])
def test_a_model_without_a_covariance_cannot_choose(
    measured: list[Measurement], model: str
) -> None:
    with pytest.raises(BadInput, match="does not know how uncertain"):
        _chosen(measured, 1, model=model)


def _store(folder: Path) -> Path:
    cells = [sample(one.cell, [3.0] * len(one.tenants)) for one in _of_samples()]
    return write(folder / "p", cells, manifest("small", "middle"))


def _of_samples() -> list[Measurement]:
    return measure_truth(solo_cells(("small", "middle"), (1, 4), (50, 100)))


HEADER = "why,model_1,batch_size_1,share_pct_1,model_2,batch_size_2,share_pct_2"
ROWS = [
    '"of mine, quoted",small,1,50,middle,1,50.0',
    '"two\r\nlines",small, 4 ,50,middle,4,50',
    "é,middle,4,30,small,1,70",
    ",small,1,100,,,",
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last_ends", [True, False])
def test_the_rows_are_those_of_the_file_byte_for_byte(
    tmp_path: Path, end: str, last_ends: bool
) -> None:
    lines = [HEADER, *ROWS]
    text = end.join(lines[:3]) + end + end + end.join(lines[3:]) + (end if last_ends else "")
    (tmp_path / "c.csv").write_bytes(text.encode())
    arguments = [_store(tmp_path), "--cells", tmp_path / "c.csv", "--out", tmp_path / "o.csv"]
    arguments += ["-n", 9, "--model", "process", "--json"]
    done = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    assert "there are only 4 candidates" in done.stderr
    document = json.loads(done.stdout)
    assert document["candidates"] == 4
    at = {2: 0, 4: 1, 6: 2, 7: 3}  # a blank line, and one that goes over two
    order = [at[chosen["line"]] for chosen in document["chosen"]]
    assert sorted(order) == [0, 1, 2, 3]
    assert order[-1] == 3  # it is measured already
    written = (tmp_path / "o.csv").read_bytes().decode()
    assert written == "".join(line + end for line in [HEADER, *(ROWS[i] for i in order)])
    for chosen in document["chosen"]:
        assert 0 < chosen["half_width_after_pct"] <= chosen["half_width_before_pct"]
