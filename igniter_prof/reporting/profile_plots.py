"""Plots of a profile: latency over batch and share, slowdown, drift."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from igniter_prof.reporting import drawing
from igniter_prof.reporting.blocks import Plot, plural
from igniter_prof.reporting.derived import DriftPoint, Slowdown, SoloPoint, load_text, variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_COLUMNS = 4
_MAX_NEIGHBOURS = 28  # columns of the heat map that can still be read


def latency_over_batch(points: Sequence[SoloPoint], prefix: str) -> Plot | None:
    """Solo latency over batch size, a panel for each model, a line for each share."""
    if not points:
        return None
    return _small_multiples(
        points,
        name=f"{prefix}-latency-batch",
        title="Latency over batch size, alone on the device",
        x=lambda p: float(p.tenant.batch_size),
        x_label="batch size (inferences)",
        x_log_base=2,
        line=lambda p: p.tenant.share_pct,
        line_title="share of the device",
        line_label=lambda share: "no own share" if share is None else f"{share:g}%",
    )


def latency_over_share(points: Sequence[SoloPoint], prefix: str) -> Plot | None:
    """Solo latency over share, a panel for each model, a line for each batch size."""
    shared = [point for point in points if point.tenant.share_pct is not None]
    if len({point.tenant.share_pct for point in shared}) < 2:
        return None
    return _small_multiples(
        shared,
        name=f"{prefix}-latency-share",
        title="Latency over share, alone on the device",
        x=lambda p: float(p.tenant.share_pct or 0),
        x_label="share of the device (%)",
        x_log_base=None,
        line=lambda p: float(p.tenant.batch_size),
        line_title="batch size",
        line_label=lambda batch: f"{batch:g}",
    )


def _small_multiples(
    points: Sequence[SoloPoint],
    *,
    name: str,
    title: str,
    x: Callable[[SoloPoint], float],
    x_label: str,
    x_log_base: float | None,
    line: Callable[[SoloPoint], float | None],
    line_title: str,
    line_label: Callable[[float | None], str],
) -> Plot:
    panels: dict[str, list[SoloPoint]] = defaultdict(list)
    for point in points:
        panels[_panel(point, points)].append(point)
    lines = sorted({line(point) for point in points}, key=lambda v: (v is None, v or 0))
    colours = dict(zip(lines, drawing.ordered_colours(len(lines)), strict=True))
    rows = math.ceil(len(panels) / _MAX_COLUMNS)
    columns = math.ceil(len(panels) / rows)  # as few gaps as can be

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        handles = {}
        for index, (axes, panel) in enumerate(zip(grid.flat, sorted(panels), strict=False)):
            axes.set_title(drawing.label(panel, 112 // columns))
            for number, value in enumerate(lines):
                of_line = sorted((p for p in panels[panel] if line(p) == value), key=x)
                if of_line:
                    handles[value] = _error_line(
                        axes,
                        [x(p) for p in of_line],
                        of_line,
                        colours[value],
                        drawing.MARKERS[number % len(drawing.MARKERS)],
                    )
            bounds = [b for p in panels[panel] for b in (p.low_ms, p.high_ms, p.latency_ms)]
            drawing.scale_positive(axes, "y", bounds)
            drawing.fixed_ticks(
                axes, [x(p) for p in panels[panel]], log_base=x_log_base, gap=0.03 * columns
            )
            if index % columns == 0:
                axes.set_ylabel("mean latency of a batch (ms)")
            if index + columns >= len(panels):
                axes.set_xlabel(x_label)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        present = [value for value in lines if value in handles]
        figure.legend(
            [handles[value] for value in present],
            [line_label(value) for value in present],
            title=line_title,
            loc="outside upper left",
            ncols=min(12, len(present)),
            alignment="left",
        )

    width = {1: 5.6, 2: 8.4}.get(columns, 11.0)
    svg = drawing.draw(
        name, width, 0.55 + 2.65 * rows, paint, f"{title}: {plural(len(panels), 'panel')}"
    )
    return Plot(name, title, svg, bars_caption(points))


def bars_caption(points: Sequence[SoloPoint]) -> str:
    """What the bars are: an import knows no intervals, but its repeats may differ."""
    repeated = sum(point.cells > 1 for point in points)
    once = [point for point in points if point.cells == 1]
    if once and not any(point.low_ms < point.high_ms for point in once):
        span = f"; bars span the {plural(repeated, 'point')} measured more than once"
        return f"Intervals of the means are not known{span if repeated else ''}."
    caption = "Bars: 95% interval of the mean"
    if repeated:
        caption += (
            f"; for the {plural(repeated, 'point')} measured more than once they span all intervals"
        )
    return caption + "."


def _panel(point: SoloPoint, points: Sequence[SoloPoint]) -> str:
    """A panel's title: the model, and its load and protocol where the profile has several."""
    title = variant(point.tenant)
    if len({other.load for other in points}) > 1:
        title += f", {load_text(point.load)}"
    if len({other.protocol for other in points}) > 1:
        title += f", {point.protocol}"
    return title


def _error_line(
    axes: Axes,
    x: Sequence[float],
    points: Sequence[SoloPoint],
    colour: tuple[float, ...],
    marker: str,
) -> Any:
    means = [p.latency_ms for p in points]
    below = [p.latency_ms - p.low_ms for p in points]
    above = [p.high_ms - p.latency_ms for p in points]
    return axes.errorbar(
        x, means, yerr=[below, above], color=colour, marker=marker, capsize=2.5, elinewidth=1
    )


def slowdown_map(slowdowns: Sequence[Slowdown], prefix: str) -> Plot | None:
    """A heat map: row the model that is slowed down, column its neighbours."""
    if not slowdowns:
        return None
    columns = sorted({s.neighbours for s in slowdowns}, key=lambda n: (len(n), n))
    left_out = max(0, len(columns) - _MAX_NEIGHBOURS)
    if left_out:
        worst: dict[tuple[str, ...], float] = {}
        for entry in slowdowns:
            worst[entry.neighbours] = max(entry.factor, worst.get(entry.neighbours, 0))
        kept = sorted(columns, key=lambda n: -worst[n])[:_MAX_NEIGHBOURS]
        columns = [column for column in columns if column in kept]
    models = sorted({s.model for s in slowdowns})
    entries = {(s.model, s.neighbours): s for s in slowdowns}
    highest = max(1.25, max(s.factor for s in slowdowns))
    wide = max(0.62, min(1.35, 8.6 / len(columns)))

    def paint(figure: Figure) -> None:
        import matplotlib
        from matplotlib.patches import Rectangle

        axes = figure.subplots()
        ramp = matplotlib.colormaps["YlOrBr"]
        for row, model in enumerate(models):
            for column, neighbours in enumerate(columns):
                entry = entries.get((model, neighbours))
                corner = (column + 0.02, row + 0.03)
                if entry is None:
                    axes.add_patch(Rectangle(corner, 0.96, 0.94, color=drawing.BAND, lw=0))
                    axes.text(
                        column + 0.5, row + 0.5, "–", ha="center", va="center", color=drawing.MUTED
                    )
                    continue
                heat = min(1.0, max(0.0, (entry.factor - 1) / (highest - 1)))
                colour = ramp(0.04 + 0.78 * heat)
                axes.add_patch(Rectangle(corner, 0.96, 0.94, color=colour, lw=0))
                ink = drawing.text_on(colour)
                axes.text(
                    column + 0.5,
                    row + 0.42,
                    f"{entry.factor:.2f}×",
                    ha="center",
                    va="center",
                    color=ink,
                    fontweight="bold",
                )
                axes.text(
                    column + 0.5,
                    row + 0.73,
                    f"n = {entry.cells}",
                    ha="center",
                    va="center",
                    color=ink,
                    fontsize=7,
                )
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(models), 0)
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        tilt = 0 if wide > 0.9 and all(len(n) == 1 for n in columns) else 35
        axes.set_xticks(
            [i + 0.5 for i in range(len(columns))],
            [_neighbour_label(n, upright=tilt == 0) for n in columns],
            rotation=tilt,
            ha="center" if tilt == 0 else "right",
            rotation_mode="anchor" if tilt else "default",
        )
        axes.set_yticks([i + 0.5 for i in range(len(models))], [drawing.label(m) for m in models])
        axes.set_xlabel("beside (neighbours)")
        axes.set_ylabel("model slowed down")

    counts = sorted(s.cells for s in slowdowns)
    most = plural(counts[-1], "cell")
    each = most if counts[0] == counts[-1] else f"{counts[0]} to {most}"
    caption = (
        "Mean latency beside the neighbours over mean latency alone, at the same batch size and"
        f" share; each entry is the mean over {each} (n). 1.00× is no slowdown, darker is"
        " slower. Only cells in which every tenant ended ok and whose solo twin was measured count."
    )
    if left_out:
        caption += f" The {len(columns)} worst columns; {left_out} more are in the table."
    name = f"{prefix}-slowdown-map"
    longest = max(len(" + ".join(n)) for n in columns)
    width = min(11.0, 2.4 + wide * len(columns))
    height = 1.1 + 0.62 * len(models) + min(1.6, 0.03 * longest)
    svg = drawing.draw(name, width, height, paint, "Heat map of co-location slowdown")
    return Plot(name, "Slowdown by co-location", svg, caption)


def _neighbour_label(neighbours: tuple[str, ...], *, upright: bool) -> str:
    limit = 16 if upright else 18
    return " + ".join(drawing.label(model, limit) for model in neighbours)


def drift_plot(points: Sequence[DriftPoint], prefix: str) -> Plot | None:
    """Change of the repeated baselines over the time of the sweep."""
    if len(points) < 2:
        return None
    names = sorted({point.name for point in points})
    minutes = max(point.elapsed_s for point in points) > 300
    unit, divisor = ("min", 60.0) if minutes else ("s", 1.0)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=drawing.MUTED, linewidth=1)
        for index, name in enumerate(names):
            own = [point for point in points if point.name == name]
            axes.errorbar(
                [point.elapsed_s / divisor for point in own],
                [point.change_pct for point in own],
                yerr=[point.ci_pct or 0 for point in own],
                color=drawing.PALETTE[index % len(drawing.PALETTE)],
                marker=drawing.MARKERS[index % len(drawing.MARKERS)],
                capsize=2.5,
                elinewidth=1,
                label=drawing.label(name, 48),
            )
        reach = max(3.0, *(abs(p.change_pct) + (p.ci_pct or 0) for p in points)) * 1.1
        axes.set_ylim(-reach, reach)
        axes.set_xlabel(f"time since the first baseline ({unit})")
        axes.set_ylabel("change of mean latency (%)")
        figure.legend(loc="outside upper left", ncols=2)

    name = f"{prefix}-drift"
    rows = math.ceil(len(names) / 2)
    svg = drawing.draw(
        name, 11.0, 2.7 + 0.22 * rows, paint, "Drift of the solo baselines over time"
    )
    caption = (
        "The same solo cells, repeated through the sweep, against their first measurement. Bars:"
        " 95% interval of the mean. A trend here is a trend of the machine, not of a cell."
    )
    return Plot(name, "Drift of the baselines", svg, caption)
