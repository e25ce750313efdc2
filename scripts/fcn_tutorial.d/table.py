"""The tutorial's CSV and its plot, from measured cells."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from igniter_prof.records import Measurement
from igniter_prof.reporting.drawing import GREY, MARKERS, PALETTE

FIELDS = ("scale", "width", "height", "time")


@dataclass(frozen=True)
class Row:
    """One line of the CSV."""

    scale: float
    width: int
    height: int
    time_s: float
    """Mean latency of a request, from send to the end of the answer."""
    ci_s: float | None
    """Half-width of its 95% interval; not in the CSV."""
    stable: bool
    """Whether it came to rest within the window; not in the CSV."""


def rows_of(measurements: Sequence[Measurement]) -> list[Row]:
    """One container size's cells as rows, small images first."""
    rows = []
    for measurement in measurements:
        (tenant,) = measurement.tenants
        assert tenant.latency is not None, "only such cells come here"
        *_, height, width = tenant.input_shapes["image"]
        ci_ms = tenant.latency.mean_ci_ms
        rows.append(
            Row(
                scale=tenant.tenant.input_scale,
                width=width,
                height=height,
                time_s=tenant.latency.mean_ms / 1000,
                ci_s=None if ci_ms is None else ci_ms / 1000,
                stable=tenant.stable is True,
            )
        )
    return sorted(rows, key=lambda row: row.scale)


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    """Write the tutorial's columns: scale and seconds with four decimals."""
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(FIELDS)
        for row in rows:
            writer.writerow([f"{row.scale:.4f}", row.width, row.height, f"{row.time_s:.4f}"])
    return path


def plot(rows: Mapping[str, Sequence[Row]], path: Path) -> list[Path]:
    """Draw latency over scale, a line for each container size, as PNG and SVG."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for index, (name, table) in enumerate(rows.items()):
        colour = PALETTE[index % len(PALETTE)]
        marker = MARKERS[index % len(MARKERS)]
        axes.errorbar(
            [row.scale for row in table],
            [row.time_s for row in table],
            yerr=[row.ci_s or 0.0 for row in table],
            label=title_of(name),
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.7,
            capsize=2,
        )
        unstable = [(row.scale, row.time_s) for row in table if not row.stable]
        if unstable:
            axes.plot(*zip(*unstable, strict=True), marker, color=colour, mfc="white", zorder=3)
    if any(not row.stable for table in rows.values() for row in table):
        axes.plot([], [], "o", color=GREY, mfc="white", label="hollow: not stable")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("scale of the image (1.0: 224 x 224)")
    axes.set_ylabel("time of a request (s)")
    axes.set_title("fcn_resnet50: inference time over scale factor", loc="left")
    axes.grid(color="#dfe2e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="container")
    written = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in written:
        figure.savefig(file, dpi=150)
    return written


def title_of(name: str) -> str:
    """A file's name as words: ``cpu2_4gib`` as ``2 CPU, 4 GiB``."""
    cores, memory, *gpu = name.split("_")
    words = f"{cores.removeprefix('cpu')} CPU, {memory.removesuffix('gib')} GiB"
    return words + (", GPU" if gpu else "")
