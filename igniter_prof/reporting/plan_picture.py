"""The picture of a plan: devices as bars of shares, each tenant's latency against its SLO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igniter_prof.errors import BadInput
from igniter_prof.files import atomic_write
from igniter_prof.records import Plan, PlanTenant
from igniter_prof.reporting import drawing
from igniter_prof.reporting.blocks import SYMBOLS, number, plural
from igniter_prof.reporting.inputs import read_inputs
from igniter_prof.reporting.plan_kinds import (
    Kind,
    Shown,
    broken,
    late,
    load_pct,
    overloaded,
    shown_of,
    tenants_of,
    type_name,
    utilisation,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# all lengths are inches of the drawing
_WIDTH = 11.0
_LANE, _GAP = 0.19, 0.13
_LEAST_LANES = 2  # a bar has room for two lines of text
_GUTTER = 0.14
_PANEL, _VALUE, _USED = 1.6, 1.72, 0.6
_NAMES = (0.5, 1.7)  # least and most of a column of names
_VALUE_LETTERS = 22  # that a value has room for
_LEGEND_ROW = 0.21
_BODY_PT, _SMALL_PT = 8.5, 7.5

_MOST_PCT = 300.0  # a hopeless workload must not flatten all others
_LITERAL = {
    "ink": drawing.INK,
    "muted": drawing.MUTED,
    "grid": drawing.GRID,
    "band": drawing.BAND,
    "paper": drawing.PAPER,
    "blue": drawing.BLUE,
}
"""The light page's colours, for where there is no page."""


def write_picture(inputs: Sequence[Path], out: Path) -> Path:
    """Write the picture of one plan as an SVG file; the same plan gives the same bytes.

    Raises:
        BadInput: the inputs are not exactly one plan, or ``out`` cannot be written.
        MissingCapability: no disk space is left.
    """
    sources = read_inputs(inputs)
    plans = [source.content for source in sources if isinstance(source.content, Plan)]
    if len(sources) != 1 or not plans:
        given = f"{plural(len(sources), 'input')} with {plural(len(plans), 'plan')}"
        raise BadInput(
            f"an SVG is the picture of one plan, and this would be of {given}",
            where=str(out),
            hint="give one PLAN.json, or an --out that ends in .html for all of them",
        )
    svg = plan_svg(plans[0])
    with atomic_write(Path(out)) as stream:
        stream.write(svg.encode("utf-8", "replace"))
    return Path(out)


def plan_svg(plan: Plan) -> str:
    """The picture of a plan as a whole SVG document, in colours of its own, with text as text."""
    svg = draw_plan(plan, shown_of(plan), "plan", heading=True)
    for name, colour in _LITERAL.items():
        svg = svg.replace(f"var(--{name})", colour)
    start = svg.index(">") + 1
    font = ' font-family="DejaVu Sans, Verdana, Arial, sans-serif"'
    paper = f'<rect width="100%" height="100%" fill="{drawing.PAPER}" />'
    return f"{svg[: start - 1]}{font}>{paper}{svg[start:]}\n"


def draw_plan(plan: Plan, shown: Shown, name: str, *, heading: bool = False) -> str:
    """The picture of a plan as SVG markup for an HTML page; all its ids begin with ``name``."""
    looks = drawing.colour_of(tenant.model for tenant in tenants_of(plan.devices))
    layout = _layout(plan, shown, looks, heading=heading)
    about = f"{plural(len(plan.devices), 'device')}, their tenants, shares and predicted latencies"

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("none")  # every place is known
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, _WIDTH)
        axes.set_ylim(layout.height, 0)
        if heading:
            _text(axes, 0.08, 0.2, headline(plan), size=11, weight="bold")
        _legend(figure, layout, looks)
        _headers(axes, layout)
        rows = zip(layout.tops, shown.kinds, layout.labels, layout.names, strict=True)
        for top, kind, labels, names in rows:
            middle = top + _height(kind) / 2
            for line, text in enumerate(labels):
                y = middle + 0.15 * (line - (len(labels) - 1) / 2)
                size, colour = (_SMALL_PT, drawing.MUTED) if line else (_BODY_PT, drawing.INK)
                _text(axes, layout.bars - 0.1, y, text, size=size, color=colour, ha="right")
            _bar(axes, layout, kind, top, looks, merged=shown.merged)
            _lanes(axes, layout, kind, names, top, looks)
        if shown.hidden:
            _text(axes, layout.bars, layout.height - 0.2, f"… and {hidden_text(shown)}")

    return drawing.draw(name, _WIDTH, layout.height, paint, about)


def hidden_text(shown: Shown) -> str:
    """What a picture leaves out, in words."""
    text = f"{shown.hidden_devices} more devices of {plural(len(shown.hidden), 'kind')}"
    over = sum(kind.count for kind in shown.hidden if kind.breaks)
    return f"{text}, {over} of them with a broken promise" if over else text


def headline(plan: Plan) -> str:
    """A plan in one line."""
    parts = [plural(len(plan.devices), "device"), f"strategy {plan.strategy}"]
    if plan.optimal:
        parts.append("proven optimal")
    elif plan.gap is not None:
        parts.append(f"at most {number(100 * plan.gap)}% above the optimum")
    return "Plan: " + ", ".join(parts)


# --- layout ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Where things are, in inches; ``x`` of columns grows to the right, ``y`` downwards."""

    height: float
    legend: float
    """y of the legend's top."""
    legend_columns: int
    head: float
    """y of the line under the headings of the columns."""
    tops: tuple[float, ...]
    """y of the bars' tops."""
    labels: tuple[tuple[str, ...], ...]
    """Lines beside each bar."""
    names: tuple[tuple[str, ...], ...]
    """A text for each lane of each bar."""
    bars: float
    bars_width: float
    widest_pct: float
    lanes: float
    panel: float
    end_pct: float


def _layout(
    plan: Plan, shown: Shown, looks: Mapping[str, tuple[str, str]], *, heading: bool
) -> _Layout:
    labels = tuple(_device_lines(plan, kind, merged=shown.merged) for kind in shown.kinds)
    names = tuple(_lane_names(kind, merged=shown.merged) for kind in shown.kinds)
    bars = _column_width(text for lines in labels for text in lines) + 0.16
    lanes_width = _column_width(text for each in names for text in each) + 0.2
    panel = _WIDTH - _USED - _VALUE - _PANEL
    lanes = panel - lanes_width - 0.06

    longest = max(len(drawing.label(model)) for model in looks)
    legend_columns = max(1, int((_WIDTH - 0.4) / (0.42 + _points(longest, 9) / 72)))
    legend = 0.38 if heading else 0.05
    head = legend + 0.3 + _LEGEND_ROW * -(-len(looks) // legend_columns) + 0.5

    tops, y = [], head + 0.1
    for kind in shown.kinds:
        tops.append(y)
        y += _height(kind) + _GAP
    tenants = tenants_of(kind.device for kind in shown.kinds)
    sums = [sum(t.share_pct for t in kind.device.tenants) for kind in shown.kinds]
    known = [load_pct(t) or 0 for t in tenants] + [_ends_pct(t)[1] or 0 for t in tenants]
    return _Layout(
        height=y + (0.4 if shown.hidden else 0.05),
        legend=legend,
        legend_columns=legend_columns,
        head=head,
        tops=tuple(tops),
        labels=labels,
        names=names,
        bars=bars,
        bars_width=lanes - _GUTTER - bars,
        # a plan from elsewhere may promise more than a device has
        widest_pct=max(100.0, *sums),
        lanes=lanes,
        panel=panel,
        end_pct=min(_MOST_PCT, max(110.0, *known)),
    )


def _height(kind: Kind) -> float:
    return _LANE * max(len(kind.lanes), _LEAST_LANES)


def _points(letters: int, size: float) -> float:
    """About the width of a text, in points."""
    return 0.62 * size * letters


def _column_width(texts: Iterable[str]) -> float:
    longest = max((len(text) for text in texts), default=0)
    return min(max(_points(longest, _BODY_PT) / 72, _NAMES[0]), _NAMES[1])


_NAME_LETTERS = int(_NAMES[1] * 72 / _points(1, _BODY_PT))


def _fit(name: str, letters: int) -> str:
    """A name, cut in the middle if it is long: names often differ in their ends."""
    clean = drawing.label(name, len(name) + 1)
    if len(clean) <= letters:
        return clean
    tail = letters // 2
    return f"{clean[: letters - tail - 1]}…{clean[len(clean) - tail :]}"


def _device_lines(plan: Plan, kind: Kind, *, merged: bool) -> tuple[str, ...]:
    """Name or number of devices; type, where there are several; power and memory, if known."""
    device = kind.device
    several = len(plan.device_types) > 1 or len({d.type for d in plan.devices}) > 1
    kind_name = type_name(plan, device)
    number_of = f" × {kind.count}"
    if merged:
        room = _NAME_LETTERS - len(number_of)
        lines = [drawing.label(kind_name or "", room) + number_of if several else number_of[1:]]
    else:
        lines = [_fit(device.name, _NAME_LETTERS)]
        if several and kind_name is not None:
            lines.append(drawing.label(kind_name, _NAME_LETTERS))
    known = [
        None if device.power_w is None else f"{number(device.power_w)} W",
        None if device.memory_mib is None else f"{number(device.memory_mib / 1024)} GiB",
    ]
    if any(known):
        lines.append(", ".join(filter(None, known)) + (" each" if merged else ""))
    return tuple(lines)


def _lane_names(kind: Kind, *, merged: bool) -> tuple[str, ...]:
    def name(tenant: PlanTenant, count: int) -> str:
        if not merged:
            return _fit(tenant.workload, _NAME_LETTERS)
        times = f"{count} × " if count > 1 else ""
        rate = f" {number(tenant.rate_rps)}/s"
        return times + drawing.label(tenant.model, _NAME_LETTERS - len(times + rate)) + rate

    return tuple(name(lane.tenant, lane.count) for lane in kind.lanes)


# --- parts -------------------------------------------------------------------------------------


def _text(axes: Axes, x: float, y: float, text: str, **look: Any) -> None:
    size = look.pop("size", _BODY_PT)
    axes.text(x, y, text, fontsize=size, **{"va": "center", "in_layout": False, **look})


def _box(axes: Axes, x: float, y: float, width: float, height: float, **look: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, **{"linewidth": 0, **look}))


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], width: float = 1.0) -> None:
    axes.plot(x, y, color=drawing.INK, linewidth=width, solid_capstyle="butt")


def _legend(figure: Figure, layout: _Layout, looks: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.patches import Patch

    figure.legend(
        [Patch(facecolor=c, hatch=h, edgecolor=drawing.PAPER) for c, h in looks.values()],
        [drawing.label(model) for model in looks],
        title="model",
        loc="upper left",
        bbox_to_anchor=(0.003, 1 - layout.legend / layout.height),
        borderaxespad=0,
        borderpad=0.2,
        ncols=layout.legend_columns,
        alignment="left",
    )


def _headers(axes: Axes, layout: _Layout) -> None:
    titles = (
        (layout.bars, "share of the device (%)"),
        (layout.panel, "predicted latency at the SLO's percentile (% of the SLO)"),
    )
    y = layout.head - 0.3
    for x, title in titles:
        _text(axes, x, y, title, weight="bold")
    _text(axes, _WIDTH - 0.05, layout.head - 0.1, "used", color=drawing.MUTED, ha="right")
    ticks = [0, 25, 50, 75, 100]
    for tick in ticks:
        x = layout.bars + layout.bars_width * tick / layout.widest_pct
        _text(axes, x, layout.head - 0.1, str(tick), color=drawing.MUTED, ha="center")
    for tick in (0, 100, 200, 300):
        if tick <= layout.end_pct:
            x = layout.panel + (_PANEL - _GUTTER) * tick / layout.end_pct
            _text(axes, x, layout.head - 0.1, str(tick), color=drawing.MUTED, ha="center")


def _bar(
    axes: Axes,
    layout: _Layout,
    kind: Kind,
    top: float,
    looks: Mapping[str, tuple[str, str]],
    *,
    merged: bool,
) -> None:
    """The shares of a device's tenants, and what is free."""
    height, left = _height(kind), layout.bars
    per_pct = layout.bars_width / layout.widest_pct
    edge: dict[str, Any] = {"edgecolor": drawing.PAPER, "linewidth": 1.5}
    used = 0.0
    for tenant in (lane.tenant for lane in kind.lanes for _ in range(lane.count)):
        colour, hatch = looks[tenant.model]
        width = tenant.share_pct * per_pct
        _box(axes, left, top, width, height, facecolor=colour, hatch=hatch, **edge)
        texts = _bar_texts(tenant, 72 * width - 6, merged=merged)
        for line, text in enumerate(texts):
            y = top + height / 2 + 0.15 * (line - (len(texts) - 1) / 2)
            _text(
                axes,
                left + width / 2,
                y,
                text,
                ha="center",
                size=_SMALL_PT if line else _BODY_PT,
                weight="normal" if line else "bold",
                color=drawing.text_on(colour),
                # a hatch would run through it
                bbox={"facecolor": colour, "linewidth": 0, "pad": 0.8} if hatch else None,
            )
        left += width
        used += tenant.share_pct
    if used < 100 - 1e-6:
        width = (100 - used) * per_pct
        _box(axes, left, top, width, height, facecolor=drawing.BAND, **edge)
        for text in (f"free {100 - used:.4g}%", "free"):
            if _points(len(text), _SMALL_PT) < 72 * width - 4:
                look = {"size": _SMALL_PT, "color": drawing.MUTED, "ha": "center"}
                _text(axes, left + width / 2, top + height / 2, text, **look)
                break


def _bar_texts(tenant: PlanTenant, room_points: float, *, merged: bool) -> tuple[str, ...]:
    """What fits into a part of a bar: name and details, details shortened, name cut, nothing."""
    letters = int(room_points / _points(1, _SMALL_PT))
    details = (
        f"batch {tenant.batch_size} · share {tenant.share_pct:g}%",
        f"batch {tenant.batch_size} · {tenant.share_pct:g}%",
        f"b{tenant.batch_size} · {tenant.share_pct:g}%",
        f"b{tenant.batch_size}",
    )
    detail = next((text for text in details if len(text) <= letters), None)
    if detail is None:
        return ()
    bold_letters = int(room_points / (1.12 * _points(1, _BODY_PT)))
    name = tenant.model if merged else tenant.workload
    if bold_letters < min(len(name), 5):
        return (detail,)
    return (drawing.label(name, bold_letters) if merged else _fit(name, bold_letters), detail)


def _lanes(
    axes: Axes,
    layout: _Layout,
    kind: Kind,
    names: Sequence[str],
    top: float,
    looks: Mapping[str, tuple[str, str]],
) -> None:
    """Each tenant's predicted latency against its SLO."""
    per_pct = (_PANEL - _GUTTER) / layout.end_pct
    start = top + (_height(kind) - _LANE * len(kind.lanes)) / 2
    limit = layout.panel + 100 * per_pct
    for row, (lane, name) in enumerate(zip(kind.lanes, names, strict=True)):
        tenant, y = lane.tenant, start + _LANE * (row + 0.5)
        colour, hatch = looks[tenant.model]
        swatch: dict[str, Any] = {"facecolor": colour, "hatch": hatch, "edgecolor": drawing.PAPER}
        _box(axes, layout.lanes, y - 0.05, 0.1, 0.1, **swatch)
        _text(axes, layout.lanes + 0.15, y, name)
        _box(axes, layout.panel, y - 0.07, 100 * per_pct, 0.14, facecolor=drawing.BAND)
        load = load_pct(tenant)
        if load is not None:
            over = late(tenant)
            width = min(load, layout.end_pct) * per_pct
            look = (
                {"facecolor": drawing.VERMILION, "hatch": "//////", "edgecolor": drawing.PAPER}
                if over
                else {"facecolor": drawing.MUTED}
            )
            _box(axes, layout.panel, y - 0.04, width, 0.08, **look)
            _whisker(axes, tenant, layout, y, per_pct)
        weight = "bold" if broken(tenant) else "normal"
        value = _value_text(tenant)
        size = _BODY_PT if len(value) <= _VALUE_LETTERS else _SMALL_PT
        _text(axes, layout.panel + _PANEL, y, value, weight=weight, size=size)
        used = utilisation(tenant)
        text = "–" if used is None else f"{100 * used:.0f}%"
        over_load = overloaded(tenant)
        _text(
            axes,
            _WIDTH - 0.05,
            y,
            f"{SYMBOLS['bad']} {text}" if over_load else text,
            ha="right",
            weight="bold" if over_load else "normal",
        )
    _line(axes, (limit, limit), (start, start + _LANE * len(kind.lanes)), 1.8)


def _whisker(axes: Axes, tenant: PlanTenant, layout: _Layout, y: float, per_pct: float) -> None:
    low, high = _ends_pct(tenant)
    if low is None or high is None:
        return
    ends = [layout.panel + min(end, layout.end_pct) * per_pct for end in (low, high)]
    _line(axes, ends, (y, y))
    for x, end in zip(ends, (low, high), strict=True):
        if end <= layout.end_pct:  # beyond the panel it goes on
            _line(axes, (x, x), (y - 0.04, y + 0.04))


def _ends_pct(tenant: PlanTenant) -> tuple[float | None, float | None]:
    """The ends of its interval, in percent of the SLO."""
    predicted = tenant.predicted
    if predicted is None:
        return (None, None)
    ends = (predicted.slo_percentile_low_ms, predicted.slo_percentile_high_ms)
    low, high = (None if end is None else 100 * end / tenant.slo_ms for end in ends)
    return (low, high)


def _value_text(tenant: PlanTenant) -> str:
    predicted = tenant.predicted
    latency = predicted.slo_percentile_ms if predicted else None
    known = "?" if latency is None else number(latency)
    sign = f"{SYMBOLS['bad']} " if late(tenant) else ""
    return f"{sign}{known} of {number(tenant.slo_ms)} ms, p{tenant.percentile:g}"
