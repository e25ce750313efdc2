"""Whether the rule holds for tenants of a device, with the speed of equal cells predicted once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from igniter_prof.fitting.quick import Speed
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import DeviceKind
from igniter_prof.records import Tenant, Workload


class Judge:
    """Judges devices of one kind; remembers what it has predicted."""

    def __init__(self, kind: DeviceKind) -> None:
        self.kind = kind
        # workloads that differ in rate and SLO alone get the same few settings
        self._speeds = lru_cache(maxsize=1 << 18)(self._predict)
        self._tenant = lru_cache(maxsize=1 << 16)(_tenant)

    def speed_alone(self, model: str, batch_size: int, share_pct: float) -> Speed:
        """Speed of a model that has the device to itself."""
        return self._speeds(((model, batch_size, share_pct),))[0]

    def holding(self, workloads: Sequence[Workload], settings: Sequence[Setting]) -> list[bool]:
        """Whether the rule holds, for each tenant of a device."""
        speeds = self._speeds(
            tuple(
                (workload.model, setting.batch_size, setting.share_pct)
                for workload, setting in zip(workloads, settings, strict=True)
            )
        )
        return [
            self.kind.evaluator.holds(index, workloads, settings, speed)
            for index, speed in enumerate(speeds)
        ]

    def holds_alone(self, workload: Workload, setting: Setting) -> bool:
        """Whether the rule holds for a workload that has the device to itself."""
        return self.holding([workload], [setting])[0]

    def _predict(self, cell: tuple[tuple[str, int, float], ...]) -> Sequence[Speed]:
        evaluator = self.kind.evaluator
        tenants = [self._tenant(*each) for each in cell]
        interval = evaluator.rule.confidence is not None
        return evaluator.predictor.speeds(tenants, interval=interval)


def _tenant(model: str, batch_size: int, share_pct: float) -> Tenant:
    return Tenant(model=model, batch_size=batch_size, share_pct=share_pct)
