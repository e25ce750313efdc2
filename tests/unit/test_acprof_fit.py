"""The model acprof: known truths are recovered, train and test stay apart, limits are told."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from igniter_prof.cli import igprof
from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.acprof import import_acprof
from igniter_prof.errors import BadInput
from igniter_prof.files import write_json
from igniter_prof.fitting import cell_predictor, fit, load_coefficients, predictor
from igniter_prof.fitting.acprof.choosing import choose, fit_form, hold_out
from igniter_prof.fitting.acprof.forms import Form
from igniter_prof.fitting.acprof.nearest import linear, nearest
from igniter_prof.fitting.acprof.tasks import Task, latency_of, tasks_of
from igniter_prof.records import Coefficients, Device, Measurement, Tenant, TenantEnergy
from tests import acprof_files
from tests.unit.fitting_cells import measured

DEVICE = Device(id="cuda:GPU-1", kind="cuda", name="A GPU")
SIZES = (10.0, 20.0, 50.0, 100.0, 200.0, 400.0)


def truth(tenant: Tenant) -> float:
    """Latency, ms: on the GPU the cores do nothing."""
    size = tenant.input_size or 0.0
    if tenant.gpu:
        return 2.0 + 0.01 * size
    return 1.0 + 5.0 * (size / 100) / (tenant.cpu_cores or 1.0) ** 0.9


def measure(tenants: Sequence[Tenant], noise: float = 0.0, seed: int = 0) -> list[Measurement]:
    rng = np.random.default_rng(seed)
    return [
        measured([tenant], [truth(tenant) * float(np.exp(noise * rng.normal()))], device=DEVICE)
        for tenant in tenants
    ]


def grid(model: str = "m", gpus: Sequence[bool] = (True, False)) -> list[Tenant]:
    return [
        Tenant(model=model, cpu_cores=c, memory_mib=2048 * c, gpu=gpu, input_size=s)
        for gpu in gpus
        for c in (1.0, 2.0, 4.0, 8.0)
        for s in SIZES
    ]


def fitted(measurements: Sequence[Measurement], **more: float) -> Coefficients:
    return fit(measurements, DEVICE, profile_hash="0" * 64, model="acprof", **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def coefficients() -> Coefficients:
    return fitted(measure(grid(), noise=0.01))


def test_a_known_truth_is_recovered(coefficients: Coefficients) -> None:
    model = cell_predictor(coefficients)
    asked = [
        Tenant(model="m", cpu_cores=c, memory_mib=2048 * c, gpu=gpu, input_size=s)
        for gpu in (True, False)
        for c in (1.0, 3.0, 8.0)
        for s in (15.0, 120.0, 390.0)
    ]
    for tenant, (found,) in zip(asked, model.predict([[t] for t in asked]), strict=True):
        assert found.latency_ms == pytest.approx(truth(tenant), rel=0.05)
        assert found.latency_low_ms <= found.latency_ms <= found.latency_high_ms
        assert found.energy_j is None
    report = coefficients.report
    assert report is not None
    assert set(report.by_group) == set(report.train_by_group) == {"m cpu", "m gpu"}
    assert report.holdout.mean_pct is not None
    assert report.holdout_none.mean_pct is not None
    assert report.holdout.mean_pct < 3 < report.holdout_none.mean_pct
    assert report.naive == "the nearest measured configuration"
    assert len(report.residuals) == 48


def test_parameters_are_those_of_the_truth() -> None:
    (task,), _ = tasks_of(measure(grid(gpus=[False])), DEVICE, latency_of)
    choice = choose(task, 0)
    assert choice.form.name == "offset"
    found = fit_form(choice.form, task)
    value = dict(zip(choice.form.parameters(), found.theta.tolist(), strict=True))
    assert np.exp(value["log_a"]) == pytest.approx(1.0, rel=1e-3)
    assert np.exp(value["log_b"]) == pytest.approx(5.0 * 4 / 8**0.9, rel=1e-3)
    assert value["p"] == pytest.approx(1.0, abs=1e-3)
    assert value["q"] == pytest.approx(0.9, abs=1e-3)


def test_inputs_that_are_cut_off_saturate() -> None:
    tenants = grid(gpus=[False])
    measurements = [
        measured([t], [truth(t.model_copy(update={"input_size": min(t.input_size or 0, 100)}))],
                 device=DEVICE)
        for t in tenants
    ]  # fmt: skip
    (task,), _ = tasks_of(measurements, DEVICE, latency_of)
    choice = choose(task, 0)
    assert choice.scores[choice.form.name] < 0.01 < choice.scores["offset"]


def test_an_outlier_moves_little() -> None:
    measurements = measure(grid(gpus=[False]))
    (task,), _ = tasks_of(measurements, DEVICE, latency_of)
    spoiled = task.cost.copy()
    spoiled[7] *= 5
    bad = Task(**{**vars(task), "cost": spoiled})
    form = Form("offset", task.axes, {a: tuple(np.unique(task.x[a])) for a in task.axes})
    found = fit_form(form, bad).predict(task)
    assert np.abs(found / task.cost - 1).max() < 0.03


def test_repeats_of_a_configuration_are_one_row() -> None:
    tenants = grid(gpus=[False])
    twice = [
        measured([t], [truth(t) * factor], device=DEVICE, repeat=repeat)
        for t in tenants
        for repeat, factor in enumerate((0.9, 1.1))
    ]
    (task,), _ = tasks_of(twice, DEVICE, latency_of)
    assert len(task) == len(tenants)
    assert task.cost == pytest.approx([truth(t) for t in tenants])
    assert set(task.repeats.tolist()) == {400.0}


def test_the_hold_out_is_of_every_container_and_never_seen() -> None:
    (task,), _ = tasks_of(measure(grid(gpus=[False])), DEVICE, latency_of)
    held = hold_out(task, 0.2, 3)
    assert 4 <= held.sum() <= 6
    for cores in (1, 2, 4, 8):
        line = task.x["cpu_cores"] == cores
        assert held[line].any()
        assert not held[line & np.isin(task.x["size"], (10, 400))].any()
    poisoned = Task(**{**vars(task), "cost": np.where(held, task.cost * 100, task.cost)})
    clean, dirty = (choose(one.take(~held), 0) for one in (task, poisoned))
    assert clean.scores == dirty.scores
    assert not hold_out(task, 0.0, 3).any()


def test_energy_is_fitted_where_it_was_measured() -> None:
    found = []
    for one in measure(grid(gpus=[True])):
        size = one.cell.tenants[0].input_size or 0.0
        energy = TenantEnergy(energy_j=1.0, per_inference_j=0.1 + 0.002 * size, method="test")
        tenant = one.tenants[0].model_copy(update={"energy": energy})
        found.append(one.model_copy(update={"tenants": (tenant,)}))
    coefficients = fitted(found)
    model = cell_predictor(coefficients)
    asked = Tenant(model="m", cpu_cores=2, memory_mib=4096, gpu=True, input_size=75)
    ((answer,),) = model.predict([[asked]])
    assert answer.energy_j == pytest.approx(0.25, rel=0.03)
    assert coefficients.report is not None
    assert "m gpu energy" in coefficients.report.by_group


def test_a_sweep_of_ours_is_fitted_over_scale_cores_and_batch() -> None:
    cpu = Device(id="cpu:0-3", kind="cpu", name="A CPU", cores=(0, 1, 2, 3))
    tenants = [
        Tenant(model="m", share_pct=share, input_scale=scale, batch_size=batch)
        for share in (25, 50, 100)
        for scale in (0.5, 1.0, 1.5, 2.0)
        for batch in (1, 4)
    ]

    def ours(t: Tenant) -> float:
        return 8.0 * t.input_scale**2 * t.batch_size**0.9 / (t.share_pct or 100) * 100

    coefficients = fit(
        [measured([t], [ours(t)], device=cpu) for t in tenants],
        cpu,
        profile_hash="0" * 64,
        model="acprof",
    )
    asked = Tenant(model="m", cpu_cores=3, input_scale=1.2, batch_size=2)
    ((answer,),) = cell_predictor(coefficients).predict([[asked]])
    assert answer.latency_ms == pytest.approx(8 * 1.44 * 2**0.9 / 0.75, rel=0.02)
    assert coefficients.region["m"]["input_scale"] == (0.5, 2.0)


def test_what_lies_outside_is_told_and_less_certain(coefficients: Coefficients) -> None:
    model = cell_predictor(coefficients)
    inside = Tenant(model="m", cpu_cores=2, memory_mib=4096, gpu=False, input_size=100)
    assert model.outside([inside]) == []
    far = inside.model_copy(update={"input_size": 4000.0})
    assert model.outside([far]) == ["m cpu: input_size 4000 was not profiled (10 to 400 was)"]
    odd = inside.model_copy(update={"memory_mib": 16384.0})
    assert "memory was varied with the cores only" in model.outside([odd])[0]
    (near,), (away,) = model.predict([[inside], [far]])
    widths = [p.latency_high_ms / p.latency_low_ms for p in (near, away)]
    assert widths[1] > 5 * widths[0]
    assert model.outside_of_all([[inside], [far], [far]]) == model.outside([far])
    ((unknown,),) = model.predict([[odd]])
    assert unknown.latency_high_ms > 1.5 * near.latency_high_ms
    scaled = inside.model_copy(update={"input_scale": 0.5})
    assert "input_scale has no effect" in model.outside([scaled])[0]


def test_a_cap_that_nobody_profiled_is_told(coefficients: Coefficients) -> None:
    document = json.loads(coefficients.model_dump_json())
    for task in document["extra"]["tasks"]:
        del task["region"]["memory_mib"]  # as of a profile without caps
        task["containers"] = None
    model = cell_predictor(Coefficients.model_validate(document))
    plain = Tenant(model="m", cpu_cores=2, gpu=False, input_size=100)
    capped = plain.model_copy(update={"memory_mib": 512.0})
    assert model.outside([plain]) == []
    assert model.outside([capped]) == [
        "m cpu: memory_mib 512 was not profiled, so its effect is not known"
    ]
    (free,), (held,) = model.predict([[plain], [capped]])
    assert held.latency_ms == free.latency_ms
    assert held.latency_high_ms > 1.5 * free.latency_high_ms
    assert held.latency_low_ms < free.latency_low_ms / 1.5


def test_energy_beyond_where_it_was_measured_is_told(coefficients: Coefficients) -> None:
    document = json.loads(coefficients.model_dump_json())
    task = next(one for one in document["extra"]["tasks"] if one["gpu"])
    region = {**task["region"], "size": [10.0, 100.0]}
    document["extra"]["tasks"].append({**task, "target": "energy", "region": region})
    values = document["models"]["m"]
    values |= {name.replace("gpu_latency", "gpu_energy"): one for name, one in values.items()}
    model = cell_predictor(Coefficients.model_validate(document))
    asked = Tenant(model="m", cpu_cores=2, memory_mib=4096, gpu=True, input_size=300)
    assert model.outside([asked]) == [
        "m gpu energy: input_size 300 was not profiled (10 to 100 was)"
    ]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"model": "other"}, "was not profiled"),
        ({"gpu": None}, "with and without the GPU"),
        ({"input_size": None}, "profiled over input_size, which is not given"),
        ({"cpu_cores": None}, "profiled over cpu_cores, which is not given"),
        ({"instances": 2}, "knows no instances"),
        ({"gpu": True, "share_pct": 50.0}, "knows no shares of a GPU"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    coefficients: Coefficients, change: dict[str, object], what: str
) -> None:
    tenant = Tenant(model="m", cpu_cores=2, memory_mib=4096, gpu=False, input_size=100)
    with pytest.raises(BadInput, match=what):
        cell_predictor(coefficients).predict([[tenant.model_copy(update=change)]])
    with pytest.raises(BadInput, match="no neighbours"):
        cell_predictor(coefficients).predict([[tenant, tenant]])


def test_no_plan_is_made_from_it(coefficients: Coefficients, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither shares nor neighbours"):
        predictor(coefficients)
    write_json(tmp_path / "c.json", coefficients)
    (tmp_path / "w.yaml").write_text("workloads: [{name: a, model: m, rate_rps: 1, slo_ms: 100}]")
    arguments = ["plan", "c.json", "w.yaml", "--out", "plan.json"]
    done = CliRunner().invoke(igprof, [str(tmp_path / a) if "." in a else a for a in arguments])
    assert isinstance(done.exception, BadInput)
    assert "igprof fit --model igniter" in str(done.exception)


def test_damaged_coefficients_are_refused(coefficients: Coefficients, tmp_path: Path) -> None:
    document = json.loads(coefficients.model_dump_json())
    lost = json.loads(json.dumps(document))
    lost["models"]["m"].popitem()
    tasks = json.loads(json.dumps(document))
    tasks["extra"]["tasks"][0]["form"] = "magic"
    for damaged, what in ((lost, "lacks the parameter"), (tasks, "no form of this igprof")):
        (tmp_path / "c.json").write_text(json.dumps(damaged))
        with pytest.raises(BadInput, match=what):
            load_coefficients(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"containers": []}, "containers"),
        ({"interval": [0.5, -0.5]}, "interval"),
        ({"interval": [-1e5, 1e5]}, "interval"),
        ({"region": {"size": [400.0, 10.0]}}, "do not rise"),
        ({"knots": {"size": [400.0, 10.0]}}, "do not rise"),
    ],
)
def test_limits_that_are_none_are_refused(
    coefficients: Coefficients, tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    document = json.loads(coefficients.model_dump_json())
    task = document["extra"]["tasks"][0]
    for name, value in change.items():
        task[name] = {**task[name], **value} if isinstance(value, dict) else value
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(BadInput, match=what):
        load_coefficients(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("measurements", "what"),
    [
        ([], "no model of the profile can be fitted"),
        (measure(grid()[:3]), "3 configurations are too few to fit"),
    ],
)
def test_too_little_is_told(measurements: list[Measurement], what: str) -> None:
    with pytest.raises(BadInput, match=what):
        fitted(measurements)


def test_peers_say_what_they_say() -> None:
    (task,), _ = tasks_of(measure(grid(gpus=[False])), DEVICE, latency_of)
    at = (task.x["size"] == 100) & (task.x["cpu_cores"] == 2)
    found = nearest(task.take(~at), task.take(at))
    # a factor of two in the size is nearer than one in the cores: the sizes span more
    assert found[0] in task.cost[(task.x["cpu_cores"] == 2) & np.isin(task.x["size"], (50, 200))]
    plain = np.array(linear(task, task))
    assert np.corrcoef(plain, task.cost)[0, 1] > 0.99


def test_fit_and_predict_by_the_verbs(tmp_path: Path) -> None:
    acprof_files.write_cpu(tmp_path / "cpu.csv", noise=0.01)
    import_acprof([tmp_path / "cpu.csv"], tmp_path / "p")
    assert ProfileStore.open(tmp_path / "p").manifest.device.kind == "cpu"
    run = CliRunner()
    out = tmp_path / "c.json"
    arguments = ["fit", str(tmp_path / "p"), "--model", "acprof", "--out", str(out), "--json"]
    done = run.invoke(igprof, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["report"]["holdout"]["mean_pct"] < 3
    (tmp_path / "cells.csv").write_text(
        "model_1,batch_size_1,cpu_cores_1,memory_mib_1,gpu_1,input_size_1,mine\n"
        "text-model,1,2,2048,false,100,a\ntext-model,1,2,2048,,9000,b\n"
    )
    arguments = ["predict", str(out), "--cells", str(tmp_path / "cells.csv")]
    done = run.invoke(igprof, [*arguments, "--out", str(tmp_path / "answer.csv")])
    assert done.exit_code == 0, done.output
    assert "warning: text-model cpu: input_size 9000 was not profiled" in done.stderr
    with (tmp_path / "answer.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["mine"] for row in rows] == ["a", "b"]
    expected = 1000 * acprof_files.latency_s(100, 2)
    assert float(rows[0]["latency_ms_1"]) == pytest.approx(expected, rel=0.05)
    assert rows[0]["note_1"] == ""
    assert "input_size 9000" in rows[1]["note_1"]
    (tmp_path / "cells.csv").write_text("model_1,batch_size_1,gpu_1\ntext-model,1,true\n")
    done = run.invoke(igprof, [*arguments, "--out", str(tmp_path / "answer.csv")])
    assert isinstance(done.exception, BadInput)
    assert "cells.csv, line 2: the model 'text-model' was not profiled with the GPU" in str(
        done.exception
    )


def test_a_sweep_over_cores_alone_is_fitted() -> None:
    tenants = [Tenant(model="m", cpu_cores=c, gpu=False) for c in (0.5, 1.0, 2.0, 4.0, 8.0)]
    measurements = [measured([t], [10 / (t.cpu_cores or 1)], device=DEVICE) for t in tenants]
    coefficients = fitted(measurements, holdout=0.0)
    assert coefficients.report is not None
    assert coefficients.report.holdout.cells == 0
    asked = Tenant(model="m", cpu_cores=3.0, gpu=False)
    ((answer,),) = cell_predictor(coefficients).predict([[asked]])
    assert answer.latency_ms == pytest.approx(10 / 3, rel=0.01)


def test_two_by_two_are_enough_for_a_power_law() -> None:
    tenants = [
        Tenant(model="m", cpu_cores=c, gpu=False, input_size=s) for c in (1, 2) for s in (10, 20)
    ]
    measurements = [
        measured([t], [(t.input_size or 0) / (t.cpu_cores or 1)], device=DEVICE) for t in tenants
    ]
    coefficients = fitted(measurements)
    asked = Tenant(model="m", cpu_cores=1.5, gpu=False, input_size=15)
    ((answer,),) = cell_predictor(coefficients).predict([[asked]])
    assert answer.latency_ms == pytest.approx(10, rel=0.01)
    assert "too few configurations for a hold-out" in coefficients.extra["notes"][0]


def test_what_the_model_does_not_know_is_left_out_and_told() -> None:
    tenants = grid(gpus=[False])
    other = [
        measured([Tenant(model="m", instances=2)], [1.0], device=DEVICE),
        measured([Tenant(model="m", share_pct=30)], [1.0], device=DEVICE),
        measured([tenants[0], tenants[1]], [1.0, 1.0], device=DEVICE),
        measured([Tenant(model="m", gpu=False, input_size=3)], [1.0], device=DEVICE),
        measured([Tenant(model="m", gpu=False, cpu_cores=1)], [1.0], device=DEVICE),
    ]
    (task,), notes = tasks_of([*measure(tenants), *other], DEVICE, latency_of)
    assert len(task) == len(tenants)
    assert sorted(notes) == [
        "1 cells left out: this model knows no instances",
        "1 cells left out: this model knows no neighbours",
        "1 cells left out: this model knows no shares of a GPU",
        "m: 1 cells left out: others have an input size",
        "m: 1 cells left out: without cpu_cores, others have it",
    ]
