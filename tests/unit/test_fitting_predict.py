from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from igniter_prof.cli import igprof, main
from igniter_prof.config.cells_csv import read_cells
from igniter_prof.dataset import ProfileStore
from igniter_prof.errors import BadInput
from igniter_prof.files import write_json
from igniter_prof.fitting import Predictor, fit, load_coefficients, predictor
from igniter_prof.records import REQUEST_DTYPE, Coefficients, Device, ProfileManifest, Tenant
from tests.unit.fitting_cells import CPU, measure_truth, pair_cells, solo_cells

SMALL = Tenant(model="small", batch_size=4, share_pct=40)
LARGE = Tenant(model="large", batch_size=2, share_pct=60)


@pytest.fixture(scope="module")
def coefficients() -> Coefficients:
    cells = [*solo_cells(shares=(20, 50, 80, 100)), *pair_cells(batches=(1, 4))]
    return fit(measure_truth(cells), CPU, profile_hash="0" * 64)


@pytest.fixture(scope="module")
def equations() -> Coefficients:
    """Of a model whose intervals know no rows that are less certain than others."""
    cells = [*solo_cells(shares=(20, 50, 80, 100)), *pair_cells(batches=(1, 4))]
    return fit(measure_truth(cells), CPU, profile_hash="0" * 64, model="igniter")


@pytest.fixture(scope="module")
def model(coefficients: Coefficients) -> Predictor:
    return predictor(coefficients)


@pytest.fixture(scope="module")
def coefficients_path(coefficients: Coefficients, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "C.json"
    write_json(path, coefficients)
    return path


def test_arrays_answer_as_cells_do(model: Predictor) -> None:
    shares = np.array([20.0, 40.0, 55.0])
    cells = [[SMALL.model_copy(update={"share_pct": s}), LARGE] for s in shares]
    expected = [tenant.latency_ms for cell in model.predict(cells) for tenant in cell]
    x = model.points(cells)
    assert model.fitted.latency_ms(x) == pytest.approx(expected)
    # one cell with other shares, without any tenant as an object
    again = model.points(cells[:1]).repeated(len(shares))
    share = again.share.copy()
    share[::2] = shares / 100.0
    assert model.fitted.latency_ms(replace(again, share=share)) == pytest.approx(expected)


def test_service_times_are_those_of_smaller_batches(model: Predictor) -> None:
    service = model.service_ms(SMALL, [LARGE])
    cells = [[SMALL.model_copy(update={"batch_size": b}), LARGE] for b in (1, 2, 3, 4)]
    assert service == pytest.approx([cell[0].latency_ms for cell in model.predict(cells)])


def test_nothing_loads_for_free_on_a_cpu(model: Predictor) -> None:
    ((prediction,),) = model.predict([[SMALL]])
    assert prediction.throughput_rps == pytest.approx(4 / prediction.latency_ms * 1000)


def test_loading_overlaps_on_a_gpu(coefficients: Coefficients) -> None:
    gpu = Device(id="cuda:GPU-1", kind="cuda", name="a GPU")
    fractions = [0.75 if name == "small" else 0.0 for name in coefficients.models]
    fitted = {**coefficients.extra["fitted"], "load_fraction": fractions}
    extra = {**coefficients.extra, "fitted": fitted}
    model = predictor(coefficients.model_copy(update={"device": gpu, "extra": extra}))
    ((prediction,),) = model.predict([[SMALL]])
    transfer_ms = coefficients.models["small"]["transfer_ms"].value * 4
    assert transfer_ms > 0
    busy_ms = prediction.latency_ms - 0.75 * transfer_ms
    assert prediction.throughput_rps == pytest.approx(4 / busy_ms * 1000)


def test_intervals_are_wider_outside_of_the_profile(equations: Coefficients) -> None:
    model = predictor(equations)

    def width(*tenants: Tenant) -> float:
        first = model.predict([tenants])[0][0]
        return float(np.log(first.latency_high_ms / first.latency_low_ms))

    inside = width(SMALL)
    assert width(SMALL.model_copy(update={"batch_size": 8})) == pytest.approx(inside)
    assert width(SMALL.model_copy(update={"batch_size": 16})) > inside + 0.2
    assert width(SMALL.model_copy(update={"share_pct": 5})) > inside + 0.2
    third = Tenant(model="middle", batch_size=1, share_pct=20)
    pair = width(SMALL.model_copy(update={"share_pct": 20}), LARGE)
    assert width(SMALL.model_copy(update={"share_pct": 20}), LARGE, third) > pair + 0.1
    # small was never measured beside itself
    assert width(SMALL, SMALL) > width(SMALL, LARGE) + 0.05


def test_the_upper_end_falls_with_the_share_and_rises_with_a_neighbour(
    equations: Coefficients,
) -> None:
    # alone much less certain than co-located, and no share above 40% profiled
    region = {"small": {**equations.region["small"], "share_pct": (20.0, 40.0)}}
    intervals = {"solo": (-2.0, 2.0), "colocated": (-0.01, 0.01)}
    extra = {**equations.extra, "interval": intervals}
    model = predictor(equations.model_copy(update={"region": region, "extra": extra}))

    alone, beside = model.predict([[SMALL], [SMALL, LARGE]])
    assert beside[0].latency_high_ms >= alone[0].latency_high_ms
    shares = [SMALL.model_copy(update={"share_pct": share}) for share in (30, 40, 60, 80, 100)]
    predicted = [cell[0] for cell in model.predict([[each] for each in shares])]
    assert [np.log(p.latency_high_ms / p.latency_ms) for p in predicted] == pytest.approx([2.0] * 5)
    # the lower end does say that more than 40% was never seen
    lows = [np.log(p.latency_low_ms / p.latency_ms) for p in predicted]
    assert lows[0] == pytest.approx(lows[1])
    assert lows[2] < lows[1] - 0.05


def test_outside_says_what_was_not_profiled(model: Predictor) -> None:
    assert model.outside([SMALL, LARGE]) == []
    far = Tenant(model="small", batch_size=64, share_pct=5)
    warnings = " | ".join(model.outside([far, LARGE, SMALL]))
    assert "small: batch_size 64 was not profiled (1 to 8 was)" in warnings
    assert "share_pct 5" in warnings
    assert "tenants 3" in warnings
    assert warnings.count("never measured together") == 1
    assert "small and small were never measured together" in warnings
    over = model.outside([SMALL, LARGE, Tenant(model="middle", share_pct=20)])
    assert "the shares add up to 120%, over 100%" in over
    assert model.outside_of_all([[SMALL], [far], [far]]) == model.outside([far])


def test_an_unknown_model_gets_a_hint(model: Predictor) -> None:
    for ask in (
        lambda: model.predict([[Tenant(model="smal")]]),
        lambda: model.points([[Tenant(model="smal")]]),
        lambda: model.service_ms(Tenant(model="smal")),
        lambda: model.outside([Tenant(model="smal")]),
    ):
        with pytest.raises(BadInput, match="did you mean 'small'"):
            ask()


def test_no_cells_no_predictions(model: Predictor) -> None:
    assert model.predict([]) == []
    assert model.predict([[]]) == [[]]


def test_coefficients_of_an_unknown_latency_model_are_refused(coefficients: Coefficients) -> None:
    with pytest.raises(BadInput, match="no latency model is called 'other'"):
        predictor(coefficients.model_copy(update={"model": "other"}))


def test_truncated_coefficients_are_refused(coefficients_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(coefficients_path.read_text()[:500])
    with pytest.raises(BadInput, match="not valid JSON"):
        load_coefficients(broken)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (("models", "small", "k4"), None, "the model 'small' lacks the parameter 'k4'"),
        (("models", "large", "k2_ms", "value"), -1.0, "the model 'large': 'k2_ms' is -1, below 0"),
        (("models", "large", "k2_ms", "value"), float("nan"), "'models.large.k2_ms.value'"),
        (("models", "large", "k2_ms", "value"), float("inf"), "'models.large.k2_ms.value'"),
        (("shared", "cache_util_batch_exponent"), None, "'shared' lacks the parameter"),
        (("extra", "cv"), [0.1], "'cv'"),
        (("extra", "cv", "small"), "wide", "'cv.small'"),
        (("extra", "cv", "small"), -0.1, "'cv.small'"),
        (("extra", "fitted", "load_fraction"), [0.0, 1.5, 0.0], "load_fraction is outside of 0-1"),
        (("extra", "fitted", "load_fraction"), [0.0, 1.0], "load_fraction is not 3 numbers"),
        (("extra", "interval"), 3, "'interval'"),
        (("extra", "interval", "solo"), [0.1], "'interval.solo"),
        (("extra", "measured_together"), [["small"]], "'measured_together.0"),
        (("model",), "other", "no latency model is called 'other'"),
    ],
)
def test_damaged_coefficients_are_refused_with_the_place(
    coefficients_path: Path, tmp_path: Path, place: tuple[str, ...], value: object, expected: str
) -> None:
    document = json.loads(coefficients_path.read_text())
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    assert place[-1] in inner
    if value is None:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(document))

    with pytest.raises(BadInput) as caught:
        load_coefficients(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value) or place == ("model",)


# --- cells as CSV -----------------------------------------------------------------------------


def predict_csv(coefficients_path: Path, text: str, tmp_path: Path) -> list[dict[str, str]]:
    cells, out = tmp_path / "cells.csv", tmp_path / "out.csv"
    cells.write_text(text)
    result = CliRunner().invoke(
        igprof,
        ["predict", str(coefficients_path), "--cells", str(cells), "--out", str(out)],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    with out.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_predict_repeats_the_columns_and_adds_the_answers(
    coefficients_path: Path, tmp_path: Path, model: Predictor
) -> None:
    rows = predict_csv(
        coefficients_path,
        "site,model_1,batch_size_1,share_pct_1,model_2,batch_size_2,share_pct_2,cpu_cores_2\n"
        "x,small,4,40,large,2,60,\n"
        "y,large,2,60,,,,\n"
        "z,small,4,40.0,large,2,,1.2\n",
        tmp_path,
    )
    assert list(rows[0]) == [
        "site",
        *("model_1", "batch_size_1", "share_pct_1"),
        *("model_2", "batch_size_2", "share_pct_2", "cpu_cores_2"),
        *("latency_ms_1", "latency_low_ms_1", "latency_high_ms_1"),
        *("latency_ms_2", "latency_low_ms_2", "latency_high_ms_2"),
    ]
    pair, (alone,) = model.predict([[SMALL, LARGE], [LARGE]])
    assert float(rows[0]["latency_ms_1"]) == pytest.approx(pair[0].latency_ms)
    assert float(rows[0]["latency_low_ms_2"]) == pytest.approx(pair[1].latency_low_ms)
    assert float(rows[1]["latency_high_ms_1"]) == pytest.approx(alone.latency_high_ms)
    assert rows[1]["latency_ms_2"] == rows[1]["model_2"] == ""
    assert [row["site"] for row in rows] == ["x", "y", "z"]
    # a cap of 1.2 of 2 cores is a share of 60%
    assert rows[2]["latency_ms_2"] == rows[0]["latency_ms_2"]
    assert rows[2]["share_pct_1"] == "40.0"


HEADER = "model_1,batch_size_1,share_pct_1,model_2,batch_size_2,share_pct_2\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: the column 'model_1' is missing"),
        (HEADER, "holds no cells"),
        (HEADER + "small,1,50,,,\nsmal,1,50,,,\n", "line 3: the model 'smal' was not profiled"),
        (HEADER + "small,,50,,,\n", "line 2: 'batch_size_1' is empty"),
        (HEADER + "small,one,50,,,\n", "line 2: 'batch_size_1'"),
        (HEADER + "small,0,50,,,\n", "line 2: 'batch_size_1'"),
        (HEADER + "small,1,150,,,\n", "line 2: 'share_pct_1'"),
        (HEADER + "small,1,nan,,,\n", "line 2: 'share_pct_1'"),
        (HEADER + "small,1,60,large,1,60\n", "line 2: the shares add up to 120%, over 100%"),
        (HEADER + "small,1,50,,3,\n", "line 2: 'model_2' is empty"),
        (HEADER + ",,,,,x\n", "line 2: 'model_2' is empty"),
        (HEADER + "small,1,50\n", "line 2: has 3 fields, the header 6"),
        ("model_1,batch_size_1,share_pc_1\nsmall,1,5\n", "did you mean 'share_pct_1'"),
        ("model_1,batch_size_1,latency_ms_1\nsmall,1,5\n", "is one of the answer's"),
        ("model_1,batch_size_1,model_1\nsmall,1,small\n", "two columns have the same name"),
        ("model_1,batch_size_1,model_2\nsmall,1,small\n", "'batch_size_2' is missing"),
        (
            "model_1,batch_size_1,share_pct_1,cpu_cores_1\nsmall,1,50,1\n",
            "line 2: share_pct_1 and cpu_cores_1 are the same knob",
        ),
        ("model_1,batch_size_1,share_pct1\nsmall,1,5\n", "did you mean 'share_pct_1'"),
        ("model_1,batch_size_1,share_pct\nsmall,1,5\n", "unknown column 'share_pct'"),
        (
            "model_1,batch_size_1,memory_mib_1\nsmall,1,inf\n",
            "'memory_mib_1': Input should be a finite number",
        ),
        (
            "model_1,batch_size_1,input_size_1\nsmall,1,inf\n",
            "'input_size_1': Input should be a finite number",
        ),
        (f"model_1,batch_size_1,model_{'1' * 5000}\nsmall,1,x\n", "unknown column 'model_111"),
        ("model_1,batch_size_1,Share_Pct-2\nsmall,1,5\n", "did you mean 'share_pct_2'"),
        ("model_1,batch_size_1,cpu_cores_01\nsmall,1,1\n", "did you mean 'cpu_cores_1'"),
        ("model_1,batch_size_1,cpu_cores_1\nsmall,1,3\n", "'cpu_cores_1' is 3, the device has 2"),
        (
            "model_1,batch_size_1,share_pct_1,model_2,batch_size_2,cpu_cores_2\n"
            "small,1,50,large,1,1\nsmall,1,60,large,1,1\n",
            "line 3: the shares and core caps add up to 110%, over 100%",
        ),
    ],
)
def test_bad_cells_are_refused_with_their_line(
    model: Predictor, tmp_path: Path, text: str, expected: str
) -> None:
    path = tmp_path / "cells.csv"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_cells(path, models=model.models, device=CPU)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_bad_cells_leave_no_answer_and_exit_with_2(
    coefficients_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells, out = tmp_path / "cells.csv", tmp_path / "out.csv"
    cells.write_text(HEADER + "small,1,50,,,\nsmall,1,500,,,\n")
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(coefficients_path), "--cells", str(cells), "--out", str(out)])
    assert caught.value.code == 2
    assert not out.exists()
    assert "line 3" in capsys.readouterr().err


def test_cells_to_profile_are_held_against_the_device_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = tmp_path / "cells.csv"
    cells.write_text("model_1,batch_size_1,cpu_cores_1\nmlp,1,0.5\nmlp,1,100000\n")
    with pytest.raises(SystemExit) as caught:
        main(["profile", "--cells", str(cells), "--dry-run"])
    assert caught.value.code == 2
    assert "line 3: 'cpu_cores_1' is 100000, the device has" in capsys.readouterr().err


def test_ten_thousand_cells_within_two_seconds(coefficients_path: Path, tmp_path: Path) -> None:
    rows = "".join(
        f"small,{i % 8 + 1},{20 + i % 30},large,{i % 5 + 1},{50 - i % 20}\n" for i in range(10_000)
    )
    started = time.process_time()
    answer = predict_csv(coefficients_path, HEADER + rows, tmp_path)
    assert len(answer) == 10_000
    assert time.process_time() - started < 2.0


# --- the verbs together -----------------------------------------------------------------------


def test_fit_reads_a_profile_and_reports(tmp_path: Path) -> None:
    manifest = ProfileManifest(sweep=None, device=CPU, created_at="", igprof="0")
    cells = [*solo_cells(models=("small", "large")), *pair_cells(models=("small", "large"))]
    with ProfileStore.create(tmp_path / "P", manifest) as store:
        for measurement in measure_truth(cells):
            empty = [np.zeros(0, REQUEST_DTYPE) for _ in measurement.tenants]
            store.append(measurement, empty)
        digest = store.digest()
    arguments = ["fit", str(tmp_path / "P"), "--out", str(tmp_path / "C.json")]
    result = CliRunner().invoke(igprof, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "hold-out, no interference" in result.stdout
    assert "pairs" in result.stdout
    stored = load_coefficients(tmp_path / "C.json")
    assert stored.profile_hash == digest
    result = CliRunner().invoke(igprof, [*arguments, "--json", "--holdout", "30", "--seed", "4"])
    document = json.loads(result.stdout)
    assert document["seed"] == 4
    assert document["models"]["small"]["k2_ms"]["std_error"] > 0
    assert document["report"]["holdout"]["cells"] > stored.report.holdout.cells  # type: ignore[union-attr]
