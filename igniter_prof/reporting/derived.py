"""What a report derives from measurements: solo latencies, slowdowns, drift. Pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from igniter_prof.records import Load, Measurement, Quantile, Tenant, TenantMeasurement
from igniter_prof.units import NS_PER_S

Key = tuple[Tenant, Load, str, str]
"""What two tenants must have in common for their latencies to be compared."""


@dataclass(frozen=True)
class SoloPoint:
    """The mean latency of a tenant alone, over all its measurements that ended ok."""

    tenant: Tenant
    load: Load
    protocol: str
    latency_ms: float
    low_ms: float
    high_ms: float
    cells: int


@dataclass(frozen=True)
class Slowdown:
    """How much slower a model is beside its neighbours: co-located over solo mean latency."""

    model: str
    neighbours: tuple[str, ...]
    factor: float
    low: float
    high: float
    cells: int


@dataclass(frozen=True)
class DriftPoint:
    """One repetition of a solo baseline, against the first one of its kind."""

    name: str
    elapsed_s: float
    change_pct: float
    ci_pct: float | None


def _key(measurement: Measurement, tenant: Tenant) -> Key:
    cell = measurement.cell
    return (tenant, cell.load, cell.protocol, cell.server)


def _alone(measurements: Iterable[Measurement]) -> Iterator[tuple[Measurement, TenantMeasurement]]:
    """Solo measurements that ended ok and have a latency."""
    for measurement in measurements:
        if len(measurement.tenants) == 1:
            (only,) = measurement.tenants
            if only.status == "ok" and only.latency is not None:
                yield measurement, only


def solo_points(measurements: Iterable[Measurement]) -> tuple[SoloPoint, ...]:
    """Mean latency of each solo tenant.

    The bounds are the 95% interval of the mean; of a tenant that was measured several times they
    span from the lowest bound to the highest, so that they show how well it repeats.
    """
    found: dict[Key, list[tuple[float, float]]] = defaultdict(list)
    for measurement, only in _alone(measurements):
        assert only.latency is not None
        found[_key(measurement, only.tenant)].append(
            (only.latency.mean_ms, only.latency.mean_ci_ms or 0.0)
        )
    return tuple(
        SoloPoint(
            tenant=tenant,
            load=load,
            protocol=protocol,
            latency_ms=fmean(mean for mean, _ in values),
            low_ms=min(mean - ci for mean, ci in values),
            high_ms=max(mean + ci for mean, ci in values),
            cells=len(values),
        )
        for (tenant, load, protocol, _), values in found.items()
    )


def with_peers(points: Sequence[SoloPoint]) -> tuple[SoloPoint, ...]:
    """The points of tenants that were measured at more than one batch size or share."""
    same = {"batch_size": 1, "share_pct": None}
    kinds = [point.tenant.model_copy(update=same) for point in points]
    counts = Counter(kinds)
    return tuple(point for point, kind in zip(points, kinds, strict=True) if counts[kind] > 1)


def slowdowns(measurements: Sequence[Measurement]) -> tuple[Slowdown, ...]:
    """Mean slowdown of each model beside each set of neighbours.

    A co-located cell counts if all its tenants ended ok (only then were all loaded all the time)
    and the very same tenant was measured alone, under the same load, protocol and server mode.
    """
    solo: dict[Key, list[float]] = defaultdict(list)
    for measurement, only in _alone(measurements):
        assert only.latency is not None
        solo[_key(measurement, only.tenant)].append(only.latency.mean_ms)
    factors: dict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(list)
    for measurement in measurements:
        tenants = measurement.tenants
        if len(tenants) < 2 or any(t.status != "ok" or t.latency is None for t in tenants):
            continue
        for index, victim in enumerate(tenants):
            alone = solo.get(_key(measurement, victim.tenant))
            if not alone or fmean(alone) <= 0:
                continue
            assert victim.latency is not None
            others = sorted(t.tenant.model for i, t in enumerate(tenants) if i != index)
            factors[victim.tenant.model, tuple(others)].append(
                victim.latency.mean_ms / fmean(alone)
            )
    return tuple(
        Slowdown(model, others, fmean(values), min(values), max(values), len(values))
        for (model, others), values in sorted(factors.items())
    )


def drift(measurements: Iterable[Measurement]) -> tuple[DriftPoint, ...]:
    """The repeated solo baselines over time, each against the first of the same tenant."""
    baselines = sorted(
        (pair for pair in _alone(measurements) if pair[0].cell.baseline),
        key=lambda pair: pair[0].anchor_wall_ns,
    )
    first: dict[Key, float] = {}
    points = []
    for measurement, only in baselines:
        assert only.latency is not None
        reference = first.setdefault(_key(measurement, only.tenant), only.latency.mean_ms)
        if reference <= 0:
            continue
        ci = only.latency.mean_ci_ms
        points.append(
            DriftPoint(
                name=f"{describe(only.tenant)}",
                elapsed_s=(measurement.anchor_wall_ns - baselines[0][0].anchor_wall_ns) / NS_PER_S,
                change_pct=100 * (only.latency.mean_ms / reference - 1),
                ci_pct=None if ci is None else 100 * ci / reference,
            )
        )
    return tuple(points)


def variant(tenant: Tenant) -> str:
    """A tenant's model and what sets it apart besides batch size and share."""
    parts = [tenant.model]
    if tenant.instances != 1:
        parts.append(f"{tenant.instances} instances")
    if tenant.input_scale != 1:
        parts.append(f"input {tenant.input_scale:g}×")
    if tenant.cpu_cores is not None:
        parts.append(f"{tenant.cpu_cores:g} " + ("core" if tenant.cpu_cores == 1 else "cores"))
    if tenant.memory_mib is not None:
        parts.append(f"{tenant.memory_mib:g} MiB")
    if tenant.gpu is not None:
        parts.append("GPU" if tenant.gpu else "no GPU")
    if tenant.input_size is not None:
        parts.append(f"{tenant.input_size:g} {tenant.input_unit or 'input size'}")
    if tenant.queue_delay_us is not None:
        parts.append("dynamic batching")
    return ", ".join(parts)


def load_text(load: Load) -> str:
    """A load in a few words: ``closed, 4 in flight``, ``poisson, 20/s``."""
    if load.kind == "closed":
        return f"closed, {load.concurrency} in flight"
    return load.kind if load.rate_rps is None else f"{load.kind}, {load.rate_rps:g}/s"


def describe(tenant: Tenant) -> str:
    """A tenant in one line: ``resnet50, batch 4, 50%``."""
    parts = [variant(tenant), f"batch {tenant.batch_size}"]
    if tenant.share_pct is not None:
        parts.append(f"{tenant.share_pct:g}%")
    elif tenant.cpu_cores is None:  # a cap takes the place of a share
        parts.append("no share")
    return ", ".join(parts)


def quantile_ms(quantile: Quantile | None) -> float | None:
    """The value of a percentile, None where there is none."""
    return None if quantile is None else quantile.value_ms
