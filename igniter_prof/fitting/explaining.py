"""A prediction's terms: what of a tenant's latency comes from where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from igniter_prof.errors import BadInput
from igniter_prof.fitting.latency_models import MODELS
from igniter_prof.fitting.predictor import Predictor
from igniter_prof.records import Coefficients, Tenant


@dataclass(frozen=True)
class Explanation:
    """One entry a tenant, in the order of the cells and of their tenants.

    The terms of ``terms_ms``, by name, sum to ``latency_ms``.
    """

    names: tuple[str, ...]
    latency_ms: list[float]
    terms_ms: list[dict[str, float]]
    warnings: list[str]


def explain(coefficients: Coefficients, cells: Sequence[Sequence[Tenant]]) -> Explanation:
    """Split the predicted latency of each tenant into the terms of its latency model.

    Raises:
        BadInput: the latency model has no terms, or does not know one of the models.
    """
    if coefficients.model not in MODELS:
        raise BadInput(
            f"the latency model '{coefficients.model}' has no terms to explain",
            hint=f"models with terms: {', '.join(MODELS)}",
        )
    predictor = Predictor(coefficients)
    x = predictor.points(cells)
    terms = predictor.fitted.explain(x)
    names = tuple(terms)
    values = zip(*(terms[name].tolist() for name in names), strict=True)
    return Explanation(
        names=names,
        latency_ms=predictor.fitted.latency_ms(x).tolist(),
        terms_ms=[dict(zip(names, row, strict=True)) for row in values],
        warnings=predictor.outside_of_all(cells),
    )
