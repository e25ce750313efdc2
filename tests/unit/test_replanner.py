"""Planning again with the real planner: every new plan passes the check, whatever changed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igniter_prof.errors import Infeasible
from igniter_prof.provisioning import check_plan, plan
from igniter_prof.provisioning.operating import Evaluator
from igniter_prof.provisioning.problem import DeviceKind
from igniter_prof.provisioning.replan import Change
from igniter_prof.provisioning.replanner import replanned
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import Objective, Plan, Workload
from tests.provisioning_fakes import MODELS, FakePredictor, fake_kind, fake_request_latency

PREDICTOR = FakePredictor(profiled_batch=4)
FAST = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def kinds(workloads: Sequence[Workload], rule: str, **record: object) -> list[DeviceKind]:
    limits = {"name": "gpu", "share_step_pct": 20.0, "max_tenants": 3, **record}
    return [fake_kind(PREDICTOR, workloads, rule, **limits)]


@st.composite
def workload_lists(draw: st.DrawFn) -> tuple[Workload, ...]:
    return tuple(
        Workload(
            name=f"w{number}",
            model=draw(st.sampled_from(sorted(MODELS))),
            rate_rps=draw(st.sampled_from([20, 60, 150])),
            slo_ms=draw(st.sampled_from([25, 50, 100])),
            replicas=draw(st.sampled_from([1, 1, 1, 2])),
            anti_affinity=draw(st.sampled_from([None, None, None, "x"])),
        )
        for number in range(draw(st.integers(1, 5)))
    )


def planned(workloads: Sequence[Workload], rule: str) -> Plan | None:
    try:
        return plan(kinds(workloads, rule), workloads, rule=rule_of(rule))
    except Infeasible:
        return None


def again(
    old: Plan, workloads: Sequence[Workload], rule: str, move_cost: float
) -> tuple[Plan, Change] | None:
    try:
        found = replanned(
            old, kinds(workloads, rule), workloads, rule=rule_of(rule), move_cost=move_cost
        )
    except Infeasible:
        return None
    return found.plan(), found.change


@FAST
@given(
    workload_lists(),
    workload_lists(),
    st.sampled_from(["percentile", "half-mean"]),
    st.sampled_from([0, 0.1, 10]),
)
def test_every_new_plan_passes_the_check(
    before: tuple[Workload, ...], after: tuple[Workload, ...], rule: str, move_cost: float
) -> None:
    old = planned(before, rule)
    fresh = planned(after, rule)
    if old is None:
        return
    found = again(old, after, rule, move_cost)
    assert (found is None) == (fresh is None)
    if found is None or fresh is None:
        return
    new, said = found
    assert check_plan(new, PREDICTOR, after, request_latency=fake_request_latency) == []
    assert new.cost is not None
    assert fresh.cost is not None
    assert (new.bound or 0) <= new.cost
    if move_cost == 0:
        assert new.cost <= fresh.cost
    assert said.cost_after + move_cost * len(said.moved) <= fresh.cost + move_cost * len(
        [t for device in old.devices for t in device.tenants]
    )


@FAST
@given(workload_lists(), st.sampled_from(["percentile", "half-mean"]))
def test_without_a_change_nothing_moves(workloads: tuple[Workload, ...], rule: str) -> None:
    old = planned(workloads, rule)
    if old is None or old.optimal is not True:
        return
    found = again(old, workloads, rule, 0.1)
    assert found is not None
    new, said = found
    assert (said.moved, said.changed, said.added, said.removed) == ((), (), (), ())
    assert sorted(d.model_dump_json() for d in new.devices) == sorted(
        d.model_dump_json() for d in old.devices
    )


def test_who_cannot_be_met_and_need_not_is_left_out() -> None:
    good = Workload(name="good", model="small", rate_rps=20, slo_ms=50)
    hopeless = Workload(name="bad", model="large", rate_rps=20, slo_ms=0.1, priority=0, count=2)
    old = planned([good], "percentile")
    assert old is not None
    found = again(old, [good, hopeless], "percentile", 0.1)
    assert found is not None
    new, said = found
    assert new.left_out == said.left_out == ("bad-1", "bad-2")
    assert said.moved == said.changed == ()
    asked = [good, hopeless]
    assert check_plan(new, PREDICTOR, asked, request_latency=fake_request_latency) == []


def test_power_and_memory_limits_hold_for_settings_that_stay() -> None:
    pair = [Workload(name=n, model="small", rate_rps=20, slo_ms=50, memory_mib=600) for n in "ab"]
    old = planned(pair, "percentile")
    assert old is not None
    assert len(old.devices) == 1
    smaller = kinds(pair, "percentile", memory_mib=1000)
    found = replanned(old, smaller, pair, rule=rule_of("percentile"))
    assert (len(found.plan().devices), len(found.change.moved)) == (2, 1)


def test_what_changes_is_known_without_any_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Workload(name="a", model="small", rate_rps=20, slo_ms=50)
    may_go = Workload(name="b", model="large", rate_rps=20, slo_ms=50, priority=1)
    old = planned([first], "percentile")
    assert old is not None
    devices, both = kinds([first, may_go], "percentile"), [first, may_go]

    def refused(*_: object) -> None:
        raise AssertionError("promised")

    with monkeypatch.context() as within:
        within.setattr(Evaluator, "promised", refused)
        found = replanned(old, devices, both, rule=rule_of("percentile"))
    assert [each.workload for each in found.change.added] == ["b"]
    assert check_plan(found.plan(), PREDICTOR, both, request_latency=fake_request_latency) == []


def test_the_objective_is_that_of_the_plan() -> None:
    each = Workload(name="a", model="small", rate_rps=20, slo_ms=50)
    types = kinds([each], "percentile", price_per_hour=2.5)
    rule, price = rule_of("percentile"), Objective(devices=0, price=1)
    old = plan(types, [each], rule=rule, objective=price)
    found = replanned(old, types, [each], rule=rule)
    new = found.plan()
    assert (new.objective, new.cost, found.change.cost_before) == (price, 2.5, 2.5)
