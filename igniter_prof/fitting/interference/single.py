"""Latencies of single cells by ``igprof``, from what is kept of configurations and of pairs.

A planner asks for one cell at a time, and for the same tenants again and again. All that a latency
is made of belongs to a configuration, or to a pair of a tenant and a neighbour: both are computed
once, so that a cell costs a few additions. The equations are those of ``model`` and ``together``,
and a test holds the two to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from igniter_prof.fitting.interference.alone import Alone
from igniter_prof.fitting.interference.contention import TERMS, Contention
from igniter_prof.fitting.interference.gaussian import matern, squared_exponential
from igniter_prof.fitting.interference.together import Correction, Pairs, Scale
from igniter_prof.fitting.interference.traits import Traits
from igniter_prof.fitting.points import FloatArray, IntArray, Points
from igniter_prof.fitting.quick import Configuration

_LADDERS = 2_000
_PAIRS = 200_000
_CELLS = 100_000
_SURE = 20_000
"""How many are kept: together some 300 MB at most, with batches of 32."""


@dataclass(frozen=True)
class Rows:
    """What the latencies of tenants are made of; arrays are (n_rows, ...)."""

    level_ms: FloatArray
    """Latency alone."""
    slope: FloatArray
    """What each neighbour adds, over the latency alone, but for the clock."""
    rise_w: FloatArray
    """What it adds to the power."""
    alone_clock: FloatArray
    """Its clock alone, over the highest."""
    overlapped_ms: FloatArray
    """Before any limit."""
    z: FloatArray
    """Standardised features."""
    place: FloatArray
    """ln batch and share."""


@dataclass(frozen=True)
class _Ladder:
    """A configuration with executed batches of 1, 2, … its batch size; arrays are (batch, ...)."""

    rows: Rows
    as_own: FloatArray
    """Its part of h as a tenant, whoever the neighbour is."""
    as_other: float
    """The same as a neighbour with a full batch."""
    smooth_own: FloatArray
    """(batch, n_pairs): its factor of the smooth part, with the weights."""
    smooth_other: FloatArray
    """(n_pairs,)."""


def log_neighbours(slope: FloatArray, count: int | IntArray) -> tuple[FloatArray, FloatArray]:
    """ln slowdown by ``count`` neighbours but for the clock, and what each of them may take back.

    See ``Contention.log_last``; shapes as ``slope * count``.
    """
    total = np.log1p(count * slope)
    return total, total - np.log1p(np.maximum(count - 1, 0) * slope)


class SingleCells:
    """See ``fitting.quick.Quick``.

    Args:
        traits: what is known of the models.
        contention: the physics.
        scale: of the features.
        correction: the process.
        processes: of latencies alone.
        few: observations that tell how sure a prediction is, and the process given them.
        alone: latency alone in ms, and ln of what co-located cells add to it.
        overlapped: ms of each row that overlap, before any limit.
    """

    def __init__(
        self,
        traits: Traits,
        contention: Contention,
        scale: Scale,
        correction: Correction,
        processes: Alone,
        few: Callable[[], tuple[Points, Correction]],
        alone: Callable[[Points], tuple[FloatArray, FloatArray]],
        overlapped: Callable[[Points], FloatArray],
    ) -> None:
        self._traits, self._contention, self._scale = traits, contention, scale
        self._alone = alone
        self._overlapped = overlapped
        self._kernel = correction.kernel
        self._v = correction.kernel.variances()
        self._observed = correction.pairs
        self._beta = correction.weights[correction.pairs.row]
        self.power = None if "clock" in contention.without else traits.power
        """Of which the clock follows; None: it is taken to be the highest."""
        self._processes, self._few = processes, few
        # caches of the object: they go with it
        self._ladder = lru_cache(maxsize=_LADDERS)(self._make_ladder)
        self._rough = lru_cache(maxsize=_LADDERS)(self._make_rough)
        self._h = lru_cache(maxsize=_PAIRS)(self._make_h)
        self._service_ms = lru_cache(maxsize=_CELLS)(self._make_service_ms)
        self._log_scale = lru_cache(maxsize=_CELLS)(self._make_log_scale)
        self._sure_alone = lru_cache(maxsize=_LADDERS)(self._make_sure_alone)
        self._sure = lru_cache(maxsize=_SURE)(self._make_sure)

    def service_ms(self, own: Configuration, beside: Sequence[Configuration]) -> FloatArray:
        """See ``Quick``; not to be written to."""
        # what neighbours cost does not depend on their order
        return self._service_ms(own, tuple(sorted(beside)))

    def overlapped_ms(self, own: Configuration, latency_ms: float) -> float:
        """See ``Quick``."""
        return min(float(self._ladder(own).rows.overlapped_ms[-1]), 0.9 * latency_ms)

    def log_scale(self, own: Configuration, beside: Sequence[Configuration]) -> float:
        """See ``Quick``."""
        return self._log_scale(own, tuple(sorted(beside)))

    def _make_service_ms(self, own: Configuration, beside: tuple[Configuration, ...]) -> FloatArray:
        mine = self._ladder(own).rows
        if not beside:
            return mine.level_ms
        log_slowdown, most = log_neighbours(mine.slope, len(beside))
        if self.power is not None:
            others_w = sum(float(self._ladder(other).rows.rise_w[-1]) for other in beside)
            demand_w = self.power.idle_w + mine.rise_w + others_w
            clock = self.power.clock_ratio(demand_w)
            log_slowdown += np.maximum(np.log(mine.alone_clock / clock), 0.0)
        for other in beside:
            log_slowdown += np.maximum(self._h(own, other), -most)
        found = mine.level_ms * np.exp(np.maximum(log_slowdown, 0.0))
        found.flags.writeable = False
        return np.asarray(found)

    def rows(self, x: Points) -> Rows:
        """What the latencies of the rows are made of, whatever is beside them.

        ``x.tenants`` is 2 everywhere, and ``x.cell`` a number for each row.
        """
        n = len(x)
        alone_ms, carried = self._alone(x)
        parts = self._contention.parts(x, alone_ms)
        rise, clock = np.zeros(n), np.ones(n)
        if self.power is not None:
            full_ms = self.power.full_clock_ms(x, alone_ms)
            rise = self.power.rise_w(x, full_ms)
            clock = self.power.clock_ratio(self.power.demand_w(x.alone(), full_ms))
        features = self._traits.features(x, alone_ms)
        return Rows(
            level_ms=alone_ms * np.exp(carried),
            slope=np.sum([parts[name] for name in TERMS[:3]], axis=0),
            rise_w=rise,
            alone_clock=clock,
            overlapped_ms=self._overlapped(x),
            z=(features - self._scale.mean) / self._scale.spread,
            place=np.log(np.stack([x.batch, x.share], axis=1)),
        )

    def between(self, model: IntArray, rows: Rows) -> FloatArray:
        """Posterior mean of h of each row beside each: (n_rows, n_rows), tenants first.

        ``model``: (n_rows,); see ``Correction.mean``.
        """
        as_own, smooth_own = self._as_tenants(model, rows.z)
        as_other, smooth_other = self._as_neighbours(model, rows.z)
        found = smooth_own @ smooth_other.T
        found += as_own[:, None] + as_other
        of_model = [(int(number), np.flatnonzero(model == number)) for number in np.unique(model)]
        for own, mine in of_model:
            for other, theirs in of_model:
                left = self._rough_tenants(own, other, rows.place[mine])
                right = self._rough_neighbours(own, other, rows.place[theirs])
                found[np.ix_(mine, theirs)] += left @ right.T
        return np.asarray(found)

    def _make_ladder(self, own: Configuration) -> _Ladder:
        n = own.batch
        x = Points(
            model=np.full(n, own.model),
            batch=np.arange(1.0, n + 1.0),
            share=np.full(n, own.share),
            scale=np.full(n, own.scale),
            instances=np.full(n, float(own.instances)),
            cell=np.arange(n),
            tenants=np.full(n, 2.0),
        )
        rows = self.rows(x)
        rows.level_ms.flags.writeable = False
        as_own, smooth_own = self._as_tenants(x.model, rows.z)
        as_other, smooth_other = self._as_neighbours(x.model[-1:], rows.z[-1:])
        return _Ladder(rows, as_own, float(as_other[0]), smooth_own, smooth_other[0])

    def _as_tenants(self, model: IntArray, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rows' part of h as tenants whoever the neighbour is, and their factor of the smooth part.

        (n_rows,) and (n_rows, n_pairs); the weights are in the latter.
        """
        seen, v, beta, n = self._observed, self._v, self._beta, self._kernel.n_features
        level = np.bincount(seen.own, beta, len(self._traits.kernels))[model]
        part = v[1] * z[:, 0] * (beta @ seen.features[:, 0]) + v[4] * level + v[0] * beta.sum()
        lengths = self._kernel.lengths[:n]
        return part, v[3] * beta * squared_exponential(z, seen.features[:, :n], lengths)

    def _as_neighbours(self, model: IntArray, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The same of rows as neighbours, without the weights."""
        seen, v, beta, n = self._observed, self._v, self._beta, self._kernel.n_features
        level = np.bincount(seen.other, beta, len(self._traits.kernels))[model]
        part = v[2] * z[:, 0] * (beta @ seen.features[:, n]) + v[5] * level
        return part, squared_exponential(z, seen.features[:, n:], self._kernel.lengths[n:])

    def _same(self, own: int, other: int) -> IntArray:
        return np.flatnonzero((self._observed.own == own) & (self._observed.other == other))

    def _rough_tenants(self, own: int, other: int, place: FloatArray) -> FloatArray:
        """Factor of the rough part of tenants of one model beside another: (n_rows, n_same)."""
        same, lengths = self._same(own, other), self._kernel.pair_lengths
        near = matern(place, self._observed.place[same, :2], lengths[:2])
        return np.asarray(self._v[6] * self._beta[same] * near)

    def _rough_neighbours(self, own: int, other: int, place: FloatArray) -> FloatArray:
        """The same of the neighbours, which are of the model ``other``."""
        same, lengths = self._same(own, other), self._kernel.pair_lengths
        return matern(place, self._observed.place[same, 2:], lengths[2:])

    def _make_rough(self, own: Configuration, other: int, as_own: bool) -> FloatArray:
        """A ladder's factor of the rough part beside one model: (batch, n_same) as the tenant.

        As the neighbour (full batch): (n_same,); ``other`` then is the tenant's model.
        """
        place = self._ladder(own).rows.place
        if as_own:
            return self._rough_tenants(own.model, other, place)
        return np.asarray(self._rough_neighbours(other, own.model, place[-1:])[0])

    def _make_h(self, own: Configuration, other: Configuration) -> FloatArray:
        """Posterior mean of h, (own.batch,); see ``Correction.mean``."""
        if len(self._beta) == 0:
            return np.zeros(own.batch)
        mine, theirs = self._ladder(own), self._ladder(other)
        rough = self._rough(own, other.model, True) @ self._rough(other, own.model, False)
        smooth = mine.smooth_own @ theirs.smooth_other
        return np.asarray(mine.as_own + theirs.as_other + smooth + rough)

    def _make_log_scale(self, own: Configuration, beside: tuple[Configuration, ...]) -> float:
        """See ``IgprofFitted.log_scale``."""
        variance, covered = self._sure_alone(own)
        if not beside:
            variance += float(self._processes.noise(np.array([own.model]))[0])
        else:
            pairs = self._pairs(own, beside)
            variance += float(self._kernel.diagonal(pairs, 1)[0]) + self._kernel.noise
            total = covered + sum(self._sure(own, other) for other in beside)
            variance -= float(total @ total)
        return float(np.sqrt(max(variance, 1e-8)))

    def _pairs(self, own: Configuration, beside: Sequence[Configuration]) -> Pairs:
        mine, theirs = self._ladder(own).rows, [self._ladder(other).rows for other in beside]
        n = len(beside)
        return Pairs(
            np.zeros(n, dtype=np.int64),
            np.full(n, own.model),
            np.array([other.model for other in beside]),
            np.array([np.concatenate([mine.z[-1], each.z[-1]]) for each in theirs]),
            np.array([np.concatenate([mine.place[-1], each.place[-1]]) for each in theirs]),
        )

    def _make_sure_alone(self, own: Configuration) -> tuple[float, FloatArray]:
        """Variance of a latency alone, and what the few observations explain of it beside others.

        The latter as ``Correction.covered`` has it, (n_few,).
        """
        x = Points(
            np.array([own.model]),
            np.array([float(own.batch)]),
            np.array([own.share]),
            np.array([own.scale]),
            np.array([float(own.instances)]),
            np.zeros(1, dtype=np.int64),
            np.ones(1),
        )
        seen, known = self._few()
        variance = float(self._processes.variance(x)[0])
        if not len(known):
            return variance, np.zeros(0)
        return variance, known.covered(self._processes.covariance(x, seen))[0]

    def _make_sure(self, own: Configuration, other: Configuration) -> FloatArray:
        """What the few observations explain of h, (n_few,), as ``_make_sure_alone``."""
        _, known = self._few()
        if not len(known):
            return np.zeros(0)
        cross = self._kernel.rows(self._pairs(own, (other,)), known.pairs, 1, len(known))
        return np.asarray(known.covered(cross)[0])
