"""What an infeasible workload is told: why, and that what is said to do does."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.errors import Infeasible
from igniter_prof.provisioning.infeasible import explain, refuse_crowded, refuse_infeasible
from igniter_prof.provisioning.operating import Evaluator, Setting
from igniter_prof.provisioning.planner import plan
from igniter_prof.provisioning.problem import (
    Choices,
    DeviceKind,
    Problem,
    WorkloadClass,
    classes_of,
    share_grid,
)
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import PlanDeviceType, Workload
from tests.provisioning_fakes import MODELS, FakeModel, FakePower, FakePredictor
from tests.provisioning_fakes import fake_request_latency as latency

SLOWER = {
    name: FakeModel(2 * each.fixed_ms, 2 * each.each_ms, each.pressure)
    for name, each in MODELS.items()
}


def kind_of(
    name: str = "gpu",
    *,
    rule: str = "percentile",
    models: dict[str, FakeModel] = MODELS,
    top_pct: float = 100,
    power: FakePower | None = None,
    **record: Any,
) -> DeviceKind:
    shares = tuple(share for share in share_grid(10) if share <= top_pct)
    return DeviceKind(
        record=PlanDeviceType(name=name, share_step_pct=10, **record),
        evaluator=Evaluator(
            FakePredictor(models, memory=True, power=power), rule_of(rule), latency
        ),
        choices={model: Choices((1, 2, 4, 8), shares) for model in models},
    )


def problem_of(workload: Workload, *kinds: DeviceKind, rule: str = "percentile") -> Problem:
    return Problem(
        classes=classes_of([workload]), kinds=kinds or (kind_of(rule=rule),), rule=rule_of(rule)
    )


def told(workload: Workload, *kinds: DeviceKind, rule: str = "percentile") -> str:
    problem = problem_of(workload, *kinds, rule=rule)
    return explain(problem, problem.classes[0])


def feasible(workload: Workload, kind: DeviceKind) -> bool:
    return any(
        kind.evaluator.judge([workload], [Setting(batch, share)])[0].holds
        for batch in kind.choices[workload.model].batch_sizes
        for share in kind.choices[workload.model].shares_pct
    )


TIGHT = Workload(name="tight", model="large", rate_rps=50, slo_ms=3)
FAST = Workload(name="fast", model="large", rate_rps=1500, slo_ms=100)


def test_an_slo_that_no_batch_meets() -> None:
    # (2 + 1.5) ms a batch of one, and its spread: over 3 ms at any rate
    message = told(TIGHT)

    assert message.startswith("'tight' (large): alone on a device its best p99 is")
    assert "over its SLO of 3 ms; an SLO of" in message
    assert "rate" not in message


def test_a_rate_beyond_the_device() -> None:
    # 8 in 14 ms, of which 95% may be used: 542.9 a second
    message = told(FAST)

    assert (
        "'fast' (large): alone on a device it can take 542.9 requests/s, less than its rate of 1500"
    ) in message
    assert "an SLO" not in message
    assert "max_replicas of 4 would do" in message


def test_the_rule_that_takes_half_of_the_slo_names_the_half() -> None:
    message = told(TIGHT, rule="half-mean")

    assert "its best mean latency is 3.5 ms, over its SLO of 3 ms = 1.5 ms of it" in message
    assert "an SLO of 7 ms would do" in message


def test_replicas_are_told_as_parts_of_the_whole() -> None:
    split = FAST.model_copy(update={"max_replicas": 2, "count": 3})
    message = told(split)

    assert message.startswith("'fast-1' and 2 alike (large): split into 2 replicas, each alone")
    assert "it can take 1086 requests/s, less than its rate of 1500" in message
    assert "max_replicas of 4 would do" in message


def test_a_class_of_replicas_is_named_by_its_workload() -> None:
    (split,) = classes_of([FAST.model_copy(update={"count": 3, "replicas": 2})])
    problem = Problem(classes=(split,), kinds=(kind_of(),), rule=rule_of("percentile"))

    assert explain(problem, split).startswith("'fast-1' and 2 alike (large): split into 2 replicas")
    assert "less than its rate of 1500" in explain(problem, split)


def test_the_kind_on_which_the_least_is_missing_is_named() -> None:
    kinds = (kind_of("old", models=SLOWER), kind_of("new"))
    message = told(TIGHT, *kinds)

    assert "alone on a device of type new its best p99 is" in message
    only_old = TIGHT.model_copy(update={"devices": ("old",)})
    assert "of type old its best p99 is" in told(only_old, *kinds)


def test_the_largest_profiled_share_is_named() -> None:
    assert "alone on a device with 50% of it its best p99" in told(TIGHT, kind_of(top_pct=50))


def test_kinds_that_do_not_know_the_model() -> None:
    few = {"small": MODELS["small"]}
    message = told(
        TIGHT.model_copy(update={"devices": ("few",)}), kind_of("few", models=few), kind_of("all")
    )

    assert message == (
        "'tight' (large): it may only be on few, whose coefficients do not know its model; those of"
        " all do"
    )


def test_more_memory_than_any_device_has() -> None:
    kinds = (kind_of("a", memory_mib=500), kind_of("b", memory_mib=800))
    asked = TIGHT.model_copy(update={"memory_mib": 900})

    assert told(asked, *kinds) == (
        "'tight' (large): it needs 900 MiB of device memory as it says, the largest device that it"
        " may be on has 800; memory_mib of 800 or a larger device would do"
    )
    # 100 MiB of weights and 100 an item, in batches of one
    assert "it needs 200 MiB of device memory, the largest" in told(TIGHT, kind_of(memory_mib=150))
    only = asked.model_copy(update={"devices": ("a",)})
    assert "has 500; memory_mib of 500" in told(only, *kinds)


def test_more_power_than_is_allowed() -> None:
    busy = Workload(name="w", model="small", rate_rps=1000, slo_ms=100)

    # idle 50 W; 8 in 1.9 ms are 4211 a second, so it is busy for 24% of the time, at 100 W more
    message = told(busy, kind_of(power=FakePower(), power_limit_w=60))
    assert message == (
        "'w' (small): alone a device draws 73.75 W in the mean, over its power limit of 60 W;"
        " a rate of 420.9 requests/s or max_replicas of 3 would do"
    )
    assert "nothing is known of its power" in told(busy, kind_of(power_limit_w=60))


def test_all_infeasible_workloads_are_named_and_no_other() -> None:
    fine = Workload(name="fine", model="small", rate_rps=10, slo_ms=100)
    problem = Problem(
        classes=classes_of([TIGHT, FAST, fine]), kinds=(kind_of(),), rule=rule_of("percentile")
    )
    refuse_infeasible(problem, lambda index: True)

    def met(index: int) -> bool:
        return problem.classes[index].sample.name == "fine"

    with pytest.raises(Infeasible) as caught:
        refuse_infeasible(problem, met)
    assert "'tight'" in caught.value.what
    assert "'fast'" in caught.value.what
    assert "'fine'" not in caught.value.what
    assert caught.value.hint is not None
    assert "max_replicas" in caught.value.hint
    assert "--extrapolate" not in caught.value.hint


def test_of_very_many_the_first_are_explained() -> None:
    many = [TIGHT.model_copy(update={"name": f"w{n}", "slo_ms": 1 + n / 100}) for n in range(30)]
    problem = Problem(
        classes=classes_of(many), kinds=(kind_of(top_pct=50),), rule=rule_of("percentile")
    )

    with pytest.raises(Infeasible) as caught:
        refuse_infeasible(problem, lambda index: False)
    assert caught.value.what.count("\n") == 21
    assert "… and 10 more" in caught.value.what
    assert caught.value.hint is not None
    assert "--extrapolate" in caught.value.hint


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["small", "middle", "large"]),
    st.floats(10, 5000),
    st.floats(0.2, 50),
    st.sampled_from(["percentile", "half-mean", "percentile+0.95"]),
    st.integers(1, 3),
)
def test_what_is_said_to_do_does(
    model: str, rate_rps: float, slo_ms: float, rule: str, parts: int
) -> None:
    kind = kind_of(rule=rule)
    workload = Workload(name="w", model=model, rate_rps=rate_rps, slo_ms=slo_ms, max_replicas=parts)

    def part(into: int, **update: float) -> Workload:
        whole = workload.model_copy(update=update)
        return whole.model_copy(update={"rate_rps": whole.rate_rps / into})

    if feasible(part(parts), kind):
        return
    message = told(workload, kind, rule=rule)
    slo = re.search(r"an SLO of ([\d.e+-]+) ms", message)
    rate = re.search(r"a rate of ([\d.e+-]+) requests/s(?: or .*)? would do", message)
    replicas = re.search(r"max_replicas of (\d+) would do", message)
    if slo is not None:
        assert feasible(part(parts, slo_ms=float(slo[1])), kind)
        assert not feasible(part(parts, slo_ms=float(slo[1]) * 0.998), kind)
    if rate is not None:
        # the rate of a part is rounded down, that of all of them is shown to six digits
        assert feasible(part(parts, rate_rps=float(rate[1]) * (1 - 1e-5)), kind)
        assert not feasible(part(parts, rate_rps=min(float(rate[1]) * 1.002, rate_rps)), kind)
    if replicas is not None:
        assert feasible(part(int(replicas[1])), kind)
        assert not feasible(part(int(replicas[1]) - 1), kind)


def test_a_class_made_by_hand_needs_no_planner() -> None:
    each = WorkloadClass(TIGHT, ("x", "y"))
    problem = Problem(classes=(each,), kinds=(kind_of(),), rule=rule_of("percentile"))

    assert explain(problem, each).startswith("'x' and 1 alike (large)")


# --- tenants that must be apart -------------------------------------------------------------------


def crowded(*workloads: Workload, kinds: tuple[DeviceKind, ...]) -> str | None:
    problem = Problem(classes=classes_of(workloads), kinds=kinds, rule=rule_of("percentile"))
    try:
        refuse_crowded(problem, lambda index, kind: problem.allows(problem.classes[index], kind))
    except Infeasible as error:
        return error.what
    return None


def apart(name: str, number: int = 1, **more: Any) -> Workload:
    usual = {"model": "small", "rate_rps": 5, "slo_ms": 50, "anti_affinity": "rack"}
    return Workload.model_validate({"name": name, "count": number, **usual, **more})


def test_tenants_that_must_be_apart_need_a_device_each() -> None:
    three = (apart("a", 2), apart("b", rate_rps=7))
    assert crowded(*three, kinds=(kind_of(count=2),)) == (
        "there are too few devices:\n  - anti_affinity 'rack': 3 tenants of whom no two may share a"
        " device need 3 devices at least, there are 2 (gpu)"
    )
    assert crowded(*three, kinds=(kind_of(count=3),)) is None
    assert crowded(*three, kinds=(kind_of(),)) is None
    other = apart("c", 2, anti_affinity="shelf")
    assert crowded(*three, other, kinds=(kind_of(count=3),)) is None


def test_replicas_need_a_device_each() -> None:
    split = apart("a", 2, anti_affinity=None, replicas=3)
    found = crowded(split, kinds=(kind_of(count=2),))
    assert found is not None
    assert "workload 'a-1': 3 tenants" in found
    assert crowded(split, kinds=(kind_of(count=3),)) is None
    labelled = apart("a", 2, replicas=2)
    found = crowded(labelled, kinds=(kind_of(count=3),))
    assert found is not None
    assert "'rack': 4 tenants" in found


def test_only_devices_that_they_may_be_on_count() -> None:
    two = (kind_of("few", count=1), kind_of("many"))
    bound = (apart("a", 2, devices=("few",)), apart("b", 5))
    found = crowded(*bound, kinds=two)
    assert found is not None
    assert "2 tenants of whom no two may share a device need 2 devices at least" in found
    assert "there is 1 (few)" in found
    assert crowded(apart("a", devices=("few",)), apart("b", 5), kinds=two) is None
    limited = (kind_of("few", count=1), kind_of("many", count=3))
    found = crowded(apart("a", devices=("few",)), apart("b", 4), kinds=limited)
    assert found is not None
    assert "need 5 devices at least, there are 4 (few, many)" in found


def test_a_plan_says_who_must_be_apart_and_leaves_out_who_may_be() -> None:
    rule = rule_of("percentile")
    two = [kind_of(count=2)]
    with pytest.raises(Infeasible, match="anti_affinity 'rack': 3 tenants"):
        plan(two, [apart("a", 3)], rule=rule)
    made = plan(two, [apart("a", 3, priority=1)], rule=rule)
    assert made.left_out == ("a-1",)
    assert len(made.devices) == 2
