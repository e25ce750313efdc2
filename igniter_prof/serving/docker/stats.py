"""What the engine's API tells of a container's usage: for engines whose files cannot be read."""

from __future__ import annotations

from typing import Any

from igniter_prof.records import Usage
from igniter_prof.serving.cgroup import without_cache
from igniter_prof.units import BYTES_PER_MIB, NS_PER_S


def usage_of(stats: dict[str, Any], *, limited: bool) -> Usage | None:
    """Usage from one answer of ``/containers/{id}/stats``; None of a container that ended.

    The fields differ between the versions of control groups: ``max_usage`` is there with version 1
    only. OOM kills are not told.

    Args:
        stats: the answer, decoded.
        limited: whether the container has a CPU quota; without, nothing is throttled.
    """
    cpu = stats.get("cpu_stats") or {}
    memory = stats.get("memory_stats") or {}
    used_ns = (cpu.get("cpu_usage") or {}).get("total_usage")
    if not memory or used_ns is None:
        return None
    throttling = cpu.get("throttling_data") or {}
    throttled_ns = throttling.get("throttled_time")
    now = memory.get("usage")
    table = {key: value for key, value in (memory.get("stats") or {}).items() if value is not None}
    read, written = _io(stats.get("blkio_stats") or {})
    return Usage(
        cpu_s=used_ns / NS_PER_S,
        periods=throttling.get("periods") if limited else None,
        throttled_periods=throttling.get("throttled_periods") if limited else None,
        throttled_s=throttled_ns / NS_PER_S if limited and throttled_ns is not None else None,
        memory_peak_mib=_mib(memory.get("max_usage")),
        memory_mib=_mib(now),
        memory_working_mib=_mib(without_cache(now, table)),
        read_bytes=read,
        written_bytes=written,
    )


def _io(blkio: dict[str, Any]) -> tuple[int | None, int | None]:
    entries = blkio.get("io_service_bytes_recursive")
    if entries is None:
        return None, None
    totals = {"read": 0, "write": 0}
    for entry in entries:
        kind = str(entry.get("op", "")).lower()  # version 1 says Read, version 2 read
        if kind in totals:
            totals[kind] += int(entry.get("value") or 0)
    return totals["read"], totals["write"]


def _mib(count: int | None) -> float | None:
    return None if count is None else count / BYTES_PER_MIB
