"""What the planner relies on, for any coefficients that a fit may give."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.fitting import Predictor, predictor
from igniter_prof.fitting.physics.equations import PER_MODEL, SHARED
from igniter_prof.fitting.physics.form import BOUNDS
from igniter_prof.records import Coefficients, Device, Parameter, Tenant

DEVICE = Device(id="cpu:0-3", kind="cpu", name="a CPU", cores=(0, 1, 2, 3))
NAMES = ("a", "b", "c")
Ends = npt.NDArray[np.float64]


def parameter(term: str) -> st.SearchStrategy[Parameter]:
    if term == "cache_util":
        values = st.floats(0.01, 100)
    else:
        low, high = BOUNDS[term]
        values = st.floats(low, min(high, 50.0))
    return values.map(lambda value: Parameter(value=value))


intervals = st.tuples(st.floats(-0.7, 0.0), st.floats(0.0, 0.7))
regions = st.fixed_dictionaries(
    {
        "share_pct": st.tuples(st.floats(1, 30), st.floats(30, 60)),
        "batch_size": st.tuples(st.integers(1, 8), st.integers(8, 32)),
        "tenants": st.tuples(st.integers(1, 2), st.integers(2, 3)),
    }
)


@st.composite
def predictors(draw: st.DrawFn) -> Predictor:
    models = {
        name: {term: draw(parameter(term)) for term in PER_MODEL}
        # some work, so that latency is not zero
        | {"k2_ms": Parameter(value=draw(st.floats(0.01, 50)))}
        for name in NAMES
    }
    return predictor(
        Coefficients(
            model="igniter",
            device=DEVICE,
            profile_hash="",
            igprof="0",
            created_at="",
            shared={term: draw(parameter(term)) for term in SHARED},
            models=models,
            region={name: draw(regions) for name in NAMES if draw(st.booleans())},
            extra={
                "interval": {"solo": draw(intervals), "colocated": draw(intervals)},
                "measured_together": draw(st.lists(st.tuples(*[st.sampled_from(NAMES)] * 2))),
            },
        )
    )


tenants = st.builds(
    Tenant,
    model=st.sampled_from(NAMES),
    batch_size=st.integers(1, 64),
    share_pct=st.floats(1, 33),
    input_scale=st.floats(0.1, 2.0),
    instances=st.integers(1, 4),
)


@given(predictors(), tenants, st.lists(tenants, max_size=3), tenants, st.floats(1, 3))
@settings(max_examples=150, deadline=None)
def test_share_never_hurts_and_neighbours_never_help(
    model: Predictor, own: Tenant, others: list[Tenant], added: Tenant, factor: float
) -> None:
    def latencies(tenant: Tenant, neighbours: list[Tenant]) -> Ends:
        predicted = model.predict([[tenant, *neighbours]])[0][0]
        return np.array([predicted.latency_ms, predicted.latency_high_ms])

    def more(tenant: Tenant) -> Tenant:
        assert tenant.share_pct is not None
        return tenant.model_copy(update={"share_pct": tenant.share_pct * factor})

    # the mean and the upper end of its interval, which "--margin interval" plans with
    base = latencies(own, others)
    slack = 1e-9 * base
    assert (base > 0).all()
    assert (latencies(more(own), others) <= base + slack).all()
    assert (latencies(own, [*others, added]) >= base - slack).all()
    assert (latencies(own, [more(o) for o in others]) >= base - slack).all()
    bigger = [o.model_copy(update={"batch_size": o.batch_size + 1}) for o in others]
    assert (latencies(own, bigger) >= base - slack).all()


@given(predictors(), st.lists(st.lists(tenants, min_size=1, max_size=4), max_size=5))
@settings(max_examples=40, deadline=None)
def test_cells_do_not_touch_one_another(model: Predictor, cells: list[list[Tenant]]) -> None:
    together = model.predict(cells)
    for cell, predicted in zip(cells, together, strict=True):
        (alone,) = model.predict([cell])
        assert [p.latency_ms for p in alone] == pytest.approx([p.latency_ms for p in predicted])
        (turned,) = model.predict([cell[::-1]])
        assert [p.latency_ms for p in turned[::-1]] == pytest.approx(
            [p.latency_ms for p in predicted]
        )
        assert all(np.isfinite(p.latency_high_ms) for p in predicted)
