"""The latency model ``igniter``: the paper's equations, from whichever profile there is.

Where the data holds iGniter's lightweight profile, every coefficient is taken from it as the
authors take it, so that the answers are theirs. Otherwise the equations are fitted jointly to the
latencies (``physics``). docs/baselines.md holds the equations, symbols, units and sources.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from igniter_prof.errors import BadInput
from igniter_prof.fitting.model import Document, Fitted, require
from igniter_prof.fitting.physics.model import PhysicsModel
from igniter_prof.fitting.points import BoolArray, FloatArray, IntArray, Observations, Points
from igniter_prof.fitting.quick import Configuration
from igniter_prof.fitting.tables import NOBODY, LatencyTable
from igniter_prof.records import (
    Coefficients,
    IgniterHardware,
    IgniterModel,
    IgniterProfile,
    Parameter,
)

_LIGHTWEIGHT = "lightweight"

_BATCHES = (1.0, 16.0, 32.0)
_SHARES_PCT = (10.0, 50.0, 100.0)

_LEAST_DENOMINATOR = 0.001
"""Least value of r + k4: a share below what was measured must not meet the pole of a k4 < 0."""

_LEAST_CLOCK = 0.1
"""Least part of the highest clock that the model predicts: its line would cross zero."""

_LEAST_ACTIVE = 0.01
"""Least active time, as a part of the shortest that was measured of the model."""

_SHARED = (
    "bytes_per_ms",
    "clock_drop_mhz_per_w",
    "idle_power_w",
    "max_clock_mhz",
    "power_limit_w",
    "scheduling_ms_at_0",
    "scheduling_ms_per_tenant",
)
_POSITIVE_SHARED = ("bytes_per_ms", "max_clock_mhz")

_PER_MODEL = (
    "alpha_cache_per_pct",
    "idle_ms",
    "input_bytes",
    "k1_ms",
    "k2_ms",
    "k3_ms",
    "k4",
    "k5_ms",
    "kernels",
    "l2_pct_at_0",
    "l2_pct_per_rate",
    "least_active_ms",
    "output_bytes",
    "power_w_at_0",
    "power_w_per_rate",
)
_POSITIVE_PER_MODEL = ("least_active_ms",)
_NOT_NEGATIVE = ("idle_ms", "input_bytes", "kernels", "output_bytes")

_FROM_PROFILE = (
    "from iGniter's lightweight profile, as its authors fit it; measured cells are not fitted, they"
    " only give the errors and intervals"
)
_FROM_CELLS = (
    "the profile holds no lightweight profile of iGniter's: the equations were fitted to its cells"
)


@dataclass(frozen=True)
class LightweightFitted:
    """iGniter's coefficients; every value of ``terms`` is (n_models,), of ``device`` one number."""

    device: Mapping[str, float]
    terms: Mapping[str, FloatArray]
    shared: Mapping[str, Parameter]
    models: Mapping[str, dict[str, Parameter]]

    def latency_ms(self, x: Points) -> FloatArray:
        """See ``model.Fitted``."""
        return np.asarray(sum(self.explain(x).values(), np.zeros(len(x))))

    def overlapped_ms(self, x: Points, latency_ms: FloatArray) -> FloatArray:
        """See ``model.Fitted``: loading."""
        return np.asarray(
            self.terms["input_bytes"][x.model] * x.batch / self.device["bytes_per_ms"]
        )

    def log_scale(self, x: Points) -> FloatArray:
        """See ``model.Fitted``."""
        return np.ones(len(x))

    def explain(self, x: Points) -> Mapping[str, FloatArray]:
        """See ``model.Fitted``: at the highest clock, then what the lower clock adds."""
        d, m = self.device, x.model
        t = {name: values[m] for name, values in self.terms.items()}
        alone = active(t, x)
        rate = x.batch / alone
        together = x.tenants > 1
        l2_pct = t["l2_pct_per_rate"] * rate + t["l2_pct_at_0"]
        # the authors' sum over the neighbours: a demand below zero counts as it is
        pressure = np.where(together, x.over_cell(l2_pct) - l2_pct, 0.0)
        waiting = d["scheduling_ms_per_tenant"] * x.tenants + d["scheduling_ms_at_0"]
        scheduling = np.where(together, t["kernels"] * waiting, 0.0)
        cache = alone * t["alpha_cache_per_pct"] * pressure
        unbounded = alone + t["idle_ms"] + cache + scheduling
        work = np.maximum(unbounded, t["least_active_ms"])
        clock = self._clock_part(x, t, rate)
        return {
            "transfer": (t["input_bytes"] + t["output_bytes"]) * x.batch / d["bytes_per_ms"],
            "active alone": alone + t["idle_ms"],
            "cache": cache + (work - unbounded),
            "scheduling": scheduling,
            "frequency": work * (1.0 / clock - 1.0),
        }

    def _clock_part(self, x: Points, t: Mapping[str, FloatArray], rate: FloatArray) -> FloatArray:
        """The clock as a part of the highest one, (n_rows,); a tenant alone has it all."""
        d = self.device
        own_w = t["power_w_per_rate"] * rate + t["power_w_at_0"] - d["idle_power_w"]
        over_w = np.maximum(x.over_cell(own_w) + d["idle_power_w"] - d["power_limit_w"], 0.0)
        part = 1.0 - d["clock_drop_mhz_per_w"] * over_w / d["max_clock_mhz"]
        return np.where(x.tenants > 1, np.maximum(part, _LEAST_CLOCK), 1.0)

    def table(self, settings: Sequence[Configuration]) -> LatencyTable:
        """See ``tables.Tabulated``."""
        return _Table(self, settings)

    def document(self) -> Document:
        """See ``model.Fitted``."""
        return Document(
            dict(self.shared), dict(self.models), {"profile": _LIGHTWEIGHT}, (_FROM_PROFILE,)
        )


class _Cells(NamedTuple):
    """Cells as ``_Table`` asks of them: L2 use and power of each place (m, k, 2), and their sum."""

    pressure: FloatArray
    total: FloatArray
    there: BoolArray
    tenants: IntArray


class _Table:
    """See ``tables.LatencyTable``: neighbours are their sums of L2 use and power (section III)."""

    def __init__(self, fitted: LightweightFitted, settings: Sequence[Configuration]) -> None:
        self._device = fitted.device
        n = len(settings)
        ones = np.ones(n)
        self._points = x = Points(
            model=np.array([each.model for each in settings], dtype=np.int64),
            batch=np.array([float(each.batch) for each in settings]),
            share=np.array([each.share for each in settings]),
            scale=ones,
            instances=ones,
            cell=np.arange(n),
            tenants=ones,
        )
        self._fitted = fitted
        self._terms = t = {name: values[x.model] for name, values in fitted.terms.items()}
        self._active = active(t, x)
        rate = x.batch / self._active
        l2_pct = t["l2_pct_per_rate"] * rate + t["l2_pct_at_0"]
        power_w = t["power_w_per_rate"] * rate + t["power_w_at_0"] - self._device["idle_power_w"]
        self._transfer = (
            (t["input_bytes"] + t["output_bytes"]) * x.batch / self._device["bytes_per_ms"]
        )
        self._pressure = np.stack([l2_pct, power_w], axis=1)
        self.alone_ms = fitted.latency_ms(x)

    def overlapped_ms(self, latency_ms: FloatArray) -> FloatArray:
        """See ``tables.LatencyTable``."""
        return self._fitted.overlapped_ms(self._points, latency_ms)

    def lightest(self, members: IntArray) -> IntArray:
        """See ``tables.LatencyTable``: the least of each pressure."""
        there = (members >= 0)[:, :, None]
        least = np.where(there, self._pressure[members], np.inf).min(axis=1)
        first = len(self._pressure)
        self._pressure = np.concatenate([self._pressure, least])
        return np.where(there.any(axis=(1, 2)), first + np.arange(len(members)), NOBODY)

    def prepare(self, cells: IntArray) -> _Cells:
        """See ``tables.LatencyTable``."""
        there = cells >= 0
        pressure = np.where(there[:, :, None], self._pressure[cells], 0.0)
        return _Cells(pressure, pressure.sum(axis=1), there, there.sum(axis=1))

    def latency_ms(
        self, prepared: _Cells, row: IntArray, place: IntArray, own: IntArray
    ) -> FloatArray:
        """See ``tables.LatencyTable``."""
        d, t = self._device, self._terms
        others = prepared.total[row] - prepared.pressure[row, place]
        neighbours = prepared.tenants[row] - prepared.there[row, place]
        together = neighbours > 0
        alone = self._active[own]
        waiting = d["scheduling_ms_per_tenant"] * (neighbours + 1) + d["scheduling_ms_at_0"]
        work = alone * (1.0 + t["alpha_cache_per_pct"][own] * np.where(together, others[:, 0], 0.0))
        work += t["idle_ms"][own] + np.where(together, t["kernels"][own] * waiting, 0.0)
        work = np.maximum(work, t["least_active_ms"][own])
        power_w = others[:, 1] + self._pressure[own, 1] + d["idle_power_w"]
        over_w = np.maximum(power_w - d["power_limit_w"], 0.0)
        part = 1.0 - d["clock_drop_mhz_per_w"] * over_w / d["max_clock_mhz"]
        clock = np.where(together, np.maximum(part, _LEAST_CLOCK), 1.0)
        return np.asarray(self._transfer[own] + work / clock)


@dataclass(frozen=True)
class IgniterLatency:
    """The paper's equations: from the lightweight profile, or fitted to measured cells."""

    name: str = "igniter"
    knows_strangers: bool = False

    def fit(self, data: Observations, seed: int, start: Fitted | None = None) -> Fitted:
        """See ``model.LatencyModel``."""
        if data.igniter is not None:
            return fit_lightweight(data.igniter, data.models)
        fitted = self._from_cells().fit(data, seed)
        notes = (_FROM_CELLS, *fitted.estimate.notes)
        return replace(fitted, estimate=replace(fitted.estimate, notes=notes))

    def load(self, coefficients: Coefficients) -> Fitted:
        """See ``model.LatencyModel``."""
        extra = coefficients.extra.get("fitted")
        if isinstance(extra, dict) and extra.get("profile") == _LIGHTWEIGHT:
            return _as_fitted(coefficients.shared, coefficients.models)
        return self._from_cells().load(coefficients)

    def _from_cells(self) -> PhysicsModel:
        return PhysicsModel(self.name, interference=True)


def active(terms: Mapping[str, FloatArray], x: Points) -> FloatArray:
    """Active time alone at the highest clock, ms: ``(k1·b² + k2·b + k3)/(r + k4) + k5``, floored.

    ``terms`` by row, each (n_rows,).
    """
    b = x.batch
    work = (terms["k1_ms"] * b + terms["k2_ms"]) * b + terms["k3_ms"]
    share = np.maximum(x.share + terms["k4"], _LEAST_DENOMINATOR)
    return np.asarray(np.maximum(work / share + terms["k5_ms"], terms["least_active_ms"]))


def fit_lightweight(profile: IgniterProfile, models: tuple[str, ...]) -> LightweightFitted:
    """The coefficients of ``models`` as iGniter's authors fit them.

    Raises:
        BadInput: the profile lacks one of the models, or its numbers allow no fit.
    """
    missing = [name for name in models if name not in profile.models]
    if missing:
        raise BadInput(
            f"iGniter's lightweight profile lacks {', '.join(missing)}",
            hint=f"it has {', '.join(sorted(profile.models))}; add the others to"
            " igniter_config.jsonl and import it again, or fit --model igprof, which needs none",
        )
    shared = {name: Parameter(value=value) for name, value in _device(profile.hardware).items()}
    return _as_fitted(
        shared, {name: _model(name, profile.models[name], profile.hardware) for name in models}
    )


def _device(hardware: IgniterHardware) -> dict[str, float]:
    clock = np.array(hardware.clock_mhz[:5])
    gap = np.array(hardware.kernel_idle_ms[:5])
    # the gap before a kernel at the highest clock, over that of one tenant alone
    added = gap[1:] * clock[1:] / hardware.max_clock_mhz - gap[0]
    slope, at_zero = _line(np.arange(2.0, 6.0), added)
    # the fourth and fifth tenant go over the limit: what they would draw is extrapolated
    step = (hardware.power_w[2] - hardware.power_w[0]) / 2.0
    over_w = hardware.power_w[2] + step * np.array([1.0, 2.0]) - hardware.power_limit_w
    drop = hardware.max_clock_mhz - clock[3:5]
    squares = float(over_w @ over_w)
    return {
        "bytes_per_ms": hardware.bytes_per_ms,
        "clock_drop_mhz_per_w": float(over_w @ drop) / squares if squares > 0 else 0.0,
        "idle_power_w": hardware.idle_power_w,
        "max_clock_mhz": hardware.max_clock_mhz,
        "power_limit_w": hardware.power_limit_w,
        "scheduling_ms_at_0": at_zero,
        "scheduling_ms_per_tenant": slope,
    }


def _model(name: str, model: IgniterModel, hardware: IgniterHardware) -> dict[str, Parameter]:
    gpu_ms, clock = np.array(model.gpu_ms), np.array(model.clock_mhz)
    measured_active = gpu_ms - model.idle_1_ms
    if not (measured_active > 0).all():
        raise BadInput(
            f"iGniter's lightweight profile of '{name}': a GPU latency is not above the idle time"
            f" of {model.idle_1_ms:g} ms",
            hint="all of them are ms of one batch; measure the model again",
        )
    rate = np.array(_BATCHES)[:, None] / measured_active
    l2_slope, l2_at_zero = _line(np.diagonal(rate), np.array(model.l2_util_pct))
    full = clock >= hardware.max_clock_mhz
    # fewer than two points at the highest clock are no line
    used = full if np.unique(rate[full]).size > 1 else np.ones_like(full)
    power_slope, power_at_zero = _line(rate[used], np.array(model.power_w)[used])
    longer = model.active_2_ms * model.clock_2_mhz / hardware.max_clock_mhz / model.active_1_ms
    known = {
        "alpha_cache_per_pct": (longer - 1.0) / model.l2_util_1_pct,
        "idle_ms": model.idle_1_ms,
        "input_bytes": model.input_bytes,
        "kernels": float(model.kernels),
        "l2_pct_at_0": l2_at_zero,
        "l2_pct_per_rate": l2_slope,
        "least_active_ms": _LEAST_ACTIVE * float(measured_active.min()),
        "output_bytes": model.output_bytes,
        "power_w_at_0": power_at_zero,
        "power_w_per_rate": power_slope,
    }
    # the authors fit the active time: with the idle time the optimiser stops elsewhere
    at_full_clock = gpu_ms * clock / hardware.max_clock_mhz - model.idle_1_ms
    return {
        **_surface(name, at_full_clock),
        **{key: Parameter(value=value) for key, value in known.items()},
    }


def _surface(name: str, active_ms: FloatArray) -> dict[str, Parameter]:
    """k1 … k5 of ``(k1·b² + k2·b + k3)/(r + k4) + k5`` through a table (3, 3) of active times.

    Plain least squares by Levenberg-Marquardt from ones, with the share in percent as the authors
    have it: where the optimum is flat, where the optimiser stops depends on it.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    def surface(x: FloatArray, k1: float, k2: float, k3: float, k4: float, k5: float) -> FloatArray:
        return np.asarray((k1 * x[0] ** 2 + k2 * x[0] + k3) / (x[1] + k4) + k5)

    batch, share_pct = np.meshgrid(_BATCHES, _SHARES_PCT, indexing="ij")
    with warnings.catch_warnings():
        # no covariance: then there are no standard errors
        warnings.simplefilter("ignore", OptimizeWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            values, covariance = curve_fit(
                surface, np.stack([batch.ravel(), share_pct.ravel()]), active_ms.ravel()
            )
        except RuntimeError as error:
            raise BadInput(
                f"iGniter's lightweight profile of '{name}': no curve goes through its GPU"
                f" latencies ({error})",
                hint="they must fall with the share and rise with the batch; measure them again",
            ) from error
    errors = np.sqrt(np.diagonal(covariance))
    # shares are parts of the device here
    return {
        key: Parameter(
            value=float(value) / scale,
            std_error=float(error) / scale if np.isfinite(error) else None,
        )
        for key, value, error, scale in zip(
            ("k1_ms", "k2_ms", "k3_ms", "k4", "k5_ms"),
            values,
            errors,
            (100.0, 100.0, 100.0, 100.0, 1.0),
            strict=True,
        )
    }


def _line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Slope and value at zero of the least-squares line; level through equal ``x``."""
    if np.ptp(x) == 0:
        return 0.0, float(y.mean())
    slope, at_zero = np.polyfit(x, y, 1)
    return float(slope), float(at_zero)


def _as_fitted(
    shared: Mapping[str, Parameter], models: Mapping[str, dict[str, Parameter]]
) -> LightweightFitted:
    require(shared, _SHARED, "'shared'", not_negative=(), positive=_POSITIVE_SHARED)
    for model, parameters in models.items():
        where = f"the model '{model}'"
        require(
            parameters, _PER_MODEL, where, not_negative=_NOT_NEGATIVE, positive=_POSITIVE_PER_MODEL
        )
    return LightweightFitted(
        {name: shared[name].value for name in _SHARED},
        {name: np.array([m[name].value for m in models.values()]) for name in _PER_MODEL},
        dict(shared),
        dict(models),
    )
