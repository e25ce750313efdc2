"""Matplotlib figures as inline SVG: no pyplot, no files, the page's own font and colours.

The neutral colours of a figure, and the one data colour that a dark page swallows, are written as
CSS variables, so that a figure follows the page into dark mode. Data colours are Okabe and Ito's,
which people with any colour vision tell apart (https://jfly.uni-koeln.de/color/), and lines differ
in their markers too.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from igniter_prof.reporting.blocks import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, ORANGE, GREY, YELLOW = "#56b4e9", "#e69f00", "#999999", "#f0e442"
INK, MUTED, GRID, BAND, PAPER = "#1b1c1e", "#63686e", "#dfe2e6", "#eef0f3", "#fdfdfe"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    BAND: "var(--band)",
    PAPER: "var(--paper)",
    BLUE: "var(--blue)",
}

PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, GREY, YELLOW)
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # real text: searchable, and in the page's font
    "text.parse_math": False,  # a model may well be called a$b$c
    "font.family": "DejaVu Sans",  # comes with matplotlib; only measures the text here
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.minor.visible": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "hatch.linewidth": 0.6,
}

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# what XML cannot hold, even escaped
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def draw(
    name: str, width_in: float, height_in: float, paint: Callable[[Figure], None], about: str
) -> str:
    """Draw a figure and return it as SVG markup for an HTML page.

    Args:
        name: unique on its page; every id in the markup begins with it.
        width_in: width in inches (96 px each).
        height_in: height in inches.
        paint: draws onto the empty figure.
        about: what a reader who cannot see it is told.
    """
    import matplotlib
    from matplotlib.figure import Figure

    out = io.BytesIO()
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # the browser has the glyphs that matplotlib's font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        figure.patch.set_visible(False)
        paint(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    return _inline(_NOT_XML.sub("", out.getvalue().decode()), name, about)


def _inline(svg: str, name: str, about: str) -> str:
    """A stand-alone SVG as part of an HTML page: own ids, the page's fonts and colours."""
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, _attribute(element.tag, key, value, name))
    root.attrib.pop("version", None)
    root.set("role", "img")
    root.set("aria-label", about)
    return ET.tostring(root, encoding="unicode")


def _attribute(tag: str, key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{_XLINK}}}href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", value)
    if key == "style":
        for colour, variable in _VARIABLES.items():
            value = value.replace(colour, variable)
        if tag == f"{{{_SVG}}}text":
            value = _page_font(value)
    return value


def _page_font(style: str) -> str:
    """Keep size and weight of a text, leave the family to the page."""
    match = re.search(r"font:\s*((?:[a-z]+\s+|\d{3}\s+)*)([\d.]+px)[^;]*", style)
    if match is None:
        return style
    weight = next((w for w in match[1].split() if w == "bold" or w.isdigit()), "normal")
    return style.replace(match[0], f"font-size: {match[2]}; font-weight: {weight}")


# --- small parts that the plots share ----------------------------------------------------------


def label(text: str, limit: int = 28) -> str:
    """A name as it fits on a plot: printable, short, and never hidden by a leading underscore."""
    clean = "".join(c if c.isprintable() else "�" for c in text)
    clean = clean if len(clean) <= limit else f"{clean[: limit - 1]}…"
    # matplotlib leaves labels that begin with "_" out of legends
    return f"\u200b{clean}" if clean.startswith("_") else clean


def ordered_colours(count: int) -> list[tuple[float, ...]]:
    """Colours for ordered values, from dark to light (viridis without its faint ends)."""
    import matplotlib

    ramp = matplotlib.colormaps["viridis"]
    steps = [0.5] if count == 1 else [0.3 + 0.56 * i / (count - 1) for i in range(count)]
    return [tuple(ramp(step)) for step in steps]


def colour_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a hatch for each name, in the order of the names."""
    known = sorted(set(names))
    return {
        name: (PALETTE[i % len(PALETTE)], HATCHES[i // len(PALETTE) % len(HATCHES)])
        for i, name in enumerate(known)
    }


def text_on(colour: Sequence[float] | str) -> str:
    """Black or white, whichever is read better on a colour (WCAG relative luminance)."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]  # type: ignore[arg-type]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.18 else "#ffffff"


def scale_positive(axes: Axes, axis: str, values: Sequence[float], *, pad: float = 1.15) -> None:
    """Scale an axis of positive values: from zero if they are near each other, else logarithmic.

    Args:
        axes: the axes to change.
        axis: ``x`` or ``y``.
        values: everything drawn along the axis, error bars included.
        pad: room at the ends, as a factor.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    positive = [value for value in values if value > 0 and math.isfinite(value)]
    line = axes.xaxis if axis == "x" else axes.yaxis
    set_limits = axes.set_xlim if axis == "x" else axes.set_ylim
    set_scale = axes.set_xscale if axis == "x" else axes.set_yscale
    low, high = (min(positive), max(positive)) if positive else (0.0, 1.0)
    if positive and high / low > 4:
        set_scale("log")
        # one step every half decade is enough where there are many decades
        subs = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
        line.set_major_locator(LogLocator(subs=subs, numticks=12))
        line.set_minor_locator(NullLocator())
        set_limits(low / pad, high * pad)
    else:
        line.set_major_locator(MaxNLocator(nbins=5))
        set_limits(0, high * pad)
    line.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def fixed_ticks(axes: Axes, values: Sequence[float], *, log_base: float | None, gap: float) -> None:
    """Put the x ticks exactly where something was measured, thinned out where they would touch.

    The ends stay, then the powers of the base.

    Args:
        axes: the axes to change.
        values: where something was measured.
        log_base: of a logarithmic axis; None: a linear one.
        gap: the least distance of two ticks, as a part of the axis.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks = sorted(set(values))
    logarithmic = log_base is not None and len(ticks) > 1
    position = {tick: math.log(tick, log_base or 2) if logarithmic else tick for tick in ticks}
    if logarithmic:
        axes.set_xscale("log", base=log_base)
    ends = (ticks[0], ticks[-1])
    span = (position[ends[1]] - position[ends[0]]) or 1.0

    def importance(tick: float) -> tuple[bool, bool, float]:
        power = logarithmic and position[tick] == round(position[tick])
        return (tick not in ends, not power, tick)

    kept: list[float] = []
    for tick in sorted(ticks, key=importance):
        if all(abs(position[tick] - position[other]) >= gap * span for other in kept):
            kept.append(tick)
    axes.xaxis.set_major_locator(FixedLocator(sorted(kept)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
