"""The verbs, with real coefficients and the project's own queueing estimate."""

import json
from pathlib import Path

import pytest

from igniter_prof.cli import main
from igniter_prof.fitting import load_coefficients
from igniter_prof.fitting.physics.equations import PER_MODEL, SHARED
from igniter_prof.provisioning import read_plan
from igniter_prof.records import Coefficients, Device, Parameter

WORKLOADS = """
workloads:
  - {name: a, model: small, rate_rps: 60, slo_ms: 80, count: 2}
  - {name: b, model: middle, rate_rps: 20, slo_ms: 150, arrival: constant}
"""


def parameters(**values: float) -> dict[str, Parameter]:
    return {name: Parameter(value=value) for name, value in {**PER_MODEL, **values}.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    region = {"batch_size": (1.0, 4.0), "share_pct": (25.0, 100.0)}
    coefficients = Coefficients(
        model="igniter",
        device=Device(id="cpu:0-1", kind="cpu", name="a CPU", cores=(0, 1)),
        profile_hash="p" * 64,
        igprof="0",
        created_at="2026-01-01T00:00:00+00:00",
        shared={name: Parameter(value=value) for name, value in SHARED.items()},
        models={
            "small": parameters(
                k2_ms=1.0, k3_ms=2.0, k4=0.05, k5_ms=0.5, alpha_cache=0.3, cache_util=0.5
            ),
            "middle": parameters(
                k2_ms=4.0, k3_ms=5.0, k4=0.1, k5_ms=2.0, alpha_cache=0.3, cache_util=1.0
            ),
        },
        region={"small": region, "middle": region},
        extra={"cv": {"small": 0.1, "middle": 0.1}},
    )
    (tmp_path / "coefficients.json").write_text(coefficients.model_dump_json())
    (tmp_path / "workloads.yaml").write_text(WORKLOADS)
    return tmp_path


def igprof(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def plan(folder: Path, *options: object) -> int:
    files = (folder / "coefficients.json", folder / "workloads.yaml")
    return igprof("plan", *files, "--out", folder / "plan.json", *options)


def check(folder: Path, *options: object) -> int:
    return igprof("check", folder / "plan.json", folder / "coefficients.json", *options)


def test_plan_then_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(folder) == 0
    shown = capsys.readouterr()
    assert "no plan has fewer" in shown.out
    assert "a-1" in shown.out
    assert f"wrote {folder / 'plan.json'}" in shown.err

    made = read_plan(folder / "plan.json")
    fitted = load_coefficients(folder / "coefficients.json")
    assert made.coefficients_hash == fitted.digest()
    assert made.device_type == fitted.device
    assert check(folder, "--workloads", folder / "workloads.yaml") == 0
    assert "every promise holds" in capsys.readouterr().err


def test_json_is_the_plan_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(folder, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((folder / "plan.json").read_text())

    assert check(folder, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"plan": str(folder / "plan.json"), "holds": True, "findings": []}


def test_a_broken_promise_exits_with_7(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(folder) == 0
    text = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(text.replace('"slo_ms": 80.0', '"slo_ms": 1.0'))

    assert check(folder) == 7
    assert "SLO does not hold" in capsys.readouterr().err
    assert check(folder, "--json") == 7
    assert json.loads(capsys.readouterr().out)["holds"] is False


def test_other_coefficients_are_a_broken_promise(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(folder) == 0
    path = folder / "coefficients.json"
    path.write_text(path.read_text().replace('"seed":0', '"seed":1'))

    assert check(folder) == 7
    assert "made from other coefficients" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["plan.json", "coefficients.json"])
def test_unreadable_files_exit_with_2(folder: Path, broken: str) -> None:
    assert plan(folder) == 0
    path = folder / broken
    path.write_text(path.read_text()[:200])

    assert check(folder) == 2
    path.unlink()
    assert check(folder) == 2


def test_infeasible_exits_with_6_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = WORKLOADS.replace("slo_ms: 80", "slo_ms: 2")
    (folder / "workloads.yaml").write_text(text)

    assert plan(folder) == 6
    assert "'a-1' and 1 alike (small)" in capsys.readouterr().err
    assert not (folder / "plan.json").exists()


def test_options_reach_the_plan(folder: Path) -> None:
    options = ("--share-step", "12.5", "--latency-rule", "half-mean", "--margin", "interval")
    assert plan(folder, *options, "--strategy", "alone") == 0

    made = read_plan(folder / "plan.json")
    assert (made.share_step_pct, made.latency_rule) == (12.5, "half-mean+interval")
    assert (made.strategy, len(made.devices)) == ("alone", 3)


def test_the_rule_of_the_workloads_file_holds_unless_another_is_asked_for(folder: Path) -> None:
    (folder / "workloads.yaml").write_text("defaults: {latency_rule: half-mean}\n" + WORKLOADS)

    assert plan(folder) == 0
    assert read_plan(folder / "plan.json").latency_rule == "half-mean"
    assert plan(folder, "--latency-rule", "percentile") == 0
    assert read_plan(folder / "plan.json").latency_rule == "percentile"


def test_devices_limit_the_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices = folder / "devices.yaml"
    devices.write_text("devices: [{name: cpu, count: 1, share_step_pct: 20}]\n")

    assert plan(folder, "--devices", devices, "--max-tenants", 1) == 6
    assert "at most 1 may be used" in capsys.readouterr().err
    assert plan(folder, "--devices", devices, "--max-tenants", 1, "--max-devices", 3) == 0
    assert read_plan(folder / "plan.json").share_step_pct == 20

    devices.write_text("devices: [{name: cpu, coefficients: other.json}]\n")
    assert plan(folder, "--devices", devices) == 2
    devices.write_text("devices: [{name: cpu}, {name: gpu}]\n")
    assert plan(folder, "--devices", devices) == 2
    devices.write_text("devices: [{name: cpu, price: 3}]\n")
    assert plan(folder, "--devices", devices) == 2


def test_import_reads_igniters_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(__file__).parents[2] / "plans" / "igniter-published.json"

    assert igprof("import", "igniter-plan", source, "--out", folder / "p.json") == 0
    assert len(read_plan(folder / "p.json").devices[0].tenants) == 3
    capsys.readouterr()
    assert igprof("import", "igniter-plan", source, "--out", folder / "p.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["written"] == str(folder / "p.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("igniter_plan", "x.json"), "did you mean 'igniter-plan'"),
        (("igniter-plan", "none.json"), "no such file"),
        (("igniter-plan", "a.json", "b.json"), "reads one file"),
    ],
)
def test_bad_imports_exit_with_2(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert igprof("import", *arguments, "--out", folder / "p.json") == 2
    assert message in capsys.readouterr().err
