"""The cheapest type of device for a workload alone, and one type for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from igniter_prof.errors import BadInput, Infeasible
from igniter_prof.fitting import predictor
from igniter_prof.provisioning.alone import Alone, OnType, alone, one_type_for_all, priced
from igniter_prof.provisioning.kinds import device_kind
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import DeviceKind
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import Plan, PlanDevice, PlanDeviceType, PlanTenant, Workload
from tests.provisioning_fakes import fake_request_latency
from tests.replan_files import MODELS, coefficients

RULE = rule_of("percentile")


def kind(name: str, slower: float = 1.0, rule: str = "percentile", **more: object) -> DeviceKind:
    record = PlanDeviceType(name=name, **more)  # type: ignore[arg-type]
    made, _ = device_kind(
        record,
        predictor(coefficients(slower)),
        rule_of(rule),
        MODELS,
        request_latency=fake_request_latency,
    )
    return made


def workload(name: str = "w", **more: object) -> Workload:
    values: dict[str, object] = {"model": "small", "rate_rps": 60, "slo_ms": 80}
    return Workload(name=name, **{**values, **more})  # type: ignore[arg-type]


def on(kinds: Sequence[DeviceKind], each: Workload, rule: str = "percentile") -> Alone:
    (found,) = alone(kinds, [each], rule_of(rule))
    return found


def by_type(found: Alone) -> dict[str, OnType]:
    return {each.device_type: each for each in found.on}


@pytest.mark.parametrize("rule", ["percentile", "half-mean", "percentile+0.9"])
@pytest.mark.parametrize(("rate_rps", "slo_ms"), [(60, 80), (20, 30), (150, 200), (5, 22)])
def test_the_least_share_is_that_of_trying_all(rule: str, rate_rps: float, slo_ms: float) -> None:
    here = kind("gpu", rule=rule)
    each = workload(rate_rps=rate_rps, slo_ms=slo_ms)
    found = on([here], each, rule).on[0]

    choices = here.choices["small"]
    holding = sorted(
        (share, batch)
        for share, batch in itertools.product(choices.shares_pct, choices.batch_sizes)
        if here.evaluator.judge([each], [Setting(batch, share)])[0].holds
    )
    if holding:
        assert (found.share_pct, found.batch_size) == holding[0]
    else:
        assert not found.holds


def test_what_a_share_costs_decides_between_types() -> None:
    each = workload()
    needs = {
        name: found.share_pct or 0
        for name, found in by_type(on([kind("quick"), kind("slow", 2.0)], each)).items()
    }
    assert needs["quick"] < needs["slow"]
    even = needs["slow"] / needs["quick"]

    dear = [kind("quick", price_per_hour=1.1 * even), kind("slow", 2.0, price_per_hour=1)]
    found = on(dear, each)
    assert (found.cheapest_by_share, found.cheapest_by_device) == ("slow", "slow")
    assert by_type(found)["slow"].why == "cheapest"
    assert by_type(found)["quick"].why.startswith("1.1 times the price of slow: faster")

    cheap = [kind("quick", price_per_hour=0.9 * even), kind("slow", 2.0, price_per_hour=1)]
    found = on(cheap, each)
    # a whole device of the slower type costs less still
    assert (found.cheapest_by_share, found.cheapest_by_device) == ("quick", "slow")
    quick = by_type(found)["quick"]
    assert quick.share_price == pytest.approx(0.9 * even * needs["quick"] / 100)
    assert quick.device_price == pytest.approx(0.9 * even)
    assert "slower: it needs 2 times the share" in by_type(found)["slow"].why


def test_without_prices_the_unit_is_a_device() -> None:
    found = on([kind("quick"), kind("slow", 2.0)], workload())
    quick = by_type(found)["quick"]
    assert quick.share_price == (quick.share_pct or 0) / 100
    assert quick.device_price == 1
    assert found.cheapest_by_share == "quick"


def test_a_price_for_some_types_only_is_refused() -> None:
    with pytest.raises(BadInput, match="'slow' has no price"):
        on([kind("quick", price_per_hour=2), kind("slow")], workload())


def test_why_a_type_cannot_hold_it() -> None:
    kinds = [kind("quick"), kind("slow", 20.0), kind("tiny", memory_mib=100)]
    found = by_type(on(kinds, workload(memory_mib=500)))
    assert found["quick"].why == "the only type that can hold it"
    assert "requests/s" in found["slow"].why
    assert "500 MiB" in found["tiny"].why
    assert not found["slow"].holds
    assert not found["tiny"].holds

    late = by_type(on([kind("quick"), kind("slow", 8.0)], workload(rate_rps=1, slo_ms=20)))
    assert "its best p99 is" in late["slow"].why
    only = by_type(on([kind("quick"), kind("slow")], workload(devices=("slow",))))
    assert only["quick"].why == "it may only be on slow"


def test_who_fits_on_no_type_is_said_to() -> None:
    found = on([kind("quick"), kind("slow", 2.0)], workload(slo_ms=0.5))
    assert (found.cheapest_by_share, found.cheapest_by_device) == (None, None)
    assert [each.holds for each in found.on] == [False, False]


def test_a_rate_that_may_be_split_is_split_as_often_as_needed() -> None:
    kinds = [kind("quick", price_per_hour=2), kind("slow", 8.0, price_per_hour=1)]
    whole = by_type(on(kinds, workload(rate_rps=400, slo_ms=100)))
    assert whole["quick"].holds
    assert not whole["slow"].holds
    split = by_type(on(kinds, workload(rate_rps=400, slo_ms=100, max_replicas=20)))
    assert split["quick"].replicas == 1
    assert (split["slow"].replicas or 0) > 1
    assert split["slow"].device_price == split["slow"].replicas


def test_alike_workloads_are_one() -> None:
    asked = [workload("a", count=3), workload("b", rate_rps=5)]
    first, second = alone([kind("quick")], asked, RULE)
    assert {(each.workload, each.alike) for each in (first, second)} == {("a-1", 3), ("b", 1)}


def test_a_model_that_no_type_knows_is_refused() -> None:
    with pytest.raises(BadInput, match="no model 'smal'"):
        on([kind("quick")], workload(model="smal"))


# --- all together ---------------------------------------------------------------------------------


def made(kinds: Sequence[DeviceKind]) -> Plan:
    """A plan of one device of the cheapest type; type ``bad`` does not do."""
    usable = [each.record for each in kinds if each.record.name != "bad"]
    if not usable:
        raise Infeasible("no plan can meet these workloads")
    cheapest = min(usable, key=lambda record: record.price_per_hour or 0)
    assert cheapest.count is None
    tenant = PlanTenant(
        workload="w", model="small", batch_size=1, share_pct=50, rate_rps=1, slo_ms=9
    )
    return Plan(
        strategy="fake",
        device_types=tuple(usable),
        igprof="0",
        created_at="2026-01-01T00:00:00+00:00",
        cost=cheapest.price_per_hour,
        devices=(PlanDevice(name="device-1", type=cheapest.name, tenants=(tenant,)),),
    )


def test_one_type_for_all_is_each_type_and_then_all() -> None:
    kinds = [kind("a", price_per_hour=3, count=1), kind("b", price_per_hour=2), kind("bad")]
    totals = one_type_for_all(kinds, made)
    assert [(each.device_type, each.cost) for each in totals] == [
        ("a", 3),
        ("b", 2),
        ("bad", None),
        (None, 2),
    ]
    assert totals[2].why == "no plan can meet these workloads"
    assert [each.device_type for each in one_type_for_all(kinds[:1], made)] == ["a"]


def test_totals_are_by_price_where_all_have_one() -> None:
    assert priced([kind("a", price_per_hour=3)]).price == 1
    assert priced([kind("a", price_per_hour=3), kind("b")]).devices == 1
