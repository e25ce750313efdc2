"""Run a plan's traffic against its servers and collect the verdicts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from igniter_prof import __version__
from igniter_prof.config.devices import spare_cores
from igniter_prof.deployment import attached, tenants_of
from igniter_prof.errors import BadInput
from igniter_prof.evaluation.joined import Joined
from igniter_prof.evaluation.judge import judge, loads_of
from igniter_prof.files import now_utc
from igniter_prof.load import Generator, InputSource, generators
from igniter_prof.load.worker import OPEN_LOOP_THREADS
from igniter_prof.records import (
    Conditions,
    Device,
    Load,
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
    there are real ones, so that a plan for many devices can be tried on one. A replica is a tenant
    like any other, with its own part of the rate and its own verdict.

    Args:
        plan: what to evaluate.
        devices: a real device for each of the plan's, in its order (``deployment.assign``); those
            that share a real device are evaluated in turn.
        options: how to serve what is started.
        launched: use the servers that ``igprof launch`` started.
        duration_s: length of the counted window on each device.
        protocol: ``http`` or ``grpc``.
        sources: inputs by model; random where there are none.
        stopping: warm-up and time-outs.
        seed: of arrivals and random inputs.
        on_device: told the plan's device and the real one before it is loaded.

    Raises:
        BadInput: the plan is not launched, or lacks what its traffic needs.
        OutsideFailure: something other than a tenant failed.
    """
    began = time.monotonic()
    stopping = stopping or Stopping()
    loads = {device.name: loads_of(device) for device in plan.devices}
    if len(loads) < len(plan.devices):
        raise BadInput("two devices of the plan have one name", hint="rename one of them")

    judged: dict[str, list[WorkloadResult]] = {}
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
                    judged[planned.name] = _judged(
                        planned, failed_window(tenants_of(planned), failure)
                    )
                    conditions = conditions or conditions_of(None, real, options.runtime)
                    continue
                conditions = conditions or conditions_of(deployment, real)
                running.append((planned, deployment))
            if running:
                window = _load(
                    running,
                    clients,
                    [load for planned, _ in running for load in loads[planned.name]],
                    used,
                    stopping,
                    protocol,
                    sources or {},
                    seed,
                    duration_s,
                )
                judged.update(_split(running, window))
        if turn is not turns[-1]:
            for real in used:
                come_to_rest(real, stopping.cooldown_s)
    assert conditions is not None  # a plan has at least one device
    results = [result for device in plan.devices for result in judged[device.name]]
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
    loads: Sequence[Load],
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
        loads=loads,
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
) -> Iterator[tuple[str, list[WorkloadResult]]]:
    """Each device's name and verdicts, out of the one window that all were measured in."""
    first = 0
    for planned, _ in running:
        part = window.tenants[first : first + len(planned.tenants)]
        first += len(planned.tenants)
        yield planned.name, _judged(planned, Window(part, window.start_ns, window.end_ns))


def _judged(planned: PlanDevice, window: Window) -> list[WorkloadResult]:
    return [
        judge(tenant, planned.name, seen, window.start_ns, window.end_ns)
        for tenant, seen in zip(planned.tenants, window.tenants, strict=True)
    ]


def _turns(
    planned: Sequence[PlanDevice], real: Sequence[Device]
) -> Iterator[list[tuple[PlanDevice, Device]]]:
    """The devices to evaluate at once, turn after turn: each real device once a turn."""
    left = list(zip(planned, real, strict=True))
    while left:
        turn: dict[str, tuple[PlanDevice, Device]] = {}
        for pair in left:
            turn.setdefault(pair[1].id, pair)
        left = [pair for pair in left if turn[pair[1].id] is not pair]
        yield list(turn.values())


def _notes(
    plan: Plan, devices: Sequence[Device], results: Sequence[WorkloadResult], launched: bool
) -> Iterator[str]:
    there = list(dict.fromkeys(device.id for device in devices))
    if not launched and len(there) < len(plan.devices):
        yield (
            f"the plan's {len(plan.devices)} devices were evaluated in turn on {len(there)}"
            f" ({', '.join(there)})"
        )
    if plan.left_out:
        yield f"the plan leaves out, and so this evaluation: {', '.join(plan.left_out)}"
    tenants = (tenant for device in plan.devices for tenant in device.tenants)
    for tenant, result in zip(tenants, results, strict=True):
        # in bursts, requests share their fate
        least = int(P99_REQUESTS * max(1.0, tenant.burstiness or 1.0))
        if result.percentile >= 99 and 0 < result.requests < least:
            yield (
                f"{result.workload}: {result.requests} requests are few for"
                f" a p{result.percentile:g} ({least} are the least); evaluate longer"
            )
        if (result.lagged_pct or 0) > 5:
            yield (
                f"{result.workload}: {result.lagged_pct:.0f} % of its requests were sent over 1 ms"
                f" late: the client is short of cores, or {OPEN_LOOP_THREADS} requests were waiting"
            )
