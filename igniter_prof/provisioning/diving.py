"""Plans of many different classes: prices and patterns in turn, and devices fixed on the way.

Column generation on a thousand classes wanders: far from the solution its prices jump between
extremes. So they begin near the answer (those of coarse groups of classes), are drawn to where the
best pattern of every class is worth its device, and may then move by little in each round (the box
step method, Marsten, Hogan and Blankenship 1975, Operations Research 23(3)); patterns come from
beams (``beam``). The devices that the relaxation uses most are fixed, patterns are grown anew among
those who are left, and so on; the last few are placed by an integer program.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from igniter_prof.fitting.points import FloatArray, IntArray
from igniter_prof.provisioning.beam import grown
from igniter_prof.provisioning.columns import Box, Column, Relaxed, choose, held_by, relax
from igniter_prof.provisioning.generation import Generation, Judged
from igniter_prof.provisioning.search import Found

_PART = 1000
"""Classes that are planned together; more are planned in random parts."""
_LAST = 100
"""Classes that an integer program places at the end."""
_PARTNERS = 80
"""Classes that each class may be with in one round, about; others in the next."""
_WIDTH = 4
"""Patterns of a size that a class keeps in a round."""
_DRAWS = 6
"""Rounds in which prices are drawn to the worth of patterns, before the relaxation is solved."""
_DRAWN = 0.5
"""Part of the way that they are drawn."""
_BOX = 0.1
"""Relative: how far a price may move in a round."""
_NEAR = 0.93
"""Patterns worth less than this part of their device are of no use at these prices."""
_SETTLED = 5e-4
"""Relative: the relaxation is settled when a round makes it cheaper by less than this."""
_AT_ONCE = 0.2
"""Part of a relaxation's devices that is fixed before patterns are grown anew."""
_AT_ONCE_LATE = 0.5
_ROUNDS = 2
"""In which patterns are grown anew before more is fixed."""
_USEFUL = 0.5
"""As ``_NEAR``, for the very last."""
_LAST_WIDTH = 15
_LAST_ROUNDS = 4
"""For the last classes more patterns are grown."""
_ATTEMPTS = 3
"""To place the last classes by columns that all hold."""
_INTEGER_S = 8.0
"""Of the integer program."""
_EPS = 1e-6


@dataclass
class _Left:
    """What is still to place: tenants of each class (C,), and devices of each kind."""

    counts: IntArray
    room: list[int | None]

    def take(self, columns: Sequence[Column], times: IntArray) -> None:
        """Place columns, so often each."""
        self.counts = np.maximum(self.counts - held_by(columns, times, len(self.counts)), 0)
        for (kind, _), number in zip(columns, times.tolist(), strict=True):
            room = self.room[kind]
            if room is not None:
                self.room[kind] = room - number


class _Pool:
    """The columns of a generation as arrays, which grow with it."""

    def __init__(self, generation: Generation, judged: Judged | None) -> None:
        self.generation = generation
        self._judged = judged
        self._holds: dict[int, bool] = {}
        self.columns: list[Column] = []
        self.costs = np.zeros(0)
        self._kind = np.zeros(0, dtype=np.int64)
        self._alone = np.zeros(0, dtype=bool)
        self._members = np.zeros(0, dtype=np.int64)
        """Classes of all columns, one after the other."""
        self._start = np.zeros(0, dtype=np.int64)
        """Of each column among them."""

    def useful(self, prices: FloatArray, left: _Left, least: float) -> IntArray:
        """Numbers of columns of what is left that are alone, or worth that part of their device."""
        self._update()
        fits = np.logical_and.reduceat(left.counts[self._members] > 0, self._start)
        fits[[row for row, holds in self._holds.items() if not holds]] = False
        fits &= np.array([room != 0 for room in left.room])[self._kind]
        worth = np.add.reduceat(prices[self._members], self._start)
        return np.flatnonzero(fits & (self._alone | (worth >= least * self.costs)))

    @property
    def refused(self) -> int:
        """How many columns were found not to hold."""
        return sum(not holds for holds in self._holds.values())

    def holds(self, row: int) -> bool:
        """Whether a column holds by the rule itself; one that does not is of no use any more."""
        if self._judged is None:
            return True
        if row not in self._holds:
            kind, pattern = self.columns[row]
            option, units = self.generation.columns[kind, pattern]
            (held,) = self._judged(kind, np.array([pattern]), option[None, :], units[None, :])
            self._holds[row] = held
        return self._holds[row]

    def judge(self, rows: IntArray) -> Callable[[int], bool]:
        """``holds`` of columns by their place in ``rows``."""
        return lambda place: self.holds(int(rows[place]))

    def renumbered(self, rows: IntArray, classes: IntArray) -> list[Column]:
        """Columns with classes by their place in ``classes`` (ascending)."""
        place = np.searchsorted(classes, self._members).tolist()
        end = np.append(self._start[1:], len(place)).tolist()
        start, kind = self._start.tolist(), self._kind.tolist()
        return [(kind[row], tuple(place[start[row] : end[row]])) for row in rows.tolist()]

    def _update(self) -> None:
        new = list(islice(self.generation.columns, len(self.columns), None))
        if not new:
            return
        sizes = [len(pattern) for _, pattern in new]
        begun = len(self._members)
        self.columns += new
        self.costs = np.append(self.costs, [self.generation.cost(each) for each in new])
        self._kind = np.append(self._kind, [kind for kind, _ in new])
        self._alone = np.append(self._alone, np.array(sizes) == 1)
        self._members = np.append(self._members, [each for _, pattern in new for each in pattern])
        self._start = np.append(self._start, begun + np.cumsum([0, *sizes[:-1]]))


def dive(
    generation: Generation,
    judged: Judged | None,
    rounded: Callable[[float], float],
    prices: FloatArray,
    deadline: float,
    seed: int,
) -> dict[Column, int] | None:
    """Columns that cover all tenants cheaply, and how often each; None if none were found.

    Args:
        generation: with a column for each class alone; it does not judge its patterns.
        judged: what judges those that are to be used; None: all that the search finds hold.
        rounded: the least cost of whole devices that is not below a cost.
        prices: (C,), near those of the relaxation.
        deadline: ``time.monotonic`` after which half of what is left is fixed at once, and again.
        seed: of the random parts.
    """
    rng = np.random.default_rng(seed)
    pool = _Pool(generation, judged)
    left = _Left(generation.counts.copy(), list(generation.limits))
    chosen: Counter[Column] = Counter()
    parts = _parts(left.counts, rng)
    for number, part in enumerate(parts):
        # one turn more is for what all parts left over
        turns = len(parts) - number + (len(parts) > 1)
        until = time.monotonic() + (deadline - time.monotonic()) / turns
        within = np.zeros(len(prices), dtype=np.int64)
        within[part] = left.counts[part]
        share = float(within.sum() / left.counts.sum())
        room = [None if n is None else int(n * share) for n in left.room]
        mine = _Left(within, room)
        _fixed(pool, mine, prices, chosen, until, rng)
        left.counts[part] = mine.counts[part]
        left.room = [
            None if n is None or m is None or r is None else n - (m - r)
            for n, m, r in zip(left.room, room, mine.room, strict=True)
        ]
    if len(parts) > 1:
        _fixed(pool, left, prices, chosen, deadline, rng)
    last = _placed(pool, left, rounded, prices, rng)
    return None if last is None else dict(chosen + Counter(last))


def _parts(counts: IntArray, rng: np.random.Generator) -> list[IntArray]:
    classes = rng.permutation(np.flatnonzero(counts))
    return np.array_split(classes, math.ceil(len(classes) / _PART))


def _fixed(
    pool: _Pool,
    left: _Left,
    prices: FloatArray,
    chosen: Counter[Column],
    deadline: float,
    rng: np.random.Generator,
) -> None:
    """Fix columns until few classes are left; ``left``, ``prices`` and ``chosen`` in place."""
    begun = time.monotonic()
    _settle(pool, left, prices, begun + 0.6 * (deadline - begun), rng)
    while np.count_nonzero(left.counts) > _LAST:
        late = time.monotonic() > deadline
        for _ in range(1 if late else _ROUNDS):
            relaxed = _relaxed(pool, left, prices)[1]
            if relaxed is None:
                return
            prices[:] = np.where(left.counts > 0, relaxed.prices, prices)
            _grow(pool.generation, left, prices, 1.0 + _EPS, rng)
        rows, relaxed = _relaxed(pool, left, prices, vertex=True)
        if relaxed is None:
            return
        prices[:] = np.where(left.counts > 0, relaxed.prices, prices)
        more = np.floor(relaxed.times + _EPS).astype(np.int64)
        part = _AT_ONCE_LATE if late else _AT_ONCE
        columns = [pool.columns[row] for row in rows.tolist()]
        known = pool.refused
        more = with_most_used(columns, relaxed.times, left.counts, more, part, pool.judge(rows))
        if not more.any() and pool.refused == known:
            return
        left.take(columns, more)
        for column, number in zip(columns, more.tolist(), strict=True):
            if number:
                chosen[column] += number


def _settle(
    pool: _Pool,
    left: _Left,
    prices: FloatArray,
    deadline: float,
    rng: np.random.Generator,
) -> None:
    """Move prices to those of the relaxation, as far as beams see; in place."""
    there = left.counts > 0
    alone = pool.generation.alone()
    for _ in range(_DRAWS):
        best = _grow(pool.generation, left, prices, _NEAR, rng)
        known = there & (best > 0)
        prices[known] *= 1.0 + _DRAWN * (1.0 - best[known])
        np.clip(prices, _EPS * alone, alone, out=prices)
    before = math.inf
    while time.monotonic() < deadline:
        box = Box(prices * (1.0 - _BOX), prices * (1.0 + _BOX))
        relaxed = _relaxed(pool, left, prices, box=box)[1]
        if relaxed is None:
            return
        _grow(pool.generation, left, relaxed.prices, 1.0 + _EPS, rng)
        moved = np.abs(relaxed.prices - prices) > 0.9 * _BOX * prices
        prices[there] = (prices[there] + relaxed.prices[there]) / 2
        np.clip(prices, _EPS * alone, alone, out=prices)
        settled = abs(before - relaxed.value) < _SETTLED * relaxed.value
        if settled and (moved & there).mean() < 0.01:
            return
        before = relaxed.value


def _grow(
    generation: Generation,
    left: _Left,
    prices: FloatArray,
    least: float,
    rng: np.random.Generator,
    *,
    width: int = _WIDTH,
    part: float | None = None,
) -> FloatArray:
    """Add patterns worth at least so much over their device's cost.

    The answer, (C,): what the best one with each class is worth over that cost; 0: none was seen.
    """
    there = np.flatnonzero(left.counts)
    part = min(1.0, _PARTNERS / len(there)) if part is None else part
    best = np.zeros(len(left.counts))
    for kind, search in enumerate(generation.searches):
        worth = prices - generation.adds[kind]
        cost = max(generation.costs[kind], _EPS)
        partners = there[(worth[there] > 0) & search.demand.feasible[there]]
        if not len(partners) or left.room[kind] == 0:
            continue
        allowed = rng.random((len(partners), len(partners))) < part
        found = grown(
            search,
            worth,
            partners,
            partners,
            allowed,
            width=width,
            unit_worth=cost / search.demand.capacity,
        )
        for each in found:
            rows = np.flatnonzero(each.value >= least * cost)
            if not len(rows):
                continue
            kept = Found(each.classes[rows], each.units[rows], each.value[rows])
            works = generation.add(kind, kept)
            over = np.repeat(kept.value[works] / cost, kept.classes.shape[1])
            np.maximum.at(best, kept.classes[works].ravel(), over)
    return best


def _relaxed(
    pool: _Pool,
    left: _Left,
    prices: FloatArray,
    *,
    least: float = _NEAR,
    box: Box | None = None,
    vertex: bool = False,
) -> tuple[IntArray, Relaxed | None]:
    """Columns of what is left that may be of use, and the relaxation over them; prices are (C,)."""
    there = np.flatnonzero(left.counts)
    rows = pool.useful(prices, left, least)
    generation = pool.generation
    found = relax(
        pool.renumbered(rows, there),
        pool.costs[rows].tolist(),
        left.counts[there],
        left.room,
        seed=generation.seed,
        vertex=vertex,
        lack=generation.lack,
        box=None if box is None else Box(box.lowest[there], box.highest[there]),
    )
    if found is None:
        return rows, None
    full = np.zeros(len(left.counts))
    full[there] = found.prices
    return rows, Relaxed(found.times, full, found.kind_prices, found.value)


def with_most_used(
    columns: Sequence[Column],
    times: FloatArray,
    rest: IntArray,
    sure: IntArray,
    part: float,
    holds: Callable[[int], bool] = lambda _: True,
) -> IntArray:
    """How often to use columns: those for sure, and others that a relaxation uses most, once each.

    They hold nothing twice, and are the part of its devices that is asked for, if there are so
    many. ``holds``: whether a column, by its place, may be used.
    """
    more = sure.copy()
    for index in np.flatnonzero(more).tolist():
        if not holds(index):
            more[index] = 0
    left = rest - held_by(columns, more, len(rest))
    wanted = max(1.0, part * float(times.sum()))
    for index in np.argsort(-times, kind="stable").tolist():
        if more.sum() >= wanted or times[index] < _EPS:
            break
        need = np.bincount(columns[index][1], minlength=len(left))
        if (need > left).any() or not holds(index):
            continue
        left -= need
        more[index] += 1
    return more


def _placed(
    pool: _Pool,
    left: _Left,
    rounded: Callable[[float], float],
    prices: FloatArray,
    rng: np.random.Generator,
) -> dict[Column, int] | None:
    """Columns for the last few classes, by an integer program."""
    if not left.counts.any():
        return {}
    chosen: Counter[Column] = Counter()
    _grow_last(pool.generation, left, prices, _NEAR, rng)
    for attempt in count():
        there = np.flatnonzero(left.counts)
        least = _NEAR if attempt <= _ATTEMPTS else _USEFUL
        rows, relaxed = _relaxed(pool, left, prices, least=least)
        small = dict(zip(pool.renumbered(rows, there), rows.tolist(), strict=True))
        found = choose(
            list(small),
            pool.costs[rows].tolist(),
            left.counts[there],
            left.room,
            time_limit_s=_INTEGER_S,
            seed=pool.generation.seed,
            enough=None if relaxed is None else rounded(relaxed.value * (1.0 - _EPS)),
        )
        if found is None:
            return None
        holding = {
            pool.columns[small[each]]: number
            for each, number in found.items()
            if pool.holds(small[each])
        }
        complete = len(holding) == len(found)
        if complete or attempt >= _ATTEMPTS:
            # what holds stays, and only the others are placed anew
            chosen.update(holding)
            left.take(list(holding), np.array(list(holding.values())))
        if complete:
            break
        if attempt >= _ATTEMPTS:
            _grow_last(pool.generation, left, prices, _USEFUL, rng)
    return dict(chosen)


def _grow_last(
    generation: Generation,
    left: _Left,
    prices: FloatArray,
    least: float,
    rng: np.random.Generator,
) -> None:
    """More patterns, with all partners too, where few classes are left."""
    if np.count_nonzero(left.counts) > 2 * _LAST:
        return
    for number in range(_LAST_ROUNDS):
        part = 1.0 if number % 2 else None
        _grow(generation, left, prices, least, rng, width=_LAST_WIDTH, part=part)
