"""Latency alone: the equations, and for each model a Gaussian process over what they leave.

ln t = ln t_equations(b, r, s, m) + g(b, r, s, m) + e, with g smooth in the logarithms and e of each
point for itself: frameworks choose another algorithm for another batch size, and no smooth function
follows that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from igniter_prof.fitting.interference.gaussian import (
    JITTER,
    Covariance,
    Prior,
    Slopes,
    distances,
    most_likely,
    squared_exponential,
)
from igniter_prof.fitting.physics.model import PhysicsFitted
from igniter_prof.fitting.points import FloatArray, IntArray, Points

_PRIORS = {
    "smooth": (0.02**2, 1.0),
    "batch": (1.0, 0.7),
    "share": (0.7, 0.7),
    "scale": (0.7, 0.7),
    "instances": (1.0, 0.7),
    "point": (0.01**2, 1.5),
    "noise": (0.003**2, 1.5),
}
"""Typical value, and spread of the logarithm: variances of ln latency, length scales of ln."""

_SURE_OF_NOISE = 0.2
"""Spread of the logarithm of a noise that is known."""

NAMES = tuple(_PRIORS)
_COORDINATES = slice(1, 5)
_SMOOTH, _POINT, _NOISE = 0, 5, 6
_SHARE = 1
_CHUNK = 10_000


def coordinates(x: Points) -> FloatArray:
    """Where rows lie, (n_rows, 4): ln of batch, share, scale, instances."""
    return np.log(np.stack([x.batch, x.share, x.scale, x.instances], axis=1))


@dataclass(frozen=True)
class AloneProcess:
    """The Gaussian process of one model, given its cells alone."""

    at: FloatArray
    """(n, 4) coordinates of the observations."""
    theta: FloatArray
    """Log parameters, in the order of ``NAMES``."""
    weights: FloatArray
    """(n,) inverse covariance times what the equations leave."""
    inverse: FloatArray
    """(n, n)."""

    def covariance(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Prior covariance (n, m) of what is added to the equations."""
        return _covariance(self.theta, a, b)

    def mean(self, a: FloatArray) -> FloatArray:
        """Posterior mean, (n,)."""
        return np.asarray(self.covariance(a, self.at) @ self.weights)

    def posterior(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Posterior covariance (n, m)."""
        to_a, to_b = self.covariance(a, self.at), self.covariance(b, self.at)
        return np.asarray(self.covariance(a, b) - to_a @ self.inverse @ to_b.T)

    def variance(self, a: FloatArray) -> FloatArray:
        """Posterior variance, (n,)."""
        to_a = self.covariance(a, self.at)
        prior = np.exp(self.theta[_SMOOTH]) + np.exp(self.theta[_POINT])
        left = prior - ((to_a @ self.inverse) * to_a).sum(axis=1)
        return np.asarray(np.maximum(left, 0.0))

    @property
    def noise(self) -> float:
        """Variance of ln of a measured mean."""
        return float(np.exp(self.theta[_NOISE]))


def _covariance(theta: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    k = np.exp(theta[_SMOOTH]) * squared_exponential(a, b, np.exp(theta[_COORDINATES]))
    # most points have no like in the other set: looked up, not compared one with one
    place: dict[tuple[float, ...], list[int]] = {}
    for column, row in enumerate(np.round(b, 9).tolist()):
        place.setdefault(tuple(row), []).append(column)
    for number, row in enumerate(np.round(a, 9).tolist()):
        like = place.get(tuple(row))
        if like is not None:
            k[number, like] += np.exp(theta[_POINT])
    return np.asarray(k)


def fit_process(
    at: FloatArray,
    left: FloatArray,
    noise: FloatArray,
    theta: FloatArray | None,
    mean_noise: float | None = None,
) -> AloneProcess:
    """Fit one model.

    Args:
        at: (n, 4) coordinates of its cells alone.
        left: (n,) ln of measured over equations.
        noise: (n,) known variances of ``left``.
        theta: log parameters; None: the most likely ones.
        mean_noise: variance of ln of a measured mean, where it is known otherwise.
    """
    if theta is None:
        priors = dict(_PRIORS)
        if mean_noise is not None:
            priors["noise"] = (mean_noise, _SURE_OF_NOISE)
        theta = most_likely(_evidence(at), left, noise, Prior.of(list(priors.values())))
    k = _covariance(theta, at, at) + np.diag(noise + np.exp(theta[_NOISE]) + JITTER)
    np.linalg.cholesky(k)  # raises LinAlgError for what is no covariance
    inverse = np.asarray(np.linalg.inv(k), dtype=np.float64)
    return AloneProcess(at, theta, inverse @ left, inverse)


def _evidence(at: FloatArray) -> Covariance:
    squares = distances(at, at)
    same = (np.sum(squares, axis=0) < 1e-18).astype(np.float64)
    one = np.eye(len(at))

    def covariance(theta: FloatArray) -> tuple[FloatArray, Slopes]:
        lengths = np.exp(theta[_COORDINATES])
        exponent = sum(s / length**2 for s, length in zip(squares, lengths, strict=True))
        smooth = np.exp(theta[_SMOOTH]) * np.exp(-0.5 * exponent)
        point, noise = np.exp(theta[_POINT]) * same, np.exp(theta[_NOISE]) * one
        slopes = [
            smooth,
            *(smooth * s / length**2 for s, length in zip(squares, lengths, strict=True)),
            point,
            noise,
        ]
        return smooth + point + noise, slopes

    return covariance


Place = tuple[float, ...]
"""ln of batch, scale and instances."""


def _rest(at: FloatArray) -> tuple[list[Place], IntArray]:
    """The different coordinates but for the share, rounded, and which of them each row has."""
    others, which = np.unique(np.round(at[:, [0, 2, 3]], 9), axis=0, return_inverse=True)
    return [tuple(place) for place in others.tolist()], np.ravel(which)


def _between(
    share: FloatArray, found: FloatArray, shares: FloatArray, level: FloatArray
) -> FloatArray:
    """``found`` (n,) held between the levels of the nearest measured shares on either side."""
    above = np.searchsorted(shares, share - 1e-9, side="left")
    below = np.searchsorted(shares, share + 1e-9, side="right") - 1
    low = np.where(above < len(shares), level[np.minimum(above, len(shares) - 1)], -np.inf)
    high = np.where(below >= 0, level[np.maximum(below, 0)], np.inf)
    return np.asarray(np.maximum(np.minimum(found, high), low))


def _points(model: int, at: FloatArray) -> Points:
    values = np.exp(at)
    n = len(at)
    return Points(
        model=np.full(n, model),
        batch=values[:, 0],
        share=values[:, 1],
        scale=values[:, 2],
        instances=values[:, 3],
        cell=np.arange(n),
        tenants=np.ones(n),
    )


@dataclass(frozen=True)
class Alone:
    """What is known of the models alone."""

    physics: PhysicsFitted
    processes: tuple[AloneProcess | None, ...]
    """One a model; None: the equations only."""

    def log_ms(self, x: Points) -> FloatArray:
        """ln of the latency alone, ms, (n_rows,).

        A smooth curve need not pass between points that do not lie on it, so shares between
        measured ones are held between what these take: more share is never slower.
        """
        found = self._smooth_log_ms(x)
        at = coordinates(x)
        for model, steps in enumerate(self._steps):
            mine = np.flatnonzero(x.model == model)
            key, which = _rest(at[mine])
            for number, place in enumerate(key):
                known = steps.get(place)
                if known is not None:
                    rows = mine[which == number]
                    found[rows] = _between(at[rows, _SHARE], found[rows], *known)
        return found

    def _smooth_log_ms(self, x: Points) -> FloatArray:
        return np.asarray(np.log(self.physics.latency_ms(x)) + self.correction(x))

    @cached_property
    def _steps(self) -> list[dict[Place, tuple[FloatArray, FloatArray]]]:
        """Of each model: for its batch sizes, scales, instances the shares alone and ln ms there.

        Shares (ln) ascend; latencies never do: where measured ones did, by noise, they are levelled
        from the right.
        """
        tables: list[dict[Place, tuple[FloatArray, FloatArray]]] = []
        for model, process in enumerate(self.processes):
            table: dict[Place, tuple[FloatArray, FloatArray]] = {}
            if process is not None:
                at = np.unique(process.at, axis=0)
                level = self._smooth_log_ms(_points(model, at))
                key, which = _rest(at)
                for number, place in enumerate(key):
                    rows = np.flatnonzero(which == number)
                    rows = rows[np.argsort(at[rows, _SHARE])]
                    falling = np.maximum.accumulate(level[rows][::-1])[::-1]
                    table[place] = (at[rows, _SHARE], falling)
            tables.append(table)
        return tables

    def correction(self, x: Points) -> FloatArray:
        """What the processes add to ln of the equations, (n_rows,)."""
        return self._of_models(x, lambda process, at: process.mean(at))

    def variance(self, x: Points) -> FloatArray:
        """Posterior variance of ``log_ms``, (n_rows,)."""
        return self._of_models(x, lambda process, at: process.variance(at))

    def covariance(self, x: Points, y: Points) -> FloatArray:
        """Posterior covariance of ``log_ms``, (n_rows of x, n_rows of y)."""
        found = np.zeros((len(x), len(y)))
        at_x, at_y = coordinates(x), coordinates(y)
        for model, process in enumerate(self.processes):
            mine, theirs = np.flatnonzero(x.model == model), np.flatnonzero(y.model == model)
            if process is not None and len(mine) and len(theirs):
                found[np.ix_(mine, theirs)] = process.posterior(at_x[mine], at_y[theirs])
        return found

    def carried(self, x: Points, others: Points, weights: FloatArray) -> FloatArray:
        """``covariance(x, others) @ weights``, (n_rows of x,), without that matrix."""
        found = np.zeros(len(x))
        at_x, at_others = coordinates(x), coordinates(others)
        for model, process in enumerate(self.processes):
            mine, theirs = np.flatnonzero(x.model == model), others.model == model
            if process is None or not len(mine) or not theirs.any():
                continue
            places, which = np.unique(at_others[theirs], axis=0, return_inverse=True)
            total = np.bincount(np.ravel(which), weights[theirs], len(places))
            known = process.inverse @ (process.covariance(process.at, places) @ total)
            for start in range(0, len(mine), _CHUNK):
                rows = mine[start : start + _CHUNK]
                found[rows] = process.covariance(at_x[rows], places) @ total
                found[rows] -= process.covariance(at_x[rows], process.at) @ known
        return found

    def noise(self, model: IntArray) -> FloatArray:
        """Variance of ln of a measured mean of each model number, (n,)."""
        values = np.array([1e-5 if p is None else p.noise for p in self.processes])
        return np.asarray(values[model])

    def _of_models(
        self, x: Points, value: Callable[[AloneProcess, FloatArray], FloatArray]
    ) -> FloatArray:
        found = np.zeros(len(x))
        at = coordinates(x)
        for model, process in enumerate(self.processes):
            mine = x.model == model
            if process is not None and mine.any():
                found[mine] = value(process, at[mine])
        return found
