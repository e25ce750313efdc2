"""Synthetic profiles, made with known numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igniter_prof.dataset import ProfileStore, cellfile
from igniter_prof.records import (
    AFTER,
    MEASURED,
    REQUEST_DTYPE,
    WARMUP,
    Cell,
    Conditions,
    Device,
    Measurement,
    ProfileManifest,
    Sweep,
    SweepModel,
    Tenant,
    TenantMeasurement,
)
from igniter_prof.statistics import latencies_ms, summarise

DEVICE = Device(id="cpu:0-1", kind="cpu", name="A CPU", cores=(0, 1), memory_mib=1000.0)
ANCHOR_NS = 5_000_000_000_000
WALL_NS = 1_700_000_000_000_000_000
CONDITIONS = Conditions(
    igprof="0", runtime="local", triton="2.51", cpu_model="A CPU", cpu_count=2, client_apart=False
)


def manifest(*models: str, device: Device = DEVICE, **changes: Any) -> ProfileManifest:
    sweep = Sweep(models=tuple(SweepModel(name=name) for name in models or ("mlp",)))
    values = {"sweep": sweep, "device": device, "created_at": "2026-01-01", "igprof": "0"}
    return ProfileManifest.model_validate({**values, **changes})


def rows(latency_ms: Sequence[float] | np.ndarray, warmup: int = 2, after: int = 1) -> np.ndarray:
    """A closed loop: warm-up requests of 50 ms, then the given latencies, then the drain."""
    all_ms = np.concatenate([np.full(warmup, 50.0), latency_ms, np.full(after, 7.0)])
    latency_ns = np.round(all_ms * 1e6).astype(np.int64)
    done = ANCHOR_NS + 1_000_000 + np.cumsum(latency_ns + 10_000)
    found = np.zeros(len(all_ms), REQUEST_DTYPE)
    found["done_ns"] = done
    found["sent_ns"] = found["intended_ns"] = done - latency_ns
    found["phase"] = np.repeat([WARMUP, MEASURED, AFTER], [warmup, len(latency_ms), after])
    found["ok"] = 1
    return found


def cell(*tenants: Tenant, device: str = DEVICE.id, **changes: Any) -> Cell:
    return Cell(device=device, tenants=tenants or (Tenant(model="mlp", share_pct=50),), **changes)


def measured(
    what: Cell,
    requests: Sequence[np.ndarray],
    *,
    conditions: Conditions = CONDITIONS,
    start: int = 0,
) -> Measurement:
    """The measurement that a sound session derives from these requests; ``start`` in seconds."""
    window_start = min(int(part["intended_ns"][part["phase"] == MEASURED][0]) for part in requests)
    window_end = min(int(part["intended_ns"][part["phase"] == AFTER][0]) for part in requests)
    tenants = []
    for tenant, part in zip(what.tenants, requests, strict=True):
        latency_ms = latencies_ms(part)
        good = part[(part["phase"] == MEASURED) & (part["ok"] == 1)]
        span_s = (good["done_ns"].max() - good["sent_ns"].min()) / 1e9
        tenants.append(
            TenantMeasurement(
                tenant=tenant,
                status="ok",
                stable=True,
                verdict="fine",
                latency=summarise(latency_ms),
                throughput_rps=len(good) * tenant.batch_size / span_s,
                failed_requests=int(((part["phase"] == MEASURED) & (part["ok"] == 0)).sum()),
            )
        )
    return Measurement(
        cell_id=what.cell_id,
        cell=what,
        tenants=tuple(tenants),
        conditions=conditions,
        started_at="2026-01-01T00:00:00+00:00",
        anchor_monotonic_ns=ANCHOR_NS,
        anchor_wall_ns=WALL_NS + start * 1_000_000_000,
        window_start_ns=window_start,
        window_end_ns=window_end,
        duration_s=(window_end - ANCHOR_NS) / 1e9 + 0.5,
    )


def sample(
    what: Cell | None = None,
    mean_ms: float | Sequence[float] = 5.0,
    *,
    count: int = 100,
    seed: int = 0,
    conditions: Conditions = CONDITIONS,
    start: int = 0,
) -> tuple[Measurement, list[np.ndarray]]:
    """A cell whose tenants have latencies around the given means (relative spread 5%)."""
    what = what or cell()
    generator = np.random.default_rng(seed)
    means = [mean_ms] * len(what.tenants) if isinstance(mean_ms, (int, float)) else mean_ms
    requests = [rows(mean * (1 + 0.05 * generator.standard_normal(count))) for mean in means]
    if len(requests) > 1:
        requests = align(requests)
    return measured(what, requests, conditions=conditions, start=start), requests


def align(requests: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Set the phases by one window for all tenants, as a session does."""
    start = max(int(part["intended_ns"][part["phase"] == MEASURED][0]) for part in requests)
    end = min(int(part["intended_ns"][part["phase"] == AFTER][0]) for part in requests)
    for part in requests:
        part["phase"] = WARMUP
        part["phase"][part["intended_ns"] >= start] = MEASURED
        part["phase"][part["intended_ns"] >= end] = AFTER
    return list(requests)


def write(
    path: Path,
    cells: Sequence[tuple[Measurement, list[np.ndarray]]],
    head: ProfileManifest | None = None,
) -> Path:
    with ProfileStore.create(path, head or manifest()) as store:
        for measurement, requests in cells:
            store.append(measurement, requests)
    return path


def smuggle(path: Path, measurement: Measurement, requests: Sequence[np.ndarray]) -> Path:
    """Put a cell into a profile as a user who copies files does: past the store's checks."""
    file = ProfileStore.open(path).cell_path(measurement.cell_id)
    file.write_bytes(cellfile.encode(measurement, requests))
    return file
