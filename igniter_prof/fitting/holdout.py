"""Which cells are held out of a fit: seeded, whole points, and never what only they can tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import ceil

import numpy as np

from igniter_prof.fitting.points import BoolArray, IntArray, Observations

NEVER = -1
"""The fold of what must stay in every fit."""


def hold_out(data: Observations, fraction: float, seed: int) -> BoolArray:
    """Rows to hold out, (n_rows,); all repeats of a point go together.

    A fraction of the points alone and of the co-located ones, in a seeded order. A point alone is
    held out only if each of its values (batch, share, scale, instances) stays in another point of
    the same model alone, so that nothing is extrapolated; of each set of models at most its
    part, and every model keeps a co-located point.
    """
    rng = np.random.default_rng(seed)
    order = [int(g) for g in rng.permutation(np.unique(data.group))]
    solo, mixes = _solo_values(data), _mixes(data)
    alone = [g for g in order if g in solo]
    together = [g for g in order if g in mixes]
    room = {mix: ceil(fraction * n) for mix, n in Counter(mixes[g] for g in together).items()}
    held = _spared(alone, solo, _count(solo), round(fraction * len(alone)))
    most = round(fraction * len(together))
    held += _spared(together, mixes, _count(mixes), most, mixes, room)
    return np.isin(data.group, held)


def point_folds(data: Observations, folds: int, seed: int) -> IntArray:
    """The fold of each row, (n_rows,), 0 to ``folds`` - 1, or NEVER; a point has one fold.

    The points of each model alone and of each set of models are dealt out evenly in a seeded
    order. What a fold may hold out is limited as in ``hold_out``; the rest of it is NEVER held out.
    """
    rng = np.random.default_rng(seed)
    order = [int(g) for g in rng.permutation(np.unique(data.group))]
    solo, mixes = _solo_values(data), _mixes(data)
    fold_of: dict[int, int] = dict.fromkeys(order, NEVER)
    for values, strata in (
        (solo, {g: (kept[0][0],) for g, kept in solo.items()}),
        (mixes, mixes),
    ):
        # the sets one after the other, so that small ones spread over all folds, too
        dealt = sorted((g for g in order if g in values), key=lambda g: strata[g])
        for fold in range(folds):
            mine = dealt[fold::folds]
            for group in _spared(mine, values, _count(values), len(mine)):
                fold_of[group] = fold
    return np.array([fold_of[int(g)] for g in data.group], dtype=np.int64)


def mixes_of_cells(data: Observations) -> dict[int, tuple[int, ...]]:
    """The models of each cell, sorted, a model as often as it is there, by the cell's number."""
    members: dict[int, list[int]] = {}
    for cell, model in zip(data.points.cell.tolist(), data.points.model.tolist(), strict=True):
        members.setdefault(cell, []).append(model)
    return {cell: tuple(sorted(models)) for cell, models in members.items()}


def _spared(
    order: Sequence[int],
    values: Mapping[int, Iterable[Hashable]],
    left: Counter[Hashable],
    most: int,
    mixes: Mapping[int, tuple[int, ...]] | None = None,
    room: dict[tuple[int, ...], int] | None = None,
) -> list[int]:
    """The first groups in an order that can be held out with every value still left elsewhere."""
    held: list[int] = []
    for group in order:
        if len(held) >= most:
            break
        if mixes is not None and room is not None and not room[mixes[group]]:
            continue
        if all(left[value] > 1 for value in values[group]):
            held.append(group)
            left.subtract(values[group])
            if mixes is not None and room is not None:
                room[mixes[group]] -= 1
    return held


def _count(values: Mapping[int, Iterable[Hashable]]) -> Counter[Hashable]:
    return Counter(value for each in values.values() for value in each)


def _solo_values(data: Observations) -> dict[int, list[tuple[int, str, float]]]:
    """What each point alone has of each quantity, with its model, by its group."""
    x = data.points
    quantities = (("b", x.batch), ("r", x.share), ("s", x.scale), ("i", x.instances))
    return {
        int(data.group[i]): [(int(x.model[i]), name, float(v[i])) for name, v in quantities]
        for i in np.flatnonzero(x.tenants == 1)
    }


def _mixes(data: Observations) -> dict[int, tuple[int, ...]]:
    """The set of models of each co-located point, by its group."""
    members: dict[int, set[int]] = {}
    x = data.points
    for i in np.flatnonzero(x.tenants > 1):
        members.setdefault(int(data.group[i]), set()).add(int(x.model[i]))
    return {group: tuple(sorted(models)) for group, models in members.items()}
