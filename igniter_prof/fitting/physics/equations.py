"""The latency equations of iGniter (TPDS 2023) in the form that is fitted here.

Pure functions of arrays; docs/model.md holds the equations, symbols and units, and says what
stands in for the kernel count, the frequency and the cache counter.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from igniter_prof.fitting.points import FloatArray, IntArray, Points

Terms = Mapping[str, FloatArray]
"""Parameters by name: arrays (n_models,) for PER_MODEL, (1,) for SHARED."""

PER_MODEL: dict[str, float] = {
    "k1_ms": 0.0,
    "k2_ms": 0.0,
    "k3_ms": 0.0,
    "k4": 0.0,
    "k5_ms": 0.0,
    "transfer_ms": 0.0,
    # work on a picture grows with its area; only used if asked for a scale never profiled
    "scale_exponent": 2.0,
    "instance_exponent": 0.0,
    "alpha_cache": 0.0,
    "cache_util": 1.0,
    "scheduling_ms": 0.0,
}
"""Parameters of a served model, and their values where the data does not determine them."""

SHARED: dict[str, float] = {
    "cache_util_share_exponent": 1.0,
    "cache_util_batch_exponent": 0.0,
}
"""Parameters of the device, and their values where the data does not determine them."""


def pressure(terms: Terms, model: IntArray, batch: FloatArray, share: FloatArray) -> FloatArray:
    """What tenants do to each neighbour: the stand-in for their cache utilisation, no unit.

    ``c · r^γ · b^η`` with c, γ, η >= 0; arguments broadcast, ``share`` in (0, 1].
    """
    return np.asarray(
        terms["cache_util"][model]
        * share ** terms["cache_util_share_exponent"][0]
        * batch ** terms["cache_util_batch_exponent"][0]
    )


def transfer(terms: Terms, x: Points) -> FloatArray:
    """t_load + t_feedback of each row, ms: linear in what goes over the wire."""
    scale = x.scale ** terms["scale_exponent"][x.model]
    return np.asarray(terms["transfer_ms"][x.model] * x.batch * scale)


def active(terms: Terms, x: Points) -> FloatArray:
    """t_act of each row alone on its share, ms: ``(k1·b² + k2·b + k3)·s^e/(r + k4) + k5``."""
    m = x.model
    scale = x.scale ** terms["scale_exponent"][m]
    work = ((terms["k1_ms"][m] * x.batch + terms["k2_ms"][m]) * x.batch + terms["k3_ms"][m]) * scale
    spread = x.instances ** terms["instance_exponent"][m]
    return np.asarray((work / (x.share + terms["k4"][m]) + terms["k5_ms"][m]) * spread)


def latency(terms: Terms, x: Points, neighbours: FloatArray) -> FloatArray:
    """t_inf of each row, ms, beside neighbours whose pressures sum to ``neighbours``."""
    return np.asarray(
        transfer(terms, x)
        + terms["scheduling_ms"][x.model] * (x.tenants - 1.0)
        + active(terms, x) * (1.0 + terms["alpha_cache"][x.model] * neighbours)
    )


def cell_latency(terms: Terms, x: Points) -> FloatArray:
    """t_inf of each row beside the other rows of its cell, ms."""
    return latency(terms, x, x.over_neighbours(pressure(terms, x.model, x.batch, x.share)))


def explain(terms: Terms, x: Points) -> dict[str, FloatArray]:
    """The terms of ``cell_latency``, ms, each (n_rows,)."""
    alone = active(terms, x)
    neighbours = x.over_neighbours(pressure(terms, x.model, x.batch, x.share))
    return {
        "transfer": transfer(terms, x),
        "active alone": alone,
        "scheduling": np.asarray(terms["scheduling_ms"][x.model] * (x.tenants - 1.0)),
        "cache and memory": np.asarray(alone * terms["alpha_cache"][x.model] * neighbours),
    }
