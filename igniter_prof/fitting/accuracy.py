"""How good a fit is: errors over cells, and the intervals that they give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from igniter_prof.fitting.points import MODEL_ERROR, BoolArray, FloatArray, Observations
from igniter_prof.records import FitError

COVERAGE = 0.9
"""Part of what would be measured that an interval shall hold."""

_GROUPS = {1: "solo", 2: "pairs", 3: "triples"}


def fit_error(data: Observations, predicted_ms: FloatArray) -> FitError:
    """Relative errors of predictions (n_rows,) of mean latency; None where there are no rows."""
    return relative_error(data.latency_ms, predicted_ms, len(np.unique(data.points.cell)))


def fit_error_of(data: Observations, predicted_ms: FloatArray, rows: BoolArray) -> FitError:
    """``fit_error`` of the rows that a mask (n_rows,) names, whole cells or not."""
    cells = len(np.unique(data.points.cell[rows]))
    return relative_error(data.latency_ms[rows], predicted_ms[rows], cells)


def relative_error(measured: FloatArray, predicted: FloatArray, cells: int) -> FitError:
    """Relative errors of predictions of ``cells`` cells, both (n,); None where there are none."""
    if len(measured) == 0:
        return FitError(cells=0)
    error = np.abs(predicted / measured - 1.0) * 100.0
    spread = float(((measured - measured.mean()) ** 2).sum())
    left = float(((measured - predicted) ** 2).sum())
    return FitError(
        cells=cells,
        mean_pct=float(error.mean()),
        median_pct=float(np.median(error)),
        p90_pct=float(np.percentile(error, 90)),
        p99_pct=float(np.percentile(error, 99)),
        r2=1.0 - left / spread if spread > 0 else None,
    )


def errors_by_group(
    data: Observations, predict: Callable[[Observations], FloatArray]
) -> dict[str, FitError]:
    """Errors of the cells alone, the pairs, the triples …, and of each set of models together."""
    if len(data) == 0:
        return {}
    labels = np.array([_GROUPS.get(int(n), f"{int(n)} tenants") for n in data.points.tenants])
    names = np.array(data.models)[data.points.model]
    mixes = np.array(
        ["+".join(sorted(names[data.points.cell == cell])) for cell in data.points.cell]
    )
    result: dict[str, FitError] = {}
    for values, wanted in ((labels, data.points.tenants > 0), (mixes, data.points.tenants > 1)):
        for value in sorted(set(values[wanted].tolist())):
            part = data.take(wanted & (values == value))
            result[value] = fit_error(part, predict(part))
    return result


def interval(errors: FloatArray, least: float = MODEL_ERROR) -> tuple[float, float]:
    """Lowest and highest logarithm of measured over predicted that an interval reaches.

    Args:
        errors: (n,) such logarithms of cells that were not fitted.
        least: the interval's least half-width where there are too few errors to know.

    Each side is the order statistic with the finite-sample step of split conformal prediction; with
    too few errors for it, the largest magnitude, widened by what its few draws leave unknown.
    """
    n = len(errors)
    if n == 0:
        return -0.5, 0.5
    rank = int(np.ceil((n + 1) * (1.0 + COVERAGE) / 2.0))
    if rank <= n:
        ordered = np.sort(errors)
        return min(float(ordered[n - rank]), 0.0), max(float(ordered[rank - 1]), 0.0)
    width = max(float(np.abs(errors).max()) * (1.0 + 2.0 / np.sqrt(n)), least)
    return -width, width
