"""Patterns for each of many classes, at given prices: beams that grow from every class at once.

A search for the most valuable patterns sees those that hold the same few classes again and again. A
mix of patterns that holds everybody needs good ones of every class, with ever other partners: each
class grows some of its own, from a random part of the others.
"""

from __future__ import annotations

import numpy as np

from igniter_prof.fitting.points import BoolArray, FloatArray, IntArray
from igniter_prof.provisioning.search import Found, Search, ascending

_EXTENSIONS = 3
"""Of a pattern that are looked at, for each that is kept of a root."""


def grown(
    search: Search,
    value: FloatArray,
    roots: IntArray,
    partners: IntArray,
    allowed: BoolArray,
    *,
    width: int,
    unit_worth: float,
) -> list[Found]:
    """Patterns that may work and hold a root, by size, each of them once.

    Args:
        search: of the kind of device.
        value: (C,), of a tenant of each class, added up.
        roots: (r,), classes that grow patterns.
        partners: (p,), classes that may come to them.
        allowed: (r, p), which partners a root may have.
        width: how many patterns of a size are kept of a root.
        unit_worth: what a free unit of share counts for in choosing them.
    """
    demand = search.demand
    place = roots[:, None]
    units = search.least[place]
    worth = value[roots]
    root = np.arange(len(roots))
    kept = width * _EXTENSIONS
    found = []
    for size in range(1, min(demand.max_tenants, len(search.beside))):
        free = demand.capacity - units.sum(axis=1)
        left = free[:, None] - search.beside[size, partners]
        score = worth[:, None] + value[partners] + unit_worth * left
        score[(left < 0) | ~allowed[root] | ~_may_join(search, place, partners)] = -np.inf
        best = _largest(score, kept)
        row, column = np.nonzero(np.take_along_axis(score, best, axis=1) > -np.inf)
        child = partners[best[row, column]]
        score = score[row, best[row, column]]
        grown_place = np.concatenate([place[row], child[:, None]], axis=1)
        # one pattern may come of several, by another order
        alike = np.concatenate([root[row][:, None], np.sort(grown_place, axis=1)], axis=1)
        once = np.unique(alike, axis=0, return_index=True)[1]
        once = once[_best_of_each(root[row][once], score[once], 2 * width)]
        row, child, place = row[once], child[once], grown_place[once]
        if not len(place):
            break
        start = np.concatenate([units[row], search.beside[size, child][:, None]], axis=1)
        units, fits = search.lowest(place, start)
        root, worth = root[row], worth[row] + value[child]
        place, units, worth, root = place[fits], units[fits], worth[fits], root[fits]
        found.append(_each_once(ascending(place, units, worth)))
        used = units.sum(axis=1)
        once = _best_of_each(root, worth + unit_worth * (demand.capacity - used), width)
        place, units, worth, root = place[once], units[once], worth[once], root[once]
    return found


def _may_join(search: Search, place: IntArray, partners: IntArray) -> BoolArray:
    """Whether the rules of memory and of who may be together let a partner in, (n, p)."""
    demand = search.demand
    may = np.ones((len(place), len(partners)), dtype=bool)
    if np.isfinite(demand.memory_limit_mib):
        used = search.memory[place].sum(axis=1)[:, None] + search.memory[partners]
        may &= used <= demand.memory_limit_mib
    at = np.full(len(demand.at_most), -1)
    at[partners] = np.arange(len(partners))
    rows = np.arange(len(place))
    for held in place.T:
        full = (place == held[:, None]).sum(axis=1) >= demand.at_most[held]
        full &= at[held] >= 0
        if demand.apart is not None:
            others = demand.apart[held][:, partners]
            own = at[held] >= 0
            others[rows[own], at[held[own]]] = False
            may &= ~others
        may[rows[full], at[held[full]]] = False
    return may


def _largest(score: FloatArray, most: int) -> IntArray:
    """Columns of the largest of each row, in no order."""
    if score.shape[1] <= most:
        return np.broadcast_to(np.arange(score.shape[1]), score.shape)
    return np.argpartition(-score, most - 1, axis=1)[:, :most]


def _best_of_each(root: IntArray, score: FloatArray, most: int) -> IntArray:
    """Rows with the highest scores of each root."""
    order = np.lexsort((-score, root))
    ranked = root[order]
    rank = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    return order[rank < most]


def _each_once(found: Found) -> Found:
    once = np.unique(found.classes, axis=0, return_index=True)[1]
    return Found(found.classes[once], found.units[once], found.value[once])
