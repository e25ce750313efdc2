"""GSLICE (Dhakal et al., SoCC 2020), as iGniter's evaluation has it: "GSLICE+"."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from igniter_prof.provisioning.baselines import igniter
from igniter_prof.provisioning.baselines.judging import Judge
from igniter_prof.provisioning.baselines.lower_bounds import configurations
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import Configuration, DeviceKind, WorkloadClass
from igniter_prof.records import Workload

THRESHOLD = 0.1
"""Part of the limit that may stay unused before a share is lowered."""


def place(classes: Sequence[WorkloadClass], kind: DeviceKind) -> list[Configuration]:
    """Place as iGniter does; then tune each tenant on its own, as if it were alone.

    What is placed so may miss its SLO beside its neighbours.
    """

    judge = Judge(kind)

    @cache
    def tuned(index: int, setting: Setting) -> Setting:
        return _tuned(classes[index].sample, judge, setting)

    return configurations(
        [
            (index, tuned(index, setting))
            for index, setting in zip(device.pattern, device.settings, strict=True)
        ]
        for device in igniter.place(classes, kind)
    )


def _tuned(workload: Workload, judge: Judge, setting: Setting) -> Setting:
    """Lower the share by steps while both latency and throughput have over 10% to spare alone.

    The batch size follows where it has to: the largest one, not above that of before, with which
    the rule holds alone.
    """
    choices = judge.kind.choices[workload.model]
    evaluator = judge.kind.evaluator
    while evaluator.judge([workload], [setting])[0].headroom > THRESHOLD:
        below = [share for share in choices.shares_pct if share < setting.share_pct]
        batches = [batch for batch in choices.batch_sizes if batch <= setting.batch_size]
        tried = (Setting(batch, below[-1]) for batch in reversed(batches) if below)
        lower = next((each for each in tried if judge.holds_alone(workload, each)), None)
        if lower is None:
            break
        setting = lower
    return setting
