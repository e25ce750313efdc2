"""Tables of what monitors saw of tenants: packets beside the client's clock, containers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from igniter_prof.records import LatencySummary, Measurement, labels
from igniter_prof.reporting.blocks import Badge, Column, Table
from igniter_prof.reporting.derived import describe, quantile_ms
from igniter_prof.units import BYTES_PER_MIB

_WHO = (
    Column("cell_id", "cell", numeric=False, shown=False),
    Column("tenant", "tenant", numeric=False),
    Column("beside", "beside", numeric=False),
)


def _who(measurement: Measurement, index: int) -> dict[str, Any]:
    others = [t for i, t in enumerate(measurement.cell.tenants) if i != index]
    return {
        "cell_id": measurement.cell_id,
        "tenant": describe(measurement.tenants[index].tenant),
        "beside": labels(others),
    }


def folded_table(
    name: str, title: str, columns: Iterable[Column], rows: Sequence[dict[str, Any]], caption: str
) -> Table | None:
    """A table, folded if it is long, without columns in which there is nothing; None: no rows.

    The CSV has all columns.
    """
    if not rows:
        return None
    kept = tuple(
        replace(column, shown=column.shown and any(_there(row.get(column.key)) for row in rows))
        for column in columns
    )
    return Table(name, title, kept, tuple(rows), caption, folded=len(rows) > 12)


def _there(value: Any) -> bool:
    return value is not None and value != ""


# --- packets -----------------------------------------------------------------------------------


def network_table(measurements: Sequence[Measurement], prefix: str) -> Table | None:
    """Times by packets beside the client's own; neither is in the other."""
    rows = []
    for measurement in measurements:
        for index, result in enumerate(measurement.tenants):
            seen = result.network
            if seen is None:
                continue
            rows.append(
                {
                    **_who(measurement, index),
                    **_latency("client", result.latency),
                    **_latency("server", seen.server),
                    **_latency("total", seen.total),
                    **seen.model_dump(exclude={"server", "total"}),
                    "paired_pct": 100 * seen.paired / seen.requests if seen.requests else None,
                    "state": _whole(seen.unpaired, seen.dropped_packets),
                }
            )
    columns = (
        *_WHO,
        Column("client_mean_ms", "mean (ms)", group="client's clock"),
        Column("client_p50_ms", "p50 (ms)", group="client's clock"),
        Column("client_p99_ms", "p99 (ms)", group="client's clock"),
        Column("total_mean_ms", "mean (ms)", group="packets, whole exchange"),
        Column("total_p50_ms", "p50 (ms)", group="packets, whole exchange"),
        Column("total_p99_ms", "p99 (ms)", group="packets, whole exchange"),
        Column("server_mean_ms", "mean (ms)", group="packets, server"),
        Column("server_p50_ms", "p50 (ms)", group="packets, server"),
        Column("server_p99_ms", "p99 (ms)", group="packets, server"),
        Column("up_ms", "up (ms)", group="packets, transfer"),
        Column("down_ms", "down (ms)", group="packets, transfer"),
        Column("requests", "requests", shown=False),
        Column("paired", "paired", shown=False),
        Column("unpaired", "unpaired", shown=False),
        Column("paired_pct", "paired (%)"),
        Column("dropped_packets", "dropped"),
        Column("retransmitted_packets", "sent again"),
        Column("state", "saw", numeric=False),
        Column("interface", "interface", numeric=False, shown=False),
        Column("packets", "packets", shown=False),
        Column("merged_packets", "merged packets", shown=False),
        Column("request_bytes", "request (bytes)", shown=False),
        Column("response_bytes", "response (bytes)", shown=False),
    )
    caption = (
        "The client's clock and the kernel's time stamps of packets, side by side: waiting and"
        " work in the client is in the former only. Server: last byte of the request to first"
        " byte of the answer. Dropped: packets that the kernel lost, of all tenants."
    )
    return folded_table(f"{prefix}-network", "Times by packets", columns, rows, caption)


def _latency(of: str, summary: LatencySummary | None) -> dict[str, float | None]:
    if summary is None:
        return {}
    return {
        f"{of}_mean_ms": summary.mean_ms,
        f"{of}_p50_ms": quantile_ms(summary.p50),
        f"{of}_p99_ms": quantile_ms(summary.p99),
    }


def _whole(unpaired: int, dropped: int | None) -> Badge:
    return Badge("all", "good") if not unpaired and not dropped else Badge("a part", "warn")


# --- containers --------------------------------------------------------------------------------


def container_table(measurements: Sequence[Measurement], prefix: str) -> Table | None:
    """CPU, memory and I/O of each tenant's server."""
    rows = []
    for measurement in measurements:
        for index, result in enumerate(measurement.tenants):
            used, overall = result.container, result.usage
            if used is None:
                continue
            rows.append(
                {
                    **_who(measurement, index),
                    **used.model_dump(),
                    "cpu_cap": result.tenant.cpu_cores,
                    "memory_cap": result.tenant.memory_mib,
                    "ever_peak_mib": overall and overall.memory_peak_mib,
                    "read_mib": _mib(used.read_bytes),
                    "written_mib": _mib(used.written_bytes),
                    "oom_kills": overall and overall.oom_kills,
                }
            )
    columns = (
        *_WHO,
        Column("cpu_cap", "cap", group="CPU (cores)"),
        Column("cpu_mean_cores", "mean", group="CPU (cores)"),
        Column("cpu_peak_cores", "peak", group="CPU (cores)"),
        Column("throttled_pct", "throttled (% of periods)"),
        Column("memory_cap", "cap", group="memory (MiB)"),
        Column("memory_peak_mib", "peak", group="memory (MiB)"),
        Column("memory_working_peak_mib", "without page cache", group="memory (MiB)"),
        Column("ever_peak_mib", "since start", group="memory (MiB)"),
        Column("read_mib", "read (MiB)"),
        Column("written_mib", "written (MiB)"),
        Column("oom_kills", "OOM kills", shown=False),
        Column("samples", "samples", shown=False),
        Column("interval_s", "interval (s)", shown=False),
        Column("source", "source", numeric=False, shown=False),
    )
    caption = "Over the counted window, but for the peak since start, which has the model's load."
    if sources := sorted({row["source"] for row in rows}):
        caption += f" Source: {', '.join(sources)}."
    return folded_table(f"{prefix}-containers", "Containers", columns, rows, caption)


def _mib(count: int | None) -> float | None:
    return None if count is None else count / BYTES_PER_MIB
