"""From a profile's measurements to coefficients: fit, hold out, report, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igniter_prof import __version__
from igniter_prof.files import now_utc
from igniter_prof.fitting import accuracy
from igniter_prof.fitting.holdout import hold_out
from igniter_prof.fitting.latency_models import latency_model
from igniter_prof.fitting.model import Fitted, LatencyModel
from igniter_prof.fitting.points import (
    MODEL_ERROR,
    BoolArray,
    FloatArray,
    Observations,
    observe,
)
from igniter_prof.records import Coefficients, Device, FitReport, IgniterProfile, Measurement

_SPLITS = 5
_SPLIT_FRACTION = 0.2
_UNTESTED = 0.1
"""Least half-width of an interval (relative) where no cell could be held out."""


def fit(
    measurements: Sequence[Measurement],
    device: Device,
    *,
    profile_hash: str,
    model: str = "igniter",
    seed: int = 0,
    holdout: float = 0.2,
    igniter: IgniterProfile | None = None,
) -> Coefficients:
    """Fit a latency model to a profile.

    The report is of a fit that never saw the hold-out; the parameters are then refitted to all
    cells. Intervals come from the errors of several such splits.

    Args:
        measurements: of one device type; what cannot be used is left out with a note.
        device: that they were measured on.
        profile_hash: of the profile, kept in the coefficients.
        model: name of the latency model, see ``MODELS``.
        seed: of the hold-out and of the optimiser's starts.
        holdout: fraction of the cells (0-0.5) that the report is about; 0: none.
        igniter: iGniter's lightweight profile of the device, where there is one.

    Raises:
        BadInput: nothing usable, a model never measured alone, an unknown latency model.
    """
    chosen = latency_model(model)
    data, notes = observe(measurements, device, igniter)
    final = chosen.fit(data, seed).document()
    split = _split(data, chosen, holdout, seed)
    if holdout > 0 and not split.held.any():
        notes += ("too few cells for a hold-out: every one is needed by the fit",)
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
            "interval": _intervals(data, chosen, seed),
            "measured_together": together,
            "notes": [*notes, *final.notes],
        },
        report=_report(data, split, seed),
    )


@dataclass(frozen=True)
class _Split:
    """A fit to the rows that are not held out, and what it says of all rows."""

    held: BoolArray
    fitted: Fitted
    predicted_ms: FloatArray
    log_scale: FloatArray


def _split(data: Observations, model: LatencyModel, fraction: float, seed: int) -> _Split:
    held = hold_out(data, fraction, seed)
    fitted = model.fit(data.take(~held), seed)
    return _Split(held, fitted, fitted.latency_ms(data.points), fitted.log_scale(data.points))


def _report(data: Observations, split: _Split, seed: int) -> FitReport:
    held = data.take(split.held)
    naive = latency_model("none").fit(data.take(~split.held), seed)
    return FitReport(
        train=accuracy.fit_error(data.take(~split.held), split.predicted_ms[~split.held]),
        holdout=accuracy.fit_error(held, split.predicted_ms[split.held]),
        holdout_none=accuracy.fit_error(held, naive.latency_ms(held.points)),
        by_group=accuracy.errors_by_group(held, lambda part: split.fitted.latency_ms(part.points)),
        residuals=_residual_rows(data, split),
    )


def _residual_rows(data: Observations, split: _Split) -> tuple[dict[str, Any], ...]:
    x = data.points
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
            "holdout": bool(split.held[row]),
        }
        for row, measured in enumerate(data.tenant)
    )


def _intervals(
    data: Observations, model: LatencyModel, seed: int
) -> dict[str, tuple[float, float]]:
    """Intervals of log(measured / predicted) alone and co-located, from several hold-outs.

    In units of the model's own scale of each row, see ``model.Fitted.log_scale``.
    """
    alone: list[FloatArray] = []
    together: list[FloatArray] = []
    for number in range(_SPLITS):
        split = _split(data, model, _SPLIT_FRACTION, seed + 1 + number)
        if not split.held.any():
            break
        log_error = np.log(data.latency_ms / split.predicted_ms) / split.log_scale
        solo = data.points.tenants == 1
        alone.append(log_error[split.held & solo])
        together.append(log_error[split.held & ~solo])
    least = MODEL_ERROR
    if not alone:  # every cell is needed by the fit: its own errors say next to nothing
        alone, together = [np.log(data.latency_ms / split.predicted_ms) / split.log_scale], []
        least = _UNTESTED
    solo_errors = np.concatenate(alone)
    pair_errors = np.concatenate([np.zeros(0), *together])
    either = np.concatenate([solo_errors, pair_errors])
    return {
        "solo": accuracy.interval(solo_errors if len(solo_errors) else either, least),
        "colocated": accuracy.interval(pair_errors if len(pair_errors) else either, least),
    }


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
