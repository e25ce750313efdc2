"""Run a plan's traffic against its servers and collect the verdicts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from igniter_prof import __version__
from igniter_prof.config.devices import spare_cores
from igniter_prof.deployment import attached, tenants_of
from igniter_prof.evaluation.joined import Joined
from igniter_prof.evaluation.judge import judge, loads_of
from igniter_prof.files import now_utc
from igniter_prof.load import Generator, InputSource, generators
from igniter_prof.load.worker import OPEN_LOOP_THREADS
from igniter_prof.records import (
    Conditions,
    Device,
    Plan,
    PlanDevice,
    Result,
    Stopping,
    WorkloadResult,
)
from igniter_prof.serving import Deployment, ServeOptions, TenantFailure, deploy, detach
from igniter_prof.session import Window, come_to_rest, conditions_of, failed_window, measure

P99_REQUESTS = 662
"""Fewer requests say little about a p99 (MLPerf LoadGen's early stopping)."""


def evaluate(
    plan: Plan,
    devices: Sequence[Device],
    options: ServeOptions,
    *,
    launched: bool,
    duration_s: float,
    protocol: str = "http",
    sources: Mapping[str, InputSource] | None = None,
    stopping: Stopping | None = None,
    seed: int = 0,
    on_device: Callable[[str, str], None] | None = None,
) -> Result:
    """Load every device of a plan at the planned rates and judge each workload against its SLO.

    All tenants of a device are loaded at once. A launched plan is loaded on all its devices at
    once; otherwise the plan is started for the evaluation, on as many of its devices at a time as
    there are real ones, so that a plan for many devices can be tried on one.

    Args:
        plan: what to evaluate.
        devices: real devices, in the order of the plan's.
        options: how to serve what is started.
        launched: use the servers that ``igprof launch`` started.
        duration_s: length of the counted window on each device.
        protocol: ``http`` or ``grpc``.
        sources: inputs by model; random where there are none.
        stopping: warm-up and time-outs.
        seed: of arrivals and random inputs.
        on_device: told the plan's device and the real one before it is loaded.

    Raises:
        BadInput: the plan is not launched.
        OutsideFailure: something other than a tenant failed.
    """
    began = time.monotonic()
    stopping = stopping or Stopping()

    results: list[WorkloadResult] = []
    conditions: Conditions | None = None
    turns = list(_turns(plan.devices, devices))
    for turn in turns:
        used = [real for _, real in turn]
        with contextlib.ExitStack() as stack:
            clients = stack.enter_context(generators(sum(len(each.tenants) for each, _ in turn)))
            running: list[tuple[PlanDevice, Deployment]] = []
            for planned, real in turn:
                if on_device is not None:
                    on_device(planned.name, real.id)
                try:
                    if launched:
                        deployment = attached(plan, planned)
                        stack.callback(detach, deployment)
                    else:
                        deployment = stack.enter_context(
                            deploy(real, tenants_of(planned), options=options)
                        )
                except TenantFailure as failure:
                    results += _judged(planned, failed_window(tenants_of(planned), failure))
                    conditions = conditions or conditions_of(None, real, options.runtime)
                    continue
                conditions = conditions or conditions_of(deployment, real)
                running.append((planned, deployment))
            if running:
                window = _load(
                    running, clients, used, stopping, protocol, sources or {}, seed, duration_s
                )
                results += _split(running, window)
        if turn is not turns[-1]:
            for real in used:
                come_to_rest(real, stopping.cooldown_s)
    assert conditions is not None  # a plan has at least one device
    return Result(
        plan_hash=plan.digest(),
        igprof=__version__,
        created_at=now_utc(),
        duration_s=round(time.monotonic() - began, 1),
        seed=seed,
        conditions=conditions,
        workloads=tuple(results),
        slo_met=all(result.slo_met for result in results),
        notes=tuple(_notes(plan, devices, results, launched)),
    )


def _load(
    running: Sequence[tuple[PlanDevice, Deployment]],
    clients: Sequence[Generator],
    used: Sequence[Device],
    stopping: Stopping,
    protocol: str,
    sources: Mapping[str, InputSource],
    seed: int,
    duration_s: float,
) -> Window:
    """Load all tenants of some devices at once."""
    joined = Joined([deployment for _, deployment in running])
    tenants = [tenant for planned, _ in running for tenant in planned.tenants]
    return measure(
        joined,
        clients[: len(tenants)],
        loads=[load for planned, _ in running for load in loads_of(planned)],
        sources=[sources.get(tenant.model) or InputSource(seed=seed) for tenant in tenants],
        protocol=protocol,
        stopping=stopping,
        cores=spare_cores([core for device in used for core in device.cores])[0],
        seed=seed,
        # a request of a workload is one inference; the server batches
        request_batches=[1] * len(tenants),
        duration_s=duration_s,
    )


def _split(
    running: Sequence[tuple[PlanDevice, Deployment]], window: Window
) -> Iterator[WorkloadResult]:
    """The verdicts of each device's tenants, out of the one window that they were measured in."""
    first = 0
    for planned, _ in running:
        part = window.tenants[first : first + len(planned.tenants)]
        first += len(planned.tenants)
        yield from _judged(planned, Window(part, window.start_ns, window.end_ns))


def _judged(planned: PlanDevice, window: Window) -> list[WorkloadResult]:
    return [
        judge(tenant, planned.name, seen, window.start_ns, window.end_ns)
        for tenant, seen in zip(planned.tenants, window.tenants, strict=True)
    ]


def _turns(
    planned: Sequence[PlanDevice], real: Sequence[Device]
) -> Iterator[list[tuple[PlanDevice, Device]]]:
    for start in range(0, len(planned), len(real)):
        yield list(zip(planned[start : start + len(real)], real, strict=False))


def _notes(
    plan: Plan, devices: Sequence[Device], results: Sequence[WorkloadResult], launched: bool
) -> Iterator[str]:
    if not launched and len(devices) < len(plan.devices):
        yield (
            f"the plan's {len(plan.devices)} devices were evaluated in turn on {len(devices)}"
            f" ({', '.join(device.id for device in devices)})"
        )
    for result in results:
        if result.percentile >= 99 and 0 < result.requests < P99_REQUESTS:
            yield (
                f"{result.workload}: {result.requests} requests are few for"
                f" a p{result.percentile:g} ({P99_REQUESTS} are the least); evaluate longer"
            )
        if (result.lagged_pct or 0) > 5:
            yield (
                f"{result.workload}: {result.lagged_pct:.0f} % of its requests were sent over 1 ms"
                f" late: the client is short of cores, or {OPEN_LOOP_THREADS} requests were waiting"
            )
