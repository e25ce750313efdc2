"""Robust least squares with non-negative parameters."""

from __future__ import annotations

import numpy as np

from igniter_prof.fitting.points import BoolArray, FloatArray

_ROBUST_FROM = 0.05
"""Residual beyond which a row counts linearly rather than squared."""
_ROUNDS = 8


def fit_non_negative(
    a: FloatArray, y: FloatArray, ridge: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """``argmin |a v - y|`` over v >= 0, large residuals counting linearly (Huber 1964).

    Args:
        a: (n_rows, n_columns).
        y: (n_rows,), in units in which 5% of an error is a large one: relative.
        ridge: (n_columns,), > 0: weight against each parameter, far below 1. What the rows cannot
            tell apart goes to the column with the smallest.

    Returns:
        Values and standard errors, both (n_columns,); an error is NaN where the value is 0 or the
        rows do not determine it.
    """
    weight = np.ones(len(a))
    value = np.zeros(a.shape[1])
    for _ in range(_ROUNDS):
        root = np.sqrt(weight)
        value = non_negative(a * root[:, np.newaxis], y * root, ridge)
        weight = np.minimum(1.0, _ROBUST_FROM / np.maximum(np.abs(a @ value - y), 1e-12))
    root = np.sqrt(weight)
    return value, _standard_errors(a * root[:, np.newaxis], (a @ value - y) * root, value > 0)


def non_negative(a: FloatArray, y: FloatArray, ridge: FloatArray) -> FloatArray:
    """``argmin |a v - y|²`` over v >= 0 (Lawson and Hanson 1974), (n_columns,)."""
    size = np.sqrt((a * a).sum(axis=0))
    size[size == 0] = 1.0
    scaled = a / size
    gram = scaled.T @ scaled + np.diag(ridge)
    right = scaled.T @ y
    value = np.zeros(len(size))
    free = np.zeros(len(size), dtype=bool)
    for _ in range(3 * len(size)):
        gain = np.where(free, -np.inf, right - gram @ value)
        if gain.max() <= 1e-12:
            break
        free[int(gain.argmax())] = True
        while True:
            trial = np.zeros(len(size))
            trial[free] = np.linalg.solve(gram[np.ix_(free, free)], right[free])
            bad = free & (trial <= 0)
            if not bad.any():
                value = trial
                break
            step = float((value[bad] / (value[bad] - trial[bad])).min())
            value = value + step * (trial - value)
            free &= value > 1e-15
    return np.asarray(value / size)


def _standard_errors(a: FloatArray, residual: FloatArray, free: BoolArray) -> FloatArray:
    """Of least squares over the free columns, (n_columns,); NaN where not identifiable."""
    errors = np.full(len(free), np.nan)
    used = a[:, free]
    spare = len(a) - used.shape[1]
    if spare > 0 and used.shape[1] and np.linalg.matrix_rank(used) == used.shape[1]:
        variance = float((residual**2).sum()) / spare
        errors[free] = np.sqrt(variance * np.diag(np.linalg.inv(used.T @ used)))
    return errors
