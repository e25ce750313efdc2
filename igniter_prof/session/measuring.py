"""Measure endpoints that run: warm-up, window, drain (drawn in the package's docstring)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.load import (
    CannotTake,
    Generator,
    InputSource,
    Job,
    Payloads,
    prepare,
    prepare_http,
)
from igniter_prof.load.arrivals import arrivals_s
from igniter_prof.monitors import TritonApi, server_times
from igniter_prof.records import (
    AFTER,
    MEASURED,
    REQUEST_DTYPE,
    WARMUP,
    Load,
    ServerTimes,
    Status,
    Stopping,
    Tenant,
    Usage,
)
from igniter_prof.serving import (
    Deployment,
    TenantFailure,
)
from igniter_prof.statistics import Stability, latencies_ms, stability
from igniter_prof.units import NS_PER_MS, NS_PER_S

Rows = npt.NDArray[np.void]
TICK_S = 0.05
CHECK_S = 0.25
GIVE_UP_AFTER = 10
"""A tenant that failed so many requests without one success is done for."""
LOG_CHARACTERS = 600
DRAIN_SLACK_S = 2.0
"""Beyond the requests' own time-out, so that theirs comes first."""
LAG_NS = 1 * NS_PER_MS
"""A request sent later than that after its intended instant was late."""


@dataclass(frozen=True)
class Observed:
    """What was seen of one tenant during ``measure``."""

    rows: Rows
    status: Status
    detail: str | None = None
    stable: bool | None = None
    verdict: str | None = None
    server_times: ServerTimes | None = None
    usage: Usage | None = None
    client_cpu_pct: float | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """The counted time of a measurement and what was seen in it."""

    tenants: tuple[Observed, ...]
    start_ns: int | None
    end_ns: int | None

    @property
    def duration_s(self) -> float | None:
        """Length of the counted time; None if it was never closed."""
        if self.start_ns is None or self.end_ns is None:
            return None
        return (self.end_ns - self.start_ns) / NS_PER_S


def measure(
    deployment: Deployment,
    clients: Sequence[Generator],
    *,
    loads: Sequence[Load],
    sources: Sequence[InputSource],
    protocol: str,
    stopping: Stopping,
    cores: tuple[int, ...],
    seed: int,
    request_batches: Sequence[int] | None = None,
    duration_s: float | None = None,
) -> Window:
    """Load all endpoints at once and watch them until the answer is good enough.

    Args:
        deployment: the running endpoints.
        clients: a load process for each endpoint, not yet started to send.
        loads: one load an endpoint.
        sources: one input source an endpoint.
        protocol: ``http`` or ``grpc``.
        stopping: warm-up, precision and limits.
        cores: the cores that the clients may use.
        seed: of arrivals.
        request_batches: inferences that a request carries, for each endpoint; by default its
            tenant's batch size.
        duration_s: if given, the window lasts that long, whatever the precision.

    Raises:
        TenantFailure: a tenant cannot take what its cell asks for.
        BadInput: an input source does not fit, or there is no address for the protocol.
        OutsideFailure: the load generators failed.
    """
    ca_file = str(deployment.ca_file) if deployment.ca_file else None
    batches = request_batches or [end.tenant.batch_size for end in deployment.endpoints]
    apis = [
        None if endpoint.http else TritonApi(endpoint, deployment.headers, deployment.ca_file)
        for endpoint in deployment.endpoints
    ]
    shapes = []
    jobs = []
    for index, (endpoint, api) in enumerate(zip(deployment.endpoints, apis, strict=True)):
        spoken = protocol if api else "http"
        try:
            payloads = _payloads(deployment, index, api, batches[index], sources[index], spoken)
        except CannotTake as error:
            raise TenantFailure(index, "refused", str(error)) from error
        shapes.append(payloads.shapes)
        address = endpoint.grpc_address if spoken == "grpc" else endpoint.http_address
        if address is None:
            raise BadInput(
                f"nothing is known of its {spoken} service",
                where=endpoint.http_address,
                hint="--grpc-address host:port" if spoken == "grpc" else None,
            )
        job = Job(
            address=address,
            protocol=spoken,
            call=payloads.call,
            bodies=payloads.bodies,
            headers=(*payloads.headers, *_secrets(deployment, index)),
            load=loads[index],
            seed=seed + index,
            timeout_s=stopping.request_timeout_s,
            cores=cores,
            tls=endpoint.tls,
            tls_ca=ca_file,
        )
        jobs.append(job)
        clients[index].assign(job)
    for client in clients:
        client.wait_ready()
    run = _Run(deployment, clients, apis, jobs, stopping)
    try:
        with _on_cores(cores):
            return run.window(duration_s, shapes)
    except TenantFailure as failure:
        for client in clients:
            with contextlib.suppress(OutsideFailure):
                client.stop()
        return _ended(
            [_phased(client.rows(), run.start_ns, None) for client in clients],
            [endpoint.tenant for endpoint in deployment.endpoints],
            failure,
            run.start_ns,
        )


def _payloads(
    deployment: Deployment,
    index: int,
    api: TritonApi | None,
    batch_size: int,
    source: InputSource,
    protocol: str,
) -> Payloads:
    """A tenant's requests: as its Triton describes its inputs, or as the user does."""
    endpoint = deployment.endpoints[index]
    scale = endpoint.tenant.input_scale
    if api is None:
        assert endpoint.http is not None
        return prepare_http(
            endpoint.http,
            model=endpoint.tenant.model,
            batch_size=batch_size,
            input_scale=scale,
            source=source,
        )
    return prepare(
        _asked(deployment, index, api.metadata),
        _asked(deployment, index, api.config),
        batch_size=batch_size,
        input_scale=scale,
        source=source,
        protocol=protocol,
    )


def _secrets(deployment: Deployment, index: int) -> tuple[tuple[str, str], ...]:
    """The headers that a tenant's server may see.

    They were given for the server that the user named; one that a sweep names besides gets none.
    """
    server = deployment.endpoints[index].http
    return () if server is not None and server.address is not None else deployment.headers


T = TypeVar("T")


def _asked(deployment: Deployment, index: int, call: Callable[[], T]) -> T:
    """Ask a tenant's server; one that does not answer is a result of that tenant."""
    try:
        return call()
    except OutsideFailure as error:
        status, detail = deployment.ending(index) or ("timeout", str(error))
        raise TenantFailure(index, status, detail) from error


@contextlib.contextmanager
def _on_cores(cores: tuple[int, ...]) -> Iterator[None]:
    """Keep this thread, which watches, off the device's cores meanwhile."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Run:
    """The course of one measurement: warm-up, window, drain."""

    def __init__(
        self,
        deployment: Deployment,
        generators: Sequence[Generator],
        apis: Sequence[TritonApi | None],
        jobs: Sequence[Job],
        stopping: Stopping,
    ) -> None:
        self._deployment = deployment
        self._generators = generators
        self._apis = apis
        self._jobs = jobs
        self._stopping = stopping
        self._before: list[tuple[dict[str, Any] | None, Usage | None, float]] = []
        self._loading_ns = 0
        self.start_ns: int | None = None

    def window(
        self,
        duration_s: float | None,
        shapes: Sequence[dict[str, tuple[int, ...]]],
    ) -> Window:
        """Warm up, measure, drain. Raises TenantFailure when a tenant ends."""
        self._loading_ns = time.monotonic_ns() + 20 * NS_PER_MS
        for generator in self._generators:
            generator.start(self._loading_ns)
        self._warm_up()
        start_ns = self._open()
        limited = self._watch(start_ns, duration_s)
        assert self.start_ns is not None
        end_ns = time.monotonic_ns()
        after_usage = [self._deployment.usage(index) for index in self._indexes()]
        client_s = [_cpu_s(generator) for generator in self._generators]
        limit_ns = self._drain(end_ns)
        after = [self._statistics(index) for index in self._indexes()]
        for generator in self._generators:
            generator.stop()
        elapsed_s = (end_ns - self.start_ns) / NS_PER_S
        tenants = []
        for index in self._indexes():
            before, usage, client_before_s = self._before[index]
            rows = self._generators[index].rows()
            if limit_ns is not None:
                rows = np.concatenate([rows, self._unanswered(index, rows, end_ns, limit_ns)])
            rows = _phased(rows, self.start_ns, end_ns)
            counted = rows[rows["phase"] == MEASURED]
            if len(counted) and not counted["ok"].any():
                raise TenantFailure(index, *self._failure(index))
            stable, verdict = self._verdict(index, rows, limited)
            tenants.append(
                Observed(
                    rows=rows,
                    status="ok",
                    stable=stable,
                    verdict=verdict,
                    server_times=server_times(before, after[index]),
                    usage=usage_between(usage, after_usage[index]),
                    client_cpu_pct=round(100 * (client_s[index] - client_before_s) / elapsed_s, 1),
                    shapes=shapes[index],
                )
            )
        return Window(tuple(tenants), self.start_ns, end_ns)

    def _indexes(self) -> range:
        return range(len(self._generators))

    def _tick(self) -> None:
        """Let time pass, collect reports, and see whether every tenant still lives."""
        time.sleep(TICK_S)
        for index, generator in enumerate(self._generators):
            generator.collect()
            ended = self._deployment.ending(index)
            if ended is not None:
                raise TenantFailure(index, *ended)
            if generator.failing >= GIVE_UP_AFTER:
                raise TenantFailure(index, *self._failure(index))

    def _failure(self, index: int) -> tuple[Status, str]:
        """How a tenant that answers no request any more has ended."""
        ended = self._deployment.ending(index)
        if ended is not None:
            return ended
        report = self._generators[index].last_report
        failures = report.failures if report else {}
        kind = max(failures, key=lambda name: failures[name], default="timeout")
        statuses: dict[str, Status] = {"refused": "refused", "timeout": "timeout"}
        detail = (report.first_failure if report else None) or "no request was answered"
        if log := self._deployment.log_tail(index):
            detail += f"; the server's log ends: {log[-LOG_CHARACTERS:]}"
        return statuses.get(kind, "crashed"), detail

    def _statistics(self, index: int) -> dict[str, Any] | None:
        """Triton's statistics; None if it does not tell them now: the latencies count without.

        None, too, for a server that is no Triton.
        """
        api = self._apis[index]
        if api is None:
            return None
        try:
            return api.statistics()
        except OutsideFailure:
            return None

    def _warm_up(self) -> None:
        """Until each tenant has answered often and long enough (every shape was sent)."""
        limit_s = self._stopping.start_timeout_s
        while True:
            self._tick()
            elapsed_s = (time.monotonic_ns() - self._loading_ns) / NS_PER_S
            answers = [generator.successes for generator in self._generators]
            if elapsed_s >= self._stopping.warmup_s and (
                min(answers) >= self._stopping.warmup_requests
            ):
                return
            if elapsed_s > limit_s:
                slowest = answers.index(min(answers))
                raise TenantFailure(
                    slowest,
                    "timeout",
                    f"answered {answers[slowest]} of {self._stopping.warmup_requests} warm-up"
                    f" requests in {limit_s:g} s",
                )

    def _open(self) -> int:
        """Begin the counted window now."""
        statistics = [self._statistics(index) for index in self._indexes()]
        # asking for those takes a while, in which CPU time is used that is not the window's
        usage = [self._deployment.usage(index) for index in self._indexes()]
        self.start_ns = time.monotonic_ns()
        client_s = [_cpu_s(generator) for generator in self._generators]
        self._before = list(zip(statistics, usage, client_s, strict=True))
        return self.start_ns

    def _watch(
        self,
        opened_ns: int,
        duration_s: float | None,
    ) -> bool:
        """Watch until all tenants are stable or a limit is reached; whether it was a limit."""
        stopping = self._stopping
        next_check_s = stopping.min_s if duration_s is None else duration_s
        while True:
            self._tick()
            elapsed_s = (time.monotonic_ns() - opened_ns) / NS_PER_S
            if elapsed_s < next_check_s:
                continue
            next_check_s = elapsed_s + CHECK_S
            counted = [self._latencies(index) for index in self._indexes()]
            found = [self._stability(latency_ms) for latency_ms in counted]
            enough = min(len(latency_ms) for latency_ms in counted) >= stopping.min_requests
            if duration_s is not None or (enough and all(each.stable for each in found)):
                return False
            most = max(len(latency_ms) for latency_ms in counted)
            if elapsed_s >= stopping.max_s or most >= stopping.max_requests:
                return True
            drifting = enough and any(each.drifting for each in found)
            window_s = (time.monotonic_ns() - (self.start_ns or opened_ns)) / NS_PER_S
            # what drifts has not settled: forget the unsettled start while there is time
            if drifting and window_s >= 2 * stopping.min_s and elapsed_s <= stopping.max_s / 2:
                self._open()
                next_check_s = elapsed_s + max(stopping.min_s, CHECK_S)

    def _verdict(self, index: int, rows: Rows, limited: bool) -> tuple[bool, str]:
        """Whether a tenant's mean is known well enough, judged on all that counts, and why."""
        counted = rows[rows["phase"] == MEASURED]
        failed = int((counted["ok"] == 0).sum())
        found = self._stability(
            latencies_ms(rows, intended=self._jobs[index].load.kind != "closed")
        )
        few = len(counted) - failed < self._stopping.min_requests
        reasons = [found.reason]
        if few:
            reasons.append(f"fewer than {self._stopping.min_requests} requests")
        if failed:
            report = self._generators[index].last_report
            first = report.first_failure if report else None
            reasons.append(f"{failed} of {len(counted)} requests failed (the first ever: {first})")
        if limited:
            reasons.append("stopped at a limit")
        return found.stable and not few and not failed, "; ".join(reasons)

    def _stability(self, latency_ms: npt.NDArray[np.float64]) -> Stability:
        return stability(
            latency_ms,
            precision_pct=self._stopping.precision_pct,
            max_drift_pct=self._stopping.max_drift_pct,
        )

    def _latencies(self, index: int) -> npt.NDArray[np.float64]:
        """Latencies of the window's good requests so far, in ms, in the order of their ends."""
        rows = self._generators[index].rows()
        counted = rows[(rows["intended_ns"] >= self.start_ns) & (rows["ok"] == 1)]
        begin = "sent_ns" if self._jobs[index].load.kind == "closed" else "intended_ns"
        latency_ms: npt.NDArray[np.float64] = (counted["done_ns"] - counted[begin]) / NS_PER_MS
        return latency_ms

    def _drain(self, end_ns: int) -> int | None:
        """Keep all loads up until every request meant for the window has been answered.

        Returns:
            None, or the instant at which the wait was given up: a server that cannot keep up
            would have all wait for ever.
        """
        limit_s = self._stopping.request_timeout_s + DRAIN_SLACK_S
        limit_ns = end_ns + int(limit_s * NS_PER_S)
        while not all(generator.answered_until(end_ns) for generator in self._generators):
            if time.monotonic_ns() > limit_ns:
                return limit_ns
            self._tick()
        return None

    def _unanswered(self, index: int, rows: Rows, end_ns: int, limit_ns: int) -> Rows:
        """Requests that an open loop meant for the window and nobody answered: they failed."""
        job = self._jobs[index]
        if job.load.kind == "closed" or self.start_ns is None:
            return np.zeros(0, REQUEST_DTYPE)
        meant = []
        for instant_s in arrivals_s(job.load, job.seed):
            intended_ns = self._loading_ns + int(instant_s * 1e9)
            if intended_ns >= end_ns:
                break
            if intended_ns >= self.start_ns:
                meant.append(intended_ns)
        missing = np.setdiff1d(np.array(meant, np.int64), rows["intended_ns"])
        lost = np.zeros(len(missing), REQUEST_DTYPE)
        lost["intended_ns"] = missing
        lost["sent_ns"] = lost["done_ns"] = limit_ns
        return lost


def _cpu_s(generator: Generator) -> float:
    return generator.last_report.cpu_s if generator.last_report else 0.0


def _phased(rows: Rows, start_ns: int | None, end_ns: int | None) -> Rows:
    """Mark each request by the window that it was meant for."""
    rows["phase"] = WARMUP
    if start_ns is not None:
        rows["phase"][rows["intended_ns"] >= start_ns] = MEASURED
        if end_ns is not None:
            rows["phase"][rows["intended_ns"] >= end_ns] = AFTER
    return rows


def usage_between(before: Usage | None, after: Usage | None) -> Usage | None:
    """Counters as differences between two readings; peaks and kills as of the later one."""
    if before is None or after is None:
        return after

    def minus(name: str) -> Any:
        first, last = getattr(before, name), getattr(after, name)
        return None if first is None or last is None else last - first

    return Usage(
        cpu_s=minus("cpu_s"),
        periods=minus("periods"),
        throttled_periods=minus("throttled_periods"),
        throttled_s=minus("throttled_s"),
        memory_peak_mib=after.memory_peak_mib,
        oom_kills=after.oom_kills,
        memory_mib=after.memory_mib,
        memory_working_mib=after.memory_working_mib,
        read_bytes=minus("read_bytes"),
        written_bytes=minus("written_bytes"),
    )


def failed_window(tenants: Sequence[Tenant], failure: TenantFailure) -> Window:
    """The outcome for tenants of which one could not even start."""
    return _ended([np.zeros(0, REQUEST_DTYPE) for _ in tenants], tenants, failure, None)


def _ended(
    rows: Sequence[Rows],
    tenants: Sequence[Tenant],
    failure: TenantFailure,
    start_ns: int | None,
) -> Window:
    """The outcome of a cell in which one tenant failed; its neighbours' numbers mean nothing."""
    culprit = tenants[failure.index].model
    return Window(
        tenants=tuple(
            Observed(rows=part, status=failure.status, detail=failure.detail)
            if index == failure.index
            else Observed(
                rows=part,
                status="invalid",
                detail=f"its neighbour {culprit} (tenant {failure.index + 1}) ended:"
                f" {failure.status}",
            )
            for index, part in enumerate(rows)
        ),
        start_ns=start_ns,
        end_ns=None,
    )


def lagged_pct(rows: Rows) -> float:
    """Share of requests that the client itself sent late, in percent. (n,) of REQUEST_DTYPE."""
    late = np.asarray(rows["sent_ns"] - rows["intended_ns"] > LAG_NS)
    return 100.0 * float(late.mean())
