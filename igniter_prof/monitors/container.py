"""What each tenant's server uses: its control group or its engine, sampled through the cell."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from igniter_prof.monitors.contract import Counted, Monitor, Scene, Seen
from igniter_prof.monitors.sampling import Sampler, rate_of
from igniter_prof.records import ContainerUsage, Device, Endpoint, Usage
from igniter_prof.units import NS_PER_S

RATE_HZ: Final = 10.0
MOST_HZ: Final = 100.0
PEAK_S: Final = 0.09
"""Shortest interval that a peak is taken over: 10 samples a second, less their jitter.

CPU quotas are given in periods of 10 or 100 ms: over less, a peak would be that of the period."""

COLUMNS: Final = (
    "cpu_s",
    "periods",
    "throttled_periods",
    "memory_peak_mib",
    "memory_mib",
    "memory_working_mib",
    "read_bytes",
    "written_bytes",
)
USAGE_DTYPE: Final = np.dtype([("at_ns", "<i8"), *((name, "<f8") for name in COLUMNS)])
"""One row a sample of :class:`~igniter_prof.records.Usage`; NaN where it is not told."""

Samples = NDArray[np.void]
Floats = NDArray[np.float64]


def container(device: Device, argument: str | None) -> Monitor:
    """The monitor ``container`` or ``container:HZ``. Raises BadInput."""
    return ContainerMonitor(rate_of(argument, RATE_HZ, MOST_HZ, "container"))


class ContainerMonitor:
    """Samples what every tenant's server has used so far."""

    def __init__(self, rate_hz: float) -> None:
        self._scene: Scene | None = None
        self._samples: list[list[tuple[float, ...]]] = []
        self._sampler = Sampler(self._take, rate_hz)

    def __enter__(self) -> ContainerMonitor:
        """Nothing to watch yet: the servers do not run."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop sampling."""
        self._sampler.stop()

    def attach(self, scene: Scene) -> None:
        """Sample from now on."""
        self._scene = scene
        self._samples = [[] for _ in scene.endpoints]
        self._sampler.start("igprof-container", scene.cores)

    def seen(self, window: Counted) -> Seen:
        """What each server used in the window."""
        self._sampler.look()  # so that the samples reach beyond the window
        self._sampler.stop()
        scene = self._scene
        assert scene is not None
        series = [np.array(rows, USAGE_DTYPE) for rows in self._samples]
        tenants = tuple(
            {}
            if (used := usage_in(rows, window.start_ns, window.end_ns, _source(end))) is None
            else {"container": used}
            for rows, end in zip(series, scene.endpoints, strict=True)
        )
        trouble = self._sampler.trouble
        notes = [f"sampling ended early: {trouble}"] if trouble is not None else []
        unknown = [str(number) for number, fields in enumerate(tenants, 1) if not fields]
        if unknown:
            notes.append(f"what tenant {', '.join(unknown)} used is not known here")
        if any(tenants) and _shared(scene.endpoints):
            notes.append("the tenants share a server: each has the use of the whole server")
        return Seen(
            tenants=tenants,
            traces={f"container_{k}": rows for k, rows in enumerate(series) if len(rows)},
            # a runtime that never tells has lost nothing
            complete=trouble is None and not any(len(series[int(k) - 1]) for k in unknown),
            notes=tuple(notes),
        )

    def _take(self) -> None:
        assert self._scene is not None
        for index, rows in enumerate(self._samples):
            before_ns = time.monotonic_ns()
            usage = self._scene.usage(index)
            if usage is not None:
                # an engine takes its time to answer: the middle is nearest to when it looked
                rows.append(((before_ns + time.monotonic_ns()) // 2, *_row(usage)))


def usage_in(rows: Samples, start_ns: int, end_ns: int, source: str) -> ContainerUsage | None:
    """What a server used between two instants; counters are interpolated at the edges.

    Args:
        rows: (n,) of USAGE_DTYPE, in time order.
        start_ns: beginning of the window, on the samples' clock.
        end_ns: its end, after the beginning.
        source: where the samples are from.

    Returns:
        None if the samples do not reach around the window.
    """
    if len(rows) < 2 or rows["at_ns"][0] > start_ns or rows["at_ns"][-1] < end_ns:
        return None
    inside = rows[(rows["at_ns"] >= start_ns) & (rows["at_ns"] <= end_ns)]
    spacing_ns = np.diff(inside["at_ns"])

    def grown(name: str) -> float | None:
        values = _at(rows, name, [start_ns, end_ns])
        return None if values is None else float(values[1] - values[0])

    cpu_s = grown("cpu_s")
    periods, throttled = grown("periods"), grown("throttled_periods")
    return ContainerUsage(
        source=source,
        samples=len(inside),
        cpu_mean_cores=None if cpu_s is None else cpu_s / ((end_ns - start_ns) / NS_PER_S),
        cpu_peak_cores=_peak_cores(rows, start_ns, end_ns),
        interval_s=float(np.median(spacing_ns)) / NS_PER_S if len(spacing_ns) else None,
        throttled_pct=None if not periods or throttled is None else 100 * throttled / periods,
        memory_peak_mib=_memory_peak(rows, start_ns, end_ns),
        memory_working_peak_mib=_highest(inside, "memory_working_mib"),
        read_bytes=_whole(grown("read_bytes")),
        written_bytes=_whole(grown("written_bytes")),
    )


def _peak_cores(rows: Samples, start_ns: int, end_ns: int) -> float | None:
    """The steepest rise of CPU time over PEAK_S or a little more, window's edges included."""
    between = rows["at_ns"][(rows["at_ns"] > start_ns) & (rows["at_ns"] < end_ns)]
    at_ns = np.unique(np.concatenate([[start_ns], between, [end_ns]]))
    cpu_s = _at(rows, "cpu_s", at_ns)
    if cpu_s is None:
        return None
    last = np.searchsorted(at_ns, at_ns + int(PEAK_S * NS_PER_S))
    first = np.flatnonzero(last < len(at_ns))
    if len(first) == 0:
        return None
    last = last[first]
    rates = (cpu_s[last] - cpu_s[first]) / ((at_ns[last] - at_ns[first]) / NS_PER_S)
    return float(rates.max())


def _memory_peak(rows: Samples, start_ns: int, end_ns: int) -> float | None:
    """The kernel's own peak if it was reached in the window, else the highest sample."""
    inside = rows[(rows["at_ns"] >= start_ns) & (rows["at_ns"] <= end_ns)]
    sampled = _highest(inside, "memory_mib")
    peaks = inside["memory_peak_mib"]
    if len(inside) and peaks[-1] > peaks[0]:  # never with NaN
        return float(peaks[-1])
    return sampled


def _at(rows: Samples, name: str, instants_ns: Iterable[int] | NDArray[np.int64]) -> Floats | None:
    """A counter at some instants, interpolated; None where it is not told."""
    known = rows[np.isfinite(rows[name])]
    instants = np.asarray(instants_ns, np.int64)
    if len(known) < 2 or known["at_ns"][0] > instants[0] or known["at_ns"][-1] < instants[-1]:
        return None
    # less the first instant: nanoseconds since boot are more than a float holds exactly
    zero = known["at_ns"][0]
    values: Floats = np.interp(instants - zero, known["at_ns"] - zero, known[name])
    return values


def _highest(rows: Samples, name: str) -> float | None:
    known = rows[name][np.isfinite(rows[name])]
    return float(known.max()) if len(known) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _row(usage: Usage) -> tuple[float, ...]:
    values = (getattr(usage, name) for name in COLUMNS)
    return tuple(float("nan") if value is None else float(value) for value in values)


def _source(endpoint: Endpoint) -> str:
    """Where the usage of an endpoint is from: only an engine elsewhere leaves its pid unknown."""
    if endpoint.pid is None:
        return "engine API"
    return f"cgroup v{2 if Path('/sys/fs/cgroup/cgroup.controllers').exists() else 1}"


def _shared(endpoints: tuple[Endpoint, ...]) -> bool:
    """Whether two endpoints are of one server."""
    servers = [end.http_address for end in endpoints if end.http_address is not None]
    return len(set(servers)) < len(servers)
