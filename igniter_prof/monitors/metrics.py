"""What Triton's metrics endpoint tells, asked beside the load: own thread, own connections.

Metrics: github.com/triton-inference-server/server, docs/user_guide/metrics.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from igniter_prof import probe
from igniter_prof.monitors.contract import Counted, Monitor, Scene, Seen
from igniter_prof.monitors.exposition import Sample, samples
from igniter_prof.monitors.sampling import Sampler, rate_of
from igniter_prof.records import Device, Endpoint, TritonMetrics

RATE_HZ: Final = 1.0
"""Usual and highest: a page of metrics costs the server about as much as a small request."""
TIMEOUT_S: Final = 3.0
PENDING: Final = "nv_inference_pending_request_count"
OK: Final = "nv_inference_request_success"
FAILED: Final = "nv_inference_request_failure"

METRICS_DTYPE: Final = np.dtype(
    [("at_ns", "<i8"), ("pending", "<f8"), ("ok", "<f8"), ("failed", "<f8")]
)
"""One row a page of metrics: requests waiting, and answered so far; NaN where it is not told."""

Samples = NDArray[np.void]
Instants = NDArray[np.int64]
NO_ANSWERS: Final = np.zeros(0, np.int64)


def metrics(device: Device, argument: str | None) -> Monitor:
    """The monitor ``triton`` or ``triton:HZ``. Raises BadInput."""
    return MetricsMonitor(rate_of(argument, RATE_HZ, RATE_HZ, "triton"))


@dataclass
class _Server:
    """One metrics endpoint, and what was read of it."""

    pages: list[tuple[int, str]] = field(default_factory=list)
    """Monotonic ns, text."""
    missed: list[tuple[int, str]] = field(default_factory=list)
    """Monotonic ns, why."""


@dataclass(frozen=True)
class _Told:
    """What was told of one tenant, and what lacks of it."""

    lacks: tuple[str, ...]
    metrics: TritonMetrics | None = None
    rows: Samples = field(default_factory=lambda: np.zeros(0, METRICS_DTYPE))


class MetricsMonitor:
    """Asks the Tritons of a cell for their metrics."""

    def __init__(self, rate_hz: float) -> None:
        self._endpoints: tuple[Endpoint, ...] = ()
        self._servers: dict[str, _Server] = {}
        self._sampler = Sampler(self._take, rate_hz)

    def __enter__(self) -> MetricsMonitor:
        """Nothing to ask yet: the servers do not run."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop asking."""
        self._sampler.stop()

    def attach(self, scene: Scene) -> None:
        """Ask from now on; tenants of one server are asked for once."""
        self._endpoints = scene.endpoints
        self._servers = {
            end.metrics_address: _Server()
            for end in scene.endpoints
            if end.http is None and end.metrics_address is not None
        }
        if self._servers:
            self._sampler.start("igprof-triton", scene.cores)

    def seen(self, window: Counted) -> Seen:
        """What was told of each tenant's model in the window."""
        if self._servers:
            self._sampler.look()  # so that the counts reach beyond the window
        self._sampler.stop()
        tenants: list[dict[str, TritonMetrics]] = []
        traces: dict[str, Samples] = {}
        notes: list[str] = []
        complete = True
        for index, end in enumerate(self._endpoints):
            if end.http is not None:
                tenants.append({})
                notes.append(f"tenant {index + 1} is served by no Triton, so it has no metrics")
                continue
            answers = window.requests[index]["done_ns"] if window.requests else NO_ANSWERS
            told = self._told(end, window, answers)
            tenants.append({} if told.metrics is None else {"metrics": told.metrics})
            if len(told.rows):
                traces[f"triton_{index}"] = told.rows
            notes += [f"tenant {index + 1}: {note}" for note in told.lacks]
            complete = complete and not told.lacks
        return Seen(tenants=tuple(tenants), traces=traces, complete=complete, notes=tuple(notes))

    def _told(self, end: Endpoint, window: Counted, answers_ns: Instants) -> _Told:
        """What was told of one endpoint's model, and what lacks."""
        server = self._servers.get(end.metrics_address or "")
        if server is None:
            return _Told(("the address of its server's metrics is not known",))
        lacks = [] if self._sampler.trouble is None else [self._sampler.trouble]
        missed = [why for at_ns, why in server.missed if window.start_ns <= at_ns <= window.end_ns]
        if missed:
            lacks.append(f"unanswered questions: {len(missed)} ({missed[0]})")
        try:
            pages = [(at_ns, of_model(text, end.model_name)) for at_ns, text in server.pages]
        except ValueError as error:
            return _Told((f"what {end.metrics_address} tells are no metrics ({error})",))
        rows = _rows(pages)
        last = next((page for at_ns, page in pages if at_ns >= window.end_ns), [])
        found = metrics_in(rows, last, window.start_ns, window.end_ns, answers_ns)
        if found is None:
            lacks.append("too few answers to tell of the window")
        return _Told(tuple(lacks), found, rows)

    def _take(self) -> None:
        for address, server in self._servers.items():
            before_ns = time.monotonic_ns()
            try:
                # Triton's metrics service knows neither TLS nor credentials
                status, body = probe.get(address, "/metrics", timeout_s=TIMEOUT_S)
            except probe.Unreachable as error:
                server.missed.append((before_ns, str(error)))
                continue
            if status != 200:
                server.missed.append((before_ns, f"HTTP {status}"))
                continue
            at_ns = (before_ns + time.monotonic_ns()) // 2
            server.pages.append((at_ns, body.decode(errors="replace")))


def of_model(page: str, model: str) -> list[Sample]:
    """What a page of metrics tells of one model and of the server as a whole. Raises ValueError."""
    return [each for each in samples(page) if each.label("model") in (None, model)]


def metrics_in(
    rows: Samples,
    last: list[Sample],
    start_ns: int,
    end_ns: int,
    answers_ns: Instants = NO_ANSWERS,
) -> TritonMetrics | None:
    """What was told in a window; the counts are interpolated at its edges.

    Between two pages a count is taken to grow with the client's answers, not with time: the load
    may begin or end between them.

    Args:
        rows: (n,) of METRICS_DTYPE, in time order.
        last: the samples of the page that was read first after the window.
        start_ns: beginning of the window, on the rows' clock.
        end_ns: its end.
        answers_ns: (m,), when the client had its answers, in any order.

    Returns:
        None if the pages do not reach around the window.
    """
    if len(rows) < 2 or rows["at_ns"][0] > start_ns or rows["at_ns"][-1] < end_ns:
        return None
    inside = rows[(rows["at_ns"] >= start_ns) & (rows["at_ns"] <= end_ns)]
    pending = inside["pending"][np.isfinite(inside["pending"])]

    sorted_ns, span_ns = np.sort(answers_ns), rows["at_ns"][-1] - rows["at_ns"][0]

    def progress(at_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        # by a part of one answer with time, so that it rises where nobody answered
        past: NDArray[np.float64] = (at_ns - rows["at_ns"][0]) / span_ns
        return np.searchsorted(sorted_ns, at_ns, side="right") + past

    def grown(name: str) -> int | None:
        if not np.isfinite(rows[name]).all():
            return None
        edges = np.array([start_ns, end_ns])
        first, last = np.interp(progress(edges), progress(rows["at_ns"]), rows[name])
        return round(float(last - first))

    return TritonMetrics(
        samples=len(inside),
        pending_mean=float(pending.mean()) if len(pending) else None,
        pending_peak=float(pending.max()) if len(pending) else None,
        requests_ok=grown("ok"),
        requests_failed=grown("failed"),
        values={
            _key(each): each.value
            for each in last
            if each.name not in (PENDING, OK, FAILED) and np.isfinite(each.value)
        },
    )


def _rows(pages: Sequence[tuple[int, list[Sample]]]) -> Samples:
    """The numbers of a model that are followed through its cell; (n,) of METRICS_DTYPE."""
    return np.array(
        [(at_ns, _sum(page, PENDING), _sum(page, OK), _sum(page, FAILED)) for at_ns, page in pages],
        METRICS_DTYPE,
    )


def _sum(page: list[Sample], name: str) -> float:
    """A metric of all versions and reasons of a model; NaN where it is not told."""
    values = [each.value for each in page if each.name == name]
    return sum(values) if values else float("nan")


def _key(sample: Sample) -> str:
    """``name{label="value"}`` without the model, which is the tenant's own."""
    labels = ",".join(f'{name}="{value}"' for name, value in sample.labels if name != "model")
    return f"{sample.name}{{{labels}}}" if labels else sample.name
