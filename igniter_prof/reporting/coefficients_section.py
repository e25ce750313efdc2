"""The part of a report that shows a fitted model: its errors first, then its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from igniter_prof.records import Coefficients, FitError, FitReport, Parameter
from igniter_prof.reporting import drawing
from igniter_prof.reporting.blocks import Badge, Column, Plot, Section, Table, number, plural, when
from igniter_prof.reporting.profile_section import device_text
from igniter_prof.reporting.validated import (
    LEFT_OUT,
    interval_table,
    learning_table,
    validation_plot,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BANDS_PCT = (1.0, 2.0, 5.0, 10.0)
"""Bands to draw: the first that holds nine of ten errors."""


@dataclass(frozen=True)
class Residual:
    """One tenant, predicted and measured."""

    measured_ms: float
    predicted_ms: float
    holdout: bool
    row: Mapping[str, Any]
    interval_ms: tuple[float, float] | None = None

    @property
    def error_pct(self) -> float:
        """Relative error of the prediction, in percent of what was measured."""
        return 100 * (self.predicted_ms / self.measured_ms - 1)


def coefficients_section(coefficients: Coefficients, source: str, prefix: str) -> Section:
    """Coefficients as plots and tables."""
    report = coefficients.report
    residuals = _residuals(report)
    blocks = (
        _fit_plot(residuals, prefix),
        None if report is None else validation_plot(report, prefix),
        None if report is None else _error_table(report, prefix),
        None if report is None else learning_table(report, prefix),
        None if report is None else interval_table(report, prefix),
        _parameter_table(coefficients, prefix),
        _residual_table(residuals, prefix),
    )
    return Section(
        anchor=prefix,
        title="Coefficients",
        source=source,
        badges=_badges(report),
        facts=(
            ("latency model", coefficients.model),
            ("device", device_text(coefficients.device)),
            ("models", ", ".join(sorted(coefficients.models)) or "none"),
            ("from profile", coefficients.profile_hash[:16]),
            ("seed", str(coefficients.seed)),
            ("made", f"{when(coefficients.created_at)}, igprof {coefficients.igprof}"),
        ),
        remarks=_remarks(report, residuals),
        blocks=tuple(block for block in blocks if block is not None),
    )


def _residuals(report: FitReport | None) -> tuple[Residual, ...]:
    """The residuals that can be drawn: both latencies known and positive."""
    found = []
    for row in report.residuals if report else ():
        measured, predicted = row.get("measured_ms"), row.get("predicted_ms")
        if not isinstance(measured, int | float) or not isinstance(predicted, int | float):
            continue
        if measured > 0 and predicted > 0:
            held = bool(row.get("holdout"))
            found.append(Residual(float(measured), float(predicted), held, row, _interval(row)))
    return tuple(found)


def _interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval of a residual where it has one that can be drawn."""
    low, high = row.get("low_ms"), row.get("high_ms")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return None
    return (float(low), float(high)) if 0 < low <= high < float("inf") else None


def _band_pct(residuals: Sequence[Residual]) -> float:
    """The narrowest band that holds nine of ten errors of the hold-out (of all without one)."""
    held = [r for r in residuals if r.holdout] or list(residuals)
    for band in _BANDS_PCT:
        if sum(abs(r.error_pct) <= band for r in held) >= 0.9 * len(held):
            return band
    return _BANDS_PCT[-1]


def _badges(report: FitReport | None) -> tuple[Badge, ...]:
    if report is None or report.holdout.mean_pct is None:
        return (Badge("no hold-out error is known", "warn"),)
    ours, none = report.holdout.mean_pct, report.holdout_none.mean_pct
    badges = [Badge(f"mean hold-out error {number(ours)}%")]
    if none is not None:
        better = ours < none
        badges.append(
            Badge(
                f"{'better' if better else 'not better'} than {report.naive} ({number(none)}%)",
                "good" if better else "warn",
            )
        )
    return tuple(badges)


def _remarks(report: FitReport | None, residuals: Sequence[Residual]) -> tuple[str, ...]:
    if report is None:
        return ("These coefficients carry no fit report.",)
    remarks = []
    hidden = len(report.residuals) - len(residuals)
    if hidden:
        remarks.append(f"{plural(hidden, 'residual')} without both latencies left out of the plot.")
    held = [r for r in residuals if r.holdout]
    if held:
        band = _band_pct(residuals)
        near = sum(abs(r.error_pct) <= band for r in held)
        remarks.append(
            f"{near} of {len(held)} hold-out predictions are within ±{band:g}%"
            " of what was measured."
        )
    known = [r for r in held if r.interval_ms is not None]
    if known:
        inside = sum(
            r.interval_ms[0] <= r.measured_ms <= r.interval_ms[1] for r in known if r.interval_ms
        )
        remarks.append(f"{inside} of {len(known)} hold-out measurements lie in their 90% interval.")
    return tuple(remarks)


def _fit_plot(residuals: Sequence[Residual], prefix: str) -> Plot | None:
    if not residuals:
        return None
    train = [r for r in residuals if not r.holdout]
    held = [r for r in residuals if r.holdout]
    groups: list[tuple[list[Residual], str, str, str, dict[str, Any]]] = [
        (train, "fitted to", drawing.BLUE, "o", {"facecolors": "none", "linewidths": 1.1, "s": 22}),
        (held, "hold-out, never fitted", drawing.VERMILION, "D", {"linewidths": 0, "s": 26}),
    ]
    latencies = [v for r in residuals for v in (r.measured_ms, r.predicted_ms)]
    band_pct = _band_pct(residuals)
    barred = [(r, *r.interval_ms) for r in held if r.interval_ms is not None]
    ends = [100 * (end / r.measured_ms - 1) for r, *both in barred for end in both]
    errors = [r.error_pct for r in residuals]
    # an endless interval may leave the picture, an error may not
    worst = max(1.2 * band_pct, *map(abs, errors), min(max(map(abs, ends), default=0.0), 100.0))
    worst *= 1.08

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        scatter, over, histogram = figure.subplots(1, 3, width_ratios=(4.4, 4.0, 1.7))
        over.sharey(histogram)
        span = (min(latencies) / 2, max(latencies) * 2)
        band = band_pct / 100
        scatter.fill_between(
            span,
            [v * (1 - band) for v in span],
            [v * (1 + band) for v in span],
            color=drawing.GRID,
            linewidth=0,
        )
        scatter.plot(span, span, color=drawing.MUTED, linewidth=1)
        over.axhspan(-band_pct, band_pct, color=drawing.BAND, linewidth=0, zorder=0)
        histogram.axhspan(-band_pct, band_pct, color=drawing.BAND, linewidth=0, zorder=0)
        for axes in (over, histogram):
            axes.axhline(0, color=drawing.MUTED, linewidth=1)
        handles, labels = [], []
        for group, text, colour, marker, look in groups:
            if not group:
                continue
            x = [r.measured_ms for r in group]
            options: dict[str, Any] = {"marker": marker, "zorder": 3, **look}
            options["edgecolors" if "facecolors" in look else "color"] = colour
            handles.append(scatter.scatter(x, [r.predicted_ms for r in group], **options))
            labels.append(f"{text} ({len(group)})")
            over.scatter(x, [r.error_pct for r in group], **options)
        bars: dict[str, Any] = {"color": drawing.VERMILION, "alpha": 0.45, "linewidth": 1.2}
        for r, low, high in barred:
            scatter.plot([r.measured_ms] * 2, [low, high], **bars)
            relative = [100 * (end / r.measured_ms - 1) for end in (low, high)]
            over.plot([r.measured_ms] * 2, relative, **bars)
        histogram.hist(
            [[r.error_pct for r in group] for group, *_ in groups],
            bins=[worst * (-1 + i / 10) for i in range(21)],
            orientation="horizontal",
            stacked=True,
            color=[colour for _, _, colour, _, _ in groups],
        )
        for axis in ("x", "y"):
            drawing.scale_positive(scatter, axis, latencies)
        drawing.scale_positive(over, "x", [r.measured_ms for r in residuals])
        over.set_ylim(-worst, worst)
        scatter.set_title("Predicted against measured")
        scatter.set_xlabel("measured mean latency (ms)")
        scatter.set_ylabel("predicted mean latency (ms)")
        over.set_title("Error over latency")
        over.set_xlabel("measured mean latency (ms)")
        over.set_ylabel("error of the prediction (%)")
        histogram.set_title("Errors")
        histogram.set_xlabel("tenants")
        histogram.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        histogram.tick_params(labelleft=False)
        figure.legend(handles, labels, loc="outside upper left", ncols=2)

    name = f"{prefix}-fit"
    caption = (
        f"Each mark is a tenant of a cell. Line: perfect prediction; band: ±{band_pct:g}%."
        " Only the hold-out tells how well the model predicts what it has not seen."
        + (" Bars: its 90% intervals; nine of ten should reach the line." if barred else "")
    )
    svg = drawing.draw(name, 11.0, 4.3, paint, "Predicted against measured latency, and errors")
    return Plot(name, "Prediction against measurement", svg, caption)


def _error_table(report: FitReport, prefix: str) -> Table:
    columns = (
        Column("group", "cells", numeric=False),
        Column("predictor", "predictor", numeric=False),
        Column("cells", "number"),
        Column("mean_pct", "mean (%)"),
        Column("median_pct", "median (%)"),
        Column("p90_pct", "p90 (%)"),
        Column("p99_pct", "p99 (%)"),
        Column("r2", "R²"),
    )

    def row(group: str, predictor: str, error: FitError) -> dict[str, Any]:
        return {"group": group, "predictor": predictor, **error.model_dump()}

    rows = (
        row("hold-out", "fitted model", report.holdout),
        row("hold-out", report.naive, report.holdout_none),
        row("fitted to", "fitted model", report.train),
        *(
            row(f"hold-out: {group}", "fitted model", error)
            for group, error in sorted(report.by_group.items())
        ),
        *(
            row(f"cross-validated by {LEFT_OUT.get(name, name)}", "fitted model", error)
            for name, error in report.cross_validated.items()
        ),
    )
    caption = "Relative error of the predicted mean latency, in percent of what was measured."
    return Table(f"{prefix}-errors", "Errors", columns, rows, caption)


def _parameter_table(coefficients: Coefficients, prefix: str) -> Table:
    columns = (
        Column("model", "model", numeric=False),
        Column("parameter", "parameter", numeric=False),
        Column("value", "value"),
        Column("std_error", "standard error"),
        Column("relative_error_pct", "relative (%)"),
    )

    def row(model: str | None, name: str, parameter: Parameter) -> dict[str, Any]:
        error, value = parameter.std_error, parameter.value
        relative = None if error is None or value == 0 else 100 * error / abs(value)
        return {
            "model": model,
            "parameter": name,
            "value": value,
            "std_error": error,
            "relative_error_pct": relative,
        }

    rows = [row("(device)", name, p) for name, p in sorted(coefficients.shared.items())]
    for model, parameters in sorted(coefficients.models.items()):
        rows += [row(model, name, p) for name, p in parameters.items()]
    caption = "No standard error: the parameter is fixed, or the profile does not identify it."
    return Table(
        f"{prefix}-parameters", "Parameters", columns, tuple(rows), caption, folded=len(rows) > 12
    )


def _residual_table(residuals: Sequence[Residual], prefix: str) -> Table | None:
    if not residuals:
        return None
    columns = (
        Column("cell_id", "cell", numeric=False),
        Column("model", "model", numeric=False),
        Column("batch_size", "batch"),
        Column("share_pct", "share (%)"),
        Column("neighbours", "beside", numeric=False),
        Column("part", "part", numeric=False),
        Column("measured_ms", "measured (ms)"),
        Column("predicted_ms", "predicted (ms)"),
        Column("low_ms", "90% interval: low (ms)", shown=False),
        Column("high_ms", "90% interval: high (ms)", shown=False),
        Column("error_pct", "error (%)"),
    )
    rows = tuple(
        {
            **r.row,
            "neighbours": _neighbours(r.row.get("neighbours")),
            "part": "hold-out" if r.holdout else "fitted to",
            "error_pct": r.error_pct,
        }
        for r in sorted(residuals, key=lambda r: -abs(r.error_pct))
    )
    return Table(
        f"{prefix}-residuals",
        "Predictions, worst first",
        columns,
        rows,
        folded=len(rows) > 12,
    )


def _neighbours(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return " + ".join(map(str, value)) or None
    return None if value is None else str(value)
