"""The model ``igniter``: from a made-up lightweight profile, and without one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from igniter_prof.errors import BadInput
from igniter_prof.fitting import Predictor, fit, predictor
from igniter_prof.fitting.igniter import IgniterLatency, fit_lightweight
from igniter_prof.records import (
    Coefficients,
    Device,
    IgniterHardware,
    IgniterModel,
    IgniterProfile,
    Measurement,
    Tenant,
)
from tests.unit.fitting_cells import CPU, measure_truth, measured, pair_cells, solo_cells

GPU = Device(id="cuda:GPU-1", kind="cuda", name="a GPU")
CLOCK, IDLE_W, LIMIT_W, DROP, BYTES_PER_MS = 1400.0, 40.0, 200.0, 1.5, 1e6
GAP, GAP_SLOPE, GAP_AT_0 = 0.002, 0.004, -0.007

TRUTH: dict[str, dict[str, float]] = {
    # k: the share is a part here; rates are inferences in a ms of active time
    "small": {
        "k1_ms": 0.004,
        "k2_ms": 0.3,
        "k3_ms": 0.2,
        "k4": 0.05,
        "k5_ms": 0.4,
        "idle_ms": 0.05,
        "kernels": 20,
        "alpha_cache_per_pct": 0.002,
        "l2_pct_per_rate": 4.0,
        "l2_pct_at_0": 1.0,
        "power_w_per_rate": 80.0,
        "power_w_at_0": 55.0,
        "input_bytes": 600_000,
        "output_bytes": 4_000,
    },
    "large": {
        "k1_ms": 0.02,
        "k2_ms": 2.0,
        "k3_ms": 1.5,
        "k4": 0.2,
        "k5_ms": 1.0,
        "idle_ms": 0.1,
        "kernels": 90,
        "alpha_cache_per_pct": 0.006,
        "l2_pct_per_rate": 60.0,
        "l2_pct_at_0": 2.0,
        "power_w_per_rate": 250.0,
        "power_w_at_0": 60.0,
        "input_bytes": 1_000_000,
        "output_bytes": 3_000_000,
    },
}


def active_ms(model: str, batch: float, share: float) -> float:
    p = TRUTH[model]
    work = p["k1_ms"] * batch**2 + p["k2_ms"] * batch + p["k3_ms"]
    return work / (share + p["k4"]) + p["k5_ms"]


def lightweight_model(model: str) -> IgniterModel:
    """What iGniter would measure of a model, without noise; the last point ran at a lower clock."""
    p = TRUTH[model]
    grid = [[(b, r / 100) for r in (10, 50, 100)] for b in (1, 16, 32)]
    clock = [[CLOCK] * 3, [CLOCK] * 3, [CLOCK, CLOCK, 0.96 * CLOCK]]
    gpu_ms = [
        [
            (active_ms(model, b, r) + p["idle_ms"]) * CLOCK / f
            for (b, r), f in zip(*rows, strict=True)
        ]
        for rows in zip(grid, clock, strict=True)
    ]
    rate = [
        [b / (ms - p["idle_ms"]) for (b, _), ms in zip(*rows, strict=True)]
        for rows in zip(grid, gpu_ms, strict=True)
    ]
    power = [[p["power_w_at_0"] + p["power_w_per_rate"] * x for x in row] for row in rate]
    power[2][2] -= 30.0  # below the line, which is drawn at the highest clock only
    return IgniterModel(
        kernels=int(p["kernels"]),
        input_bytes=p["input_bytes"],
        output_bytes=p["output_bytes"],
        gpu_ms=gpu_ms,
        power_w=power,
        clock_mhz=clock,
        l2_util_pct=[p["l2_pct_at_0"] + p["l2_pct_per_rate"] * rate[i][i] for i in range(3)],
        l2_util_1_pct=15.0,
        idle_1_ms=p["idle_ms"],
        active_1_ms=8.0,
        active_2_ms=8.0 * (1 + p["alpha_cache_per_pct"] * 15.0) / 0.98,
        power_2_w=210.0,
        clock_2_mhz=0.98 * CLOCK,
    )


def lightweight() -> IgniterProfile:
    power = [90.0, 120.0, 170.0]  # so the fourth and fifth would take 210 and 250 W
    clock = [CLOCK] * 3 + [CLOCK - DROP * (w - LIMIT_W) for w in (210.0, 250.0)]
    added = [GAP] + [GAP + GAP_SLOPE * n + GAP_AT_0 for n in (2, 3, 4, 5)]
    return IgniterProfile(
        hardware=IgniterHardware(
            idle_power_w=IDLE_W,
            power_limit_w=LIMIT_W,
            max_clock_mhz=CLOCK,
            bytes_per_ms=BYTES_PER_MS,
            share_step_pct=2.5,
            power_w=[*power, 199.0, 199.0],
            clock_mhz=clock,
            kernel_idle_ms=[gap * CLOCK / f for gap, f in zip(added, clock, strict=True)],
        ),
        models={name: lightweight_model(name) for name in TRUTH},
    )


def by_hand(cell: list[tuple[str, int, float]]) -> list[dict[str, float]]:
    """The paper's equations for (model, batch, share in percent), in plain numbers."""
    n = len(cell)
    alone = [active_ms(m, b, r / 100) for m, b, r in cell]
    l2 = [
        TRUTH[m]["l2_pct_at_0"] + TRUTH[m]["l2_pct_per_rate"] * b / ms
        for (m, b, _), ms in zip(cell, alone, strict=True)
    ]
    watts = IDLE_W + sum(
        TRUTH[m]["power_w_at_0"] + TRUTH[m]["power_w_per_rate"] * b / ms - IDLE_W
        for (m, b, _), ms in zip(cell, alone, strict=True)
    )
    clock = CLOCK - DROP * max(0.0, watts - LIMIT_W) if n > 1 else CLOCK
    answers = []
    for i, (m, b, _) in enumerate(cell):
        p = TRUTH[m]
        others = sum(l2) - l2[i]
        wait = p["kernels"] * (GAP_SLOPE * n + GAP_AT_0) if n > 1 else 0.0
        gpu = alone[i] * (1 + p["alpha_cache_per_pct"] * others) + p["idle_ms"] + wait
        gpu /= clock / CLOCK
        load, back = p["input_bytes"] * b / BYTES_PER_MS, p["output_bytes"] * b / BYTES_PER_MS
        answers.append(
            {"latency_ms": load + gpu + back, "throughput_rps": 1000 * b / (gpu + back), "f": clock}
        )
    return answers


def tenants(cell: list[tuple[str, int, float]]) -> list[Tenant]:
    return [Tenant(model=m, batch_size=b, share_pct=r) for m, b, r in cell]


def cells_alone() -> list[Measurement]:
    return [
        measured(tenants([(m, b, r)]), [by_hand([(m, b, r)])[0]["latency_ms"]], device=GPU)
        for m in TRUTH
        for b in (1, 4, 16)
        for r in (20, 50, 100)
    ]


@pytest.fixture(scope="module")
def coefficients() -> Coefficients:
    return fit(cells_alone(), GPU, profile_hash="0" * 64, model="igniter", igniter=lightweight())


@pytest.fixture(scope="module")
def model(coefficients: Coefficients) -> Predictor:
    return predictor(coefficients)


def test_the_coefficients_of_a_lightweight_profile_are_recovered(
    coefficients: Coefficients,
) -> None:
    for name, truth in TRUTH.items():
        found = {key: each.value for key, each in coefficients.models[name].items()}
        for key, value in truth.items():
            assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-6), (name, key)
    shared = {key: each.value for key, each in coefficients.shared.items()}
    assert shared == pytest.approx(
        {
            "bytes_per_ms": BYTES_PER_MS,
            "clock_drop_mhz_per_w": DROP,
            "idle_power_w": IDLE_W,
            "max_clock_mhz": CLOCK,
            "power_limit_w": LIMIT_W,
            "scheduling_ms_at_0": GAP_AT_0,
            "scheduling_ms_per_tenant": GAP_SLOPE,
        }
    )
    assert any("lightweight profile" in note for note in coefficients.extra["notes"])


@pytest.mark.parametrize(
    "cell",
    [
        [("small", 1, 100.0)],
        [("large", 32, 25.0)],
        [("small", 4, 50.0), ("large", 8, 50.0)],
        [("large", 16, 60.0), ("large", 16, 40.0)],
        [("small", 32, 40.0), ("large", 16, 30.0), ("large", 2, 17.5)],
        [("small", 16, 20.0), ("small", 16, 20.0), ("large", 8, 20.0), ("large", 8, 20.0)],
    ],
)
def test_cells_are_those_of_the_equations(
    model: Predictor, cell: list[tuple[str, int, float]]
) -> None:
    (predicted,) = model.predict([tenants(cell)])
    for found, expected in zip(predicted, by_hand(cell), strict=True):
        assert found.latency_ms == pytest.approx(expected["latency_ms"], rel=1e-5)
        assert found.throughput_rps == pytest.approx(expected["throughput_rps"], rel=1e-5)


def test_the_hand_computed_cells_reach_the_power_limit_and_stay_below_it() -> None:
    assert by_hand([("small", 4, 50.0), ("large", 8, 50.0)])[0]["f"] < CLOCK
    assert by_hand([("large", 2, 10.0), ("large", 2, 10.0)])[0]["f"] == CLOCK


def test_a_tenant_alone_neither_waits_nor_slows_its_clock(model: Predictor) -> None:
    # by its power it would: alone it takes more than the limit
    p, batch = TRUTH["small"], 32
    watts = p["power_w_at_0"] + p["power_w_per_rate"] * batch / active_ms("small", batch, 1.0)
    alone = model.fitted.explain(model.points([tenants([("small", batch, 100.0)])]))
    assert alone["scheduling"] == alone["frequency"] == alone["cache"] == 0.0
    beside = model.points([tenants([("small", 32, 50.0), ("large", 32, 50.0)])])
    terms = model.fitted.explain(beside)
    assert watts > LIMIT_W
    assert (terms["scheduling"] > 0).all()
    assert (terms["frequency"] > 0).all()
    assert (terms["cache"] > 0).all()


def test_terms_sum_to_the_latency(model: Predictor) -> None:
    x = model.points(
        [tenants([("small", 4, 30.0), ("large", 8, 70.0)]), tenants([("large", 1, 9)])]
    )
    total = np.sum(list(model.fitted.explain(x).values()), axis=0)
    assert total == pytest.approx(model.fitted.latency_ms(x), rel=1e-12)


def test_the_file_predicts_what_the_fit_did(model: Predictor, coefficients: Coefficients) -> None:
    again = predictor(Coefficients.model_validate_json(coefficients.model_dump_json()))
    cells = [tenants([("small", 4, 30.0), ("large", 8, 70.0)]), tenants([("large", 3, 55.0)])]
    for before, after in zip(model.predict(cells), again.predict(cells), strict=True):
        assert [t.latency_ms for t in after] == pytest.approx([t.latency_ms for t in before], 1e-12)


def test_measured_cells_do_not_move_the_coefficients(coefficients: Coefficients) -> None:
    slower = [
        measured(
            [t.tenant for t in m.tenants],
            [2.0 * t.latency.mean_ms for t in m.tenants if t.latency],
            device=GPU,
        )
        for m in cells_alone()
    ]
    again = fit(slower, GPU, profile_hash="", model="igniter", igniter=lightweight())
    assert again.models == coefficients.models
    assert again.report is not None
    assert again.report.holdout.mean_pct == pytest.approx(50.0, abs=0.1)


def test_latency_stays_positive_and_finite_where_the_equations_do_not() -> None:
    profile = lightweight()
    fitted = fit_lightweight(profile, ("large", "small"))
    terms = {name: values.copy() for name, values in fitted.terms.items()}
    terms["k1_ms"][:] = -0.5  # the active time of large batches is below zero
    terms["k4"][:] = -0.09  # and has a pole at a share of 9 %
    terms["alpha_cache_per_pct"][:] = -1.0
    bent = replace(fitted, terms=terms)
    model = Predictor(fit(cells_alone(), GPU, profile_hash="", model="igniter", igniter=profile))
    cells = [
        tenants([("small", batch, share), ("large", batch, share)])
        for batch in (1, 8, 64, 1024)
        for share in (1.0, 8.99, 9.0, 9.01, 50.0)
    ]
    crowd = [Tenant(model="large", batch_size=32, share_pct=2.5) for _ in range(40)]
    x = model.points([*cells, crowd])
    for each in (bent, fitted):
        latency = each.latency_ms(x)
        assert np.isfinite(latency).all()
        assert (latency > each.overlapped_ms(x, each.latency_ms(x))).all()
    # forty tenants would take the line of the clock below zero
    frequency = fitted.explain(model.points([crowd]))["frequency"]
    rest = fitted.latency_ms(model.points([crowd])) - frequency
    assert (frequency < 9.0 * rest + 1e-9).all()
    assert (frequency > 3.0 * rest).all()


def test_power_is_taken_from_all_points_if_no_two_ran_at_the_highest_clock() -> None:
    profile = lightweight()
    slow = profile.models["small"].model_copy(update={"clock_mhz": ((1300.0,) * 3,) * 3})
    bent = profile.model_copy(update={"models": {"small": slow}})
    fitted = fit_lightweight(bent, ("small",))
    assert fitted.models["small"]["power_w_per_rate"].value > 0


def test_a_model_that_the_lightweight_profile_lacks_is_refused() -> None:
    part = lightweight()
    part = part.model_copy(update={"models": {"small": part.models["small"]}})
    with pytest.raises(BadInput, match="lacks large") as caught:
        fit(cells_alone(), GPU, profile_hash="", model="igniter", igniter=part)
    assert "--model igprof" in str(caught.value)


def test_an_idle_time_above_the_latency_is_refused() -> None:
    profile = lightweight()
    odd = profile.models["small"].model_copy(update={"idle_1_ms": 5.0})
    with pytest.raises(BadInput, match="'small': a GPU latency is not above the idle time"):
        fit_lightweight(profile.model_copy(update={"models": {"small": odd}}), ("small",))


def test_latencies_that_no_curve_meets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise RuntimeError("Optimal parameters not found")

    monkeypatch.setattr("scipy.optimize.curve_fit", never)
    with pytest.raises(BadInput, match="no curve goes through its GPU latencies"):
        fit_lightweight(lightweight(), ("small",))


@pytest.mark.parametrize(
    ("place", "name", "value", "expected"),
    [
        ("shared", "clock_drop_mhz_per_w", None, "'shared' lacks the parameter"),
        ("shared", "bytes_per_ms", 0.0, "'bytes_per_ms' is 0, not above 0"),
        ("small", "k4", None, "the model 'small' lacks the parameter 'k4'"),
        ("small", "kernels", -1.0, "'kernels' is -1, below 0"),
        ("large", "least_active_ms", 0.0, "'least_active_ms' is 0, not above 0"),
    ],
)
def test_damaged_coefficients_are_refused(
    coefficients: Coefficients, place: str, name: str, value: float | None, expected: str
) -> None:
    document = coefficients.model_dump(mode="json")
    inside = document["shared"] if place == "shared" else document["models"][place]
    if value is None:
        del inside[name]
    else:
        inside[name]["value"] = value
    with pytest.raises(BadInput, match="make it again") as caught:
        predictor(Coefficients.model_validate(document))
    assert expected in str(caught.value)


def test_without_a_lightweight_profile_the_equations_are_fitted_to_cells() -> None:
    names = ("small", "large")
    cells = [*solo_cells(models=names), *pair_cells(models=names)]
    coefficients = fit(measure_truth(cells), CPU, profile_hash="", model="igniter")
    assert any("no lightweight profile" in note for note in coefficients.extra["notes"])
    assert "cache_util" in coefficients.models["small"]
    fitted = IgniterLatency().load(coefficients)
    x = predictor(coefficients).points(cells[:3])
    assert set(fitted.explain(x)) == {"transfer", "active alone", "scheduling", "cache and memory"}


def test_no_rows_no_answers(model: Predictor) -> None:
    assert len(model.fitted.latency_ms(model.points([]))) == 0
