"""Points of a sweep: what a cell measured, whatever the device's number and the repeat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from igniter_prof.records import Cell, LatencySummary, Measurement, Tenant, TenantMeasurement


@dataclass(frozen=True)
class Place:
    """One tenant of a point."""

    point: str
    """Hash of the cell without device, repeat and baseline, its tenants in a fixed order."""
    position: int
    """Of the tenant in that order, from 0."""
    tenant: Tenant
    neighbours: tuple[Tenant, ...]


def point_of(cell: Cell) -> str:
    """A name for what a cell measures: equal for repeats, baselines and other devices."""
    same = {"device": "", "repeat": 0, "baseline": False, "tenants": _ordered(cell)}
    return cell.model_copy(update=same).cell_id


def _ordered(cell: Cell) -> tuple[Tenant, ...]:
    return tuple(cell.tenants[index] for index in _order(cell))


def _order(cell: Cell) -> list[int]:
    return sorted(range(len(cell.tenants)), key=lambda index: cell.tenants[index].digest())


def places(measurement: Measurement) -> Iterator[tuple[Place, TenantMeasurement]]:
    """Each tenant of a measurement with its place."""
    cell = measurement.cell
    point = point_of(cell)
    for position, index in enumerate(_order(cell)):
        neighbours = tuple(other for i, other in enumerate(cell.tenants) if i != index)
        place = Place(point, position, cell.tenants[index], neighbours)
        yield place, measurement.tenants[index]


Repeats = list[tuple[Place, TenantMeasurement]]
"""The measurements of one tenant of one point."""


def by_place(measurements: Iterable[Measurement]) -> dict[tuple[str, int], Repeats]:
    """All tenants by point and position, repeats together in the order given."""
    found: dict[tuple[str, int], Repeats] = defaultdict(list)
    for measurement in measurements:
        for place, tenant in places(measurement):
            found[place.point, place.position].append((place, tenant))
    return dict(found)


def latencies(repeats: Repeats) -> list[LatencySummary]:
    """The latencies of those repeats that are ok."""
    return [
        tenant.latency
        for _, tenant in repeats
        if tenant.status == "ok" and tenant.latency is not None and tenant.latency.mean_ms > 0
    ]
