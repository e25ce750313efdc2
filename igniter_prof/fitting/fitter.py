"""From a profile's measurements to coefficients: fit, hold out, report, intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igniter_prof import __version__
from igniter_prof.files import now_utc
from igniter_prof.fitting import accuracy, conformal, validation
from igniter_prof.fitting.conformal import Intervals
from igniter_prof.fitting.holdout import hold_out
from igniter_prof.fitting.latency_models import latency_model
from igniter_prof.fitting.model import Fitted, LatencyModel
from igniter_prof.fitting.points import (
    BoolArray,
    FloatArray,
    Observations,
    observe,
)
from igniter_prof.fitting.resources import fit_resources
from igniter_prof.records import Coefficients, Device, FitReport, IgniterProfile, Measurement

_FEW_SETS, _MOST_SETS = 3, 6
"""Sets of co-located models from which on some are left out, and how many at most."""
_USUAL_STRANGERS = 1.5
_UNTESTED = 0.1
"""Least half-width of an interval (relative) where no cell could be held out."""


def fit(
    measurements: Sequence[Measurement],
    device: Device,
    *,
    profile_hash: str,
    model: str = "igprof",
    seed: int = 0,
    holdout: float = 0.2,
    igniter: IgniterProfile | None = None,
    validation_s: float = 0.0,
    tell: Callable[[str], None] = validation.silent,
) -> Coefficients:
    """Fit a latency model to a profile.

    The report is of a fit that never saw the hold-out; the parameters are then refitted to all
    cells. Intervals come from cross-validation by points.

    Args:
        measurements: of one device type; what cannot be used is left out with a note.
        device: that they were measured on.
        profile_hash: of the profile, kept in the coefficients.
        model: name of the latency model, see ``MODELS``.
        seed: of the hold-out and of the optimiser's starts.
        holdout: fraction of the cells (0-0.5) that the report is about; 0: none.
        igniter: iGniter's lightweight profile of the device, where there is one.
        validation_s: seconds after which no further validation (``validation``) begins, from the
            start of the fit; 0: none.
        tell: told what is being done.

    Raises:
        BadInput: nothing usable, a model never measured alone, an unknown latency model.
    """
    chosen = latency_model(model)
    data, notes = observe(measurements, device, igniter)
    clock = validation.Clock(validation_s)
    tell("all cells")
    full = chosen.fit(data, seed)
    final = full.document()
    tell("all but the hold-out")
    split = _split(data, chosen, full, holdout, seed)
    if holdout > 0 and not split.held.any():
        notes += ("too few cells for a hold-out: every one is needed by the fit",)
    crossed, told = validation.refit(
        data,
        chosen,
        validation.parts_by_point(data, seed),
        seed,
        start=full,
        clock=clock,
        tell=tell,
    )
    notes += told
    intervals = _intervals(data, crossed, full)
    strangers = _stranger_factor(data, chosen, full, intervals, seed, tell)
    besides = fit_resources(data, full, crossed.predicted_ms, seed)
    report = _report(data, split, crossed, intervals, seed).model_copy(update=besides.errors)
    if validation_s > 0:
        checked = validation.validate(
            data,
            chosen,
            held=split.held,
            held_error=accuracy.fit_error_of(
                data, split.predicted_ms, split.held & (data.points.tenants > 1)
            ),
            device_of={m.cell_id: m.cell.device for m in measurements},
            seed=seed,
            clock=clock,
            start=full,
            tell=tell,
        )
        notes += checked.notes
        report = report.model_copy(
            update={
                "cross_validated": report.cross_validated | checked.cross_validated,
                "learning_curve": checked.learning_curve,
            }
        )
    region, together = _region(data)
    return Coefficients(
        model=model,
        device=device,
        profile_hash=profile_hash,
        igprof=__version__,
        created_at=now_utc(),
        seed=seed,
        shared=final.shared,
        models=final.models,
        region=region,
        extra={
            "fitted": final.extra,
            "cv": _spread(data),
            "interval": {
                "solo": intervals.solo,
                "colocated": intervals.colocated,
                "strangers": strangers,
            },
            "measured_together": together,
            "notes": [*notes, *final.notes],
            **besides.resources.extra(),
        },
        report=report,
    )


def _stranger_factor(
    data: Observations,
    model: LatencyModel,
    full: Fitted,
    intervals: Intervals,
    seed: int,
    tell: Callable[[str], None],
) -> float:
    """How much wider intervals of models must be that were never measured together, >= 1.

    From sets of models left out in turn: what the model's own scale of such rows lacks. 1 for a
    model that has none, a usual value where there are too few sets to leave one out.
    """
    if not model.knows_strangers:
        return 1.0
    parts = validation.parts_by_mix(data)
    if len(parts) < _FEW_SETS:
        return _USUAL_STRANGERS
    chosen = np.random.default_rng(seed).permutation(len(parts))[:_MOST_SETS]
    unseen, _ = validation.refit(
        data, model, [parts[i] for i in sorted(chosen.tolist())], seed, start=full, tell=tell
    )
    return conformal.factor(validation.held_scores(data, unseen).score, intervals.colocated)


@dataclass(frozen=True)
class _Split:
    """A fit to the rows that are not held out, and what it says of all rows."""

    held: BoolArray
    fitted: Fitted
    predicted_ms: FloatArray
    log_scale: FloatArray


def _split(
    data: Observations, model: LatencyModel, full: Fitted, fraction: float, seed: int
) -> _Split:
    held = hold_out(data, fraction, seed)
    fitted = model.fit(data.take(~held), seed) if held.any() else full
    return _Split(held, fitted, fitted.latency_ms(data.points), fitted.log_scale(data.points))


def _report(
    data: Observations,
    split: _Split,
    crossed: validation.Unseen,
    intervals: Intervals,
    seed: int,
) -> FitReport:
    held = data.take(split.held)
    naive = latency_model("none").fit(data.take(~split.held), seed)
    together = data.points.tenants > 1
    errors = {
        "points": validation.error_of(data, crossed),
        "co-located points": validation.error_of(data, crossed, together),
    }
    return FitReport(
        train=accuracy.fit_error(data.take(~split.held), split.predicted_ms[~split.held]),
        holdout=accuracy.fit_error(held, split.predicted_ms[split.held]),
        holdout_none=accuracy.fit_error(held, naive.latency_ms(held.points)),
        by_group=accuracy.errors_by_group(held, lambda part: split.fitted.latency_ms(part.points)),
        residuals=_residual_rows(data, split, intervals),
        cross_validated={name: error for name, error in errors.items() if error.cells},
        intervals=validation.interval_checks(validation.held_scores(data, crossed)),
    )


def _residual_rows(
    data: Observations, split: _Split, intervals: Intervals
) -> tuple[dict[str, Any], ...]:
    x = data.points
    low, high = intervals.ends(x.tenants == 1, split.log_scale)
    members: dict[int, list[int]] = {}
    for row, cell in enumerate(x.cell.tolist()):
        members.setdefault(cell, []).append(row)
    return tuple(
        {
            "cell_id": data.cell_id[row],
            "model": measured.tenant.model,
            "batch_size": measured.tenant.batch_size,
            "share_pct": measured.tenant.share_pct,
            "neighbours": [
                data.tenant[other].tenant.model
                for other in members[int(x.cell[row])]
                if other != row
            ],
            "measured_ms": float(data.latency_ms[row]),
            "predicted_ms": float(split.predicted_ms[row]),
            "low_ms": float(split.predicted_ms[row] * np.exp(low[row])),
            "high_ms": float(split.predicted_ms[row] * np.exp(high[row])),
            "holdout": bool(split.held[row]),
        }
        for row, measured in enumerate(data.tenant)
    )


def _intervals(data: Observations, crossed: validation.Unseen, full: Fitted) -> Intervals:
    """Intervals of log(measured / predicted) alone and co-located, from cross-validation.

    In units of the model's own scale of each row, see ``model.Fitted.log_scale``.
    """
    if crossed.tested.any():
        held = validation.held_scores(data, crossed)
        return conformal.intervals(held.score, held.alone)
    # every cell is needed by the fit: its own errors say next to nothing
    x = data.points
    errors = np.log(data.latency_ms / full.latency_ms(x)) / full.log_scale(x)
    made = conformal.interval(errors, _UNTESTED)
    return Intervals(made, made)


def _region(
    data: Observations,
) -> tuple[dict[str, dict[str, tuple[float, float]]], list[list[str]]]:
    """What was profiled: lowest and highest values of each model, and who was beside whom."""
    x = data.points
    arrays = x.quantities()
    region: dict[str, dict[str, tuple[float, float]]] = {}
    for index, name in enumerate(data.models):
        rows = x.model == index
        region[name] = {
            quantity: (float(values[rows].min()), float(values[rows].max()))
            for quantity, values in arrays.items()
        }
    together: set[tuple[str, str]] = set()
    names = np.array(data.models)[x.model]
    for cell in np.unique(x.cell[x.tenants > 1]):
        mix = sorted(names[x.cell == cell].tolist())
        together |= {(a, b) for i, a in enumerate(mix) for b in mix[i + 1 :]}
    return region, [list(pair) for pair in sorted(together)]


def _spread(data: Observations) -> dict[str, float]:
    """Each model's typical standard deviation over mean; 0 only where nothing says otherwise."""
    known = ~np.isnan(data.cv)
    overall = float(np.median(data.cv[known])) if known.any() else 0.0
    spread: dict[str, float] = {}
    for index, name in enumerate(data.models):
        rows = known & (data.points.model == index)
        spread[name] = float(np.median(data.cv[rows])) if rows.any() else overall
    return spread
