"""The verbs, with real coefficients and the project's own queueing estimate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.cli import main
from igniter_prof.config.workloads import read_workloads, workloads_digest
from igniter_prof.fitting import load_coefficients, predictor
from igniter_prof.fitting.physics.equations import PER_MODEL, SHARED
from igniter_prof.fitting.queueing import request_latency
from igniter_prof.provisioning import read_plan
from igniter_prof.provisioning.operating import Evaluator, Setting
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import (
    Coefficients,
    Device,
    Objective,
    Parameter,
    Plan,
    PlanDevice,
    PlanDeviceType,
    PlanTenant,
    Workload,
)

WORKLOADS = """
workloads:
  - {name: a, model: small, rate_rps: 60, slo_ms: 80, count: 2}
  - {name: b, model: middle, rate_rps: 20, slo_ms: 150, arrival: constant}
"""


COARSE = ("--share-step", 25, "--latency-rule", "half-mean")
"""A rule and a grid of shares that are quickly searched."""


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


def made_by_hand(folder: Path, **update: Any) -> Plan:
    """A sound plan: the first two workloads share a device, the third has one."""
    fitted = load_coefficients(folder / "coefficients.json")
    evaluator = Evaluator(predictor(fitted), rule_of("percentile"), request_latency)
    workloads = read_workloads(folder / "workloads.yaml")
    a, b = workloads[0].model_copy(update={"count": 1}), workloads[1]

    def device(name: str, tenants: Sequence[tuple[str, Workload]]) -> PlanDevice:
        asked = [workload for _, workload in tenants]
        settings = [Setting(2, 50.0)] * len(asked)
        return PlanDevice(
            name=name,
            tenants=tuple(
                PlanTenant(
                    workload=own,
                    model=workload.model,
                    batch_size=setting.batch_size,
                    share_pct=setting.share_pct,
                    rate_rps=workload.rate_rps,
                    slo_ms=workload.slo_ms,
                    arrival=workload.arrival,
                    predicted=promise,
                )
                for (own, workload), setting, promise in zip(
                    tenants, settings, evaluator.promised(asked, settings), strict=True
                )
            ),
        )

    made = Plan(
        strategy="by hand",
        igprof="0",
        created_at="2026-01-01T00:00:00+00:00",
        latency_rule="percentile",
        device_types=(
            PlanDeviceType(
                name="cpu",
                device=fitted.device,
                coefficients_hash=fitted.digest(),
                share_step_pct=5,
                max_tenants=4,
                price_per_hour=0.5,
            ),
        ),
        workloads_hash=workloads_digest(workloads),
        cost=2.0,
        devices=(device("device-1", [("a-1", a), ("a-2", a)]), device("device-2", [("b", b)])),
    ).model_copy(update=update)
    (folder / "plan.json").write_text(made.model_dump_json())
    return made


def test_a_plan_that_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_by_hand(folder)

    assert check(folder, "--workloads", folder / "workloads.yaml") == 0
    shown = capsys.readouterr()
    assert "derived: constraints (" in shown.err
    assert "derived: objective (" in shown.err
    assert "every promise holds (2 devices, 3 tenants)" in shown.err
    assert shown.out == ""
    assert check(folder, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document.pop("derived_s")) == {"constraints", "objective"}
    assert document == {"plan": str(folder / "plan.json"), "holds": True, "findings": []}


def test_a_bound_that_is_not_derived_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_by_hand(folder, bound=1.0)

    assert check(folder, "--no-bound") == 0
    assert "not derived: the bound" in capsys.readouterr().err


def test_a_broken_promise_exits_with_7(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_by_hand(folder)
    text = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(text.replace('"slo_ms":80.0', '"slo_ms":1.0'))

    assert check(folder) == 7
    assert "SLO does not hold" in capsys.readouterr().err
    assert check(folder, "--json") == 7
    assert json.loads(capsys.readouterr().out)["holds"] is False


def test_of_many_broken_promises_the_first_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = made_by_hand(folder)
    devices = tuple(
        made.devices[1].model_copy(update={"name": f"device-{number}"}) for number in range(30)
    )
    made_by_hand(folder, devices=devices, max_tenants=1)
    broken = read_plan(folder / "plan.json")
    tenants = tuple(
        device.model_copy(
            update={"tenants": (device.tenants[0].model_copy(update={"slo_ms": 1.0}),)}
        )
        for device in broken.devices
    )
    (folder / "plan.json").write_text(
        broken.model_copy(update={"devices": tenants, "cost": None}).model_dump_json()
    )

    assert check(folder) == 7
    assert "and 11 more (--json: all)" in capsys.readouterr().err


def test_other_coefficients_are_a_broken_promise(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_by_hand(folder)
    path = folder / "coefficients.json"
    path.write_text(path.read_text().replace('"seed":0', '"seed":1'))

    assert check(folder) == 7
    assert "made from other coefficients" in capsys.readouterr().err


def test_a_plan_of_two_types_needs_the_coefficients_of_both(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = made_by_hand(folder)
    (cpu,) = made.device_types
    text = (folder / "coefficients.json").read_text()
    (folder / "other.json").write_text(text.replace('"seed":0', '"seed":1'))
    other = load_coefficients(folder / "other.json")
    two = made_by_hand(
        folder,
        device_types=(
            cpu,
            cpu.model_copy(update={"name": "gpu", "coefficients_hash": other.digest()}),
        ),
        devices=(made.devices[0], made.devices[1].model_copy(update={"type": "gpu"})),
    )
    assert two.devices[1].type == "gpu"
    (folder / "devices.yaml").write_text(
        "devices: [{name: cpu}, {name: gpu, coefficients: other.json}]"
    )

    assert check(folder, "--devices", folder / "devices.yaml") == 0
    capsys.readouterr()
    assert check(folder) == 2
    assert "of the device type 'gpu' are not among those given" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["plan.json", "coefficients.json"])
def test_unreadable_files_exit_with_2(folder: Path, broken: str) -> None:
    made_by_hand(folder)
    path = folder / broken
    path.write_text(path.read_text()[:200])

    assert check(folder) == 2
    path.unlink()
    assert check(folder) == 2


@pytest.fixture
def asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the planner is asked; its answer is the plan made by hand."""
    found: dict[str, Any] = {}

    def planner(kinds: Any, workloads: Any, **options: Any) -> Plan:
        found.update(options, kinds=kinds, workloads=workloads)
        return made_by_hand(folder)

    monkeypatch.setattr("igniter_prof.provisioning.plan", planner)
    return found


def test_without_options_the_planner_is_asked_for_the_fewest_devices(
    folder: Path, asked: dict[str, Any]
) -> None:
    assert plan(folder) == 0

    (kind,) = asked["kinds"]
    assert (kind.record.name, kind.record.share_step_pct, kind.record.max_tenants) == (
        "a-CPU",
        5,
        4,
    )
    assert (kind.record.count, kind.record.extrapolate) == (None, False)
    assert kind.choices["small"].shares_pct[0] == 25
    assert [each.name for each in asked["workloads"]] == ["a", "b"]
    assert str(asked["rule"]) == "percentile"
    assert (asked["strategy"], asked["objective"]) == ("optimal", Objective())
    assert (asked["time_limit_s"], asked["gap"], asked["seed"]) == (60, 0, 0)
    assert asked["workloads_hash"] == workloads_digest(asked["workloads"])
    assert any("no share below 25%" in each for each in asked["notes"])


def test_options_reach_the_planner(folder: Path, asked: dict[str, Any]) -> None:
    (folder / "devices.yaml").write_text("devices: [{name: cpu, price_per_hour: 2}]")
    options = ("--share-step", "12.5", "--latency-rule", "half-mean", "--confidence", "0.95")
    more = ("--objective", "price", "--max-tenants", 2, "--max-devices", 9, "--extrapolate")
    last = ("--time-limit", 5, "--gap", "0.01", "--seed", 3, "--strategy", "ffd")
    assert plan(folder, *options, *more, *last, "--devices", folder / "devices.yaml") == 0

    (kind,) = asked["kinds"]
    record = kind.record
    assert (record.name, record.share_step_pct, record.max_tenants) == ("cpu", 12.5, 2)
    assert (record.count, record.extrapolate, record.price_per_hour) == (9, True, 2)
    assert kind.choices["small"].shares_pct[0] == 12.5
    assert str(asked["rule"]) == "half-mean+0.95"
    assert (asked["strategy"], asked["objective"]) == ("ffd", Objective(devices=0, price=1))
    assert (asked["time_limit_s"], asked["gap"], asked["seed"]) == (5, 0.01, 3)


@pytest.mark.parametrize(
    ("defaults", "options", "rule"),
    [
        ("latency_rule: half-mean", (), "half-mean"),
        ("latency_rule: half-mean", ("--latency-rule", "percentile"), "percentile"),
        ("confidence: 0.8", (), "percentile+0.8"),
        ("confidence: 0.8", ("--confidence", "0.9"), "percentile+0.9"),
        ("confidence: 0.8", ("--latency-rule", "half-mean+0.7"), "half-mean+0.7"),
    ],
)
def test_the_rule_of_the_workloads_file_holds_unless_another_is_asked_for(
    folder: Path, asked: dict[str, Any], defaults: str, options: tuple[str, ...], rule: str
) -> None:
    (folder / "workloads.yaml").write_text(f"defaults: {{{defaults}}}\n" + WORKLOADS)

    assert plan(folder, *options) == 0
    assert str(asked["rule"]) == rule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--objective", "prise"), "did you mean 'price'"),
        (("--objective", "price"), "has no price_per_hour"),
        (("--objective", "power"), "say nothing of power"),
        (("--confidence", "1.5"), "a confidence must be between 0 and 1"),
        (("--latency-rule", "mean"), "unknown latency rule 'mean'"),
        (("--max-devices", "0"), "--max-devices"),
        (("--time-limit", "0"), "--time-limit"),
        (("--gap", "-1"), "--gap"),
        (("--margin", "interval"), "No such option"),
    ],
)
def test_bad_options_exit_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert plan(folder, *options) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "plan.json").exists()


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("[{name: cpu, coefficients: other.json}, {name: x}]", "other.json"),
        ("[{name: cpu, price: 3}]", "unknown key 'devices.0.price'"),
        ("[{name: cpu}, {name: cpu}]", "2 device types are named 'cpu'"),
    ],
)
def test_bad_device_types_exit_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], devices: str, message: str
) -> None:
    (folder / "devices.yaml").write_text(f"devices: {devices}\n")

    assert plan(folder, "--devices", folder / "devices.yaml") == 2
    assert message in capsys.readouterr().err


def test_a_workload_on_an_unknown_type_exits_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "workloads.yaml").write_text("defaults: {devices: [gpu]}\n" + WORKLOADS)

    assert plan(folder) == 2
    assert "workload 'a': there is no device type 'gpu', but a-CPU" in capsys.readouterr().err


def shown_of(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    **update: Any,
) -> str:
    """What is printed of the plan made by hand."""
    made = made_by_hand(folder, **update)
    (folder / "plan.json").unlink()
    monkeypatch.setattr("igniter_prof.provisioning.plan", lambda *_, **__: made)
    assert plan(folder) == 0
    return capsys.readouterr().out


def test_the_table_says_what_is_proven(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def title(**update: Any) -> str:
        return shown_of(folder, monkeypatch, capsys, **update).splitlines()[0].strip()

    rest = "strategy by hand, rule percentile"
    assert title() == f"2 devices (no bound), {rest}"
    assert title(bound=2.0, optimal=True) == f"2 devices (no plan has fewer), {rest}"
    least = "at least 1 are needed: gap 100%"
    assert title(bound=1.0, solve_s=1.26) == f"2 devices ({least}), {rest}, 1.3 s"
    price = Objective(devices=0, price=1)
    assert title(objective=price, cost=1.0, bound=0.8) == (
        f"2 devices, cost 1 per hour (at least 0.8 is proven: gap 25%), {rest}"
    )
    assert "(no plan costs less)" in title(objective=price, cost=1.0, bound=1.0, optimal=True)


def test_the_table_names_types_where_there_are_several(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = made_by_hand(folder)
    assert "type" not in shown_of(folder, monkeypatch, capsys)
    shown = shown_of(
        folder,
        monkeypatch,
        capsys,
        device_types=(*made.device_types, PlanDeviceType(name="gpu")),
        devices=(made.devices[0], made.devices[1].model_copy(update={"type": "gpu"})),
    )

    assert "2 devices (1 cpu, 1 gpu) (no bound)" in shown
    (row,) = [line.split() for line in shown.splitlines() if "device-2" in line]
    assert row[:4] == ["device-2", "gpu", "b", "middle"]


def test_many_devices_are_shown_as_groups(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = made_by_hand(folder)
    twins = tuple(
        made.devices[0].model_copy(
            update={
                "name": f"device-{number}",
                "tenants": tuple(
                    tenant.model_copy(update={"workload": f"{tenant.workload}.{number}"})
                    for tenant in made.devices[0].tenants
                ),
            }
        )
        for number in range(1, 50)
    )
    last = made.devices[1].model_copy(update={"name": "device-50"})

    shown = shown_of(folder, monkeypatch, capsys, devices=(*twins, last))

    assert "50 devices" in shown
    assert "device-1 x 49" in shown
    rows = [line for line in shown.splitlines() if "small" in line or "middle" in line]
    assert len(rows) == 3
    assert rows[2].split()[0] == "device-50"


def test_many_groups_are_cut(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = made_by_hand(folder)
    (tenant,) = made.devices[1].tenants
    unlike = tuple(
        PlanDevice(
            name=f"device-{number}",
            tenants=(tenant.model_copy(update={"workload": f"w{number}", "rate_rps": number}),),
        )
        for number in range(1, 101)
    )

    shown = shown_of(folder, monkeypatch, capsys, devices=unlike)

    assert "… 60 more" in shown
    assert len([line for line in shown.splitlines() if "middle" in line]) == 40


def test_what_is_left_out_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left_out = tuple(f"w{number}" for number in range(12))
    made = made_by_hand(folder, left_out=left_out)
    monkeypatch.setattr("igniter_prof.provisioning.plan", lambda *_, **__: made)

    assert plan(folder) == 0
    assert "left out: w0, w1, w2, w3, w4, w5, w6, w7, w8, w9 and 2 more" in capsys.readouterr().err


# --- with the planner ------------------------------------------------------------------------


def test_plan_then_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(folder, *COARSE) == 0
    shown = capsys.readouterr()
    assert "no plan has fewer" in shown.out
    assert "a-1" in shown.out
    assert f"wrote {folder / 'plan.json'}" in shown.err

    made = read_plan(folder / "plan.json")
    fitted = load_coefficients(folder / "coefficients.json")
    (kind,) = made.device_types
    assert kind.coefficients_hash == fitted.digest()
    assert kind.device == fitted.device
    assert check(folder, "--workloads", folder / "workloads.yaml") == 0
    shown = capsys.readouterr()
    assert "derived: bound (" in shown.err
    assert "every promise holds" in shown.err
    # the same made again is other coefficients, but nothing else is broken
    path = folder / "coefficients.json"
    path.write_text(path.read_text().replace('"seed":0', '"seed":1'))
    assert check(folder, "--json") == 7
    document = json.loads(capsys.readouterr().out)
    assert len(document["findings"]) == 1
    assert "bound" in document["derived_s"]


def test_a_bound_that_its_certificate_does_not_prove_is_a_broken_promise(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(folder, *COARSE) == 0
    made = read_plan(folder / "plan.json")
    assert made.certificate is not None
    first, *others = made.certificate.prices

    def with_certificate(**update: Any) -> None:
        changed = made.certificate.model_copy(update=update) if made.certificate else None
        text = made.model_copy(update={"certificate": changed}).model_dump_json()
        (folder / "plan.json").write_text(text)

    dearer = first.model_copy(update={"price": first.price + 10})
    with_certificate(prices=(dearer, *others))
    assert check(folder) == 7
    assert "the bound is not proven" in capsys.readouterr().err
    assert check(folder, "--no-bound") == 0
    free = first.model_copy(update={"price": 0.0})
    with_certificate(prices=(free, *others))
    assert check(folder) == 7
    assert "prices add up to" in capsys.readouterr().err


def test_json_is_the_plan_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(folder, *COARSE, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((folder / "plan.json").read_text())


def test_infeasible_exits_with_6_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = WORKLOADS.replace("slo_ms: 80", "slo_ms: 2")
    (folder / "workloads.yaml").write_text(text)

    assert plan(folder) == 6
    assert "'a-1' and 1 alike (small)" in capsys.readouterr().err
    assert not (folder / "plan.json").exists()


def test_a_device_each(folder: Path) -> None:
    options = ("--share-step", "12.5", "--latency-rule", "half-mean", "--confidence", "0.9")
    assert plan(folder, *options, "--strategy", "alone") == 0

    made = read_plan(folder / "plan.json")
    assert (made.device_types[0].share_step_pct, made.latency_rule) == (12.5, "half-mean+0.9")
    assert (made.strategy, len(made.devices)) == ("alone", 3)


def test_devices_limit_the_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    devices = folder / "devices.yaml"
    devices.write_text("devices: [{name: cpu, count: 1, share_step_pct: 20}]\n")

    assert plan(folder, "--devices", devices, "--max-tenants", 1) == 6
    assert "cpu" in capsys.readouterr().err
    assert plan(folder, "--devices", devices, "--max-tenants", 1, "--max-devices", 3) == 0
    assert read_plan(folder / "plan.json").device_types[0].share_step_pct == 20


def test_the_cheaper_of_two_types_is_taken(folder: Path) -> None:
    devices = folder / "devices.yaml"
    devices.write_text(
        "devices: [{name: dear, price_per_hour: 3}, {name: cheap, price_per_hour: 1, count: 1}]\n"
    )

    options = ("--devices", devices, "--max-tenants", 1, *COARSE)
    assert plan(folder, *options, "--objective", "price") == 0
    made = read_plan(folder / "plan.json")
    assert sorted(device.type or "" for device in made.devices) == ["cheap", "dear", "dear"]
    assert made.cost == pytest.approx(7)
    assert made.bound is not None
    assert check(folder, "--workloads", folder / "workloads.yaml", "--devices", devices) == 0


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
