"""What of a plan is drawn: its devices, or in a large plan its kinds of devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from igniter_prof.records import Plan, PlanDevice, PlanTenant

MOST_BARS = 60
"""Devices that can still be looked at one by one; a larger plan is drawn by kinds."""
MOST_LANES = 300
"""Tenants drawn in one picture."""


@dataclass(frozen=True)
class Lane:
    """Tenants of one device that differ in nothing but their names."""

    tenant: PlanTenant
    count: int = 1


@dataclass(frozen=True)
class Kind:
    """Devices that are alike: of one type, with tenants that differ in nothing but their names."""

    device: PlanDevice
    """The first of them."""
    lanes: tuple[Lane, ...]
    count: int = 1

    @property
    def breaks(self) -> bool:
        """Whether a tenant of it is not promised what it asks for."""
        return any(broken(lane.tenant) for lane in self.lanes)


@dataclass(frozen=True)
class Shown:
    """The bars of a picture, and what it leaves out."""

    kinds: tuple[Kind, ...]
    merged: bool
    """Whether devices that are alike are one bar."""
    hidden: tuple[Kind, ...] = field(default=())

    @property
    def hidden_devices(self) -> int:
        """How many devices it leaves out."""
        return sum(kind.count for kind in self.hidden)


def utilisation(tenant: PlanTenant) -> float | None:
    """Rate over predicted throughput; None: not predicted."""
    predicted = tenant.predicted
    if predicted is None:
        return None
    return predicted.utilisation or tenant.rate_rps / predicted.throughput_rps


def load_pct(tenant: PlanTenant) -> float | None:
    """Predicted latency at the SLO's percentile, in percent of the SLO; None: not predicted."""
    predicted = tenant.predicted
    if predicted is None or predicted.slo_percentile_ms is None:
        return None
    # divided first: at most 100 exactly where it is not late
    return 100 * (predicted.slo_percentile_ms / tenant.slo_ms)


def overloaded(tenant: PlanTenant) -> bool:
    """Whether its rate is above its predicted throughput, so that no latency can be promised."""
    return (utilisation(tenant) or 0) > 1


def late(tenant: PlanTenant) -> bool:
    """Whether its predicted latency at the SLO's percentile is above the SLO."""
    predicted = tenant.predicted
    if predicted is None or predicted.slo_percentile_ms is None:
        return False
    return predicted.slo_percentile_ms > tenant.slo_ms


def broken(tenant: PlanTenant) -> bool:
    """Whether it is not promised what it asks for."""
    return late(tenant) or overloaded(tenant)


def unpredicted(tenant: PlanTenant) -> bool:
    """Whether nothing says if it keeps its SLO."""
    return load_pct(tenant) is None and not overloaded(tenant)


def tenants_of(devices: Iterable[PlanDevice]) -> list[PlanTenant]:
    """All tenants of some devices, in their order."""
    return [tenant for device in devices for tenant in device.tenants]


def type_name(plan: Plan, device: PlanDevice) -> str | None:
    """Name of the type of a device; None where the plan has none."""
    return device.type or (plan.device_types[0].name if plan.device_types else None)


def kinds_of(plan: Plan) -> tuple[Kind, ...]:
    """The kinds of devices of a plan, the most frequent first, then in the order of the plan."""
    alike: dict[Hashable, list[PlanDevice]] = {}
    for device in plan.devices:
        settings = sorted(Counter(map(_setting, device.tenants)).items(), key=repr)
        alike.setdefault((type_name(plan, device), tuple(settings)), []).append(device)
    found = [Kind(devices[0], _lanes(devices[0]), len(devices)) for devices in alike.values()]
    return tuple(sorted(found, key=lambda kind: -kind.count))


def shown_of(plan: Plan, most_bars: int = MOST_BARS, most_lanes: int = MOST_LANES) -> Shown:
    """What of a plan is drawn: all its devices if they are few, else its largest kinds.

    Kinds with a broken promise are the last to be left out.
    """
    tenants = sum(len(device.tenants) for device in plan.devices)
    if len(plan.devices) <= most_bars and tenants <= most_lanes:
        single = (Kind(d, tuple(Lane(t) for t in d.tenants)) for d in plan.devices)
        return Shown(tuple(single), merged=False)
    kinds = kinds_of(plan)
    by_importance = sorted(range(len(kinds)), key=lambda index: (not kinds[index].breaks, index))
    kept = set(_that_fit(kinds, by_importance, most_bars, most_lanes))
    return Shown(
        tuple(kind for index, kind in enumerate(kinds) if index in kept),
        merged=True,
        hidden=tuple(kind for index, kind in enumerate(kinds) if index not in kept),
    )


def _that_fit(
    kinds: Sequence[Kind], order: Iterable[int], most_bars: int, most_lanes: int
) -> list[int]:
    kept: list[int] = []
    lanes = 0
    for index in order:
        lanes += len(kinds[index].lanes)
        if kept and (len(kept) == most_bars or lanes > most_lanes):
            break
        kept.append(index)
    return kept


def _lanes(device: PlanDevice) -> tuple[Lane, ...]:
    alike: dict[Hashable, list[PlanTenant]] = {}
    for tenant in device.tenants:
        alike.setdefault(_setting(tenant), []).append(tenant)
    return tuple(Lane(same[0], len(same)) for same in alike.values())


def _setting(tenant: PlanTenant) -> Hashable:
    """All of a tenant that is told of it but its names."""
    predicted = tenant.predicted
    return (
        tenant.model,
        tenant.batch_size,
        tenant.share_pct,
        tenant.rate_rps,
        tenant.slo_ms,
        tenant.percentile,
        tenant.arrival,
        tenant.burstiness,
        tenant.instances,
        tenant.queue_delay_us,
        # equal settings beside equal neighbours have equal predictions, but for the last digits
        # that their order leaves; a plan that was edited may say otherwise
        None if predicted is None else f"{predicted.slo_percentile_ms or 0:.6g}",
        None if predicted is None else f"{predicted.throughput_rps:.6g}",
    )
