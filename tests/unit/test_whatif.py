"""What a change would do: what is asked, how the plan stands, how much more it takes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.errors import BadInput
from igniter_prof.provisioning.operating import Evaluator
from igniter_prof.provisioning.problem import Choices, DeviceKind
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.provisioning.whatif import (
    LEAST_FACTOR,
    PRECISION,
    Adjustment,
    Question,
    addition,
    asked,
    changed,
    headroom,
    largest_factor,
    of_tenant,
    standing,
    workloads_of,
)
from igniter_prof.records import Plan, PlanDevice, PlanDeviceType, PlanTenant, Workload
from tests.provisioning_fakes import FakePredictor, fake_request_latency


def tenant(name: str, rate_rps: float, **more: object) -> PlanTenant:
    values: dict[str, object] = {"model": "small", "batch_size": 2, "share_pct": 40, "slo_ms": 50}
    return PlanTenant(workload=name, rate_rps=rate_rps, **{**values, **more})  # type: ignore[arg-type]


def plan(*devices: tuple[PlanTenant, ...]) -> Plan:
    return Plan(
        strategy="by hand",
        device_types=(PlanDeviceType(name="gpu"),),
        igprof="0",
        created_at="2026-01-01T00:00:00+00:00",
        devices=tuple(
            PlanDevice(name=f"device-{number}", tenants=tenants)
            for number, tenants in enumerate(devices, start=1)
        ),
    )


def kinds(rule: str = "percentile") -> dict[str, DeviceKind]:
    evaluator = Evaluator(FakePredictor(), rule_of(rule), fake_request_latency)
    choices = {name: Choices((1, 2, 4), (20.0, 40.0)) for name in ("small", "middle", "large")}
    record = PlanDeviceType(name="gpu")
    return {"gpu": DeviceKind(record=record, evaluator=evaluator, choices=choices)}


PAIR = plan((tenant("a", 100), tenant("b", 50, model="middle", slo_ms=60)), (tenant("c-1", 200),))


# --- what is asked --------------------------------------------------------------------------------


def test_an_addition_has_a_model_a_rate_and_an_slo() -> None:
    assert addition("resnet50:200:40") == Workload(
        name="resnet50", model="resnet50", rate_rps=200, slo_ms=40
    )
    assert addition("resnet50:200:40:camera").name == "camera"


@pytest.mark.parametrize("text", ["resnet50", "resnet50:1", "a:x:3", "a:1:-3", "a:1:2:", "a:1:inf"])
def test_an_addition_that_is_none(text: str) -> None:
    with pytest.raises(BadInput):
        addition(text)


def test_a_change_is_a_factor_or_a_value() -> None:
    assert changed("x1.2") == Adjustment(None, factor=1.2)
    assert changed("a=x0.5") == Adjustment("a", factor=0.5)
    assert changed("a=500") == Adjustment("a", value=500)
    assert changed("a=b=500").name == "a=b"


@pytest.mark.parametrize("text", ["1.2", "=5", "a=", "a=x", "x", "x0", "a=-1", "a=nan"])
def test_a_change_that_is_none(text: str) -> None:
    with pytest.raises(BadInput):
        changed(text)


def test_a_plan_says_what_its_workloads_are() -> None:
    split = plan(
        (tenant("w.1", 30, replica_of="w"), tenant("x", 5, anti_affinity="y", memory_mib=9)),
        (tenant("w.2", 30, replica_of="w"),),
    )
    w, x = workloads_of(split)
    assert (w.name, w.rate_rps, w.replicas) == ("w", 60, 2)
    assert (x.anti_affinity, x.memory_mib, x.replicas) == ("y", 9, 1)


def test_what_is_changed_of_the_workloads() -> None:
    question = Question(
        add=(addition("small:10:20:new"),),
        remove=("b",),
        rates=(changed("x2"), changed("a=300"), changed("c=x2")),
        slos=(changed("c-1=30"),),
    )
    found = {each.name: each for each in asked(workloads_of(PAIR), question)}
    assert sorted(found) == ["a", "c-1", "new"]
    # c stands for c-1, and changes follow each other
    assert (found["a"].rate_rps, found["c-1"].rate_rps, found["c-1"].slo_ms) == (300, 800, 30)


@pytest.mark.parametrize(
    "question",
    [
        Question(remove=("nobody",)),
        Question(rates=(changed("nobody=x2"),)),
        Question(slos=(changed("nobody=2"),)),
        Question(add=(addition("small:10:20:a"),)),
        Question(remove=("a", "b", "c")),
    ],
)
def test_what_cannot_be_changed(question: Question) -> None:
    with pytest.raises(BadInput):
        asked(workloads_of(PAIR), question)


# --- as the plan stands ---------------------------------------------------------------------------


def test_a_plan_without_a_change_stands() -> None:
    stands = standing(PAIR, kinds(), workloads_of(PAIR))
    assert [(each.workload, each.why) for each in stands] == [
        ("a", None),
        ("b", None),
        ("c-1", None),
    ]
    assert all(0 < (each.utilisation or 0) < 0.95 for each in stands)


def test_who_misses_says_why() -> None:
    def why(question: Question, *lost: str) -> dict[str, str | None]:
        wanted = asked(workloads_of(PAIR), question)
        return {each.workload: each.why for each in standing(PAIR, kinds(), wanted, lost)}

    assert why(Question(slos=(changed("a=1"),)))["a"] == "its SLO does not hold"
    assert why(Question(rates=(changed("a=x100"),)))["a"] == "its rate is more than it can take"
    assert why(Question(add=(addition("small:1:50:n"),)))["n"] == "it is not placed"
    assert why(Question(), "device-2")["c-1"] == "its device is lost"
    assert "b" not in why(Question(remove=("b",)))


def test_a_neighbour_that_goes_helps() -> None:
    wanted = workloads_of(PAIR)
    beside = {s.workload: s for s in standing(PAIR, kinds(), wanted)}
    alone = {s.workload: s for s in standing(PAIR, kinds(), [w for w in wanted if w.name != "b"])}
    assert (alone["a"].latency_ms or 0) < (beside["a"].latency_ms or 0)
    assert alone["c-1"] == beside["c-1"]


def test_replicas_keep_their_parts_of_a_changed_rate() -> None:
    split = plan((tenant("w.1", 30, replica_of="w"),), (tenant("w.2", 60, replica_of="w"),))
    before = standing(split, kinds(), workloads_of(split))
    after = standing(split, kinds(), asked(workloads_of(split), Question(rates=(changed("x2"),))))
    for was, is_ in zip(before, after, strict=True):
        assert is_.utilisation == pytest.approx(2 * (was.utilisation or 0))


# --- how much more it takes -----------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["percentile", "half-mean", "percentile+0.9"])
def test_headroom_is_where_the_first_rule_breaks(rule: str) -> None:
    room = headroom(PAIR, kinds(rule))
    assert room.all_rates is not None
    assert room.all_rates == min(factor or 0 for factor in room.by_workload.values())
    assert room.by_workload[room.least] == room.all_rates

    def missing(factor: float) -> list[str]:
        wanted = asked(workloads_of(PAIR), Question(rates=(Adjustment(None, factor=factor),)))
        stands = standing(PAIR, kinds(rule), wanted)
        return [each.workload for each in stands if each.why is not None]

    assert missing(room.all_rates) == []
    assert missing(room.all_rates * PRECISION * 1.0001) == [room.least]


def test_headroom_of_replicas_is_that_of_the_worst() -> None:
    split = plan((tenant("w.1", 30, replica_of="w"),), (tenant("w.2", 60, replica_of="w"),))
    by_itself = plan((tenant("w.2", 60),))
    assert headroom(split, kinds()).by_workload == {
        "w": headroom(by_itself, kinds()).by_workload["w.2"]
    }


def test_headroom_is_below_one_where_a_plan_misses() -> None:
    def stands(slo_ms: float) -> Plan:
        return plan((tenant("a", 100, slo_ms=slo_ms),))

    (now,) = standing(stands(50), kinds(), workloads_of(stands(50)))
    late = headroom(stands(0.98 * (now.latency_ms or 0)), kinds())
    assert 0.1 < (late.all_rates or 0) < 1
    assert headroom(stands(0.1), kinds()).all_rates is None


@given(st.floats(2e-3, 50), st.floats(0.1, 100))
@settings(max_examples=200)
def test_the_largest_factor_is_found(limit: float, most: float) -> None:
    found = largest_factor(lambda factor: factor <= limit, most)
    best = min(limit, most)
    assert found is not None
    assert found <= best * (1 + 1e-12)
    assert best / found <= PRECISION + 1e-9


def test_no_factor() -> None:
    assert largest_factor(lambda _: False, 5) is None
    assert largest_factor(lambda factor: factor <= LEAST_FACTOR, 5) == pytest.approx(
        LEAST_FACTOR, rel=1e-3
    )


def test_a_tenant_as_a_workload_of_its_own() -> None:
    bursty = tenant("a", 1, arrival="bursty", burstiness=4, percentile=95)
    each = of_tenant(bursty)
    assert (each.arrival, each.burstiness, each.percentile) == ("bursty", 4, 95)
    assert (each.name, each.rate_rps, each.replicas) == ("a", 1, 1)
