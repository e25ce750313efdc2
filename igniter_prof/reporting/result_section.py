"""The part of a report that shows what an evaluation measured for a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from igniter_prof.records import Quantile, Result, WorkloadResult
from igniter_prof.reporting import drawing
from igniter_prof.reporting.blocks import (
    Badge,
    Column,
    Plot,
    Section,
    Table,
    number,
    plural,
    some,
    when,
)
from igniter_prof.reporting.derived import quantile_ms
from igniter_prof.reporting.profile_section import condition_facts
from igniter_prof.units import format_duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PERCENTILES = (("p50", drawing.SKY, "o"), ("p95", drawing.ORANGE, "s"), ("p99", drawing.PINK, "D"))


def result_section(result: Result, source: str, prefix: str) -> Section:
    """A result as plots and tables."""
    blocks = (_table(result, prefix), _percentile_plot(result.workloads, prefix))
    return Section(
        anchor=prefix,
        title="Result",
        source=source,
        badges=_badges(result),
        facts=(
            ("plan", result.plan_hash[:16]),
            ("loaded for", format_duration(result.duration_s)),
            ("seed", str(result.seed)),
            ("made", when(result.created_at)),
            *condition_facts([result.conditions]),
        ),
        remarks=_remarks(result),
        blocks=tuple(block for block in blocks if block is not None),
    )


def verdict(workload: WorkloadResult) -> Badge:
    """Whether a workload kept its SLO, as a badge."""
    if workload.status != "ok":
        return Badge(workload.status, "bad")
    if workload.slo_met is None:
        return Badge("not judged", "warn")
    return Badge("met", "good") if workload.slo_met else Badge("violated", "bad")


def _badges(result: Result) -> tuple[Badge, ...]:
    total = len(result.workloads)
    if not total:
        return (Badge("empty: no workload was evaluated", "warn"),)
    met = sum(w.slo_met is True for w in result.workloads)
    if result.slo_met and met == total:
        return (Badge(f"all {total} SLOs met" if total > 1 else "the SLO is met", "good"),)
    return (Badge(f"{total - met} of {plural(total, 'SLO')} not met", "bad"),)


def _remarks(result: Result) -> tuple[str, ...]:
    lines = [
        f"{w.workload}: {verdict(w).text}{_because(w)}"
        for w in result.workloads
        if w.slo_met is not True
    ]
    lagged = [w.workload for w in result.workloads if w.lagged_pct is not None and w.lagged_pct > 1]
    if lagged:
        lines.append(f"The client sent over 1% of the requests late: {', '.join(lagged)}.")
    if result.conditions.client_apart is False:
        lines.append("The client ran on the device's own cores and took time from the servers.")
    return (*some(lines, 6), *result.notes)


def _because(workload: WorkloadResult) -> str:
    if workload.detail:
        return f" ({workload.detail})"
    if workload.violations_pct is None:
        return ""
    return f" ({number(workload.violations_pct)}% of its requests over the SLO or failed)"


def _table(result: Result, prefix: str) -> Table:
    columns = (
        Column("workload", "workload", numeric=False),
        Column("verdict", "verdict", numeric=False),
        Column("model", "model", numeric=False, shown=False),
        Column("device", "device", numeric=False, shown=False),
        Column("batch_size", "batch", shown=False),
        Column("share_pct", "share (%)", shown=False),
        Column("rate_rps", "rate (/s)"),
        Column("slo", "SLO"),
        Column("slo_ms", "SLO (ms)", shown=False),
        Column("percentile", "at p", shown=False),
        *(
            column
            for p, _, _ in _PERCENTILES
            for column in (
                Column(f"{p}_predicted_ms", "predicted", group=f"{p} (ms)"),
                Column(f"{p}_ms", "measured", group=f"{p} (ms)"),
                Column(f"{p}_low_ms", f"{p} low (ms)", shown=False),
                Column(f"{p}_high_ms", f"{p} high (ms)", shown=False),
            )
        ),
        Column("throughput_rps", "throughput (/s)"),
        Column("goodput_rps", "goodput (/s)"),
        Column("violations_pct", "violations (%)"),
        Column("requests", "requests", shown=False),
        Column("failed_requests", "failed", shown=False),
        Column("executed_batch", "executed batch", shown=False),
        Column("lagged_pct", "sent late (%)", shown=False),
        Column("detail", "why", numeric=False, shown=False),
    )
    caption = (
        "Latencies count from the instant at which a request was meant to be sent. Goodput:"
        " answers within the SLO. Violations: requests over the SLO or failed, of all requests."
    )
    rows = tuple(_row(workload) for workload in result.workloads)
    return Table(f"{prefix}-workloads", "SLOs", columns, rows, caption)


def _row(workload: WorkloadResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        **workload.model_dump(exclude={"latency", "latency_sent", "predicted"}),
        "verdict": verdict(workload),
        "slo": f"{workload.slo_ms:g} ms, p{workload.percentile:g}",
    }
    for name, _, _ in _PERCENTILES:
        quantile = _quantile(workload, name)
        row[f"{name}_ms"] = quantile_ms(quantile)
        row[f"{name}_low_ms"] = quantile and quantile.low_ms
        row[f"{name}_high_ms"] = quantile and quantile.high_ms
        row[f"{name}_predicted_ms"] = _predicted(workload, name)
    return row


def _quantile(workload: WorkloadResult, name: str) -> Quantile | None:
    return None if workload.latency is None else getattr(workload.latency, name)


def _predicted(workload: WorkloadResult, name: str) -> float | None:
    return None if workload.predicted is None else getattr(workload.predicted, f"{name}_ms")


def _percentile_plot(workloads: Sequence[WorkloadResult], prefix: str) -> Plot | None:
    """Measured and predicted percentiles of each workload, in percent of its SLO."""
    shown = [
        w
        for w in workloads
        if any(_quantile(w, name) or _predicted(w, name) for name, _, _ in _PERCENTILES)
    ]
    if not shown:
        return None

    def paint(figure: Figure) -> None:
        from matplotlib.lines import Line2D

        axes = figure.subplots()
        values = [100.0]
        for row, workload in enumerate(shown):
            scale = 100 / workload.slo_ms
            axes.axhspan(row - 0.42, row + 0.42, color=drawing.BAND, linewidth=0, zorder=0)
            for index, (name, colour, marker) in enumerate(_PERCENTILES):
                at = row + 0.26 * (index - 1)
                quantile, predicted = _quantile(workload, name), _predicted(workload, name)
                if quantile is not None:
                    low = quantile.value_ms if quantile.low_ms is None else quantile.low_ms
                    high = quantile.value_ms if quantile.high_ms is None else quantile.high_ms
                    axes.errorbar(
                        quantile.value_ms * scale,
                        at,
                        color=colour,
                        marker=marker,
                        markersize=6,
                        xerr=[
                            [(quantile.value_ms - low) * scale],
                            [(high - quantile.value_ms) * scale],
                        ],
                        capsize=3,
                        elinewidth=1.4,
                        zorder=3,
                    )
                    values += [low * scale, high * scale]
                if predicted is not None:
                    axes.plot(
                        predicted * scale,
                        at,
                        marker="|",
                        markersize=11,
                        markeredgewidth=2,
                        color=drawing.INK,
                        zorder=4,
                    )
                    values.append(predicted * scale)
            if workload.latency is None:
                axes.text(
                    0.99,
                    row,
                    f"not measured: {verdict(workload).text}",
                    transform=axes.get_yaxis_transform(),
                    ha="right",
                    va="center",
                    color=drawing.MUTED,
                )
        axes.axvline(100, color=drawing.VERMILION, linewidth=2, zorder=2)
        drawing.scale_positive(axes, "x", values)
        axes.set_yticks(
            range(len(shown)),
            [f"{drawing.label(w.workload)}\n{w.slo_ms:g} ms at p{w.percentile:g}" for w in shown],
        )
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("latency of a request (% of its SLO)")
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        handles = [
            Line2D([], [], color=colour, marker=marker, label=f"{name} measured, 95% interval")
            for name, colour, marker in _PERCENTILES
        ]
        handles += [
            Line2D(
                [],
                [],
                color=drawing.INK,
                marker="|",
                markersize=11,
                markeredgewidth=2,
                linestyle="none",
                label="predicted",
            ),
            Line2D([], [], color=drawing.VERMILION, linewidth=2, label="SLO"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=5)

    name = f"{prefix}-percentiles"
    svg = drawing.draw(
        name,
        11.0,
        1.15 + 0.72 * len(shown),
        paint,
        "Measured and predicted percentiles against the SLO",
    )
    caption = (
        "Left of the line at 100% is within the SLO. An SLO holds at the percentile that stands"
        " with it; the other percentiles may lie on either side."
    )
    return Plot(name, "Latency percentiles", svg, caption)
