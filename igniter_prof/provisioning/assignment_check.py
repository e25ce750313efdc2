"""What of a plan can be checked without a predictor: who is where, how often, and what it costs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from igniter_prof.config.workloads import names_of, workloads_digest
from igniter_prof.provisioning.names import canonical
from igniter_prof.records import Plan, PlanDevice, PlanDeviceType, PlanTenant, Workload

TOLERANCE = 1e-6
"""Relative: numbers are stored in full, so that only another library's rounding may differ."""

UNNAMED = PlanDeviceType(name="device")
"""The type of an imported plan, which says nothing of it."""

AS_ASKED = (
    "slo_ms",
    "percentile",
    "arrival",
    "burstiness",
    "memory_mib",
    "anti_affinity",
    "devices",
)
"""What a tenant has as its workload says it; its rate may be a part."""


def types_of(plan: Plan) -> dict[str, PlanDeviceType]:
    """A plan's device types by name, the default one first."""
    return {each.name: each for each in plan.device_types or (UNNAMED,)}


def type_name(plan: Plan, device: PlanDevice) -> str:
    """The name of a device's type, which the plan need not have."""
    return next(iter(types_of(plan))) if device.type is None else device.type


def names_findings(plan: Plan) -> list[str]:
    """Devices, tenants and types that are there twice; types that are not there."""
    findings = []
    types = Counter(each.name for each in plan.device_types)
    findings += [f"{n} device types are named '{name}'" for name, n in types.items() if n > 1]
    devices = Counter(device.name for device in plan.devices)
    findings += [f"{n} devices are named '{name}'" for name, n in devices.items() if n > 1]
    placed = Counter(tenant.workload for device in plan.devices for tenant in device.tenants)
    findings += [f"workload '{name}' is placed {n} times" for name, n in placed.items() if n > 1]
    unknown = {d.type for d in plan.devices if d.type is not None} - set(types_of(plan))
    findings += [f"the plan has no device type '{name}'" for name in sorted(unknown)]
    return findings


def counts_findings(plan: Plan) -> list[str]:
    """Types of which the plan uses more devices than there are."""
    first, *_ = types = types_of(plan)
    used = Counter(device.type or first for device in plan.devices)
    return [
        f"{used[name]} devices of type '{name}' are used, there are {each.count}"
        for name, each in types.items()
        if each.count is not None and used[name] > each.count
    ]


def device_findings(device: PlanDevice, kind: PlanDeviceType) -> list[str]:
    """What one device breaks of shares, number of tenants, and who may be beside whom."""
    findings = []
    total = sum(tenant.share_pct for tenant in device.tenants)
    if total > 100 + 1e-6:
        findings.append(f"{device.name}: shares add up to {total:g}%, over 100")
    if kind.max_tenants is not None and len(device.tenants) > kind.max_tenants:
        findings.append(
            f"{device.name}: has {len(device.tenants)} tenants, at most {kind.max_tenants} may be"
        )
    for tenant in device.tenants:
        where = f"{device.name}, '{tenant.workload}'"
        step_pct = kind.share_step_pct or tenant.share_pct
        steps = tenant.share_pct / step_pct
        if abs(steps - round(steps)) > 1e-6:
            findings.append(
                f"{where}: a share of {tenant.share_pct:g}% is no multiple of {step_pct:g}%"
            )
        if tenant.instances > 1:
            # the queueing estimate knows one instance, so nothing said of several would be checked
            findings.append(f"{where}: nothing can be predicted of {tenant.instances} instances")
        if (tenant.arrival == "bursty") != (tenant.burstiness is not None):
            findings.append(f"{where}: arrival {tenant.arrival} and burstiness do not go together")
        if tenant.devices and kind.name not in tenant.devices:
            allowed = ", ".join(tenant.devices)
            findings.append(f"{where}: is on type '{kind.name}', allowed are {allowed}")
    if len(device.tenants) > 1:
        labels = Counter(t.anti_affinity for t in device.tenants if t.anti_affinity is not None)
        findings += [
            f"{device.name}: {n} tenants have the anti-affinity label '{label}'"
            for label, n in labels.items()
            if n > 1
        ]
        parts = Counter(t.replica_of for t in device.tenants if t.replica_of is not None)
        findings += [
            f"{device.name}: {n} replicas of '{name}' share it"
            for name, n in parts.items()
            if n > 1
        ]
    return findings


def asked_findings(plan: Plan, workloads: Sequence[Workload]) -> list[str]:
    """Where a plan does not place each workload exactly once, as asked.

    Raises:
        BadInput: two workloads have one name.
    """
    findings = []
    digest = workloads_digest(workloads)
    if plan.workloads_hash is not None and plan.workloads_hash != digest:
        findings.append("the plan was made for other workloads (their hash differs)")
    asked = {name: workload for workload in workloads for name in names_of(workload)}
    placed: dict[str, list[PlanTenant]] = defaultdict(list)
    for device in plan.devices:
        for tenant in device.tenants:
            placed[tenant.replica_of or tenant.workload].append(tenant)
    left_out = Counter(plan.left_out)
    for name, workload in asked.items():
        times = left_out[name]
        if name in placed:
            findings += _one_asked(name, workload, placed[name])
            if times:
                findings.append(f"workload '{name}' is left out, and placed")
        elif not times:
            findings.append(f"workload '{name}' is not placed")
        elif workload.priority is None:
            findings.append(f"workload '{name}' is left out, but has no priority: it must not be")
    findings += [
        f"workload '{name}' is placed, but nobody asked for it"
        for name in placed
        if name not in asked
    ]
    findings += [
        f"workload '{name}' is left out, but nobody asked for it"
        for name in left_out
        if name not in asked
    ]
    return findings


def _one_asked(name: str, workload: Workload, parts: Sequence[PlanTenant]) -> list[str]:
    findings = []
    whole = [tenant for tenant in parts if tenant.replica_of is None]
    if whole and len(whole) < len(parts):
        findings.append(f"workload '{name}' is placed both whole and as replicas")
    most = max(workload.replicas, workload.max_replicas or 0)
    if not workload.replicas <= len(parts) <= most:
        range_ = f"{workload.replicas}" + (f" to {most}" if most > workload.replicas else "")
        findings.append(f"workload '{name}' has {len(parts)} replicas, asked were {range_}")
    rate_rps = math.fsum(tenant.rate_rps for tenant in parts)
    if not math.isclose(rate_rps, workload.rate_rps, rel_tol=1e-9):
        findings.append(
            f"workload '{name}': rate_rps is {rate_rps:g}, asked was {workload.rate_rps:g}"
        )
    for tenant in parts:
        where = f"workload '{tenant.workload}'"
        if tenant.model != workload.model and canonical(tenant.model) != canonical(workload.model):
            findings.append(f"{where}: model is {tenant.model}, asked was {workload.model}")
        for field in AS_ASKED:
            wanted, given = getattr(workload, field), getattr(tenant, field)
            if wanted != given:
                findings.append(f"{where}: {field} is {given}, asked was {wanted}")
    return findings


def cost_findings(plan: Plan, power_w: Mapping[str, float | None]) -> list[str]:
    """Whether the cost is that of the devices.

    Args:
        plan: with its objective.
        power_w: of each device, by its name, as it was derived; None where it is not known.
    """
    if plan.cost is None:
        return []
    objective, types = plan.objective, types_of(plan)
    costs = []
    for device in plan.devices:
        kind, watts = types.get(type_name(plan, device)), power_w.get(device.name)
        price = None if kind is None else kind.price_per_hour
        if objective.price and price is None:
            return [f"the cost cannot be derived: {device.name} has no price per hour"]
        if objective.power and watts is None:
            return [f"the cost cannot be derived: nothing is known of the power of {device.name}"]
        costs.append(
            objective.devices + objective.price * (price or 0) + objective.power * (watts or 0)
        )
    total = math.fsum(costs)
    if not math.isclose(plan.cost, total, rel_tol=TOLERANCE):
        return [f"the cost is stated as {plan.cost:.6g}, its devices cost {total:.6g}"]
    return []


def claims_findings(plan: Plan) -> list[str]:
    """Whether cost, bound and ``optimal`` go together; not whether the bound is true."""
    cost, bound = plan.cost, plan.bound
    if cost is None:
        claimed = bound is not None or plan.optimal
        return ["the plan claims a bound, but states no cost"] if claimed else []
    slack = TOLERANCE * max(abs(cost), 1e-12)
    if bound is not None and bound > cost + slack:
        return [f"the bound says that no plan costs under {bound:g}, this one costs {cost:g}"]
    if plan.optimal and (bound is None or _rounded_up(plan, bound) < cost - slack):
        shown = "none is given" if bound is None else f"the bound is {bound:g}"
        return [f"the plan calls its cost of {cost:g} optimal, but {shown}"]
    return []


def _rounded_up(plan: Plan, bound: float) -> float:
    """The least cost from the bound on that a plan can have, where a device is all that counts."""
    objective = plan.objective
    if objective.price or objective.power or not objective.devices:
        return bound
    return math.ceil(bound / objective.devices - 1e-9) * objective.devices
