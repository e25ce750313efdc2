"""Column generation: the cheapest mix of patterns, and the bound that its prices prove.

The relaxation over the patterns known so far has a price for a tenant of each class. A pattern
whose tenants are worth more than its device costs would make the relaxation cheaper: the search
looks for such patterns, until it has shown that there is none. Prices with which no pattern is
worth more than ``excess`` times its device prove that no plan costs less than the worth of all
tenants over ``excess`` (Farley 1990, Operations Research 38(5)).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from igniter_prof.fitting.points import BoolArray, FloatArray, IntArray
from igniter_prof.provisioning.columns import Column, Relaxed, relax
from igniter_prof.provisioning.search import Found, Search

_STEPS = ((1.1, 600), (1.03, 1500), (1.01, 3000), (1.002, 3000))
"""What a pattern must be worth over its device's cost, and how wide the search is, in turn."""
_LAST = 1.0 + 1e-7
_NEAR = 0.97
"""Part of its device's cost that a pattern of the start is worth at least."""
_MOST = 20_000
"""Patterns of a search that are looked at, the most valuable."""
_PER_CLASS = 6
_PER_CLASS_PROVEN = 40
_REFUTED_AT_ONCE = 2000
_TINY = 1e-9
_LACK = 50.0
"""Devices that leaving out a tenant costs, while column generation looks for a way to place it."""

Judged = Callable[[int, IntArray, IntArray, IntArray], list[bool]]
"""Whether patterns of a kind (classes, options, units; (n, k) each) hold by the rule itself."""


@dataclass(frozen=True)
class Bound:
    """Prices of tenants (C,) and of limited kinds, and what every plan costs at least."""

    prices: FloatArray
    kind_prices: FloatArray
    value: float


@dataclass
class Generation:
    """Columns of a problem, as they are found; ``counts`` (C,) tenants of each class.

    ``costs`` of a device of each kind; ``adds`` (n_kinds, C), what a tenant adds to it at least.
    """

    searches: Sequence[Search]
    counts: IntArray
    costs: Sequence[float]
    adds: FloatArray
    limits: Sequence[int | None]
    judged: Judged | None
    seed: int
    refutes: int = _REFUTED_AT_ONCE
    """Patterns that a proof looks at fully in one round; the others stay doubtful."""
    columns: dict[Column, tuple[IntArray, IntArray]] = field(default_factory=dict)
    """Patterns that work, with their options and units."""
    doubtful: set[Column] = field(default_factory=set)
    """Patterns neither found to work nor proven not to: they count for the bound only."""
    refuted: set[Column] = field(default_factory=set)
    bound: Bound | None = None
    _refused: set[Column] = field(default_factory=set)
    """Patterns that do not work easily; nothing is proven of them."""
    _relaxed: Relaxed | None = None
    _most: float = 1.0
    """What the best pattern of the last search is worth over its device's cost."""

    def start(self, seeds: Sequence[tuple[int, IntArray]] = ()) -> None:
        """The first columns: every class alone, and patterns that use their device well.

        ``seeds``: kinds, and patterns (n, k) that may be good; they need not work.
        """
        self.start_alone()
        for kind, search in enumerate(self.searches):
            if seeds or not search.demand.feasible.any():
                continue
            for beside in search.beside[1:5]:
                worth = np.where(beside <= search.demand.capacity, beside, 0) / float(
                    search.demand.capacity
                )
                found, _ = search.valuable(worth, _NEAR, widest=1000)
                for each in self._best(found, _PER_CLASS):
                    self._add(kind, each)
        for kind, classes in seeds:
            search = self.searches[kind]
            units, fits = search.lowest(classes, search.least[classes])
            self._add(kind, Found(classes[fits], units[fits], np.ones(0)))

    def add(self, kind: int, found: Found) -> BoolArray:
        """Take patterns in that work easily; which of them do, (n,)."""
        patterns = [(kind, pattern) for pattern in map(tuple, found.classes.tolist())]
        new = [
            row
            for row, column in enumerate(patterns)
            if column not in self.columns and column not in self._refused
        ]
        self._add(kind, Found(found.classes[new], found.units[new], found.value[new]))
        works = np.array([column in self.columns for column in patterns], dtype=bool)
        self._refused.update(column for column, w in zip(patterns, works, strict=True) if not w)
        return works

    def alone(self) -> FloatArray:
        """What the cheapest device for each class alone costs, (C,)."""
        least = np.full(len(self.counts), self.lack or np.inf)
        for column in self.columns:
            if len(column[1]) == 1:
                index = column[1][0]
                least[index] = min(least[index], self.cost(column))
        return least

    @property
    def lack(self) -> float | None:
        """What it costs to leave out a tenant; None where there are devices for all."""
        # columns that keep limits are not known from the start
        limited = any(limit is not None for limit in self.limits)
        return _LACK * max(self.costs) if limited else None

    def start_alone(self) -> None:
        """The columns with every class alone."""
        for kind, search in enumerate(self.searches):
            usable = np.flatnonzero(search.demand.feasible)
            self._add(kind, Found(usable[:, None], search.least[usable][:, None], np.ones(0)))

    def generate(self, deadline: float) -> None:
        """Add the patterns that make the relaxation cheaper, as far as a narrow search sees."""
        for excess, widest in _STEPS:
            while time.monotonic() < deadline:
                if not self._round(excess, widest, deadline)[0]:
                    break

    def prove(self, deadline: float, wanted: Callable[[float], float]) -> None:
        """Search all patterns, until what is wanted of the bound is proven.

        ``wanted``: from the relaxation's value to a bound that is good enough; below it.
        """
        excess = None
        while time.monotonic() < deadline:
            if excess is None:
                relaxed = self.relaxed()
                if relaxed is None:
                    return
                excess = max(relaxed.value / wanted(relaxed.value), _LAST)
            added, complete = self._round(excess, None, deadline)
            if complete:
                self._bounded(max(excess, self._most))
            if not added:
                return
            excess = None

    def used(self) -> list[Column]:
        """The columns that the relaxation uses, the most used first."""
        columns = list(self.columns)
        costs = [self.cost(each) for each in columns]
        relaxed = relax(columns, costs, self.counts, self.limits, seed=self.seed)
        if relaxed is None:
            return columns
        order = np.argsort(-relaxed.times, kind="stable")
        return [columns[i] for i in order.tolist() if relaxed.times[i] > 1e-4]

    def cost(self, column: Column) -> float:
        """What a column costs at least."""
        kind, pattern = column
        return self.costs[kind] + float(self.adds[kind, list(pattern)].sum())

    def relaxed(self) -> Relaxed | None:
        """The relaxation over what is known, doubtful patterns included."""
        columns = [*self.columns, *self.doubtful]
        costs = [self.cost(each) for each in columns]
        self._relaxed = relax(
            columns, costs, self.counts, self.limits, seed=self.seed, lack=self.lack
        )
        return self._relaxed

    def _round(self, excess: float, widest: int | None, deadline: float) -> tuple[int, bool]:
        """Search at the prices of now: how many columns came, and whether the search saw all."""
        relaxed = self.relaxed()
        if relaxed is None:
            return 0, False
        added, complete = 0, True
        self._most = 1.0
        for kind, search in enumerate(self.searches):
            worth = relaxed.prices - self.adds[kind]
            # prices over excess, of tenants and of the kind: a device must not be worth more
            # than it costs and the price of its kind
            kind_price = float(relaxed.kind_prices[kind])
            over = self.costs[kind] * excess + kind_price
            found, all_seen = search.valuable(worth, over, widest=widest, deadline=deadline)
            complete &= all_seen
            new = [self._new(kind, each) for each in _most(found)]
            for each in new:
                beyond = float(each.value.max(initial=0.0)) - kind_price
                self._most = max(self._most, beyond / max(self.costs[kind], _TINY))
            most = _PER_CLASS if widest is not None else _PER_CLASS_PROVEN
            for each in self._best(new, most):
                added += self._add(kind, each, until=None if widest is not None else deadline)
        return added, complete

    def _bounded(self, excess: float) -> None:
        """Keep the bound that the prices of now prove, if it is the best."""
        relaxed = self._relaxed
        assert relaxed is not None
        worth = float(self.counts @ relaxed.prices)
        for limit, price in zip(self.limits, relaxed.kind_prices.tolist(), strict=True):
            worth -= price * (limit or 0)
        if self.bound is None or worth / excess > self.bound.value:
            self.bound = Bound(
                relaxed.prices / excess, relaxed.kind_prices / excess, worth / excess
            )

    def _new(self, kind: int, found: Found) -> Found:
        keep = []
        for row, pattern in enumerate(map(tuple, found.classes.tolist())):
            column = (kind, pattern)
            if not (column in self.columns or column in self.doubtful or column in self.refuted):
                keep.append(row)
        return Found(found.classes[keep], found.units[keep], found.value[keep])

    def _best(self, found: Sequence[Found], most: int) -> list[Found]:
        """The most valuable, but not many of one class: they would replace each other."""
        ranked = sorted(
            (
                (-value, size, row)
                for size, each in enumerate(found)
                for row, value in enumerate(each.value.tolist())
            )
        )
        used = np.zeros(len(self.counts), dtype=np.int64)
        chosen: list[list[int]] = [[] for _ in found]
        for _, size, row in ranked:
            pattern = found[size].classes[row]
            if (used[pattern] >= most).all():
                continue
            used[np.unique(pattern)] += 1
            chosen[size].append(row)
        return [
            Found(each.classes[rows], each.units[rows], each.value[rows])
            for each, rows in zip(found, chosen, strict=True)
            if rows
        ]

    def _add(self, kind: int, found: Found, *, until: float | None = None) -> int:
        """Take patterns in that work; how many came.

        With ``until``, for a proof: what does not work so easily is looked at until that time, and
        kept as doubtful, which counts as come, if that does not settle it.
        """
        if not len(found.classes):
            return 0
        search = self.searches[kind]
        arranged = search.arrange(found.classes, found.units)
        works = arranged.works.copy()
        if self.judged is not None and works.any():
            rows = np.flatnonzero(works)
            holds = self.judged(
                kind, found.classes[rows], arranged.option[rows], arranged.units[rows]
            )
            works[rows] = holds
        added = 0
        for row in np.flatnonzero(works):
            column = (kind, tuple(found.classes[row].tolist()))
            self.columns[column] = (arranged.option[row], arranged.units[row])
            added += 1
        rest = np.flatnonzero(~works)
        if until is None or not len(rest):
            return added
        # those that the rule itself refused may work otherwise: nothing is proven of them
        unknown = rest[~arranged.works[rest]]
        first = unknown[: self.refutes]
        fully = search.arrange_fully(found.classes[first], found.units[first], until)
        for row in rest:
            self.doubtful.add((kind, tuple(found.classes[row].tolist())))
        for index, row in enumerate(first):
            column = (kind, tuple(found.classes[row].tolist()))
            if not fully.decided[index]:
                continue
            self.doubtful.discard(column)
            if not fully.works[index]:
                self.refuted.add(column)
                continue
            units = fully.units[[index]]
            if self.judged is None or all(
                self.judged(kind, found.classes[[row]], fully.option[[index]], units)
            ):
                self.columns[column] = (fully.option[index], units[0])
            else:
                self.doubtful.add(column)
        return added + len(rest)


def _most(found: Sequence[Found]) -> list[Found]:
    """The most valuable patterns of a search."""
    total = sum(len(each.value) for each in found)
    if total <= _MOST:
        return list(found)
    least = np.partition(np.concatenate([each.value for each in found]), total - _MOST)[
        total - _MOST
    ]
    kept = [np.flatnonzero(each.value >= least) for each in found]
    return [
        Found(each.classes[rows], each.units[rows], each.value[rows])
        for each, rows in zip(found, kept, strict=True)
    ]
