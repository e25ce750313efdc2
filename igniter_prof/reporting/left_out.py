"""What a profile lacks: what monitors lost or could not see, and cells that were skipped."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from igniter_prof.records import Measurement, labels
from igniter_prof.reporting.blocks import Badge, Column, Table, plural
from igniter_prof.reporting.watched import folded_table


def monitor_names(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """The monitors that ran, in the order in which they are named."""
    return tuple(dict.fromkeys(each.name for m in measurements for each in m.monitors))


def incomplete(measurements: Iterable[Measurement]) -> Counter[str]:
    """In how many cells each monitor lost something or could not run."""
    return Counter(each.name for m in measurements for each in m.monitors if not each.complete)


def monitor_table(measurements: Sequence[Measurement], prefix: str) -> Table | None:
    """What each monitor had to say, and in which cells."""
    cells: dict[tuple[str, bool, str], list[str]] = defaultdict(list)
    for measurement in measurements:
        for report in measurement.monitors:
            for note in report.notes or (() if report.complete else ("no reason",)):
                cells[report.name, report.complete, note].append(measurement.cell_id)
    rows = [
        {
            "monitor": name,
            "state": Badge("saw all", "good") if complete else Badge("incomplete", "warn"),
            "note": note,
            "cells": len(own),
            "cell_ids": " ".join(own),
        }
        for (name, complete, note), own in sorted(
            cells.items(), key=lambda item: (item[0][1], -len(item[1]), item[0])
        )
    ]
    columns = (
        Column("monitor", "monitor", numeric=False),
        Column("state", "state", numeric=False),
        Column("note", "it said", numeric=False),
        Column("cells", "cells"),
        Column("cell_ids", "cells", numeric=False, shown=False),
    )
    return folded_table(f"{prefix}-monitors", "Notes of monitors", columns, rows, "")


def skipped_table(measurements: Sequence[Measurement], prefix: str) -> Table | None:
    """The cells that this host could not measure, with the reason."""
    rows = [
        {
            "cell_id": m.cell_id,
            "tenants": labels(m.cell.tenants),
            "reason": next((t.detail for t in m.tenants if t.detail), None),
        }
        for m in measurements
        if is_skipped(m)
    ]
    columns = (
        Column("cell_id", "cell", numeric=False, shown=False),
        Column("tenants", "tenants", numeric=False),
        Column("reason", "why", numeric=False),
    )
    title = f"Cells that were skipped ({len(rows)})"
    return folded_table(f"{prefix}-skipped", title, columns, rows, "")


def is_skipped(measurement: Measurement) -> bool:
    """Whether a cell was left out, because the host cannot hold it."""
    return all(tenant.status == "skipped" for tenant in measurement.tenants)


def skipped_remarks(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """How many cells were left out, by reason."""
    reasons = Counter(
        next((t.detail for t in m.tenants if t.detail), "no reason")
        for m in measurements
        if is_skipped(m)
    )
    return tuple(
        f"{plural(count, 'cell')} skipped: {reason}" for reason, count in reasons.most_common(4)
    )
