"""Tables of latencies: as cell by cell, and neighbours that are lighter than their members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest

from igniter_prof.fitting import Predictor
from igniter_prof.fitting.igniter import LightweightFitted
from igniter_prof.fitting.interference import table as interference_table
from igniter_prof.fitting.interference.single import log_neighbours
from igniter_prof.fitting.interference.table import InterferenceTable
from igniter_prof.fitting.latency_models import latency_model
from igniter_prof.fitting.model import Document
from igniter_prof.fitting.points import FloatArray, IntArray, observe
from igniter_prof.fitting.tables import NOBODY, LatencyTable, PointsTable
from igniter_prof.records import Coefficients, Device, GpuCounters, Measurement, Parameter, Tenant
from tests.unit import fitting_cells, interference_cells
from tests.unit.interference_cells import GPU, true_ms

PLACES = 4


# --- models -------------------------------------------------------------------------------------


def predictor_of(model: str, device: Device, names: Sequence[str], document: Document) -> Predictor:
    return Predictor(
        Coefficients(
            model=model,
            device=device,
            profile_hash="",
            igprof="0",
            created_at="",
            shared=document.shared,
            models={name: document.models[name] for name in names},
            extra={"fitted": document.extra},
        )
    )


def fitted(model: str, measurements: Sequence[Measurement], device: Device) -> Predictor:
    data, _ = observe(measurements, device)
    return predictor_of(model, device, data.models, latency_model(model).fit(data, 0).document())


def igprof() -> Predictor:
    """Whose models' power is known, and goes over the limit."""
    return fitted("igprof", interference_cells.measure(gpu_cells()), GPU)


def igprof_alone() -> Predictor:
    """That knows nothing of neighbours."""
    cells = interference_cells.alone_cells((1, 16), (20, 50, 80))
    return fitted("igprof", interference_cells.measure(cells), GPU)


def igprof_uneven() -> Predictor:
    """Without power; of models that neighbours cost very different parts, or that gain by them."""
    part = {"heavy": 0.4, "light": 0.0, "wire": -0.1}

    def uneven(cell: Sequence[Tenant]) -> list[float]:
        alone = [true_ms([tenant])[0] for tenant in cell]
        others = len(cell) - 1
        return [ms * (1 + part[t.model] * others) for t, ms in zip(cell, alone, strict=True)]

    cells = interference_cells.measure(gpu_cells(), truth=uneven, counters=False, power=False)
    return fitted("igprof", cells, GPU)


def gpu_cells() -> list[tuple[Tenant, ...]]:
    return [
        *interference_cells.alone_cells((1, 16), (20, 50, 80)),
        *interference_cells.mixed_cells(30, sizes=(2, 2, 3)),
    ]


def igniter_lightweight() -> Predictor:
    """Made-up coefficients of a GPU, with a limit that mixes meet."""
    device = {
        "bytes_per_ms": 1e7,
        "clock_drop_mhz_per_w": 1.0,
        "idle_power_w": 50.0,
        "max_clock_mhz": 1500.0,
        "power_limit_w": 200.0,
        "scheduling_ms_at_0": -0.005,
        "scheduling_ms_per_tenant": 0.004,
    }
    model = {
        "alpha_cache_per_pct": 0.004,
        "idle_ms": 0.1,
        "input_bytes": 6e5,
        "k1_ms": 0.005,
        "k2_ms": 0.4,
        "k3_ms": 0.7,
        "k4": 0.1,
        "k5_ms": 0.6,
        "kernels": 50.0,
        "l2_pct_at_0": 1.5,
        "l2_pct_per_rate": 8.0,
        "least_active_ms": 0.05,
        "output_bytes": 4e3,
        "power_w_at_0": 70.0,
        "power_w_per_rate": 40.0,
    }
    other = {**model, "k2_ms": 1.5, "kernels": 120.0, "l2_pct_per_rate": 50.0, "idle_ms": 0.2}
    document = Document(
        {name: Parameter(value=value) for name, value in device.items()},
        {
            name: {key: Parameter(value=value) for key, value in values.items()}
            for name, values in {"heavy": other, "light": model}.items()
        },
        {"profile": "lightweight"},
    )
    found = predictor_of("igniter", GPU, ("heavy", "light"), document)
    assert isinstance(found.fitted, LightweightFitted)
    return found


def on_cpu(model: str) -> Predictor:
    cells = [
        *fitting_cells.solo_cells(batches=(1, 4, 8), shares=(20, 50, 80)),
        *fitting_cells.pair_cells(batches=(1, 8), shares=(20, 50)),
    ]
    return fitted(model, fitting_cells.measure_truth(cells), fitting_cells.CPU)


def gpulets() -> Predictor:
    cells = [
        *fitting_cells.solo_cells(batches=(1, 4, 8), shares=(20, 50, 80)),
        *fitting_cells.pair_cells(batches=(1, 8), shares=(20, 50)),
    ]
    return fitted("gpulets", list(map(counted, fitting_cells.measure_truth(cells))), GPU)


def counted(measurement: Measurement) -> Measurement:
    """With utilisations of the L2 cache and the memory bus that rise with batch and share."""
    tenants = []
    for each in measurement.tenants:
        batch, share_pct = each.tenant.batch_size, each.tenant.share_pct or 100.0
        l2, dram = 0.4 * share_pct + batch, 0.2 * share_pct * batch**0.3
        counters = GpuCounters(l2_util_pct=l2, dram_util_pct=dram)
        tenants.append(each.model_copy(update={"counters": counters}))
    return measurement.model_copy(update={"tenants": tuple(tenants)})


MODELS: dict[str, Callable[[], Predictor]] = {
    "igprof": igprof,
    "igprof, alone": igprof_alone,
    "igprof, uneven": igprof_uneven,
    "igprof, cpu": lambda: on_cpu("igprof"),
    "igniter, lightweight": igniter_lightweight,
    "igniter, cells": lambda: on_cpu("igniter"),
    "gpulets": gpulets,
    "none": lambda: on_cpu("none"),
}
NEIGHBOURS_BY_TERMS = [name for name in MODELS if name.startswith(("igprof", "igniter, l"))]
BY_POINTS = ["igniter, cells", "none"]


@cache
def predictor(name: str) -> Predictor:
    return MODELS[name]()


def settings(of: Predictor) -> list[Tenant]:
    """In no order that a table could count on."""
    batches, shares = (1, 2, 5, 16, 32), (10, 25, 40, 80)
    found = [
        Tenant(model=m, batch_size=b, share_pct=s)
        for m in of.models
        for b in batches
        for s in shares
    ]
    return [found[k] for k in np.random.default_rng(3).permutation(len(found))]


def made(name: str) -> tuple[Predictor, list[Tenant], LatencyTable]:
    of = predictor(name)
    tenants = settings(of)
    return of, tenants, of.table(tenants)


def random_cells(rng: np.random.Generator, m: int, n: int) -> IntArray:
    """(m, PLACES), with anybody or ``NOBODY`` in any place."""
    cells = rng.integers(0, n, (m, PLACES))
    cells[rng.random(cells.shape) < 0.35] = NOBODY
    return cells


def asked(rng: np.random.Generator, r: int, m: int, n: int) -> tuple[IntArray, IntArray, IntArray]:
    """Rows, places and own settings, (r,) each."""
    return rng.integers(0, m, r), rng.integers(0, PLACES, r), rng.integers(0, n, r)


# --- latencies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_table_says_what_cells_one_by_one_do(name: str) -> None:
    of, tenants, table = made(name)
    rng = np.random.default_rng(1)
    cells = random_cells(rng, 60, len(tenants))
    before = cells.copy()
    row, place, own = asked(rng, 150, len(cells), len(tenants))
    expected = []
    for r, p, mine in zip(row, place, own, strict=True):
        beside = [tenants[k] for at, k in enumerate(cells[r]) if at != p and k != NOBODY]
        expected.append(of.speeds([tenants[mine], *beside])[0].latency_ms)
    found = table.latency_ms(table.prepare(cells), row, place, own)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (cells == before).all()
    # and neighbours matter, or nothing was tested
    if name != "none":
        assert (found > 1.05 * table.alone_ms[own]).any()


@pytest.mark.parametrize("name", MODELS)
def test_alone_and_what_overlaps_are_as_of_cells_too(name: str) -> None:
    of, tenants, table = made(name)
    speeds = [of.speeds([tenant])[0] for tenant in tenants]
    np.testing.assert_allclose(table.alone_ms, [s.latency_ms for s in speeds], rtol=1e-9)
    busy_ms = table.alone_ms - table.overlapped_ms(table.alone_ms)
    batch = np.array([tenant.batch_size for tenant in tenants])
    expected = [s.throughput_rps for s in speeds]
    np.testing.assert_allclose(batch / busy_ms * 1000.0, expected, rtol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_nobody_beside_is_alone_and_nothing_asked_is_nothing(name: str) -> None:
    _, tenants, table = made(name)
    every = np.arange(len(tenants))
    empty = np.full((1, PLACES), NOBODY)
    found = table.latency_ms(table.prepare(empty), np.zeros_like(every), every % PLACES, every)
    np.testing.assert_allclose(found, table.alone_ms, rtol=1e-12)
    assert table.latency_ms(table.prepare(empty), every[:0], every[:0], every[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["igprof", "igniter, cells", "gpulets", "none"])
def test_input_scales_and_instances_are_known(name: str) -> None:
    of = predictor(name)
    one = Tenant(model=of.models[0], batch_size=4, share_pct=30)
    tenants = [
        one,
        one.model_copy(update={"input_scale": 1.5}),
        one.model_copy(update={"instances": 2}),
    ]
    table = of.table(tenants)
    every = np.arange(3)
    found = table.latency_ms(
        table.prepare(np.array([[NOBODY, 1]])), np.zeros(3, dtype=int), 0 * every, every
    )
    expected = [of.speeds([tenant, tenants[1]])[0].latency_ms for tenant in tenants]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert len(np.unique(found)) > 1
    np.testing.assert_allclose(
        table.alone_ms, [of.speeds([tenant])[0].latency_ms for tenant in tenants], rtol=1e-9
    )


def test_many_latencies_are_the_same_as_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tenants, table = made("igprof")
    rng = np.random.default_rng(2)
    cells = random_cells(rng, 50, len(tenants))
    row, place, own = asked(rng, 100, len(cells), len(tenants))
    whole = table.latency_ms(table.prepare(cells), row, place, own)
    monkeypatch.setattr(interference_table, "_CHUNK", 7)
    np.testing.assert_array_equal(table.latency_ms(table.prepare(cells), row, place, own), whole)


# --- neighbours lighter than their members ------------------------------------------------------


def groups(rng: np.random.Generator, m: int, of: IntArray) -> IntArray:
    """Members, (m, 5), of these; one to five a row, in any places."""
    members = rng.choice(of, (m, 5))
    members[rng.random(members.shape) < 0.4] = NOBODY
    members[np.arange(m), rng.integers(0, 5, m)] = rng.choice(of, m)
    return members


def beside(
    table: LatencyTable, cells: IntArray, ask: tuple[IntArray, IntArray, IntArray], who: IntArray
) -> FloatArray:
    """Latencies beside ``who``, (r,), in the place after one's own, and whoever else is there."""
    row, place, own = ask
    mine = cells[row]
    mine[np.arange(len(row)), (place + 1) % PLACES] = who
    return table.latency_ms(table.prepare(mine), np.arange(len(row)), place, own)


@pytest.mark.parametrize("name", [*NEIGHBOURS_BY_TERMS, *BY_POINTS])
def test_beside_the_lightest_nobody_is_slower_than_beside_a_member(name: str) -> None:
    of, tenants, table = made(name)
    rng, n = np.random.default_rng(4), len(tenants)
    every = np.arange(n)
    if name in BY_POINTS:
        assert isinstance(table, PointsTable)
        kinds = np.array([of.models.index(tenant.model) for tenant in tenants])
        parts = [groups(rng, 40, every[kinds == kind]) for kind in range(len(of.models))]
        members = np.concatenate([*parts, groups(rng, 20, every)])
    else:
        members = groups(rng, 100, every)
    found = table.lightest(members)
    ask = (rng.integers(0, 60, len(members)), *asked(rng, len(members), 60, n)[1:])
    cells = random_cells(rng, 60, n)
    light = beside(table, cells, ask, found)
    apart = 0
    for member in members.T:
        there = member != NOBODY
        heavy = beside(table, cells, ask, member)
        assert (light[there] <= heavy[there] * (1 + 1e-12)).all()
        apart += int((light[there] < heavy[there] * (1 - 1e-6)).sum())
    # where all neighbours cost the same, the lightest is as heavy as any
    assert apart or name in ("none", "igprof, alone")


@pytest.mark.parametrize("name", NEIGHBOURS_BY_TERMS)
def test_the_lightest_of_one_is_as_heavy_as_it(name: str) -> None:
    _, tenants, table = made(name)
    rng, n = np.random.default_rng(5), len(tenants)
    one = rng.integers(0, n, 80)
    found = table.lightest(np.stack([np.full(80, NOBODY), one], axis=1))
    ask, cells = asked(rng, 80, 30, n), random_cells(rng, 30, n)
    np.testing.assert_allclose(
        beside(table, cells, ask, found), beside(table, cells, ask, one), rtol=1e-6
    )


@pytest.mark.parametrize("name", NEIGHBOURS_BY_TERMS)
def test_the_lightest_of_lightest_is_lighter_than_all_that_they_are_of(name: str) -> None:
    _, tenants, table = made(name)
    rng, n = np.random.default_rng(6), len(tenants)
    members = groups(rng, 60, np.arange(n))
    first = table.lightest(members)
    extra = rng.integers(0, n, 60)
    second = table.lightest(np.stack([first, extra, np.roll(first, 1)], axis=1))
    ask, cells = asked(rng, 60, 30, n), random_cells(rng, 30, n)
    light = beside(table, cells, ask, second)
    for member in (first, extra, np.roll(first, 1), *members.T):
        there = member != NOBODY
        heavy = beside(table, cells, ask, member)
        assert (light[there] <= heavy[there] * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", NEIGHBOURS_BY_TERMS)
def test_earlier_answers_stay_when_many_more_are_made(name: str) -> None:
    _, tenants, table = made(name)
    rng, n = np.random.default_rng(7), len(tenants)
    first = table.lightest(groups(rng, 50, np.arange(n)))
    ask, cells = asked(rng, 50, 30, n), random_cells(rng, 30, n)
    before = beside(table, cells, ask, first)
    numbers = [first, *(table.lightest(groups(rng, 70, np.arange(n))) for _ in range(5))]
    np.testing.assert_array_equal(beside(table, cells, ask, first), before)
    together = np.concatenate(numbers)
    assert len(np.unique(together)) == len(together)
    assert together.min() == n


@pytest.mark.parametrize("name", MODELS)
def test_no_members_are_nobody(name: str) -> None:
    _, _, table = made(name)
    found = table.lightest(np.array([[NOBODY, NOBODY], [NOBODY, 0]]))
    assert found[0] == NOBODY
    assert found[1] != NOBODY


def test_by_points_the_lightest_are_of_one_model_and_in_the_table() -> None:
    tenants = [
        Tenant(model=model, batch_size=batch, share_pct=share)
        for model, batch, share in (
            ("small", 8, 20),
            ("small", 2, 50),
            ("small", 2, 20),
            ("large", 2, 20),
            ("large", 8, 10),
        )
    ]
    table = predictor("igniter, cells").table(tenants)
    members = np.array([[0, 1], [1, 1], [2, 3], [3, 4]])
    # the last would be a batch of 2 with 10%, which is not in the table
    assert table.lightest(members).tolist() == [2, 1, NOBODY, NOBODY]


def test_by_points_the_lightest_are_of_one_input_scale_and_number_of_instances() -> None:
    one = Tenant(model="small", batch_size=2, share_pct=20)
    larger = one.model_copy(update={"input_scale": 2.0})
    more = larger.model_copy(update={"batch_size": 4})
    twice = one.model_copy(update={"instances": 2})
    table = predictor("igniter, cells").table([one, larger, more, twice])
    members = np.array([[0, 1], [1, 2], [0, 3], [3, NOBODY]])
    assert table.lightest(members).tolist() == [NOBODY, 1, NOBODY, 3]


def test_igprof_has_a_table_of_its_own() -> None:
    assert isinstance(made("igprof")[2], InterferenceTable)


def test_single_precision_is_rounded_down() -> None:
    values = np.array([0.1, -0.1, 1 / 3, -1 / 3, 0.5, 0.0, 1e-30, -1e-30])
    found = interference_table._rounded_down(values)
    assert found.dtype == np.float32
    assert (found.astype(np.float64) <= values).all()
    np.testing.assert_allclose(found, values, rtol=2e-7)
    assert found[4] == 0.5


def test_what_neighbours_may_take_back_is_what_the_last_one_costs() -> None:
    slope, count = np.array([2.0, 2.0, 2.0]), np.array([0, 1, 3])
    total, most = log_neighbours(slope, count)
    np.testing.assert_allclose(np.exp(total), [1.0, 3.0, 7.0])
    # with nobody beside, nothing; not the logarithm of a negative number
    np.testing.assert_allclose(np.exp(most), [1.0, 3.0, 7.0 / 5.0])
