"""Plots over input scale, a line for each size of container, as AC-Prof shows them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from igniter_prof.reporting import drawing
from igniter_prof.reporting.blocks import Plot, number, plural
from igniter_prof.reporting.scaling import OF, PowerOf, ScalePoint, Size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 12
_MAX_COLUMNS = 3
_WIDTHS = {1: 6.4, 2: 9.6}
_WHOSE = {"device": "of the device", "host": "of the host's processor packages"}

Value = Callable[[ScalePoint], float | None]
_Style = tuple[Any, str, str]
"""Colour, marker, dashes."""


def scale_plots(points: Sequence[ScalePoint], sources: Sequence[str], prefix: str) -> list[Plot]:
    """All plots that the points have data for.

    Args:
        points: of all panels.
        sources: how power and energy were measured, for people.
        prefix: of the plots' names.
    """
    drawn = _Drawn(points, _styles(points), tuple(sources), prefix)
    plots = [_latency(drawn)]
    for of in OF:
        plots += [_power(drawn, of), _energy(drawn, of), _latency_against_energy(drawn, of)]
    plots += [_cpu(drawn), _memory(drawn)]
    return [plot for plot in plots if plot is not None]


@dataclass(frozen=True)
class _Drawn:
    """What all plots have in common: a size looks the same in each."""

    points: Sequence[ScalePoint]
    style: Mapping[Size, _Style]
    sources: tuple[str, ...]
    prefix: str

    def said(self, of: PowerOf) -> str:
        """How power and energy were measured."""
        if of == "host":
            return "Of the whole host, whatever ran on it (RAPL)."
        return f"Measured: {'; '.join(self.sources)}." if self.sources else ""


def _latency(drawn: _Drawn) -> Plot | None:
    """Mean latency over input scale."""
    caption = "Bars: 95% interval of the mean."
    if any(point.out_of_memory for point in drawn.points):
        caption += " A cross on the axis: the container ran out of memory at that scale."
    return _over_scale(
        drawn,
        lambda p: p.latency_ms,
        f"{drawn.prefix}-latency-scale",
        "Latency over input scale",
        "mean latency (ms)",
        caption,
        bars=True,
    )


def _power(drawn: _Drawn, of: PowerOf) -> Plot | None:
    """Mean power over input scale."""
    return _over_scale(
        drawn,
        lambda p: p.power_w.get(of),
        f"{drawn.prefix}-power-scale-{of}",
        f"Power over input scale, {_WHOSE[of]}",
        "mean power (W)",
        drawn.said(of),
    )


def _energy(drawn: _Drawn, of: PowerOf) -> Plot | None:
    """Energy of an inference over input scale."""
    return _over_scale(
        drawn,
        lambda p: p.energy_j.get(of),
        f"{drawn.prefix}-energy-scale-{of}",
        f"Energy of an inference over input scale, {_WHOSE[of]}",
        "energy of an inference (J)",
        drawn.said(of),
    )


def _cpu(drawn: _Drawn) -> Plot | None:
    """CPU used over input scale."""
    return _over_scale(
        drawn,
        lambda p: p.used_cores,
        f"{drawn.prefix}-cpu-scale",
        "CPU used over input scale",
        "mean use (cores)",
        "Of each container over the counted window.",
    )


def _memory(drawn: _Drawn) -> Plot | None:
    """Memory peak over input scale."""
    return _over_scale(
        drawn,
        lambda p: p.memory_peak_mib,
        f"{drawn.prefix}-memory-scale",
        "Peak memory over input scale",
        "peak, with page cache (MiB)",
        "Of each container in the counted window; without page cache it is in the table.",
    )


def _latency_against_energy(drawn: _Drawn, of: PowerOf) -> Plot | None:
    """Latency against energy: a point for each input scale, lower left is better."""
    known = [p for p in drawn.points if p.latency_ms is not None and p.energy_j.get(of) is not None]
    if not known:
        return None

    def paint(axes: Axes, panel: Sequence[ScalePoint]) -> dict[Size, Any]:
        handles = {}
        for size, own in _lines(panel):
            colour, marker, _ = drawn.style[size]
            (handles[size],) = axes.plot(
                [p.energy_j[of] for p in own],
                [p.latency_ms or 0 for p in own],
                color=colour,
                marker=marker,
                linestyle="none",
                alpha=0.9,
            )
        drawing.scale_positive(axes, "x", [p.energy_j[of] for p in panel])
        drawing.scale_positive(axes, "y", [p.latency_ms or 0 for p in panel])
        axes.set_xlabel("energy of an inference (J)")
        return handles

    return _panels(
        known,
        paint,
        f"{drawn.prefix}-latency-energy-{of}",
        f"Latency against energy, {_WHOSE[of]}",
        "mean latency (ms)",
        f"A point for each input scale; lower left is better. {drawn.said(of)}",
    )


def _over_scale(
    drawn: _Drawn,
    value: Value,
    name: str,
    title: str,
    y_label: str,
    caption: str,
    *,
    bars: bool = False,
) -> Plot | None:
    known = [p for p in drawn.points if value(p) is not None]
    if not known:
        return None
    shown = {p.panel for p in known}
    failed = [p for p in drawn.points if bars and p.out_of_memory and p.panel in shown]
    one_unit = len({p.unit for p in known}) == 1

    def paint(axes: Axes, panel: Sequence[ScalePoint]) -> dict[Size, Any]:
        handles: dict[Size, Any] = {}
        lost = [p for p in failed if p.panel == panel[0].panel]
        for size, own in _lines(panel):
            colour, marker, dashes = drawn.style[size]
            means = [value(p) or 0.0 for p in own]
            handles[size] = axes.errorbar(
                [p.x for p in own],
                means,
                yerr=_bars(own) if bars else None,
                color=colour,
                marker=marker,
                linestyle=dashes,
                markersize=4 if len(own) > 12 else 5,
                capsize=2 if bars else 0,
                elinewidth=1,
            )
        values = [value(p) or 0.0 for p in panel]
        if bars:
            values += [edge for p in panel for edge in (p.low_ms or 0, p.high_ms or 0)]
        drawing.scale_positive(axes, "y", values)
        ticks = [p.x for p in (*panel, *lost)]
        drawing.fixed_ticks(axes, ticks, log_base=_log_base(ticks), gap=_gap(ticks))
        for place, (size, own) in enumerate(_lines(lost)):
            (cross,) = axes.plot(
                [p.x for p in own],
                [0.03 + 0.05 * place] * len(own),
                color=drawn.style[size][0],
                marker="x",
                markeredgewidth=2,
                linestyle="none",
                transform=axes.get_xaxis_transform(),
                clip_on=False,
            )
            handles.setdefault(size, cross)
        if not one_unit:
            axes.set_xlabel(panel[0].unit)
        return handles

    return _panels(
        known,
        paint,
        name,
        title,
        y_label,
        caption,
        x_label=known[0].unit if one_unit else "",
    )


def _bars(points: Sequence[ScalePoint]) -> list[list[float]]:
    """Lengths of the error bars below and above."""
    below = [max(0.0, (p.latency_ms or 0) - (p.low_ms or 0)) for p in points]
    above = [max(0.0, (p.high_ms or 0) - (p.latency_ms or 0)) for p in points]
    return [below, above]


def _gap(ticks: Sequence[float]) -> float:
    """How far two ticks must be apart, as a part of the axis, for their labels not to touch."""
    return max(0.09, 0.031 * max(len(number(tick)) for tick in ticks))


def _log_base(ticks: Sequence[float]) -> float | None:
    """Sizes from tens to thousands are powers of two; scales lie evenly."""
    return 2 if max(ticks) / min(ticks) > 30 else None


def _lines(points: Sequence[ScalePoint]) -> list[tuple[Size, list[ScalePoint]]]:
    """Points by size, small sizes first, in the order of their scale."""
    found: dict[Size, list[ScalePoint]] = defaultdict(list)
    for point in points:
        found[point.size].append(point)
    return [
        (size, sorted(found[size], key=lambda p: p.x))
        for size in sorted(found, key=lambda size: size.order)
    ]


def _styles(points: Sequence[ScalePoint]) -> dict[Size, _Style]:
    """Colour, marker and dashes of each size: dark is small, dashed is without the GPU."""
    sizes = [size for size, _ in _lines(points)]
    caps = sorted({size._replace(gpu=None) for size in sizes}, key=lambda size: size.order)
    colours = dict(zip(caps, drawing.ordered_colours(len(caps)), strict=True))
    both = len({size.gpu for size in sizes}) > 1
    return {
        size: (
            colours[size._replace(gpu=None)],
            drawing.MARKERS[number % len(drawing.MARKERS)],
            "--" if both and not size.gpu else "-",
        )
        for number, size in enumerate(sizes)
    }


def _panels(
    points: Sequence[ScalePoint],
    paint_panel: Callable[[Axes, Sequence[ScalePoint]], dict[Size, Any]],
    name: str,
    title: str,
    y_label: str,
    caption: str,
    *,
    x_label: str = "",
) -> Plot:
    """A grid of panels with one legend."""
    by_panel: dict[str, list[ScalePoint]] = defaultdict(list)
    for point in points:
        by_panel[point.panel].append(point)
    left_out = len(by_panel) - MAX_PANELS
    panels = list(by_panel.items())[:MAX_PANELS]
    if left_out > 0:
        caption += f" The first {MAX_PANELS} panels; {left_out} more are in the table."
    rows = math.ceil(len(panels) / _MAX_COLUMNS)
    columns = math.ceil(len(panels) / rows)
    width = _WIDTHS.get(columns, 11.0)
    texts = {point.size.text for point in points}
    # a marker, and about 6.2 px for each letter
    abreast = max(1, min(len(texts), int(96 * width / (58 + 6.2 * max(map(len, texts))))))

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        handles: dict[Size, Any] = {}
        for index, (axes, (label, own)) in enumerate(zip(grid.flat, panels, strict=False)):
            axes.set_title(drawing.label(label, 112 // columns))
            handles |= paint_panel(axes, own)
            if index % columns == 0:
                axes.set_ylabel(y_label)
            if x_label and index + columns >= len(panels):
                axes.set_xlabel(x_label)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        sizes = sorted(handles, key=lambda size: size.order)
        figure.legend(
            [handles[size] for size in sizes],
            [size.text for size in sizes],
            title="size of the container",
            loc="outside upper left",
            ncols=abreast,
            alignment="left",
        )

    svg = drawing.draw(
        name,
        width,
        0.45 + 0.2 * math.ceil(len(texts) / abreast) + 2.75 * rows,
        paint,
        f"{title}: {plural(len(panels), 'panel')}",
    )
    return Plot(name, title, svg, caption)
