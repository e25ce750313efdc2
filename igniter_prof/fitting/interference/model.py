"""The latency model ``igprof``: fit, predict, explain, and how sure it is of each row.

ln t = ln t_alone + ln slowdown by physics + correction; docs/model.md has the equations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from igniter_prof.errors import BadInput
from igniter_prof.files import parse
from igniter_prof.fitting.interference import together
from igniter_prof.fitting.interference.alone import NAMES as ALONE_NAMES
from igniter_prof.fitting.interference.alone import Alone, coordinates, fit_process
from igniter_prof.fitting.interference.contention import (
    Contention,
    contention_of,
    fit_contention,
)
from igniter_prof.fitting.interference.single import SingleCells
from igniter_prof.fitting.interference.table import InterferenceTable
from igniter_prof.fitting.interference.together import Correction, Kernel, Scale
from igniter_prof.fitting.interference.traits import Traits, TraitsDocument, find_traits
from igniter_prof.fitting.model import MAKE_AGAIN, Document, Fitted
from igniter_prof.fitting.physics import equations
from igniter_prof.fitting.physics.model import PhysicsFitted, PhysicsModel
from igniter_prof.fitting.points import (
    MODEL_ERROR,
    BoolArray,
    FloatArray,
    IntArray,
    Observations,
    Points,
)
from igniter_prof.fitting.quick import Configuration
from igniter_prof.fitting.tables import LatencyTable
from igniter_prof.records import Coefficients, Finite, Positive, Record, TenantMeasurement

TERMS = ("contention", "transfer", "scheduling", "clock", "alone", *together.TERMS)
"""Terms that an ablation may leave out; ``alone``: the correction of latencies alone."""

_SOLO = PhysicsModel("none", interference=False)
_DERIVED_ERROR = 0.01
"""Relative error of a latency that was put together from a GPU profiler's times."""
_LIKELIHOOD_PAIRS = 300
"""At most about so many pairs of co-located rows choose the kernel's parameters."""
_SCALE_PAIRS = 300
"""At most about so many pairs of co-located rows tell how sure a prediction is."""
_MOST_PAIRS = 5_000
"""At most about so many pairs of co-located rows are fitted to: time grows with their cube."""
_ROUNDS = 2
_TELLS_NOISE = 20
"""Co-located rows from which on they tell the noise of a measured mean."""
_CHUNK = 2_000


_Index = Annotated[int, Field(ge=0, lt=2**53)]


class _Rows(Record):
    """What was fitted to, one entry a tenant."""

    model: tuple[_Index, ...]
    batch: tuple[Positive, ...]
    share: tuple[Positive, ...]
    scale: tuple[Positive, ...]
    instances: tuple[Positive, ...]
    cell: tuple[_Index, ...]
    log_ms: tuple[Annotated[float, Field(ge=-50, le=50)], ...]
    noise: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...]


class _Extra(Record):
    """``Coefficients.extra["fitted"]``."""

    load_fraction: tuple[Finite, ...]
    traits: TraitsDocument
    alone: tuple[tuple[Finite, ...] | None, ...]
    kernel: tuple[Finite, ...]
    feature_mean: tuple[Finite, ...]
    feature_spread: tuple[Positive, ...]
    without: tuple[str, ...] = ()
    rows: _Rows


@dataclass(frozen=True)
class Training:
    """What was fitted to; arrays are (n_rows,), rows hold whole cells."""

    x: Points
    log_ms: FloatArray
    noise: FloatArray
    """Known variance of ``log_ms``."""

    def part(self, rows: BoolArray) -> Training:
        """Some whole cells."""
        kept = np.flatnonzero(rows)
        return Training(self.x.take(kept), self.log_ms[kept], self.noise[kept])


@dataclass(frozen=True)
class IgprofFitted:
    """See ``model.Fitted``."""

    alone: Alone
    traits: Traits
    contention: Contention
    scale: Scale
    correction: Correction
    training: Training
    without: frozenset[str]
    notes: tuple[str, ...] = ()

    @property
    def physics(self) -> PhysicsFitted:
        """The equations of latencies alone."""
        return self.alone.physics

    def latency_ms(self, x: Points) -> FloatArray:
        """See ``model.Fitted``."""
        alone_ms, slowdown, carried = self._parts(x)
        return np.asarray(alone_ms * np.exp(slowdown + carried))

    def _parts(self, x: Points) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Latency alone in ms, ln slowdown (>= 0), ln of what co-located cells say of alone."""
        alone_ms, carried = self._alone(x)
        slowdown = np.zeros(len(x))
        mixed = np.flatnonzero(x.tenants > 1)
        if len(mixed):
            part, part_ms = x.take(mixed), alone_ms[mixed]
            pairs = together.pairs_of(part, self.traits.features(part, part_ms), self.scale)
            # nobody is faster beside others, nor beside one more of them
            most = self.contention.log_last(part, part_ms)
            more = self.correction.mean(pairs, most)
            by_physics = self.contention.log_slowdown(part, part_ms)
            slowdown[mixed] = np.maximum(by_physics + more, 0.0)
        return alone_ms, slowdown, carried

    def _alone(self, x: Points) -> tuple[FloatArray, FloatArray]:
        """Latency alone in ms, and ln of what co-located cells add to it, each (n_rows,).

        Computed once for each different configuration.
        """
        if len(x) == 0:
            return np.zeros(0), np.zeros(0)
        table = np.column_stack([x.model, x.batch, x.share, x.scale, x.instances])
        different, which = together.different(table)
        n = len(different)
        points = Points(
            model=different[:, 0].astype(np.int64),
            batch=different[:, 1],
            share=different[:, 2],
            scale=different[:, 3],
            instances=different[:, 4],
            cell=np.arange(n),
            tenants=np.ones(n),
        )
        alone_ms = np.exp(self.alone.log_ms(points))
        carried = self.alone.carried(points, self._mixed.x, self.correction.weights)
        return alone_ms[which], carried[which]

    @cached_property
    def _mixed(self) -> Training:
        """The co-located part of the training."""
        return self.training.part(self.training.x.tenants > 1)

    def overlapped_ms(self, x: Points, latency_ms: FloatArray) -> FloatArray:
        """See ``model.Fitted``."""
        return np.minimum(self._loading_ms(x), 0.9 * latency_ms)

    def _loading_ms(self, x: Points) -> FloatArray:
        known = self.traits.transfer_ms(x)
        fitted = equations.transfer(self.physics.terms, x)
        transfer = np.where(np.isfinite(known), known, fitted)
        return np.asarray(self.physics.load_fraction[x.model] * transfer)

    @cached_property
    def quick(self) -> SingleCells:
        """See ``quick.AnswersQuickly``."""
        return SingleCells(
            self.traits,
            self.contention,
            self.scale,
            self.correction,
            self.alone,
            lambda: (self._few.training.x, self._few.correction),
            self._alone,
            self._loading_ms,
        )

    def table(self, settings: Sequence[Configuration]) -> LatencyTable:
        """See ``tables.Tabulated``."""
        return InterferenceTable(self, self.quick, settings)

    def log_scale(self, x: Points) -> FloatArray:
        """See ``model.Fitted``: the posterior standard deviation, of a measured mean."""
        found = np.empty(len(x))
        kernel, few = self.correction.kernel, self._few
        order = np.argsort(x.cell, kind="stable")
        for start in _cell_starts(x.cell[order], _CHUNK):
            rows = order[start]
            part = x.take(rows)
            lone = part.tenants <= 1
            variance = self.alone.variance(part) + lone * self.alone.noise(part.model)
            mixed = np.flatnonzero(~lone)
            if len(mixed):
                these = part.take(mixed)
                pairs = self._pairs(these)
                variance[mixed] += kernel.diagonal(pairs, len(these)) + kernel.noise
                if len(few):
                    cross = kernel.rows(pairs, few.correction.pairs, len(these), len(few))
                    cross += self.alone.covariance(these, few.training.x)
                    variance[mixed] -= (few.correction.covered(cross) ** 2).sum(axis=1)
            found[rows] = variance
        return np.sqrt(np.maximum(found, 1e-8))

    def covariance(self, x: Points) -> FloatArray:
        """Posterior covariance of ln latency, without a measurement's noise, (n_rows, n_rows)."""
        found = self.alone.covariance(x, x)
        mixed = np.flatnonzero(x.tenants > 1)
        cross = self.alone.covariance(x, self._mixed.x) if len(self.correction) else None
        if len(mixed):
            these = x.take(mixed)
            pairs = self._pairs(these)
            kernel, known = self.correction.kernel, self.correction
            found[np.ix_(mixed, mixed)] += kernel.rows(pairs, pairs, len(these), len(these))
            if cross is not None:
                cross[mixed] += kernel.rows(pairs, known.pairs, len(these), len(known))
        if cross is not None:
            covered = self.correction.covered(cross)
            found -= covered @ covered.T
        return found

    @property
    def noise(self) -> float:
        """Variance of ln of one measured mean, of a co-located cell."""
        typical = float(np.median(self._mixed.noise)) if len(self._mixed.noise) else 0.0
        return self.correction.kernel.noise + typical

    def _pairs(self, x: Points) -> together.Pairs:
        alone_ms = np.exp(self.alone.log_ms(x))
        return together.pairs_of(x, self.traits.features(x, alone_ms), self.scale)

    @cached_property
    def _few(self) -> _Few:
        """A part of the co-located training that is small enough to ask for every row."""
        mixed = self._mixed
        rows = _some_cells(mixed, _SCALE_PAIRS, seed=0)
        if len(rows) == len(mixed.log_ms):
            return _Few(mixed, self.correction)
        part = Training(mixed.x.take(rows), mixed.log_ms[rows], mixed.noise[rows])
        pairs = self._pairs(part.x)
        shared = self.alone.covariance(part.x, part.x)
        zero = np.zeros(len(rows))
        known = together.condition(self.correction.kernel, pairs, zero, shared, part.noise)
        return _Few(part, known)

    def explain(self, x: Points) -> Mapping[str, FloatArray]:
        """See ``model.Fitted``."""
        alone_ms, slowdown, carried = self._parts(x)
        base_ms = self.physics.latency_ms(x)
        parts = self.contention.parts(x, alone_ms)
        terms = {
            "transfer": equations.transfer(self.physics.terms, x),
            "active alone": equations.active(self.physics.terms, x),
            "alone, measured": alone_ms * np.exp(carried) - base_ms,
        }
        lone = x.tenants <= 1
        labels = {
            "contention": "cache and memory",
            "transfer": "bus",
            "scheduling": "scheduling",
            "clock": "clock",
        }
        level = alone_ms * np.exp(carried)
        for name, label in labels.items():
            terms[label] = np.where(lone, 0.0, level * parts[name])
        by_physics = level * np.where(lone, 0.0, sum(parts.values(), np.zeros(len(x))))
        terms["correction"] = level * np.expm1(slowdown) - by_physics
        return terms

    def document(self) -> Document:
        """See ``model.Fitted``."""
        estimate, x = self.physics.estimate, self.training.x
        extra = _Extra(
            load_fraction=tuple(self.physics.load_fraction.tolist()),
            traits=self.traits.document(),
            alone=tuple(
                None if p is None else tuple(p.theta.tolist()) for p in self.alone.processes
            ),
            kernel=tuple(self.correction.kernel.theta.tolist()),
            feature_mean=tuple(self.scale.mean.tolist()),
            feature_spread=tuple(self.scale.spread.tolist()),
            without=tuple(sorted(self.without)),
            rows=_Rows(
                model=tuple(x.model.tolist()),
                batch=tuple(x.batch.tolist()),
                share=tuple(x.share.tolist()),
                scale=tuple(x.scale.tolist()),
                instances=tuple(x.instances.tolist()),
                cell=tuple(x.cell.tolist()),
                log_ms=tuple(self.training.log_ms.tolist()),
                noise=tuple(self.training.noise.tolist()),
            ),
        )
        shared = {**estimate.shared, **self.contention.document()}
        notes = (*estimate.notes, *self.notes)
        return Document(shared, estimate.models, extra.model_dump(mode="json"), notes)


@dataclass(frozen=True)
class _Few:
    training: Training
    correction: Correction

    def __len__(self) -> int:
        return len(self.training.log_ms)


@dataclass(frozen=True)
class IgprofModel:
    """See ``model.LatencyModel``. ``without``: terms left out, to see what each is worth."""

    without: frozenset[str] = frozenset()
    name: str = "igprof"
    knows_strangers: bool = True

    @classmethod
    def lacking(cls, terms: Collection[str]) -> IgprofModel:
        """The model without some of ``TERMS``."""
        return cls(frozenset(terms))

    def fit(self, data: Observations, seed: int, start: Fitted | None = None) -> IgprofFitted:
        """See ``model.LatencyModel``; ``start`` gives the processes' log parameters."""
        before = start if isinstance(start, IgprofFitted) else None
        if before is not None and (
            before.without != self.without
            or before.physics.estimate.models.keys() != set(data.models)
        ):
            before = None
        traits = find_traits(data)
        derived = np.array([is_derived(t) for t in data.tenant], dtype=bool)
        noise = (1.0 / data.weight**2 - 1.0) * MODEL_ERROR**2 + derived * _DERIVED_ERROR**2
        everything = Training(data.points, np.log(data.latency_ms), noise)
        thetas = None if before is None else [_theta(p) for p in before.alone.processes]
        training = everything.part(
            _whole_cells(data.points, ~(derived & (data.points.tenants > 1)))
        )
        training, notes = _bounded(training, seed)
        kernel = None if before is None else before.correction.kernel
        notes += _only_alone(data)
        fitted, noise_alone = None, None
        for _ in range(_ROUNDS):
            # what co-located cells say of the latencies alone, once it is known what they cost
            physics = _SOLO.fit(data if fitted is None else _undone(data, fitted), seed)
            alone = _fit_alone(physics, training, thetas, noise_alone, "alone" in self.without)
            contention = _fit_contention(data, traits, alone, derived, self.without)
            fitted = _assemble(
                alone, traits, contention, training, kernel, None, self.without, notes, seed
            )
            if int((training.x.tenants > 1).sum()) < _TELLS_NOISE:
                break
            # a mean is a mean: cells alone, seldom repeated, do not tell their noise themselves
            noise_alone = fitted.correction.kernel.noise
        assert fitted is not None
        return fitted

    def load(self, coefficients: Coefficients) -> IgprofFitted:
        """See ``model.LatencyModel``."""
        if "fitted" not in coefficients.extra:
            raise BadInput("extra.fitted is missing", hint=MAKE_AGAIN)
        extra = parse(coefficients.extra["fitted"], _Extra, "coefficients, extra.fitted")
        physics = _SOLO.load(coefficients)
        n_models, rows = len(coefficients.models), extra.rows
        if len({len(getattr(rows, name)) for name in _Rows.model_fields}) != 1:
            raise BadInput("extra.fitted.rows has lists of different lengths", hint=MAKE_AGAIN)
        x = _points(rows)
        if len(x) and int(x.model.max()) >= n_models:
            raise BadInput("extra.fitted.rows names a model that is not there", hint=MAKE_AGAIN)
        equations_only = "alone" in extra.without
        wanted = 0 if equations_only else len(ALONE_NAMES)
        if [len(theta or ()) for theta in extra.alone] != [wanted] * n_models:
            raise BadInput("extra.fitted.alone does not fit the models", hint=MAKE_AGAIN)
        if set(x.model[x.tenants == 1].tolist()) != set(range(n_models)):
            raise BadInput("extra.fitted.rows lacks a model alone", hint=MAKE_AGAIN)
        traits = extra.traits.load(tuple(coefficients.models))
        without = frozenset(extra.without)
        if not without <= set(TERMS):
            raise BadInput("extra.fitted.without names a term that is not there", hint=MAKE_AGAIN)
        training = Training(x, np.array(rows.log_ms), np.array(rows.noise))
        contention = contention_of(traits, coefficients.shared, without)
        n_features = len(extra.feature_mean)
        fits = len(extra.kernel) == len(together.prior(n_features).mean)
        if not fits or len(extra.feature_spread) != n_features:
            raise BadInput("extra.fitted.kernel does not fit the features", hint=MAKE_AGAIN)
        kernel = Kernel(np.array(extra.kernel), n_features)
        scale = Scale(np.array(extra.feature_mean), np.array(extra.feature_spread))
        thetas = [None if t is None else np.array(t) for t in extra.alone]
        try:
            with np.errstate(all="raise", under="ignore"):
                alone = _fit_alone(physics, training, thetas, None, equations_only)
                return _assemble(alone, traits, contention, training, kernel, scale, without, (), 0)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError):
            raise BadInput("extra.fitted has numbers that no fit has", hint=MAKE_AGAIN) from None


_ALONE_ONLY = (
    "no co-located cells: what neighbours cost is the priors' guess;"
    " profile some pairs (--colocate pairs)"
)


def _only_alone(data: Observations) -> tuple[str, ...]:
    """A note on models of which no co-located cell was measured."""
    mixed = data.points.tenants > 1
    if not mixed.any():
        return (_ALONE_ONLY,)
    seen = set(data.points.model[mixed].tolist())
    names = ", ".join(name for index, name in enumerate(data.models) if index not in seen)
    told = "measured only alone, so what neighbours cost them follows from the other models"
    return (f"{told}: {names}",) if names else ()


def is_derived(measured: TenantMeasurement) -> bool:
    """Whether a latency was put together from a GPU profiler's times, with no client."""
    counters, latency = measured.counters, measured.latency
    if counters is None or latency is None or latency.count is not None:
        return False
    return counters.gpu_ms is not None or counters.active_ms is not None


def _theta(process: Any) -> FloatArray | None:
    return None if process is None else process.theta


def _points(rows: _Rows) -> Points:
    _, cell = np.unique(np.array(rows.cell, dtype=np.int64), return_inverse=True)
    return Points(
        np.array(rows.model, dtype=np.int64),
        np.array(rows.batch),
        np.array(rows.share),
        np.array(rows.scale),
        np.array(rows.instances),
        cell,
        np.bincount(cell)[cell].astype(np.float64),
    )


def _whole_cells(x: Points, wanted: BoolArray) -> BoolArray:
    """Rows of cells of which every row is wanted, (n_rows,)."""
    spoilt = np.bincount(x.cell, ~wanted) > 0
    return np.asarray(~spoilt[x.cell])


def _fit_alone(
    physics: PhysicsFitted,
    training: Training,
    thetas: list[FloatArray | None] | None,
    noise: float | None,
    equations_only: bool,
) -> Alone:
    """The processes of the models alone.

    ``thetas``: their log parameters, None: to be found; ``noise``: variance of a mean, None: not
    known otherwise.
    """
    n_models = len(physics.load_fraction)
    if equations_only:
        return Alone(physics, (None,) * n_models)
    solo = training.part(training.x.tenants == 1)
    left = solo.log_ms - np.log(physics.latency_ms(solo.x))
    at = coordinates(solo.x)
    processes = []
    for model in range(n_models):
        mine = solo.x.model == model
        theta = None if thetas is None else thetas[model]
        processes.append(fit_process(at[mine], left[mine], solo.noise[mine], theta, noise))
    return Alone(physics, tuple(processes))


def _undone(data: Observations, fitted: IgprofFitted) -> Observations:
    """Every row as if it were alone: its latency without what its neighbours are said to cost."""
    x = data.points
    _, slowdown, _ = fitted._parts(x)
    return replace(data, points=x.alone(), latency_ms=data.latency_ms / np.exp(slowdown))


def _fit_contention(
    data: Observations,
    traits: Traits,
    alone: Alone,
    derived: BoolArray,
    without: frozenset[str],
) -> Contention:
    x = data.points
    alone_ms = np.exp(alone.log_ms(x))
    log_slowdown = np.log(data.latency_ms) - np.log(alone_ms)
    kernels_only = derived & (x.tenants > 1)
    for row in np.flatnonzero(kernels_only):
        log_slowdown[row] = _log_active_slowdown(data, int(row))
    return fit_contention(
        traits,
        x,
        alone_ms,
        log_slowdown,
        kernels_only,
        data.device.kind == "cpu",
        without,
    )


def _log_active_slowdown(data: Observations, row: int) -> float:
    """ln of a row's time in kernels over that of the same tenant alone; NaN if not known."""
    counters, tenant = data.tenant[row].counters, data.tenant[row].tenant
    for other in np.flatnonzero(data.points.tenants == 1):
        alone = data.tenant[other]
        known = alone.counters.active_ms if alone.counters else None
        if known and alone.tenant == tenant and counters and counters.active_ms:
            return float(np.log(counters.active_ms / known))
    return float("nan")


def _assemble(
    alone: Alone,
    traits: Traits,
    contention: Contention,
    training: Training,
    kernel: Kernel | None,
    scale: Scale | None,
    without: frozenset[str],
    notes: tuple[str, ...],
    seed: int,
) -> IgprofFitted:
    """Put the parts together; a kernel or a scale that is None is found from the training."""
    mixed = training.part(training.x.tenants > 1)
    x = mixed.x
    alone_ms = np.exp(alone.log_ms(x))
    features = traits.features(x, alone_ms)
    if scale is None and len(x):
        scale = Scale.of(features)
    elif scale is None:
        everything = training.x
        scale = Scale.of(traits.features(everything, np.exp(alone.log_ms(everything))))
    pairs = together.pairs_of(x, features, scale)
    left = mixed.log_ms - np.log(alone_ms) - contention.log_slowdown(x, alone_ms)
    shared = alone.covariance(x, x)
    n_features = len(scale.mean)
    if kernel is None or kernel.n_features != n_features:
        rows = _some_cells(mixed, _LIKELIHOOD_PAIRS, seed)
        kernel = together.likely_kernel(
            together.renumbered(pairs, rows),
            left[rows],
            shared[np.ix_(rows, rows)],
            mixed.noise[rows],
            n_features,
            without,
        )
    correction = together.condition(kernel, pairs, left, shared, mixed.noise)
    return IgprofFitted(alone, traits, contention, scale, correction, training, without, notes)


def _bounded(training: Training, seed: int) -> tuple[Training, tuple[str, ...]]:
    """Not more co-located cells than can be fitted to, and a note if some were left out."""
    mixed = np.flatnonzero(training.x.tenants > 1)
    rows = mixed[_some_cells(training.part(training.x.tenants > 1), _MOST_PAIRS, seed)]
    if len(rows) == len(mixed):
        return training, ()
    kept = training.x.tenants == 1
    kept[rows] = True
    note = f"the correction is of {len(rows)} of {len(mixed)} co-located rows, drawn evenly"
    return training.part(kept), (note,)


def _some_cells(training: Training, most: int, seed: int) -> IntArray:
    """Rows of whole cells with about ``most`` pairs, drawn evenly from each mix of models.

    In whatever order the cells and their rows are.
    """
    x = training.x
    _, cell, size = np.unique(x.cell, return_inverse=True, return_counts=True)
    pairs = size * (size - 1)
    if pairs.sum() <= most:
        return np.arange(len(x))
    mix = np.bincount(cell, (x.model + 1.0) ** 3)
    order = np.argsort(np.bincount(cell, training.log_ms), kind="stable")
    order = order[np.random.default_rng(seed).permutation(len(order))]
    # rank of each cell within its mix: the first of every mix, then the second, ...
    ranks = np.empty(len(size))
    for value in np.unique(mix):
        mine = order[mix[order] == value]
        ranks[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    chosen = order[np.argsort(ranks[order], kind="stable")]
    kept = chosen[np.cumsum(pairs[chosen]) <= most]
    return np.flatnonzero(np.isin(cell, kept))


def _cell_starts(cell: Any, most: int) -> list[slice]:
    """Slices of about ``most`` rows that keep cells whole; ``cell`` is ascending."""
    slices, start = [], 0
    while start < len(cell):
        end = min(start + most, len(cell))
        while end < len(cell) and cell[end] == cell[end - 1]:
            end += 1
        slices.append(slice(start, end))
        start = end
    return slices
