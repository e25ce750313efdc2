"""Certificates: honest ones are verified, and whatever is claimed beyond them is found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from igniter_prof.provisioning import check_plan, plan
from igniter_prof.provisioning.certificate import certificate_of
from igniter_prof.provisioning.generation import Bound
from igniter_prof.provisioning.planner import engine_of
from igniter_prof.provisioning.problem import DeviceKind
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import Certificate, Objective, Plan, Workload
from tests.provisioning_fakes import FakePower, FakePredictor, fake_kind, fake_request_latency

RULE = rule_of("percentile")
WORKLOADS = (
    Workload(name="a", model="small", rate_rps=500, slo_ms=20, count=3),
    Workload(name="b", model="middle", rate_rps=200, slo_ms=30, count=2),
    Workload(name="c", model="large", rate_rps=50, slo_ms=60, count=4),
)
PREDICTORS = {
    "fast": FakePredictor(power=FakePower(idle_w=40)),
    "slow": FakePredictor(power=FakePower(idle_w=20), interference=2.0),
}
TYPES: dict[str, dict[str, Any]] = {
    "fast": {"price_per_hour": 2.5, "max_tenants": 4},
    "slow": {"price_per_hour": 1.0, "max_tenants": 2},
}


def kinds_of(workloads: Sequence[Workload], **more: dict[str, Any]) -> list[DeviceKind]:
    """``more``: of the record of a type, which then is used."""
    return [
        fake_kind(PREDICTORS[name], workloads, name=name, **{**TYPES[name], **record})
        for name, record in more.items()
    ]


def check(made: Plan, workloads: Sequence[Workload] = WORKLOADS) -> list[str]:
    return check_plan(made, PREDICTORS, workloads, request_latency=fake_request_latency)


@pytest.fixture(scope="module")
def honest() -> Plan:
    return plan(kinds_of(WORKLOADS, fast={}), WORKLOADS, rule=RULE)


def certificate(made: Plan) -> Certificate:
    assert made.certificate is not None
    return made.certificate


def forged(made: Plan, bound: float | None = None, **changes: Any) -> Plan:
    """A plan with another certificate, and what it seems to prove."""
    changed = certificate(made).model_copy(update=changes)
    return made.model_copy(
        update={"certificate": changed, "bound": made.bound if bound is None else bound}
    )


def dearer(made: Plan, name: str, times: float) -> Plan:
    """With a higher price of one workload, and all that then adds up."""
    counts = {"a-1": 3, "b-1": 2, "c-1": 4}
    prices, value = [], 0.0
    for each in certificate(made).prices:
        price = each.price * (times if each.workload == name else 1.0)
        prices.append(each.model_copy(update={"price": price}))
        value += price * counts[each.workload]
    return forged(made, prices=tuple(prices), value=value)


def test_an_honest_certificate_is_verified(honest: Plan) -> None:
    assert honest.optimal is True
    assert honest.cost == honest.bound == len(honest.devices) == 4
    assert check(honest) == []
    assert {each.workload for each in certificate(honest).prices} == {"a-1", "b-1", "c-1"}


@pytest.mark.parametrize("name", ["a-1", "b-1", "c-1"])
def test_a_price_that_is_too_high_is_found_with_the_device_that_shows_it(
    honest: Plan, name: str
) -> None:
    (finding,) = check(dearer(honest, name, 1.3))
    assert "the bound is not proven: a device of type 'fast' may hold" in finding
    assert f"'{name}'" in finding


def test_a_missing_price_is_found(honest: Plan) -> None:
    rest = tuple(each for each in certificate(honest).prices if each.workload != "b-1")
    assert check(forged(honest, prices=rest)) == [
        "the certificate has no price for 'b-1' or one alike"
    ]
    assert check(forged(honest, prices=()))


def test_any_of_those_alike_may_stand_for_them(honest: Plan) -> None:
    renamed = tuple(
        each.model_copy(update={"workload": each.workload.replace("-1", "-2")})
        for each in certificate(honest).prices
    )
    assert check(forged(honest, prices=renamed)) == []


def test_a_bound_that_the_prices_do_not_add_up_to_is_found(honest: Plan) -> None:
    alone = plan(kinds_of(WORKLOADS, fast={}), WORKLOADS, rule=RULE, strategy="alone")
    lent = alone.model_copy(update={"certificate": honest.certificate, "bound": honest.bound})
    assert check(lent) == []
    more = lent.model_copy(update={"bound": 5.0})
    (finding,) = check(more)
    assert re.fullmatch(r"the certificate proves 3\.\d+, not the bound of 5", finding)
    assert any("add up to" in each for each in check(forged(honest, value=4.5)))
    low = tuple(
        each.model_copy(update={"price": each.price * 0.7}) for each in certificate(honest).prices
    )
    findings = check(forged(honest, prices=low))
    assert any("add up to" in each for each in findings)
    assert any("not the bound of 4" in each for each in findings)


def test_a_bound_without_certificate_is_found_and_one_is_not_demanded(honest: Plan) -> None:
    bare = honest.model_copy(update={"certificate": None})
    assert check(bare) == ["the bound of 4 has no certificate"]
    silent = bare.model_copy(update={"bound": None, "optimal": None})
    assert check(silent) == []
    assert check_plan(bare, PREDICTORS, request_latency=fake_request_latency, bound=False) == []


def test_a_bound_that_is_lower_than_what_is_proven_is_true(honest: Plan) -> None:
    modest = honest.model_copy(update={"bound": 3.0, "optimal": None})
    assert check(modest) == []


def test_a_price_of_a_type_without_limit_proves_nothing(honest: Plan) -> None:
    """A device that is said to be worth much would justify any price of what it holds."""
    prices = tuple(
        each.model_copy(update={"price": each.price * 3}) for each in certificate(honest).prices
    )
    lie = forged(honest, prices=prices, type_prices={"fast": 100.0})
    value = 3 * certificate(honest).value
    lie = forged(lie, value=value)
    assert any("the bound is not proven" in each for each in check(lie))


@pytest.mark.parametrize(
    "objective", [Objective(devices=0, price=1), Objective(devices=0.5, price=2)]
)
def test_limited_types_have_prices_that_belong_to_the_proof(objective: Objective) -> None:
    workloads = (Workload(name="a", model="small", rate_rps=300, slo_ms=20, count=12),)
    kinds = kinds_of(workloads, slow={"count": 2}, fast={})
    made = plan(kinds, workloads, rule=RULE, objective=objective)

    assert made.bound is not None
    assert made.cost is not None
    assert check(made, workloads) == []
    assert sum(device.type == "slow" for device in made.devices) == 2
    assert set(certificate(made).type_prices) == {"slow"}
    assert certificate(made).type_prices["slow"] > 0.1

    # without it the cheap type would be worth more than it costs
    none = check(forged(made, type_prices={}), workloads)
    assert any("the bound is not proven: a device of type 'slow'" in each for each in none)
    # with more of it, less is proven
    dear = {"slow": certificate(made).type_prices["slow"] + 1}
    assert any("add up to" in each for each in check(forged(made, type_prices=dear), workloads))


@pytest.mark.parametrize(
    "objective",
    [Objective(devices=0, price=1), Objective(devices=0, power=1), Objective(price=1, power=0.01)],
)
def test_costs_other_than_devices_are_proven_too(objective: Objective) -> None:
    kinds = kinds_of(WORKLOADS, fast={}, slow={})
    made = plan(kinds, WORKLOADS, rule=RULE, objective=objective)

    assert made.bound is not None
    assert made.cost is not None
    assert made.bound <= made.cost * (1 + 1e-9)
    assert check(made) == []
    for each in certificate(made).prices:
        if each.price > 0:
            assert any("not proven" in finding for finding in check(dearer(made, each.workload, 3)))


def test_a_plan_with_another_objective_has_another_bound() -> None:
    kinds = kinds_of(WORKLOADS, fast={})
    made = plan(kinds, WORKLOADS, rule=RULE, objective=Objective(devices=0, price=1))
    assert made.cost == 2.5 * len(made.devices)
    number = float(len(made.devices))
    other = {"objective": Objective(), "cost": number, "bound": number}
    assert any("not proven" in each for each in check(made.model_copy(update=other)))


def test_what_a_plan_cannot_tell_apart_has_one_price() -> None:
    """The priority is not in a plan, so that a check puts both into one class."""
    workloads = [
        Workload(name="a", model="small", rate_rps=500, slo_ms=20, count=3, priority=1),
        Workload(name="b", model="small", rate_rps=500, slo_ms=20, priority=2),
        Workload(name="c", model="small", rate_rps=501, slo_ms=20),
    ]
    problem = engine_of(kinds_of(workloads, fast={}), workloads, rule=RULE).problem
    prices = {
        each.names[0]: {"a-1": 0.1, "b": 0.5, "c": 0.2}[each.names[0]] for each in problem.classes
    }
    bound = Bound(np.array(list(prices.values())), np.zeros(1), 1.0)
    stated = {each.workload: each.price for each in certificate_of(problem, bound).prices}

    assert stated == pytest.approx({"a-1": 0.2, "b": 0.2, "c": 0.2})
    made = plan(kinds_of(workloads, fast={}), workloads, rule=RULE)
    assert made.bound is not None
    assert check(made, workloads) == []


def test_replicas_and_those_apart_are_proven() -> None:
    workloads = (
        Workload(name="a", model="small", rate_rps=900, slo_ms=20, replicas=3, count=2),
        Workload(name="b", model="middle", rate_rps=100, slo_ms=40, anti_affinity="x", count=3),
    )
    made = plan(kinds_of(workloads, fast={}), workloads, rule=RULE)
    assert made.bound == 3
    assert made.optimal
    assert check(made, workloads) == []
    assert {each.workload for each in certificate(made).prices} == {"a-1.1", "b-1"}
