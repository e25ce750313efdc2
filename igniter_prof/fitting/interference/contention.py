"""What a neighbour costs by physics: four coefficients of the device, equal for all models.

With t_tr the time that a batch's bytes take, t_act the rest of its latency alone, n_k its kernels:

    t = [t_act·(1 + a·(n−1)) + t_tr·(1 + τ·(n−1)) + κ·n_k·(n−1)] · f_alone/f

a: contention for caches and memory; τ: for the bus; κ: scheduling delay of a kernel (iGniter, TPDS
2023, equation 6, with one slope for all n); f: the clock under the mix's power (there, equations 9
and 10). Terms whose quantity the profile does not hold are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from igniter_prof.fitting.interference.traits import Traits
from igniter_prof.fitting.model import require
from igniter_prof.fitting.points import BoolArray, FloatArray, Points
from igniter_prof.records import Parameter

TERMS = ("contention", "transfer", "scheduling", "clock")
NAMES = ("contention_per_tenant", "transfer_contention_per_tenant", "kernel_delay_us_per_tenant")

_PRIORS = np.array([[0.05, 0.05], [0.15, 0.15], [6.0, 4.0]])
"""Mean and spread. Those of the bus and of kernels are of the order that the published pairs of
iGniter's V100 show; they count where nothing was measured together."""
_CPU_SPREAD = 5.0
"""Cores are shared more and less than a GPU's units: the priors are that much wider."""
_ERROR = 0.02
"""Typical error of the equations, of which half is a robust fit's scale."""


@dataclass(frozen=True)
class Contention:
    """Fitted coefficients, (3,) in the order of ``NAMES``, and their standard errors."""

    traits: Traits
    values: FloatArray
    errors: FloatArray
    without: frozenset[str] = frozenset()

    def parts(self, x: Points, alone_ms: FloatArray) -> dict[str, FloatArray]:
        """What each term adds to the latency alone, over the latency alone, (n_rows,)."""
        columns = _columns(self.traits, x, alone_ms, self.without)
        parts = {name: columns[:, k] * self.values[k] for k, name in enumerate(TERMS[:3])}
        slower = 1.0 + sum(parts.values())
        parts["clock"] = slower * (np.exp(_log_clock(self.traits, x, alone_ms, self.without)) - 1.0)
        return parts

    def log_slowdown(self, x: Points, alone_ms: FloatArray) -> FloatArray:
        """ln of the latency over that alone, (n_rows,), >= 0."""
        return np.log1p(sum(self.parts(x, alone_ms).values(), np.zeros(len(x))))

    def log_last(self, x: Points, alone_ms: FloatArray) -> FloatArray:
        """What the last of a row's neighbours adds to ``log_slowdown`` but for the clock, >= 0.

        (n_rows,). With one more neighbour it is less.
        """
        total = _columns(self.traits, x, alone_ms, self.without) @ self.values
        before = total * np.maximum(x.tenants - 2.0, 0.0) / np.maximum(x.tenants - 1.0, 1.0)
        return np.asarray(np.log1p(total) - np.log1p(before))

    def document(self) -> Mapping[str, Parameter]:
        """As parameters of the device."""
        return {
            name: Parameter(value=float(value), std_error=float(error))
            for name, value, error in zip(NAMES, self.values, self.errors, strict=True)
        }


def contention_of(
    traits: Traits, shared: Mapping[str, Parameter], without: Collection[str] = ()
) -> Contention:
    """From the parameters of the device. Raises BadInput: one is missing, or below 0."""
    require(shared, NAMES, "'shared'")
    return Contention(
        traits,
        np.array([shared[name].value for name in NAMES]),
        np.array([shared[name].std_error or 0.0 for name in NAMES]),
        frozenset(without),
    )


def fit_contention(
    traits: Traits,
    x: Points,
    alone_ms: FloatArray,
    log_slowdown: FloatArray,
    kernels_only: BoolArray,
    on_cpu: bool,
    without: Collection[str] = (),
) -> Contention:
    """Fit the coefficients to co-located rows; the clock follows from the power, unfitted.

    Args:
        traits: what is known of the models.
        x: whole cells, (n_rows,).
        alone_ms: (n_rows,) latency alone.
        log_slowdown: (n_rows,) ln of measured over alone; NaN: not measured.
        kernels_only: (n_rows,) rows whose slowdown is that of their kernels alone, not of
            transfers and gaps.
        on_cpu: whether the device is one.
        without: terms left out.
    """
    from scipy.optimize import least_squares

    hidden = frozenset(without)
    rows = (x.tenants > 1) & np.isfinite(log_slowdown)
    columns = _columns(traits, x, alone_ms, hidden)
    columns[kernels_only, 1:] = 0.0
    columns[kernels_only, 0] = np.where("contention" in hidden, 0.0, x.tenants[kernels_only] - 1.0)
    target = log_slowdown - _log_clock(traits, x, alone_ms, hidden)
    columns, target = columns[rows], target[rows]
    mean, spread = _PRIORS[:, 0], _PRIORS[:, 1] * (_CPU_SPREAD if on_cpu else 1.0)

    def residuals(values: FloatArray) -> FloatArray:
        return np.asarray((np.log1p(columns @ values) - target) / _ERROR)

    def robust(values: FloatArray) -> FloatArray:
        # soft L1 for the cells, squares for the priors
        z = residuals(values) / 2.0
        soft = 2.0 * z * np.sqrt(2.0 / (1.0 + np.sqrt(1.0 + z**2)))
        return np.concatenate([soft, (values - mean) / spread])

    found = least_squares(robust, mean, bounds=(0.0, np.inf), x_scale=spread)
    covariance = np.linalg.pinv(found.jac.T @ found.jac)
    return Contention(traits, found.x, np.sqrt(np.diag(covariance)), hidden)


def _columns(
    traits: Traits, x: Points, alone_ms: FloatArray, without: frozenset[str]
) -> FloatArray:
    """What the coefficients multiply, (n_rows, 3)."""
    others = x.tenants - 1.0
    bus = traits.transfer_ms(x) / alone_ms
    bus = np.minimum(np.nan_to_num(bus), 0.9)
    kernels = np.nan_to_num(traits.kernel_count(x)) * 1e-3 / alone_ms
    columns = np.stack([(1.0 - bus) * others, bus * others, kernels * others], axis=1)
    for k, name in enumerate(TERMS[:3]):
        if name in without:
            columns[:, k] = 0.0
    return np.asarray(columns)


def _log_clock(
    traits: Traits, x: Points, alone_ms: FloatArray, without: frozenset[str]
) -> FloatArray:
    """ln of the clock alone over that in the mix, (n_rows,), >= 0."""
    power = traits.power
    if power is None or "clock" in without:
        return np.zeros(len(x))
    full_ms = power.full_clock_ms(x, alone_ms)
    mixed = power.clock_ratio(power.demand_w(x, full_ms))
    return np.maximum(np.log(power.clock_ratio(power.demand_w(x.alone(), full_ms)) / mixed), 0.0)
