"""Which parameters the data can determine: a fit leaves out the terms that it cannot.

A term is free only where its own quantity was varied, and only as long as a model has more
different points than free terms. What is left out keeps the value of ``equations``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from igniter_prof.fitting.physics.equations import PER_MODEL, SHARED, Terms
from igniter_prof.fitting.points import BoolArray, FloatArray, IntArray, Observations

BOUNDS: dict[str, tuple[float, float]] = {
    "k1_ms": (0.0, np.inf),
    "k2_ms": (0.0, np.inf),
    "k3_ms": (0.0, np.inf),
    "k4": (0.0, 3.0),
    "k5_ms": (0.0, np.inf),
    "transfer_ms": (0.0, np.inf),
    "scale_exponent": (0.0, 4.0),
    "instance_exponent": (0.0, 2.0),
    "alpha_cache": (0.0, np.inf),
    "log_cache_util": (-5.0, 5.0),
    "scheduling_ms": (0.0, np.inf),
    "cache_util_share_exponent": (0.0, 2.0),
    "cache_util_batch_exponent": (0.0, 1.0),
}
"""Lower bounds of zero make latency fall with the share and rise with every neighbour."""

PRIORS: dict[str, tuple[float, float]] = {
    "log_cache_util": (0.0, 1.0),
    "cache_util_share_exponent": (1.0, 0.5),
    "cache_util_batch_exponent": (0.0, 0.5),
}
"""Mean and spread of weak priors, which hold what co-located cells say little about."""


@dataclass(frozen=True)
class Free:
    """A free parameter: its term, its place in the term's array, and its natural size."""

    term: str
    at: int
    size: float = 1.0


@dataclass(frozen=True)
class Form:
    """The free parameters of a fit, for models in the order of the observations.

    ``basis``: (n_models, n_free) turns free log pressures into ``log c`` of each model, such that
    the geometric mean of ``c`` is 1 in every group of models that the cells compare; otherwise
    α and c could trade a factor.
    """

    n_models: int
    free: tuple[Free, ...]
    basis: FloatArray

    def terms(self, theta: FloatArray) -> Terms:
        """Parameters by name from the vector (n_free,) of an optimiser."""
        terms = {name: np.full(self.n_models, value) for name, value in PER_MODEL.items()}
        terms |= {name: np.array([value]) for name, value in SHARED.items()}
        logs = np.zeros(self.basis.shape[1])
        for value, free in zip(theta, self.free, strict=True):
            if free.term == "log_cache_util":
                logs[free.at] = value
            else:
                terms[free.term][free.at] = value * free.size
        terms["cache_util"] = np.exp(self.basis @ logs)
        return terms

    def theta(self, terms: Terms) -> FloatArray:
        """The optimiser's vector (n_free,) for parameters by name, pressed into the bounds."""
        logs = self.basis.T @ np.log(terms["cache_util"])
        values = np.array(
            [
                logs[free.at]
                if free.term == "log_cache_util"
                else terms[free.term][free.at] / free.size
                for free in self.free
            ]
        )
        low, high = self.bounds()
        return np.asarray(np.clip(values, low, high))

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest values of the optimiser's vector."""
        edges = np.array([BOUNDS[free.term] for free in self.free]).reshape(-1, 2)
        sizes = np.array([free.size for free in self.free])
        return edges[:, 0] / sizes, edges[:, 1] / sizes

    def of_model(self, model: int) -> tuple[str, ...]:
        """Names of the free terms of a model."""
        names = [f.term for f in self.free if f.term in PER_MODEL and f.at == model]
        return (*names, "cache_util") if self.basis[model].any() else tuple(names)


def solo_form(data: Observations) -> Form:
    """The free terms of the models alone; interference is left out."""
    free: list[Free] = []
    for model in range(len(data.models)):
        rows = data.points.model == model
        size = float(np.median(data.latency_ms[rows])) if rows.any() else 1.0
        free += [
            Free(term, model, size if term.endswith("_ms") else 1.0)
            for term in _solo_terms(data, rows)
        ]
    return Form(len(data.models), tuple(free), np.zeros((len(data.models), 0)))


def _solo_terms(data: Observations, rows: BoolArray) -> list[str]:
    x = data.points
    batches, shares = (len(np.unique(values[rows])) for values in (x.batch, x.share))
    scales, instances = (len(np.unique(values[rows])) for values in (x.scale, x.instances))
    wanted = ["k2_ms"]
    wanted += ["scale_exponent"] if scales > 1 else []
    wanted += ["instance_exponent"] if instances > 1 else []
    wanted += ["k3_ms"] if batches > 1 else []
    wanted += ["k5_ms"] if shares > 1 else []
    wanted += ["k4"] if shares > 2 else []
    wanted += ["k1_ms"] if batches > 2 else []
    # beside k2 it is seen only where batch and share vary
    wanted += ["transfer_ms"] if batches > 1 and shares > 1 else []
    return wanted[: max(1, data.configurations(rows) - 1)]


def full_form(data: Observations, solo: Form) -> Form:
    """The free terms of ``solo`` and of the interference that co-located cells show."""
    x = data.points
    together = x.tenants > 1
    if not together.any():
        return solo
    free = list(solo.free)
    for model in range(len(data.models)):
        rows = together & (x.model == model)
        points = len(np.unique(data.group[rows]))
        if points:
            free.append(Free("alpha_cache", model))
        # a constant is told from a factor only where the tenant's own latency varies
        alone = data.latency_ms[rows]
        if points >= 4 and alone.max() > 1.5 * alone.min():
            free.append(Free("scheduling_ms", model, float(np.median(alone))))
    basis = _pressure_basis(data)
    free += [Free("log_cache_util", column) for column in range(basis.shape[1])]
    if len(np.unique(x.share[together])) > 1:
        free.append(Free("cache_util_share_exponent", 0))
    if len(np.unique(x.batch[together])) > 1:
        free.append(Free("cache_util_batch_exponent", 0))
    return Form(solo.n_models, tuple(free), basis)


def _pressure_basis(data: Observations) -> FloatArray:
    """Orthonormal directions of ``log c``, shape (n_models, n_free), see ``Form.basis``."""
    n = len(data.models)
    group = _compared(data.points.model, data.points.cell, n)
    columns: list[FloatArray] = []
    for label in np.unique(group[group >= 0]):
        members = np.flatnonzero(group == label)
        # directions in which the members' logarithms sum to zero
        ones = np.ones((1, len(members))) / np.sqrt(len(members))
        _, _, vt = np.linalg.svd(ones)
        for direction in vt[1:]:
            column = np.zeros(n)
            column[members] = direction
            columns.append(column)
    return np.stack(columns, axis=1) if columns else np.zeros((n, 0))


def _compared(model: IntArray, cell: IntArray, n_models: int) -> IntArray:
    """Groups of models whose pressures the cells compare, shape (n_models,); -1: seen by none.

    Two models are compared if the same victim was seen beside each of them, or by a chain of such
    victims: the connected parts of the graph of victims and neighbours.
    """
    parent = list(range(2 * n_models))  # victims, then neighbours

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    seen = np.zeros(n_models, dtype=bool)
    pairs: set[tuple[int, int]] = set()
    for number in np.unique(cell):
        members = model[cell == number]
        for i, victim in enumerate(members):
            pairs |= {(int(victim), int(other)) for j, other in enumerate(members) if j != i}
    for victim, neighbour in sorted(pairs):
        parent[root(victim)] = root(n_models + neighbour)
        seen[neighbour] = True
    return np.array([root(n_models + m) if seen[m] else -1 for m in range(n_models)])
