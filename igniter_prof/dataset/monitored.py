"""Checks of what monitors left: whether they saw all, and whether their traces say the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from igniter_prof.dataset.cellfile import SUFFIX, Traces
from igniter_prof.records import LatencySummary, Measurement, NetworkTimes
from igniter_prof.statistics import summarise
from igniter_prof.units import NS_PER_MS

PAIRED: Final = 0
"""The ``outcome`` of a sniffed request whose whole response was seen."""
_TIMES = ("at_ns", "request_end_ns", "response_ns", "response_end_ns")


def incomplete_monitors(measurements: Iterable[Measurement]) -> Iterator[tuple[str, str]]:
    """Where and why monitors were incomplete, alike cells together.

    Yields:
        The first cell's file with how many there are besides, and what the monitor said.
    """
    found: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for measurement in measurements:
        for report in measurement.monitors:
            if not report.complete:
                found[report.name, report.notes].append(f"{measurement.cell_id}{SUFFIX}")
    for (name, notes), files in found.items():
        rest = f" and {len(files) - 1} more cells" if len(files) > 1 else ""
        why = "; ".join(notes) or "it gave no reason"
        yield f"{files[0]}{rest}", f"the monitor {name} did not see all: {why}"


def network_disagreements(measurement: Measurement, traces: Traces) -> Iterator[tuple[int, str]]:
    """Tenants whose times by packets are not those of the stored requests.

    Yields:
        The tenant's index, and what differs.
    """
    for index, tenant in enumerate(measurement.tenants):
        trace = traces.get(f"sniffer_{index}")
        if tenant.network is None or trace is None:
            continue
        if not set(_TIMES) | {"outcome"} <= set(trace.dtype.names or ()):
            yield index, "the trace of its packets lacks columns"
            continue
        differ = list(_differences(tenant.network, trace, measurement))
        if differ:
            yield index, f"network disagrees with the stored packets: {', '.join(differ)}"


def _differences(
    stored: NetworkTimes, trace: NDArray[np.void], measurement: Measurement
) -> Iterator[str]:
    start_ns, end_ns = measurement.window_start_ns, measurement.window_end_ns
    if start_ns is None or end_ns is None:
        return
    rows = trace[(trace["at_ns"] >= start_ns) & (trace["at_ns"] < end_ns)]
    good = np.sort(rows[rows["outcome"] == PAIRED], order="at_ns")
    server_ms = (good["response_ns"] - good["request_end_ns"]) / NS_PER_MS
    counts = {"requests": len(rows), "paired": len(good), "unpaired": len(rows) - len(good)}
    for name, count in counts.items():
        if getattr(stored, name) != count:
            yield f"{name} is {getattr(stored, name)}, not {count}"
    yield from _differing("server", stored.server, server_ms[server_ms >= 0])
    total_ms = (good["response_end_ns"] - good["at_ns"]) / NS_PER_MS
    yield from _differing("total", stored.total, total_ms)


def _differing(name: str, stored: LatencySummary | None, values: NDArray[Any]) -> Iterator[str]:
    known = summarise(values) if len(values) else None
    if stored is None or known is None:
        if stored is not known:
            yield f"{name} is {'none' if stored is None else 'given'}, but {len(values)} count"
        return
    for part in ("count", "mean_ms", "max_ms"):
        old, new = getattr(stored, part), getattr(known, part)
        if not np.isclose(old, new, rtol=1e-6, atol=1e-9):
            yield f"{name}.{part} is {old:.6g}, not {new:.6g}"
