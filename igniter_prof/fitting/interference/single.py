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
class _Ladder:
    """A configuration with executed batches of 1, 2, … its batch size; arrays are (batch, ...)."""

    level_ms: FloatArray
    """Latency alone."""
    slope: FloatArray
    """What each neighbour adds, over the latency alone, but for the clock."""
    rise_w: FloatArray
    """What it adds to the power."""
    alone_clock: FloatArray
    """Its clock alone, over the highest."""
    overlapped_ms: float
    """Of a full batch, before any limit."""
    z: FloatArray
    """Standardised features."""
    place: FloatArray
    """ln batch and share."""
    as_own: FloatArray
    """Its part of h as a tenant, whoever the neighbour is."""
    as_other: float
    """The same as a neighbour with a full batch."""
    smooth_own: FloatArray
    """(batch, n_pairs): its factor of the smooth part, with the weights."""
    smooth_other: FloatArray
    """(n_pairs,)."""


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
        self._power = None if "clock" in contention.without else traits.power
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
        return min(self._ladder(own).overlapped_ms, 0.9 * latency_ms)

    def log_scale(self, own: Configuration, beside: Sequence[Configuration]) -> float:
        """See ``Quick``."""
        return self._log_scale(own, tuple(sorted(beside)))

    def _make_service_ms(self, own: Configuration, beside: tuple[Configuration, ...]) -> FloatArray:
        mine = self._ladder(own)
        if not beside:
            return mine.level_ms
        n = len(beside)
        log_slowdown = np.log1p(n * mine.slope)
        # what each neighbour may take back, see Contention.log_last
        most = log_slowdown - np.log1p((n - 1) * mine.slope)
        if self._power is not None:
            others_w = sum(float(self._ladder(other).rise_w[-1]) for other in beside)
            demand_w = self._power.idle_w + mine.rise_w + others_w
            clock = self._power.clock_ratio(demand_w)
            log_slowdown += np.maximum(np.log(mine.alone_clock / clock), 0.0)
        for other in beside:
            log_slowdown += np.maximum(self._h(own, other), -most)
        found = mine.level_ms * np.exp(np.maximum(log_slowdown, 0.0))
        found.flags.writeable = False
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
        alone_ms, carried = self._alone(x)
        parts = self._contention.parts(x, alone_ms)
        rise, clock = np.zeros(n), np.ones(n)
        if self._power is not None:
            full_ms = self._power.full_clock_ms(x, alone_ms)
            rise = self._power.rise_w(x, full_ms)
            clock = self._power.clock_ratio(self._power.demand_w(x.alone(), full_ms))
        features = self._traits.features(x, alone_ms)
        z = (features - self._scale.mean) / self._scale.spread
        place = np.log(np.stack([x.batch, x.share], axis=1))
        level_ms = alone_ms * np.exp(carried)
        level_ms.flags.writeable = False
        as_own, as_other, smooth_own, smooth_other = self._factors(own.model, z)
        return _Ladder(
            level_ms,
            np.sum([parts[name] for name in TERMS[:3]], axis=0),
            rise,
            clock,
            float(self._overlapped(x)[-1]),
            z,
            place,
            as_own,
            as_other,
            smooth_own,
            smooth_other,
        )

    def _factors(
        self, model: int, z: FloatArray
    ) -> tuple[FloatArray, float, FloatArray, FloatArray]:
        """Of each pair of a ladder's rows: what belongs to the tenant, and to the neighbour."""
        seen, v, beta, n = self._observed, self._v, self._beta, self._kernel.n_features
        as_own = v[1] * z[:, 0] * (beta @ seen.features[:, 0])
        as_own += v[4] * beta[seen.own == model].sum() + v[0] * beta.sum()
        as_other = v[2] * z[-1, 0] * (beta @ seen.features[:, n])
        as_other += v[5] * beta[seen.other == model].sum()
        lengths = self._kernel.lengths
        left = v[3] * beta * squared_exponential(z, seen.features[:, :n], lengths[:n])
        right = squared_exponential(z[-1:], seen.features[:, n:], lengths[n:])
        return as_own, float(as_other), left, right[0]

    def _same(self, own: int, other: int) -> IntArray:
        return np.flatnonzero((self._observed.own == own) & (self._observed.other == other))

    def _make_rough(self, own: Configuration, other: int, as_own: bool) -> FloatArray:
        """A ladder's factor of the rough part beside one model: (batch, n_same) as the tenant.

        As the neighbour (full batch): (n_same,); ``other`` then is the tenant's model.
        """
        place, lengths = self._ladder(own).place, self._kernel.pair_lengths
        if as_own:
            same = self._same(own.model, other)
            near = matern(place, self._observed.place[same, :2], lengths[:2])
            return np.asarray(self._v[6] * self._beta[same] * near)
        same = self._same(other, own.model)
        return np.asarray(matern(place[-1:], self._observed.place[same, 2:], lengths[2:])[0])

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
        mine, theirs = self._ladder(own), [self._ladder(other) for other in beside]
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
