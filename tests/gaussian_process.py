"""A small exact Gaussian process as a latency model, for the tests of what asks it for advice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from igniter_prof.fitting.latency_models import latency_model
from igniter_prof.fitting.model import Document, Fitted
from igniter_prof.fitting.points import FloatArray, Observations, Points
from igniter_prof.records import Coefficients

NOISE = 0.01**2


@dataclass
class Process:
    """ln of latency over the latency alone: a GP over a tenant and the sum of its neighbours."""

    alone: Fitted
    train: Points
    residual: FloatArray
    amplitude: float = 0.09
    noise: float = NOISE

    def __post_init__(self) -> None:
        kernel = self.kernel(self.train, self.train) + self.noise * np.eye(len(self.train))
        self.inverse = np.linalg.inv(kernel)

    def kernel(self, a: Points, b: Points) -> FloatArray:
        own = _same(a.model, b.model) * _near(a.batch, a.share, b.batch, b.share)
        return self.amplitude * own * self._neighbours(a, b) + 0.02**2 * own

    def _neighbours(self, a: Points, b: Points) -> FloatArray:
        """The sum over all neighbours of each, alike where they are alike: (n_a, n_b)."""
        each = _same(a.model, b.model) * _near(a.batch, a.share, b.batch, b.share)
        return _others(a) @ each @ _others(b).T

    def latency_ms(self, x: Points) -> FloatArray:
        weights = self.inverse @ self.residual
        return self.alone.latency_ms(x) * np.exp(self.kernel(x, self.train) @ weights)

    def covariance(self, x: Points) -> FloatArray:
        across = self.kernel(x, self.train)
        return self.kernel(x, x) - across @ self.inverse @ across.T

    def overlapped_ms(self, x: Points) -> FloatArray:
        return np.zeros(len(x))

    def log_scale(self, x: Points) -> FloatArray:
        return np.sqrt(np.diag(self.covariance(x)) + self.noise)

    def explain(self, x: Points) -> Mapping[str, FloatArray]:
        return {"all": self.latency_ms(x)}

    def document(self) -> Document:
        return Document({}, {})


@dataclass(frozen=True)
class ProcessModel:
    name: str = "process"
    knows_strangers: bool = True

    def fit(self, data: Observations, seed: int, start: Fitted | None = None) -> Process:
        alone = latency_model("none").fit(data, seed)
        residual = np.log(data.latency_ms / alone.latency_ms(data.points))
        return Process(alone, data.points, residual)

    def load(self, coefficients: Coefficients) -> Fitted:
        raise NotImplementedError


def _others(x: Points) -> FloatArray:
    """1 where two rows are neighbours, (n_rows, n_rows)."""
    return np.asarray((x.cell[:, None] == x.cell) & ~np.eye(len(x), dtype=bool), dtype=float)


def _same(a: np.ndarray, b: np.ndarray) -> FloatArray:
    return np.asarray(a[:, None] == b[None, :], dtype=float)


def _near(
    batch: FloatArray, share: FloatArray, other_batch: FloatArray, other_share: FloatArray
) -> FloatArray:
    batches = (np.log(batch)[:, None] - np.log(other_batch)[None, :]) / 3.0
    shares = (np.log(share)[:, None] - np.log(other_share)[None, :]) / 2.0
    return np.exp(-0.5 * (batches**2 + shares**2))
