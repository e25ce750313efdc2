"""Candidate forms: the cost of one inference request of one container over input and resources.

Every form gives the logarithm of the cost (a latency or an energy), so that a fit is one of
relative errors. With ``S`` the input's part, ``C`` that of the cores (a speed-up, 1 at the most
cores that were measured), ``R`` that of memory and batch::

    power-law    b S C R                    S = (s/s0)^p, C = (c/c0)^-q, R = (m/m0)^-r (B/B0)^u
    offset       a + b S C R                what the cores do not speed up
    overhead     (d + b S) C R              what the input does not lengthen
    general      (a + (d + b S) C) R        C = (min(c, c1)/c0)^-q: no more use beyond c1 cores
    saturating   the same                   S = (min(s, s1)/s0)^p: inputs are cut off at s1
    amdahl       (d + b S) (f + (1 - f) c0/c) R
    curves       (a_k + b_k S) R            for each number of cores k its own line
    cut-curves   the same                   S = (min(s, s1)/s0)^p
    piecewise    exp(f(ln s) + g(ln c) + h(ln m) + k(ln B))
    levels       the same                   g and h need not fall

f and k rise, g and h fall, all piecewise linear with knots at measured values; between the cores
of ``curves`` the logarithm is interpolated over that of the cores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from igniter_prof.fitting.points import FloatArray

AXES: Final = ("size", "cpu_cores", "memory_mib", "batch_size")
NAMES: Final = (
    "power-law",
    "offset",
    "overhead",
    "amdahl",
    "general",
    "saturating",
    "curves",
    "cut-curves",
    "piecewise",
    "levels",
)
"""From the simplest on: of equals the first is chosen."""

MOST_KNOTS: Final = 8
_LEAST_POINTS: Final = 4
_OF_CORES: Final = ("amdahl",)
_OF_BOTH: Final = ("overhead", "general", "curves", "cut-curves")
"""Without two axes they are one of the others."""
_CURVES: Final = ("curves", "cut-curves")
_FALLING: Final = ("cpu_cores", "memory_mib")
_TINY: Final = 1e-30

Point = Mapping[str, FloatArray]
"""Values (n,) by axis; the logarithm of each is finite."""


@dataclass(frozen=True)
class Form:
    """A form with the axes that it depends on and its knots.

    ``knots``: by axis, ascending. Of a parametric form the last is the axis' reference value.
    """

    name: str
    axes: tuple[str, ...]
    knots: Mapping[str, tuple[float, ...]]

    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters, in the order of the optimiser's vector."""
        return self._names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self._bounded())

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest value of each parameter."""
        edges = np.array(list(self._bounded().values()))
        return edges[:, 0], edges[:, 1]

    def _bounded(self) -> dict[str, tuple[float, float]]:
        if self.name in ("piecewise", "levels"):
            return self._piecewise_bounds()
        found: dict[str, tuple[float, float]] = {}
        anything = (-np.inf, np.inf)
        for cores in self.knots.get("cpu_cores", (1.0,)) if self.name in _CURVES else ():
            found |= {f"log_b_{cores:.12g}": anything}
            found |= {f"log_a_{cores:.12g}": anything}
        if self.name not in _CURVES:
            found["log_b"] = anything
            if self.name in ("offset", "general", "saturating"):
                found["log_a"] = anything
            both = {"size", "cpu_cores"} <= set(self.axes)
            if both and self.name in ("overhead", "amdahl", "general", "saturating"):
                found["log_d"] = anything
            if "cpu_cores" in self.axes:
                found |= {"f": (0.0, 1.0)} if self.name == "amdahl" else {"q": (0.0, 3.0)}
                if self.name in ("general", "saturating"):
                    found["log_c1"] = self._inside("cpu_cores")
        if "size" in self.axes:
            found["p"] = (0.0, 4.0)
            if self.name in ("saturating", "cut-curves"):
                found["log_s1"] = self._inside("size")
        found |= {"r": (0.0, 3.0)} if "memory_mib" in self.axes else {}
        found |= {"u": (0.0, 2.0)} if "batch_size" in self.axes else {}
        return found

    def _inside(self, axis: str) -> tuple[float, float]:
        """Where an axis may stop to matter: between its second value and beyond its last."""
        knots = self.knots[axis]
        return float(np.log(knots[min(1, len(knots) - 1)])), float(np.log(knots[-1])) + 1e-6

    def _piecewise_bounds(self) -> dict[str, tuple[float, float]]:
        found = {"log_b": (-np.inf, np.inf)}
        for axis in self.axes:
            falls = axis in _FALLING
            low, high = (-np.inf, 0.0) if falls else (0.0, np.inf)
            if falls and self.name == "levels":
                low, high = -np.inf, np.inf
            found |= {f"{axis}_{knot:.12g}": (low, high) for knot in self.knots[axis][1:]}
        return found

    def log_cost(self, theta: FloatArray, x: Point) -> FloatArray:
        """Logarithm of the cost at points, shape (n,), for parameters (n_parameters,)."""
        value = dict(zip(self.parameters(), theta.tolist(), strict=True))
        if self.name in ("piecewise", "levels"):
            return self._piecewise(value, x)
        n = len(next(iter(x.values())))
        rest = np.zeros(n)
        if "memory_mib" in self.axes:
            rest = rest - value["r"] * np.log(x["memory_mib"] / self._reference("memory_mib"))
        if "batch_size" in self.axes:
            rest = rest + value["u"] * np.log(x["batch_size"] / self._reference("batch_size"))
        if self.name in _CURVES:
            return rest + self._curves(value, x, n)
        size = self._size(value, x, n)
        work = size * _exp(value["log_b"])
        if "log_d" in value:
            work = work + _exp(value["log_d"])
        cost = work * self._cores(value, x, n)
        if "log_a" in value:
            cost = cost + _exp(value["log_a"])
        return np.asarray(np.log(np.maximum(cost, _TINY)) + rest)

    def _reference(self, axis: str) -> float:
        return self.knots[axis][-1]

    def _size(self, value: Mapping[str, float], x: Point, n: int) -> FloatArray:
        if "size" not in self.axes:
            return np.ones(n)
        log_size = np.log(x["size"])
        if "log_s1" in value:
            log_size = np.minimum(log_size, value["log_s1"])
        return np.asarray(np.exp(value["p"] * (log_size - np.log(self._reference("size")))))

    def _cores(self, value: Mapping[str, float], x: Point, n: int) -> FloatArray:
        if "cpu_cores" not in self.axes:
            return np.ones(n)
        ratio = np.log(x["cpu_cores"])
        if "log_c1" in value:
            ratio = np.minimum(ratio, value["log_c1"])
        ratio = ratio - np.log(self._reference("cpu_cores"))
        if "f" in value:
            return np.asarray(value["f"] + (1.0 - value["f"]) * np.exp(-ratio))
        return np.asarray(np.exp(-value["q"] * ratio))

    def _curves(self, value: Mapping[str, float], x: Point, n: int) -> FloatArray:
        cores = self.knots.get("cpu_cores", (1.0,))
        size = self._size(value, x, n)
        lines = np.stack([self._curve(value, size, f"{one:.12g}") for one in cores])
        if len(cores) == 1:
            return np.asarray(lines[0])
        at = np.interp(np.log(x["cpu_cores"]), np.log(cores), np.arange(len(cores)))
        below = np.minimum(at.astype(int), len(cores) - 2)
        part, row = at - below, np.arange(len(at))
        return np.asarray(lines[below, row] * (1 - part) + lines[below + 1, row] * part)

    def _curve(self, value: Mapping[str, float], size: FloatArray, cores: str) -> FloatArray:
        """Logarithm of the cost with one number of cores, for the inputs' part ``S`` (n,)."""
        cost = _exp(value[f"log_b_{cores}"]) * size + _exp(value[f"log_a_{cores}"])
        return np.asarray(np.log(np.maximum(cost, _TINY)))

    def _piecewise(self, value: Mapping[str, float], x: Point) -> FloatArray:
        total = np.full(len(next(iter(x.values()))), value["log_b"])
        for axis in self.axes:
            knots = self.knots[axis]
            steps = [value[f"{axis}_{knot:.12g}"] for knot in knots[1:]]
            heights = np.concatenate([[0.0], np.cumsum(steps)])
            total = total + np.interp(np.log(x[axis]), np.log(knots), heights)
        return np.asarray(total)

    def starts(self, x: Point, log_cost: FloatArray) -> list[FloatArray]:
        """Starting vectors for the optimiser, inside the bounds."""
        low, high = self.bounds()
        level, least = float(np.median(log_cost)), float(log_cost.min())
        vectors = []
        for exponent in (0.5, 1.0):
            guess: dict[str, float] = {"p": exponent, "q": exponent, "f": 0.2, "r": 0.0, "u": 0.7}
            guess |= {"log_c1": np.inf, "log_s1": np.inf}
            vector = [
                guess[name]
                if name in guess
                else least - 1.0
                if name.startswith(("log_a", "log_d"))
                else level
                if name.startswith("log_b")
                else 0.0
                for name in self.parameters()
            ]
            vectors.append(np.clip(np.array(vector), low, high))
        if "log_s1" in self.parameters():
            middle = vectors[-1].copy()
            middle[self.parameters().index("log_s1")] = np.median(np.log(x["size"]))
            vectors.append(np.clip(middle, low, high))
        return vectors


def forms_of(x: Point, axes: tuple[str, ...]) -> list[Form]:
    """The candidates for points that vary along some axes, the simplest first.

    Those that have fewer parameters than there are points; none for fewer than four points.
    """
    levels = {axis: tuple(np.unique(x[axis]).tolist()) for axis in axes}
    n = len(next(iter(x.values())))
    if n < _LEAST_POINTS:
        return []
    found: dict[tuple[str, ...], Form] = {}
    for name in NAMES:
        if name in ("saturating", "cut-curves") and len(levels.get("size", ())) < 4:
            continue
        if name in _OF_CORES and "cpu_cores" not in axes:
            continue
        if name in _OF_BOTH and not {"size", "cpu_cores"} <= set(axes):
            continue
        knots = levels
        if name in ("piecewise", "levels"):
            knots = {axis: _some(values) for axis, values in levels.items()}
        form = Form(name, axes, knots)
        names = form.parameters()
        same = (*names, "free") if name == "levels" and set(axes) & set(_FALLING) else names
        if len(names) <= max(_LEAST_POINTS - 1, n - 2):
            found.setdefault(same, form)
    return list(found.values())


def _some(values: tuple[float, ...]) -> tuple[float, ...]:
    """At most ``MOST_KNOTS`` of some values, the ends among them."""
    if len(values) <= MOST_KNOTS:
        return values
    at = np.unique(np.round(np.linspace(0, len(values) - 1, MOST_KNOTS)).astype(int))
    return tuple(values[i] for i in at)


def _exp(value: float) -> float:
    return math.exp(min(max(value, -80.0), 80.0))
