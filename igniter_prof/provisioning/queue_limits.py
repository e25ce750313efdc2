"""How much slower than alone a tenant may be until its latency percentile is missed.

If all executed batches take a factor f longer while requests come at a rate r, that is the queue of
the batches alone with requests at f·r, slowed down f times. So with the percentile Q(y) at a rate y
alone, the SLO T is kept where f·Q(f·r) <= T, that is where y·Q(y) <= r·T for y = f·r: one function
of one variable tells the factors of all workloads with a setting, whatever their rates and SLOs.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from igniter_prof.fitting.points import FloatArray, IntArray

_LOG_STEP = 0.00375
"""Logarithm of the ratio of one rate to the next at which queues may be solved."""

FINE, COARSE = 1, 4
"""Steps between the rates that are used: factors err upwards by less than that, 0.4% or 1.5%.

Coarse ones serve more workloads with each solution.
"""

_SPACING = 1.3
"""Of the shares at which limits are found for many workloads."""

_NEAR, _FAR = (0, 2), 6
"""Units above the least that works alone at which limits are found; between two of them, the
higher one holds, and above them the last. For many workloads the references next to them are taken.
"""


class QueueCurve:
    """The latency percentile of one setting alone by the rate; solved where it is asked for.

    It is taken to rise with the rate. Rates are those of a fixed grid, so that no answer depends on
    what was asked before.
    """

    def __init__(self, solve: Callable[[float], float]) -> None:
        """``solve``: the percentile, ms, at a rate per second; infinite where nothing is stable."""
        self._solve = solve
        self._steps: list[int] = []
        self._products: list[float] = []

    def holds(self, rate_rps: float, product: float) -> bool:
        """Whether y·Q(y) is at most ``product``, in ms per second, at a rate y."""
        step = _step(rate_rps, COARSE)
        for each in (step, step + COARSE):
            known = self._decided(rate_rps, product)
            if known is not None:
                return known
            self._product(each)
        known = self._decided(rate_rps, product)
        return rate_rps * self._solve(rate_rps) <= product if known is None else known

    def range(
        self, product: float, start_rps: float, most_rps: float, width: int = FINE
    ) -> tuple[float, float]:
        """Between which rates the largest is at which y·Q(y) is at most ``product``.

        They differ by less than ``width`` steps of the grid, and are at most ``most_rps``. The
        search starts at ``start_rps`` where nothing is known.
        """
        low, high = self._bracket(
            product, _step(start_rps, width), _step(most_rps, width) + width, width
        )
        if high is None:
            return most_rps, most_rps
        # the percentile within the step is between those at its ends, which may fall by parts of a
        # percent where arrivals are constant
        ends = self._product(low) / _rate(low), self._product(high) / _rate(high)
        least = max(_rate(low), product / max(ends))
        most = min(_rate(high), product / min(ends))
        return min(least, most_rps), min(most, most_rps)

    def _bracket(self, product: float, start: int, top: int, width: int) -> tuple[int, int | None]:
        """The neighbouring steps between which the product is reached; None: not up to ``top``.

        From below, as queues near saturation take longest to solve.
        """
        if not self._steps:
            self._product(min(start, top))
        place = bisect_right(self._products, product)
        if not place:
            self._lower(product, width)
            place = bisect_right(self._products, product)
        low = self._steps[place - 1] // width * width
        high = -(-self._steps[place] // width) * width if place < len(self._steps) else None
        evenly = False
        while low < top and (high is None or high - low > width):
            before, part = self._product(low), 0.5
            if high is None:
                # were the percentile that of the lower rate, it would be reached here
                far = min(_step(_rate(low) * product / before, width) + width, top)
            else:
                far, after = high, self._product(high)
                if not evenly and math.isfinite(after):
                    part = math.log(product / before) / math.log(after / before)
            all_ = (far - low) // width
            some = min(max(round(part * all_), 1), all_ if high is None else all_ - 1)
            middle = low + some * width
            # an end that never moves makes interpolation slow
            if self._product(middle) <= product:
                evenly = not evenly and 4 * some < all_
                low = middle
            else:
                evenly = not evenly and 4 * some > 3 * all_
                high = middle
        return low, high

    def _lower(self, product: float, width: int) -> None:
        """Go to ever lower rates until the product is no longer exceeded."""
        step = self._steps[0] // width * width
        while (ratio := product / self._product(step)) < 1.0:
            # as if the percentile did not change; at most a quarter
            away = -math.log(max(ratio, 0.25)) / _LOG_STEP
            step -= math.ceil(away / width) * width

    def _decided(self, rate_rps: float, product: float) -> bool | None:
        """What the percentiles known at a lower and at a higher rate tell, if anything."""
        place = bisect_right(self._steps, _step(rate_rps, FINE))
        if place < len(self._steps):
            ratio = rate_rps / _rate(self._steps[place])
            if self._products[place] * ratio <= product:
                return True
        if place:
            ratio = rate_rps / _rate(self._steps[place - 1])
            if self._products[place - 1] * ratio > product:
                return False
        return None

    def _product(self, step: int) -> float:
        place = bisect_right(self._steps, step)
        if place and self._steps[place - 1] == step:
            return self._products[place - 1]
        rate_rps = _rate(step)
        product = rate_rps * self._solve(rate_rps)
        self._steps.insert(place, step)
        self._products.insert(place, product)
        return product


@dataclass(frozen=True)
class ShareLimits:
    """With which latencies of full batches a workload keeps its percentile, by its units of share.

    The limit is taken not to rise with the share: small batches gain less from it than full ones.
    Arrays are by unit - 1, ms, as are the numbers of units here.
    """

    curve: Callable[[int], QueueCurve]
    rate_rps: float
    limit_ms: float
    """Of the percentile."""
    alone_ms: FloatArray
    needed_ms: FloatArray
    """What must be kept alone: with the rule's margin."""
    most_ms: FloatArray
    """What the limit is at most, for another reason."""
    width: int
    """Steps between the rates at which queues are solved."""
    found: dict[int, tuple[float, float]] = field(default_factory=dict)

    def first(self, units: IntArray) -> int | None:
        """The first of some units with which the percentile is kept alone, if any."""
        # a larger share may be a little slower: from slow to fast
        order = units[np.argsort(-self.needed_ms[units], kind="stable")].tolist()
        if not order or not self._holds(order[-1]):
            return None
        among = set(self._references)
        known = [place for place, unit in enumerate(order) if unit in among]
        known = [-1, *(place for place in known if place < len(order) - 1), len(order) - 1]
        index = _first(lambda index: self._holds(order[known[index]]), 0, len(known) - 1)
        below, above = known[index - 1], known[index]
        if above - below > 1:
            # these decide most of those between them
            self._limit(order[above])
            if below >= 0:
                self._limit(order[below])
        place = _first(lambda place: self._holds(order[place]), below, above)
        return int(min(order[place:]))

    def bounds(self, first: int, units: IntArray) -> FloatArray:
        """Limits from a unit on, (n_units,), not below the true ones; below ``first`` -1."""
        last = int(units[-1])
        if self.width == FINE:
            near = sorted({min(first + more, last) for more in (*_NEAR, _FAR)})
        else:
            # those that many workloads have in common
            shared = [each for each in self._references if units[0] <= each <= last]
            ends = [
                max((each for each in shared if each <= first + more), default=first)
                for more in _NEAR
            ]
            far = min((each for each in shared if each >= first + _FAR), default=last)
            near = sorted({*ends, far})
        bounds = np.full(len(self.alone_ms), -1.0)
        for left, right in zip(near, [*near[1:], last], strict=True):
            high = self._limit(left)[1]
            # that it is not above the one on the left is cheaper to know than what it is
            if right in near or self._keeps(right, high):
                high = max(high, self._limit(right)[1])
            bounds[left : right + 1] = np.maximum(bounds[left : right + 1], high)
        bounds[:first] = -1.0
        return bounds

    @property
    def _references(self) -> list[int]:
        return _references(len(self.alone_ms))

    def _keeps(self, unit: int, latency_ms: float) -> bool:
        rate_rps = self.rate_rps * latency_ms / float(self.alone_ms[unit])
        return self.curve(unit).holds(rate_rps, self.rate_rps * self.limit_ms)

    def _limit(self, unit: int) -> tuple[float, float]:
        """Between which two the limit is, ms."""
        if unit not in self.found:
            scale = float(self.alone_ms[unit]) / self.rate_rps
            low, high = self.curve(unit).range(
                self.rate_rps * self.limit_ms,
                self.rate_rps,
                float(self.most_ms[unit]) / scale,
                self.width,
            )
            self.found[unit] = (low * scale, high * scale)
        return self.found[unit]

    def _holds(self, unit: int) -> bool:
        needed_ms = float(self.needed_ms[unit])
        for each, (low, high) in self.found.items():
            if unit >= each and needed_ms > high:
                return False
            if unit <= each and needed_ms <= low:
                return True
        return self._keeps(unit, needed_ms)


@cache
def _references(units: int) -> list[int]:
    """Units at which limits are found for many workloads."""
    numbers = [1]
    while numbers[-1] < units:
        numbers.append(min(max(numbers[-1] + 1, int(numbers[-1] * _SPACING)), units))
    return [each - 1 for each in numbers]


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first in (low, high] that holds, from where on all do; ``high`` does."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _step(rate_rps: float, width: int) -> int:
    """The last step at or below a rate, of those that are used."""
    return math.floor(math.log(rate_rps) / (_LOG_STEP * width)) * width


def _rate(step: int) -> float:
    return math.exp(step * _LOG_STEP)
