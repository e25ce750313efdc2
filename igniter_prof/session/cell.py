"""The cell function: watch, deploy, measure, stop, rest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from igniter_prof.config.devices import client_cores
from igniter_prof.files import now_utc
from igniter_prof.load import InputSource, generators
from igniter_prof.monitors import CLIENT
from igniter_prof.records import (
    MEASURED,
    REQUEST_DTYPE,
    Cell,
    ColdStart,
    Conditions,
    Device,
    Endpoint,
    LatencySummary,
    Load,
    Measurement,
    Stopping,
    Tenant,
    TenantMeasurement,
)
from igniter_prof.serving import (
    ServeOptions,
    TenantFailure,
    deploy,
)
from igniter_prof.session.kept import KeptServers
from igniter_prof.session.measuring import Rows, Window, failed_window, lagged_pct, measure
from igniter_prof.session.surroundings import come_to_rest, conditions_of
from igniter_prof.session.watch import Watch
from igniter_prof.statistics import answered_rps, latencies_ms, summarise
from igniter_prof.units import NS_PER_MS, NS_PER_S

OF_ENDPOINT = (
    "threads",
    "model_hash",
    "config_hash",
    "ready_s",
    "image",
    "weight_bytes",
    "sm_count",
)
"""What a tenant's measurement takes over from its endpoint; None if it did not start."""
STEADY_WITHIN = 0.1
"""A start is over with the first inference this near to the steady latency."""


@dataclass(frozen=True)
class CellContext:
    """What all cells of a sweep share."""

    device: Device
    options: ServeOptions
    stopping: Stopping
    sources: Mapping[str, InputSource] = field(default_factory=dict)
    seed: int = 0
    monitors: tuple[str, ...] = (CLIENT,)
    """``name`` or ``name:argument``; those that can run here."""
    kept: KeptServers | None = None
    """Keeps the servers of a cell for the next; None: each cell has fresh ones."""


class MeasuredCell(NamedTuple):
    """All that is stored of a cell."""

    measurement: Measurement
    requests: list[Rows]
    """Of each tenant, (n,) of REQUEST_DTYPE."""
    traces: Mapping[str, npt.NDArray[Any]] = {}
    """What monitors sampled, by name."""


def run_cell(cell: Cell, context: CellContext) -> MeasuredCell:
    """Deploy a cell's tenants, measure them, stop them, and let the machine come to rest.

    A tenant that cannot start, dies, times out or refuses its requests is a result: it has that
    status, and its neighbours are ``invalid``.

    Raises:
        MissingCapability: this machine cannot run the cell at all.
        OutsideFailure: something other than a tenant failed.
    """
    began = time.monotonic()
    anchor = _Anchor.now()
    conditions: Conditions | None = None
    endpoints: tuple[Endpoint, ...] = ()
    cores = client_cores(context.device)[0]
    watch = Watch(context.monitors, context.device)
    served = deploy if context.kept is None else context.kept.deployed
    try:
        with (
            generators(len(cell.tenants)) as clients,
            watch,
            served(context.device, cell.tenants, options=context.options) as deployment,
        ):
            endpoints = deployment.endpoints
            conditions = conditions_of(deployment, context.device)
            watch.attach(deployment, cell.protocol, cores)
            window = measure(
                deployment,
                clients,
                loads=[cell.load] * len(cell.tenants),
                sources=[_source(context, tenant) for tenant in cell.tenants],
                protocol=cell.protocol,
                stopping=context.stopping,
                cores=cores,
                seed=_seed(context.seed, cell),
            )
            watch.look(window, cell.tenants)
    except TenantFailure as failure:
        window = failed_window(cell.tenants, failure)
    if context.kept is not None and any(seen.status != "ok" for seen in window.tenants):
        context.kept.end()
    cooldown = come_to_rest(context.device, context.stopping.cooldown_s)
    tenants = []
    for index, (tenant, seen) in enumerate(zip(cell.tenants, window.tenants, strict=True)):
        endpoint = endpoints[index] if endpoints else None
        statistics = _statistics(seen.rows, cell.load, tenant.batch_size, window)
        tenants.append(
            TenantMeasurement(
                tenant=tenant,
                status=seen.status,
                detail=seen.detail,
                stable=seen.stable,
                verdict=seen.verdict,
                **statistics,
                server_times=seen.server_times,
                usage=seen.usage,
                client_cpu_pct=seen.client_cpu_pct,
                input_shapes=seen.shapes,
                cold_start=cold_start(endpoint, seen.rows, statistics.get("latency")),
                **{name: getattr(endpoint, name, None) for name in OF_ENDPOINT},
                **watch.tenant_fields(index),
            )
        )
    measurement = Measurement(
        cell_id=cell.cell_id,
        cell=cell,
        tenants=tuple(tenants),
        conditions=conditions or conditions_of(None, context.device, context.options.runtime),
        **anchor.fields(),
        window_start_ns=window.start_ns,
        window_end_ns=window.end_ns,
        duration_s=round(time.monotonic() - began, 3),
        cooldown=cooldown,
        **watch.fields(),
    )
    return MeasuredCell(measurement, [seen.rows for seen in window.tenants], watch.traces)


def skipped(cell: Cell, context: CellContext, reason: str) -> MeasuredCell:
    """What is stored of a cell that this host cannot measure."""
    anchor = _Anchor.now()
    measurement = Measurement(
        cell_id=cell.cell_id,
        cell=cell,
        tenants=tuple(
            TenantMeasurement(tenant=tenant, status="skipped", detail=reason)
            for tenant in cell.tenants
        ),
        conditions=conditions_of(None, context.device, context.options.runtime),
        **anchor.fields(),
        duration_s=0.0,
    )
    return MeasuredCell(measurement, [np.zeros(0, REQUEST_DTYPE) for _ in cell.tenants])


def cold_start(
    endpoint: Endpoint | None, rows: Rows, latency: LatencySummary | None
) -> ColdStart | None:
    """The phases of a tenant's start, with those that only its requests tell.

    Args:
        endpoint: as its runtime timed its start; None: it did not start.
        rows: its requests, (n,) of REQUEST_DTYPE; the first is the first inference of its server.
        latency: of the counted window.
    """
    if endpoint is None or endpoint.cold_start is None:
        return None
    answered = rows[rows["ok"] == 1]
    if len(answered) == 0:
        return endpoint.cold_start
    order = np.argsort(answered["sent_ns"], kind="stable")
    all_ms = ((answered["done_ns"] - answered["sent_ns"]) / NS_PER_MS)[order]
    steady_ms = latency.p50.value_ms if latency is not None and latency.p50 is not None else None
    after = None
    if steady_ms is not None:
        near = np.flatnonzero(np.abs(all_ms - steady_ms) <= STEADY_WITHIN * steady_ms)
        after = int(near[0]) if len(near) else None
    return endpoint.cold_start.model_copy(
        update={"first_ms": float(all_ms[0]), "steady_ms": steady_ms, "steady_after": after}
    )


def _source(context: CellContext, tenant: Tenant) -> InputSource:
    return context.sources.get(tenant.model) or InputSource(seed=context.seed)


def _seed(seed: int, cell: Cell) -> int:
    return (seed * 1_000_003 + int(cell.cell_id, 16)) % 2**32


@dataclass(frozen=True)
class _Anchor:
    """Ties the monotonic clock to the wall clock and to the boot that it counts from."""

    started_at: str
    monotonic_ns: int
    wall_ns: int
    boot_id: str | None

    def fields(self) -> dict[str, Any]:
        """As fields of Measurement."""
        return {
            "started_at": self.started_at,
            "anchor_monotonic_ns": self.monotonic_ns,
            "anchor_wall_ns": self.wall_ns,
            "boot_id": self.boot_id,
        }

    @classmethod
    def now(cls) -> _Anchor:
        boot = Path("/proc/sys/kernel/random/boot_id")
        return cls(
            started_at=now_utc(),
            monotonic_ns=time.monotonic_ns(),
            wall_ns=time.time_ns(),
            boot_id=boot.read_text().strip() if boot.exists() else None,
        )


def _statistics(rows: Rows, load: Load, batch_size: int, window: Window) -> dict[str, Any]:
    """The derived numbers of one tenant, as fields of TenantMeasurement."""
    counted = rows[rows["phase"] == MEASURED]
    good = counted[counted["ok"] == 1]
    found: dict[str, Any] = {"failed_requests": int(len(counted) - len(good))}
    if len(good) == 0 or window.start_ns is None or window.end_ns is None:
        return found
    found["latency"] = summarise(latencies_ms(rows))
    if load.kind == "closed":
        # from the first send to the last answer: exact with one in flight
        span_s = float(good["done_ns"].max() - good["sent_ns"].min()) / NS_PER_S
        found["throughput_rps"] = len(good) * batch_size / span_s
    else:
        found["throughput_rps"] = batch_size * answered_rps(rows, window.start_ns, window.end_ns)
        found["latency_intended"] = summarise(latencies_ms(rows, intended=True))
        found["lagged_pct"] = lagged_pct(counted)
    return found
