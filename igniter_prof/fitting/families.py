"""Families of latency models: by shares and neighbours, or by container sizes and inputs.

Those of ``latency_models`` say how models that share a device slow each other down, and can be
planned from. ``acprof`` says how one container's latency follows from its size and its input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.files import read_record
from igniter_prof.fitting import fitter
from igniter_prof.fitting.acprof import fitter as acprof
from igniter_prof.fitting.acprof.predictor import AcprofPredictor, check_acprof
from igniter_prof.fitting.latency_models import MODELS as SHARE_MODELS
from igniter_prof.fitting.model import MAKE_AGAIN
from igniter_prof.fitting.predictor import Predictor
from igniter_prof.fitting.validation import silent
from igniter_prof.records import (
    Coefficients,
    Device,
    IgniterProfile,
    Measurement,
    Prediction,
    Tenant,
)

MODELS: tuple[str, ...] = (*SHARE_MODELS, acprof.NAME)
"""The latency models by name."""


class CellPredictor(Protocol):
    """What every family can do with its coefficients."""

    coefficients: Coefficients
    models: tuple[str, ...]

    def predict(self, cells: Sequence[Sequence[Tenant]]) -> list[list[Prediction]]:
        """One prediction a tenant, for each cell. Raises BadInput for what it does not know."""
        ...

    def outside(self, tenants: Sequence[Tenant]) -> list[str]:
        """What of a cell lies outside of what was profiled, in words."""
        ...

    def outside_of_all(self, cells: Sequence[Sequence[Tenant]]) -> list[str]:
        """The different warnings of ``outside`` over many cells, in their order."""
        ...


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
    tell: Callable[[str], None] = silent,
) -> Coefficients:
    """Fit a latency model to a profile; the report is of a fit that never saw the hold-out.

    Args:
        measurements: of one device type; what cannot be used is left out with a note.
        device: that they were measured on.
        profile_hash: of the profile, kept in the coefficients.
        model: name of the latency model, see ``MODELS``.
        seed: of the hold-out and of the optimiser's starts.
        holdout: fraction of the cells (0-0.5) that the report is about; 0: none.
        igniter: iGniter's lightweight profile of the device, where there is one.
        validation_s: seconds from the start of the fit after which nothing of the validation begins
            that goes beyond hold-out and intervals (``validation``); 0: none. Not of acprof.
        tell: told what is being done.

    Raises:
        BadInput: nothing usable, or an unknown latency model.
    """
    _require_known(model)
    if not 0.0 <= holdout <= 0.5:
        raise BadInput(f"a hold-out of {holdout * 100:g}% is outside of 0-50%")
    if model == acprof.NAME:
        return acprof.fit_acprof(
            measurements, device, profile_hash=profile_hash, seed=seed, holdout=holdout
        )
    return fitter.fit(
        measurements,
        device,
        profile_hash=profile_hash,
        model=model,
        seed=seed,
        holdout=holdout,
        igniter=igniter,
        validation_s=validation_s,
        tell=tell,
    )


def load_coefficients(path: Path) -> Coefficients:
    """Read a coefficients file.

    Raises:
        BadInput: it is none, a parameter is missing or negative, or ``extra`` holds a wrong type.
    """
    coefficients = read_record(path, Coefficients)
    if not coefficients.models:
        raise BadInput("holds no models", where=str(path), hint=MAKE_AGAIN)
    _require_known(coefficients.model)
    if coefficients.model == acprof.NAME:
        check_acprof(coefficients, path)
        return coefficients
    try:
        Predictor(coefficients)
    except BadInput as error:
        raise BadInput(error.what, where=str(path), hint=error.hint) from error
    return coefficients


def cell_predictor(coefficients: Coefficients) -> CellPredictor:
    """A predictor of cells, whatever the latency model.

    Raises:
        BadInput: the latency model is unknown, or something of ``extra`` is of the wrong type.
    """
    if coefficients.model == acprof.NAME:
        return AcprofPredictor(coefficients)
    return Predictor(coefficients)


def predictor(coefficients: Coefficients) -> Predictor:
    """A predictor by shares and neighbours, which plans need.

    Raises:
        BadInput: the latency model is unknown or knows no shares, or something of ``extra`` is of
            the wrong type.
    """
    if coefficients.model == acprof.NAME:
        raise BadInput(
            "the latency model 'acprof' knows neither shares nor neighbours: nothing can be"
            " planned from it",
            hint="fit a profile of shares and co-located models: igprof fit --model igniter",
        )
    return Predictor(coefficients)


def _require_known(model: str) -> None:
    if model not in MODELS:
        raise BadInput(f"no latency model is called '{model}'", hint=did_you_mean(model, MODELS))
