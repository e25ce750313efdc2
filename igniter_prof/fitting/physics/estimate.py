"""Least squares: from observations to parameters with standard errors.

In stages, because the first has a start that needs no guess: alone, with k4 and the scale exponent
given, latency is linear in the other terms (variable projection over a grid); then interference;
then all together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from igniter_prof.errors import BadInput
from igniter_prof.fitting.physics import equations
from igniter_prof.fitting.physics.equations import PER_MODEL, SHARED, Terms
from igniter_prof.fitting.physics.form import PRIORS, Form, full_form, solo_form
from igniter_prof.fitting.points import MODEL_ERROR, FloatArray, Observations
from igniter_prof.records import Parameter

ROBUST_FROM = 0.1
"""Relative error beyond which a residual counts linearly rather than squared."""

_NO_INTERFERENCE = (
    "no co-located cells: interference is unknown and predicted as none;"
    " profile some pairs (--colocate pairs)"
)
_K4_GRID = (0.0, 0.03, 0.1, 0.3, 1.0)
_SCALE_GRID = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
_STARTS = 3


@dataclass(frozen=True)
class Estimate:
    """Fitted parameters: values for the equations, the same as records, and notes."""

    terms: Terms
    shared: dict[str, Parameter]
    models: dict[str, dict[str, Parameter]]
    notes: tuple[str, ...]


def estimate(data: Observations, *, interference: bool, seed: int) -> Estimate:
    """Fit the equations to observations.

    Args:
        data: observations; each model needs at least one cell alone.
        interference: fit co-located cells too; without it they are ignored.
        seed: of the optimiser's further starts.

    Raises:
        BadInput: a model was never measured alone.
    """
    alone = data.points.tenants == 1
    for index, model in enumerate(data.models):
        if not (alone & (data.points.model == index)).any():
            raise BadInput(
                f"the model '{model}' was never measured alone, so it cannot be fitted",
                hint=f"profile it alone: igprof profile --models {model} --batch-sizes 1,2,4"
                " --shares 25,50,100 --colocate none --out DIR; or import its cells alone too",
            )
    solo_data = data.take(alone)
    solo = solo_form(solo_data)
    terms = _solve(solo, solo_data, [solo.theta(_solo_start(solo_data, solo))])[0]
    if not interference:
        return _as_estimate(solo, solo_data, terms, ())
    # a co-located cell shows a tenant's own shares and batches too
    solo = solo_form(data)
    form = full_form(data, solo)
    if form.free == solo.free:
        return _as_estimate(form, data, terms, (_NO_INTERFERENCE,))
    terms, _ = _solve(form, data, _starts(form, data, terms, seed))
    terms, notes = _pool_alpha(data, terms)
    return _as_estimate(form, data, terms, notes)


def _solo_start(data: Observations, form: Form) -> Terms:
    """Starting values alone: non-negative least squares over a grid of k4 and exponents."""
    from scipy.optimize import nnls

    terms = {name: np.full(form.n_models, value) for name, value in PER_MODEL.items()}
    terms |= {name: np.array([value]) for name, value in SHARED.items()}
    for model in range(form.n_models):
        rows = np.flatnonzero(data.points.model == model)
        x = data.points
        b, r, s = x.batch[rows], x.share[rows], x.scale[rows]
        weight = data.weight[rows] / data.latency_ms[rows]
        names = form.of_model(model)
        linear = [n for n in ("k1_ms", "k2_ms", "k3_ms", "k5_ms", "transfer_ms") if n in names]
        best = np.inf
        for k4, e in product(
            _K4_GRID if "k4" in names else (0.0,),
            _SCALE_GRID if "scale_exponent" in names else (PER_MODEL["scale_exponent"],),
        ):
            columns = {
                "k1_ms": b**2 * s**e / (r + k4),
                "k2_ms": b * s**e / (r + k4),
                "k3_ms": s**e / (r + k4),
                "k5_ms": np.ones_like(b),
                "transfer_ms": b * s**e,
            }
            matrix = np.stack([columns[name] for name in linear], axis=1) * weight[:, None]
            # columns of one size: nnls decides by absolute tolerances
            size = np.linalg.norm(matrix, axis=0)
            solution, cost = nnls(matrix / size, data.latency_ms[rows] * weight)
            if cost < best:
                best = cost
                terms["k4"][model] = k4
                terms["scale_exponent"][model] = e
                for name, value in zip(linear, solution / size, strict=True):
                    terms[name][model] = value
    return terms


def _starts(form: Form, data: Observations, terms: Terms, seed: int) -> list[FloatArray]:
    """Starting vectors: from the solo terms and each model's mean slowdown, then scattered."""
    rng = np.random.default_rng(seed)
    x = data.points
    start = {name: np.array(value) for name, value in terms.items()}
    others = x.over_neighbours(equations.pressure(start, x.model, x.batch, x.share))
    alone = equations.active(start, x)
    slowdown = (data.latency_ms - equations.transfer(start, x)) / alone - 1.0
    for model in range(form.n_models):
        rows = (x.model == model) & (others > 0)
        if rows.any():
            typical = float(np.median(slowdown[rows] / others[rows]))
            start["alpha_cache"][model] = max(typical, 1e-3)
    first = form.theta(start)
    low, high = form.bounds()
    moved = np.array([free.term in ("alpha_cache", *PRIORS) for free in form.free])
    starts = [first]
    for _ in range(_STARTS - 1):
        scattered = first.copy()
        noise = rng.normal(0.0, 0.5, len(first))
        for i in np.flatnonzero(moved):
            if form.free[i].term == "alpha_cache":
                scattered[i] = first[i] * np.exp(noise[i])
            else:
                scattered[i] = first[i] + noise[i]
        starts.append(np.clip(scattered, low, high))
    return starts


def _solve(form: Form, data: Observations, starts: list[FloatArray]) -> tuple[Terms, float]:
    from scipy.optimize import least_squares

    best = None
    for start in starts:
        result = least_squares(
            _residuals,
            start,
            bounds=form.bounds(),
            args=(form, data),
            x_scale=np.maximum(np.abs(start), 0.05),
            loss="soft_l1",
            f_scale=ROBUST_FROM,
            xtol=1e-10,
            ftol=1e-10,
            max_nfev=200,
        )
        if best is None or result.cost < best.cost:
            best = result
    assert best is not None
    return form.terms(best.x), float(best.cost)


def _residuals(theta: FloatArray, form: Form, data: Observations) -> FloatArray:
    """Weighted logarithms of predicted over measured (n_rows,), then one row a prior."""
    terms = form.terms(theta)
    predicted = equations.cell_latency(terms, data.points)
    errors = data.weight * np.log(np.maximum(predicted, 1e-9) / data.latency_ms)
    return np.concatenate([errors, _prior_residuals(theta, form)])


def _prior_residuals(theta: FloatArray, form: Form) -> FloatArray:
    return np.array(
        [
            MODEL_ERROR * (value - PRIORS[free.term][0]) / PRIORS[free.term][1]
            for value, free in zip(theta, form.free, strict=True)
            if free.term in PRIORS
        ]
    )


def _pool_alpha(data: Observations, terms: Terms) -> tuple[Terms, tuple[str, ...]]:
    """Give models that were measured only alone the mean sensitivity of the others."""
    x = data.points
    seen = np.array([((x.model == m) & (x.tenants > 1)).any() for m in range(len(data.models))])
    if seen.all():
        return terms, ()
    pooled = {name: np.array(value) for name, value in terms.items()}
    pooled["alpha_cache"][~seen] = float(pooled["alpha_cache"][seen].mean())
    names = ", ".join(model for model, known in zip(data.models, seen, strict=True) if not known)
    return pooled, (f"measured only alone, so given the mean interference of the others: {names}",)


def _as_estimate(form: Form, data: Observations, terms: Terms, notes: tuple[str, ...]) -> Estimate:
    errors = _standard_errors(form, data, terms)
    models = {
        name: {
            term: Parameter(value=float(terms[term][index]), std_error=errors.get((term, index)))
            for term in PER_MODEL
        }
        for index, name in enumerate(data.models)
    }
    shared = {
        term: Parameter(value=float(terms[term][0]), std_error=errors.get((term, 0)))
        for term in SHARED
    }
    left_out = [
        f"{name}: the profile does not determine {', '.join(missing)}"
        for index, name in enumerate(data.models)
        if (missing := [t for t in ("k3_ms", "k4", "k5_ms") if t not in form.of_model(index)])
    ]
    return Estimate(terms, shared, models, (*notes, *left_out))


def _standard_errors(
    form: Form, data: Observations, terms: Terms
) -> Mapping[tuple[str, int], float]:
    """Standard errors from the Jacobian; none for what a bound, a prior or nothing holds."""
    theta = form.theta(terms)
    n, p = len(data), len(theta)
    if n <= p or p == 0:
        return {}
    jacobian = _jacobian(theta, form, data)
    residual = _residuals(theta, form, data)[:n]
    # robust: squared up to ROBUST_FROM, as the fit has it
    rho = np.sqrt(1.0 / np.sqrt(1.0 + (residual / ROBUST_FROM) ** 2))
    jacobian[:n] *= rho[:, None]
    variance = float((residual**2 * rho**2).sum() / (n - p))
    low, high = form.bounds()
    inside = (theta > low + 1e-6) & (theta < high - 1e-6)
    size = np.linalg.norm(jacobian, axis=0)
    usable = inside & (size > 0)
    if not usable.any():
        return {}
    scaled = jacobian[:, usable] / size[usable]
    _, singular, vt = np.linalg.svd(scaled, full_matrices=False)
    null = singular < 1e-6 * singular[0]
    covariance = (vt[~null].T / singular[~null] ** 2) @ vt[~null] * variance
    covariance /= np.outer(size[usable], size[usable])
    held = (vt[null] ** 2).sum(axis=0) > 1e-3
    full = np.zeros((p, p))
    full[np.ix_(usable, usable)] = covariance
    held_at = dict(zip(np.flatnonzero(usable).tolist(), held.tolist(), strict=True))

    errors: dict[tuple[str, int], float] = {}
    pressures: list[int] = []
    for i, free in enumerate(form.free):
        if free.term == "log_cache_util":
            pressures.append(i)
            continue
        error = float(np.sqrt(full[i, i]))
        prior = PRIORS.get(free.term)
        if held_at.get(i, True) or (prior is not None and error > 0.7 * prior[1]):
            continue
        errors[free.term, free.at] = error * free.size
    if pressures and not any(held_at.get(i, True) for i in pressures):
        logs = form.basis @ full[np.ix_(pressures, pressures)] @ form.basis.T
        for model in range(form.n_models):
            error = float(np.sqrt(max(logs[model, model], 0.0)))
            if form.basis[model].any() and error < 0.7 * PRIORS["log_cache_util"][1]:
                errors["cache_util", model] = error * float(terms["cache_util"][model])
    return errors


def _jacobian(theta: FloatArray, form: Form, data: Observations) -> FloatArray:
    """Central differences of the residuals, shape (n_rows + n_priors, n_free)."""
    columns = []
    for i in range(len(theta)):
        step = np.zeros_like(theta)
        step[i] = 1e-5 * max(abs(theta[i]), 1e-2)
        ahead, behind = (_residuals(theta + s * step, form, data) for s in (1.0, -1.0))
        columns.append((ahead - behind) / (2.0 * step[i]))
    return np.stack(columns, axis=1)
