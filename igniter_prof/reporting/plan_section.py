"""The part of a report that draws a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from igniter_prof.records import Plan, PlanTenant
from igniter_prof.reporting import drawing
from igniter_prof.reporting.blocks import Badge, Column, Plot, Section, Table, number, plural, when
from igniter_prof.reporting.profile_section import device_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAR_POINTS = 640.0  # about the width of 100% in the drawing
_LETTER_POINTS = 5.6


def plan_section(plan: Plan, source: str, prefix: str) -> Section:
    """A plan as plots and tables."""
    blocks = (_device_plot(plan, prefix), _promise_plot(plan, prefix), _table(plan, prefix))
    return Section(
        anchor=prefix,
        title="Plan",
        source=source,
        badges=_badges(plan),
        facts=_facts(plan),
        remarks=plan.notes,
        blocks=tuple(block for block in blocks if block is not None),
    )


def _tenants(plan: Plan) -> list[tuple[str, PlanTenant]]:
    return [(device.name, tenant) for device in plan.devices for tenant in device.tenants]


def _badges(plan: Plan) -> tuple[Badge, ...]:
    badges = [Badge(plural(len(plan.devices), "device"))]
    if plan.optimal is not None:
        badges.append(
            Badge("proven to be the fewest", "good")
            if plan.optimal
            else Badge("not proven to be the fewest", "warn")
        )
    tenants = [tenant for _, tenant in _tenants(plan)]
    late = sum(_load_pct(t) is not None and (_load_pct(t) or 0) > 100 for t in tenants)
    if late:
        badges.append(Badge(f"{plural(late, 'workload')} predicted over the SLO", "bad"))
    unknown = sum(_load_pct(t) is None for t in tenants)
    if unknown:
        badges.append(Badge(f"no prediction for {plural(unknown, 'workload')}", "warn"))
    return tuple(badges)


def _facts(plan: Plan) -> tuple[tuple[str, str], ...]:
    facts: list[tuple[str, str | None]] = [
        ("strategy", plan.strategy),
        ("device type", None if plan.device_type is None else device_text(plan.device_type)),
        ("workloads", str(len(_tenants(plan)))),
        ("within its SLO means", plan.latency_rule),
        ("at least", None if plan.bound_devices is None else f"{plan.bound_devices:g} devices"),
        ("share step", None if plan.share_step_pct is None else f"{plan.share_step_pct:g}%"),
        ("solved in", None if plan.solve_s is None else f"{plan.solve_s:.2g} s"),
        ("from coefficients", plan.coefficients_hash and plan.coefficients_hash[:16]),
        ("made", f"{when(plan.created_at)}, igprof {plan.igprof}"),
    ]
    return tuple((title, value) for title, value in facts if value is not None)


def _device_plot(plan: Plan, prefix: str) -> Plot | None:
    if not plan.devices:
        return None
    looks = drawing.colour_of(tenant.model for _, tenant in _tenants(plan))
    widest = max(100.0, *(sum(t.share_pct for t in d.tenants) for d in plan.devices))

    def paint(figure: Figure) -> None:
        from matplotlib.patches import Patch

        axes = figure.subplots()
        for row, device in enumerate(plan.devices):
            left = 0.0
            for tenant in device.tenants:
                colour, hatch = looks[tenant.model]
                # drawn in white over the colour; the edge parts neighbours of one model
                axes.barh(
                    row,
                    tenant.share_pct,
                    left=left,
                    height=0.7,
                    color=colour,
                    edgecolor=drawing.PAPER,
                    linewidth=1.5,
                    hatch=hatch,
                )
                room = tenant.share_pct / widest * _BAR_POINTS - 8
                for line, text in enumerate(_bar_text(tenant, room)):
                    axes.text(
                        left + tenant.share_pct / 2,
                        row - 0.13 + 0.29 * line,
                        text,
                        ha="center",
                        va="center",
                        color=drawing.text_on(colour),
                        fontsize=9 if line == 0 else 8,
                        fontweight="bold" if line == 0 else "normal",
                    )
                left += tenant.share_pct
            if left < 100:
                axes.barh(
                    row,
                    100 - left,
                    left=left,
                    height=0.7,
                    color=drawing.BAND,
                    edgecolor=drawing.PAPER,
                    linewidth=1.5,
                )
                text = f"free {100 - left:g}%"
                if (100 - left) / widest * _BAR_POINTS > len(text) * _LETTER_POINTS:
                    axes.text(
                        (left + 100) / 2,
                        row,
                        text,
                        ha="center",
                        va="center",
                        color=drawing.MUTED,
                        fontsize=8,
                    )
        axes.set_yticks(range(len(plan.devices)), [drawing.label(d.name) for d in plan.devices])
        axes.set_ylim(len(plan.devices) - 0.5, -0.5)
        axes.set_xlim(0, widest)
        axes.set_xlabel("share of the device (%)")
        axes.grid(False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        figure.legend(
            [Patch(facecolor=c, hatch=h, edgecolor=drawing.PAPER) for c, h in looks.values()],
            [drawing.label(model) for model in looks],
            title="model",
            loc="outside upper left",
            ncols=6,
            alignment="left",
        )

    name = f"{prefix}-devices"
    legend_rows = -(-len(looks) // 6)
    height = 0.95 + 0.24 * legend_rows + 0.62 * len(plan.devices)
    svg = drawing.draw(
        name,
        11.0,
        height,
        paint,
        f"{plural(len(plan.devices), 'device')}, their tenants and shares",
    )
    caption = "Each bar is a device, each part a workload: its name, batch size and share."
    return Plot(name, "Devices", svg, caption)


def _bar_text(tenant: PlanTenant, room_points: float) -> tuple[str, ...]:
    """What fits into a bar: name and details, the details shortened, the name cut, or nothing."""
    letters = int(room_points / _LETTER_POINTS)
    if letters < 3:
        return ()
    details = (
        f"batch {tenant.batch_size} · share {tenant.share_pct:g}%",
        f"batch {tenant.batch_size} · {tenant.share_pct:g}%",
        f"b{tenant.batch_size} · {tenant.share_pct:g}%",
        f"{tenant.share_pct:g}%",
    )
    detail = next((text for text in details if len(text) <= letters), "")
    return (drawing.label(tenant.workload, letters), detail)


def _load_pct(tenant: PlanTenant) -> float | None:
    """Predicted latency at the SLO's percentile, in percent of the SLO."""
    predicted = tenant.predicted
    if predicted is None or predicted.slo_percentile_ms is None:
        return None
    return 100 * predicted.slo_percentile_ms / tenant.slo_ms


def _promise_plot(plan: Plan, prefix: str) -> Plot | None:
    tenants = [tenant for _, tenant in _tenants(plan) if tenant.predicted is not None]
    if not tenants:
        return None
    latency = [_load_pct(tenant) for tenant in tenants]
    rate = [
        100 * t.rate_rps / t.predicted.throughput_rps
        if t.predicted and t.predicted.throughput_rps > 0
        else None
        for t in tenants
    ]
    texts = (
        [
            f"{number(t.predicted.slo_percentile_ms)} of {number(t.slo_ms)} ms, p{t.percentile:g}"
            if t.predicted and t.predicted.slo_percentile_ms is not None
            else "not predicted"
            for t in tenants
        ],
        [
            f"{number(t.rate_rps)} of {number(t.predicted.throughput_rps)} /s"
            if t.predicted
            else ""
            for t in tenants
        ],
    )

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        titles = ("Latency against the SLO", "Rate against the throughput")
        labels = (
            "predicted latency at the SLO's percentile (% of the SLO)",
            "planned rate (% of the predicted throughput)",
        )
        for axes, values, text, title, x in zip(
            panels, (latency, rate), texts, titles, labels, strict=True
        ):
            _bullets(axes, values, text)
            axes.set_title(title)
            axes.set_xlabel(x, loc="left")
        panels[0].set_yticks(range(len(tenants)), [drawing.label(t.workload) for t in tenants])
        panels[0].set_ylim(len(tenants) - 0.5, -0.5)

    name = f"{prefix}-promises"
    svg = drawing.draw(
        name,
        11.0,
        1.0 + 0.44 * len(tenants),
        paint,
        "Predicted latency and throughput against what is asked",
    )
    caption = (
        "What the plan promises. The heavy line at 100% is the limit; a bar beyond it is red and"
        " hatched, and ends at 300%."
    )
    return Plot(name, "Promises", svg, caption)


def _bullets(axes: Any, values: Sequence[float | None], texts: Sequence[str]) -> None:
    known = [value for value in values if value is not None]
    # a hopeless workload must not flatten all others
    end = min(300.0, max([105.0, *known]))
    for row, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.barh(row, 100, height=0.62, color=drawing.BAND)
        if value is not None:
            over = value > 100
            axes.barh(
                row,
                min(value, end),
                height=0.3,
                color=drawing.VERMILION if over else drawing.BLUE,
                hatch="////" if over else "",
                edgecolor=drawing.PAPER,
                linewidth=0,
            )
        axes.text(end * 1.03, row, text, va="center", ha="left", fontsize=8.5)
    axes.axvline(100, color=drawing.INK, linewidth=2)
    axes.set_xlim(0, end * 1.5)
    axes.set_xticks([tick for tick in (0, 25, 50, 75, 100, 150, 200, 300) if tick <= end])
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_bounds(0, end)


def _table(plan: Plan, prefix: str) -> Table:
    columns = (
        Column("device", "device", numeric=False),
        Column("workload", "workload", numeric=False),
        Column("model", "model", numeric=False),
        Column("batch_size", "batch"),
        Column("share_pct", "share (%)"),
        Column("instances", "instances", shown=False),
        Column("queue_delay_us", "queue delay (µs)"),
        Column("rate_rps", "rate (/s)"),
        Column("throughput_rps", "throughput, predicted (/s)"),
        Column("slo", "SLO"),
        Column("slo_ms", "SLO (ms)", shown=False),
        Column("percentile", "at p", shown=False),
        Column("slo_percentile_ms", "latency there, predicted (ms)"),
        Column("p50_ms", "p50, predicted (ms)", shown=False),
        Column("p95_ms", "p95, predicted (ms)", shown=False),
        Column("p99_ms", "p99, predicted (ms)", shown=False),
        Column("latency_ms", "batch, predicted (ms)"),
        Column("latency_low_ms", "batch, low (ms)", shown=False),
        Column("latency_high_ms", "batch, high (ms)", shown=False),
    )
    rows = tuple(
        {
            "device": device,
            "slo": f"{tenant.slo_ms:g} ms, p{tenant.percentile:g}",
            **tenant.model_dump(exclude={"predicted"}),
            **(tenant.predicted.model_dump() if tenant.predicted else {}),
        }
        for device, tenant in _tenants(plan)
    )
    return Table(f"{prefix}-tenants", "Workloads", columns, rows, folded=len(rows) > 24)
