"""Least shares: the smallest shares at which everybody on one device keeps its SLO."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace

from igniter_prof.provisioning.operating import Evaluator, Setting
from igniter_prof.provisioning.problem import DEVICE_PCT, Configuration, Pattern, Problem
from igniter_prof.records import Workload

Item = tuple[int, int]
"""A configured tenant: index of its class, batch size."""


class LeastShares:
    """Finds least shares; remembers them for every set of configured tenants it met.

    With batch sizes fixed, "raise the share of whoever misses" climbs to the one least vector of
    shares, since more of a neighbour's share never helps (Knaster and Tarski); that more of an own
    share never hurts is not taken for granted. A set of tenants needs at least what its subsets
    need, so the climb starts there.
    """

    def __init__(self, problem: Problem, evaluator: Evaluator) -> None:
        self.problem = problem
        self.evaluator = evaluator
        self._known: dict[tuple[Item, ...], tuple[float, ...] | None] = {}
        self._batches = [
            tuple(
                batch
                for batch in problem.choices[each.sample.model].batch_sizes
                if self.of(((index, batch),)) is not None
            )
            for index, each in enumerate(problem.classes)
        ]

    def batch_sizes(self, index: int) -> tuple[int, ...]:
        """Batch sizes with which a class alone on a device keeps its SLO."""
        return self._batches[index]

    def alone(self, index: int) -> float | None:
        """The smallest share at which a class alone keeps its SLO, in percent; None: none does."""
        shares = [self.of(((index, batch),)) for batch in self._batches[index]]
        return min((share[0] for share in shares if share is not None), default=None)

    def of(self, items: tuple[Item, ...]) -> tuple[float, ...] | None:
        """Least shares of configured tenants (ascending), or None if no device holds them."""
        if items not in self._known:
            self._known[items] = self._climb(items)
        return self._known[items]

    def configure(self, pattern: Pattern, *, best: bool = False) -> Configuration | None:
        """Batch sizes and least shares for a pattern, or None if no device holds it.

        The first that is found, going depth first from the batch sizes that need the smallest
        shares alone; with ``best`` the one of the smallest sum (ties: the first of these).
        """
        options = [
            sorted((self._alone((index, batch)), batch) for batch in self._batches[index])
            for index in pattern
        ]
        if not all(options):
            return None
        # what the positions from each one on need at least
        floors = [0.0]
        for each in reversed(options):
            floors.insert(0, floors[0] + each[0][0])
        found: Configuration | None = None

        def descend(items: tuple[Item, ...], first: int) -> bool:
            """Try the options of the next position from ``first`` on; True ends the search."""
            nonlocal found
            shares = self.of(tuple(sorted(items))) if items else ()
            if shares is None:
                return False
            floor = sum(shares) + floors[len(items)]
            if floor > DEVICE_PCT + 1e-9 or (found and floor >= found.used_pct - 1e-9):
                return False
            position = len(items)
            if position == len(pattern):
                found = _configuration(pattern, tuple(sorted(items)), shares)
                return not best
            alike = position + 1 < len(pattern) and pattern[position + 1] == pattern[position]
            for rank in range(first, len(options[position])):
                item = (pattern[position], options[position][rank][1])
                # tenants of one class are interchangeable: of their permutations one is enough
                if descend((*items, item), rank if alike else 0):
                    return True
            return False

        descend((), 0)
        return found

    def _alone(self, item: Item) -> float:
        shares = self.of((item,))
        return shares[0] if shares is not None else float("inf")

    def _climb(self, items: tuple[Item, ...]) -> tuple[float, ...] | None:
        ladders = [
            self.problem.choices[self.problem.classes[index].sample.model].shares_pct
            for index, _ in items
        ]
        if len(items) == 1:
            return self._lowest(items[0], ladders[0])
        shares = self._start(items)
        if shares is None:
            return None
        workloads = [self.problem.classes[index].sample for index, _ in items]
        while True:
            if sum(shares) > DEVICE_PCT + 1e-9:
                return None
            settings = [
                Setting(batch, share) for (_, batch), share in zip(items, shares, strict=True)
            ]
            missing = self._missing(workloads, settings)
            if not missing:
                return tuple(shares)
            for index in missing:
                higher = _next(ladders[index], shares[index])
                if higher is None:
                    return None
                shares[index] = higher

    def _missing(self, workloads: Sequence[Workload], settings: Sequence[Setting]) -> list[int]:
        """Who misses its SLO or its rate; the rates first, as they are cheap to tell."""
        keeping_up, predictions = self.evaluator.sustained(workloads, settings)
        behind = [index for index, keeps in enumerate(keeping_up) if not keeps]
        return behind or [
            index
            for index, prediction in enumerate(predictions)
            if not self.evaluator.holds(index, workloads, settings, prediction)
        ]

    def _lowest(self, item: Item, ladder: tuple[float, ...]) -> tuple[float, ...] | None:
        """The least share of one tenant alone.

        A bisection, and then all shares below what it found (all there are, if it found none): a
        model that bends to what was measured may be slower at a larger share. They cost little, as
        the evaluator answers from what the bisection asked.
        """
        workload = self.problem.classes[item[0]].sample

        def holds(position: int) -> bool:
            return not self._missing([workload], [Setting(item[1], ladder[position])])

        found = bisect.bisect_left(range(len(ladder)), True, key=holds)
        lowest = next((position for position in range(found) if holds(position)), found)
        return (ladder[lowest],) if lowest < len(ladder) else None

    def _start(self, items: tuple[Item, ...]) -> list[float] | None:
        """Where the climb starts: what the subsets with one tenant less need."""
        shares = [0.0] * len(items)
        for left_out in range(len(items)):
            needed = self.of(items[:left_out] + items[left_out + 1 :])
            if needed is None:
                return None
            others = [position for position in range(len(items)) if position != left_out]
            for position, share in zip(others, needed, strict=True):
                shares[position] = max(shares[position], share)
        return shares


def _configuration(
    pattern: Pattern, items: tuple[Item, ...], shares: tuple[float, ...]
) -> Configuration:
    pairs = zip(items, shares, strict=True)
    return Configuration(pattern, tuple(Setting(batch, share) for (_, batch), share in pairs))


def spread(problem: Problem, evaluator: Evaluator, configuration: Configuration) -> Configuration:
    """Hand out what is left of a device, a step at a time, to those with the least headroom.

    Raised is the one tenant of the least headroom, else the two together, and so on: the first
    such move that does not lower the least headroom of the device and keeps every SLO. It ends
    when there is none. So the answer has at least the headroom of the least shares, and is the
    same each time.
    """
    workloads = [problem.classes[index].sample for index in configuration.pattern]
    ladders = [problem.choices[workload.model].shares_pct for workload in workloads]
    settings = configuration.settings
    judged = evaluator.judge(workloads, settings)
    while True:
        least = min(judgement.headroom for judgement in judged)
        order = sorted(range(len(settings)), key=lambda index: (judged[index].headroom, index))
        for together in range(1, len(order) + 1):
            trial = raised(settings, order[:together], ladders)
            if trial is None:
                continue
            outcome = evaluator.judge(workloads, trial)
            if min(judgement.headroom for judgement in outcome) >= least and all(
                judgement.holds for judgement in outcome
            ):
                settings, judged = trial, outcome
                break
        else:
            return Configuration(configuration.pattern, settings)


def raised(
    settings: tuple[Setting, ...], who: Sequence[int], ladders: Sequence[tuple[float, ...]]
) -> tuple[Setting, ...] | None:
    """Settings with some shares one step higher, or None where the device has not that much."""
    raised = list(settings)
    for index in who:
        higher = _next(ladders[index], settings[index].share_pct)
        if higher is None:
            return None
        raised[index] = replace(settings[index], share_pct=higher)
    fits = sum(setting.share_pct for setting in raised) <= DEVICE_PCT + 1e-9
    return tuple(raised) if fits else None


def _next(ladder: tuple[float, ...], share_pct: float) -> float | None:
    """The next share above, or None at the top."""
    return next((share for share in ladder if share > share_pct + 1e-9), None)
