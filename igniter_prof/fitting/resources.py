"""Power, energy and memory beside any latency model: fitted, judged on unseen cells, predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from igniter_prof.errors import BadInput
from igniter_prof.files import parse
from igniter_prof.fitting import accuracy, conformal
from igniter_prof.fitting.holdout import NEVER, point_folds
from igniter_prof.fitting.memory import MemoryDocument, MemoryModel, fit_memory, measured_memory
from igniter_prof.fitting.model import MAKE_AGAIN, Fitted
from igniter_prof.fitting.points import (
    MODEL_ERROR,
    BoolArray,
    FloatArray,
    Observations,
    Points,
)
from igniter_prof.fitting.power import (
    PowerDocument,
    PowerModel,
    fit_power,
    measured_power,
)
from igniter_prof.records import Finite, FitError

_FOLDS = 5
_UNTESTED = 0.1
"""Least half-width of an interval (relative) where no cell could be held out."""
_MJ_PER_J = 1000.0

Interval = tuple[Finite, Finite]

_Model = TypeVar("_Model")


class _PowerExtra(PowerDocument):
    """``Coefficients.extra["power"]``; intervals are logarithms of measured over predicted."""

    interval: Interval
    energy_interval: Interval


@dataclass(frozen=True)
class Resources:
    """What a profile says of power and memory; nothing of what it does not hold."""

    power: PowerModel | None = None
    power_interval: Interval = (-0.5, 0.5)
    energy_interval: Interval = (-0.5, 0.5)
    memory: MemoryModel | None = None

    def extra(self) -> dict[str, Any]:
        """For ``Coefficients.extra``."""
        found: dict[str, Any] = {}
        if self.power is not None:
            document = _PowerExtra(
                **dict(self.power.document()),
                interval=self.power_interval,
                energy_interval=self.energy_interval,
            )
            found["power"] = document.model_dump(mode="json")
        if self.memory is not None:
            found["memory"] = self.memory.document().model_dump(mode="json")
        return found

    def predict(self, x: Points, latency_ms: FloatArray, fitted: Fitted) -> dict[str, FloatArray]:
        """Fields of ``Prediction`` besides the latency, each (n_rows,), NaN where unknown.

        Args:
            x: the tenants.
            latency_ms: (n_rows,), predicted for them.
            fitted: the latency model.
        """
        found: dict[str, FloatArray] = {}
        if self.power is not None and len(x):
            alone_ms = self.power.full_clock_ms(x, fitted.latency_ms(x.alone()))
            demand = self.power.demand_w(x, alone_ms)
            power = self.power.power_w(x, alone_ms)
            low, high = (power * np.exp(end) for end in self.power_interval)
            found |= {
                "power_w": power,
                "power_low_w": low,
                "power_high_w": np.minimum(high, self.power.limit_w),
                "clock_mhz": np.where(np.isnan(power), np.nan, self.power.clock_mhz(demand)),
            }
            energy = self.power.parts_w(x, alone_ms) * latency_ms / x.batch / _MJ_PER_J
            found["energy_j"] = energy
            found["energy_low_j"], found["energy_high_j"] = (
                energy * np.exp(end) for end in self.energy_interval
            )
        if self.memory is not None:
            found["memory_mib"] = self.memory.tenant_mib(x)
        return found

    def rows(self, x: Points, latency_ms: FloatArray, fitted: Fitted) -> list[dict[str, Any]]:
        """``predict`` as one mapping a row, None where a value is not known."""
        columns = {
            name: [None if unknown else value for value, unknown in zip(*pair, strict=True)]
            for name, values in self.predict(x, latency_ms, fitted).items()
            for pair in [(values.tolist(), np.isnan(values).tolist())]
        }
        if not columns:
            return [{}] * len(x)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class FittedResources:
    """Fitted to all cells; the errors are of cells that a fit had not seen, by what is predicted.

    The names are those of ``FitReport``: power, energy, memory.
    """

    resources: Resources
    errors: dict[str, FitError] = field(default_factory=dict)


def fit_resources(
    data: Observations, fitted: Fitted, unseen_ms: FloatArray, seed: int
) -> FittedResources:
    """Fit power and memory to a profile.

    Args:
        data: observations.
        fitted: the latency model, fitted to them.
        unseen_ms: (n_rows,), latencies predicted by fits that had not seen the row; NaN where
            there was none.
        seed: of the folds of cross-validation.
    """
    power, memory = fit_power(data), fit_memory(data)
    resources = Resources(power=power, memory=memory)
    errors: dict[str, FitError] = {}
    if power is not None:
        measured = measured_power(data)
        alone_ms = fitted.latency_ms(data.points.alone())

        def predicted_w(model: PowerModel, x: Points, rows: BoolArray) -> FloatArray:
            return model.power_w(x, model.full_clock_ms(x, alone_ms[rows]))

        unseen = _unseen(data, measured, seed, fit_power, predicted_w)
        energy = unseen * unseen_ms
        everywhere = np.ones(len(data), dtype=bool)
        seen = predicted_w(power, data.points, everywhere)
        resources = Resources(
            power=power,
            power_interval=_interval(measured, unseen, seen, _first_rows(data)),
            energy_interval=_interval(
                measured * data.latency_ms,
                energy,
                seen * fitted.latency_ms(data.points),
                everywhere,
            ),
            memory=memory,
        )
        errors["power"] = _error(data, measured, unseen, _first_rows(data))
        errors["energy"] = _error(data, measured * data.latency_ms, energy, everywhere)
    if memory is not None:
        source, measured = measured_memory(data)

        def predicted_mib(model: MemoryModel, x: Points, _: BoolArray) -> FloatArray:
            return model.measured_mib(x)

        unseen = _unseen(data, measured, seed, fit_memory, predicted_mib)
        rows = _first_rows(data) if source == "device" else np.ones(len(data), dtype=bool)
        errors["memory"] = _error(data, measured, unseen, rows)
    return FittedResources(resources, {k: e for k, e in errors.items() if e.cells})


def load_resources(extra: Mapping[str, Any], models: Sequence[str]) -> Resources:
    """What ``Resources.extra`` gave, for models in the order of the rows' indices.

    Raises:
        BadInput: a value is missing, negative, or of the wrong type.
    """
    power = memory = None
    interval = energy_interval = (-0.5, 0.5)
    if (found := extra.get("power")) is not None:
        kept = parse(found, _PowerExtra, "coefficients, extra.power")
        interval, energy_interval = kept.interval, kept.energy_interval
        if not all(low <= 0.0 <= high for low, high in (interval, energy_interval)):
            raise BadInput("extra.power: an interval does not hold 0", hint=MAKE_AGAIN)
        power = kept.load(models)
    if (found := extra.get("memory")) is not None:
        memory = parse(found, MemoryDocument, "coefficients, extra.memory").load(models)
    return Resources(power, interval, energy_interval, memory)


def _unseen(
    data: Observations,
    measured: FloatArray,
    seed: int,
    fit: Callable[[Observations], _Model | None],
    predict: Callable[[_Model, Points, BoolArray], FloatArray],
) -> FloatArray:
    """Predictions of rows by fits that had not seen their point, (n_rows,); NaN where none did.

    The folds are of the points that were measured, NaN where not: another point with the same batch
    or share, but without a power, would not keep it from being extrapolated.
    """
    result = np.full(len(data), np.nan)
    folds = np.full(len(data), NEVER)
    # whole cells: a device's memory is read for all rows of a cell, a container's perhaps not
    known = np.isin(data.points.cell, np.unique(data.points.cell[np.isfinite(measured)]))
    folds[known] = point_folds(data.take(known), _FOLDS, seed)
    for fold in np.unique(folds[folds != NEVER]):
        test = folds == fold
        model = fit(data.take(~test))
        if model is not None:
            result[test] = predict(model, data.points.take(np.flatnonzero(test)), test)
    return result


def _first_rows(data: Observations) -> BoolArray:
    """One row of each cell, (n_rows,): what is the same in all rows of a cell counts once."""
    first = np.zeros(len(data), dtype=bool)
    first[np.unique(data.points.cell, return_index=True)[1]] = True
    return first


def _error(
    data: Observations, measured: FloatArray, unseen: FloatArray, rows: BoolArray
) -> FitError:
    known = rows & np.isfinite(measured) & np.isfinite(unseen)
    cells = len(np.unique(data.points.cell[known]))
    return accuracy.relative_error(measured[known], unseen[known], cells)


def _interval(
    measured: FloatArray, unseen: FloatArray, seen: FloatArray, rows: BoolArray
) -> Interval:
    """90% interval of ln(measured / predicted), of unseen rows, else of those fitted to."""
    for predicted, least in ((unseen, MODEL_ERROR), (seen, _UNTESTED)):
        known = rows & np.isfinite(measured) & (predicted > 0)
        if known.any():
            return conformal.interval(np.log(measured[known] / predicted[known]), least)
    return -0.5, 0.5
