"""Power, energy and memory: known coefficients come back, limits hold, parts sum to the whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.errors import BadInput
from igniter_prof.fitting.families import fit
from igniter_prof.fitting.memory import fit_memory
from igniter_prof.fitting.points import arrange, observe
from igniter_prof.fitting.power import PowerModel, fit_power
from igniter_prof.fitting.predictor import Predictor
from igniter_prof.records import (
    Coefficients,
    ContainerUsage,
    Device,
    DevicePower,
    Measurement,
    Tenant,
)
from igniter_prof.units import BYTES_PER_MIB
from tests.unit.fitting_cells import CPU, MODELS, measured, pair_cells, solo_cells, true_latencies

GPU = Device(id="cuda:GPU-0", kind="cuda", name="a GPU")
IDLE_W, LIMIT_W, CLOCK_MHZ, DROP = 50.0, 150.0, 1500.0, 1.5
BATCH_MJ = {"small": 200.0, "middle": 600.0, "large": 1500.0}
ITEM_MJ = {"small": 150.0, "middle": 500.0, "large": 3000.0}
BASE_W = {"small": 4.0, "middle": 3.0, "large": 6.0}
CONTEXT_MIB = {"small": 300.0, "middle": 400.0, "large": 700.0}
ITEM_MIB = {"small": 10.0, "middle": 20.0, "large": 40.0}
WEIGHTS_MIB, DEVICE_MIB = 100.0, 0.0
INDEX = {name: i for i, name in enumerate(sorted(MODELS))}


def true_demand(tenants: Sequence[Tenant]) -> float:
    """What the cell would draw without a limit, from latencies alone."""
    rises = [
        BASE_W[t.model] + (BATCH_MJ[t.model] + ITEM_MJ[t.model] * t.batch_size) / alone
        for t in tenants
        for alone in true_latencies([t])
    ]
    return IDLE_W + sum(rises)


def powered(
    cells: Sequence[Sequence[Tenant]], noise: float = 0.0, limit_w: float = LIMIT_W
) -> list[Measurement]:
    """Cells with the true latency, power, clock and memory of a GPU."""
    rng = np.random.default_rng(1)
    result = []
    for cell in cells:
        demand = true_demand(cell)
        clock = CLOCK_MHZ - DROP * max(0.0, demand - limit_w)
        latencies = [v * CLOCK_MHZ / clock for v in true_latencies(cell)]
        memory = sum(
            WEIGHTS_MIB + CONTEXT_MIB[t.model] + ITEM_MIB[t.model] * t.batch_size for t in cell
        )
        one = measured(cell, latencies, device=GPU)
        power = DevicePower(
            uuid="GPU-0",
            power_mean_w=min(demand, limit_w) * float(np.exp(noise * rng.standard_normal())),
            power_limit_w=limit_w,
            bare_idle_w=IDLE_W,
            sm_clock_mean_mhz=clock,
            memory_peak_mib=DEVICE_MIB + memory,
        )
        tenants = tuple(
            t.model_copy(update={"weight_bytes": int(WEIGHTS_MIB * BYTES_PER_MIB)})
            for t in one.tenants
        )
        result.append(one.model_copy(update={"power": power, "tenants": tenants}))
    return result


def fitted(cells: Sequence[Sequence[Tenant]], noise: float = 0.0, **more: float) -> PowerModel:
    """The power model of such cells."""
    model = fit_power(observe(powered(cells, noise, **more), GPU)[0])
    assert model is not None
    return model


def test_known_coefficients_come_back_within_their_errors() -> None:
    model = fitted(solo_cells(), noise=0.01, limit_w=10_000.0)
    for name in MODELS:
        for term, truth in (("item_energy_mj", ITEM_MJ), ("batch_energy_mj", BATCH_MJ)):
            found = model.parameters[name][term]
            assert found.std_error is not None
            assert abs(found.value - truth[name]) < 4 * found.std_error
            assert found.std_error < 0.5 * truth[name]
    assert model.idle_w == IDLE_W


def test_a_mix_has_the_idle_power_once_and_stays_below_the_limit() -> None:
    model = fitted(solo_cells())
    cells = [*pair_cells(), *solo_cells()]
    x = arrange(cells, INDEX, GPU)
    alone = np.array([v for cell in cells for t in cell for v in true_latencies([t])])
    first = np.unique(x.cell, return_index=True)[1]
    truth = np.array([true_demand(cell) for cell in cells])
    assert (truth > LIMIT_W).any()
    assert (truth < LIMIT_W).any()
    np.testing.assert_allclose(model.demand_w(x, alone)[first], truth, rtol=0.01)
    np.testing.assert_allclose(
        model.power_w(x, alone)[first], np.minimum(truth, LIMIT_W), rtol=0.01
    )


def test_the_clock_falls_beyond_the_limit() -> None:
    model = fitted(solo_cells())
    assert model.shared["clock_drop_mhz_per_w"].value == pytest.approx(DROP, rel=0.05)
    demand = np.array([LIMIT_W - 20.0, LIMIT_W, LIMIT_W + 20.0, 1e6])
    np.testing.assert_allclose(
        model.clock_mhz(demand),
        [CLOCK_MHZ, CLOCK_MHZ, CLOCK_MHZ - 20 * DROP, 0.3 * CLOCK_MHZ],
        rtol=0.01,
    )


def test_latencies_at_the_lowered_clock_give_those_at_the_highest() -> None:
    model = fitted(solo_cells())
    cells = [(Tenant(model="large", batch_size=8, share_pct=100),)]
    assert true_demand(cells[0]) > LIMIT_W
    ratio = 1.0 - DROP * (true_demand(cells[0]) - LIMIT_W) / CLOCK_MHZ
    x, truth = arrange(cells, INDEX, GPU), np.array(true_latencies(cells[0]))
    np.testing.assert_allclose(model.full_clock_ms(x, truth / ratio), truth, rtol=0.01)


def test_a_model_never_powered_alone_is_fitted_from_mixes() -> None:
    cells = powered([*solo_cells(), *pair_cells()], limit_w=10_000.0)
    hidden = [
        m.model_copy(update={"power": None})
        if len(m.tenants) == 1 and m.tenants[0].tenant.model == "middle"
        else m
        for m in cells
    ]
    model = fit_power(observe(hidden, GPU)[0])
    assert model is not None
    tests = [(Tenant(model="middle", batch_size=b, share_pct=50),) for b in (1, 4, 8)]
    x = arrange(tests, INDEX, GPU)
    alone = np.array([true_latencies(cell)[0] for cell in tests])
    np.testing.assert_allclose(
        model.demand_w(x, alone), [true_demand(cell) for cell in tests], rtol=0.03
    )


def test_a_model_without_any_power_is_unknown_and_has_the_highest_clock() -> None:
    cells = [
        m.model_copy(update={"power": None}) if m.tenants[0].tenant.model == "large" else m
        for m in powered(solo_cells())
    ]
    model = fit_power(observe(cells, GPU)[0])
    assert model is not None
    x = arrange([(Tenant(model="large", batch_size=1),)], INDEX, GPU)
    demand = model.demand_w(x, np.ones(1))
    assert np.isnan(demand).all()
    assert model.clock_mhz(demand) == CLOCK_MHZ


TENANTS = st.builds(
    Tenant,
    model=st.sampled_from(MODELS),
    batch_size=st.integers(1, 32),
    share_pct=st.integers(5, 25).map(float),
)
MODEL = fitted(solo_cells(), noise=0.01)


@settings(max_examples=60, deadline=None)
@given(st.lists(TENANTS, min_size=2, max_size=4))
def test_a_further_tenant_never_lowers_power_and_parts_sum_to_it(tenants: list[Tenant]) -> None:
    x = arrange([tenants[:-1], tenants], INDEX, GPU)
    alone = np.array([v for t in (*tenants[:-1], *tenants) for v in true_latencies([t])])
    power, fewer = MODEL.power_w(x, alone), len(tenants) - 1
    assert power[0] <= power[-1] * (1 + 1e-12)
    assert (power <= LIMIT_W).all()
    assert (MODEL.clock_mhz(MODEL.demand_w(x, alone)) <= CLOCK_MHZ).all()
    parts = MODEL.parts_w(x, alone)
    assert parts[:fewer].sum() == pytest.approx(power[0])
    assert parts[fewer:].sum() == pytest.approx(power[-1])
    np.testing.assert_allclose(MODEL.parts_w(x.alone(), alone), MODEL.power_w(x.alone(), alone))


def test_memory_of_a_gpu_comes_back() -> None:
    model = fit_memory(observe(powered([*solo_cells(), *pair_cells()]), GPU)[0])
    assert model is not None
    for name in MODELS:
        assert model.parameters[name]["memory_weights_mib"].value == pytest.approx(WEIGHTS_MIB)
        for term, truth in (("memory_context_mib", CONTEXT_MIB), ("memory_item_mib", ITEM_MIB)):
            assert model.parameters[name][term].value == pytest.approx(truth[name], rel=0.02)


def test_memory_of_a_cpu_is_the_containers_without_page_cache() -> None:
    cells = []
    for cell in solo_cells():
        one = measured(cell, true_latencies(cell))
        mib = CONTEXT_MIB[cell[0].model] + ITEM_MIB[cell[0].model] * cell[0].batch_size
        used = ContainerUsage(
            source="cgroup v2", samples=9, memory_working_peak_mib=mib, memory_peak_mib=9e9
        )
        tenants = tuple(t.model_copy(update={"container": used}) for t in one.tenants)
        cells.append(one.model_copy(update={"tenants": tenants}))
    model = fit_memory(observe(cells, CPU)[0])
    assert model is not None
    assert model.source == "container"
    x = arrange([(Tenant(model="small", batch_size=16),)], INDEX, CPU)
    truth = CONTEXT_MIB["small"] + 16 * ITEM_MIB["small"]
    assert model.tenant_mib(x)[0] == pytest.approx(truth, rel=1e-4)


def test_coefficients_carry_power_and_memory_through_json() -> None:
    cells = powered([*solo_cells(), *pair_cells()], noise=0.01)
    made = fit(cells, GPU, profile_hash="0", model="none", holdout=0.0)
    assert made.report is not None
    assert made.report.power is not None
    assert made.report.power.mean_pct is not None
    assert made.report.power.mean_pct < 5.0
    assert made.report.energy is not None
    assert made.report.memory is not None
    again = Coefficients.model_validate_json(made.model_dump_json())
    mixes = pair_cells()
    first, second = Predictor(made).predict(mixes), Predictor(again).predict(mixes)
    assert first == second
    for one, other in first:
        assert one.power_w == other.power_w
        assert one.power_low_w is not None
        assert one.power_w is not None
        assert one.power_high_w is not None
        assert one.energy_j is not None
        assert other.energy_j is not None
        assert one.power_low_w <= one.power_w <= one.power_high_w <= LIMIT_W
        assert one.memory_mib is not None
    for cell, (one, other) in zip(mixes, first, strict=True):
        watts = [
            p.energy_j * t.batch_size / p.latency_ms * 1000.0
            for t, p in zip(cell, (one, other), strict=True)
            if p.energy_j is not None
        ]
        assert sum(watts) == pytest.approx(one.power_w)


def test_a_profile_without_power_predicts_latency_alone() -> None:
    cells = [measured(cell, true_latencies(cell)) for cell in solo_cells()]
    made = fit(cells, CPU, profile_hash="0", model="none", holdout=0.0)
    assert "power" not in made.extra
    assert "memory" not in made.extra
    found = Predictor(made).predict([solo_cells()[0]])[0][0]
    assert found.power_w is None
    assert found.energy_j is None
    assert found.memory_mib is None


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("idle_power_w", -1.0, "extra.power: 'idle_power_w' is -1, below 0"),
        ("idle_power_w", None, "extra.power lacks the parameter 'idle_power_w'"),
        ("idle_power_kw", 1.0, "extra.power: 'idle_power_kw' is unknown"),
    ],
)
def test_a_broken_parameter_is_refused(name: str, value: float | None, what: str) -> None:
    made = fit(powered(solo_cells()), GPU, profile_hash="0", model="none", holdout=0.0)
    document = made.model_dump(mode="json")
    shared = document["extra"]["power"]["shared"]
    if value is None:
        del shared[name]
    else:
        shared[name] = {"value": value}
    with pytest.raises(BadInput) as caught:
        Predictor(Coefficients.model_validate(document))
    assert what in caught.value.what
    assert caught.value.hint == "make it again: igprof fit"
