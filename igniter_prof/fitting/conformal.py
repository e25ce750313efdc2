"""90% prediction intervals from the errors of cells that were not fitted (conformal prediction).

A score is ln(measured / predicted) over the model's own scale of the row. The scores come from
cross-validation by whole points, so that no repeat and no tenant of a cell is seen by the fit that
predicts it (as CV+ of Barber, Candès, Ramdas and Tibshirani, Annals of Statistics 49, 2021, with
the model of all cells in the middle of the interval). Cells alone and co-located have quantiles of
their own (Mondrian conformal prediction: Vovk, Gammerman and Shafer, 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from igniter_prof.fitting import accuracy
from igniter_prof.fitting.accuracy import COVERAGE
from igniter_prof.fitting.points import MODEL_ERROR, BoolArray, FloatArray, IntArray

_ENOUGH = 19
"""Fewest scores of which a 90% interval with both its ends is made."""

_LEAST_END = 1e-6

Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """Lowest and highest score that 90% intervals reach, alone and co-located."""

    solo: Interval
    colocated: Interval

    def ends(self, alone: BoolArray, log_scale: FloatArray) -> tuple[FloatArray, FloatArray]:
        """ln(end / predicted) of both ends, each (n_rows,), as ``Predictor`` has them.

        What a predictor adds for what lies outside of the profile is not in it.
        """
        low = np.where(alone, self.solo[0], self.colocated[0]) * log_scale
        return low, np.where(alone, self.solo[1], self.colocated[1]) * log_scale


def intervals(scores: FloatArray, alone: BoolArray, least: float = MODEL_ERROR) -> Intervals:
    """Intervals from scores.

    The upper end co-located is never below that alone: a further neighbour may not lower it
    (docs/model.md). What it then covers too much, the lower end gives back.

    Args:
        scores: (n,) of cells that were not fitted.
        alone: (n,) whether the score is of a model alone.
        least: least half-width where there are too few scores to know.
    """
    solo = scores[alone] if alone.any() else scores
    together = scores[~alone] if (~alone).any() else scores
    low, high = interval(solo, least)
    return Intervals((low, high), interval(together, least, least_high=high))


def interval(scores: FloatArray, least: float = MODEL_ERROR, least_high: float = 0.0) -> Interval:
    """The narrower of the symmetric interval and that with equal tails; holds 0.

    Both have the finite-sample step of split conformal prediction: of n scores,
    ceil(0.9·(n + 1)) lie inside. With too few scores, see ``accuracy.interval``.

    Args:
        scores: (n,).
        least: least half-width where there are too few.
        least_high: what the upper end must reach.
    """
    n = len(scores)
    if n < _ENOUGH:
        low, high = accuracy.interval(scores, least)
        return low, max(high, least_high)
    inside = int(np.ceil((n + 1) * COVERAGE))
    radius = float(np.sort(np.abs(scores))[inside - 1])
    low, high = accuracy.interval(scores, least)
    if 2.0 * radius <= high - low:
        low, high = -radius, radius
    if high < least_high:
        outside_above = int((scores > least_high).sum())
        outside_below = max(n - inside - outside_above, 0)
        low, high = min(float(np.sort(scores)[outside_below]), 0.0), least_high
    return low, high


def factor(scores: FloatArray, ends: Interval) -> float:
    """What ``ends`` must be multiplied by, at least 1, to hold 90% of other scores, (n,)."""
    if not len(scores):
        return 1.0
    low, high = min(ends[0], -_LEAST_END), max(ends[1], _LEAST_END)
    needed = np.sort(np.maximum(scores / high, scores / low))
    return max(1.0, float(needed[min(int(np.ceil((len(scores) + 1) * COVERAGE)), len(scores)) - 1]))


@dataclass(frozen=True)
class Held:
    """What was said of rows by a fit that had not seen them; arrays are (n,)."""

    score: FloatArray
    log_scale: FloatArray
    alone: BoolArray
    fold: IntArray


@dataclass(frozen=True)
class Inside:
    """Whether held-out rows lie in their intervals, and how wide those are; both (n,)."""

    inside: BoolArray
    half_width: FloatArray
    """Half of (upper end - lower end) / predicted."""


def check(held: Held) -> Inside:
    """Hold each fold against intervals made of the other folds' scores alone."""
    inside = np.zeros(len(held.score), dtype=bool)
    half = np.full(len(held.score), np.nan)
    for fold in np.unique(held.fold):
        mine = held.fold == fold
        if mine.all():
            break
        made = intervals(held.score[~mine], held.alone[~mine])
        low, high = made.ends(held.alone[mine], held.log_scale[mine])
        found = held.score[mine] * held.log_scale[mine]
        inside[mine] = (low <= found) & (found <= high)
        half[mine] = (np.exp(high) - np.exp(low)) / 2.0
    return Inside(inside, half)
