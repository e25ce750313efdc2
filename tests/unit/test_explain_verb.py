"""``igprof explain``: terms that sum to what ``igprof predict`` says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from igniter_prof.cli import igprof, main
from igniter_prof.files import write_json
from igniter_prof.fitting import explain, fit
from igniter_prof.records import Coefficients, Tenant
from tests.unit import test_acprof_fit as acprof
from tests.unit.fitting_cells import CPU, measure_truth, pair_cells, solo_cells

CELLS = (
    "site,model_1,batch_size_1,share_pct_1,model_2,batch_size_2,share_pct_2\n"
    "x,small,4,40,large,2,60\n"
    "y,,,,large,2,\n"
)


@pytest.fixture(scope="module")
def coefficients() -> Coefficients:
    names = ("small", "large")
    cells = [*solo_cells(models=names), *pair_cells(models=names)]
    return fit(measure_truth(cells), CPU, profile_hash="0" * 64, model="igniter")


@pytest.fixture
def files(coefficients: Coefficients, tmp_path: Path) -> tuple[Path, Path]:
    write_json(tmp_path / "C.json", coefficients)
    (tmp_path / "cells.csv").write_text(CELLS)
    return tmp_path / "C.json", tmp_path / "cells.csv"


def predicted(files: tuple[Path, Path], tmp_path: Path) -> list[float]:
    """The latencies that ``igprof predict`` writes, tenant by tenant."""
    out = tmp_path / "P.csv"
    arguments = ["predict", str(files[0]), "--cells", str(files[1]), "--out", str(out)]
    assert CliRunner().invoke(igprof, arguments, catch_exceptions=False).exit_code == 0
    with out.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [float(row[f"latency_ms_{k}"]) for row in rows for k in (1, 2) if row[f"latency_ms_{k}"]]


def test_json_has_terms_that_sum_to_the_prediction(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = ["explain", str(files[0]), "--cells", str(files[1]), "--json"]
    result = CliRunner().invoke(igprof, arguments, catch_exceptions=False)
    document = json.loads(result.stdout)
    assert document["model"] == "igniter"
    tenants = document["tenants"]
    assert [(t["line"], t["tenant"], t["model"]) for t in tenants] == [
        (2, 1, "small"),
        (2, 2, "large"),
        (3, 2, "large"),
    ]
    assert [t["latency_ms"] for t in tenants] == pytest.approx(predicted(files, tmp_path))
    for tenant in tenants:
        terms = tenant["terms"].values()
        assert sum(term["ms"] for term in terms) == pytest.approx(tenant["latency_ms"], rel=1e-9)
        assert sum(term["pct"] for term in terms) == pytest.approx(100.0)
    assert tenants[0]["terms"]["cache and memory"]["ms"] > 0
    assert tenants[2]["terms"]["cache and memory"]["ms"] == 0
    assert tenants[2]["share_pct"] is None


def test_csv_has_one_row_a_tenant(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "E.csv"
    arguments = ["explain", str(files[0]), "--cells", str(files[1]), "--out", str(out)]
    result = CliRunner().invoke(igprof, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == ""
    with out.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == [
        *("line", "tenant", "model", "batch_size", "share_pct", "latency_ms"),
        *("transfer_ms", "transfer_pct", "active_alone_ms", "active_alone_pct"),
        *("scheduling_ms", "scheduling_pct", "cache_and_memory_ms", "cache_and_memory_pct"),
    ]
    assert [float(row["latency_ms"]) for row in rows] == pytest.approx(predicted(files, tmp_path))
    for row in rows:
        terms = [float(v) for k, v in row.items() if k.endswith("_ms") and k != "latency_ms"]
        assert sum(terms) == pytest.approx(float(row["latency_ms"]), rel=1e-7)
    assert rows[2]["share_pct"] == ""


def test_igprofs_terms_make_plain_column_names(tmp_path: Path) -> None:
    names = ("small", "large")
    cells = [*solo_cells(models=names), *pair_cells(models=names)]
    fitted = fit(measure_truth(cells), CPU, profile_hash="0" * 64, validation_s=0.0)
    write_json(tmp_path / "C.json", fitted)
    (tmp_path / "cells.csv").write_text(CELLS)
    out = tmp_path / "E.csv"
    arguments = ["explain", str(tmp_path / "C.json"), "--cells", str(tmp_path / "cells.csv")]
    result = CliRunner().invoke(igprof, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    header = out.read_text().splitlines()[0]
    assert "alone_measured_ms,alone_measured_pct" in header
    assert '"' not in header


def test_the_table_is_for_people(files: tuple[Path, Path]) -> None:
    arguments = ["explain", str(files[0]), "--cells", str(files[1])]
    result = CliRunner().invoke(igprof, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if "2.1 small" in line)
    assert line.count("%)") == 4
    assert "active alone" in result.stdout


def test_what_was_not_profiled_is_warned_of(files: tuple[Path, Path]) -> None:
    files[1].write_text("model_1,batch_size_1,share_pct_1\nsmall,64,100\n")
    arguments = ["explain", str(files[0]), "--cells", str(files[1]), "--json"]
    result = CliRunner().invoke(igprof, arguments, catch_exceptions=False)
    assert any("batch_size 64 was not profiled" in w for w in json.loads(result.stdout)["warnings"])
    assert "warning: small: batch_size 64" in result.stderr


def test_bad_cells_exit_with_2_and_leave_no_file(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files[1].write_text("model_1,batch_size_1,share_pct_1\nsmal,1,50\n")
    out = tmp_path / "E.csv"
    with pytest.raises(SystemExit) as caught:
        main(["explain", str(files[0]), "--cells", str(files[1]), "--out", str(out)])
    assert caught.value.code == 2
    assert "did you mean 'small'" in capsys.readouterr().err
    assert not out.exists()


def test_a_model_without_terms_exits_with_2(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(files[0], acprof.fitted(acprof.measure(acprof.grid(gpus=(False,)))))
    files[1].write_text("model_1,batch_size_1,cpu_cores_1\nm,1,1\n")
    with pytest.raises(SystemExit) as caught:
        main(["explain", str(files[0]), "--cells", str(files[1])])
    assert caught.value.code == 2
    assert "'acprof' has no terms to explain" in capsys.readouterr().err


def test_no_cells_have_no_terms(coefficients: Coefficients) -> None:
    explained = explain(coefficients, [])
    assert explained.latency_ms == explained.terms_ms == []
    (one,) = explain(coefficients, [[Tenant(model="small", share_pct=50)]]).terms_ms
    assert set(one) == set(explained.names)
