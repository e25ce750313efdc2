"""Gaussian processes: covariances, and their parameters by penalised marginal likelihood.

Rasmussen, Williams: Gaussian Processes for Machine Learning (2006), equations 2.23-2.24 (the
posterior), 5.8-5.9 (evidence and its gradient), 4.9 and 4.17 (squared exponential, Matérn 5/2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from igniter_prof.fitting.points import FloatArray

JITTER = 1e-10
_NEVER = 1e12

Slopes = list[FloatArray]
Covariance = Callable[[FloatArray], tuple[FloatArray, Slopes]]
"""From log parameters (p,) to a covariance (n, n) and its derivatives by each of them."""


@dataclass(frozen=True)
class Prior:
    """Normal priors of log parameters, each (p,)."""

    mean: FloatArray
    spread: FloatArray

    @classmethod
    def of(cls, entries: Sequence[tuple[float, float]]) -> Prior:
        """From (typical value of the parameter, standard deviation of its logarithm)."""
        table = np.array(entries, dtype=np.float64).reshape(-1, 2)
        return cls(np.log(table[:, 0]), table[:, 1])


def most_likely(
    covariance: Covariance, y: FloatArray, noise: FloatArray, prior: Prior, rounds: int = 40
) -> FloatArray:
    """Log parameters (p,) of the highest evidence times prior.

    Args:
        covariance: of the observations, a part of the noise included.
        y: (n,) observations with mean zero.
        noise: (n,) variances that are known.
        prior: of the log parameters; its mean is the start.
        rounds: iterations at most (L-BFGS).
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    def cost(theta: FloatArray) -> tuple[float, FloatArray]:
        k, slopes = covariance(theta)
        away = (theta - prior.mean) / prior.spread
        try:
            factor = cho_factor(k + np.diag(noise + JITTER), lower=True)
        except np.linalg.LinAlgError:
            return _NEVER, np.zeros_like(theta)
        inverse = cho_solve(factor, np.eye(len(y)))
        weights = inverse @ y
        value = 0.5 * float(y @ weights) + float(np.log(np.diag(factor[0])).sum())
        inner = inverse - np.outer(weights, weights)
        gradient = np.array([0.5 * float((inner * slope).sum()) for slope in slopes])
        return value + 0.5 * float(away @ away), gradient + away / prior.spread

    if len(y) == 0:
        return prior.mean
    limit = 4.0 * prior.spread
    bounds = list(zip(prior.mean - limit, prior.mean + limit, strict=True))
    found = minimize(
        cost, prior.mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": rounds}
    )
    return np.asarray(found.x)


def distances(a: FloatArray, b: FloatArray) -> list[FloatArray]:
    """Squared distances along each column: of (n, d) and (m, d), d arrays (n, m)."""
    return [(a[:, None, k] - b[None, :, k]) ** 2 for k in range(a.shape[1])]


def squared_exponential(a: FloatArray, b: FloatArray, lengths: FloatArray) -> FloatArray:
    """Covariance (n, m) of variance 1 between (n, d) and (m, d) with length scales (d,)."""
    p, q = a / lengths, b / lengths
    square = (p**2).sum(axis=1)[:, None] + (q**2).sum(axis=1)[None, :] - 2.0 * p @ q.T
    return np.asarray(np.exp(-0.5 * np.maximum(square, 0.0)))


def matern(a: FloatArray, b: FloatArray, lengths: FloatArray) -> FloatArray:
    """Product over columns of Matérn 5/2 covariances of variance 1, as ``squared_exponential``."""
    k = np.ones((len(a), len(b)))
    for column in range(a.shape[1]):
        r = np.sqrt(5.0) / lengths[column] * np.abs(a[:, None, column] - b[None, :, column])
        k *= matern_at(r)
    return k


def matern_at(r: FloatArray) -> FloatArray:
    """Matérn 5/2 of variance 1 at distances that are given in length scales, times sqrt(5)."""
    return np.asarray((1.0 + r + r * r / 3.0) * np.exp(-r))


def matern_slope(square: FloatArray, length: float) -> FloatArray:
    """d ln k / d ln length of one column's Matérn 5/2; ``square``: its squared distances."""
    r = np.sqrt(5.0 * square) / length
    return np.asarray(r**2 * (1.0 + r) / 3.0 / (1.0 + r + r * r / 3.0))
