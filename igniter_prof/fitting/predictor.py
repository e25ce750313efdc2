"""Predictions from coefficients, vectorised over tenants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Annotated

import numpy as np
from pydantic import Field

from igniter_prof.files import parse
from igniter_prof.fitting.latency_models import latency_model
from igniter_prof.fitting.points import (
    FloatArray,
    Points,
    arrange,
    effective_share,
    unknown_model,
)
from igniter_prof.fitting.quick import AnswersQuickly, Configuration, Speed
from igniter_prof.fitting.resources import load_resources
from igniter_prof.fitting.tables import LatencyTable, PointsTable, Tabulated
from igniter_prof.records import Coefficients, Finite, Prediction, Record, Tenant

_OUTSIDE = 0.25
"""How much a factor e beyond what was profiled widens an interval, as a logarithm."""

_NEVER_TOGETHER = 0.05
"""How much a neighbour that a model was never measured beside widens its interval."""

_NEVER_BESIDE_ANY = 0.25
"""The same for a model that was only measured alone: its slowdown is a guess."""


_NO_EDGE = (1e-300, 1e300)

Interval = tuple[Finite, Finite]


class _Intervals(Record, extra="ignore"):
    """Logarithms of measured over predicted that 90% intervals reach."""

    solo: Interval = (-0.5, 0.5)
    colocated: Interval = (-0.5, 0.5)
    strangers: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0


class _Extra(Record, extra="ignore"):
    """``Coefficients.extra`` as the predictor reads it; what is not there has these values."""

    cv: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default={})
    interval: _Intervals = _Intervals()
    measured_together: tuple[tuple[str, str], ...] = ()


class Predictor:
    """A fitted latency model.

    How monotone it is (a larger own share never slower; one more neighbour, or a larger share or
    batch of one, never faster) is its latency model's matter: ``none`` is, and ``igniter`` where
    its coefficients are not below 0; ``igprof`` is in the number of neighbours, else up to parts of
    a percent; ``gpulets`` is not in neighbours. docs/planning.md says what a plan makes of it. The
    interval's width may bend a little more.
    """

    def __init__(self, coefficients: Coefficients) -> None:
        """See ``igniter_prof.fitting.predictor``."""
        model = latency_model(coefficients.model)
        self.coefficients = coefficients
        self.models: tuple[str, ...] = tuple(coefficients.models)
        self._index = {name: i for i, name in enumerate(self.models)}
        self.fitted = model.load(coefficients)
        self._knows_strangers = model.knows_strangers
        self.resources = load_resources(coefficients.extra, self.models)
        extra = parse(coefficients.extra, _Extra, "coefficients, extra")
        self._cv = np.array([extra.cv.get(m, 0.0) for m in self.models])
        self._edges = {
            quantity: np.array(
                [coefficients.region.get(m, {}).get(quantity, _NO_EDGE) for m in self.models]
            ).reshape(-1, 2)
            for quantity in self.points([]).quantities()
        }
        self._cvs: list[float] = self._cv.tolist()
        self._quick = self.fitted.quick if isinstance(self.fitted, AnswersQuickly) else None
        self._solo, self._together = extra.interval.solo, extra.interval.colocated
        self._stranger_factor = extra.interval.strangers
        self._met = np.zeros((len(self.models), len(self.models)), dtype=bool)
        for first, second in extra.measured_together:
            if first in self._index and second in self._index:
                i, j = self._index[first], self._index[second]
                self._met[i, j] = self._met[j, i] = True

    def predict(self, cells: Sequence[Sequence[Tenant]]) -> list[list[Prediction]]:
        """One prediction a tenant, for each cell: the tenants of one device.

        Raises:
            BadInput: a model that the coefficients do not know.
        """
        x = self.points(cells)
        latency = self.fitted.latency_ms(x)
        low, high = self._interval(x)
        throughput = x.batch / (latency - self.fitted.overlapped_ms(x, latency)) * 1000.0
        rows = zip(
            latency.tolist(),
            (latency * np.exp(low)).tolist(),
            (latency * np.exp(high)).tolist(),
            throughput.tolist(),
            self._cv[x.model].tolist(),
            self.resources.rows(x, latency, self.fitted),
            strict=True,
        )
        # the values are ours: constructing without validation is what makes millions possible
        flat = iter(
            Prediction.model_construct(
                latency_ms=value,
                latency_low_ms=least,
                latency_high_ms=most,
                throughput_rps=rate,
                cv=cv,
                **more,
            )
            for value, least, most, rate, cv, more in rows
        )
        return [[next(flat) for _ in cell] for cell in cells]

    def speeds(self, tenants: Sequence[Tenant], *, interval: bool = False) -> list[Speed]:
        """What ``predict`` says of the speed of one cell's tenants, in a fraction of the time.

        With ``interval`` the upper end of the interval, too.

        Raises:
            BadInput: a model that the coefficients do not know.
        """
        own = [self._configuration(tenant) for tenant in tenants]
        x = self.points([tenants]) if interval or self._quick is None else None
        if self._quick is not None:
            latency, overlapped = [], []
            for index, each in enumerate(own):
                beside = own[:index] + own[index + 1 :]
                latency.append(float(self._quick.service_ms(each, beside)[-1]))
                overlapped.append(self._quick.overlapped_ms(each, latency[-1]))
        else:
            assert x is not None
            found = self.fitted.latency_ms(x)
            latency, overlapped = found.tolist(), self.fitted.overlapped_ms(x, found).tolist()
        high: list[float] = []
        if interval and x is not None:
            scale = None
            if self._quick is not None:
                beside_of = (own[:index] + own[index + 1 :] for index in range(len(own)))
                scale = np.array(list(map(self._quick.log_scale, own, beside_of)))
            high = np.exp(self._interval(x, scale)[1]).tolist()
        return [
            Speed(
                latency_ms=value,
                latency_high_ms=value * high[row] if interval else None,
                throughput_rps=each.batch / (value - overlapped[row]) * 1000.0,
                cv=self._cvs[each.model],
            )
            for row, (each, value) in enumerate(zip(own, latency, strict=True))
        ]

    def _configuration(self, tenant: Tenant) -> Configuration:
        model = self._index.get(tenant.model)
        if model is None:
            raise unknown_model(tenant.model, self._index)
        return Configuration(
            model,
            tenant.batch_size,
            effective_share(tenant, self.coefficients.device),
            tenant.input_scale,
            tenant.instances,
        )

    def points(self, cells: Sequence[Sequence[Tenant]]) -> Points:
        """Cells as arrays, for ``fitted``. Raises BadInput: an unknown model."""
        return arrange(cells, self._index, self.coefficients.device)

    def service_ms(self, tenant: Tenant, neighbours: Sequence[Tenant] = ()) -> FloatArray:
        """Mean latency of executed batches of 1, 2, … ``tenant.batch_size``, shape (batch_size,).

        The neighbours are taken to be loaded all the time with their own full batches. Not to be
        written to.
        """
        if self._quick is not None:
            return self._quick.service_ms(
                self._configuration(tenant), [self._configuration(each) for each in neighbours]
            )
        sizes = np.arange(1, tenant.batch_size + 1, dtype=np.float64)
        x = self.points([[tenant, *neighbours]]).repeated(len(sizes))
        own = np.arange(0, len(x), 1 + len(neighbours))
        batch = x.batch.copy()
        batch[own] = sizes
        return np.asarray(self.fitted.latency_ms(replace(x, batch=batch))[own])

    def table(self, tenants: Sequence[Tenant]) -> LatencyTable:
        """Latencies of many cells at once that are made of these tenants.

        Raises:
            BadInput: a model that the coefficients do not know.
        """
        settings = [self._configuration(tenant) for tenant in tenants]
        if isinstance(self.fitted, Tabulated):
            return self.fitted.table(settings)
        return PointsTable(self.fitted, settings)

    def outside(self, tenants: Sequence[Tenant]) -> list[str]:
        """What of a cell lies outside of what was profiled, in words; empty if nothing does."""
        x = self.points([tenants])
        warnings: list[str] = []
        for row, tenant in enumerate(tenants):
            region = self.coefficients.region.get(tenant.model, {})
            for quantity, values in x.quantities().items():
                if quantity not in region:
                    continue
                value = float(values[row])
                low, high = region[quantity]
                if not low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
                    warnings.append(
                        f"{tenant.model}: {quantity} {value:g} was not profiled"
                        f" ({low:g} to {high:g} was)"
                    )
        pairs = dict.fromkeys(combinations(sorted(t.model for t in tenants), 2))
        warnings += [
            f"{first} and {second} were never measured together"
            for first, second in pairs
            if not self._met[self._index[first], self._index[second]]
        ]
        if (total := sum(t.share_pct or 0.0 for t in tenants)) > 100.0 + 1e-6:
            warnings.append(f"the shares add up to {total:g}%, over 100%")
        return warnings

    def outside_of_all(self, cells: Sequence[Sequence[Tenant]]) -> list[str]:
        """The different warnings of ``outside`` over many cells, in the order of their cells."""
        x = self.points(cells)
        suspect = (self._beyond(x) > 1e-9) | (self._strangers(x) > 0)
        numbers = sorted(set(x.cell[suspect].tolist()))
        return list(dict.fromkeys(w for number in numbers for w in self.outside(cells[number])))

    def _interval(
        self, x: Points, scale: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Logarithms of the interval's ends over the prediction, each (n_rows,).

        ``scale``: the latency model's ``log_scale``, where it is already known.
        """
        solo = x.tenants == 1
        strange, wider = np.zeros(len(x)), np.ones(len(x))
        if self._knows_strangers:
            wider = np.where(self._strangers(x) > 0, self._stranger_factor, 1.0)
        else:
            guess = np.where(self._met.any(axis=1), _NEVER_TOGETHER, _NEVER_BESIDE_ANY)
            strange = guess[x.model] * self._strangers(x)
        scale = wider * (self.fitted.log_scale(x) if scale is None else scale)
        low = np.where(solo, self._solo[0], self._together[0]) * scale
        low = low - _OUTSIDE * self._beyond(x) - strange
        # what was measured alone bounds what is said of co-located cells, too
        high = np.where(solo, self._solo[1], max(self._solo[1], self._together[1])) * scale
        high = high + _OUTSIDE * self._beyond(x, only_worse=True) + strange
        return low, high

    def _beyond(self, x: Points, *, only_worse: bool = False) -> FloatArray:
        """How far rows lie outside of what was profiled: the sum of |log(value / edge)|.

        ``only_worse``: without what can only make a tenant faster, a larger share or fewer tenants
        than were profiled: the interval's upper end may not rise with them.
        """
        total = np.zeros(len(x))
        for quantity, values in x.quantities().items():
            low, high = self._edges[quantity][x.model].T
            if not (only_worse and quantity == "tenants"):
                total += np.log(np.maximum(low / values, 1.0))
            if not (only_worse and quantity == "share_pct"):
                total += np.log(np.maximum(values / high, 1.0))
        return total

    def _strangers(self, x: Points) -> FloatArray:
        """How many neighbours each row has that its model was never measured beside."""
        if not len(x):
            return np.zeros(0)
        present = np.zeros((int(x.cell.max()) + 1, len(self.models)))
        np.add.at(present, (x.cell, x.model), 1.0)
        others = present[x.cell]
        others[np.arange(len(x)), x.model] -= 1.0
        return np.asarray((others * ~self._met[x.model]).sum(axis=1))
