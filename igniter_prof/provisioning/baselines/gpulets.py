"""gpu-lets (Choi et al., USENIX ATC 2022), as iGniter's evaluation has it: "gpu-lets+"."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from igniter_prof.provisioning.baselines.judging import Judge
from igniter_prof.provisioning.baselines.lower_bounds import Placed, configurations
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import (
    DEVICE_PCT,
    Configuration,
    DeviceKind,
    WorkloadClass,
)

SIZES_PCT = (20.0, 40.0, 50.0, 60.0, 80.0, 100.0)
"""Sizes of a part of a device, a gpu-let; a device has two at most, which add up to 100."""


def place(classes: Sequence[WorkloadClass], kind: DeviceKind) -> list[Configuration]:
    """Place by falling rate, each on the smallest part that carries it and disturbs nobody.

    That is what another workload left of its device, or else a part of a new device: the smallest
    one that carries the rate. Pairs are judged by the predictor.
    """
    parts = _Parts(classes, Judge(kind))
    # devices with one tenant: by what is left of them, then by tenant, their numbers
    halves: dict[float, dict[Placed, deque[int]]] = {}
    devices: list[tuple[Placed, ...]] = []
    order = sorted(range(len(classes)), key=lambda index: (-classes[index].sample.rate_rps, index))
    for index in order:
        for _ in range(classes[index].count):
            fit = parts.best_fit(halves, index) if kind.max_tenants > 1 else None
            if fit is None:
                first = (index, parts.smallest(index))
                left_pct = DEVICE_PCT - first[1].share_pct
                halves.setdefault(left_pct, {}).setdefault(first, deque()).append(len(devices))
                devices.append((first,))
            else:
                left_pct, first, setting = fit
                devices[halves[left_pct][first].popleft()] = (first, (index, setting))
                if not halves[left_pct][first]:
                    del halves[left_pct][first]
    return configurations(devices)


class _Parts:
    """Which part of a device carries a workload, alone and beside another one."""

    def __init__(self, classes: Sequence[WorkloadClass], judge: Judge) -> None:
        self._classes = classes
        self._judge = judge
        self._held = cache(self._hold)
        self.smallest = cache(self._smallest)
        self._beside = cache(self._find_beside)

    def best_fit(
        self, halves: Mapping[float, Iterable[Placed]], index: int
    ) -> tuple[float, Placed, Setting] | None:
        """Of what is left of devices the least that carries a workload; its neighbour; its setting.

        ``halves``: by what is left, who has the rest.
        """
        for left_pct in sorted(halves):
            if left_pct >= self.smallest(index).share_pct:
                for first in halves[left_pct]:
                    setting = self._beside(first, index, left_pct)
                    if setting is not None:
                        return left_pct, first, setting
        return None

    def _smallest(self, index: int) -> Setting:
        workload = self._classes[index].sample
        shares = self._judge.kind.choices[workload.model].shares_pct
        usual = [share for share in shares if share in SIZES_PCT]
        # a part of another size only for those that no usual one carries
        for share in (*usual, *shares):
            held = self._held(index, share)
            if held:
                return held[0]
        raise ValueError(f"'{workload.name}' is not feasible alone")

    def _find_beside(self, first: Placed, index: int, left_pct: float) -> Setting | None:
        """The setting in all that is left beside a tenant; None where one of both would miss."""
        other, setting = first
        second = self._classes[index].sample
        shares = self._judge.kind.choices[second.model].shares_pct
        share = max(share for share in shares if share <= left_pct)
        pair = [self._classes[other].sample, second]
        return next(
            (
                own
                for own in self._held(index, share)
                if all(self._judge.holding(pair, [setting, own]))
            ),
            None,
        )

    def _hold(self, index: int, share_pct: float) -> list[Setting]:
        """Settings with which the rule holds alone, the largest batch size first."""
        workload = self._classes[index].sample
        batches = self._judge.kind.choices[workload.model].batch_sizes
        settings = (Setting(batch, share_pct) for batch in reversed(batches))
        return [each for each in settings if self._judge.holds_alone(workload, each)]
