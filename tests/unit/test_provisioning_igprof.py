"""Plans by the latency model ``igprof``, which is monotone only to within what it fits."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from igniter_prof.fitting.fitter import fit
from igniter_prof.fitting.predictor import Predictor
from igniter_prof.provisioning import check_plan, plan
from igniter_prof.provisioning.kinds import device_kind
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import Plan, PlanDeviceType, Tenant, Workload
from tests.provisioning_fakes import FakePredictor, fake_kind, fake_request_latency
from tests.unit.interference_cells import GPU, alone_cells, measure, mixed_cells

WORKLOADS = (
    Workload(name="a", model="heavy", rate_rps=100, slo_ms=60),
    Workload(name="b", model="light", rate_rps=600, slo_ms=25, count=3),
    Workload(name="c", model="wire", rate_rps=300, slo_ms=30, count=2),
)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    cells = [*alone_cells(), *mixed_cells(40)]
    return Predictor(fit(measure(cells), GPU, profile_hash="0" * 64, holdout=0.0))


def planned(predictor: Predictor, rule: str, workloads: tuple[Workload, ...] = WORKLOADS) -> Plan:
    record = PlanDeviceType(name="gpu", device=GPU)
    models = [each.model for each in workloads]
    kind, notes = device_kind(record, predictor, rule_of(rule), models)
    return plan([kind], workloads, rule=rule_of(rule), notes=notes)


@pytest.mark.parametrize("rule", ["percentile", "half-mean", "percentile+0.9", "half-mean+0.9"])
def test_a_plan_keeps_what_it_promises(predictor: Predictor, rule: str) -> None:
    # the queueing estimate takes seconds for each workload
    workloads = WORKLOADS if "half-mean" in rule else WORKLOADS[2:]
    made = planned(predictor, rule, workloads)
    assert check_plan(made, predictor, workloads) == []
    assert any(len(device.tenants) > 1 for device in made.devices)
    assert made.bound is not None
    assert made.bound <= len(made.devices)


def test_a_margin_never_needs_fewer_devices(predictor: Predictor) -> None:
    plain, safe = (planned(predictor, rule) for rule in ("half-mean", "half-mean+0.9"))
    assert plain.optimal
    assert len(plain.devices) <= len(safe.devices)


class SlowAtLargeShares(FakePredictor):
    """Four times as slow with over 50% of the device: what bends to measurements may be so."""

    def _latency_ms(self, tenant: Tenant, batch: int, neighbours: Iterable[Tenant]) -> float:
        slower = 4.0 if (tenant.share_pct or 100) > 50 else 1.0
        return slower * super()._latency_ms(tenant, batch, neighbours)


@pytest.mark.parametrize("rule", ["half-mean", "percentile"])
def test_a_share_that_does_is_found_where_larger_ones_do_not(rule: str) -> None:
    predictor = SlowAtLargeShares()
    # alone with a batch of 1: 1.3 ms over the share
    workload = Workload(name="w", model="middle", rate_rps=10, slo_ms=2 * 1.3 / 0.45)
    if rule == "percentile":
        workload = workload.model_copy(update={"slo_ms": 1.3 / 0.4})
    workloads = [workload, workload.model_copy(update={"name": "v"})]
    kind = fake_kind(predictor, workloads, rule, batch_sizes=[1])
    made = plan([kind], workloads, rule=rule_of(rule))

    assert check_plan(made, predictor, workloads, request_latency=fake_request_latency) == []
    assert all(40 <= t.share_pct <= 50 for device in made.devices for t in device.tenants)
