"""``check_plan``: re-derives what a plan promises, with the predictor but without the planner."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from igniter_prof.config.workloads import expand, workloads_digest
from igniter_prof.files import read_record
from igniter_prof.provisioning.interface import (
    Predictor,
    RequestLatency,
    default_request_latency,
)
from igniter_prof.provisioning.names import canonical, known_as
from igniter_prof.provisioning.operating import Evaluator, Judgement, Setting
from igniter_prof.provisioning.rules import Rule, rule_of
from igniter_prof.records import Plan, PlanDevice, PlanTenant, PredictedTenant, Workload
from igniter_prof.units import format_ms

TOLERANCE = 1e-6
"""Relative: predictions are stored in full, so that only another library's rounding may differ."""


def read_plan(path: Path) -> Plan:
    """Read ``PLAN.json``.

    Raises:
        BadInput: it is unreadable, truncated, or of another schema.
    """
    return read_record(Path(path), Plan)


def check_plan(
    plan: Plan,
    predictor: Predictor,
    workloads: Sequence[Workload] | None = None,
    *,
    coefficients_hash: str | None = None,
    request_latency: RequestLatency | None = None,
) -> list[str]:
    """Every promise of a plan that does not hold, in words; empty if all do.

    With ``workloads``, that each of them is placed exactly once, as asked. The bound is compared
    with the devices, not derived again: that needs the planner.

    Raises:
        BadInput: the plan names a latency rule that there is not.
    """
    rule = rule_of(plan.latency_rule or "percentile")
    queueing = default_request_latency() if request_latency is None else request_latency
    findings: list[str] = []
    if (
        coefficients_hash is not None
        and plan.coefficients_hash is not None
        and plan.coefficients_hash != coefficients_hash
    ):
        findings.append(
            f"the plan was made from other coefficients ({plan.coefficients_hash[:12]}… in the"
            f" plan, {coefficients_hash[:12]}… given)"
        )
    findings += _names(plan)
    if workloads is not None:
        findings += _placed(plan, tuple(workloads))
    findings += _bound(plan)
    known = set(predictor.models)
    for device in plan.devices:
        findings += _limits(device, plan)
        names = {tenant.model: known_as(tenant.model, known) for tenant in device.tenants}
        unknown = sorted(model for model, name in names.items() if name is None)
        if unknown:
            findings.append(
                f"{device.name}: the coefficients know no model {', '.join(map(repr, unknown))}"
            )
            continue
        tenants = (t.model_copy(update={"model": names[t.model]}) for t in device.tenants)
        named = device.model_copy(update={"tenants": tuple(tenants)})
        imported = plan.strategy.startswith("import:")
        findings += _promises(named, predictor, queueing, rule, imported=imported)
    return findings


def _names(plan: Plan) -> list[str]:
    findings = []
    devices = Counter(device.name for device in plan.devices)
    findings += [f"{n} devices are named '{name}'" for name, n in devices.items() if n > 1]
    placed = Counter(tenant.workload for device in plan.devices for tenant in device.tenants)
    findings += [f"workload '{name}' is placed {n} times" for name, n in placed.items() if n > 1]
    return findings


def _placed(plan: Plan, workloads: tuple[Workload, ...]) -> list[str]:
    findings = []
    if plan.workloads_hash is not None and plan.workloads_hash != workloads_digest(workloads):
        findings.append("the plan was made for other workloads (their hash differs)")
    asked = {workload.name: workload for workload in expand(workloads)}
    placed = {tenant.workload: tenant for device in plan.devices for tenant in device.tenants}
    findings += [f"workload '{name}' is not placed" for name in asked if name not in placed]
    for name, tenant in placed.items():
        if name not in asked:
            findings.append(f"workload '{name}' is placed, but nobody asked for it")
            continue
        for field in ("model", "rate_rps", "slo_ms", "percentile", "arrival"):
            wanted, given = getattr(asked[name], field), getattr(tenant, field)
            if wanted != given and (field != "model" or canonical(wanted) != canonical(given)):
                findings.append(f"workload '{name}': {field} is {given}, asked was {wanted}")
    return findings


def _bound(plan: Plan) -> list[str]:
    number, bound = len(plan.devices), plan.bound_devices
    if bound is not None and bound > number + 1e-9:
        return [f"the bound says no plan has under {bound:g} devices, this one has {number}"]
    if plan.optimal and (bound is None or math.ceil(bound - 1e-9) < number):
        shown = "none is given" if bound is None else f"the bound is {bound:g}"
        return [f"the plan calls its {number} devices optimal, but {shown}"]
    return []


def _limits(device: PlanDevice, plan: Plan) -> list[str]:
    findings = []
    total = sum(tenant.share_pct for tenant in device.tenants)
    if total > 100 + 1e-6:
        findings.append(f"{device.name}: shares add up to {total:g}%, over 100")
    if plan.max_tenants is not None and len(device.tenants) > plan.max_tenants:
        findings.append(
            f"{device.name}: has {len(device.tenants)} tenants, at most {plan.max_tenants} may be"
        )
    for tenant in device.tenants:
        where = f"{device.name}, '{tenant.workload}'"
        step_pct = plan.share_step_pct or tenant.share_pct
        steps = tenant.share_pct / step_pct
        if abs(steps - round(steps)) > 1e-6:
            findings.append(
                f"{where}: a share of {tenant.share_pct:g}% is no multiple of {step_pct:g}%"
            )
        if tenant.instances > 1:
            # the queueing estimate knows one instance, so nothing said of several would be checked
            findings.append(f"{where}: nothing can be predicted of {tenant.instances} instances")
    return findings


def _promises(
    device: PlanDevice,
    predictor: Predictor,
    queueing: RequestLatency,
    rule: Rule,
    *,
    imported: bool,
) -> list[str]:
    workloads = [_workload(tenant) for tenant in device.tenants]
    settings = [
        Setting(tenant.batch_size, tenant.share_pct, tenant.queue_delay_us)
        for tenant in device.tenants
    ]
    evaluator = Evaluator(predictor, rule, queueing)
    findings = []
    derived = evaluator.promised(workloads, settings)
    judged = evaluator.judge(workloads, settings)
    for tenant, promise, judgement in zip(device.tenants, derived, judged, strict=True):
        where = f"{device.name}, '{tenant.workload}'"
        if tenant.predicted is not None:
            findings += _differences(where, tenant.predicted, promise, imported=imported)
        elif not imported:
            findings.append(f"{where}: there is no prediction, which only imported plans may lack")
        findings += _misses(where, tenant, judgement)
    return findings


def _differences(
    where: str, stated: PredictedTenant, derived: PredictedTenant, *, imported: bool
) -> list[str]:
    findings = []
    for field in PredictedTenant.model_fields:
        said, is_ = getattr(stated, field), getattr(derived, field)
        if said is None and (imported or is_ is None):
            continue
        if said is None or is_ is None or not math.isclose(said, is_, rel_tol=TOLERANCE):
            states, shown = ("no value" if v is None else f"{v:.6g}" for v in (said, is_))
            findings.append(f"{where}: {field} is stated as {states}, predicted is {shown}")
    return findings


def _misses(where: str, tenant: PlanTenant, judgement: Judgement) -> list[str]:
    findings = []
    if not judgement.sustained:
        findings.append(
            f"{where}: its rate of {tenant.rate_rps:g}/s is {judgement.utilisation:.1%} of its"
            f" throughput, at most {judgement.max_utilisation:.0%} may be"
        )
    if not judgement.batch_allowed:
        findings.append(
            f"{where}: the rule allows no batch of {tenant.batch_size} at {tenant.rate_rps:g}/s"
        )
    if judgement.latency_ms is None:
        findings.append(f"{where}: its queue grows without end, so its SLO does not hold")
    elif judgement.latency_ms > judgement.limit_ms * (1 + 1e-9):
        findings.append(
            f"{where}: its SLO does not hold: {format_ms(judgement.latency_ms)} is predicted,"
            f" {format_ms(judgement.limit_ms)} is the limit"
        )
    return findings


def _workload(tenant: PlanTenant) -> Workload:
    return Workload(
        name=tenant.workload,
        model=tenant.model,
        rate_rps=tenant.rate_rps,
        slo_ms=tenant.slo_ms,
        percentile=tenant.percentile,
        arrival=tenant.arrival,
    )
