"""Which cells to measure next: those that make the rest of the candidates most certain.

Greedy A-optimal design for a Gaussian process (Cohn, Ghahramani, Jordan, JAIR 1996; Krause, Singh,
Guestrin, JMLR 2008). With C the posterior covariance of ln latency over the rows of all candidate
cells and s² the noise of a measured mean, measuring the rows R of a cell takes

    tr(W C[:,R] (C[R,R] + s² I)⁻¹ C[R,:])

from the weighted variance of the reference rows. The cell that takes most is next, C is updated,
and so on. C does not depend on what will be measured, so all of this is known beforehand.

More candidates than fit into one covariance are drawn into seeded parts; what each part's own
greedy search chooses meets in a last one (GreeDi: Mirzasoleiman, Karbasi, Sarkar, Krause, JMLR
2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import pi, sqrt
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from igniter_prof.errors import BadInput
from igniter_prof.fitting.latency_models import latency_model
from igniter_prof.fitting.model import Fitted
from igniter_prof.fitting.points import (
    BoolArray,
    FloatArray,
    IntArray,
    Points,
    arrange,
    effective_share,
    observe,
)
from igniter_prof.records import Device, IgniterProfile, Measurement, Tenant

REFERENCE_ROWS = 1_000
"""At most about so many rows stand for all candidates in what is to become certain."""

EXACT_ROWS = 3_000
"""Up to so many rows one covariance holds all candidates, and the search is exactly greedy."""

PART_ROWS = 1_500
"""Rows of each part of more candidates than that."""

HALF_WIDTH = 1.6449
"""Half-width of a 90% interval of a normal distribution, in standard deviations."""

MEAN_ABSOLUTE = sqrt(2.0 / pi)
"""Mean absolute value of a normal distribution, in standard deviations."""

_TIE = 1e-9
"""Gains that differ by less, relative to the best, are alike: the order of the file decides."""

_LEAST_NOISE = 1e-10

_ANEW = 1.1
"""How many times the co-located cells of the last fit from scratch there are at the next one."""


@runtime_checkable
class Uncertain(Protocol):
    """A fitted model that knows how uncertain it is, jointly over rows."""

    @property
    def noise(self) -> float:
        """Variance of ln of one measured mean about the truth."""
        ...

    def covariance(self, x: Points) -> FloatArray:
        """Posterior covariance of ln latency, without that noise, (n_rows, n_rows)."""
        ...


@dataclass(frozen=True)
class Choice:
    """A cell to measure, and what all candidates' rows gain by it, in the mean over cells.

    Half-widths are of 90% intervals of what would be measured, errors the expected absolute ones
    of the prediction against the truth, both relative, in percent.
    """

    index: int
    """of the cell among the candidates"""
    half_width_before_pct: float
    half_width_after_pct: float
    error_before_pct: float
    error_after_pct: float


Forecasts = tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]
"""Of some cells: mean latency of each tenant in ms, and its expected absolute error in percent."""


@dataclass(frozen=True)
class Proposal:
    """What to measure next, and what is expected of it."""

    cells: tuple[int, ...]
    """indices among the candidates, the best first"""
    error_pct: float
    """mean expected absolute error over all candidates' tenants now"""
    error_after_pct: tuple[float, ...]
    """the same after one, two, … of the cells"""
    forecast: Callable[[Sequence[int]], Forecasts]
    """what is said of candidates, by their indices; errors are against what will be measured"""


def suggest(
    measurements: Sequence[Measurement],
    device: Device,
    candidates: Sequence[Sequence[Tenant]],
    count: int,
    *,
    model: str = "igprof",
    seed: int = 0,
    igniter: IgniterProfile | None = None,
) -> list[Choice]:
    """The next ``count`` cells to measure, the best first; fewer if there are fewer candidates.

    Candidates that are measured already, or stand there a second time, come after all others.

    Args:
        measurements: of one device type.
        device: that they were measured on.
        candidates: tenants of each cell.
        count: how many to choose, at least 1.
        model: name of the latency model.
        seed: of the fit, the reference rows and the parts.
        igniter: iGniter's lightweight profile of the device, where there is one.

    Raises:
        BadInput: a model of a candidate was never measured alone, the latency model does not know
            how uncertain it is, or nothing can be fitted.
    """
    fitted, models = _fit(measurements, device, candidates, model, seed, igniter, None)
    index = {name: number for number, name in enumerate(models)}
    return choose(
        require_uncertain(fitted, model),
        arrange(candidates, index, device),
        count,
        seed=seed,
        last=_known(measurements, candidates, device),
    )


class Proposer:
    """Proposes cells of an adaptive sweep; each fit starts from the one before."""

    def __init__(
        self,
        device: Device,
        *,
        model: str = "igprof",
        seed: int = 0,
    ) -> None:
        """See ``suggest`` for the arguments. Raises BadInput: an unknown latency model."""
        latency_model(model)
        self._device = device
        self._model = model
        self._seed = seed
        self._last: Fitted | None = None
        self._models: tuple[str, ...] = ()
        self._together_at_start = 0

    def __call__(
        self,
        measurements: Sequence[Measurement],
        candidates: Sequence[Sequence[Tenant]],
        count: int,
    ) -> Proposal:
        """Fit what is measured, and choose ``count`` of the candidates. Raises as ``suggest``."""
        # a fit that starts from another keeps its kernels: with much more data they are found anew
        together = sum(len(one.tenants) > 1 for one in measurements)
        if together >= _ANEW * self._together_at_start:
            self._last, self._together_at_start = None, together
        last = None if self._last is None else (self._models, self._last)
        fitted, models = _fit(
            measurements, self._device, candidates, self._model, self._seed, None, last
        )
        self._last, self._models = fitted, models
        known = require_uncertain(fitted, self._model)
        index = {name: number for number, name in enumerate(models)}
        choices = choose(known, arrange(candidates, index, self._device), count, seed=self._seed)

        def forecast(cells: Sequence[int]) -> Forecasts:
            wanted = [candidates[cell] for cell in cells]
            x = arrange(wanted, index, self._device)
            latency = iter(fitted.latency_ms(x).tolist())
            spread = np.sqrt(np.maximum(np.diag(known.covariance(x)), 0.0) + known.noise)
            expected = iter((100.0 * MEAN_ABSOLUTE * spread).tolist())
            return (
                tuple(tuple(next(latency) for _ in cell) for cell in wanted),
                tuple(tuple(next(expected) for _ in cell) for cell in wanted),
            )

        return Proposal(
            cells=tuple(choice.index for choice in choices),
            error_pct=choices[0].error_before_pct,
            error_after_pct=tuple(choice.error_after_pct for choice in choices),
            forecast=forecast,
        )


def require_uncertain(fitted: Fitted, model: str) -> Uncertain:
    """A fitted model that has a covariance. Raises BadInput: this latency model has none."""
    if not isinstance(fitted, Uncertain):
        raise BadInput(
            f"the latency model '{model}' does not know how uncertain its predictions are,"
            " so it cannot say which cell would help most",
            hint="--model igprof",
        )
    return fitted


def choose(
    fitted: Uncertain,
    x: Points,
    count: int,
    *,
    seed: int = 0,
    last: BoolArray | None = None,
) -> list[Choice]:
    """The cells of ``x`` whose measurement takes most of the variance of all of ``x``.

    Args:
        fitted: says how uncertain each row is.
        x: candidate cells, numbered 0, 1, …
        count: how many to choose; all if it is more than there are.
        seed: of the reference rows, and of the parts where one covariance does not hold all.
        last: cells that come after all others, (n_cells,).
    """
    cells = _Cells.of(x, np.zeros(_cell_count(x), dtype=bool) if last is None else last)
    count = min(count, len(cells.order))
    rng = np.random.default_rng(seed)
    reference = _reference(cells, rng)
    everything = np.arange(len(cells.order))
    if len(x) <= EXACT_ROWS:
        found = _search(fitted, x, cells, everything, reference, count)
        return _choices(fitted.noise, found)
    parts = -(-len(x) // PART_ROWS)
    room = EXACT_ROWS // cells.width
    each = max(-(-2 * count // parts), min(count, room // parts))
    best: list[tuple[float, int]] = []
    for part in np.array_split(rng.permutation(everything), parts):
        picked = _search(fitted, x, cells, np.sort(part), reference, each)
        best += [(-step.gain, step.cell) for step in picked.steps]
    # what was already measured may only follow, and what is best by itself goes first
    best.sort(key=lambda entry: (bool(cells.last[entry[1]]), entry[0], cells.order[entry[1]]))
    pool = np.sort(np.array([cell for _, cell in best[: 2 * room]]))
    found = _search(fitted, x, cells, pool, reference, count)
    taken = {step.cell for step in found.steps}
    rest = [cell for _, cell in best if cell not in taken][: count - len(taken)]
    return _choices(fitted.noise, found) + _unsearched(fitted.noise, cells, found, rest)


@dataclass(frozen=True)
class _Cells:
    """Cells in an order of their own content, so that the file's does not matter."""

    rows: IntArray
    """(n_cells, width) rows of the points, -1 where a cell has fewer tenants"""
    order: IntArray
    """(n_cells,) number of each in the file"""
    last: BoolArray
    """(n_cells,) those that come after all others: measured, or the same as an earlier one"""

    @property
    def width(self) -> int:
        return int(self.rows.shape[1])

    @staticmethod
    def of(x: Points, last: BoolArray) -> _Cells:
        table = np.stack([x.model, x.batch, x.share, x.scale, x.instances], axis=1)
        members: list[list[int]] = [[] for _ in range(_cell_count(x))]
        for row, cell in enumerate(x.cell.tolist()):
            members[cell].append(row)
        contents = table.tolist()
        keys = [tuple(sorted(tuple(contents[row]) for row in rows)) for rows in members]
        order = sorted(range(len(members)), key=lambda cell: (keys[cell], cell))
        width = max((len(rows) for rows in members), default=1)
        rows = np.full((len(members), width), -1, dtype=np.int64)
        for place, cell in enumerate(order):
            # a cell's rows in an order of their content, too
            inside = sorted(members[cell], key=lambda row: contents[row])
            rows[place, : len(inside)] = inside
        again = [
            place > 0 and keys[order[place]] == keys[order[place - 1]]
            for place in range(len(order))
        ]
        places = np.array(order, dtype=np.int64)
        return _Cells(rows, places, last[places] | np.array(again, dtype=bool))


@dataclass(frozen=True)
class _Step:
    cell: int
    gain: float


@dataclass(frozen=True)
class _Found:
    """Steps of a search; ``variance`` is (n_steps + 1, n_reference), ``weight`` sums to one."""

    steps: list[_Step]
    order: list[int]
    variance: list[FloatArray]
    weight: FloatArray


def _cell_count(x: Points) -> int:
    return int(x.cell.max()) + 1 if len(x) else 0


def _reference(cells: _Cells, rng: np.random.Generator) -> IntArray:
    """Cells, by their place, whose rows stand for all; drawn if there are too many."""
    count = len(cells.order)
    most = max(1, REFERENCE_ROWS // cells.width)
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, size=most, replace=False))


def _search(
    fitted: Uncertain,
    x: Points,
    cells: _Cells,
    pool: IntArray,
    reference: IntArray,
    count: int,
) -> _Found:
    """Greedy search among the cells ``pool`` for the reference cells, both by their places."""
    of_pool, of_reference = cells.rows[pool], cells.rows[reference]
    needed = np.unique(np.concatenate([of_pool.ravel(), of_reference.ravel()]))
    needed = needed[needed >= 0]
    covariance = np.asarray(fitted.covariance(x.take(needed)))
    there = of_reference >= 0
    weight = np.repeat(1.0 / there.sum(axis=1) / len(reference), there.sum(axis=1))
    state = _State(
        covariance,
        max(fitted.noise, _LEAST_NOISE),
        np.where(of_pool >= 0, np.searchsorted(needed, of_pool), -1),
        np.searchsorted(needed, of_reference[there]),
        weight,
        min(count, len(pool)),
    )
    waiting, later = ~cells.last[pool], cells.last[pool].copy()
    found = _Found([], [], [state.variance.copy()], weight)
    for _ in range(min(count, len(pool))):
        if not waiting.any():
            waiting, later = later, np.zeros_like(later)
        gains = np.where(waiting, state.gains(), -np.inf)
        best = float(gains.max())
        alike = np.flatnonzero(gains >= best - _TIE * max(abs(best), state.started))
        place = int(alike[np.argmin(cells.order[pool[alike]])])
        waiting[place] = False
        state.measure(place)
        cell = int(pool[place])
        found.steps.append(_Step(cell, float(gains[place])))
        found.order.append(int(cells.order[cell]))
        found.variance.append(state.variance.copy())
    return found


class _State:
    """A posterior covariance from which measured cells are taken, without ever updating it whole.

    C = C₀ - U Uᵀ; for each cell are kept its own block of C + s² I and of C W C, which is what the
    gains need. A measured cell costs one product with the reference's rows of C₀.
    """

    def __init__(
        self,
        covariance: FloatArray,
        noise: float,
        members: IntArray,
        reference: IntArray,
        weight: FloatArray,
        steps: int,
    ) -> None:
        """``members`` (n_cells, width), ``reference`` (n_reference,): rows of ``covariance``."""
        self._start = covariance
        self._members, self._reference, self._weight = members, reference, weight
        self._there = members >= 0
        self._rows = np.where(self._there, members, 0)
        self._from_reference = np.ascontiguousarray(covariance[reference])
        self.variance = np.maximum(np.diag(covariance)[reference], 0.0)
        both = self._there[:, :, None] & self._there[:, None, :]
        eye = np.eye(members.shape[1])
        block = covariance[self._rows[:, :, None], self._rows[:, None, :]]
        self._block = np.where(both, block, 0.0) + eye * np.where(self._there, noise, 1.0)[:, None]
        self._spread = np.zeros_like(self._block)
        for i in range(members.shape[1]):
            left = self._from_reference[:, self._rows[:, i]] * weight[:, None]
            for j in range(i, members.shape[1]):
                value = np.einsum("rc,rc->c", left, self._from_reference[:, self._rows[:, j]])
                self._spread[:, i, j] = self._spread[:, j, i] = value
        self._spread = np.where(both, self._spread, 0.0)
        # U, as far as it is filled; by columns, because it grows by columns
        self._columns = np.zeros((len(covariance), steps * members.shape[1]), order="F")
        self._filled = 0
        self.started = float(max(self.gains().max(), 0.0))

    def gains(self) -> FloatArray:
        """What each cell would take from the reference's weighted variance, (n_cells,)."""
        solved = np.linalg.solve(self._block, self._spread)
        return np.asarray(np.trace(solved, axis1=1, axis2=2))

    def measure(self, cell: int) -> None:
        """Take a cell as measured."""
        there = self._there[cell]
        rows = self._members[cell][there]
        known = self._columns[:, : self._filled]
        root = np.linalg.cholesky(self._block[cell][np.ix_(there, there)])
        columns = self._start[:, rows] - known @ known[rows].T
        new = np.linalg.solve(root, columns.T).T
        seen = new[self._reference]
        weighted = self._weight[:, None] * seen
        across = self._from_reference.T @ weighted
        across -= known @ (known[self._reference].T @ weighted)
        within = seen.T @ weighted
        u = np.where(self._there[:, :, None], new[self._rows], 0.0)
        a = np.where(self._there[:, :, None], across[self._rows], 0.0)
        mixed = np.einsum("cik,cjk->cij", u, a)
        self._spread += np.einsum("cik,kl,cjl->cij", u, within, u) - mixed
        self._spread -= mixed.transpose(0, 2, 1)
        self._block -= np.einsum("cik,cjk->cij", u, u)
        self.variance = np.maximum(self.variance - (seen**2).sum(axis=1), 0.0)
        self._columns[:, self._filled : self._filled + len(rows)] = new
        self._filled += len(rows)


def _choices(noise: float, found: _Found) -> list[Choice]:
    widths = [_half_width_pct(noise, found, variance) for variance in found.variance]
    errors = [
        100.0 * MEAN_ABSOLUTE * float(found.weight @ np.sqrt(variance))
        for variance in found.variance
    ]
    return [
        Choice(index, widths[i], widths[i + 1], errors[i], errors[i + 1])
        for i, index in enumerate(found.order)
    ]


def _half_width_pct(noise: float, found: _Found, variance: FloatArray) -> float:
    return 100.0 * HALF_WIDTH * float(found.weight @ np.sqrt(variance + noise))


def _unsearched(noise: float, cells: _Cells, found: _Found, rest: Sequence[int]) -> list[Choice]:
    """Cells beyond what one covariance holds, in the order of their parts' gains.

    What they bring is not computed: it is told as nothing, which is the least that it can be.
    """
    end = _choices(noise, found)[-1]
    return [
        Choice(
            int(cells.order[cell]),
            end.half_width_after_pct,
            end.half_width_after_pct,
            end.error_after_pct,
            end.error_after_pct,
        )
        for cell in rest
    ]


def _fit(
    measurements: Sequence[Measurement],
    device: Device,
    candidates: Sequence[Sequence[Tenant]],
    model: str,
    seed: int,
    igniter: IgniterProfile | None,
    last: tuple[tuple[str, ...], Fitted] | None,
) -> tuple[Fitted, tuple[str, ...]]:
    """The fitted model, and the models that it knows in the order of their numbers."""
    chosen = latency_model(model)
    wanted = dict.fromkeys(tenant.model for cell in candidates for tenant in cell)
    data, _ = observe(measurements, device, igniter)
    alone = {data.models[i] for i in data.points.model[data.points.tenants == 1].tolist()}
    for name in wanted:
        if name not in alone:
            raise BadInput(
                f"the model '{name}' of the candidates was never measured alone",
                hint=f"profile it alone first: igprof profile --models {name}"
                " --batch-sizes 1,2,4 --shares 25,50,100 --colocate none --out DIR; or import its"
                " cells alone too",
            )
    start = last[1] if last is not None and last[0] == data.models else None
    return chosen.fit(data, seed, start), data.models


def _known(
    measurements: Sequence[Measurement], candidates: Sequence[Sequence[Tenant]], device: Device
) -> npt.NDArray[np.bool_]:
    """Which candidates were measured already, with whatever end, (n_cells,)."""
    done = {_key([each.tenant for each in one.tenants], device) for one in measurements}
    return np.array([_key(cell, device) in done for cell in candidates], dtype=bool)


def _key(tenants: Sequence[Tenant], device: Device) -> tuple[str | float, ...]:
    rows = sorted(
        (t.model, t.batch_size, effective_share(t, device), t.input_scale, t.instances)
        for t in tenants
    )
    return tuple(chain.from_iterable(rows))
