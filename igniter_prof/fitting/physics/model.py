"""The latency models whose parameters are those of ``equations``: with interference and without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from igniter_prof.errors import BadInput
from igniter_prof.fitting.model import MAKE_AGAIN, Document, Fitted, require
from igniter_prof.fitting.physics import equations
from igniter_prof.fitting.physics.equations import PER_MODEL, SHARED, Terms
from igniter_prof.fitting.physics.estimate import Estimate, estimate
from igniter_prof.fitting.points import FloatArray, Observations, Points
from igniter_prof.records import Coefficients, TenantMeasurement


@dataclass(frozen=True)
class PhysicsFitted:
    """Parameters of the equations, and the part of each model's transfer that overlaps."""

    estimate: Estimate
    load_fraction: FloatArray
    """(n_models,)."""

    @property
    def terms(self) -> Terms:
        """Parameters by name."""
        return self.estimate.terms

    def latency_ms(self, x: Points) -> FloatArray:
        """See ``model.Fitted``."""
        return equations.cell_latency(self.terms, x)

    def overlapped_ms(self, x: Points, latency_ms: FloatArray) -> FloatArray:
        """See ``model.Fitted``."""
        return np.asarray(self.load_fraction[x.model] * equations.transfer(self.terms, x))

    def log_scale(self, x: Points) -> FloatArray:
        """See ``model.Fitted``."""
        return np.ones(len(x))

    def explain(self, x: Points) -> Mapping[str, FloatArray]:
        """See ``model.Fitted``."""
        return equations.explain(self.terms, x)

    def document(self) -> Document:
        """See ``model.Fitted``."""
        return Document(
            self.estimate.shared,
            self.estimate.models,
            {"load_fraction": self.load_fraction.tolist()},
            self.estimate.notes,
        )


@dataclass(frozen=True)
class PhysicsModel:
    """The equations, fitted jointly over cells alone and co-located, or to cells alone."""

    name: str
    interference: bool
    knows_strangers: bool = False

    def fit(self, data: Observations, seed: int, start: Fitted | None = None) -> PhysicsFitted:
        """See ``model.LatencyModel``."""
        return PhysicsFitted(
            estimate(data, interference=self.interference, seed=seed), load_fractions(data)
        )

    def load(self, coefficients: Coefficients) -> PhysicsFitted:
        """See ``model.LatencyModel``."""
        for name, parameters in coefficients.models.items():
            require(parameters, PER_MODEL, f"the model '{name}'")
        require(coefficients.shared, SHARED, "'shared'")
        loads = read_numbers(coefficients, "load_fraction", len(coefficients.models))
        if not ((loads >= 0) & (loads <= 1)).all():
            raise BadInput("extra.fitted.load_fraction is outside of 0-1", hint=MAKE_AGAIN)
        terms = _terms(coefficients)
        kept = Estimate(terms, coefficients.shared, coefficients.models, ())
        return PhysicsFitted(kept, loads)


def read_numbers(coefficients: Coefficients, name: str, count: int) -> FloatArray:
    """A list of finite numbers in ``extra.fitted``, (count,); zeros if it is not there.

    Raises:
        BadInput: it is something else.
    """
    fitted = coefficients.extra.get("fitted")
    found = fitted.get(name, [0.0] * count) if isinstance(fitted, dict) else [0.0] * count
    try:
        values = np.array(found, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise BadInput(f"extra.fitted.{name} is not {count} numbers", hint=MAKE_AGAIN)
    return values


def load_fractions(data: Observations) -> FloatArray:
    """The part of each model's transfer that is loading, and so overlaps with computing.

    On a CPU device nothing overlaps: the cores that compute also load, within the same quota. On a
    GPU it is read from the bytes that go each way, or from the server's own times; where there
    are none, nothing is assumed to overlap.
    """
    fractions = np.zeros(len(data.models))
    if data.device.kind == "cpu":
        return fractions
    for index, name in enumerate(data.models):
        parts = [part for t in data.tenant if t.tenant.model == name for part in _loading(t)]
        fractions[index] = float(np.median(parts)) if parts else 0.0
    return fractions


def _loading(measured: TenantMeasurement) -> list[float]:
    counters, times = measured.counters, measured.server_times
    given: list[tuple[float, float]] = []
    if counters and counters.input_bytes is not None and counters.output_bytes is not None:
        given.append((counters.input_bytes, counters.output_bytes))
    elif times is not None:
        given.append((times.compute_input_ms, times.compute_output_ms))
    return [up / (up + down) for up, down in given if up + down > 0]


def _terms(coefficients: Coefficients) -> Terms:
    models = list(coefficients.models.values())
    terms = {name: np.array([m[name].value for m in models]) for name in PER_MODEL}
    return terms | {name: np.array([coefficients.shared[name].value]) for name in SHARED}
