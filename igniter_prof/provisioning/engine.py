"""The best settings for given tenants on one device, judged by the rule itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from igniter_prof.fitting.points import IntArray
from igniter_prof.provisioning.demand import Demand, Grid, Limits, demand_of, grid_of, limits_of
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import (
    DEVICE_PCT,
    Configuration,
    DeviceKind,
    Pattern,
    Problem,
)
from igniter_prof.provisioning.search import Search
from igniter_prof.records import Workload

_MOST_WAYS = 100
"""That settings of one device are tried in."""


class Engine:
    """What the devices of a problem can hold."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @cached_property
    def grids(self) -> list[Grid]:
        """Settings of each kind."""
        return [grid_of(self.problem, kind) for kind in self.problem.kinds]

    @cached_property
    def limits(self) -> list[Limits]:
        """Latency limits of the classes on each kind."""
        return [limits_of(self.problem, k, grid) for k, grid in enumerate(self.grids)]

    @cached_property
    def demands(self) -> list[Demand]:
        """The classes on each kind."""
        return [
            demand_of(self.problem, k, grid, limits)
            for k, (grid, limits) in enumerate(zip(self.grids, self.limits, strict=True))
        ]

    @cached_property
    def searches(self) -> list[Search]:
        """The search on each kind."""
        return [Search(each) for each in self.demands]

    def feasible(self, index: int) -> bool:
        """Whether some kind of device can hold a class alone."""
        return any(
            bool(demand.feasible[index])
            and (kind.record.power_limit_w is None or self._alone(number, index) is not None)
            for number, (kind, demand) in enumerate(
                zip(self.problem.kinds, self.demands, strict=True)
            )
        )

    def settings(
        self, kind: int, pattern: Sequence[int], option: IntArray, units: IntArray
    ) -> tuple[Setting, ...]:
        """Settings from options and units of share."""
        demand, grid = self.demands[kind], self.grids[kind]
        return tuple(
            Setting(grid.batches[demand.batch[each, chosen]], grid.share_pct(has))
            for each, chosen, has in zip(pattern, option.tolist(), units.tolist(), strict=True)
        )

    def judged(self, kind: int, classes: IntArray, option: IntArray, units: IntArray) -> list[bool]:
        """Whether patterns (n, k) hold by the rule itself, with power and memory.

        Shares that are a little too small are raised, in place.
        """
        holds = []
        record = self.problem.kinds[kind].record
        # of settings that the rule allows others may draw less power; where devices are few, a
        # pattern that is not seen may be the one that is needed
        limited = record.power_limit_w is not None or record.count is not None
        for row, pattern in enumerate(classes.tolist()):
            found = self.settled(
                kind, pattern, self.settings(kind, pattern, option[row], units[row])
            )
            if found is None and (limited or len(pattern) == 1):
                holds.append(self.configure(tuple(pattern), kind, spread=False) is not None)
                continue
            if found is not None:
                step = self.grids[kind].step_pct
                units[row] = [round(each.share_pct / step) for each in found]
            holds.append(found is not None)
        return holds

    def configure(
        self, pattern: Pattern, kind: int, *, spread: bool = True
    ) -> Configuration | None:
        """Settings that hold; None: no device holds the pattern.

        ``spread``: the least sum of shares, and what is left handed out; else the first found.
        """
        search = self.searches[kind]
        if not all(search.demand.feasible[each] for each in pattern):
            return None
        classes = np.array([pattern], dtype=np.int64)
        units, fits = search.lowest(classes, search.least[classes])
        if not fits[0]:
            return None
        for option, has in _candidates(search, classes, units, least=spread):
            settings = self.settled(kind, pattern, self.settings(kind, pattern, option, has))
            if settings is not None:
                found = Configuration(pattern, settings, kind)
                return self.spread(found) if spread else found
        alone = self._alone(kind, pattern[0]) if len(pattern) == 1 else None
        return None if alone is None else Configuration(pattern, (alone,), kind)

    def _alone(self, kind: int, index: int) -> Setting | None:
        """A setting of the least share with which a class holds alone, by trying all.

        The search takes the smallest batch, and limits from the grid: another setting may draw less
        power, or hold where that one does not.
        """
        device, sample = self.problem.kinds[kind], self.problem.classes[index].sample
        if not self.problem.allows(self.problem.classes[index], kind):
            return None
        choices = device.choices[sample.model]
        for share_pct in choices.shares_pct:
            for batch_size in choices.batch_sizes:
                settings = (Setting(batch_size, share_pct),)
                (judgement,) = device.evaluator.judge([sample], settings)
                if judgement.holds and within(device, [sample], settings):
                    return settings[0]
        return None

    def settled(
        self, kind: int, pattern: Sequence[int], settings: tuple[Setting, ...]
    ) -> tuple[Setting, ...] | None:
        """The settings with shares raised until everybody holds by the rule; None: they do not fit.

        The search takes limits from the grid. By the rule itself a share may have to be higher.
        """
        device = self.problem.kinds[kind]
        workloads = [self.problem.classes[index].sample for index in pattern]
        trial: tuple[Setting, ...] | None = settings
        while trial is not None:
            judged = device.evaluator.judge(workloads, trial)
            missing = [index for index, judgement in enumerate(judged) if not judgement.holds]
            if not missing:
                return trial if within(device, workloads, trial) else None
            trial = raised(trial, missing, _ladders(device, workloads))
        return None

    def spread(self, configuration: Configuration) -> Configuration:
        """Hand out what is left of a device, a step at a time, to those with the least headroom.

        Raised is the one tenant of the least headroom, else the two together, and so on: the first
        such move that does not lower the least headroom of the device and keeps every SLO. It ends
        when there is none. So the answer has at least the headroom of the least shares, and is the
        same each time.
        """
        device = self.problem.kinds[configuration.kind]
        workloads = [self.problem.classes[index].sample for index in configuration.pattern]
        ladders = _ladders(device, workloads)
        settings = configuration.settings
        judged = device.evaluator.judge(workloads, settings)
        while True:
            least = min(judgement.headroom for judgement in judged)
            order = sorted(range(len(settings)), key=lambda index: (judged[index].headroom, index))
            for together in range(1, len(order) + 1):
                trial = raised(settings, order[:together], ladders)
                if trial is None or not within(device, workloads, trial):
                    continue
                outcome = device.evaluator.judge(workloads, trial)
                if min(judgement.headroom for judgement in outcome) >= least and all(
                    judgement.holds for judgement in outcome
                ):
                    settings, judged = trial, outcome
                    break
            else:
                return replace(configuration, settings=settings)


def _candidates(
    search: Search, classes: IntArray, units: IntArray, *, least: bool
) -> Iterator[tuple[IntArray, IntArray]]:
    """Options and units of a pattern, (k,) each, to be judged in turn; ``classes`` is (1, k).

    The rule itself may refuse what the search takes to work, and not another batch size.
    """
    arranges = (search.arrange, search.arrange_fully)
    for arrange in reversed(arranges) if least else arranges:
        arranged = arrange(classes, units)
        if arranged.works[0]:
            yield arranged.option[0], arranged.units[0]
    ways = search.ways(classes[0], units[0])
    if ways is not None:
        yield from zip(ways[0][1:_MOST_WAYS], ways[1][1:_MOST_WAYS], strict=True)


def raised(
    settings: tuple[Setting, ...], who: Sequence[int], ladders: Sequence[tuple[float, ...]]
) -> tuple[Setting, ...] | None:
    """Settings with some shares one step higher, or None where the device has not that much."""
    higher = list(settings)
    for index in who:
        share_pct = settings[index].share_pct
        above = next((each for each in ladders[index] if each > share_pct + 1e-9), None)
        if above is None:
            return None
        higher[index] = replace(settings[index], share_pct=above)
    fits = sum(setting.share_pct for setting in higher) <= DEVICE_PCT + 1e-9
    return tuple(higher) if fits else None


def _ladders(device: DeviceKind, workloads: Sequence[Workload]) -> list[tuple[float, ...]]:
    return [device.choices[workload.model].shares_pct for workload in workloads]


def within(device: DeviceKind, workloads: Sequence[Workload], settings: Sequence[Setting]) -> bool:
    """Whether memory and power are within what the device type has."""
    record, evaluator = device.record, device.evaluator
    memory_mib = record.memory_mib or (record.device.memory_mib if record.device else None)
    if memory_mib is not None and (evaluator.memory_mib(workloads, settings) or 0) > memory_mib:
        return False
    if record.power_limit_w is None:
        return True
    power_w = evaluator.power_w(workloads, settings)
    return power_w is None or power_w <= record.power_limit_w
