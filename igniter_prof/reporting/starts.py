"""Cold starts in a report: bars stacked by phase, and their table."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from igniter_prof.records import ColdStart, ImageInfo, Measurement, Tenant, TenantMeasurement
from igniter_prof.reporting import drawing
from igniter_prof.reporting.blocks import Column, Plot, Table, number
from igniter_prof.reporting.derived import describe
from igniter_prof.reporting.scaling import Size
from igniter_prof.units import BYTES_PER_MIB, MS_PER_S

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BARS = 24
_Distance = tuple[int, float]
"""Batch size, and how far the input scale is from 1: a tenant like others is near."""

PHASES = (
    ("pull_s", "image pull", drawing.GREY),
    ("create_s", "container create", drawing.SKY),
    ("start_s", "process start", drawing.BLUE),
    ("serve_s", "server answers", drawing.GREEN),
    ("load_s", "model loaded, ready", drawing.ORANGE),
    ("first_s", "first inference", drawing.PINK),
)
"""Field, what it is, colour; in the order in which they happen."""


@dataclass(frozen=True)
class Start:
    """The starts of one model in one size of container: means over its cells."""

    tenant: str
    phases_s: dict[str, float]
    """By the names of PHASES; what did not happen or is not known is not there."""

    @property
    def total_s(self) -> float:
        """All phases together."""
        return sum(self.phases_s.values())


class _Kind(NamedTuple):
    """What the starts of one bar have in common."""

    model: str
    size: Size
    rest: str
    pulled: bool

    @property
    def label(self) -> str:
        size = "" if self.size == Size(None, None, None) else self.size.text
        parts = (self.model, self.rest, size, "image pulled" if self.pulled else "")
        return ", ".join(part for part in parts if part)

    @property
    def order(self) -> tuple[object, ...]:
        return (self.model, self.size.order, self.rest, self.pulled)


def starts(measurements: Iterable[Measurement]) -> tuple[Start, ...]:
    """Cold starts of tenants alone, by model and size of container, those with a pull apart.

    Only the first inference depends on the input: it is that of the smallest batch, at the scale
    nearest to 1.
    """
    found: dict[_Kind, list[tuple[_Distance, dict[str, float]]]] = defaultdict(list)
    for measurement in measurements:
        if len(measurement.tenants) != 1:
            continue
        (result,) = measurement.tenants
        phases = None if result.cold_start is None else _phases(result.cold_start)
        if phases:
            tenant = result.tenant
            size = Size(tenant.gpu, tenant.cpu_cores, tenant.memory_mib)
            kind = _Kind(tenant.model, size, _rest(tenant), "pull_s" in phases)
            distance = (tenant.batch_size, abs(math.log(tenant.input_scale)))
            found[kind].append((distance, phases))
    ordered = sorted(found, key=lambda kind: kind.order)
    return tuple(Start(kind.label, _means(found[kind])) for kind in ordered)


def _rest(tenant: Tenant) -> str:
    """What sets a start apart beside model and size."""
    parts = []
    if tenant.instances != 1:
        parts.append(f"{tenant.instances} instances")
    if tenant.share_pct not in (None, 100):
        parts.append(f"{tenant.share_pct:g}%")
    return ", ".join(parts)


def _means(cells: Sequence[tuple[_Distance, dict[str, float]]]) -> dict[str, float]:
    """The mean of each phase, over the cells in which it is known, in the order of PHASES."""
    nearest = min(distance for distance, _ in cells)
    means = {}
    for name, *_ in PHASES:
        own = [
            phases[name]
            for distance, phases in cells
            if name in phases and (name != "first_s" or distance == nearest)
        ]
        if own:
            means[name] = fmean(own)
    return means


def _phases(start: ColdStart) -> dict[str, float]:
    known = {name: getattr(start, name, None) for name, *_ in PHASES}
    known["first_s"] = None if start.first_ms is None else start.first_ms / MS_PER_S
    return {name: value for name, value in known.items() if value is not None}


def start_bars(all_starts: Sequence[Start], prefix: str) -> Plot | None:
    """A bar for each model and size of container, stacked by phase."""
    if not all_starts:
        return None
    slowest = sorted(all_starts, key=lambda start: -start.total_s)[:MAX_BARS]
    shown = [start for start in all_starts if start in slowest]
    longest = slowest[0].total_s or 1.0

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        left = [0.0] * len(shown)
        places = range(len(shown))
        for name, title, colour in PHASES:
            if not any(name in start.phases_s for start in shown):
                continue
            widths = [start.phases_s.get(name, 0.0) for start in shown]
            axes.barh(
                places,
                widths,
                left=left,
                height=0.68,
                color=colour,
                edgecolor=drawing.PAPER,
                linewidth=0.8,
                label=title,
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for place, start in zip(places, shown, strict=True):
            axes.text(
                start.total_s + 0.01 * longest,
                place,
                f"{number(start.total_s)} s",
                va="center",
                ha="left",
                fontsize=8,
            )
        axes.set_yticks(list(places), [drawing.label(start.tenant, 60) for start in shown])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.set_xlim(0, 1.09 * longest)
        axes.set_xlabel("from nothing to the first answer (s)")
        figure.legend(loc="outside upper left", ncols=6)

    caption = (
        "Tenants alone; means over the cells of a size, the first inference at the smallest batch"
        " and the input scale nearest to 1. A phase that is not known is not in its bar."
    )
    if len(all_starts) > len(shown):
        caption += f" The {MAX_BARS} slowest; {len(all_starts) - len(shown)} more are in the table."
    name = f"{prefix}-cold-starts"
    svg = drawing.draw(
        name, 11.0, 1.05 + 0.3 * len(shown), paint, "Cold starts as bars stacked by phase"
    )
    return Plot(name, "Cold starts by phase", svg, caption)


_COLUMNS = (
    Column("cell_id", "cell", numeric=False, shown=False),
    Column("tenant", "tenant", numeric=False),
    Column("pull_s", "pull (s)", group="phases"),
    Column("create_s", "create (s)", group="phases"),
    Column("start_s", "start (s)", group="phases"),
    Column("serve_s", "answers (s)", group="phases"),
    Column("load_s", "model (s)", group="phases"),
    Column("ready_s", "ready (s)", group="without pull"),
    Column("first_ms", "first (ms)", group="inferences"),
    Column("steady_ms", "steady (ms)", group="inferences"),
    Column("steady_after", "steady after", group="inferences"),
    Column("image", "image", numeric=False, shown=False),
    Column("image_disk_mib", "image on disk (MiB)", group="sizes"),
    Column("image_compressed_mib", "compressed (MiB)", group="sizes"),
    Column("pull_mib", "pulled (MiB)", shown=False),
    Column("image_layers", "layers", group="sizes"),
    Column("weight_mib", "weights (MiB)", group="sizes"),
)


def start_table(measurements: Sequence[Measurement], prefix: str) -> Table | None:
    """A row for each tenant whose start, image or weights are known."""
    rows = tuple(
        _row(measurement, result)
        for measurement in measurements
        for result in measurement.tenants
        if result.cold_start is not None or result.image is not None
    )
    if not rows:
        return None
    caption = (
        "Steady after: inferences until one was within 10% of the window's median. Sizes of the"
        " image: on disk, and as downloaded."
    )
    return Table(f"{prefix}-starts", "Cold starts", _COLUMNS, rows, caption, folded=len(rows) > 12)


def _row(measurement: Measurement, result: TenantMeasurement) -> dict[str, Any]:
    start = result.cold_start or ColdStart()
    image = result.image or ImageInfo(name="", id="")
    return {
        "cell_id": measurement.cell_id,
        "tenant": describe(result.tenant),
        **start.model_dump(),
        "pull_mib": _mib(start.pull_bytes),
        "image": image.name or None,
        "image_disk_mib": _mib(image.disk_bytes),
        "image_compressed_mib": _mib(image.compressed_bytes),
        "image_layers": image.layers,
        "weight_mib": _mib(result.weight_bytes),
    }


def _mib(count: int | None) -> float | None:
    return None if count is None else count / BYTES_PER_MIB
