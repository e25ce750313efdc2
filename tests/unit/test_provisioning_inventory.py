"""Objectives as text, and device types with their coefficients."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igniter_prof.config.device_types import load_device_types
from igniter_prof.errors import BadInput
from igniter_prof.fitting.physics.equations import PER_MODEL, SHARED
from igniter_prof.provisioning import read_plan, read_workloads
from igniter_prof.provisioning.assignment_check import (
    asked_findings,
    claims_findings,
    cost_findings,
    counts_findings,
    device_findings,
    names_findings,
    type_name,
    types_of,
)
from igniter_prof.provisioning.inventory import (
    coefficients_of,
    kinds_of,
    load_inventory,
    refuse_unknown_types,
)
from igniter_prof.provisioning.objectives import (
    cost_text,
    objective_text,
    parse_objective,
    refuse_unknown_costs,
)
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
from tests.provisioning_fakes import FakePower, FakePredictor


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("devices", Objective()),
        ("price", Objective(devices=0, price=1)),
        ("power", Objective(devices=0, power=1)),
        ("price+0.01*power", Objective(devices=0, price=1, power=0.01)),
        (" 2 * devices + 0*price ", Objective(devices=2)),
        ("1e-3*power+devices", Objective(power=0.001)),
    ],
)
def test_an_objective_is_a_sum_of_terms(text: str, objective: Objective) -> None:
    assert parse_objective(text) == objective


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prize", "there is no 'prize' to minimise\n  did you mean 'price'"),
        ("", "there is no '' to minimise"),
        ("price+", "there is no '' to minimise"),
        ("power*0.01", r"write 0.01\*power"),
        ("price+price", "price stands there twice"),
        ("x*price", "the weight 'x' is no number"),
        ("*price", "the weight '' is no number"),
        ("-1*price", "must be 0 or more"),
        ("nan*price", "must be 0 or more"),
        ("inf*price", "must be 0 or more"),
        ("0*price", "every plan would cost 0"),
    ],
)
def test_what_is_no_objective_is_bad_input(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_objective(text)


@given(st.tuples(*[st.sampled_from([0.0, 1.0, 0.01, 2.5, 1e-7])] * 3).filter(any))
def test_an_objective_survives_its_text(weights: tuple[float, float, float]) -> None:
    objective = Objective(devices=weights[0], price=weights[1], power=weights[2])

    assert parse_objective(objective_text(objective)) == objective


def test_a_cost_has_a_unit_where_it_has_one() -> None:
    assert cost_text(Objective(), 1) == "1 device"
    assert cost_text(Objective(), 12) == "12 devices"
    assert cost_text(parse_objective("price"), 31.25) == "31.25 per hour"
    assert cost_text(parse_objective("power"), 812.4) == "812.4 W"
    assert cost_text(parse_objective("price+0.01*power"), 4) == "4 (price+0.01*power)"


def test_prices_and_power_that_nobody_knows_are_refused() -> None:
    priced = PlanDeviceType(name="a", price_per_hour=1)
    limited = PlanDeviceType(name="b", power_limit_w=100)
    silent = dict.fromkeys("ab", FakePredictor())
    telling = dict.fromkeys("ab", FakePredictor(power=FakePower()))

    refuse_unknown_costs(Objective(), [priced, limited], telling)
    refuse_unknown_costs(parse_objective("price"), [priced], silent)
    with pytest.raises(BadInput, match=r"f: device type 'b' has no price_per_hour") as caught:
        refuse_unknown_costs(parse_objective("price"), [priced, limited], telling, "f")
    assert caught.value.exit_status == 2
    with pytest.raises(BadInput, match=r"'a': its coefficients say nothing of power, .* objective"):
        refuse_unknown_costs(parse_objective("power"), [priced], silent)
    with pytest.raises(BadInput, match=r"'b': .* which its power_limit_w needs"):
        refuse_unknown_costs(Objective(), [limited], silent)


def coefficients(path: Path, seed: int, *models: str, device: str = "a board") -> Coefficients:
    fitted = Coefficients(
        model="igniter",
        device=Device(id="cuda:GPU-made-up", kind="cuda", name=device, memory_mib=16000),
        profile_hash="p" * 64,
        igprof="0",
        created_at="2026-01-01T00:00:00+00:00",
        seed=seed,
        shared={name: Parameter(value=value) for name, value in SHARED.items()},
        models={
            name: {
                key: Parameter(value=value)
                for key, value in {**PER_MODEL, "k2_ms": 1.0, "k5_ms": 0.5}.items()
            }
            for name in models
        },
        region={name: {"batch_size": (1, 4), "share_pct": (25, 100)} for name in models},
    )
    path.write_text(fitted.model_dump_json())
    return fitted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    coefficients(tmp_path / "v100.json", 1, "small", "large", device="Tesla V100 =x")
    (tmp_path / "own").mkdir()
    coefficients(tmp_path / "own" / "t4.json", 2, "small")
    return tmp_path


def devices(folder: Path, *lines: str) -> Path:
    path = folder / "devices.yaml"
    path.write_text("devices:\n" + "".join(f"  - {line}\n" for line in lines))
    return path


BOTH = (
    "{name: v100, count: 3, share_step_pct: 2.5, max_tenants: 8, price_per_hour: 2.5}",
    "{name: t4, coefficients: own/t4.json, power_limit_w: 70, memory_mib: 8000}",
)


def test_without_a_file_there_is_one_type_named_as_the_board(folder: Path) -> None:
    found = load_inventory(folder / "v100.json", max_devices=7, extrapolate=True)

    (record,) = found.records
    assert record.name == "Tesla-V100-x"
    assert (record.share_step_pct, record.max_tenants, record.count) == (5, 4, 7)
    assert record.extrapolate
    assert record.coefficients == str(folder / "v100.json")
    assert record.coefficients_hash == found.coefficients["Tesla-V100-x"].digest()
    assert record.device == found.coefficients["Tesla-V100-x"].device


def test_each_type_has_its_own_coefficients_and_limits(folder: Path) -> None:
    found = load_inventory(folder / "v100.json", devices(folder, *BOTH))

    v100, t4 = found.records
    assert (v100.share_step_pct, v100.max_tenants, v100.count) == (2.5, 8, 3)
    assert (v100.price_per_hour, v100.power_limit_w, v100.memory_mib) == (2.5, None, None)
    assert (t4.share_step_pct, t4.max_tenants, t4.count) == (5, 4, None)
    assert (t4.price_per_hour, t4.power_limit_w, t4.memory_mib) == (None, 70, 8000)
    assert (v100.coefficients, t4.coefficients) == (str(folder / "v100.json"), "own/t4.json")
    assert [found.coefficients[each.name].seed for each in (v100, t4)] == [1, 2]
    assert len(found.files) == 2


def test_what_the_command_line_says_holds_for_all_types(folder: Path) -> None:
    given = load_inventory(
        folder / "v100.json", devices(folder, *BOTH), share_step_pct=10, max_tenants=2
    )
    assert [(each.share_step_pct, each.max_tenants) for each in given.records] == [(10, 2)] * 2
    one = load_inventory(folder / "v100.json", devices(folder, BOTH[0]), max_devices=9)
    assert one.records[0].count == 9


def test_a_limit_of_devices_is_for_one_type(folder: Path) -> None:
    with pytest.raises(BadInput, match="limits one device type, there are 2") as caught:
        load_inventory(folder / "v100.json", devices(folder, *BOTH), max_devices=9)
    assert caught.value.hint is not None
    assert "count:" in caught.value.hint


def test_coefficients_that_no_type_uses_are_refused(folder: Path) -> None:
    only_t4 = devices(folder, BOTH[1])

    with pytest.raises(BadInput, match=r"no device type has the coefficients .*v100.json"):
        load_inventory(folder / "v100.json", only_t4)
    found = load_inventory(folder / "own" / ".." / "own" / "t4.json", only_t4)
    assert found.coefficients["t4"].seed == 2


def test_a_missing_file_of_a_type_is_named(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"none.json"):
        load_inventory(
            folder / "v100.json", devices(folder, "{name: a, coefficients: none.json}", BOTH[0])
        )


def test_a_workload_on_a_type_that_there_is_not_is_refused() -> None:
    workload = Workload(name="w", model="m", rate_rps=1, slo_ms=1, devices=("t4", "v10"))
    known = [PlanDeviceType(name="t4"), PlanDeviceType(name="v100")]

    refuse_unknown_types([workload.model_copy(update={"devices": ("t4",)})], known)
    with pytest.raises(
        BadInput, match="workload 'w': there is no device type 'v10', but t4, v100"
    ) as caught:
        refuse_unknown_types([workload], known)
    assert caught.value.hint == "did you mean 'v100'?"


def test_kinds_know_the_models_that_their_coefficients_know(folder: Path) -> None:
    inventory = load_inventory(
        folder / "v100.json", devices(folder, *BOTH[:1], "{name: t4, coefficients: own/t4.json}")
    )
    workloads = [
        Workload(name="a", model="small", rate_rps=1, slo_ms=100),
        Workload(name="b", model="large", rate_rps=1, slo_ms=100),
    ]

    kinds, notes = kinds_of(inventory, workloads, rule_of("percentile"))

    assert [sorted(kind.choices) for kind in kinds] == [["large", "small"], ["small"]]
    assert kinds[0].choices["small"].shares_pct[1] == 27.5
    assert any(each.startswith("t4: no share below 25%") for each in notes)
    with pytest.raises(BadInput, match="know no model 'other'"):
        kinds_of(
            inventory, [workloads[0].model_copy(update={"model": "other"})], rule_of("percentile")
        )
    with pytest.raises(BadInput, match="has no price_per_hour"):
        kinds_of(inventory, workloads, rule_of("percentile"), parse_objective("price"))


def plan_of(*types: PlanDeviceType) -> Plan:
    tenant = PlanTenant(
        workload="w", model="small", batch_size=1, share_pct=50, rate_rps=1, slo_ms=9
    )
    return Plan(
        strategy="optimal",
        igprof="0",
        created_at="",
        device_types=types,
        devices=(PlanDevice(name="d", tenants=(tenant,)),),
    )


def test_a_check_finds_coefficients_by_their_hash(folder: Path) -> None:
    # the file has another name, and the types too
    (folder / "own" / "t4.json").rename(folder / "renamed.json")
    made = load_inventory(folder / "v100.json").coefficients
    v100 = next(iter(made.values()))
    t4 = next(iter(load_inventory(folder / "renamed.json").coefficients.values()))
    plan = plan_of(
        PlanDeviceType(name="x", coefficients_hash=t4.digest()),
        PlanDeviceType(name="y", coefficients_hash=v100.digest()),
    )
    file = devices(folder, "{name: a, coefficients: renamed.json}")

    found = coefficients_of(plan, folder / "v100.json", file)

    assert {name: each.seed for name, each in found.items()} == {"x": 2, "y": 1}
    with pytest.raises(BadInput, match="coefficients of the device type 'x' are not among"):
        coefficients_of(plan, folder / "v100.json")


def test_a_check_with_other_coefficients_takes_those_of_the_same_name(folder: Path) -> None:
    plan = plan_of(
        PlanDeviceType(name="v100", coefficients_hash="0" * 64),
        PlanDeviceType(name="t4", coefficients_hash="1" * 64),
    )

    found = coefficients_of(plan, folder / "v100.json", devices(folder, *BOTH))

    assert {name: each.seed for name, each in found.items()} == {"v100": 1, "t4": 2}


def test_a_plan_of_one_type_or_none_is_checked_with_what_is_given(folder: Path) -> None:
    one = plan_of(PlanDeviceType(name="gpu", coefficients_hash="0" * 64))

    assert coefficients_of(one, folder / "v100.json")["gpu"].seed == 1
    assert [each.seed for each in coefficients_of(plan_of(), folder / "v100.json").values()] == [1]


PLANS = Path(__file__).parents[2] / "plans"


@pytest.mark.parametrize("name", ["workloads.plan.json", "priced.plan.json"])
def test_the_example_plans_place_the_example_workloads(name: str) -> None:
    plan, workloads = read_plan(PLANS / name), read_workloads(PLANS / "workloads.yaml")
    types = types_of(plan)

    assert asked_findings(plan, workloads) == []
    assert names_findings(plan) + counts_findings(plan) + claims_findings(plan) == []
    assert cost_findings(plan, {device.name: device.power_w for device in plan.devices}) == []
    for device in plan.devices:
        assert device_findings(device, types[type_name(plan, device)]) == []
        for tenant in device.tenants:
            assert tenant.predicted is not None
            assert tenant.predicted.slo_percentile_ms is not None
            assert tenant.predicted.slo_percentile_ms <= tenant.slo_ms


def test_the_example_device_types_are_those_of_the_priced_plan() -> None:
    plan, types = read_plan(PLANS / "priced.plan.json"), load_device_types(PLANS / "devices.yaml")

    stated = [(each.name, each.count, each.price_per_hour) for each in plan.device_types]
    assert stated == [(each.name, each.count, each.price_per_hour) for each in types]
