"""What a planner asks, one cell at a time, is answered as the vectorised model does."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from igniter_prof.errors import BadInput
from igniter_prof.fitting.fitter import fit
from igniter_prof.fitting.interference.model import IgprofModel
from igniter_prof.fitting.points import arrange
from igniter_prof.fitting.predictor import Predictor
from igniter_prof.fitting.quick import Configuration
from igniter_prof.records import Coefficients, Tenant
from tests.unit.interference_cells import (
    GPU,
    MODELS,
    alone_cells,
    measure,
    mixed_cells,
    observed,
)

CELLS = [*mixed_cells(25, seed=5, sizes=(1, 2, 3, 4)), *alone_cells(batches=(2, 32))]


@cache
def fitted(model: str = "igprof", counters: bool = True, power: bool = True) -> Coefficients:
    cells = [*alone_cells(), *mixed_cells(40)]
    measured = measure(cells, counters=counters, power=power)
    return fit(measured, GPU, profile_hash="0" * 64, model=model, holdout=0.0)


@pytest.fixture(scope="module")
def coefficients() -> Coefficients:
    return fitted()


@pytest.mark.parametrize("known", [True, False])
def test_a_single_cell_is_predicted_as_many_are(known: bool) -> None:
    predictor = Predictor(fitted() if known else fitted(counters=False, power=False))
    for cell, predicted in zip(CELLS, predictor.predict(CELLS), strict=True):
        for speed, full in zip(predictor.speeds(cell), predicted, strict=True):
            assert speed.latency_ms == pytest.approx(full.latency_ms, rel=1e-10)
            assert speed.throughput_rps == pytest.approx(full.throughput_rps, rel=1e-10)
            assert speed.cv == full.cv
            assert speed.latency_high_ms is None


@pytest.mark.parametrize("model", ["igprof", "igniter"])
def test_the_upper_end_is_told_where_it_is_asked_for(model: str) -> None:
    predictor = Predictor(fitted() if model == "igprof" else fitted(model))
    for cell, predicted in zip(CELLS[:6], predictor.predict(CELLS[:6]), strict=True):
        speeds = predictor.speeds(cell, interval=True)
        assert [s.latency_high_ms for s in speeds] == pytest.approx(
            [p.latency_high_ms for p in predicted], rel=1e-9
        )
        assert [s.throughput_rps for s in speeds] == pytest.approx(
            [p.throughput_rps for p in predicted], rel=1e-10
        )


@pytest.mark.parametrize("without", [(), ("clock",), ("pair", "smooth"), ("contention",)])
def test_service_times_are_those_of_every_executed_batch(without: tuple[str, ...]) -> None:
    data = observed(measure([*alone_cells(), *mixed_cells(40)]))
    model = IgprofModel.lacking(without).fit(data, 0)
    index = {name: i for i, name in enumerate(data.models)}
    for cell in mixed_cells(8, seed=6, sizes=(1, 2, 4)):
        own, *beside = (
            Configuration(index[t.model], t.batch_size, (t.share_pct or 100) / 100, 1.0, 1)
            for t in cell
        )
        found = model.quick.service_ms(own, beside)
        ladder = [
            [cell[0].model_copy(update={"batch_size": n}), *cell[1:]]
            for n in range(1, cell[0].batch_size + 1)
        ]
        expected = model.latency_ms(arrange(ladder, index, GPU))[:: len(cell)]
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_what_is_remembered_cannot_be_changed(coefficients: Coefficients) -> None:
    predictor = Predictor(coefficients)
    own, other = (Tenant(model=m, batch_size=4, share_pct=40) for m in MODELS[:2])
    for beside in ([], [other]):
        with pytest.raises(ValueError, match="read-only"):
            predictor.service_ms(own, beside)[0] = 0.0


def test_an_unknown_model_is_refused(coefficients: Coefficients) -> None:
    predictor = Predictor(coefficients)
    stranger = Tenant(model="hevy", batch_size=4, share_pct=40)
    for ask in (lambda: predictor.speeds([stranger]), lambda: predictor.service_ms(stranger)):
        with pytest.raises(BadInput, match="hevy"):
            ask()
