"""The search for patterns: which tenants one device holds, and the most valuable of them.

A pattern is grown tenant by tenant, many patterns at once. What it needs at least is found by
"raise the share of whoever misses": with neighbours that press as little as any setting of theirs
does that still fits, the shares reached are below those of every arrangement that works (the least
fixed point of a monotone map), so that a pattern is only ever dropped if nothing works. This rests
on a model that is monotone in neighbours: one more, or more share or batch of one, never helps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igniter_prof.fitting.points import BoolArray, FloatArray, IntArray
from igniter_prof.fitting.tables import NOBODY
from igniter_prof.provisioning.demand import SLACK, Demand

_ROUNDS = 80
_COMBINATIONS = 200_000
_CHUNK = 20_000
_GROWTH = 20
"""How many larger patterns a narrow search tries for each that it keeps."""


@dataclass(frozen=True)
class Found:
    """Patterns of one size: classes (n, k) ascending, least shares in units (n, k), value (n,)."""

    classes: IntArray
    units: IntArray
    value: FloatArray


@dataclass(frozen=True)
class Arranged:
    """Options and shares for patterns, (n, k) each, and whether they work, (n,).

    ``decided``: whether one that does not work is proven not to, (n,).
    """

    option: IntArray
    units: IntArray
    works: BoolArray
    decided: BoolArray


class Search:
    """Patterns of one kind of device."""

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self._light = _lightest_settings(demand)
        # a kind that can hold nobody has an empty table
        room = np.full(demand.alone.shape, -np.inf)
        alone_ms = demand.table.alone_ms[demand.number[demand.alone]]
        room[demand.alone] = demand.limit_ms[demand.alone] / alone_ms
        self._likely = room.argmax(axis=1)
        feasible = demand.feasible
        any_option = demand.alone.any(axis=1)
        self._least = np.where(feasible, 1 + any_option.argmax(axis=1), demand.capacity + 1)
        usable = np.flatnonzero(feasible)
        light = self._light[0][usable, self._least[usable] - 1] if len(usable) else np.zeros(0, int)
        full = self._light[-1][usable, self._least[usable] - 1] if len(usable) else light
        self._lightest = int(demand.table.lightest(full[None, :])[0]) if len(usable) else -1
        self._beside = self._least_beside()
        self.memory: FloatArray = np.where(demand.alone.any(axis=2), demand.memory_mib, np.inf).min(
            axis=1
        )
        """(C,): what a class needs at least, MiB; infinite where it is not feasible."""

    @property
    def least(self) -> IntArray:
        """(C,): units that a class needs alone; over the capacity where it is not feasible."""
        return self._least

    @property
    def beside(self) -> IntArray:
        """(k, C): units that a class needs at least beside 0, 1, … k - 1 others."""
        return self._beside

    def lowest(
        self, classes: IntArray, start: IntArray, others: Sequence[int] = ()
    ) -> tuple[IntArray, BoolArray]:
        """Units that each tenant needs at least, (n, k), and whether they fit at all, (n,).

        ``others`` are beside them too, numbers of settings or of the table's light neighbours,
        whose shares do not count. ``start``: (n, k), no more than is needed.
        """
        demand, capacity = self.demand, self.demand.capacity
        units = start.copy()
        fits = np.ones(len(classes), dtype=bool)
        active = np.arange(len(classes))
        while len(active):
            total = units[active].sum(axis=1)
            fits[active[total > capacity]] = False
            kept = total <= capacity
            active, total = active[kept], total[kept]
            if not len(active):
                break
            here, has = classes[active], units[active]
            cells = self._lighter(here, has, capacity - total)
            if len(others):
                more = np.broadcast_to(np.array(others), (len(active), len(others)))
                cells = np.concatenate([cells, more], axis=1)
            prepared = self._prepare(cells)
            row, place = np.nonzero(np.ones(here.shape, dtype=bool))
            likely = self._likely[here, has - 1].ravel()
            works = self._holds(prepared, row, place, here, likely, has).reshape(here.shape)
            for option in range(demand.batch.shape[1]):
                row, place = np.nonzero(~works & demand.alone[here, option, has - 1])
                works[row, place] = self._holds(prepared, row, place, here, option, has)
            units[active] += ~works
            active = active[~works.all(axis=1)]
        return units, fits

    def arrange(self, classes: IntArray, start: IntArray) -> Arranged:
        """Options and shares with which patterns work, found greedily.

        Each tenant takes, at its share, the smallest batch size that holds beside what the others
        have now; where none does, a unit more. What is found works; what is not may work still.
        """
        demand, capacity = self.demand, self.demand.capacity
        units = start.copy()
        option = demand.alone[classes, :, np.minimum(units, capacity) - 1].argmax(axis=2)
        works = np.zeros(len(classes), dtype=bool)
        active = np.arange(len(classes))
        for _ in range(_ROUNDS):
            active = active[units[active].sum(axis=1) <= capacity]
            if not len(active):
                break
            here, has, took = classes[active], units[active], option[active]
            cells = self._prepare(demand.number[here, took, has - 1])
            chosen = np.full(here.shape, -1)
            for each in range(demand.batch.shape[1]):
                row, place = np.nonzero((chosen < 0) & demand.alone[here, each, has - 1])
                holds = self._holds(cells, row, place, here, each, has)
                chosen[row[holds], place[holds]] = each
            up = chosen < 0
            raised = np.minimum(has + up, capacity + 1)
            first = demand.alone[here, :, np.minimum(raised, capacity) - 1].argmax(axis=2)
            chosen = np.where(up, first, chosen)
            settled = (chosen == took).all(axis=1) & ~up.any(axis=1)
            units[active], option[active] = raised, chosen
            works[active[settled]] = True
            active = active[~settled]
        return self._memory_checked(classes, Arranged(option, units, works, works))

    def arrange_fully(
        self, classes: IntArray, start: IntArray, deadline: float = math.inf
    ) -> Arranged:
        """As ``arrange``, with the least sum of shares of all batch sizes.

        A pattern that was decided and does not work is proven not to work. Those with too many
        combinations are not decided.
        """
        n, k = classes.shape
        option, units = np.zeros((n, k), dtype=np.int64), np.zeros((n, k), dtype=np.int64)
        works, decided = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        for rows, combos in self._in_chunks(classes, start):
            if time.monotonic() > deadline:
                break
            decided[rows] = True
            row, took, has = self._ways(classes, *combos)
            # the last that is written stays: that of the least sum
            row, took, has = row[::-1], took[::-1], has[::-1]
            option[row], units[row], works[row] = took, has, True
        return Arranged(option, units, works, decided)

    def ways(self, classes: IntArray, start: IntArray) -> tuple[IntArray, IntArray] | None:
        """All options with which a pattern works, and their least shares, (n, k) each.

        The least sum of shares first; ``classes`` and ``start`` are (k,). None: too many.
        """
        for _, combos in self._in_chunks(classes[None, :], start[None, :]):
            return self._ways(classes[None, :], *combos)[1:]
        return None

    def _in_chunks(
        self, classes: IntArray, start: IntArray
    ) -> Iterator[tuple[list[int], tuple[IntArray, IntArray, IntArray]]]:
        """Patterns of not too many combinations, and these: row, option, units; many at once."""
        rows: list[int] = []
        parts: list[tuple[IntArray, IntArray, IntArray]] = []
        waiting = 0
        for row in range(len(classes)):
            combos = self._combinations(classes[row], start[row])
            if combos is None:
                continue
            rows.append(row)
            parts.append((np.full(len(combos[0]), row), *combos))
            waiting += len(combos[0])
            if waiting >= _CHUNK:
                yield rows, _joined(parts)
                rows, parts, waiting = [], [], 0
        if rows:
            yield rows, _joined(parts)

    def _ways(
        self, classes: IntArray, row: IntArray, option: IntArray, units: IntArray
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Which combinations work, by row, with their least shares; the least sum first."""
        needed_mib = self.demand.memory_mib[classes[row], option].sum(axis=1)
        room = needed_mib <= self.demand.memory_limit_mib
        row, option, units = row[room], option[room], units[room]
        units, works = self._raise(classes[row], option, units)
        row, option, units = row[works], option[works], units[works]
        order = np.lexsort((units.sum(axis=1), row))
        return row[order], option[order], units[order]

    def valuable(
        self,
        value: FloatArray,
        over: float,
        *,
        widest: int | None = None,
        deadline: float = math.inf,
    ) -> tuple[list[Found], bool]:
        """All patterns of a value over a threshold that may work, and whether these are all.

        Args:
            value: (C,), of a tenant of each class, added up.
            over: the threshold.
            widest: the most patterns of a size that are grown further, the most promising.
            deadline: ``time.monotonic`` after which no pattern is grown any more.
        """
        demand = self.demand
        usable = np.flatnonzero((value > 0) & demand.feasible)
        if not len(usable):
            return [], True
        density = value[usable] / self._beside[min(1, len(self._beside) - 1), usable]
        order = usable[np.lexsort((usable, -density))]
        knapsacks = self._knapsacks(order, value[order])
        place = np.arange(len(order))[:, None]
        units = self._least[order][:, None]
        worth = value[order]
        found: list[Found] = []
        complete = True
        size = 1
        while len(place):
            keep = worth > over
            if keep.any():
                found.append(ascending(order[place[keep]], units[keep], worth[keep]))
            if size >= min(demand.max_tenants, len(self._beside)):
                break
            # a bigger pattern has one more neighbour at least
            with_one, fits = self.lowest(order[place], units, (self._lightest,))
            free = np.where(fits, demand.capacity - with_one.sum(axis=1), 0)
            worth_more = knapsacks[size][place[:, -1], free]
            grown = fits & (worth + worth_more > over)
            place, units, worth, free = place[grown], with_one[grown], worth[grown], free[grown]
            if widest is not None and len(place) > widest:
                promise = worth + worth_more[grown]
                best = np.sort(np.argsort(-promise, kind="stable")[:widest])
                place, units, worth, free = place[best], units[best], worth[best], free[best]
                complete = False
            parent, child, promise = self._children(
                order, place, worth, free, value, knapsacks, over, size
            )
            if widest is not None and len(parent) > _GROWTH * widest:
                best = np.sort(np.argsort(-promise, kind="stable")[: _GROWTH * widest])
                parent, child = parent[best], child[best]
                complete = False
            size += 1
            place = np.concatenate([place[parent], child[:, None]], axis=1)
            start = np.concatenate(
                [units[parent], self._beside[size - 1, order[child]][:, None]], axis=1
            )
            worth = worth[parent] + value[order[child]]
            kept, lows = [], []
            for first in range(0, len(place), _CHUNK):
                if time.monotonic() > deadline:
                    return found, False
                part = slice(first, first + _CHUNK)
                low, fits = self.lowest(order[place[part]], start[part])
                kept.append(fits)
                lows.append(low)
            if not kept:
                break
            fits = np.concatenate(kept)
            place, units, worth = place[fits], np.concatenate(lows)[fits], worth[fits]
        return found, complete

    def _children(
        self,
        order: IntArray,
        place: IntArray,
        worth: FloatArray,
        free: IntArray,
        value: FloatArray,
        knapsacks: Sequence[FloatArray],
        over: float,
        size: int,
    ) -> tuple[IntArray, IntArray, FloatArray]:
        """Which patterns get which class as one more tenant: rows, and places in the order.

        And what each may be worth in the end at most.
        """
        demand = self.demand
        need = self._beside[size, order]
        last = place[:, -1]
        memory = self.memory[order[place]].sum(axis=1)
        rest = knapsacks[min(size + 1, len(knapsacks) - 1)]
        parents, children, promises = [], [], []
        for position, each in enumerate(order.tolist()):
            row = np.flatnonzero((last <= position) & (free >= need[position]))
            if not len(row):
                continue
            left = free[row] - need[position]
            promise = worth[row] + value[each] + rest[position, left]
            promising = promise > over
            promising &= memory[row] + self.memory[each] <= demand.memory_limit_mib
            if size >= demand.at_most[each]:
                held = (place[row] == position).sum(axis=1)
                promising &= held < demand.at_most[each]
            if demand.apart is not None:
                others = order[place[row]]
                promising &= ~(demand.apart[others, each] & (others != each)).any(axis=1)
            row = row[promising]
            parents.append(row)
            children.append(np.full(len(row), position))
            promises.append(promise[promising])
        if not parents:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
        return np.concatenate(parents), np.concatenate(children), np.concatenate(promises)

    def _knapsacks(self, order: IntArray, value: FloatArray) -> list[FloatArray]:
        """What tenants are worth at most that come to a pattern of a size: [size][first][free].

        ``first`` is the place in the order from which on classes may come; an unbounded knapsack
        with the least units beside so many others.
        """
        c, capacity = len(order), self.demand.capacity
        tables = []
        for size in range(len(self._beside)):
            need = self._beside[size, order]
            best = np.zeros((c + 1, capacity + 1))
            for position in range(c - 1, -1, -1):
                row = best[position + 1].copy()
                units = int(need[position])
                for start in range(units, capacity + 1):
                    with_it = row[start - units] + value[position]
                    if with_it > row[start]:
                        row[start] = with_it
                best[position] = row
            tables.append(best)
        return [*tables, np.zeros((c + 1, capacity + 1))]

    def _least_beside(self) -> IntArray:
        demand = self.demand
        c = len(self._least)
        rows = [self._least]
        usable = self._least <= demand.capacity
        while len(rows) < demand.max_tenants:
            now = np.full(c, demand.capacity + 1)
            index = np.flatnonzero(usable)
            others = [self._lightest] * len(rows)
            units, fits = self.lowest(index[:, None], rows[-1][index][:, None], others)
            now[index[fits]] = units[fits, 0]
            usable = now <= demand.capacity
            # so many tenants do not fit, however light
            if not usable.any() or (len(rows) + 1) * now[usable].min() > demand.capacity:
                break
            rows.append(now)
        return np.array(rows)

    def _lighter(self, classes: IntArray, units: IntArray, slack: IntArray) -> IntArray:
        """Neighbours that press no more than any setting from these shares to the slack does."""
        level = np.ceil(np.log2(np.maximum(slack, 0) + 1)).astype(np.int64)
        return np.asarray(
            self._light[np.minimum(level, len(self._light) - 1)[:, None], classes, units - 1]
        )

    def _prepare(self, cells: IntArray) -> Any:
        """Cells for ``_holds``; None where everybody is alone."""
        return None if cells.shape[1] == 1 else self.demand.table.prepare(cells)

    def _holds(
        self,
        prepared: Any,
        row: IntArray,
        place: IntArray,
        classes: IntArray,
        option: int | IntArray,
        units: IntArray,
    ) -> BoolArray:
        """Whether tenants (row, place) of patterns hold with an option at their shares, (r,)."""
        demand = self.demand
        each, unit = classes[row, place], units[row, place] - 1
        alone = np.asarray(demand.alone[each, option, unit])
        if prepared is None or not len(row):
            return alone
        number = demand.number[each, option, unit]
        latency = demand.table.latency_ms(prepared, row, place, number)
        return np.asarray(alone & (latency <= demand.limit_ms[each, option, unit] * (1 + SLACK)))

    def _raise(
        self, classes: IntArray, option: IntArray, start: IntArray
    ) -> tuple[IntArray, BoolArray]:
        """Least shares of patterns with their options, and whether they fit."""
        demand, capacity = self.demand, self.demand.capacity
        units = start.copy()
        works = np.zeros(len(classes), dtype=bool)
        active = np.arange(len(classes))
        while len(active):
            active = active[units[active].sum(axis=1) <= capacity]
            if not len(active):
                break
            here, took, has = classes[active], option[active], units[active]
            cells = self._prepare(demand.number[here, took, has - 1])
            row, place = np.nonzero(np.ones(here.shape, dtype=bool))
            took_by_row = took[row, place]
            holds = self._holds(cells, row, place, here, took_by_row, has).reshape(here.shape)
            units[active] += ~holds
            done = holds.all(axis=1)
            works[active[done]] = True
            active = active[~done]
        return units, works

    def _combinations(self, classes: IntArray, start: IntArray) -> tuple[IntArray, IntArray] | None:
        """Options of a pattern that may fit together, with the shares that they need alone.

        Arrays (n, k) each; None if there are too many.
        """
        demand, capacity = self.demand, self.demand.capacity
        slack = capacity - int(start.sum())
        option = np.zeros((1, 0), dtype=np.int64)
        units = np.zeros((1, 0), dtype=np.int64)
        used = np.zeros(1, dtype=np.int64)
        for place, (each, low) in enumerate(zip(classes.tolist(), start.tolist(), strict=True)):
            from_low = demand.alone[each, :, low - 1 :]
            needs = np.where(from_low.any(axis=1), from_low.argmax(axis=1), capacity + 1)
            fitting = np.flatnonzero(needs <= slack)
            row, chosen = np.divmod(np.arange(len(option) * len(fitting)), max(len(fitting), 1))
            more = fitting[chosen]
            kept = used[row] + needs[more] <= slack
            if place and classes[place - 1] == each:
                # tenants of one class are interchangeable: of their orders one is enough
                kept &= more >= option[row, -1]
            row, more = row[kept], more[kept]
            option = np.concatenate([option[row], more[:, None]], axis=1)
            units = np.concatenate([units[row], (low + needs[more])[:, None]], axis=1)
            used = used[row] + needs[more]
            if len(option) > _COMBINATIONS:
                return None
        return option, units

    def _memory_checked(self, classes: IntArray, found: Arranged) -> Arranged:
        if not np.isfinite(self.demand.memory_limit_mib):
            return found
        used = self.demand.memory_mib[classes, found.option].sum(axis=1)
        # with other batch sizes it might fit
        works = found.works & (used <= self.demand.memory_limit_mib)
        return Arranged(found.option, found.units, works, works)


def _joined(
    parts: Sequence[tuple[IntArray, IntArray, IntArray]],
) -> tuple[IntArray, IntArray, IntArray]:
    rows, options, units = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(options), np.concatenate(units)


def ascending(classes: IntArray, units: IntArray, value: FloatArray) -> Found:
    """Patterns (n, k) with their classes in order."""
    order = np.argsort(classes, axis=1, kind="stable")
    return Found(
        np.take_along_axis(classes, order, axis=1), np.take_along_axis(units, order, axis=1), value
    )


def _lightest_settings(demand: Demand) -> IntArray:
    """Neighbours that stand for ranges of a class's shares: (levels, C, U).

    Level l, class c, unit u: presses no more than any setting with which c keeps the rule alone, of
    u + 1 to u + 2^l units.
    """
    c, options, capacity = demand.alone.shape
    if not demand.alone.any():
        return np.full((1, c, capacity), NOBODY)  # nobody may be a neighbour: an empty table
    members = np.where(demand.alone, demand.number, -1).transpose(0, 2, 1).reshape(-1, options)
    levels = [demand.table.lightest(members).reshape(c, capacity)]
    reach = 1
    while reach < capacity:
        later = np.full((c, capacity), -1)
        later[:, : capacity - reach] = levels[-1][:, reach:]
        pairs = np.stack([levels[-1], later], axis=2).reshape(-1, 2)
        levels.append(demand.table.lightest(pairs).reshape(c, capacity))
        reach *= 2
    return np.array(levels)
