"""What the planner relies on, for any coefficients that a fit may give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.fitting import Predictor, predictor
from igniter_prof.fitting.equations import PER_MODEL, SHARED
from igniter_prof.fitting.form import BOUNDS
from igniter_prof.records import Coefficients, Device, Parameter, Tenant

DEVICE = Device(id="cpu:0-3", kind="cpu", name="a CPU", cores=(0, 1, 2, 3))
NAMES = ("a", "b", "c")


def parameter(term: str) -> st.SearchStrategy[Parameter]:
    if term == "cache_util":
        values = st.floats(0.01, 100)
    else:
        low, high = BOUNDS[term]
        values = st.floats(low, min(high, 50.0))
    return values.map(lambda value: Parameter(value=value))


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
@settings(max_examples=60, deadline=None)
def test_share_never_hurts_and_neighbours_never_help(
    model: Predictor, own: Tenant, others: list[Tenant], added: Tenant, factor: float
) -> None:
    def latency(tenant: Tenant, neighbours: list[Tenant]) -> float:
        return model.predict([[tenant, *neighbours]])[0][0].latency_ms

    def more(tenant: Tenant) -> Tenant:
        assert tenant.share_pct is not None
        return tenant.model_copy(update={"share_pct": tenant.share_pct * factor})

    base = latency(own, others)
    slack = 1e-9 * base
    assert base > 0
    assert latency(more(own), others) <= base + slack
    assert latency(own, [*others, added]) >= base - slack
    assert latency(own, [more(o) for o in others]) >= base - slack
    bigger = [o.model_copy(update={"batch_size": o.batch_size + 1}) for o in others]
    assert latency(own, bigger) >= base - slack


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
