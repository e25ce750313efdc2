"""The check of plans that are built by hand: sound ones pass, and every broken promise is found."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from igniter_prof.config.workloads import workloads_digest
from igniter_prof.errors import BadInput
from igniter_prof.provisioning import check_plan
from igniter_prof.provisioning.operating import Evaluator, Setting
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import (
    Objective,
    Plan,
    PlanDevice,
    PlanDeviceType,
    PlanTenant,
    Workload,
)
from tests.provisioning_fakes import FakePower, FakePredictor, fake_request_latency

FAST = FakePredictor(power=FakePower(idle_w=40.0, held_w=400.0), memory=True)
PLAIN = FakePredictor(power=FakePower(idle_w=20.0), memory=True, interference=2.0)
PREDICTORS = {"fast": FAST, "plain": PLAIN}
HASHES = {"fast": "c" * 64, "plain": "e" * 64}

TYPES = (
    PlanDeviceType(
        name="fast",
        coefficients_hash=HASHES["fast"],
        share_step_pct=5,
        max_tenants=3,
        count=2,
        price_per_hour=3.0,
        memory_mib=4000,
        power_limit_w=300,
    ),
    PlanDeviceType(
        name="plain",
        coefficients_hash=HASHES["plain"],
        share_step_pct=10,
        max_tenants=2,
        price_per_hour=1.0,
    ),
)
A = Workload(name="a", model="small", rate_rps=500, slo_ms=20, count=2, anti_affinity="a")
B = Workload(
    name="b", model="middle", rate_rps=400, slo_ms=60, max_replicas=3, devices=("fast", "plain")
)
C = Workload(
    name="c", model="large", rate_rps=50, slo_ms=80, arrival="bursty", burstiness=2, memory_mib=900
)
LOW = Workload(name="low", model="large", rate_rps=5000, slo_ms=80, priority=1)
WORKLOADS = (A, B, C, LOW)

Placed = tuple[Workload, str, str | None, Setting]


def placed(workload: Workload, setting: Setting, name: str, parts: int = 1) -> Placed:
    """A workload, or one of several parts of it, under the name of its tenant."""
    part = workload.model_copy(update={"rate_rps": workload.rate_rps / parts})
    return part, name, workload.name if parts > 1 else None, setting


def device_of(
    name: str, kind: str, tenants: Sequence[Placed], rule: str, predictor: FakePredictor
) -> PlanDevice:
    """A device that states what the predictor says."""
    evaluator = Evaluator(predictor, rule_of(rule), fake_request_latency)
    asked = [workload for workload, *_ in tenants]
    chosen = [setting for *_, setting in tenants]
    promised = evaluator.promised(asked, chosen)
    return PlanDevice(
        name=name,
        type=kind,
        tenants=tuple(
            PlanTenant(
                workload=own_name,
                replica_of=whole,
                predicted=prediction,
                batch_size=setting.batch_size,
                share_pct=setting.share_pct,
                **workload.model_dump(
                    include={
                        "model",
                        "rate_rps",
                        "slo_ms",
                        "percentile",
                        "arrival",
                        "burstiness",
                        "memory_mib",
                        "anti_affinity",
                        "devices",
                    }
                ),
            )
            for (workload, own_name, whole, setting), prediction in zip(
                tenants, promised, strict=True
            )
        ),
        power_w=evaluator.power_w(asked, chosen),
        memory_mib=evaluator.memory_mib(asked, chosen),
    )


DEVICES = (
    device_of(
        "device-1",
        "fast",
        [placed(A, Setting(4, 30), "a-1"), placed(B, Setting(4, 50), "b.1", 2)],
        "percentile",
        FAST,
    ),
    device_of(
        "device-2",
        "fast",
        [placed(A, Setting(4, 30), "a-2"), placed(B, Setting(4, 50), "b.2", 2)],
        "percentile",
        FAST,
    ),
    device_of("device-3", "plain", [placed(C, Setting(2, 60), "c")], "percentile", PLAIN),
)


def cost_of(devices: Sequence[PlanDevice], objective: Objective) -> float:
    prices = {"fast": 3.0, "plain": 1.0}
    return sum(
        objective.devices
        + objective.price * prices[device.type or "fast"]
        + objective.power * (device.power_w or 0)
        for device in devices
    )


MADE = Plan(
    strategy="optimal",
    device_types=TYPES,
    workloads_hash=workloads_digest(WORKLOADS),
    igprof="0",
    created_at="2026-01-01T00:00:00+00:00",
    latency_rule="percentile",
    objective=Objective(devices=0.5, price=1, power=0.01),
    cost=cost_of(DEVICES, Objective(devices=0.5, price=1, power=0.01)),
    bound=4.0,
    devices=DEVICES,
    left_out=("low",),
)


def findings(
    plan: Plan,
    workloads: Sequence[Workload] | None = WORKLOADS,
    hashes: Mapping[str, str] = HASHES,
) -> list[str]:
    return check_plan(
        plan,
        PREDICTORS,
        workloads,
        coefficients_hashes=hashes,
        request_latency=fake_request_latency,
        bound=False,
    )


def with_device(index: int, update: dict[str, Any], made: Plan = MADE) -> Plan:
    devices = list(made.devices)
    devices[index] = devices[index].model_copy(update=update)
    return made.model_copy(update={"devices": tuple(devices)})


def with_tenant(change: Callable[[PlanTenant], dict[str, Any]], device: int = 0) -> Plan:
    """The plan with the first tenant of a device changed."""
    first, *others = MADE.devices[device].tenants
    return with_device(device, {"tenants": (first.model_copy(update=change(first)), *others)})


def with_type(index: int, update: dict[str, Any]) -> Plan:
    types = list(MADE.device_types)
    types[index] = types[index].model_copy(update=update)
    return MADE.model_copy(update={"device_types": tuple(types)})


def only(found: list[str], finding: str) -> None:
    """There is one finding, and it is this."""
    assert len(found) == 1, found
    assert re.search(finding, found[0]), found


def test_a_sound_plan_has_no_findings() -> None:
    assert findings(MADE) == []
    assert findings(MADE, workloads=None) == []


def test_a_plan_survives_its_file() -> None:
    assert findings(Plan.model_validate_json(MADE.model_dump_json())) == []


def test_what_was_derived_is_told_with_its_seconds() -> None:
    told: list[str] = []

    def tell(what: str, seconds: float) -> None:
        assert seconds >= 0
        told.append(what)

    check_plan(MADE, PREDICTORS, request_latency=fake_request_latency, bound=False, told=tell)
    assert told == ["constraints", "objective"]


def test_one_predictor_does_for_a_plan_of_one_type() -> None:
    one = MADE.model_copy(
        update={
            "device_types": TYPES[:1],
            "devices": tuple(d.model_copy(update={"type": None}) for d in DEVICES[:2]),
            "cost": cost_of(DEVICES[:2], MADE.objective),
            "left_out": (),
            "bound": None,
        }
    )
    latency = fake_request_latency
    same, other = "c" * 64, "d" * 64
    assert check_plan(one, FAST, coefficients_hashes=same, request_latency=latency) == []
    only(
        check_plan(one, FAST, coefficients_hashes=other, request_latency=latency),
        r"made from other coefficients \(cccccccccccc… in the plan, dddddddddddd… given\)",
    )


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda t: {"share_pct": 100.0}, "shares add up to"),
        (lambda t: {"share_pct": t.share_pct - 1}, "no multiple of 5%"),
        (lambda t: {"share_pct": 5.0}, "SLO does not hold|queue grows"),
        (lambda t: {"batch_size": 2}, "latency_ms is stated as"),
        (lambda t: {"rate_rps": t.rate_rps * 20}, "of its throughput, at most 95%"),
        (lambda t: {"rate_rps": t.rate_rps + 1}, "'a-1': rate_rps is 501, asked was 500"),
        (lambda t: {"slo_ms": 1.0}, "SLO does not hold: .* is predicted, 1 ms is the limit"),
        (lambda t: {"percentile": 50.0}, "percentile is 50.0, asked was 99.0"),
        (lambda t: {"arrival": "constant"}, "arrival is constant, asked was poisson"),
        (lambda t: {"arrival": "bursty"}, "arrival bursty and burstiness do not go together"),
        (lambda t: {"anti_affinity": None}, "anti_affinity is None, asked was a"),
        (lambda t: {"memory_mib": 1.0}, "memory_mib is 1.0, asked was None"),
        (lambda t: {"model": "middle"}, "model is middle, asked was"),
        (lambda t: {"devices": ("x", "y")}, "'a-1': is on type 'fast', allowed are x, y"),
        (lambda t: {"model": "other"}, "the coefficients know no model 'other'"),
        (lambda t: {"workload": "a-2"}, "'a-2' is placed 2 times"),
        (lambda t: {"workload": "z"}, "'z' is placed, but nobody asked for it"),
        (lambda t: {"workload": "z"}, "'a-1' is not placed"),
        (lambda t: {"replica_of": "b"}, "device-1: 2 replicas of 'b' share it"),
        (lambda t: {"replica_of": "b"}, "'a-1' is not placed"),
        (
            lambda t: {"predicted": t.predicted.model_copy(update={"p95_ms": 1.0})},
            "p95_ms is stated as 1, predicted is",
        ),
        (
            lambda t: {
                "predicted": t.predicted.model_copy(
                    update={"throughput_rps": t.predicted.throughput_rps * (1 + 1e-4)}
                )
            },
            "throughput_rps is stated as",
        ),
        (
            lambda t: {"predicted": t.predicted.model_copy(update={"utilisation": 0.9})},
            "utilisation is stated as 0.9, predicted is",
        ),
        (
            lambda t: {"predicted": t.predicted.model_copy(update={"slo_percentile_high_ms": 9.0})},
            "slo_percentile_high_ms is stated as 9, predicted is",
        ),
        (
            lambda t: {"predicted": t.predicted.model_copy(update={"memory_mib": 9.0})},
            "memory_mib is stated as 9, predicted is 500",
        ),
        (
            lambda t: {"predicted": t.predicted.model_copy(update={"p95_ms": None})},
            "p95_ms is stated as no value, predicted is",
        ),
        (lambda t: {"predicted": None}, "there is no prediction"),
        (lambda t: {"instances": 2}, "nothing can be predicted of 2 instances"),
    ],
)
def test_a_changed_tenant_is_found(
    change: Callable[[PlanTenant], dict[str, Any]], finding: str
) -> None:
    found = findings(with_tenant(change))

    assert any(re.search(finding, each) for each in found), found


@pytest.mark.parametrize(
    ("update", "finding"),
    [
        ({"bound": 99.0}, "no plan costs under 99, this one costs 10\\.2"),
        ({"optimal": True}, "calls its cost of 10\\.2\\S* optimal, but the bound is 4"),
        ({"optimal": True, "bound": None}, "optimal, but none is given"),
        ({"cost": 5.0}, "the cost is stated as 5, its devices cost 10\\.2"),
        ({"cost": None}, "claims a bound, but states no cost"),
        ({"objective": Objective()}, "the cost is stated as 10\\.2.*, its devices cost 3"),
        ({"workloads_hash": "d" * 64}, "made for other workloads"),
        ({"left_out": ()}, "'low' is not placed"),
        ({"left_out": ("low", "c")}, "'c' is left out, and placed"),
        ({"left_out": ("low", "z")}, "'z' is left out, but nobody asked for it"),
    ],
)
def test_a_changed_plan_is_found(update: dict[str, Any], finding: str) -> None:
    only(findings(MADE.model_copy(update=update)), finding)


@pytest.mark.parametrize(
    ("index", "update", "finding"),
    [
        (0, {"coefficients_hash": "d" * 64}, "other coefficients for 'fast'"),
        (0, {"count": 1}, "2 devices of type 'fast' are used, there are 1"),
        (0, {"max_tenants": 1}, "device-1: has 2 tenants, at most 1 may be"),
        (0, {"share_step_pct": 25.0}, "device-1, 'a-1': a share of 30% is no multiple of 25%"),
        (0, {"memory_mib": 900}, "device-1: its tenants need 1000 MiB of memory, it has 900"),
        (0, {"power_limit_w": 60}, r"device-1: draws 70\.5 W in the mean, at most 60 W"),
        (1, {"price_per_hour": 2.0}, "the cost is stated as"),
        (1, {"price_per_hour": None}, "cost cannot be derived: device-3 has no price per hour"),
    ],
)
def test_a_changed_type_is_found(index: int, update: dict[str, Any], finding: str) -> None:
    found = findings(with_type(index, update))

    assert any(re.search(finding, each) for each in found), found


@pytest.mark.parametrize(
    ("index", "update", "finding"),
    [
        (0, {"power_w": 50.0}, "device-1: power_w is stated as 50, predicted is 70"),
        (0, {"memory_mib": 50.0}, "device-1: memory_mib is stated as 50, predicted is 1000"),
        (0, {"name": "device-2"}, "2 devices are named 'device-2'"),
        (2, {"type": "other"}, "the plan has no device type 'other'"),
        (2, {"type": "fast"}, "3 devices of type 'fast' are used, there are 2"),
    ],
)
def test_a_changed_device_is_found(index: int, update: dict[str, Any], finding: str) -> None:
    found = findings(with_device(index, update))

    assert any(re.search(finding, each) for each in found), found


def asked_for(workload: Workload, update: dict[str, Any]) -> list[Workload]:
    changed = workload.model_copy(update=update)
    return [changed if each is workload else each for each in WORKLOADS]


@pytest.mark.parametrize(
    ("workload", "update", "finding"),
    [
        (B, {"replicas": 3}, "'b' has 2 replicas, asked were 3"),
        (B, {"max_replicas": None}, "'b' has 2 replicas, asked were 1"),
        (C, {"replicas": 2, "max_replicas": 4}, "'c' has 1 replicas, asked were 2 to 4"),
        (B, {"rate_rps": 500}, "'b': rate_rps is 400, asked was 500"),
        (C, {"devices": ("fast",)}, r"'c': devices is \(\), asked was \('fast',\)"),
        (C, {"burstiness": 3}, "'c': burstiness is 2.0, asked was 3"),
        (LOW, {"priority": None}, "'low' is left out, but has no priority"),
    ],
)
def test_what_was_asked_otherwise_is_found(
    workload: Workload, update: dict[str, Any], finding: str
) -> None:
    asked = asked_for(workload, update)
    plan = MADE.model_copy(update={"workloads_hash": workloads_digest(asked)})

    only(findings(plan, asked), finding)


def test_two_of_one_label_on_a_device_are_found() -> None:
    both = (*DEVICES[0].tenants, DEVICES[1].tenants[0])
    found = findings(with_device(0, {"tenants": both}))

    assert "device-1: 2 tenants have the anti-affinity label 'a'" in found


def test_a_workload_both_whole_and_in_parts_is_found() -> None:
    tenants = (DEVICES[0].tenants[0], DEVICES[0].tenants[1].model_copy(update={"replica_of": None}))
    renamed = (tenants[0], tenants[1].model_copy(update={"workload": "b"}))
    found = findings(with_device(0, {"tenants": renamed}))

    only(found, "'b' is placed both whole and as replicas")


def test_the_power_of_nobody_is_known_without_a_profile_of_it() -> None:
    silent = {"fast": FakePredictor(memory=True), "plain": PLAIN}
    found = check_plan(MADE, silent, request_latency=fake_request_latency, bound=False)

    assert "device-1: its power is not known, so neither that its limit holds" in found
    assert any("nothing is known of the power of device-1" in each for each in found)


def test_a_lost_device_is_found() -> None:
    lost = MADE.model_copy(update={"devices": MADE.devices[1:]})

    assert "workload 'a-1' is not placed" in findings(lost)
    assert any("the cost is stated as" in each for each in findings(lost))


def test_an_imported_plan_may_lack_predictions() -> None:
    bare = with_tenant(lambda t: {"predicted": None})

    assert findings(bare) != []
    assert findings(bare.model_copy(update={"strategy": "import:igniter"})) == []


def test_a_device_bound_is_rounded_up() -> None:
    plain = MADE.model_copy(update={"objective": Objective(), "cost": 3.0, "optimal": True})

    assert findings(plain.model_copy(update={"bound": 2.2})) == []
    only(findings(plain.model_copy(update={"bound": 1.9})), "optimal, but the bound is 1.9")


def test_a_margin_is_checked_at_its_own_confidence() -> None:
    # the upper end of a 90% interval is 10% above the mean; of a higher confidence it is further
    def holding(rule: str, slo_ms: float) -> bool:
        workload = Workload(name="w", model="small", rate_rps=100, slo_ms=slo_ms)
        device = device_of("d", "fast", [placed(workload, Setting(1, 50), "w")], rule, FAST)
        plan = Plan(
            strategy="optimal", igprof="0", created_at="", latency_rule=rule, devices=(device,)
        )
        alone = plan.model_copy(update={"devices": (device.model_copy(update={"type": None}),)})
        return not check_plan(alone, FAST, request_latency=fake_request_latency)

    evaluator = Evaluator(FAST, rule_of("half-mean"), fake_request_latency)
    workload = Workload(name="w", model="small", rate_rps=100, slo_ms=9)
    (mean,) = evaluator.judge([workload], [Setting(1, 50)])
    assert mean.latency_ms == pytest.approx(1.0)
    assert holding("half-mean", 2.0)
    assert not holding("half-mean+0.9", 2.19)
    assert holding("half-mean+0.9", 2.21)
    # 1.1 ** (z(0.975) / z(0.95)) = 1.1203
    assert not holding("half-mean+0.95", 2.23)
    assert holding("half-mean+0.95", 2.25)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2),
    st.sampled_from(["latency_ms", "throughput_rps", "p99_ms", "slo_percentile_low_ms"]),
    st.floats(1e-5, 10),
    st.booleans(),
)
def test_no_changed_prediction_slips_through(
    device: int, field: str, by: float, down: bool
) -> None:
    def change(tenant: PlanTenant) -> dict[str, Any]:
        assert tenant.predicted is not None
        value = getattr(tenant.predicted, field)
        value = value / (1 + by) if down else value * (1 + by)
        return {"predicted": tenant.predicted.model_copy(update={field: value})}

    only(findings(with_tenant(change, device)), f"{field} is stated as")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("slo_ms",), math.inf),
        (("rate_rps",), math.nan),
        (("batch_size",), 2000),
        (("instances",), 65),
        (("predicted", "latency_ms"), math.inf),
        (("predicted", "throughput_rps"), 0.0),
        (("predicted", "p99_ms"), math.nan),
    ],
)
def test_a_plan_with_impossible_numbers_is_no_plan(place: tuple[str, ...], value: float) -> None:
    document = MADE.model_dump(mode="json")
    inner = document["devices"][0]["tenants"][0]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value

    with pytest.raises(ValidationError, match=place[-1]):
        Plan.model_validate(document)


@pytest.mark.parametrize("update", [{"devices": []}, {"bound": math.nan}, {"cost": math.inf}])
def test_an_impossible_plan_is_no_plan(update: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(update))):
        Plan.model_validate({**MADE.model_dump(mode="json"), **update})


def test_numbers_within_rounding_are_equal() -> None:
    def rounded(tenant: PlanTenant) -> dict[str, Any]:
        assert tenant.predicted is not None
        value = tenant.predicted.latency_ms * (1 + 1e-8)
        return {"predicted": tenant.predicted.model_copy(update={"latency_ms": value})}

    assert findings(with_tenant(rounded)) == []


def test_an_unknown_rule_is_bad_input() -> None:
    with pytest.raises(BadInput, match="unknown latency rule"):
        findings(MADE.model_copy(update={"latency_rule": "best-effort"}))


def test_a_type_without_a_predictor_is_bad_input() -> None:
    with pytest.raises(BadInput, match="no coefficients for the device type 'plain'"):
        check_plan(MADE, {"fast": FAST})


def test_power_is_idle_and_what_each_tenant_adds_while_it_is_busy() -> None:
    evaluator = Evaluator(FAST, rule_of("percentile"), fake_request_latency)
    workload = Workload(name="w", model="small", rate_rps=250, slo_ms=20)
    half = Setting(1, 50)
    # 0.5 ms / 50% = 1 ms a batch: busy for a quarter of the time, at 100 W x 50%
    assert evaluator.power_w([workload], [half]) == pytest.approx(40 + 50 / 4)
    # beside the other 1 ms becomes 1.0516 ms
    slower = 1 + 0.1 * 0.5 * (1 + 1 / 32)
    both = evaluator.power_w([workload, workload], [half, half])
    assert both == pytest.approx(40 + 2 * 50 / 4 * slower)
    assert evaluator.power_w([workload.model_copy(update={"rate_rps": 1e6})], [half]) == 90
    limited = FakePredictor(power=FakePower(idle_w=40, held_w=60))
    held = Evaluator(limited, rule_of("percentile"), fake_request_latency)
    assert held.power_w([workload, workload], [half, half]) == pytest.approx(40 + 2 * 5 * slower)


@pytest.mark.parametrize(
    ("rule", "rate_rps", "stated"),
    [("percentile", 985, True), ("half-mean", 955, False), ("half-mean", 945, True)],
)
def test_a_rule_without_percentiles_states_none_of_tenants_that_are_busy_all_the_time(
    rule: str, rate_rps: float, stated: bool
) -> None:
    evaluator = Evaluator(FAST, rule_of(rule), fake_request_latency)
    # batches of one in 1 ms
    workload = Workload(name="w", model="small", rate_rps=rate_rps, slo_ms=20)
    (promise,) = evaluator.promised([workload], [Setting(1, 50)])

    assert promise.utilisation == pytest.approx(rate_rps / 1000)
    values = (promise.p50_ms, promise.p95_ms, promise.p99_ms, promise.slo_percentile_ms)
    assert [value is not None for value in values] == [stated] * 4
    assert (promise.slo_percentile_low_ms is not None) == (rule == "percentile")


def test_memory_is_as_the_user_said_else_as_predicted() -> None:
    evaluator = Evaluator(FAST, rule_of("percentile"), fake_request_latency)
    workload = Workload(name="w", model="small", rate_rps=250, slo_ms=20)
    said = workload.model_copy(update={"memory_mib": 7})
    two = [Setting(1, 50), Setting(3, 50)]
    assert evaluator.memory_mib([workload, said], two) == 207
    assert evaluator.memory_mib([said, workload], two) == 407
    unknown = Evaluator(FakePredictor(), rule_of("percentile"), fake_request_latency)
    assert unknown.memory_mib([said, workload], two) == 7
    assert unknown.memory_mib([workload, workload], two) is None
