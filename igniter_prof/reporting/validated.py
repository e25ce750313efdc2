"""The parts of a report that show a fit's validation: learning curve, errors, intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from igniter_prof.records import FitError, FitReport
from igniter_prof.reporting import drawing
from igniter_prof.reporting.blocks import Column, Plot, Table, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT_OUT = {
    "points": "points",
    "co-located points": "co-located points",
    "pairs": "sets of models, never measured together",
    "models": "models, measured alone only",
    "devices": "devices",
}
"""What cross-validation leaves out, by its name in the fit report."""

_ON_PLOT = {
    "points": "points",
    "co-located points": "co-located\npoints",
    "pairs": "sets never\ntogether",
    "models": "models only\nalone",
    "devices": "other\ndevices",
}
_LOOKS = (
    ("mean", "mean_pct", drawing.BLUE, "o", "-"),
    ("p90", "p90_pct", drawing.ORANGE, "s", "--"),
    ("p99", "p99_pct", drawing.VERMILION, "^", ":"),
)


def validation_plot(report: FitReport, prefix: str) -> Plot | None:
    """The learning curve, and errors the further the cells lie from what was fitted."""
    curve = [p for p in report.learning_curve if p.error.mean_pct is not None]
    known = {n: e for n, e in report.cross_validated.items() if e.mean_pct is not None}
    if not curve and not known:
        return None

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        handles = []
        for text, key, colour, marker, line in _LOOKS:
            points = [(p.cells, value) for p in curve if (value := getattr(p.error, key))]
            (handle,) = left.plot(
                [x for x, _ in points],
                [y for _, y in points],
                color=colour,
                marker=marker,
                linestyle=line,
                label=text,
            )
            handles.append(handle)
        if curve:
            values = [
                v
                for p in curve
                for _, key, *_ in _LOOKS
                if (v := getattr(p.error, key)) is not None
            ]
            left.set_ylim(0, 1.1 * max(values))
            drawing.fixed_ticks(left, [p.cells for p in curve], log_base=None, gap=0.06)
        else:
            left.set_axis_off()
        left.set_title("Learning curve")
        left.set_xlabel("co-located cells that were fitted to")
        left.set_ylabel("error of co-located hold-out (%)")
        _bars(right, known)
        figure.legend(
            handles, [text for text, *_ in _LOOKS], loc="outside upper left", ncols=len(_LOOKS)
        )

    name = f"{prefix}-validation"
    caption = (
        "Left: fits to growing parts of the co-located cells, all on the same hold-out: where the"
        " curve still falls, more cells would help. Right: what the fit says of cells that it had"
        " not seen, from near to far; by cross-validation."
    )
    svg = drawing.draw(name, 11.0, 3.8, paint, "Learning curve, and cross-validated errors")
    return Plot(name, "Validation", svg, caption)


def _bars(axes: Axes, errors: dict[str, FitError]) -> None:
    """Mean, p90 and p99 of each kind of cross-validation, as marks over its name."""
    axes.set_title("Cross-validated errors")
    if not errors:
        axes.set_axis_off()
        return
    names = list(errors)
    values = []
    for shift, (_, key, colour, marker, _line) in zip((-0.12, 0.0, 0.12), _LOOKS, strict=True):
        for place, name in enumerate(names):
            value = getattr(errors[name], key)
            if value is None:
                continue
            values.append(value)
            axes.plot([place + shift], [value], color=colour, marker=marker, linestyle="none")
            if key == "mean_pct":
                axes.annotate(
                    number(value),
                    (place + shift, value),
                    textcoords="offset points",
                    xytext=(-6, 0),
                    ha="right",
                    va="center",
                    fontsize=8.5,
                )
    axes.set_ylim(0, 1.1 * max(values))
    axes.set_xticks(range(len(names)), [_ON_PLOT.get(n, drawing.label(n)) for n in names])
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("error (%)")


def learning_table(report: FitReport, prefix: str) -> Table | None:
    """The learning curve as a table."""
    if not report.learning_curve:
        return None
    columns = (
        Column("cells", "co-located cells fitted"),
        Column("fraction_pct", "of all (%)"),
        Column("mean_pct", "mean (%)"),
        Column("median_pct", "median (%)"),
        Column("p90_pct", "p90 (%)"),
        Column("p99_pct", "p99 (%)"),
        Column("r2", "R²"),
    )
    rows = tuple(
        {**p.error.model_dump(), "cells": p.cells, "fraction_pct": p.fraction_pct}
        for p in report.learning_curve
    )
    caption = "Error of the co-located cells of the hold-out, the same ones in each row."
    return Table(f"{prefix}-learning", "Learning curve", columns, rows, caption)


def interval_table(report: FitReport, prefix: str) -> Table | None:
    """Coverage and width of the intervals."""
    if not report.intervals:
        return None
    columns = (
        Column("cells", "cells", numeric=False),
        Column("tenants", "tenants"),
        Column("coverage_pct", "inside (%)"),
        Column("half_width_pct", "half-width, median (%)"),
    )
    rows = tuple({"cells": name, **check.model_dump()} for name, check in report.intervals.items())
    caption = (
        "90% intervals of cross-validated cells, made without the errors of the cell's own fold."
    )
    return Table(f"{prefix}-intervals", "Intervals", columns, rows, caption)
