"""The latency model ``gpulets``: slowdown linear in the L2 and DRAM utilisation of all tenants.

Choi et al., USENIX ATC 2022. The latency alone and the utilisations are those that were measured
alone, interpolated in between; docs/baselines.md holds the equations, symbols, units and sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from igniter_prof.errors import BadInput
from igniter_prof.files import parse
from igniter_prof.fitting.model import MAKE_AGAIN, Document, Fitted, require
from igniter_prof.fitting.physics.model import PhysicsFitted, PhysicsModel
from igniter_prof.fitting.points import BoolArray, FloatArray, IntArray, Observations, Points
from igniter_prof.records import Coefficients, Finite, Parameter, Positive, Record

_WEIGHTS = ("c1_l2_own", "c2_l2_others", "c3_dram_own", "c4_dram_others", "c5")

_NO_INTERFERENCE = (
    "no co-located cells: interference is unknown and predicted as none;"
    " profile some pairs (--colocate pairs)"
)


class _Alone(Record):
    """What was measured of a model alone at one point; None: not read there."""

    batch_size: Positive
    share: Positive
    input_scale: Positive
    instances: Positive
    log_ratio: Finite = Field(description="ln of the latency over that of the solo equations")
    l2_util: Finite | None
    dram_util: Finite | None


class _Extra(Record, extra="ignore"):
    alone: dict[str, Annotated[tuple[_Alone, ...], Field(min_length=1)]]


@dataclass(frozen=True)
class _Table:
    """One quantity of one model at the points where it was measured, each array (n_points,)."""

    batch: FloatArray
    share: FloatArray
    scale: FloatArray
    instances: FloatArray
    value: FloatArray

    def at(self, x: Points, rows: IntArray) -> FloatArray:
        """The quantity at rows: exact where measured, linear in ln b and ln r between.

        Over the share at each measured batch, then over the batch; the nearest value beyond. Of
        the input scales and instances that were measured, the nearest ones.
        """
        answer = np.zeros(len(rows))
        kinds = np.unique(np.stack([self.scale, self.instances], axis=1), axis=0)
        wanted = np.stack([x.scale[rows], x.instances[rows]], axis=1)
        distance = np.abs(np.log(wanted)[:, None, :] - np.log(kinds)[None, :, :]).sum(axis=2)
        nearest = distance.argmin(axis=1)
        for number, (scale, instances) in enumerate(kinds):
            mine = nearest == number
            if mine.any():
                points = (self.scale == scale) & (self.instances == instances)
                chosen = rows[mine]
                answer[mine] = self._grid(points, x.batch[chosen], x.share[chosen])
        return answer

    def _grid(self, points: BoolArray, batch: FloatArray, share: FloatArray) -> FloatArray:
        batches = np.unique(self.batch[points])
        columns = np.empty((len(batch), len(batches)))
        for column, size in enumerate(batches):
            at_size = np.flatnonzero(points & (self.batch == size))
            ordered = at_size[np.argsort(self.share[at_size])]
            columns[:, column] = np.interp(
                np.log(share), np.log(self.share[ordered]), self.value[ordered]
            )
        upper = np.clip(np.searchsorted(batches, batch), 0, len(batches) - 1)
        lower = np.where(batches[upper] > batch, np.maximum(upper - 1, 0), upper)
        log_batches, row = np.log(batches), np.arange(len(batch))
        gap = log_batches[upper] - log_batches[lower]
        part = np.where(
            gap > 0, (np.log(batch) - log_batches[lower]) / np.where(gap > 0, gap, 1), 0
        )
        part = np.clip(part, 0.0, 1.0)
        return np.asarray(columns[row, lower] * (1.0 - part) + columns[row, upper] * part)


@dataclass(frozen=True)
class _Alones:
    """What was measured of every model alone, and the equations that it is told relative to."""

    physics: PhysicsFitted
    points: Mapping[str, tuple[_Alone, ...]]
    log_ratio: tuple[_Table, ...]
    l2: tuple[_Table, ...]
    dram: tuple[_Table, ...]

    def correction(self, x: Points) -> FloatArray:
        """Measured latency alone over that of the equations, (n_rows,)."""
        return np.exp(_look_up(self.log_ratio, x))

    def latency_ms(self, x: Points) -> FloatArray:
        """Latency alone, (n_rows,)."""
        return np.asarray(self.physics.latency_ms(x) * self.correction(x))

    def utilisations(self, x: Points) -> tuple[FloatArray, FloatArray]:
        """Of the L2 cache and of the DRAM alone, as parts, each (n_rows,)."""
        return _look_up(self.l2, x), _look_up(self.dram, x)


@dataclass(frozen=True)
class GpuletsFitted:
    """The five weights, and what was measured alone."""

    weights: FloatArray
    alone: _Alones
    document_: Document

    def latency_ms(self, x: Points) -> FloatArray:
        """See ``model.Fitted``."""
        return np.asarray(sum(self.explain(x).values(), np.zeros(len(x))))

    def overlapped_ms(self, x: Points, latency_ms: FloatArray) -> FloatArray:
        """See ``model.Fitted``."""
        return np.asarray(
            self.alone.physics.overlapped_ms(x, latency_ms) * self.alone.correction(x)
        )

    def log_scale(self, x: Points) -> FloatArray:
        """See ``model.Fitted``."""
        return np.ones(len(x))

    def explain(self, x: Points) -> Mapping[str, FloatArray]:
        """See ``model.Fitted``. What keeps the slowdown at 1 is in ``constant``."""
        alone = self.alone.latency_ms(x)
        parts = _features(self.alone, x) * self.weights
        slower = np.maximum(parts.sum(axis=1), 0.0)
        l2, dram = parts[:, :2].sum(axis=1), parts[:, 2:4].sum(axis=1)
        return {
            "alone": alone,
            "L2 cache": alone * l2,
            "memory bandwidth": alone * dram,
            "constant": alone * (slower - l2 - dram),
        }

    def document(self) -> Document:
        """See ``model.Fitted``."""
        return self.document_


@dataclass(frozen=True)
class GpuletsModel:
    """Ordinary least squares of the slowdown over co-located cells."""

    name: str = "gpulets"
    knows_strangers: bool = False

    def fit(self, data: Observations, seed: int, start: Fitted | None = None) -> GpuletsFitted:
        """See ``model.LatencyModel``.

        Raises:
            BadInput: a model has no L2 and DRAM utilisation of a cell alone.
        """
        _require_counters(data)
        physics = PhysicsModel(self.name, interference=False).fit(data, seed)
        alone = _alones(physics, _measured_alone(data, physics))
        together = data.points.tenants > 1
        notes = physics.estimate.notes
        values, errors = np.zeros(len(_WEIGHTS)), np.full(len(_WEIGHTS), np.nan)
        if together.any():
            part = data.take(together)
            slowdown = part.latency_ms / alone.latency_ms(part.points)
            values, errors = _least_squares(_features(alone, part.points), slowdown - 1.0)
        else:
            notes = (*notes, _NO_INTERFERENCE)
        weights = {
            name: Parameter(value=float(value), std_error=float(error) if error >= 0 else None)
            for name, value, error in zip(_WEIGHTS, values, errors, strict=True)
        }
        told = physics.document()
        points = {
            model: [each.model_dump() for each in measured]
            for model, measured in alone.points.items()
        }
        document = Document(
            {**told.shared, **weights}, told.models, {**told.extra, "alone": points}, notes
        )
        return GpuletsFitted(values, alone, document)

    def load(self, coefficients: Coefficients) -> GpuletsFitted:
        """See ``model.LatencyModel``."""
        require(coefficients.shared, _WEIGHTS, "'shared'", not_negative=())
        physics = PhysicsModel(self.name, interference=False).load(coefficients)
        fitted = coefficients.extra.get("fitted")
        extra = parse(fitted, _Extra, "coefficients, extra.fitted")
        missing = [name for name in coefficients.models if name not in extra.alone]
        if missing:
            raise BadInput(f"extra.fitted.alone lacks '{missing[0]}'", hint=MAKE_AGAIN)
        points = {name: extra.alone[name] for name in coefficients.models}
        for name, measured in points.items():
            if all(each.l2_util is None or each.dram_util is None for each in measured):
                raise BadInput(f"extra.fitted.alone.{name} holds no utilisation", hint=MAKE_AGAIN)
        return GpuletsFitted(
            np.array([coefficients.shared[name].value for name in _WEIGHTS]),
            _alones(physics, points),
            Document(coefficients.shared, coefficients.models, fitted or {}),
        )


def _features(alone: _Alones, x: Points) -> FloatArray:
    """What the weights multiply, (n_rows, 5): zeros for a tenant alone."""
    l2, dram = alone.utilisations(x)
    columns = (l2, x.over_neighbours(l2), dram, x.over_neighbours(dram), np.ones(len(x)))
    return np.asarray(np.stack(columns, axis=1) * (x.tenants > 1)[:, None])


def _least_squares(matrix: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weights and their standard errors, NaN where the rows do not determine them."""
    solution, _, rank, _ = np.linalg.lstsq(matrix, values)
    free = len(values) - matrix.shape[1]
    if rank < matrix.shape[1] or free < 1:
        return np.asarray(solution, dtype=np.float64), np.full(matrix.shape[1], np.nan)
    left = values - matrix @ solution
    covariance = np.linalg.inv(matrix.T @ matrix) * float(left @ left) / free
    errors = np.sqrt(np.diagonal(covariance))
    return np.asarray(solution, dtype=np.float64), np.asarray(errors, dtype=np.float64)


def _require_counters(data: Observations) -> None:
    x = data.points
    for index, name in enumerate(data.models):
        rows = np.flatnonzero((x.model == index) & (x.tenants == 1)).tolist()
        if not any(_utilisation(data, row) is not None for row in rows):
            raise BadInput(
                f"the latency model 'gpulets' needs the utilisation of L2 cache and DRAM that a"
                f" GPU's profiler reads, and the profile has none of '{name}' alone",
                hint="fit --model igprof, which needs no counters",
            )


def _utilisation(data: Observations, row: int) -> tuple[float, float] | None:
    counters = data.tenant[row].counters
    if counters is None or counters.l2_util_pct is None or counters.dram_util_pct is None:
        return None
    return counters.l2_util_pct / 100.0, counters.dram_util_pct / 100.0


def _measured_alone(data: Observations, physics: PhysicsFitted) -> dict[str, tuple[_Alone, ...]]:
    """The points alone of each model; what was measured again is averaged."""
    x = data.points
    log_ratio = np.log(data.latency_ms / physics.latency_ms(x))
    points: dict[str, tuple[_Alone, ...]] = {}
    for index, name in enumerate(data.models):
        found: dict[tuple[float, ...], list[int]] = {}
        for row in np.flatnonzero((x.model == index) & (x.tenants == 1)).tolist():
            key = (x.batch[row], x.share[row], x.scale[row], x.instances[row])
            found.setdefault(tuple(map(float, key)), []).append(row)
        points[name] = tuple(
            _point(key, data, log_ratio, rows) for key, rows in sorted(found.items())
        )
    return points


def _point(
    key: tuple[float, ...], data: Observations, log_ratio: FloatArray, rows: list[int]
) -> _Alone:
    read = [each for row in rows if (each := _utilisation(data, row)) is not None]
    l2, dram = np.mean(read, axis=0).tolist() if read else (None, None)
    batch, share, scale, instances = key
    return _Alone(
        batch_size=batch,
        share=share,
        input_scale=scale,
        instances=instances,
        log_ratio=float(log_ratio[rows].mean()),
        l2_util=l2,
        dram_util=dram,
    )


def _alones(physics: PhysicsFitted, points: Mapping[str, tuple[_Alone, ...]]) -> _Alones:
    read = {
        name: [p for p in measured if p.l2_util is not None and p.dram_util is not None]
        for name, measured in points.items()
    }
    return _Alones(
        physics=physics,
        points=points,
        log_ratio=tuple(_table(p, [each.log_ratio for each in p]) for p in points.values()),
        l2=tuple(_table(p, [each.l2_util or 0.0 for each in p]) for p in read.values()),
        dram=tuple(_table(p, [each.dram_util or 0.0 for each in p]) for p in read.values()),
    )


def _table(points: list[_Alone] | tuple[_Alone, ...], values: list[float]) -> _Table:
    return _Table(
        batch=np.array([p.batch_size for p in points]),
        share=np.array([p.share for p in points]),
        scale=np.array([p.input_scale for p in points]),
        instances=np.array([p.instances for p in points]),
        value=np.array(values),
    )


def _look_up(tables: tuple[_Table, ...], x: Points) -> FloatArray:
    """A quantity of each row's model, (n_rows,)."""
    answer = np.zeros(len(x))
    for model, table in enumerate(tables):
        rows = np.flatnonzero(x.model == model)
        if len(rows):
            answer[rows] = table.at(x, rows)
    return answer
