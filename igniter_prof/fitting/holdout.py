"""Which cells are held out of a fit: seeded, whole points, and never what only they can tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

import numpy as np

from igniter_prof.fitting.points import BoolArray, Observations


def hold_out(data: Observations, fraction: float, seed: int) -> BoolArray:
    """Rows to hold out, (n_rows,); all repeats of a point go together.

    A fraction of the points alone and of the co-located ones, in a seeded order. A point alone is
    held out only if each of its values (batch, share, scale, instances) stays in another point of
    the same model alone, so that nothing is extrapolated; of each set of models at most its
    part, and every model keeps a co-located point.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.unique(data.group))
    solo_groups = {int(g) for g in np.unique(data.group[data.points.tenants == 1])}
    solo = _hold_out_solo(data, [int(g) for g in order if int(g) in solo_groups], fraction)
    together = _hold_out_together(
        data, [int(g) for g in order if int(g) not in solo_groups], fraction
    )
    return np.isin(data.group, [*solo, *together])


def _hold_out_solo(data: Observations, order: Sequence[int], fraction: float) -> list[int]:
    first = {int(g): i for i, g in reversed(list(enumerate(data.group.tolist())))}
    x = data.points

    def values(group: int) -> list[tuple[int, str, float]]:
        i = first[group]
        m = int(x.model[i])
        quantities = (("b", x.batch), ("r", x.share), ("s", x.scale), ("i", x.instances))
        return [(m, name, float(array[i])) for name, array in quantities]

    left = Counter(value for group in order for value in values(group))
    held: list[int] = []
    for group in order:
        if len(held) >= round(fraction * len(order)):
            break
        if all(left[value] > 1 for value in values(group)):
            held.append(group)
            left.subtract(values(group))
    return held


def _hold_out_together(data: Observations, order: Sequence[int], fraction: float) -> list[int]:
    members: dict[int, set[int]] = {group: set() for group in order}
    for group, model in zip(data.group.tolist(), data.points.model.tolist(), strict=True):
        if group in members:
            members[group].add(model)
    mixes = {group: tuple(sorted(models)) for group, models in members.items()}
    room = {mix: ceil(fraction * count) for mix, count in Counter(mixes.values()).items()}
    left = Counter(model for models in members.values() for model in models)
    held: list[int] = []
    for group in order:
        if len(held) >= round(fraction * len(order)):
            break
        if room[mixes[group]] and all(left[model] > 1 for model in members[group]):
            held.append(group)
            room[mixes[group]] -= 1
            left.subtract(members[group])
    return held
