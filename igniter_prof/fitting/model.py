"""What a latency model is: it fits observations, and what it fitted predicts rows of cells."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from igniter_prof.errors import BadInput
from igniter_prof.fitting.points import FloatArray, Observations, Points
from igniter_prof.records import Coefficients, Parameter

MAKE_AGAIN = "make it again: igprof fit"
"""Hint where a coefficients file does not hold what ``LatencyModel.load`` needs."""


@dataclass(frozen=True)
class Document:
    """What a fitted model puts into a coefficients file.

    ``extra`` goes into ``Coefficients.extra["fitted"]``; ``notes`` are told to the user.
    """

    shared: dict[str, Parameter]
    models: dict[str, dict[str, Parameter]]
    extra: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Fitted(Protocol):
    """A fitted latency model. Rows of ``Points`` hold whole cells; models are numbered as there."""

    def latency_ms(self, x: Points) -> FloatArray:
        """Mean latency of a batch, alone in flight, beside the row's neighbours: (n_rows,)."""
        ...

    def overlapped_ms(self, x: Points, latency_ms: FloatArray) -> FloatArray:
        """The part of ``latency_ms`` in which the device can already work on the next batch.

        All (n_rows,); ``latency_ms`` is what that method said of the same rows.
        """
        ...

    def log_scale(self, x: Points) -> FloatArray:
        """How uncertain each row is, as the size of ln(measured/predicted): (n_rows,), > 0.

        Intervals are this times a factor that conformal prediction finds; 1 everywhere for a model
        that cannot tell one row from another.
        """
        ...

    def explain(self, x: Points) -> Mapping[str, FloatArray]:
        """The terms of the latency in ms, by name, each (n_rows,); they sum to ``latency_ms``."""
        ...

    def document(self) -> Document:
        """Everything that ``LatencyModel.load`` needs to predict the same again."""
        ...


class LatencyModel(Protocol):
    """How a latency model is fitted and read back."""

    @property
    def name(self) -> str:
        """As users call it."""
        ...

    @property
    def knows_strangers(self) -> bool:
        """Whether its ``log_scale`` is larger for models that were never measured together."""
        ...

    def fit(self, data: Observations, seed: int, start: Fitted | None = None) -> Fitted:
        """Fit. Raises BadInput where the data does not suffice.

        ``start``: what the same model fitted to nearly the same data, which makes it faster.
        """
        ...

    def load(self, coefficients: Coefficients) -> Fitted:
        """What was fitted, from its file. Raises BadInput: something is missing or senseless."""
        ...


def require(
    found: Mapping[str, Parameter],
    needed: Iterable[str],
    where: str,
    *,
    known: Collection[str] | None = None,
    not_negative: Collection[str] | None = None,
    positive: Collection[str] = (),
) -> None:
    """Refuse parameters of a coefficients file that no fit has.

    Args:
        found: by name.
        needed: must be there.
        where: what the parameters are of, for the message.
        known: there may be no others; None: there may be.
        not_negative: may not be below 0; None: those that are needed or known.
        positive: must be above 0.

    Raises:
        BadInput: names the parameter.
    """
    needed = tuple(needed)
    for name in needed:
        if name not in found:
            raise BadInput(f"{where} lacks the parameter '{name}'", hint=MAKE_AGAIN)
    if not_negative is None:
        not_negative = {*needed, *(known or ())}
    for name, parameter in found.items():
        if known is not None and name not in known:
            raise BadInput(f"{where}: '{name}' is unknown", hint=MAKE_AGAIN)
        if name in not_negative and parameter.value < 0:
            raise BadInput(f"{where}: '{name}' is {parameter.value:g}, below 0", hint=MAKE_AGAIN)
        if name in positive and parameter.value <= 0:
            what = f"{where}: '{name}' is {parameter.value:g}, not above 0"
            raise BadInput(what, hint=MAKE_AGAIN)
