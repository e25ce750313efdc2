"""What physics leaves of a slowdown: a Gaussian process over pairs of a tenant and a neighbour.

The correction of a row is the sum of h(own, neighbour) over its neighbours, so that it is defined
for any number of tenants. The covariance of h is a sum of

- a constant: neighbours cost more or less than physics says;
- lines in the rate of kernels of the tenant and of its neighbour;
- a smooth function of the features of both (``Traits.features``): what carries over to models
  that were never measured together;
- an own level of each model as a tenant, and as a neighbour;
- a rougher function of batch sizes and shares of each pair of models: what is left where data is
  dense.

Rows that share a configuration share the error of its latency alone, which is part of the
covariance of what was observed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from igniter_prof.fitting.interference.gaussian import (
    JITTER,
    Prior,
    Slopes,
    distances,
    matern,
    matern_at,
    matern_slope,
    most_likely,
    squared_exponential,
)
from igniter_prof.fitting.points import FloatArray, IntArray, Points

TERMS = ("smooth", "identity", "pair")
"""Parts that an ablation may leave out."""

_VARIANCES = {
    "constant": (0.03**2, 1.5),
    "own_rate": (0.01**2, 1.5),
    "neighbour_rate": (0.01**2, 1.5),
    "smooth": (0.015**2, 1.5),
    "tenant": (0.007**2, 1.5),
    "neighbour": (0.007**2, 1.5),
    "pair": (0.003**2, 1.5),
    "noise": (0.0045**2, 1.5),
}
_LENGTH = (1.65, 1.0)
_PAIR_LENGTH = (1.0, 0.7)
_LEAST_SPREAD = 1e-3
_ABSENT = 1e-12
"""Variance of a part that an ablation leaves out."""


@dataclass(frozen=True)
class Pairs:
    """Each row with each of its neighbours; arrays are (n_pairs, ...)."""

    row: IntArray
    own: IntArray
    """Model number of the tenant."""
    other: IntArray
    """Model number of the neighbour."""
    features: FloatArray
    """(n_pairs, 2·n_features): of the tenant, then of the neighbour, standardised."""
    place: FloatArray
    """(n_pairs, 4): ln batch and share of the tenant, then of the neighbour."""

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: IntArray) -> Pairs:
        """Some of them."""
        return Pairs(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Scale:
    """Mean and spread of features over what was fitted, each (n_features,)."""

    mean: FloatArray
    spread: FloatArray

    @classmethod
    def of(cls, features: FloatArray) -> Scale:
        """Of (n_rows, n_features)."""
        spread = features.std(axis=0)
        return cls(features.mean(axis=0), np.where(spread > _LEAST_SPREAD, spread, 1.0))


def neighbours(x: Points) -> tuple[IntArray, IntArray]:
    """Row numbers (n_pairs,) of each tenant and of each of its neighbours, in order of tenants."""
    order = np.argsort(x.cell, kind="stable")
    _, first, count = np.unique(x.cell[order], return_index=True, return_counts=True)
    size = np.repeat(count, count)
    start = np.repeat(first, count)
    tenant = np.repeat(np.arange(len(order)), size)
    begin = np.repeat(np.cumsum(size) - size, size)
    other = np.repeat(start, size) + (np.arange(len(tenant)) - begin)
    apart = tenant != other
    tenant, other = order[tenant[apart]], order[other[apart]]
    sort = np.argsort(tenant, kind="stable")
    return tenant[sort], other[sort]


def pairs_of(x: Points, features: FloatArray, scale: Scale) -> Pairs:
    """The pairs of rows; ``features``: (n_rows, n_features), not yet standardised."""
    row, other = neighbours(x)
    z = (features - scale.mean) / scale.spread
    place = np.log(np.stack([x.batch, x.share], axis=1))
    return Pairs(
        row,
        x.model[row],
        x.model[other],
        np.concatenate([z[row], z[other]], axis=1),
        np.concatenate([place[row], place[other]], axis=1),
    )


@dataclass(frozen=True)
class Kernel:
    """Covariance of h between pairs, given log parameters in the order of ``names``."""

    theta: FloatArray
    n_features: int

    @property
    def lengths(self) -> FloatArray:
        """Length scales of the features, (2·n_features,)."""
        return np.exp(self.theta[8 : 8 + 2 * self.n_features])

    @property
    def pair_lengths(self) -> FloatArray:
        """Length scales of the places, (4,)."""
        return np.exp(self.theta[8 + 2 * self.n_features :])

    def variances(self) -> FloatArray:
        """In the order of ``_VARIANCES``."""
        return np.exp(self.theta[:8])

    @property
    def noise(self) -> float:
        """Variance of what no part explains."""
        return float(self.variances()[7])

    def between(self, a: Pairs, b: Pairs) -> FloatArray:
        """(n_pairs of a, n_pairs of b)."""
        v = self.variances()
        own = a.own[:, None] == b.own[None, :]
        other = a.other[:, None] == b.other[None, :]
        n = self.n_features
        k = v[0] + v[1] * np.outer(a.features[:, 0], b.features[:, 0])
        k += v[2] * np.outer(a.features[:, n], b.features[:, n])
        k += v[3] * squared_exponential(a.features, b.features, self.lengths)
        k += v[4] * own + v[5] * other
        for model in np.unique(a.own):
            for beside in np.unique(a.other[a.own == model]):
                rows = np.flatnonzero((a.own == model) & (a.other == beside))
                columns = np.flatnonzero((b.own == model) & (b.other == beside))
                if len(columns):
                    rough = matern(a.place[rows], b.place[columns], self.pair_lengths)
                    k[np.ix_(rows, columns)] += v[6] * rough
        return np.asarray(k)

    def diagonal(self, a: Pairs, n_rows: int) -> FloatArray:
        """Prior variance of each row: over its pairs with one another, (n_rows,)."""
        count = np.bincount(a.row, minlength=n_rows)
        begin = np.cumsum(count) - count
        size = count[a.row]
        first = np.repeat(np.arange(len(a)), size)
        second = np.repeat(begin[a.row], size) + _counted(size)
        found = np.zeros(n_rows)
        np.add.at(found, a.row[first], self._aligned(a.take(first), a.take(second)))
        return found

    def _aligned(self, a: Pairs, b: Pairs) -> FloatArray:
        """Covariance of the k-th of a and the k-th of b, (n_pairs,)."""
        v, n = self.variances(), self.n_features
        own, other = a.own == b.own, a.other == b.other
        away = (((a.features - b.features) / self.lengths) ** 2).sum(axis=1)
        r = np.sqrt(5.0) * np.abs(a.place - b.place) / self.pair_lengths
        rough = matern_at(r).prod(axis=1)
        return np.asarray(
            v[0]
            + v[1] * a.features[:, 0] * b.features[:, 0]
            + v[2] * a.features[:, n] * b.features[:, n]
            + v[3] * np.exp(-0.5 * away)
            + v[4] * own
            + v[5] * other
            + v[6] * rough * own * other
        )

    def rows(self, a: Pairs, b: Pairs, n_a: int, n_b: int) -> FloatArray:
        """Covariance of rows: summed over their pairs, (n_a, n_b)."""
        found = np.zeros((n_a, n_b))
        # a part of the pairs at a time: cells of many tenants have far more pairs than rows
        size = max(_NUMBERS // max(len(b), 1), 1)
        for start in range(0, len(a), size):
            part = a.take(np.arange(start, min(start + size, len(a))))
            low, high = int(part.row[0]), int(part.row[-1]) + 1
            block = _sum_rows(self.between(part, b), part.row - low, high - low)
            found[low:high] += _sum_rows(block.T, b.row, n_b).T
        return found


def _counted(size: IntArray) -> IntArray:
    """0, 1, … below each size in turn, (sum of sizes,)."""
    ends = np.cumsum(size)
    return np.asarray(np.arange(int(size.sum())) - np.repeat(ends - size, size))


def _sum_rows(values: FloatArray, row: IntArray, count: int) -> FloatArray:
    """Sums over equal ``row`` (ascending) along the first axis, (count, ...)."""
    if len(row) == count and (row == np.arange(count)).all():
        return values
    result = np.zeros((count, *values.shape[1:]))
    if len(row):
        present, first = np.unique(row, return_index=True)
        result[present] = np.add.reduceat(values, first, axis=0)
    return result


def prior(n_features: int, without: Collection[str] = ()) -> Prior:
    """Of the log parameters: variances, 2·n_features length scales, 4 of the places."""
    absent = {"identity": ("tenant", "neighbour"), "smooth": ("smooth",), "pair": ("pair",)}
    gone = {name for term in without for name in absent.get(term, ())}
    entries = [(_ABSENT, 1e-3) if name in gone else value for name, value in _VARIANCES.items()]
    return Prior.of([*entries, *[_LENGTH] * (2 * n_features), *[_PAIR_LENGTH] * 4])


def likely_kernel(
    pairs: Pairs,
    left: FloatArray,
    shared: FloatArray,
    noise: FloatArray,
    n_features: int,
    without: Collection[str] = (),
) -> Kernel:
    """The most likely kernel.

    Args:
        pairs: of the rows.
        left: (n_rows,) what physics leaves.
        shared: (n_rows, n_rows) covariance of the latencies alone.
        noise: (n_rows,) known variances.
        n_features: of a tenant.
        without: parts left out.
    """
    n = len(left)
    squares = distances(pairs.features, pairs.features)
    places = distances(pairs.place, pairs.place)
    own = (pairs.own[:, None] == pairs.own[None, :]).astype(np.float64)
    other = (pairs.other[:, None] == pairs.other[None, :]).astype(np.float64)
    rate = np.outer(pairs.features[:, 0], pairs.features[:, 0])
    other_rate = np.outer(pairs.features[:, n_features], pairs.features[:, n_features])
    single = len(pairs) == n and bool((pairs.row == np.arange(n)).all())

    def aggregate(k: FloatArray) -> FloatArray:
        return k if single else _sum_rows(_sum_rows(k, pairs.row, n).T, pairs.row, n)

    fixed = [aggregate(k) for k in (np.ones_like(own), rate, other_rate, own, other)]
    both = own * other

    def covariance(theta: FloatArray) -> tuple[FloatArray, Slopes]:
        kernel = Kernel(theta, n_features)
        v = kernel.variances()
        lengths, pair_lengths = kernel.lengths, kernel.pair_lengths
        exponent = sum(s / length**2 for s, length in zip(squares, lengths, strict=True))
        smooth = v[3] * np.exp(-0.5 * np.asarray(exponent))
        rough = v[6] * both
        for s, length in zip(places, pair_lengths, strict=True):
            rough = rough * matern_at(np.sqrt(5.0 * s) / length)
        steady = [v[0] * fixed[0], v[1] * fixed[1], v[2] * fixed[2]]
        levels = [v[4] * fixed[3], v[5] * fixed[4]]
        noise_part = v[7] * np.eye(n)
        smooth_rows, rough_rows = aggregate(smooth), aggregate(rough)
        slopes = [*steady, smooth_rows, *levels, rough_rows, noise_part]
        slopes += [aggregate(smooth * s / w**2) for s, w in zip(squares, lengths, strict=True)]
        slopes += [
            aggregate(rough * matern_slope(s, float(w)))
            for s, w in zip(places, pair_lengths, strict=True)
        ]
        k = sum(steady) + sum(levels) + smooth_rows + rough_rows + noise_part + shared
        return np.asarray(k), slopes

    theta = most_likely(covariance, left, noise, prior(n_features, without), rounds=30)
    return Kernel(theta, n_features)


@dataclass(frozen=True)
class Correction:
    """The process given observations, ready to predict.

    ``weights`` is (n_rows,): the inverse covariance times what physics leaves.
    """

    kernel: Kernel
    pairs: Pairs
    weights: FloatArray
    cholesky: FloatArray

    def __len__(self) -> int:
        return len(self.weights)

    def mean(self, a: Pairs, most: FloatArray) -> FloatArray:
        """Sum of the posterior mean of h over each row's pairs, (n_rows,).

        Without the part that the shared error of the latencies alone carries over.

        Args:
            a: the pairs of the rows.
            most: (n_rows,), >= 0; what each neighbour may take back of its row's ln slowdown.
        """
        if len(self) == 0 or len(a) == 0:
            return np.zeros(len(most))
        found = np.maximum(self._of_pairs(a), -most[a.row])
        return np.asarray(np.bincount(a.row, found, len(most)))

    def _of_pairs(self, a: Pairs) -> FloatArray:
        kernel, b = self.kernel, self.pairs
        n, v, beta = kernel.n_features, kernel.variances(), self.weights[b.row]
        found = np.full(len(a), v[0] * beta.sum())
        found += v[1] * a.features[:, 0] * (beta @ b.features[:, 0])
        found += v[2] * a.features[:, n] * (beta @ b.features[:, n])
        n_models = 1 + max(int(a.own.max()), int(a.other.max()), int(b.own.max()))
        found += v[4] * np.bincount(b.own, beta, n_models)[a.own]
        found += v[5] * np.bincount(b.other, beta, n_models)[a.other]
        mix = a.own * n_models + a.other
        for value in np.unique(mix):
            mine = np.flatnonzero(mix == value)
            same = np.flatnonzero(b.own * n_models + b.other == value)
            found[mine] += self._factored(a.take(mine), beta, same)
        return found

    def _factored(self, a: Pairs, beta: FloatArray, same: IntArray) -> FloatArray:
        """Smooth and rough part of pairs of one mix of models.

        Both are products of one factor of the tenant and one of the neighbour, and a plan or a
        file asks for few different ones of each: so every factor is computed once.
        """
        kernel, b = self.kernel, self.pairs
        n, v = kernel.n_features, kernel.variances()
        own, of_own = different(np.concatenate([a.features[:, :n], a.place[:, :2]], axis=1))
        other, of_other = different(np.concatenate([a.features[:, n:], a.place[:, 2:]], axis=1))
        if (len(own) + len(other)) * len(b) > _NUMBERS and len(a) > 1:
            halves = np.array_split(np.arange(len(a)), 2)
            return np.concatenate([self._factored(a.take(half), beta, same) for half in halves])
        lengths, rough = kernel.lengths, kernel.pair_lengths
        left = v[3] * beta * squared_exponential(own[:, :n], b.features[:, :n], lengths[:n])
        right = squared_exponential(other[:, :n], b.features[:, n:], lengths[n:])
        if len(same):
            near = b.place[same]
            more = v[6] * beta[same] * matern(own[:, n:], near[:, :2], rough[:2])
            left = np.concatenate([left, more], axis=1)
            right = np.concatenate([right, matern(other[:, n:], near[:, 2:], rough[2:])], axis=1)
        if len(own) * len(other) <= min(32 * len(a) + 1000, _NUMBERS):
            return np.asarray((left @ right.T)[of_own, of_other])
        found = np.empty(len(a))
        size = max(_NUMBERS // left.shape[1], 1)
        for start in range(0, len(a), size):
            part = slice(start, start + size)
            found[part] = np.einsum("ij,ij->i", left[of_own[part]], right[of_other[part]])
        return found

    @cached_property
    def _root(self) -> FloatArray:
        """Inverse of the covariance's lower triangular factor."""
        return np.asarray(np.linalg.inv(self.cholesky))

    def covered(self, cross: FloatArray) -> FloatArray:
        """Of a covariance (n, n_rows) with the observations: what they explain, as a root.

        The posterior covariance of two sets is their prior one less the product of these.
        """
        return np.asarray(cross @ self._root.T)


_NUMBERS = 10_000_000
"""Of a temporary array, at most about so many."""


def different(table: FloatArray) -> tuple[FloatArray, IntArray]:
    """The different rows of a table, and which of them each row is."""
    bits = np.ascontiguousarray(table, dtype=np.float64).view(np.uint64)
    code = np.zeros(len(table), dtype=np.uint64)
    for column in bits.T:
        code = (code ^ column) * _ODD
        code ^= code >> np.uint64(32)
    # one sort, of hashes: sorting every column takes ten times as long
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    rows = table[first]
    if (rows[which] == table).all():
        return rows, which
    rows, which = np.unique(table, axis=0, return_inverse=True)
    return rows, which.reshape(-1)


_ODD = np.uint64(0x9E3779B97F4A7C15)
"""Knuth's multiplier: 2**64 over the golden ratio."""


def condition(
    kernel: Kernel, pairs: Pairs, left: FloatArray, shared: FloatArray, noise: FloatArray
) -> Correction:
    """The process given what physics leaves, ``left`` (n_rows,); arguments as ``likely_kernel``."""
    n = len(left)
    k = kernel.rows(pairs, pairs, n, n) + shared
    k[np.diag_indices(n)] += noise + kernel.noise + JITTER
    if n == 0:
        return Correction(kernel, pairs, np.zeros(0), k)
    cholesky = np.asarray(np.linalg.cholesky(k), dtype=np.float64)
    weights = np.asarray(np.linalg.solve(k, left), dtype=np.float64)
    return Correction(kernel, pairs, weights, cholesky)


def renumbered(pairs: Pairs, rows: IntArray) -> Pairs:
    """The pairs of some rows (ascending), rows numbered anew."""
    kept = np.flatnonzero(np.isin(pairs.row, rows))
    part = pairs.take(kept)
    return replace(part, row=np.searchsorted(rows, part.row))
