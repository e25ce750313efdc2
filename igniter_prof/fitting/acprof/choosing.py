"""The choice of a form: cross-validation over configurations, on the training part alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from igniter_prof.errors import BadInput
from igniter_prof.fitting.acprof.forms import AXES, Form, forms_of
from igniter_prof.fitting.acprof.tasks import Task
from igniter_prof.fitting.points import BoolArray, FloatArray, IntArray

FOLDS = 5
OUTLIER = 0.05
"""Relative error from which on a configuration counts less than its square (soft L1)."""
_NO_GAIN = 0.02
"""A form that is not better than a simpler one by that part of its error is not chosen."""
_LEAST_IN_LINE = 4
"""Fewer configurations of a container along an axis all stay in the training part."""


@dataclass(frozen=True)
class Fitted:
    """A form with its parameters (n_parameters,) and their standard errors (NaN: none)."""

    form: Form
    theta: FloatArray
    std_error: FloatArray

    def predict(self, task: Task) -> FloatArray:
        """Costs of a task's configurations, (n,)."""
        return np.asarray(np.exp(self.form.log_cost(self.theta, task.x)))


@dataclass(frozen=True)
class Choice:
    """What cross-validation chose, and the mean absolute log error of every candidate.

    ``log_errors``: (n_tested,) logarithm of measured over predicted, each by a fit that did not
    see its configuration.
    """

    form: Form
    scores: dict[str, float]
    log_errors: FloatArray


def fit_form(form: Form, task: Task) -> Fitted:
    """Least squares on relative errors, robust against outliers; the best of several starts."""
    from scipy.optimize import least_squares

    target = np.log(task.cost)
    low, high = form.bounds()

    def residuals(theta: FloatArray) -> FloatArray:
        return np.asarray(form.log_cost(theta, task.x) - target)

    found = [
        least_squares(
            residuals, start, bounds=(low, high), loss="soft_l1", f_scale=OUTLIER, max_nfev=200
        )
        for start in form.starts(task.x, target)
    ]
    best = min(found, key=lambda one: float(one.cost))
    theta = np.asarray(best.x)
    return Fitted(form, theta, _std_errors(np.asarray(best.jac), residuals(theta)))


def _std_errors(jacobian: FloatArray, residuals: FloatArray) -> FloatArray:
    """Standard errors from the curvature; NaN where the data does not determine a parameter."""
    n, k = jacobian.shape
    if n <= k:
        return np.full(k, np.nan)
    # robust spread: an outlier is no noise of the others
    spread = 1.4826 * float(np.median(np.abs(residuals))) * np.sqrt(n / (n - k))
    _, singular, rows = np.linalg.svd(jacobian, full_matrices=False)
    known = singular > singular.max() * 1e-8
    covariance = (rows[known].T / singular[known] ** 2) @ rows[known]
    error = spread * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    lost = (rows[~known] ** 2).sum(axis=0) > 1e-6
    return np.where(lost | ~np.isfinite(error), np.nan, error)


def choose(task: Task, seed: int) -> Choice:
    """The candidate with the least cross-validated error; of nearly equal ones the simplest.

    Raises:
        BadInput: fewer configurations than a form needs.
    """
    forms = forms_of(task.x, task.axes)
    if not forms:
        raise BadInput(
            f"{task.label}: {len(task)} configurations are too few to fit",
            hint="profile more sizes of container or input",
        )
    folds = _folds(task, seed)
    tested = folds >= 0
    scores: dict[str, float] = {}
    errors: dict[str, FloatArray] = {}
    for form in forms:
        log_error = np.zeros(len(task))
        for number in np.unique(folds[tested]):
            held = folds == number
            train = task.take(~held)
            fitted = fit_form(refitted(form, train), train)
            log_error[held] = np.log(task.cost[held] / fitted.predict(task.take(held)))
        errors[form.name] = log_error[tested]
        scores[form.name] = float(np.mean(np.abs(errors[form.name])))
    least = min(scores.values())
    chosen = next(form for form in forms if scores[form.name] <= least * (1 + _NO_GAIN) + 1e-9)
    return Choice(chosen, scores, errors[chosen.name])


def refitted(form: Form, task: Task) -> Form:
    """The same form with the knots of another set of configurations."""
    again = next((one for one in forms_of(task.x, task.axes) if one.name == form.name), None)
    return again if again is not None else form


def _folds(task: Task, seed: int) -> IntArray:
    """Numbers of folds, (n,), in a seeded order; a row is a configuration with all its repeats.

    The ends of lines are in none (-1), so that no form is judged by how it extrapolates; where
    that leaves too few, every row is in one.
    """
    order = np.random.default_rng(seed).permutation(len(task))
    inner = np.zeros(len(task), dtype=bool)
    for members in _lines(task):
        inner[members[1:-1]] = True
    if inner.sum() < FOLDS:
        inner[:] = True
    folds = np.full(len(task), -1, dtype=np.int64)
    rows = order[inner[order]]
    folds[rows] = np.arange(len(rows)) % min(FOLDS, len(rows))
    return folds


def _lines(task: Task) -> list[IntArray]:
    """A container's configurations along the first axis that varies, in its order, by index."""
    if not task.axes:
        return []
    along = task.axes[0]
    rest = np.stack([np.nan_to_num(task.x[axis]) for axis in AXES if axis != along])
    _, line = np.unique(rest, axis=1, return_inverse=True)
    order = np.argsort(task.x[along], kind="stable")
    return [order[line.ravel()[order] == number] for number in np.unique(line)]


def hold_out(task: Task, fraction: float, seed: int) -> BoolArray:
    """Configurations to hold out, (n,): a part of every container, none at the edge of its line.

    A line is a container's configurations along the first axis that varies (its input sizes, else
    its cores ...). Its ends stay in the training part, so that the error is not one of
    extrapolation, and lines of fewer than four stay whole.
    """
    held = np.zeros(len(task), dtype=bool)
    rng = np.random.default_rng(seed)
    lines = _lines(task)
    owed = 0.0
    for number in rng.permutation(len(lines)):
        members = lines[number]
        if len(members) < _LEAST_IN_LINE:
            continue
        inner = members[1:-1]
        owed += fraction * len(members)
        count = min(round(owed), (len(inner) + 1) // 2)
        owed -= count
        held[rng.choice(inner, count, replace=False)] = True
    return held
