import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from igniter_prof.config.workloads import workloads_digest
from igniter_prof.errors import BadInput
from igniter_prof.provisioning import check_plan, plan
from igniter_prof.records import Plan, PlanDevice, PlanTenant, Workload
from tests.provisioning_fakes import FakePredictor, fake_request_latency

WORKLOADS = (
    Workload(name="a", model="small", rate_rps=500, slo_ms=20, count=3),
    Workload(name="c", model="large", rate_rps=50, slo_ms=60, count=2),
)
HASH = "c" * 64


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(
        FakePredictor(),
        WORKLOADS,
        coefficients_hash=HASH,
        workloads_hash=workloads_digest(WORKLOADS),
        device_type=None,
        request_latency=fake_request_latency,
    )


def findings(
    plan: Plan,
    workloads: Sequence[Workload] | None = WORKLOADS,
    coefficients_hash: str | None = HASH,
) -> list[str]:
    return check_plan(
        plan,
        FakePredictor(),
        workloads,
        coefficients_hash=coefficients_hash,
        request_latency=fake_request_latency,
    )


def with_tenant(made: Plan, change: Callable[[PlanTenant], dict[str, Any]]) -> Plan:
    """The plan with its first tenant changed."""
    first = made.devices[0]
    tenant = first.tenants[0].model_copy(update=change(first.tenants[0]))
    device = first.model_copy(update={"tenants": (tenant, *first.tenants[1:])})
    return made.model_copy(update={"devices": (device, *made.devices[1:])})


def test_a_sound_plan_has_no_findings(made: Plan) -> None:
    assert findings(made) == []
    assert findings(made, workloads=None) == []


def test_a_plan_survives_its_file(made: Plan) -> None:
    assert findings(Plan.model_validate_json(made.model_dump_json())) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda t: {"share_pct": 100.0}, "shares add up to"),
        (lambda t: {"share_pct": t.share_pct - 1}, "no multiple of 5%"),
        (lambda t: {"share_pct": 5.0}, "SLO does not hold|queue grows"),
        (lambda t: {"batch_size": 1 if t.batch_size > 1 else 2}, "latency_ms is stated as"),
        (lambda t: {"rate_rps": t.rate_rps * 20}, "of its throughput, at most 95%"),
        (lambda t: {"rate_rps": t.rate_rps + 1}, "rate_rps is .*, asked was"),
        (lambda t: {"slo_ms": 1.0}, "SLO does not hold: .* is predicted, 1 ms is the limit"),
        (lambda t: {"percentile": 50.0}, "percentile is 50.0, asked was 99.0"),
        (lambda t: {"model": "middle"}, "model is middle, asked was"),
        (lambda t: {"model": "other"}, "the coefficients know no model 'other'"),
        (lambda t: {"workload": "a-3"}, "'a-3' is placed 2 times|is not placed"),
        (lambda t: {"workload": "z"}, "'z' is placed, but nobody asked for it"),
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
            lambda t: {"predicted": t.predicted.model_copy(update={"p95_ms": None})},
            "p95_ms is stated as no value, predicted is",
        ),
        (lambda t: {"predicted": None}, "there is no prediction"),
        (lambda t: {"instances": 2}, "nothing can be predicted of 2 instances"),
    ],
)
def test_a_changed_tenant_is_found(
    made: Plan, change: Callable[[PlanTenant], dict[str, Any]], finding: str
) -> None:
    found = findings(with_tenant(made, change))

    assert any(re.search(finding, each) for each in found), found


@pytest.mark.parametrize(
    ("update", "finding"),
    [
        ({"bound_devices": 99.0}, "the bound says no plan has under 99 devices"),
        ({"bound_devices": 1.0}, "optimal, but the bound is 1"),
        ({"bound_devices": None}, "optimal, but none is given"),
        ({"coefficients_hash": "d" * 64}, "made from other coefficients"),
        ({"workloads_hash": "d" * 64}, "made for other workloads"),
        ({"max_tenants": 2}, "device-2: has 3 tenants, at most 2 may be"),
    ],
)
def test_a_changed_plan_is_found(made: Plan, update: dict[str, Any], finding: str) -> None:
    found = findings(made.model_copy(update=update))

    assert len(found) == 1
    assert finding in found[0]


def test_a_lost_device_is_found(made: Plan) -> None:
    assert len(made.devices) > 1
    lost = made.model_copy(update={"devices": made.devices[1:]})

    assert any("is not placed" in each for each in findings(lost))
    assert any("the bound says" in each for each in findings(lost))


def test_two_devices_of_one_name_are_found(made: Plan) -> None:
    twin = PlanDevice(name=made.devices[0].name, tenants=made.devices[1].tenants)
    changed = made.model_copy(update={"devices": (made.devices[0], twin, *made.devices[2:])})

    assert any("2 devices are named" in each for each in findings(changed))


def test_an_imported_plan_may_lack_predictions(made: Plan) -> None:
    bare = with_tenant(made, lambda t: {"predicted": None})

    assert findings(bare) != []
    assert findings(bare.model_copy(update={"strategy": "import:igniter"})) == []


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
def test_a_plan_with_impossible_numbers_is_no_plan(
    made: Plan, place: tuple[str, ...], value: float
) -> None:
    document = made.model_dump(mode="json")
    inner = document["devices"][0]["tenants"][0]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value

    with pytest.raises(ValidationError, match=place[-1]):
        Plan.model_validate(document)


@pytest.mark.parametrize(
    "update", [{"devices": []}, {"bound_devices": math.nan}, {"share_step_pct": 0.0}]
)
def test_an_impossible_plan_is_no_plan(made: Plan, update: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(update))):
        Plan.model_validate({**made.model_dump(mode="json"), **update})


def test_numbers_within_rounding_are_equal(made: Plan) -> None:
    def rounded(tenant: PlanTenant) -> dict[str, Any]:
        assert tenant.predicted is not None
        value = tenant.predicted.latency_ms * (1 + 1e-8)
        return {"predicted": tenant.predicted.model_copy(update={"latency_ms": value})}

    assert findings(with_tenant(made, rounded)) == []


def test_an_unknown_rule_is_bad_input(made: Plan) -> None:
    with pytest.raises(BadInput, match="unknown latency rule"):
        findings(made.model_copy(update={"latency_rule": "best-effort"}))
