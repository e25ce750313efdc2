from __future__ import annotations

import json

import numpy as np
import pytest

from igniter_prof.errors import BadInput
from igniter_prof.fitting import fit, predictor
from igniter_prof.fitting.holdout import hold_out
from igniter_prof.fitting.points import observe
from igniter_prof.records import Coefficients, Load, Measurement, Prediction, Tenant
from tests.unit.fitting_cells import (
    BATCH_EXPONENT,
    CPU,
    SHARE_EXPONENT,
    TRUTH,
    measure_truth,
    measured,
    pair_cells,
    solo_cells,
    true_latencies,
)


def fitted(measurements: list[Measurement], **options: object) -> Coefficients:
    return fit(measurements, CPU, profile_hash="0" * 64, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def profile() -> list[Measurement]:
    return measure_truth([*solo_cells(), *pair_cells()])


@pytest.fixture(scope="module")
def equations(profile: list[Measurement]) -> Coefficients:
    """Of the model whose equations the truth has; `igprof`'s own are in test_interference.py."""
    return fitted(profile, model="igniter")


@pytest.fixture(scope="module", params=["igprof", "igniter"])
def coefficients(
    request: pytest.FixtureRequest, profile: list[Measurement], equations: Coefficients
) -> Coefficients:
    return equations if request.param == "igniter" else fitted(profile)


def test_known_coefficients_are_recovered_within_their_errors(equations: Coefficients) -> None:
    scores = []
    # α and c are known up to one factor, which sets the geometric mean of c to 1
    scale = np.prod([p["cache_util"] for p in TRUTH.values()]) ** (1 / len(TRUTH))
    assert scale == pytest.approx(1.0)
    for model, truth in TRUTH.items():
        for term, value in truth.items():
            parameter = equations.models[model][term]
            if parameter.std_error is None:  # the bound holds it: it must be small beside the rest
                assert parameter.value <= 1e-3
                continue
            scores.append((parameter.value - value) / parameter.std_error)
    for term, value in (
        ("cache_util_share_exponent", SHARE_EXPONENT),
        ("cache_util_batch_exponent", BATCH_EXPONENT),
    ):
        parameter = equations.shared[term]
        assert parameter.std_error is not None
        scores.append((parameter.value - value) / parameter.std_error)
    assert len(scores) >= 25
    assert np.max(np.abs(scores)) < 4
    assert 0.5 < np.sqrt(np.mean(np.square(scores))) < 1.5


def test_holdout_error_is_the_noise_and_far_below_no_interference(
    coefficients: Coefficients,
) -> None:
    report = coefficients.report
    assert report is not None
    assert report.holdout.cells == report.holdout_none.cells > 20
    assert report.holdout.mean_pct is not None
    assert report.holdout_none.mean_pct is not None
    # the mean magnitude of 1% normal noise is 0.8%
    assert report.holdout.mean_pct < 1.2
    assert report.holdout_none.mean_pct > 10 * report.holdout.mean_pct
    assert report.holdout.r2 is not None
    assert report.holdout.r2 > 0.999
    assert {"solo", "pairs", "large+small"} <= set(report.by_group)


def test_the_report_never_saw_the_holdout(
    profile: list[Measurement], coefficients: Coefficients
) -> None:
    report = coefficients.report
    assert report is not None
    held = {row["cell_id"] for row in report.residuals if row["holdout"]}
    spoilt = [
        measured(m.cell.tenants, [5 * t.latency.mean_ms for t in m.tenants if t.latency])
        if m.cell_id in held
        else m
        for m in profile
    ]
    again = fitted(spoilt, model=coefficients.model).report
    assert again is not None
    assert [r["predicted_ms"] for r in again.residuals] == [
        r["predicted_ms"] for r in report.residuals
    ]
    assert again.train == report.train
    assert again.holdout != report.holdout


def test_holdout_is_seeded_whole_points_and_leaves_what_only_it_tells() -> None:
    cells = [*solo_cells(batches=(1, 2, 4), shares=(25, 50, 100)), *pair_cells(batches=(1, 2))]
    measurements = [
        measured(cell, true_latencies(cell), repeat=repeat) for cell in cells for repeat in (0, 1)
    ]
    data, _ = observe(measurements, CPU)
    held = hold_out(data, 0.3, seed=1)
    assert np.array_equal(held, hold_out(data, 0.3, seed=1))
    assert not np.array_equal(held, hold_out(data, 0.3, seed=2))
    assert 0.2 < held.mean() < 0.4
    assert not set(data.group[held]) & set(data.group[~held])
    solo = data.points.tenants == 1
    for model in range(len(data.models)):
        mine = solo & (data.points.model == model)
        for values in (data.points.batch, data.points.share):
            assert set(values[mine & ~held]) == set(values[mine])
        assert (~held & ~solo & (data.points.model == model)).any()


def test_intervals_hold_what_would_be_measured(coefficients: Coefficients) -> None:
    cells = [*solo_cells(batches=(3, 6), shares=(30, 70)), *pair_cells(batches=(2, 6))]
    fresh = measure_truth(cells, seed=99)
    predicted = predictor(coefficients).predict([m.cell.tenants for m in fresh])
    inside = [
        p.latency_low_ms <= t.latency.mean_ms <= p.latency_high_ms
        for m, cell in zip(fresh, predicted, strict=True)
        for t, p in zip(m.tenants, cell, strict=True)
        if t.latency
    ]
    assert 0.82 < np.mean(inside) < 0.97
    width = np.median([p.latency_high_ms / p.latency_low_ms - 1 for c in predicted for p in c])
    assert width < 0.06


def test_same_seed_same_coefficients(profile: list[Measurement]) -> None:
    some = profile[::4]
    first, second = fitted(some, seed=3), fitted(some, seed=3)
    assert first.models == second.models
    assert first.report == second.report


def test_coefficients_survive_json(coefficients: Coefficients) -> None:
    text = coefficients.model_dump_json()
    again = Coefficients.model_validate(json.loads(text))
    cells = pair_cells()[:3]
    assert predictor(again).predict(cells) == predictor(coefficients).predict(cells)


def test_none_ignores_neighbours(profile: list[Measurement]) -> None:
    coefficients = fitted(profile, model="none")
    model = predictor(coefficients)
    alone = Tenant(model="small", batch_size=2, share_pct=40)
    other = Tenant(model="large", batch_size=8, share_pct=60)
    (first,), (second, _) = model.predict([[alone], [alone, other]])
    assert first.latency_ms == second.latency_ms
    report = coefficients.report
    assert report is not None
    assert report.holdout == report.holdout_none


def test_one_point_is_enough_for_one_term() -> None:
    cells = [(Tenant(model="small", batch_size=4, share_pct=50),)]
    coefficients = fitted(measure_truth(cells, noise=0))
    assert coefficients.report is not None
    assert coefficients.report.holdout.cells == 0
    assert coefficients.report.holdout.mean_pct is None
    (prediction,) = predictor(coefficients).predict(cells)[0]
    assert prediction.latency_ms == pytest.approx(true_latencies(cells[0])[0], rel=1e-6)
    assert prediction.latency_low_ms < prediction.latency_ms < prediction.latency_high_ms
    assert all(p.std_error is None for p in coefficients.models["small"].values())
    notes = " ".join(coefficients.extra["notes"])
    assert "small: the profile does not determine k3_ms, k4, k5_ms" in notes
    assert "no co-located cells" in notes
    assert "too few cells for a hold-out" in notes


@pytest.mark.parametrize(
    ("batches", "shares", "error"),
    [
        ((1, 2, 4, 8), (100,), 0.001),
        ((4,), (25, 50, 75, 100), 0.001),
        # four points, and at most one term less
        ((1, 8), (50, 100), 0.08),
    ],
)
def test_little_data_fits_with_fewer_terms(
    batches: tuple[int, ...], shares: tuple[float, ...], error: float
) -> None:
    cells = solo_cells(models=("middle",), batches=batches, shares=shares)
    model = predictor(fitted(measure_truth(cells, noise=0)))
    for cell, (prediction,) in zip(cells, model.predict(cells), strict=True):
        assert prediction.latency_ms == pytest.approx(true_latencies(cell)[0], rel=error)


def test_one_pair_gives_each_its_own_sensitivity() -> None:
    pairs = pair_cells(models=("small", "large"), batches=(4,), shares=(50,))
    coefficients = fitted(measure_truth([*solo_cells(models=("small", "large")), *pairs], noise=0))
    (predicted,) = predictor(coefficients).predict(pairs)
    assert [p.latency_ms for p in predicted] == pytest.approx(true_latencies(pairs[0]), rel=0.01)


def test_models_measured_only_alone_get_the_mean_interference_and_a_note() -> None:
    cells = [*solo_cells(), *pair_cells(models=("small", "middle"))]
    coefficients = fitted(measure_truth(cells, noise=0.001), model="igniter")
    alpha = {m: p["alpha_cache"].value for m, p in coefficients.models.items()}
    assert alpha["large"] == pytest.approx((alpha["small"] + alpha["middle"]) / 2)
    assert alpha["large"] > 0
    assert coefficients.models["large"]["alpha_cache"].std_error is None
    assert any("measured only alone" in n and "large" in n for n in coefficients.extra["notes"])


def test_models_measured_only_alone_are_slowed_as_others_are_and_less_certain() -> None:
    pairs = pair_cells(models=("small", "middle"))
    model = predictor(fitted(measure_truth([*solo_cells(), *pairs], noise=0.001)))
    large, small, middle = (
        Tenant(model=m, batch_size=4, share_pct=50) for m in ("large", "small", "middle")
    )
    ((alone,), (beside, _), (known, _)) = model.predict([[large], [large, small], [middle, small]])
    assert beside.latency_ms > 1.1 * alone.latency_ms

    def width(p: Prediction) -> float:
        return float(np.log(p.latency_high_ms / p.latency_low_ms))

    assert width(beside) > 2 * max(width(known), width(alone))
    assert any("large and small were never" in said for said in model.outside([large, small]))
    notes = model.coefficients.extra["notes"]
    assert [n for n in notes if "measured only alone" in n and n.endswith(": large")]


def test_input_scale_and_instances_are_fitted_where_they_vary() -> None:
    cells = [
        (Tenant(model="small", batch_size=b, share_pct=r, input_scale=s),)
        for b in (1, 4, 8)
        for r in (25, 50, 100)
        for s in (0.5, 1.0, 2.0)
    ]
    terms = fitted(measure_truth(cells, noise=0.002)).models["small"]
    assert terms["scale_exponent"].value == pytest.approx(1.5, abs=0.1)
    assert terms["scale_exponent"].std_error is not None
    assert terms["instance_exponent"].std_error is None


def test_a_cap_in_cores_is_a_share() -> None:
    caps = [
        (Tenant(model="small", batch_size=b, cpu_cores=c),)
        for b in (1, 2, 4, 8)
        for c in (0.5, 1.0, 1.5, 2.0)
    ]
    model = predictor(fitted(measure_truth(caps, noise=0)))
    by_cap, by_share = model.predict(
        [
            [Tenant(model="small", batch_size=4, cpu_cores=1.0)],
            [Tenant(model="small", batch_size=4, share_pct=50)],
        ]
    )
    assert by_cap == by_share


def test_one_shared_server_slows_all_by_contention() -> None:
    # no shares: three models that take turns on the same cores
    alone = {"small": 5.0, "middle": 20.0, "large": 60.0}
    cells = [[m] for m in alone] + [["small", "middle"], ["small", "large"], ["middle", "large"]]
    measurements = [
        measured(
            [Tenant(model=m, batch_size=b) for m in names],
            [alone[m] * b * len(names) for m in names],
        )
        for names in cells
        for b in (1, 2, 4)
    ]
    model = predictor(fitted(measurements))
    tenants = [Tenant(model=m, batch_size=2) for m in alone]
    (predicted,) = model.predict([tenants])
    for tenant, prediction in zip(tenants, predicted, strict=True):
        assert prediction.latency_ms == pytest.approx(alone[tenant.model] * 2 * 3, rel=0.05)


def test_cells_that_do_not_show_a_batch_alone_in_flight_are_left_out() -> None:
    good = measure_truth(solo_cells(models=("small",)))
    tenant = Tenant(model="small", batch_size=1, share_pct=50)
    batched = tenant.model_copy(update={"queue_delay_us": 100, "batch_size": 8})
    odd = [
        measured([tenant], [900.0], load=Load(concurrency=4)),
        measured([tenant], [900.0], load=Load(kind="poisson", rate_rps=5)),
        measured([tenant, tenant], [900.0, 1.0], statuses=["ok", "oom"]),
        measured([batched], [900.0]),
    ]
    with_odd, without = fitted([*good, *odd]), fitted(good)
    assert with_odd.models == without.models
    notes = " ".join(with_odd.extra["notes"])
    assert "a tenant failed" in notes
    assert "2 cells left out: the load was not a closed loop" in notes


def test_uncertain_measurements_count_less() -> None:
    cells = solo_cells(models=("small",))
    good = measure_truth(cells, noise=0.001)
    wrong = []
    for m in measure_truth(cells[::3], noise=0.001):
        (tenant,) = m.tenants
        assert tenant.latency is not None
        value = 1.05 * tenant.latency.mean_ms
        doubtful = tenant.latency.model_copy(update={"mean_ms": value, "mean_ci_ms": 0.8 * value})
        wrong.append(
            m.model_copy(update={"tenants": (tenant.model_copy(update={"latency": doubtful}),)})
        )
    model = predictor(fitted([*good, *wrong]))
    errors = [
        p[0].latency_ms / true_latencies(c)[0] - 1
        for c, p in zip(cells, model.predict(cells), strict=True)
    ]
    assert np.abs(errors).max() < 0.005


def test_spread_is_the_typical_one_of_a_model() -> None:
    cells = solo_cells(models=("small",))
    measurements = [measured(cell, true_latencies(cell), cv=0.25) for cell in cells]
    (prediction,) = predictor(fitted(measurements)).predict(cells)[0]
    assert prediction.cv == pytest.approx(0.25)


def test_nothing_usable_is_refused() -> None:
    tenant = Tenant(model="small")
    with pytest.raises(BadInput, match="no cell of the profile can be fitted"):
        fitted([])
    with pytest.raises(BadInput, match="a tenant failed"):
        fitted([measured([tenant], [1.0], statuses=["crashed"])])


def test_a_model_never_alone_is_refused_with_what_to_profile() -> None:
    cells = [*solo_cells(models=("small",)), *pair_cells(models=("small", "large"))]
    with pytest.raises(BadInput, match="'large' was never measured alone") as caught:
        fitted(measure_truth(cells))
    assert "igprof profile --models large" in str(caught.value)


def test_unknown_latency_model_gets_a_hint() -> None:
    with pytest.raises(BadInput, match="did you mean 'igniter'"):
        fitted(measure_truth(solo_cells(models=("small",))), model="ignitor")


def test_a_holdout_out_of_range_is_refused() -> None:
    with pytest.raises(BadInput, match="outside of 0-50%"):
        fitted(measure_truth(solo_cells(models=("small",))), holdout=0.9)
