"""The model ``gpulets`` on cells with known weights and utilisations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from igniter_prof.errors import BadInput
from igniter_prof.fitting import Predictor, fit, predictor
from igniter_prof.fitting.gpulets import GpuletsModel
from igniter_prof.fitting.points import arrange, observe
from igniter_prof.records import Coefficients, Device, GpuCounters, Measurement, Tenant
from tests.unit.fitting_cells import measured

GPU = Device(id="cuda:GPU-1", kind="cuda", name="a GPU")
# what the tenant's own utilisation does, what the others' does, and the constant
L2_OWN, L2_OTHERS, DRAM_OWN, DRAM_OTHERS, CONSTANT = 0.1, 0.5, -0.05, 0.8, 0.03
BATCHES, SHARES = (1, 4, 8, 16), (20, 50, 80, 100)


def alone_ms(t: Tenant) -> float:
    per_item = {"small": 1.0, "large": 9.0}[t.model]
    # not quite the equations: so that measured points must come from what was measured
    bump = 1.0 + 0.02 * np.sin(3.0 * t.batch_size + (t.share_pct or 100.0))
    return float(bump * (per_item * t.batch_size + 2.0) / ((t.share_pct or 100.0) / 100 + 0.1))


def utilisation(t: Tenant) -> tuple[float, float]:
    """Of L2 and DRAM, as parts; no function of one another."""
    share, batch = (t.share_pct or 100.0) / 100.0, t.batch_size
    if t.model == "small":
        return 0.1 + 0.2 * share * batch**0.2, 0.5 * share / batch**0.1
    return 0.4 * share**0.5, 0.1 + 0.3 * share**2 * batch**0.1


def together_ms(cell: Sequence[Tenant]) -> list[float]:
    read = [utilisation(t) for t in cell]
    l2, dram = sum(u for u, _ in read), sum(u for _, u in read)
    return [
        alone_ms(t)
        * (
            1.0
            + L2_OWN * u
            + L2_OTHERS * (l2 - u)
            + DRAM_OWN * v
            + DRAM_OTHERS * (dram - v)
            + CONSTANT
        )
        for t, (u, v) in zip(cell, read, strict=True)
    ]


def with_counters(measurement: Measurement) -> Measurement:
    tenants = []
    for each in measurement.tenants:
        l2, dram = utilisation(each.tenant)
        counters = GpuCounters(l2_util_pct=100.0 * l2, dram_util_pct=100.0 * dram)
        tenants.append(each.model_copy(update={"counters": counters}))
    return measurement.model_copy(update={"tenants": tuple(tenants)})


def solo(*, counters: bool = True) -> list[Measurement]:
    cells = [
        Tenant(model=m, batch_size=b, share_pct=r)
        for m in ("small", "large")
        for b in BATCHES
        for r in SHARES
    ]
    alone = [measured([t], [alone_ms(t)], device=GPU) for t in cells]
    return [with_counters(m) if counters else m for m in alone]


def pairs() -> list[Measurement]:
    cells = [
        (
            Tenant(model=first, batch_size=b, share_pct=r),
            Tenant(model=second, batch_size=c, share_pct=100 - r),
        )
        for first, second in (("small", "large"), ("small", "small"), ("large", "large"))
        for b in BATCHES
        for c in BATCHES
        for r in (20, 50, 80)
    ]
    return [measured(cell, together_ms(cell), device=GPU) for cell in cells]


@pytest.fixture(scope="module")
def coefficients() -> Coefficients:
    return fit([*solo(), *pairs()], GPU, profile_hash="0" * 64, model="gpulets")


@pytest.fixture(scope="module")
def model(coefficients: Coefficients) -> Predictor:
    return predictor(coefficients)


def test_known_weights_are_recovered(coefficients: Coefficients) -> None:
    found = {name: coefficients.shared[name].value for name in coefficients.shared}
    assert {name: value for name, value in found.items() if name.startswith("c")} == pytest.approx(
        {
            "c1_l2_own": L2_OWN,
            "c2_l2_others": L2_OTHERS,
            "c3_dram_own": DRAM_OWN,
            "c4_dram_others": DRAM_OTHERS,
            "c5": CONSTANT,
            "cache_util_share_exponent": found["cache_util_share_exponent"],
            "cache_util_batch_exponent": found["cache_util_batch_exponent"],
        },
        abs=1e-9,
    )


def test_noisy_weights_are_recovered_within_their_standard_errors() -> None:
    rng = np.random.default_rng(3)
    noisy = [
        measured(
            m.cell.tenants,
            [v * (1 + 0.01 * rng.standard_normal()) for v in together_ms(m.cell.tenants)],
            device=GPU,
        )
        for m in pairs()
    ]
    data, _ = observe([*solo(), *noisy], GPU)
    shared = GpuletsModel().fit(data, 0).document().shared
    truth = (L2_OWN, L2_OTHERS, DRAM_OWN, DRAM_OTHERS, CONSTANT)
    names = ("c1_l2_own", "c2_l2_others", "c3_dram_own", "c4_dram_others", "c5")
    for name, value in zip(names, truth, strict=True):
        error = shared[name].std_error
        assert error is not None
        assert 0 < error < 0.05
        assert abs(shared[name].value - value) < 3.5 * error


def test_cells_at_measured_points_are_exact(model: Predictor) -> None:
    cells = [
        [Tenant(model="small", batch_size=4, share_pct=50)],
        [
            Tenant(model="small", batch_size=8, share_pct=20),
            Tenant(model="large", batch_size=4, share_pct=80),
        ],
    ]
    predicted = [t.latency_ms for cell in model.predict(cells) for t in cell]
    assert predicted == pytest.approx([alone_ms(cells[0][0]), *together_ms(cells[1])], rel=1e-9)


def test_three_tenants_add_up_their_neighbours(model: Predictor) -> None:
    cell = [
        Tenant(model="small", batch_size=8, share_pct=20),
        Tenant(model="large", batch_size=4, share_pct=50),
        Tenant(model="small", batch_size=1, share_pct=20),
    ]
    predicted = [t.latency_ms for t in model.predict([cell])[0]]
    assert predicted == pytest.approx(together_ms(cell), rel=1e-9)


def test_between_points_it_interpolates_and_beyond_it_goes_on_with_the_equations(
    model: Predictor,
) -> None:
    def alone(batch: int, share: float) -> float:
        tenant = Tenant(model="large", batch_size=batch, share_pct=share)
        return model.predict([[tenant]])[0][0].latency_ms

    def truth(batch: int, share: float) -> float:
        return alone_ms(Tenant(model="large", batch_size=batch, share_pct=share))

    assert alone(6, 65) == pytest.approx(truth(6, 65), rel=0.05)
    # twice the batch, half the share: beyond both edges
    assert alone(32, 100) == pytest.approx(truth(32, 100), rel=0.1)
    assert alone(16, 10) == pytest.approx(truth(16, 10), rel=0.25)
    shares = np.linspace(20, 21, 5)
    assert np.ptp(np.log([alone(4, share) for share in shares])) < 0.05


def test_utilisation_is_interpolated_in_logarithms(model: Predictor) -> None:
    fitted = GpuletsModel().load(model.coefficients)
    low, high = (utilisation(Tenant(model="small", batch_size=b, share_pct=50))[0] for b in (4, 8))
    x = model.points([[Tenant(model="small", batch_size=b, share_pct=50)] for b in (4, 6, 8, 64)])
    l2, _ = fitted.alone.utilisations(x)
    part = np.log(6 / 4) / np.log(8 / 4)
    assert l2[:3] == pytest.approx([low, low + part * (high - low), high])
    # the nearest beyond
    last = utilisation(Tenant(model="small", batch_size=16, share_pct=50))[0]
    assert l2[3] == pytest.approx(last)


def test_points_without_counters_take_those_around(coefficients: Coefficients) -> None:
    some = [m for m in solo() if m.cell.tenants[0].share_pct != 100]
    rest = [m for m in solo(counters=False) if m.cell.tenants[0].share_pct == 100]
    again = predictor(fit([*some, *rest, *pairs()], GPU, profile_hash="", model="gpulets"))
    whole = Tenant(model="large", batch_size=4, share_pct=100)
    assert again.predict([[whole]])[0][0].latency_ms == pytest.approx(alone_ms(whole), rel=1e-9)
    l2, dram = GpuletsModel().load(again.coefficients).alone.utilisations(again.points([[whole]]))
    expected = utilisation(whole.model_copy(update={"share_pct": 80.0}))
    assert (l2[0], dram[0]) == pytest.approx(expected)


def test_terms_sum_to_the_latency(model: Predictor) -> None:
    pair = [
        Tenant(model="small", batch_size=8, share_pct=20),
        Tenant(model="large", batch_size=4, share_pct=80),
    ]
    x = model.points([pair, pair[1:]])
    terms = model.fitted.explain(x)
    assert np.sum(list(terms.values()), axis=0) == pytest.approx(model.fitted.latency_ms(x))
    assert terms["alone"] == pytest.approx([alone_ms(t) for t in [*pair, pair[1]]])
    (l2_own, dram_own), (l2_other, dram_other) = (utilisation(t) for t in pair)
    assert terms["L2 cache"][0] / terms["alone"][0] == pytest.approx(
        L2_OWN * l2_own + L2_OTHERS * l2_other
    )
    assert terms["memory bandwidth"][0] / terms["alone"][0] == pytest.approx(
        DRAM_OWN * dram_own + DRAM_OTHERS * dram_other
    )
    assert terms["constant"][:2] / terms["alone"][:2] == pytest.approx([CONSTANT] * 2)
    assert [terms[name][2] for name in ("L2 cache", "memory bandwidth", "constant")] == [0.0] * 3


def test_neighbours_never_speed_a_tenant_up(coefficients: Coefficients) -> None:
    shared = {**coefficients.shared, "c5": coefficients.shared["c5"].model_copy()}
    shared["c5"] = shared["c5"].model_copy(update={"value": -5.0})
    fast = predictor(coefficients.model_copy(update={"shared": shared}))
    cell = [Tenant(model=m, batch_size=4, share_pct=50) for m in ("small", "large")]
    predicted = [t.latency_ms for t in fast.predict([cell])[0]]
    assert predicted == pytest.approx([alone_ms(t) for t in cell])


def test_the_file_predicts_what_the_fit_did(model: Predictor, coefficients: Coefficients) -> None:
    again = predictor(Coefficients.model_validate_json(coefficients.model_dump_json()))
    cells = [
        [Tenant(model="small", batch_size=3, share_pct=33), Tenant(model="large", share_pct=44)],
        [Tenant(model="large", batch_size=64, share_pct=5)],
    ]
    for before, after in zip(model.predict(cells), again.predict(cells), strict=True):
        expected = [t.latency_ms for t in before]
        assert [t.latency_ms for t in after] == pytest.approx(expected, rel=1e-12)


def test_without_counters_it_is_refused_with_the_model_that_needs_none() -> None:
    with pytest.raises(BadInput, match="L2 cache and DRAM") as caught:
        fit([*solo(counters=False), *pairs()], GPU, profile_hash="", model="gpulets")
    assert "--model igprof" in str(caught.value)
    # one model's are not another's
    some = [m for m in solo() if m.cell.tenants[0].model == "small"]
    rest = [m for m in solo(counters=False) if m.cell.tenants[0].model == "large"]
    with pytest.raises(BadInput, match="none of 'large' alone"):
        fit([*some, *rest, *pairs()], GPU, profile_hash="", model="gpulets")


def test_without_co_located_cells_nothing_interferes_and_it_says_so() -> None:
    coefficients = fit(solo(), GPU, profile_hash="", model="gpulets")
    assert any("no co-located cells" in note for note in coefficients.extra["notes"])
    cell = [Tenant(model=m, batch_size=4, share_pct=50) for m in ("small", "large")]
    predicted = predictor(coefficients).predict([cell])[0]
    assert [t.latency_ms for t in predicted] == pytest.approx([alone_ms(t) for t in cell])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda d: d["shared"].pop("c3_dram_own"), "'shared' lacks the parameter 'c3_dram_own'"),
        (lambda d: d["models"]["small"].pop("k2_ms"), "'small' lacks the parameter 'k2_ms'"),
        (lambda d: d["extra"]["fitted"].pop("alone"), "alone"),
        (lambda d: d["extra"]["fitted"]["alone"].pop("large"), "alone lacks 'large'"),
        (
            lambda d: d["extra"]["fitted"]["alone"]["large"][0].update(share=-1),
            "alone.large.0.share",
        ),
        (
            lambda d: [p.update(l2_util=None) for p in d["extra"]["fitted"]["alone"]["small"]],
            "extra.fitted.alone.small holds no utilisation",
        ),
    ],
)
def test_damaged_coefficients_are_refused(
    coefficients: Coefficients, damage: object, expected: str
) -> None:
    document = coefficients.model_dump(mode="json")
    assert callable(damage)
    damage(document)
    with pytest.raises(BadInput) as caught:
        predictor(Coefficients.model_validate(document))
    assert expected in str(caught.value)


def test_other_scales_and_instances_take_the_nearest_that_were_measured() -> None:
    twice = [
        m.model_copy(
            update={
                "tenants": tuple(
                    t.model_copy(update={"tenant": t.tenant.model_copy(update={"instances": 2})})
                    for t in m.tenants
                )
            }
        )
        for m in solo()
    ]
    slower = [
        m.model_copy(
            update={
                "tenants": tuple(
                    t.model_copy(
                        update={
                            "latency": t.latency.model_copy(
                                update={"mean_ms": 1.7 * t.latency.mean_ms}
                            )
                        }
                    )
                    for t in m.tenants
                    if t.latency
                )
            }
        )
        for m in twice
    ]
    data, _ = observe([*solo(), *slower], GPU)
    fitted = GpuletsModel().fit(data, 0)
    one = Tenant(model="small", batch_size=4, share_pct=50)
    cells = [[one.model_copy(update={"instances": count})] for count in (1, 2)]
    x = arrange(cells, {name: i for i, name in enumerate(data.models)}, GPU)
    expected = [alone_ms(one), 1.7 * alone_ms(one)]
    assert fitted.latency_ms(x) == pytest.approx(expected, rel=1e-9)
