"""First fit decreasing by what each workload needs alone: blind to interference."""

from __future__ import annotations

from collections.abc import Sequence

from igniter_prof.provisioning.baselines.judging import Judge
from igniter_prof.provisioning.baselines.lower_bounds import (
    Placed,
    configurations,
    largest_first,
    lower_bounds,
)
from igniter_prof.provisioning.problem import (
    DEVICE_PCT,
    Configuration,
    DeviceKind,
    WorkloadClass,
)


def place(classes: Sequence[WorkloadClass], kind: DeviceKind) -> list[Configuration]:
    """Place the largest first, each on the first device that has its least share left.

    What is placed so may miss its SLO beside its neighbours.
    """
    bounds = lower_bounds(classes, Judge(kind))
    devices: list[list[Placed]] = []
    used: list[float] = []
    first, size = 0, 0.0
    for index in largest_first(classes, bounds):
        setting = bounds[index]
        if setting.share_pct != size:
            first, size = 0, setting.share_pct
        # what had no room for one of this size has none for the next one
        while first < len(devices) and (
            used[first] + size > DEVICE_PCT + 1e-9 or len(devices[first]) == kind.max_tenants
        ):
            first += 1
        if first == len(devices):
            devices.append([])
            used.append(0.0)
        devices[first].append((index, setting))
        used[first] += size
    return configurations(devices)
