"""Synthetic co-located measurements with known coefficients, for the tests of ``igprof``.

The equations are written out once more here: a slip in the product's does not hide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from igniter_prof.fitting.points import Observations, observe
from igniter_prof.records import (
    Cell,
    Device,
    DevicePower,
    GpuCounters,
    LatencySummary,
    Load,
    Measurement,
    Tenant,
    TenantMeasurement,
)
from tests.unit.fitting_cells import CONDITIONS

GPU = Device(id="cuda:0", kind="cuda", name="a GPU")

CONTENTION, TRANSFER, DELAY_US = 0.08, 0.25, 9.0
BYTES_PER_MS = 1e7
IDLE_W, LIMIT_W, FULL_MHZ, DROP_MHZ_PER_W = 50.0, 235.0, 1500.0, 4.0


@dataclass(frozen=True)
class Truth:
    """A model: ms for a share of 1, kernels, bytes of an inference, W and mJ of the power."""

    item_ms: float
    batch_ms: float
    fixed_ms: float
    kernels: int
    item_bytes: float
    base_w: float
    item_mj: float


TRUTH = {
    "heavy": Truth(1.2, 2.0, 1.5, 120, 600e3, 60.0, 150.0),
    "light": Truth(0.25, 0.5, 0.6, 25, 600e3, 45.0, 30.0),
    "wire": Truth(0.3, 0.8, 0.5, 60, 2400e3, 50.0, 40.0),
}
MODELS = tuple(TRUTH)
Cells = Sequence[Sequence[Tenant]]


def full_clock_ms(t: Tenant) -> float:
    """Latency alone at the highest clock."""
    m, share = TRUTH[t.model], (t.share_pct or 100.0) / 100.0
    return (m.item_ms * t.batch_size + m.batch_ms) / (share + 0.05) + m.fixed_ms


def demand_w(tenants: Sequence[Tenant]) -> float:
    total = IDLE_W
    for t in tenants:
        total += TRUTH[t.model].base_w + TRUTH[t.model].item_mj * t.batch_size / full_clock_ms(t)
    return total


def transfer_ms(t: Tenant) -> float:
    return TRUTH[t.model].item_bytes * t.batch_size / BYTES_PER_MS


def clock_mhz(tenants: Sequence[Tenant]) -> float:
    return FULL_MHZ - DROP_MHZ_PER_W * max(demand_w(tenants) - LIMIT_W, 0.0)


def true_ms(tenants: Sequence[Tenant]) -> list[float]:
    """docs/model.md's equations of each tenant of a cell."""
    others, found = len(tenants) - 1, []
    for t in tenants:
        alone = full_clock_ms(t) * FULL_MHZ / clock_mhz([t])
        bus = transfer_ms(t)
        beside = (alone - bus) * (1 + CONTENTION * others) + bus * (1 + TRANSFER * others)
        beside += DELAY_US * 1e-3 * TRUTH[t.model].kernels * others
        found.append(beside * clock_mhz([t]) / clock_mhz(tenants))
    return found


def alone_cells(
    batches: Sequence[int] = (1, 4, 16, 32), shares: Sequence[float] = (10, 30, 50, 80, 100)
) -> list[tuple[Tenant, ...]]:
    return [
        (Tenant(model=m, batch_size=b, share_pct=s),)
        for m in MODELS
        for b in batches
        for s in shares
    ]


def mixed_cells(
    count: int, seed: int = 0, models: Sequence[str] = MODELS, sizes: Sequence[int] = (2,)
) -> list[tuple[Tenant, ...]]:
    """Random cells whose shares sum to at most 100."""
    rng = np.random.default_rng(seed)
    cells = []
    for k in range(count):
        size = sizes[k % len(sizes)]
        cut = rng.dirichlet(np.full(size, 3.0)) * 90
        cells.append(
            tuple(
                Tenant(
                    model=str(rng.choice(models)),
                    batch_size=int(rng.choice([1, 2, 4, 8, 16, 32])),
                    share_pct=float(max(np.floor(s / 2.5) * 2.5, 5.0)),
                )
                for s in cut
            )
        )
    return cells


def measure(
    cells: Cells,
    noise: float = 0.003,
    seed: int = 1,
    truth: Callable[[Sequence[Tenant]], list[float]] = true_ms,
    *,
    counters: bool = True,
    power: bool = True,
    device: Device = GPU,
) -> list[Measurement]:
    """What a sweep would store, with relative normal noise."""
    rng = np.random.default_rng(seed)
    return [_measurement(cell, truth(cell), noise, rng, counters, power, device) for cell in cells]


def _measurement(
    tenants: Sequence[Tenant],
    latencies: Sequence[float],
    noise: float,
    rng: np.random.Generator,
    counters: bool,
    power: bool,
    device: Device,
) -> Measurement:
    cell = Cell(device=device.id, tenants=tuple(tenants), load=Load())
    measured = []
    for t, value in zip(tenants, latencies, strict=True):
        seen = value * float(np.exp(noise * rng.standard_normal()))
        m = TRUTH.get(t.model)
        read = (
            GpuCounters(kernels=m.kernels, input_bytes=m.item_bytes, output_bytes=0.0)
            if counters and m
            else None
        )
        summary = LatencySummary(
            count=500, mean_ms=seen, std_ms=0.05 * seen, mean_ci_ms=None, min_ms=None, max_ms=None
        )
        measured.append(TenantMeasurement(tenant=t, status="ok", latency=summary, counters=read))
    board = None
    if power:
        watts = min(demand_w(tenants), LIMIT_W) * float(np.exp(0.002 * rng.standard_normal()))
        board = DevicePower(
            uuid="GPU-0",
            power_mean_w=watts,
            power_limit_w=LIMIT_W,
            bare_idle_w=IDLE_W,
            sm_clock_mean_mhz=clock_mhz(tenants),
        )
    return Measurement(
        cell_id=cell.cell_id,
        cell=cell,
        tenants=tuple(measured),
        conditions=CONDITIONS,
        started_at="2026-01-01T00:00:00+00:00",
        anchor_monotonic_ns=0,
        anchor_wall_ns=0,
        duration_s=1.0,
        power=board,
    )


def observed(measurements: Sequence[Measurement], device: Device = GPU) -> Observations:
    return observe(measurements, device)[0]
