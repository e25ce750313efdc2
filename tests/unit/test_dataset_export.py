from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from igniter_prof.cli import igprof
from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.columns import COLUMNS, TABLE_BEGIN, documented
from igniter_prof.dataset.export import REQUEST_COLUMNS
from igniter_prof.dataset.identify import identify
from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.records import Plan, PlanDevice, PlanTenant, ServerTimes, Tenant, Usage
from tests.dataset_samples import CONDITIONS, cell, sample, write

DOCS = Path(__file__).parents[2] / "docs" / "dataset.md"
PAIR = cell(Tenant(model="mlp", share_pct=50), Tenant(model="vgg19", share_pct=25, batch_size=4))


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(igprof, [str(part) for part in arguments])


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    measurement, requests = sample(PAIR, [5.0, 9.0], start=1)
    times = ServerTimes(
        queue_ms=0.1,
        compute_input_ms=0.2,
        compute_infer_ms=4.0,
        compute_output_ms=0.3,
        executed_batch=4.0,
        inferences=400,
        executions=100,
    )
    rich = measurement.tenants[1].model_copy(
        update={
            "server_times": times,
            "usage": Usage(cpu_s=1.5),
            "input_shapes": {"x": (4, 3, 224, 224)},
        }
    )
    measurement = measurement.model_copy(update={"tenants": (measurement.tenants[0], rich)})
    return write(tmp_path / "p", [sample(), (measurement, requests)])


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_row_is_a_tenant_of_a_cell(tmp_path: Path, profile: Path, format: str) -> None:
    out, raw = tmp_path / f"out.{format}", tmp_path / f"raw.{format}"
    result = run("export", profile, "--to", format, "--out", out, "--requests", raw, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"written": [str(out), str(raw)]}
    read = pd.read_csv if format == "csv" else pd.read_parquet
    table = read(out)
    assert list(table.columns) == [column.name for column in COLUMNS]
    assert table["model"].tolist() == ["mlp", "mlp", "vgg19"]
    assert table["tenant"].tolist() == [1, 1, 2]
    assert table["tenants"].tolist() == [1, 2, 2]
    assert table["neighbours"].fillna("").tolist() == ["", "vgg19 b4 25%", "mlp b1 50%"]
    measurements = ProfileStore.open(profile).measurements()
    means = [t.latency.mean_ms for m in measurements for t in m.tenants if t.latency is not None]
    assert table["latency_mean_ms"].tolist() == pytest.approx(means)
    # what is not known is empty, not zero
    assert table["server_queue_ms"].isna().tolist() == [True, True, False]
    assert table["usage_cpu_s"].isna().tolist() == [True, True, False]
    assert table["latency_p99_ms"].isna().all()
    assert table["condition_triton"].astype(str).str.startswith("2.51").all()
    assert json.loads(table["input_shapes"].iloc[2]) == {"x": [4, 3, 224, 224]}

    requests = read(raw)
    assert list(requests.columns) == list(REQUEST_COLUMNS)
    assert len(requests) == sum(
        len(rows)
        for one in measurements
        for rows in ProfileStore.open(profile).requests(one.cell_id)
    )
    solo = requests[(requests["cell_id"] == cell().cell_id) & (requests["phase"] == "measured")]
    assert solo["latency_ms"].mean() == pytest.approx(means[0])
    assert requests["ok"].all()


def test_an_empty_profile_has_columns_and_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [])
    assert run("export", path, "--to", "parquet", "--out", tmp_path / "out").exit_code == 0
    table = pd.read_parquet(tmp_path / "out")
    assert len(table) == 0
    types = table.dtypes.astype(str)
    assert (types["batch_size"], types["latency_mean_ms"]) == ("Int64", "Float64")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "pyarrow" else find(name, *rest),
    )
    result = run("export", profile, "--to", "parquet", "--out", tmp_path / "out")
    assert isinstance(result.exception, MissingCapability)
    assert "pip install 'igniter-prof[parquet]'" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_lists_what_can(tmp_path: Path, profile: Path) -> None:
    result = run("export", profile, "--to", "xml", "--out", tmp_path / "out")
    assert isinstance(result.exception, BadInput)
    assert "is a profile, which cannot be exported to 'xml'" in str(result.exception)
    assert "csv, parquet, acprof, igniter for a profile; igniter for a plan" in str(
        result.exception
    )
    (tmp_path / "plan.json").write_text('{"strategy": "best-fit", "devices": []}')
    result = run("export", tmp_path / "plan.json", "--to", "csv", "--out", tmp_path / "out")
    assert isinstance(result.exception, BadInput)
    assert "is a plan" in str(result.exception)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"profile_hash": "x", "models": {}, "device": {}}', "coefficients"),
        ('{"strategy": "x", "devices": []}', "plan"),
        ('{"plan_hash": "x", "workloads": []}', "result"),
    ],
)
def test_files_are_told_from_their_content(tmp_path: Path, text: str, kind: str) -> None:
    (tmp_path / "file").write_text(text)
    assert identify(tmp_path / "file") == kind


def test_what_is_not_ours_is_not_identified(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("[1]")
    with pytest.raises(BadInput, match="none of our files"):
        identify(tmp_path / "file")
    with pytest.raises(BadInput, match="holds no profile"):
        identify(tmp_path)
    with pytest.raises(BadInput, match="no such file"):
        identify(tmp_path / "nowhere")


def test_the_page_lists_every_column_as_it_is() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert TABLE_BEGIN in page
    assert documented(page) == page, "run: python -m igniter_prof.schemas"
    assert all(f"`{name}`" in page for name in REQUEST_COLUMNS)


def test_check_prints_findings_and_its_status(profile: Path) -> None:
    result = run("dataset", "check", profile, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"cells": 2, "errors": 0, "findings": []}
    assert "2 cells, nothing wrong" in run("dataset", "check", profile).stdout
    (profile / "cells" / f"{'0' * 16}.zip").write_bytes(b"PK")
    result = run("dataset", "check", profile, "--json")
    assert isinstance(result.exception, BadInput)
    assert json.loads(result.stdout)["errors"] == 1
    table = run("dataset", "check", profile)
    assert "damaged" in table.stdout
    assert "1 error in 3 cells" in str(table.exception)


def test_merge_compare_and_noise_print(tmp_path: Path, profile: Path) -> None:
    newer = CONDITIONS.model_copy(update={"triton": "2.60"})
    other = write(tmp_path / "q", [sample(mean_ms=7.0, conditions=newer)])
    again = write(tmp_path / "r", [sample(seed=3, start=9)])
    merged = run("dataset", "merge", profile, again, "--out", tmp_path / "m", "--json")
    assert json.loads(merged.stdout) == {"cells": 3, "renumbered": 1, "identical": 0}
    document = json.loads(run("dataset", "compare", tmp_path / "m", other, "--json").stdout)
    assert document["conditions"] == {"triton": {"a": ["2.51"], "b": ["2.60"]}}
    (change,) = document["changes"]
    assert change["label"] == "mlp b1 50%"
    assert change["change_pct"] == pytest.approx(40, abs=4)
    assert change["low_pct"] < change["change_pct"] < change["high_pct"]
    assert document["only_a"] == 2
    text = run("dataset", "compare", profile, other).stdout
    assert "conditions that changed" in text
    assert "Nothing was measured twice" in text
    assert "2 tenants only in A" in text
    found = json.loads(run("dataset", "noise", tmp_path / "m", "--json").stdout)["noise"]
    assert {each["group"] for each in found} == {"all", "solo"}
    assert np.isfinite([each["max_pct"] for each in found]).all()
    assert "solo" in run("dataset", "noise", tmp_path / "m").stdout
    assert "more than once" in run("dataset", "noise", profile).stdout


def test_a_plan_is_exported_to_igniter(tmp_path: Path) -> None:
    tenant = PlanTenant(
        workload="a", model="alexnet", batch_size=6, share_pct=30, rate_rps=1200, slo_ms=20
    )
    plan = Plan(
        strategy="x",
        igprof="0",
        created_at="2026-01-01",
        devices=(PlanDevice(name="device-1", tenants=(tenant,)),),
    )
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    result = run("export", tmp_path / "plan.json", "--to", "igniter", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    lists = json.loads((tmp_path / "out").read_text())
    assert (lists["rates"], lists["slos"], lists["batches"]) == ([1200], [10], [6])
    raw = tmp_path / "raw"
    refused = run(
        "export", tmp_path / "plan.json", "--to", "igniter", "--out", raw, "--requests", raw
    )
    assert "--requests is for profiles only" in str(refused.exception)


def test_columns_of_the_same_field_name_have_their_own_meanings() -> None:
    """A field of one record must not be described as that of another."""
    meanings = {column.name: column.meaning for column in COLUMNS}
    assert meanings["usage_memory_peak_mib"] == "since its start, page cache included"
    assert meanings["container_memory_peak_mib"] == "in the window, page cache included"
    assert "start" not in meanings["device_memory_peak_mib"]
