"""Plans by the latency model ``igprof``, which is monotone only to within what it fits."""

from __future__ import annotations

import pytest

from igniter_prof.fitting.fitter import fit
from igniter_prof.fitting.predictor import Predictor
from igniter_prof.provisioning import check_plan, plan
from igniter_prof.records import Plan, Workload
from tests.unit.interference_cells import GPU, alone_cells, measure, mixed_cells

WORKLOADS = (
    Workload(name="a", model="heavy", rate_rps=100, slo_ms=60),
    Workload(name="b", model="light", rate_rps=600, slo_ms=25, count=3),
    Workload(name="c", model="wire", rate_rps=300, slo_ms=30, count=2),
)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    cells = [*alone_cells(), *mixed_cells(60)]
    return Predictor(fit(measure(cells), GPU, profile_hash="0" * 64, holdout=0.0))


def planned(predictor: Predictor, rule: str) -> Plan:
    return plan(
        predictor,
        WORKLOADS,
        coefficients_hash=None,
        workloads_hash=None,
        device_type=GPU,
        latency_rule=rule,
    )


@pytest.mark.parametrize(
    "rule", ["percentile", "half-mean", "percentile+interval", "half-mean+interval"]
)
def test_a_plan_keeps_what_it_promises(predictor: Predictor, rule: str) -> None:
    made = planned(predictor, rule)
    assert check_plan(made, predictor, WORKLOADS) == []
    assert any(len(device.tenants) > 1 for device in made.devices)
    assert made.bound_devices is None or made.bound_devices <= len(made.devices)


def test_a_margin_never_needs_fewer_devices(predictor: Predictor) -> None:
    plain, safe = (planned(predictor, rule) for rule in ("half-mean", "half-mean+interval"))
    assert plain.optimal
    assert len(plain.devices) <= len(safe.devices)
