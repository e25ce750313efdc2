"""How far a fit may be trusted: errors of what it has not seen, in growing distance from it.

Cross-validation by points (which also gives the intervals), by sets of co-located models, by model
and by device; and a learning curve over the number of co-located cells. Every part is a number of
refits; those that the time does not suffice for are left out, with a note.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from igniter_prof.errors import BadInput
from igniter_prof.fitting import accuracy, conformal
from igniter_prof.fitting.holdout import NEVER, mixes_of_cells, point_folds
from igniter_prof.fitting.model import Fitted, LatencyModel
from igniter_prof.fitting.points import BoolArray, FloatArray, IntArray, Observations
from igniter_prof.records import FitError, IntervalCheck, LearningPoint

FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Parts of the co-located cells that the learning curve fits to."""

_FOLDS, _FEW_FOLDS = 10, 5
_MANY_POINTS = 100
"""Points from which ten folds are made instead of five."""


def silent(_: str) -> None:
    """The progress callback of those who do not want to hear of it."""


@dataclass(frozen=True)
class Part:
    """One refit: it sees ``train`` and is judged on ``test``, masks of (n_rows,)."""

    label: str
    train: BoolArray
    test: BoolArray


@dataclass(frozen=True)
class Unseen:
    """What refits said of rows that they had not seen; (n_rows,), NaN where no refit tested."""

    predicted_ms: FloatArray
    log_scale: FloatArray
    fold: IntArray
    """Which refit; ``NEVER`` where none tested."""

    @property
    def tested(self) -> BoolArray:
        """Rows that a refit tested, (n_rows,)."""
        return np.asarray(self.fold != NEVER)


@dataclass(frozen=True)
class Validation:
    """What goes into the fit report; ``notes`` say what was left out and why."""

    cross_validated: dict[str, FitError] = field(default_factory=dict)
    learning_curve: tuple[LearningPoint, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Clock:
    """The time that validation may take, and how long its refits last."""

    seconds: float
    now: Callable[[], float] = time.monotonic
    began: float = field(init=False)
    longest_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Start."""
        self.began = self.now()

    def refits_left(self, parts: int = 1) -> int:
        """How many refits as slow as the slowest so far end in one of ``parts`` of what is left."""
        left = (self.seconds - (self.now() - self.began)) / parts
        if left <= 0:
            return 0
        return int(min(left / max(self.longest_s, 1e-6), 1_000_000))


# --- the parts ------------------------------------------------------------------------------------


def parts_by_point(data: Observations, seed: int) -> list[Part]:
    """Ten folds of whole points, five where there are few; empty if nothing can be held out."""
    folds = _FOLDS if len(np.unique(data.group)) >= _MANY_POINTS else _FEW_FOLDS
    fold = point_folds(data, folds, seed)
    return [
        Part(f"fold {number + 1}", fold != number, fold == number)
        for number in range(folds)
        if (fold == number).any()
    ]


def parts_by_mix(data: Observations) -> list[Part]:
    """Each set of co-located models, predicted as one that was never measured together.

    The refit sees no cell that holds all models of the set; it is judged on the cells of just this
    set. Where the profile has one set only, the refit sees nothing but models alone.
    """
    mix_of = mixes_of_cells(data)
    parts = []
    for mix in sorted({m for m in mix_of.values() if len(m) > 1}):
        wider = [cell for cell, other in mix_of.items() if _holds(other, mix)]
        exact = [cell for cell in wider if mix_of[cell] == mix]
        label = "+".join(data.models[m] for m in mix)
        parts.append(
            Part(label, ~np.isin(data.points.cell, wider), np.isin(data.points.cell, exact))
        )
    return parts


def parts_by_model(data: Observations) -> list[Part]:
    """Each model, predicted beside neighbours as one that was measured alone only.

    The refit sees no co-located cell of the model; it is judged on the model's own rows in them.
    """
    x = data.points
    parts = []
    for index, name in enumerate(data.models):
        mine = (x.model == index) & (x.tenants > 1)
        if mine.any():
            parts.append(Part(name, ~np.isin(x.cell, np.unique(x.cell[mine])), mine))
    return parts


def parts_by_device(data: Observations, device_of: Mapping[str, str]) -> list[Part]:
    """Each device, predicted from the others; empty where the profile has one device only."""
    devices = np.array([device_of.get(cell, "") for cell in data.cell_id])
    names = sorted(set(devices.tolist()))
    if len(names) < 2:
        return []
    return [Part(name, devices != name, devices == name) for name in names]


def _holds(mix: Sequence[int], part: Sequence[int]) -> bool:
    return all(mix.count(model) >= part.count(model) for model in part)


# --- refits ---------------------------------------------------------------------------------------


def refit(
    data: Observations,
    model: LatencyModel,
    parts: Sequence[Part],
    seed: int,
    *,
    start: Fitted | None = None,
    clock: Clock | None = None,
    tell: Callable[[str], None] = silent,
) -> tuple[Unseen, tuple[str, ...]]:
    """Fit to each part's train rows and predict its test rows.

    Returns what was predicted, and notes of refits for which the data does not suffice. Tests of
    different parts must not overlap.
    """
    n = len(data)
    predicted, scale = np.full(n, np.nan), np.full(n, np.nan)
    fold = np.full(n, NEVER, dtype=np.int64)
    notes: list[str] = []
    for number, part in enumerate(parts):
        tell(f"{part.label} ({number + 1}/{len(parts)})")
        began = clock.now() if clock else 0.0
        try:
            fitted = model.fit(data.take(part.train), seed, start)
        except BadInput as error:
            notes.append(f"validation without {part.label}: {error.what}")
            continue
        # a prediction needs the whole cell, a test may be of one of its rows
        whole = np.isin(data.points.cell, np.unique(data.points.cell[part.test]))
        test = part.test[whole]
        x = data.points.take(np.flatnonzero(whole))
        predicted[part.test] = fitted.latency_ms(x)[test]
        scale[part.test] = fitted.log_scale(x)[test]
        fold[part.test] = number
        if clock:
            clock.longest_s = max(clock.longest_s, clock.now() - began)
    return Unseen(predicted, scale, fold), tuple(notes)


def error_of(data: Observations, unseen: Unseen, rows: BoolArray | None = None) -> FitError:
    """Errors over the tested rows, or over those of them that a mask (n_rows,) names."""
    wanted = unseen.tested if rows is None else unseen.tested & rows
    return accuracy.fit_error_of(data, unseen.predicted_ms, wanted)


def held_scores(data: Observations, unseen: Unseen) -> conformal.Held:
    """The scores of the tested rows, see ``conformal``."""
    rows = unseen.tested
    error = np.log(data.latency_ms[rows] / unseen.predicted_ms[rows])
    scale = unseen.log_scale[rows]
    return conformal.Held(error / scale, scale, data.points.tenants[rows] == 1, unseen.fold[rows])


def interval_checks(held: conformal.Held) -> dict[str, IntervalCheck]:
    """Coverage and width of the intervals, each fold against the scores of the others."""
    found = conformal.check(held)
    groups = {
        "all": np.ones(len(held.alone), dtype=bool),
        "solo": held.alone,
        "co-located": ~held.alone,
    }
    return {
        name: IntervalCheck(
            tenants=int(rows.sum()),
            coverage_pct=100.0 * float(found.inside[rows].mean()),
            half_width_pct=100.0 * float(np.median(found.half_width[rows])),
        )
        for name, rows in groups.items()
        if rows.any() and np.isfinite(found.half_width[rows]).all()
    }


# --- all of it ------------------------------------------------------------------------------------


def validate(
    data: Observations,
    model: LatencyModel,
    *,
    held: BoolArray,
    held_error: FitError,
    device_of: Mapping[str, str],
    seed: int,
    clock: Clock,
    start: Fitted | None = None,
    tell: Callable[[str], None] = silent,
) -> Validation:
    """Cross-validate by sets of models, by model and by device, and draw the learning curve.

    Args:
        data: the profile.
        model: the latency model.
        held: rows of the hold-out, (n_rows,).
        held_error: of the fit to all the rest, on the co-located rows of the hold-out.
        device_of: each cell's device, by the cell's id.
        seed: of the fits, and of which refits are done where the time does not suffice for all.
        clock: the time that it may take; its ``longest_s`` may hold what a refit took before.
        start: see ``LatencyModel.fit``.
        tell: told what is being done.
    """
    rng = np.random.default_rng(seed)
    errors: dict[str, FitError] = {}
    notes: list[str] = []
    kinds = {
        "pairs": parts_by_mix(data),
        "models": parts_by_model(data),
        "devices": parts_by_device(data, device_of),
    }
    kinds = {name: parts for name, parts in kinds.items() if parts}
    for number, (name, parts) in enumerate(kinds.items()):
        # each kind, and the learning curve, may take an equal part of the time that is left
        possible = clock.refits_left(len(kinds) - number + 1)
        if possible < len(parts):
            done = "nothing" if not possible else f"{possible} of {len(parts)}"
            notes.append(
                f"validation by {name}: {done} left out in turn: {len(parts)} refits would take"
                f" longer than the {clock.seconds:g} s that fit and validation may"
            )
            chosen = sorted(rng.permutation(len(parts))[:possible].tolist())
            parts = [parts[i] for i in chosen]
        if not parts:
            continue
        unseen, told = refit(
            data, model, parts, seed, start=start, clock=clock, tell=_named(tell, name)
        )
        notes += told
        if unseen.tested.any():
            errors[name] = error_of(data, unseen)
    curve, told = _learning_curve(data, model, held, held_error, seed, clock, start, tell)
    return Validation(errors, curve, (*notes, *told))


def _named(tell: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda what: tell(f"validation by {name}: without {what}")


def _learning_curve(
    data: Observations,
    model: LatencyModel,
    held: BoolArray,
    held_error: FitError,
    seed: int,
    clock: Clock,
    start: Fitted | None,
    tell: Callable[[str], None],
) -> tuple[tuple[LearningPoint, ...], tuple[str, ...]]:
    """Fits to growing parts of the co-located points, each with all cells alone."""
    together = data.points.tenants > 1
    test = held & together
    points = np.unique(data.group[~held & together])
    if not test.any() or not len(points):
        return (), ()
    # one order: each part holds the smaller ones
    order = np.random.default_rng(seed).permutation(points)
    curve: list[LearningPoint] = []
    notes: list[str] = []
    skipped: list[str] = []
    sizes = {max(1, round(f * len(order))): f for f in FRACTIONS if f < 1.0}
    for size, fraction in sizes.items():
        if size == len(order):
            break
        if clock.refits_left() < 1:
            skipped.append(f"{100 * fraction:g}%")
            continue
        seen = ~held & (~together | np.isin(data.group, order[:size]))
        unseen, told = refit(
            data, model, [Part(f"learning curve: {100 * fraction:g}%", seen, test)], seed,
            start=start, clock=clock, tell=tell,
        )  # fmt: skip
        notes += told
        if unseen.tested.any():
            curve.append(_learned(data, seen & together, fraction, error_of(data, unseen)))
    if skipped:
        notes.append(
            f"learning curve without {', '.join(skipped)} of the co-located cells: it would take"
            f" longer than the {clock.seconds:g} s that fit and validation may"
        )
    curve.append(_learned(data, ~held & together, 1.0, held_error))
    return tuple(curve), tuple(notes)


def _learned(
    data: Observations, rows: BoolArray, fraction: float, error: FitError
) -> LearningPoint:
    cells = len(np.unique(data.points.cell[rows]))
    return LearningPoint(cells=cells, fraction_pct=100.0 * fraction, error=error)
