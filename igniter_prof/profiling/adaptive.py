"""Adaptive sweeps: measure only until the rest is predicted well enough.

First the cells alone and a few co-located ones that lie far apart. Then rounds: a function of the
caller's fits what is there and proposes a batch. Half of it is what would help most, the other half
is drawn at random from the rest, because only that tells how well the rest is predicted. The batch
is measured and compared with what was predicted of it before: an honest hold-out, by whose drawn
half the predicted error is calibrated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import ceil, log
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np

from igniter_prof.errors import BadInput
from igniter_prof.files import read_record, write_json
from igniter_prof.profiling.runner import Campaign, Outcome, Progress, campaign
from igniter_prof.records import SCHEMA_VERSION, Cell, Measurement, Record, Sweep, Tenant
from igniter_prof.session import CellContext

STATE: Final = "adaptive.json"
"""Beside a profile's manifest: what each round predicted before it was measured."""

SOLO_CELLS = 24
"""So many cells of each model alone are measured first; more are candidates like all others."""

STARTS_PER_MODEL = 2
LEAST_BATCH = 4
REFIT_PART = 0.1
"""Of the measuring time, that fitting and choosing may take."""
LARGEST_BATCH = 0.25
"""Of the cells that are measured: so a batch never decides blindly about most of a sweep."""
FORESIGHT = 3
"""So many batches are looked ahead, to tell how many cells are left."""

CALIBRATING_CELLS = 24
"""So many of the cells drawn last say how far the predicted error is off."""
TESTED_CELLS = 8
"""Without so many drawn cells the target is not taken as reached."""
TESTED_PART = 1 / 16
"""In a small sweep this part of its points is enough, but at least two."""
PRIOR_CELLS = 2.0
"""The model's own word counts as much as so many drawn cells."""

Reason = Literal["target", "max_cells", "exhausted", "interrupted"]


Forecasts = tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]
"""Of some cells: mean latency of each tenant in ms, and its expected absolute error in percent
against what will be measured."""


class Proposal(Protocol):
    """What to measure next; errors are expected absolute relative ones, in percent."""

    @property
    def cells(self) -> tuple[int, ...]:
        """Indices among the candidates, the best first."""
        ...

    @property
    def error_pct(self) -> float:
        """Mean expected error over all candidates now."""
        ...

    @property
    def error_after_pct(self) -> tuple[float, ...]:
        """The same after one, two, … of the cells."""
        ...

    @property
    def forecast(self) -> Callable[[Sequence[int]], Forecasts]:
        """What is said of candidates, by their indices."""
        ...


Propose = Callable[[Sequence[Measurement], Sequence[Sequence[Tenant]], int], Proposal]
"""From what is measured, the candidates and a number of cells to a proposal."""


class Round(Record):
    """One round: what was proposed, and what was said of it before it was measured."""

    measured_cells: int
    """before it, without baselines"""
    predicted_error_pct: float
    """mean expected error of what was not measured, then; calibrated"""
    cells: tuple[str, ...]
    """ids of the first measurement of each point"""
    drawn: int
    """so many of them, the last, were drawn at random"""
    predicted_ms: tuple[tuple[float, ...], ...]
    expected_pct: tuple[tuple[float, ...], ...]


class State(Record):
    """``adaptive.json``: the rounds so far, and what the last fit said."""

    schema_version: Literal[1] = SCHEMA_VERSION
    rounds: tuple[Round, ...] = ()
    measured_cells: int | None = None
    """at the last fit; None: there was none"""
    predicted_error_pct: float | None = None


@dataclass(frozen=True)
class RoundProgress:
    """Told after each fit."""

    number: int
    """rounds that are measured"""
    measured_cells: int
    candidates: int
    """points that are not measured"""
    predicted_error_pct: float
    seen_error_pct: float | None
    """mean absolute error of what was predicted for the cells just measured; None: none was"""
    drawn_error_pct: float | None
    """the same of those among them that were drawn at random"""
    seen_cells: int


@dataclass(frozen=True)
class AdaptiveOutcome:
    """How an adaptive sweep ended."""

    outcome: Outcome
    reason: Reason
    measured_cells: int
    """without baselines, those of earlier runs too"""
    candidates: int
    predicted_error_pct: float | None
    drawn_error_pct: float | None
    """mean absolute error of what was predicted for the cells drawn last"""
    rounds: int


def profile_adaptively(
    sweep: Sweep,
    cells: Sequence[Cell],
    context: CellContext,
    out: Path,
    propose: Propose,
    *,
    target_error_pct: float = 3.0,
    max_cells: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_round: Callable[[RoundProgress], None] | None = None,
    **how: Any,
) -> AdaptiveOutcome:
    """Measure those of ``cells`` that help most, until the others are predicted well enough.

    Guarantees and further arguments (``skips``, ``measure_cell``, ``on_cell``, ``on_interrupt``)
    are those of ``profile``. The profile is one of all ``cells``, of which many are not there.

    Args:
        sweep: what was asked for.
        cells: of the sweep, with baselines.
        context: the device and how its cells are served.
        out: the profile's folder.
        propose: fits and chooses.
        target_error_pct: mean expected error of what was not measured, at which it stops.
        max_cells: at most so many cells are stored, without baselines; None: all.
        on_progress: told after each cell.
        on_round: told after each fit.

    Raises:
        BadInput: as ``profile``; the load is not a closed loop of one batch in flight; ``propose``
            could not fit what was measured.
    """
    require_predictable(sweep)
    with ExitStack() as stack:
        run = stack.enter_context(campaign(sweep, cells, context, out, **how))
        path = out / STATE
        state = read_record(path, State) if path.exists() else State()
        return _Adaptive(
            run, sweep, cells, path, state, propose, target_error_pct, max_cells, on_progress
        ).go(on_round)


def require_predictable(sweep: Sweep) -> None:
    """Raise BadInput for a load whose latency no model predicts."""
    if sweep.load.kind != "closed" or sweep.load.concurrency != 1:
        raise BadInput(
            "an adaptive sweep needs a closed loop of one batch in flight:"
            " that is what latency models predict",
            hint="leave load out, or profile without --adaptive",
        )


def start_cells(cells: Sequence[Cell], seed: int) -> list[Cell]:
    """What is measured before anything is fitted: cells alone, then a few co-located ones.

    Of each model at most ``SOLO_CELLS`` points alone: the corners of its grid, then others in the
    sweep's (seeded) order. Of the co-located points twice as many as there are models, each as far
    as possible from those before (Kennard and Stone, Technometrics 1969).
    """
    points = list(_points(cells))
    solo = [cell for cell in points if len(cell.tenants) == 1]
    chosen: list[Cell] = []
    for model in dict.fromkeys(cell.tenants[0].model for cell in solo):
        mine = [cell for cell in solo if cell.tenants[0].model == model]
        table = np.array([_quantities(cell.tenants[0]) for cell in mine])
        corner = ((table == table.min(axis=0)) | (table == table.max(axis=0))).all(axis=1)
        order = sorted(range(len(mine)), key=lambda i: not corner[i])
        chosen += [mine[i] for i in order[:SOLO_CELLS]]
    kept = set(chosen)
    together = [cell for cell in points if len(cell.tenants) > 1]
    alone = [cell for cell in points if cell in kept]
    return alone + _far_apart(together, seed)


def _points(cells: Iterable[Cell]) -> dict[Cell, list[Cell]]:
    """The cells of each point (its repeats), without baselines, in their order."""
    found: dict[Cell, list[Cell]] = {}
    for cell in cells:
        if not cell.baseline:
            found.setdefault(cell.model_copy(update={"repeat": 0}), []).append(cell)
    return found


def _quantities(tenant: Tenant) -> tuple[float, ...]:
    return (
        log(tenant.batch_size),
        tenant.share_pct or 100.0,
        log(tenant.instances),
        tenant.input_scale,
        tenant.cpu_cores or 0.0,
        tenant.memory_mib or 0.0,
        float(bool(tenant.gpu)),
    )


def _far_apart(cells: Sequence[Cell], seed: int) -> list[Cell]:
    models = sorted({tenant.model for cell in cells for tenant in cell.tenants})
    count = min(len(cells), max(LEAST_BATCH, STARTS_PER_MODEL * len(models)))
    if not count:
        return []
    flat = np.array([_quantities(tenant) for cell in cells for tenant in cell.tenants])
    least = flat.min(axis=0)
    span = np.where(np.ptp(flat, axis=0) > 0, np.ptp(flat, axis=0), 1.0)
    width = 1 + flat.shape[1]
    table = np.zeros((len(cells), len(models) * width))
    for row, cell in enumerate(cells):
        for tenant in cell.tenants:
            at = models.index(tenant.model) * width
            # that a model is there at all counts as much as all that it could vary in
            table[row, at] += 2.0
            table[row, at + 1 : at + width] += (np.array(_quantities(tenant)) - least) / span
    picked = [random.Random(seed).randrange(len(cells))]
    distance = np.full(len(cells), np.inf)
    while len(picked) < count:
        distance = np.minimum(distance, ((table - table[picked[-1]]) ** 2).sum(axis=1))
        distance[picked] = -1.0
        picked.append(int(distance.argmax()))
    return [cells[i] for i in picked]


@dataclass
class _Adaptive:
    """One run of an adaptive sweep."""

    run: Campaign
    sweep: Sweep
    cells: Sequence[Cell]
    path: Path
    state: State
    propose: Propose
    target_pct: float
    max_cells: int | None
    on_progress: Callable[[Progress], None] | None
    foreseen: int | None = None
    """cells that are expected to be left, once something was fitted"""
    points: dict[Cell, list[Cell]] = field(init=False)
    baselines: list[Cell] = field(init=False)
    by_id: dict[str, Cell] = field(init=False)

    def __post_init__(self) -> None:
        self.points = _points(self.cells)
        ordered = sorted((c for c in self.cells if c.baseline), key=lambda cell: cell.repeat)
        self.baselines = ordered
        self.by_id = {point.cell_id: point for point in self.points}

    def go(self, on_round: Callable[[RoundProgress], None] | None) -> AdaptiveOutcome:
        """See ``profile_adaptively``."""
        reason = self._start() or self._rounds(on_round)
        if reason != "interrupted" and not self._baseline(ceil(self.count / self._every)):
            reason = "interrupted"
        return AdaptiveOutcome(
            outcome=self.run.outcome(complete=reason != "interrupted"),
            reason=reason,
            measured_cells=self.count,
            candidates=len(self._candidates()),
            predicted_error_pct=self.state.predicted_error_pct,
            drawn_error_pct=_mean([error for cell in self._drawn() for error, _ in cell]),
            rounds=len(self.state.rounds),
        )

    @property
    def count(self) -> int:
        """Cells that are stored, without baselines."""
        return sum(not one.cell.baseline for one in self.run.found)

    @property
    def _every(self) -> int:
        return self.sweep.baseline_every or 1

    def _start(self) -> Reason | None:
        start = start_cells(self.cells, self.sweep.seed)
        alone = [cell for cell in start if len(cell.tenants) == 1]
        if (reason := self._measure(alone)) is not None:
            return reason
        able = self._able()
        rest = [
            cell
            for cell in start
            if len(cell.tenants) > 1 and {tenant.model for tenant in cell.tenants} <= able
        ]
        return self._measure(rest)

    def _rounds(self, on_round: Callable[[RoundProgress], None] | None) -> Reason:
        told = len(self.state.rounds)
        while True:
            # of a round that a kill cut short, the rest
            last = self.state.rounds[-1:]
            pending = [self.by_id[i] for each in last for i in each.cells if i in self.by_id]
            if (reason := self._measure(pending)) is not None:
                return reason
            candidates = self._candidates()
            if not candidates:
                return "exhausted"
            if self.state.measured_cells == self.count and self._reached():
                return "target"
            if self.run.interrupted:
                return "interrupted"
            began = time.monotonic()
            size = self._batch(0.0)
            proposal = self.propose(
                self._usable(), [cell.tenants for cell in candidates], FORESIGHT * size
            )
            took_s = time.monotonic() - began
            factor = self._calibration()
            error_pct = factor * proposal.error_pct
            self._save(self.state.rounds, error_pct)
            if on_round is not None:
                on_round(self._told(self.state.rounds[told:][-1:], len(candidates), error_pct))
            told = len(self.state.rounds)
            if self._reached():
                return "target"
            if self.max_cells is not None and self.count >= self.max_cells:
                return "max_cells"
            needed = self._needed(proposal, factor)
            size = min(self._batch(took_s), max(LEAST_BATCH, needed), len(proposal.cells))
            batch, drawn = self._mixed(proposal.cells, size, len(candidates))
            self.foreseen = min(max(needed, len(batch)), len(candidates))
            predicted_ms, expected_pct = proposal.forecast(batch)
            chosen = Round(
                measured_cells=self.count,
                predicted_error_pct=error_pct,
                cells=tuple(candidates[i].cell_id for i in batch),
                drawn=drawn,
                predicted_ms=predicted_ms,
                expected_pct=expected_pct,
            )
            # before it is measured: what was said of it may not be said again afterwards
            self._save((*self.state.rounds, chosen), error_pct)

    def _save(self, rounds: tuple[Round, ...], error_pct: float) -> None:
        self.state = State(rounds=rounds, measured_cells=self.count, predicted_error_pct=error_pct)
        write_json(self.path, self.state)

    def _told(self, fresh: Sequence[Round], candidates: int, error_pct: float) -> RoundProgress:
        cells = [cell for each in fresh for cell in self._errors(each)]
        drawn = [
            cell for each in fresh for cell in self._errors(each)[len(each.cells) - each.drawn :]
        ]
        return RoundProgress(
            number=len(self.state.rounds),
            measured_cells=self.count,
            candidates=candidates,
            predicted_error_pct=error_pct,
            seen_error_pct=_mean([error for cell in cells for error, _ in cell]),
            drawn_error_pct=_mean([error for cell in drawn for error, _ in cell]),
            seen_cells=len(cells),
        )

    def _mixed(self, best: Sequence[int], size: int, candidates: int) -> tuple[list[int], int]:
        """A batch: the best half, and others drawn at random; and how many these are."""
        chosen = list(best[: ceil(size / 2)])
        others = sorted(set(range(candidates)) - set(chosen))
        rng = random.Random(f"{self.sweep.seed} {len(self.state.rounds)}")
        drawn = rng.sample(others, min(size - len(chosen), len(others)))
        return [*chosen, *drawn], len(drawn)

    def _reached(self) -> bool:
        """Whether the target is, by a prediction that was put to the test."""
        error_pct = self.state.predicted_error_pct
        enough = min(TESTED_CELLS, max(2, int(TESTED_PART * len(self.points))))
        tested = len(self._drawn()) >= enough
        return tested and error_pct is not None and error_pct <= self.target_pct

    def _measure(self, points: Sequence[Cell]) -> Reason | None:
        """Measure what is not stored of some points; a reason: it ended before all were."""
        for point in points:
            for cell in self.points[point]:
                if cell.cell_id in self.run.done:
                    continue
                if self.max_cells is not None and self.count >= self.max_cells:
                    return "max_cells"
                number = self.count
                if number % self._every == 0 and not self._baseline(number // self._every):
                    return "interrupted"
                if not self._one(cell):
                    return "interrupted"
        return None

    def _baseline(self, number: int) -> bool:
        """Measure a baseline if the sweep has it and it is not there; False: interrupted."""
        if number >= len(self.baselines) or self.baselines[number].cell_id in self.run.done:
            return True
        return self._one(self.baselines[number])

    def _one(self, cell: Cell) -> bool:
        measurement = self.run.measure(cell)
        if measurement is None:
            return False
        if self.foreseen is not None and not cell.baseline:
            self.foreseen = max(self.foreseen - 1, 0)
        if self.on_progress is not None:
            most = len(self.run.planned - self.run.done - self.run.skips.keys())
            left = most if self.foreseen is None else min(most, self.foreseen)
            if self.max_cells is not None:
                left = min(left, max(self.max_cells - self.count, 0))
            done = len(self.run.done)
            self.on_progress(Progress(done, done + left, left, measurement, foreseen=True))
        return True

    def _usable(self) -> list[Measurement]:
        """What can be fitted: not of models that were never measured alone."""
        able = self._able()
        return [
            one for one in self.run.found if {tenant.model for tenant in one.cell.tenants} <= able
        ]

    def _able(self) -> set[str]:
        """Models that were measured alone with success."""
        return {
            one.tenants[0].tenant.model
            for one in self.run.found
            if len(one.tenants) == 1 and one.tenants[0].status == "ok"
        }

    def _candidates(self) -> list[Cell]:
        """Points that are not measured and can be, of models that can be predicted."""
        able = self._able()
        return [
            point
            for point, repeats in self.points.items()
            if not any(cell.cell_id in self.run.done for cell in repeats)
            and not any(cell.cell_id in self.run.skips for cell in repeats)
            and {tenant.model for tenant in point.tenants} <= able
        ]

    def _batch(self, took_s: float) -> int:
        """How many cells to measure before the next fit, which is expected to take so long."""
        known = [one.duration_s for one in self.run.found if not one.cell.baseline]
        cell_s = max(float(np.mean(known)), 1e-3) if known else 1.0
        repeats = max(self.sweep.repeats, 1)
        wanted = ceil(took_s / (REFIT_PART * cell_s * repeats))
        most = max(LEAST_BATCH, int(LARGEST_BATCH * self.count / repeats))
        return min(max(LEAST_BATCH, wanted), most)

    def _needed(self, proposal: Proposal, factor: float) -> int:
        """How many cells are expected to be left until the target is reached."""
        errors = [factor * error for error in proposal.error_after_pct]
        for number, error in enumerate(errors, start=1):
            if error <= self.target_pct:
                return number
        start, end = factor * proposal.error_pct, errors[-1]
        if not 0 < end < start:
            return len(self.points)
        # the error falls more slowly than exponentially, so this is the least
        more = log(end / self.target_pct) / log(start / end) * len(errors)
        return len(errors) + ceil(min(more, len(self.points)))

    def _calibration(self) -> float:
        """Seen over expected error of the cells drawn last, drawn to 1 where they are few."""
        cells = self._drawn()
        if not cells:
            return 1.0
        seen = sum(float(np.mean([error for error, _ in cell])) for cell in cells)
        expected = sum(float(np.mean([spread for _, spread in cell])) for cell in cells)
        prior = PRIOR_CELLS * expected / len(cells)
        return (prior + seen) / max(prior + expected, 1e-12)

    def _drawn(self) -> list[list[tuple[float, float]]]:
        """The errors of the last cells that were drawn at random."""
        found = [
            cell
            for each in self.state.rounds
            for cell in self._errors(each)[len(each.cells) - each.drawn :]
            if cell
        ]
        return found[-CALIBRATING_CELLS:]

    def _errors(self, each: Round) -> list[list[tuple[float, float]]]:
        """For each cell and tenant the absolute error in percent, and the expected one.

        A cell that failed, or is not measured yet, has none.
        """
        found = {one.cell_id: one for one in self.run.found}
        cells = []
        for cell_id, predicted, expected in zip(
            each.cells, each.predicted_ms, each.expected_pct, strict=True
        ):
            tenants = found[cell_id].tenants if cell_id in found else ()
            sound = all(tenant.status == "ok" for tenant in tenants)
            cells.append(
                [
                    (100.0 * abs(value / tenant.latency.mean_ms - 1.0), spread)
                    for tenant, value, spread in zip(tenants, predicted, expected, strict=False)
                    if sound and tenant.latency is not None
                ]
            )
        return cells


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
