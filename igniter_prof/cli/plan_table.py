"""A plan as a table on standard output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from igniter_prof.cli.common import note, print_table

if TYPE_CHECKING:
    from igniter_prof.records import Plan, PlanDevice, PlanTenant

MOST_DEVICES = 40
"""That are shown one by one, and most groups of identical ones."""

_COLUMNS = (
    "workload",
    "model",
    "batch",
    "share",
    "rate",
    "SLO",
    "predicted",
    "batch mean",
    "throughput",
)


def print_plan(plan: Plan) -> None:
    """Print a plan: its devices, or groups of identical ones where there are many."""
    print_table(_title(plan), *_table(plan))
    if plan.left_out:
        shown = ", ".join(plan.left_out[:10])
        more = len(plan.left_out) - 10
        note(f"left out: {shown}" + (f" and {more} more" if more > 0 else ""))


def _title(plan: Plan) -> str:
    from igniter_prof.provisioning.objectives import cost_text
    from igniter_prof.records import Objective

    number = len(plan.devices)
    kinds = Counter(_type(plan, device) for device in plan.devices)
    parts = [f"{number} device{'' if number == 1 else 's'}"]
    if len(plan.device_types) > 1:
        parts[0] += f" ({', '.join(f'{n} {name}' for name, n in kinds.items())})"
    counted = plan.objective == Objective()
    if plan.cost is not None and not counted:
        parts.append(f"cost {cost_text(plan.objective, plan.cost)}")
    parts[-1] += f" ({_proof(plan, counted)})"
    parts += [f"strategy {plan.strategy}", f"rule {plan.latency_rule}"]
    if plan.solve_s is not None:
        parts.append(f"{plan.solve_s:.1f} s")
    return ", ".join(parts)


def _proof(plan: Plan, counted: bool) -> str:
    if plan.optimal:
        return "no plan has fewer" if counted else "no plan costs less"
    if plan.bound is None:
        return "no bound"
    least = f"at least {plan.bound:.6g} " + ("are needed" if counted else "is proven")
    return least if plan.gap is None else f"{least}: gap {100 * plan.gap:.3g}%"


def _table(plan: Plan) -> tuple[Sequence[str], list[tuple[object, ...]]]:
    """Columns and rows, one a tenant."""
    if len(plan.devices) > MOST_DEVICES:
        return _groups(plan)
    typed = len(plan.device_types) > 1
    rows: list[tuple[object, ...]] = [
        (device.name, *([_type(plan, device)] if typed else []), *_cells(tenant))
        for device in plan.devices
        for tenant in device.tenants
    ]
    return ("device", *(["type"] if typed else []), *_COLUMNS), rows


def _groups(plan: Plan) -> tuple[Sequence[str], list[tuple[object, ...]]]:
    """The same with a row for each tenant of a group of identical devices, the largest first."""
    groups: dict[object, list[PlanDevice]] = {}
    for device in plan.devices:
        what = tuple(sorted(_cells(tenant)[1:] for tenant in device.tenants))
        groups.setdefault((_type(plan, device), what), []).append(device)
    ranked = sorted(groups.values(), key=lambda group: -len(group))
    rows: list[tuple[object, ...]] = []
    for group in ranked[:MOST_DEVICES]:
        first, *others = group
        for position, tenant in enumerate(first.tenants):
            workload, *cells = _cells(tenant)
            times = f"{first.name} x {len(group)}" if others else first.name
            rows.append(
                (
                    times if position == 0 else "",
                    _type(plan, first) if position == 0 else "",
                    f"{workload} …" if others else workload,
                    *cells,
                )
            )
    if hidden := ranked[MOST_DEVICES:]:
        number = sum(len(group) for group in hidden)
        rows.append((f"… {number} more", *[""] * (1 + len(_COLUMNS))))
    return ("devices", "type", *_COLUMNS), rows


def _type(plan: Plan, device: PlanDevice) -> str:
    first: Iterable[str] = (each.name for each in plan.device_types)
    return device.type or next(iter(first), "")


def _cells(tenant: PlanTenant) -> tuple[str, ...]:
    from igniter_prof.units import format_ms

    predicted = tenant.predicted
    return (
        tenant.workload,
        tenant.model,
        str(tenant.batch_size),
        f"{tenant.share_pct:g}%",
        f"{tenant.rate_rps:g}/s",
        f"p{tenant.percentile:g} {format_ms(tenant.slo_ms)}",
        format_ms(predicted.slo_percentile_ms if predicted else None),
        format_ms(predicted.latency_ms if predicted else None),
        f"{predicted.throughput_rps:.4g}/s" if predicted else "-",
    )
