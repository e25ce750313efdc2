"""The part of a report that draws a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from igniter_prof.records import Objective, Plan, PlanDeviceType, PlanTenant
from igniter_prof.reporting import drawing
from igniter_prof.reporting.blocks import Badge, Column, Plot, Section, Table, number, plural, when
from igniter_prof.reporting.plan_kinds import (
    Shown,
    late,
    load_pct,
    overloaded,
    shown_of,
    tenants_of,
    type_name,
    unpredicted,
    utilisation,
)
from igniter_prof.reporting.plan_picture import draw_plan, hidden_text
from igniter_prof.reporting.profile_section import device_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BIN_PCT, _MOST_PCT = 5.0, 200.0
_LEFT_OUT_SHOWN = 12


def plan_section(plan: Plan, source: str, prefix: str) -> Section:
    """A plan as plots and tables."""
    shown = shown_of(plan)
    blocks = (
        _device_plot(plan, shown, prefix),
        _promise_plot(plan, prefix),
        _kind_table(plan, shown, prefix),
        _tenant_table(plan, shown, source, prefix),
    )
    return Section(
        anchor=prefix,
        title="Plan",
        source=source,
        badges=_badges(plan),
        facts=_facts(plan),
        remarks=plan.notes,
        blocks=tuple(block for block in blocks if block is not None),
    )


# --- summary -----------------------------------------------------------------------------------


def _badges(plan: Plan) -> tuple[Badge, ...]:
    badges = [Badge(plural(len(plan.devices), "device"))]
    if plan.optimal is not None:
        least = "the fewest" if _unit(plan.objective) == "devices" else "the cheapest"
        gap = "" if plan.gap is None else f", gap at most {number(100 * plan.gap)}%"
        badges.append(
            Badge(f"proven to be {least}", "good")
            if plan.optimal
            else Badge(f"not proven to be {least}{gap}", "warn")
        )
    tenants = tenants_of(plan.devices)
    if over := sum(map(late, tenants)):
        badges.append(Badge(f"{plural(over, 'workload')} predicted over the SLO", "bad"))
    if full := sum(map(overloaded, tenants)):
        badges.append(Badge(f"{plural(full, 'workload')} above the predicted throughput", "bad"))
    if plan.left_out:
        badges.append(Badge(f"{plural(len(plan.left_out), 'workload')} left out", "bad"))
    if unknown := sum(map(unpredicted, tenants)):
        badges.append(Badge(f"no prediction for {plural(unknown, 'workload')}", "warn"))
    return tuple(badges)


def _facts(plan: Plan) -> tuple[tuple[str, str], ...]:
    tenants = tenants_of(plan.devices)
    workloads = {tenant.replica_of or tenant.workload for tenant in tenants}
    replicas = "" if len(workloads) == len(tenants) else f", as {plural(len(tenants), 'tenant')}"
    objective = _objective_text(plan.objective)
    gap = None if plan.gap is None else f"{number(100 * plan.gap)}%"
    facts: list[tuple[str, str | None]] = [
        ("strategy", plan.strategy),
        *_type_facts(plan),
        ("workloads", f"{len(workloads)}{replicas}"),
        ("left out", _left_out_text(plan.left_out)),
        ("within its SLO means", plan.latency_rule),
        ("objective", None if objective == "devices" else objective),
        ("cost", _amount(plan.cost, plan.objective)),
        ("no plan costs less than", _amount(plan.bound, plan.objective)),
        ("gap", gap),
        ("bound proven by", _certificate_text(plan)),
        ("mean power, predicted", None if objective == "power" else _power_text(plan)),
        ("price", None if objective == "price" else _price_text(plan)),
        ("solved in", None if plan.solve_s is None else f"{plan.solve_s:.2g} s"),
        ("made", f"{when(plan.created_at)}, igprof {plan.igprof}"),
    ]
    return tuple((title, value) for title, value in facts if value is not None)


def _type_facts(plan: Plan) -> list[tuple[str, str | None]]:
    """A fact for each type of device: how many, and what is known of it."""
    used: dict[str | None, int] = {}
    for device in plan.devices:
        name = type_name(plan, device)
        used[name] = used.get(name, 0) + 1
    known = {kind.name: kind for kind in plan.device_types}
    names = [*known, *(name for name in used if name is not None and name not in known)]
    return [
        (f"devices, {drawing.label(name)}", _type_text(used.get(name, 0), known.get(name)))
        for name in names
    ]


def _type_text(used: int, kind: PlanDeviceType | None) -> str:
    if kind is None:
        return str(used)
    parts = [
        str(used) if kind.count is None else f"{used} of at most {kind.count}",
        None if kind.device is None else device_text(kind.device),
        None if kind.price_per_hour is None else f"{number(kind.price_per_hour)} per hour each",
        None if kind.share_step_pct is None else f"share step {kind.share_step_pct:g}%",
        None if kind.max_tenants is None else f"at most {plural(kind.max_tenants, 'tenant')}",
        None
        if kind.coefficients_hash is None
        else f"from coefficients {kind.coefficients_hash[:16]}",
    ]
    return "; ".join(part for part in parts if part is not None)


def _left_out_text(names: Sequence[str]) -> str | None:
    if not names:
        return None
    more = len(names) - _LEFT_OUT_SHOWN
    text = ", ".join(names[:_LEFT_OUT_SHOWN])
    return f"{text} and {more} more, in the JSON" if more > 0 else text


_UNITS = {"devices": "devices", "price": "per hour", "power": "W"}


def _weights(objective: Objective) -> dict[str, float]:
    return {name: weight for name in _UNITS if (weight := getattr(objective, name)) > 0}


def _unit(objective: Objective) -> str | None:
    """The unit of a cost; None: that of a weighted sum has none."""
    weights = _weights(objective)
    return _UNITS[next(iter(weights))] if list(weights.values()) == [1.0] else None


def _objective_text(objective: Objective) -> str:
    weights = _weights(objective)
    if _unit(objective) is not None:
        return next(iter(weights))
    return " + ".join(f"{weight:g} × {name}" for name, weight in weights.items())


def _amount(value: float | None, objective: Objective) -> str | None:
    """A cost with its unit, to six digits: a gap of a part in a thousand is to be seen."""
    if value is None:
        return None
    text = f"{value:.0f}" if value == round(value) else f"{value:.6g}"
    return f"{text} {_unit(objective) or f'({_objective_text(objective)})'}"


def _certificate_text(plan: Plan) -> str | None:
    if plan.certificate is None:
        return None
    prices = plural(len(plan.certificate.prices), "dual price")
    return f"{prices}, {plan.certificate.value:.6g}; igprof check repeats the proof"


def _power_text(plan: Plan) -> str | None:
    powers = [device.power_w for device in plan.devices]
    known = [power for power in powers if power is not None]
    if len(known) < len(powers) or not known:
        return None
    return f"{number(sum(known))} W"


def _price_text(plan: Plan) -> str | None:
    prices = {kind.name: kind.price_per_hour for kind in plan.device_types}
    each = [prices.get(type_name(plan, device) or "") for device in plan.devices]
    known = [price for price in each if price is not None]
    if len(known) < len(each) or not known:
        return None
    return f"{number(sum(known))} per hour"


# --- plots -------------------------------------------------------------------------------------


def _device_plot(plan: Plan, shown: Shown, prefix: str) -> Plot:
    name = f"{prefix}-devices"
    caption = (
        "Each bar is a device, each part a tenant with its batch size and share. Beside it the"
        " predicted latency at the SLO's percentile in percent of the SLO, which is the heavy"
        " line, with the interval of the prediction where there is one; and the rate in percent"
        " of the predicted throughput. What is over its limit is bold, with a ✗ and hatched."
    )
    if shown.merged:
        caption = (
            "Devices of one type whose tenants differ in nothing but their names are one bar, with"
            f" their number. {caption}"
        )
    if shown.hidden:
        caption += f" Not drawn: {hidden_text(shown)}."
    return Plot(name, "Devices", draw_plan(plan, shown, name), caption)


def _promise_plot(plan: Plan, prefix: str) -> Plot | None:
    tenants = [tenant for tenant in tenants_of(plan.devices) if tenant.predicted is not None]
    if not tenants:
        return None
    looks = drawing.colour_of(tenant.model for tenant in tenants_of(plan.devices))
    panels = (
        ("Latency against the SLO", "at the SLO's percentile (% of the SLO)", load_pct),
        ("Rate against the throughput", "rate (% of the predicted throughput)", _used_pct),
    )

    def paint(figure: Figure) -> None:
        for axes, (title, x, value) in zip(figure.subplots(1, 2), panels, strict=True):
            by_model: dict[str, list[float]] = {model: [] for model in looks}
            for tenant in tenants:
                if (known := value(tenant)) is not None:
                    by_model[tenant.model].append(known)
            _histogram(axes, by_model, looks)
            axes.set_title(title)
            axes.set_xlabel(x)
            axes.set_ylabel("tenants")

    name = f"{prefix}-promises"
    about = "Predicted latency and throughput against what is asked, over all tenants"
    caption = (
        "How near its limits the plan goes: all its tenants, by model, in the colours above. The"
        f" heavy line is the limit. What is above {_MOST_PCT:g}% is counted at the right end."
    )
    return Plot(name, "Promises", drawing.draw(name, 11.0, 2.9, paint, about), caption)


def _used_pct(tenant: PlanTenant) -> float | None:
    used = utilisation(tenant)
    return None if used is None else 100 * used


def _histogram(
    axes: Axes, values: Mapping[str, Sequence[float]], looks: Mapping[str, tuple[str, str]]
) -> None:
    """Stacked bars of the numbers of values in steps, one colour a key."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    largest = max((value for each in values.values() for value in each), default=0.0)
    end = min(_MOST_PCT, max(105.0, _BIN_PCT * np.ceil(largest / _BIN_PCT)))
    edges = np.arange(0, end + _BIN_PCT / 2, _BIN_PCT)
    below = np.zeros(len(edges) - 1)
    for key, each in values.items():
        # a value of exactly 100% keeps its limit, so bins are open to the left
        flipped = np.histogram(end - np.minimum(each, end), edges)[0][::-1]
        colour, hatch = looks[key]
        axes.bar(
            edges[:-1],
            flipped,
            _BIN_PCT,
            bottom=below,
            align="edge",
            color=colour,
            hatch=hatch,
            edgecolor=drawing.PAPER,
            linewidth=0.8,
        )
        below += flipped
    axes.axvline(100, color=drawing.INK, linewidth=2)
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.08 * max(1.0, below.max()))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.grid(visible=False, axis="x")


# --- tables ------------------------------------------------------------------------------------

_TENANT_COLUMNS = (
    Column("model", "model", numeric=False),
    Column("batch_size", "batch"),
    Column("share_pct", "share (%)"),
    Column("instances", "instances"),
    Column("queue_delay_us", "queue delay (µs)"),
    Column("rate_rps", "rate (/s)"),
    Column("arrival", "arrival", numeric=False),
    Column("burstiness", "burstiness"),
    Column("throughput_rps", "throughput, predicted (/s)"),
    Column("utilisation_pct", "used (%)"),
    Column("slo", "SLO", numeric=False),
    Column("slo_ms", "SLO (ms)", shown=False),
    Column("percentile", "at p", shown=False),
    Column("slo_percentile_ms", "there (ms)", group="latency, predicted"),
    Column("slo_percentile_low_ms", "low (ms)", group="latency, predicted"),
    Column("slo_percentile_high_ms", "high (ms)", group="latency, predicted"),
    Column("latency_ms", "of a batch (ms)", group="latency, predicted"),
    Column("p50_ms", "p50, predicted (ms)", shown=False),
    Column("p95_ms", "p95, predicted (ms)", shown=False),
    Column("p99_ms", "p99, predicted (ms)", shown=False),
    Column("latency_low_ms", "batch, low (ms)", shown=False),
    Column("latency_high_ms", "batch, high (ms)", shown=False),
    Column("memory_mib", "memory (MiB)"),
)
_DULL = {"instances": 1, "arrival": "poisson", "queue_delay_us": 0}
"""Columns that the page leaves out where every row says this."""
_PREDICTED = (
    "throughput_rps",
    "slo_percentile_ms",
    "slo_percentile_low_ms",
    "slo_percentile_high_ms",
    "latency_ms",
    "latency_low_ms",
    "latency_high_ms",
    "p50_ms",
    "p95_ms",
    "p99_ms",
)


def _tenant_row(tenant: PlanTenant) -> dict[str, Any]:
    predicted = tenant.predicted
    return {
        "model": tenant.model,
        "batch_size": tenant.batch_size,
        "share_pct": tenant.share_pct,
        "instances": tenant.instances,
        "queue_delay_us": tenant.queue_delay_us,
        "rate_rps": tenant.rate_rps,
        "arrival": tenant.arrival,
        "burstiness": tenant.burstiness,
        "utilisation_pct": _used_pct(tenant),
        "slo": f"{tenant.slo_ms:g} ms, p{tenant.percentile:g}",
        "slo_ms": tenant.slo_ms,
        "percentile": tenant.percentile,
        "memory_mib": tenant.memory_mib or (predicted and predicted.memory_mib),
        **({key: getattr(predicted, key) for key in _PREDICTED} if predicted else {}),
    }


def _kind_table(plan: Plan, shown: Shown, prefix: str) -> Table | None:
    """A row for each part of each bar, where bars are kinds of devices."""
    if not shown.merged:
        return None
    columns = (
        Column("devices", "devices"),
        Column("device_type", "type", numeric=False),
        Column("example", "such as", numeric=False),
        Column("tenants", "tenants on each"),
        *_TENANT_COLUMNS,
    )
    rows = tuple(
        {
            "devices": kind.count,
            "device_type": type_name(plan, kind.device),
            "example": kind.device.name,
            "tenants": lane.count,
            **_tenant_row(lane.tenant),
        }
        for kind in (*shown.kinds, *shown.hidden)
        for lane in kind.lanes
    )
    caption = (
        "Devices of one type whose tenants differ in nothing but their names are one kind; a row"
        " is a tenant of a kind."
    )
    return Table(
        f"{prefix}-kinds",
        "Kinds of devices",
        _worth_showing(columns, rows),
        rows,
        caption,
        folded=len(rows) > 24,
        limit=200,
    )


def _tenant_table(plan: Plan, shown: Shown, source: str, prefix: str) -> Table:
    columns = (
        Column("device", "device", numeric=False),
        Column("device_type", "type", numeric=False),
        Column("device_power_w", "device's power (W)", shown=False),
        Column("device_memory_mib", "device's memory (MiB)", shown=False),
        Column("workload", "workload", numeric=False),
        Column("replica_of", "replica of", numeric=False),
        Column("anti_affinity", "apart by", numeric=False),
        *_TENANT_COLUMNS,
    )
    rows = tuple(
        {
            "device": device.name,
            "device_type": type_name(plan, device),
            "device_power_w": device.power_w,
            "device_memory_mib": device.memory_mib,
            "workload": tenant.workload,
            "replica_of": tenant.replica_of,
            "anti_affinity": tenant.anti_affinity,
            **_tenant_row(tenant),
        }
        for device in plan.devices
        for tenant in device.tenants
    )
    caption = f"A row is a tenant; {source} has them too, by device." if shown.merged else ""
    return Table(
        f"{prefix}-tenants",
        "Workloads",
        _worth_showing(columns, rows),
        rows,
        caption,
        folded=len(rows) > 24,
        # a large plan is read by its kinds
        limit=100 if shown.merged else 400,
    )


def _worth_showing(
    columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]
) -> tuple[Column, ...]:
    """The columns, those that would tell nothing in the CSV only."""

    def tells(column: Column) -> bool:
        if column.key == "device_type":
            return len({row.get(column.key) for row in rows}) > 1
        dull = (None, _DULL.get(column.key))
        return any(row.get(column.key) not in dull for row in rows)

    return tuple(replace(column, shown=column.shown and tells(column)) for column in columns)
