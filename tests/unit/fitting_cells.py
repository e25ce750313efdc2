"""Synthetic measurements with known coefficients, for the tests of fitting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from igniter_prof.records import (
    Cell,
    Conditions,
    Device,
    LatencySummary,
    Load,
    Measurement,
    Status,
    Tenant,
    TenantMeasurement,
)

CPU = Device(id="cpu:0-1", kind="cpu", name="a CPU", cores=(0, 1))
CONDITIONS = Conditions(igprof="0", runtime="local")

TRUTH: dict[str, dict[str, float]] = {
    "small": {
        "k1_ms": 0.02,
        "k2_ms": 1.0,
        "k3_ms": 2.0,
        "k4": 0.08,
        "k5_ms": 1.0,
        "transfer_ms": 0.3,
        "alpha_cache": 0.6,
        "cache_util": 0.5,
        "scheduling_ms": 0.2,
    },
    "middle": {
        "k1_ms": 0.05,
        "k2_ms": 4.0,
        "k3_ms": 5.0,
        "k4": 0.15,
        "k5_ms": 2.0,
        "transfer_ms": 0.5,
        "alpha_cache": 0.4,
        "cache_util": 1.0,
        "scheduling_ms": 0.5,
    },
    "large": {
        "k1_ms": 0.2,
        "k2_ms": 20.0,
        "k3_ms": 10.0,
        "k4": 0.05,
        "k5_ms": 8.0,
        "transfer_ms": 2.0,
        "alpha_cache": 0.3,
        "cache_util": 2.0,
        "scheduling_ms": 1.0,
    },
}
SHARE_EXPONENT, BATCH_EXPONENT = 0.7, 0.2
MODELS = tuple(TRUTH)


def true_latencies(tenants: Sequence[Tenant]) -> list[float]:
    """The equations of docs/model.md, written out once more, for each tenant of a cell."""
    shares = [
        t.share_pct / 100
        if t.share_pct is not None
        else (1.0 if t.cpu_cores is None else t.cpu_cores / len(CPU.cores))
        for t in tenants
    ]
    pressures = [
        TRUTH[t.model]["cache_util"] * r**SHARE_EXPONENT * t.batch_size**BATCH_EXPONENT
        for t, r in zip(tenants, shares, strict=True)
    ]
    latencies = []
    for t, r, own in zip(tenants, shares, pressures, strict=True):
        p, b, s = TRUTH[t.model], t.batch_size, t.input_scale**1.5
        work = (p["k1_ms"] * b * b + p["k2_ms"] * b + p["k3_ms"]) * s
        active = work / (r + p["k4"]) + p["k5_ms"]
        slowdown = 1 + p["alpha_cache"] * (sum(pressures) - own)
        waits = p["scheduling_ms"] * (len(tenants) - 1)
        latencies.append(p["transfer_ms"] * b * s + waits + active * slowdown)
    return latencies


def measured(
    tenants: Sequence[Tenant],
    latencies_ms: Sequence[float],
    *,
    statuses: Sequence[Status] | None = None,
    load: Load | None = None,
    repeat: int = 0,
    device: Device = CPU,
    cv: float = 0.1,
) -> Measurement:
    """A measurement as a sweep would store it."""
    cell = Cell(device=device.id, tenants=tuple(tenants), load=load or Load(), repeat=repeat)
    return Measurement(
        cell_id=cell.cell_id,
        cell=cell,
        tenants=tuple(
            TenantMeasurement(
                tenant=tenant,
                status=status,
                stable=True,
                latency=LatencySummary(
                    count=200,
                    mean_ms=value,
                    std_ms=cv * value,
                    mean_ci_ms=0.005 * value,
                    min_ms=value,
                    max_ms=value,
                )
                if status == "ok"
                else None,
            )
            for tenant, value, status in zip(
                tenants, latencies_ms, statuses or ["ok"] * len(tenants), strict=True
            )
        ),
        conditions=CONDITIONS,
        started_at="2026-01-01T00:00:00+00:00",
        anchor_monotonic_ns=0,
        anchor_wall_ns=0,
        duration_s=1.0,
    )


def solo_cells(
    models: Sequence[str] = MODELS,
    batches: Sequence[int] = (1, 2, 4, 8),
    shares: Sequence[float] = (20, 40, 60, 80, 100),
) -> list[tuple[Tenant, ...]]:
    """Every model alone, over batch and share."""
    return [
        (Tenant(model=m, batch_size=b, share_pct=r),)
        for m in models
        for b in batches
        for r in shares
    ]


def pair_cells(
    models: Sequence[str] = MODELS,
    batches: Sequence[int] = (1, 4, 8),
    shares: Sequence[float] = (20, 50, 80),
) -> list[tuple[Tenant, ...]]:
    """Every pair, over both batches and the split of the device."""
    return [
        (
            Tenant(model=first, batch_size=b, share_pct=r),
            Tenant(model=second, batch_size=c, share_pct=100 - r),
        )
        for i, first in enumerate(models)
        for second in models[i + 1 :]
        for b in batches
        for c in batches
        for r in shares
    ]


def measure_truth(
    cells: Sequence[Sequence[Tenant]], noise: float = 0.01, seed: int = 0
) -> list[Measurement]:
    """What cells would measure: the truth, with relative normal noise."""
    rng = np.random.default_rng(seed)
    return [
        measured(cell, [v * np.exp(noise * rng.standard_normal()) for v in true_latencies(cell)])
        for cell in cells
    ]
