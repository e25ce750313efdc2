"""iGniter's provisioning (Xu et al., IEEE TPDS 2023, Section 4, Algorithms 1 and 2)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import lru_cache

from igniter_prof.provisioning.baselines.judging import Judge
from igniter_prof.provisioning.baselines.lower_bounds import (
    configurations,
    largest_first,
    lower_bounds,
)
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import (
    DEVICE_PCT,
    Configuration,
    DeviceKind,
    WorkloadClass,
)

Device = tuple[tuple[int, float], ...]
"""Class and share of each tenant, ascending."""

_FULL_PCT = DEVICE_PCT + 1e-9


def place(classes: Sequence[WorkloadClass], kind: DeviceKind) -> list[Configuration]:
    """Place the largest first, each where interference adds the least share; else a new device.

    Of devices where it adds equally little the oldest one counts. Devices are in the order in which
    they were opened.
    """
    judge = Judge(kind)
    bounds = lower_bounds(classes, judge)
    joined = _joining(classes, judge, bounds)
    # alike devices are looked at once: by used share, then by tenants, the numbers of them
    opened: dict[float, dict[Device, list[int]]] = {}
    count = 0
    for index in largest_first(classes, bounds):
        size = bounds[index].share_pct
        best: tuple[tuple[float, int], float, Device, Device] | None = None
        for used, alike in opened.items():
            if used + size > _FULL_PCT:
                continue
            for device, numbers in alike.items():
                grown = joined(device, index) if len(device) < kind.max_tenants else None
                if grown is not None:
                    rank = (round(_used_pct(grown) - used, 6), numbers[0])
                    if best is None or rank < best[0]:
                        best = (rank, used, device, grown)
        if best is None:
            grown, number = ((index, size),), count
            count += 1
        else:
            _, used, device, grown = best
            number = heapq.heappop(opened[used][device])
            if not opened[used][device]:
                del opened[used][device]
        heapq.heappush(opened.setdefault(_used_pct(grown), {}).setdefault(grown, []), number)
    in_order = sorted(
        (number, device)
        for alike in opened.values()
        for device, numbers in alike.items()
        for number in numbers
    )
    return configurations(
        [(index, Setting(bounds[index].batch_size, share)) for index, share in device]
        for _, device in in_order
    )


def _joining(
    classes: Sequence[WorkloadClass], judge: Judge, bounds: Sequence[Setting]
) -> Callable[[Device, int], Device | None]:
    """The paper's ``alloc_gpus``: a device with one tenant more, or None where it does not fit.

    The newcomer comes with its least share. Then everybody who misses the rule gets a step more,
    all at once, until nobody does.
    """

    @lru_cache(maxsize=1 << 18)
    def joined(device: Device, newcomer: int) -> Device | None:
        tenants = sorted([*device, (newcomer, bounds[newcomer].share_pct)])
        workloads = [classes[index].sample for index, _ in tenants]
        while sum(share for _, share in tenants) <= _FULL_PCT:
            settings = [Setting(bounds[index].batch_size, share) for index, share in tenants]
            holds = judge.holding(workloads, settings)
            if all(holds):
                return tuple(tenants)
            for position, kept in enumerate(holds):
                if not kept:
                    index, share = tenants[position]
                    more = _next(judge.kind.choices[workloads[position].model].shares_pct, share)
                    if more is None:
                        return None
                    tenants[position] = (index, more)
            tenants.sort()
        return None

    return joined


def _next(shares_pct: Sequence[float], share_pct: float) -> float | None:
    return next((share for share in shares_pct if share > share_pct), None)


def _used_pct(device: Device) -> float:
    return round(sum(share for _, share in device), 6)
