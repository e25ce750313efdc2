"""Plans from workloads: what they promise, what is refused, and the pieces they are made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from igniter_prof.config.workloads import workloads_digest
from igniter_prof.errors import BadInput, Infeasible
from igniter_prof.provisioning import STRATEGIES, check_plan, plan
from igniter_prof.provisioning.engine import Engine
from igniter_prof.provisioning.kinds import device_kind
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.planner import engine_of as engine_for
from igniter_prof.provisioning.problem import (
    Choices,
    Configuration,
    choices_for,
    classes_of,
    share_grid,
)
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import Plan, PlanDeviceType, Prediction, Tenant, Workload
from tests.provisioning_fakes import (
    MODELS,
    FakePredictor,
    as_predictor,
    cheapest_by_brute_force,
    fake_kind,
    fake_request_latency,
)

WORKLOADS = (
    Workload(name="a", model="small", rate_rps=500, slo_ms=20, count=3),
    Workload(name="b", model="middle", rate_rps=200, slo_ms=30, count=2),
    Workload(name="c", model="large", rate_rps=50, slo_ms=60, count=4),
)
RULE = rule_of("percentile")
OF_A_DEVICE = ("share_step_pct", "max_tenants", "count", "extrapolate")


def planned(
    workloads: Sequence[Workload] = WORKLOADS,
    predictor: Any = None,
    latency_rule: str = "percentile",
    request_latency: Any = fake_request_latency,
    **options: Any,
) -> Plan:
    record = {name: options.pop(name) for name in OF_A_DEVICE if name in options}
    kind, notes = device_kind(
        PlanDeviceType(name="gpu", coefficients_hash="c" * 64, **record),
        as_predictor(predictor or FakePredictor()),
        rule_of(latency_rule),
        [each.model for each in workloads],
        request_latency=request_latency,
    )
    return plan(
        [kind],
        workloads,
        rule=rule_of(latency_rule),
        workloads_hash=workloads_digest(tuple(workloads)),
        notes=notes,
        **options,
    )


def checked(made: Plan, workloads: Sequence[Workload] = WORKLOADS) -> list[str]:
    return check_plan(
        made,
        FakePredictor(),
        workloads,
        coefficients_hashes="c" * 64,
        request_latency=fake_request_latency,
    )


def names(made: Plan) -> list[str]:
    return sorted(tenant.workload for device in made.devices for tenant in device.tenants)


# --- plans ------------------------------------------------------------------------------------


def test_the_optimal_plan_is_proven_complete_and_keeps_its_promises() -> None:
    made = planned()

    assert names(made) == ["a-1", "a-2", "a-3", "b-1", "b-2", "c-1", "c-2", "c-3", "c-4"]
    assert made.optimal is True
    assert made.bound == made.cost == len(made.devices) == 4
    assert checked(made) == []


@pytest.mark.parametrize("rule", ["percentile", "half-mean", "percentile+0.9"])
def test_every_rule_gives_plans_that_pass_the_check_under_it(rule: str) -> None:
    made = planned(latency_rule=rule)

    assert made.latency_rule == rule
    assert checked(made) == []


def test_one_device_each_is_the_dearest_plan() -> None:
    made = planned(strategy="alone")

    assert len(made.devices) == 9
    assert {tenant.share_pct for device in made.devices for tenant in device.tenants} == {100}
    assert checked(made) == []


def test_first_fit_without_interference_says_and_shows_that_it_breaks_promises() -> None:
    made = planned(strategy="ffd")

    assert len(made.devices) < len(planned().devices)
    assert any("predicted to miss" in note for note in made.notes)
    assert any("SLO does not hold" in finding for finding in checked(made))


def test_first_fit_is_sound_where_there_is_no_interference() -> None:
    predictor = FakePredictor(interference=0)
    made = planned(predictor=predictor, strategy="ffd")

    assert check_plan(made, predictor, WORKLOADS, request_latency=fake_request_latency) == []
    assert len(made.devices) >= len(planned(predictor=predictor).devices)


def test_the_same_question_has_the_same_answer() -> None:
    first, second = planned(), planned(WORKLOADS[::-1])
    times = {"created_at": "", "solve_s": None}

    assert first.model_copy(update=times) == second.model_copy(update=times)


def test_a_noisy_queueing_estimate_still_gives_plans_that_hold() -> None:
    def noisy(service_ms: Any, cv: float, *arguments: Any, **options: Any) -> Any:
        # the answer jumps about with the last digits of the service time
        jitter = 1 + 0.03 * math.sin(1e6 * float(service_ms[-1]))
        return fake_request_latency(service_ms * jitter, cv, *arguments, **options)

    made = planned(request_latency=noisy)
    # of so rough an estimate nothing is proven: the search takes it to be monotone
    assert check_plan(made, FakePredictor(), WORKLOADS, request_latency=noisy, bound=False) == []


def test_what_lies_outside_of_the_profile_is_avoided_or_noted() -> None:
    light = [Workload(name="w", model="small", rate_rps=10, slo_ms=100, count=2)]
    predictor = FakePredictor(profiled_share_pct=25)

    inside = planned(light, predictor=predictor)
    assert min(t.share_pct for d in inside.devices for t in d.tenants) >= 25
    assert "no share below 25% was profiled (small), so none is planned" in inside.notes

    crowd = [light[0].model_copy(update={"count": 8})]
    wide = planned(crowd, predictor=predictor, extrapolate=True, max_tenants=8)
    assert len(wide.devices) < len(planned(crowd, predictor=predictor, max_tenants=8).devices)
    assert any(note.startswith("outside of the profile") for note in wide.notes)


@pytest.mark.parametrize("strategy", ["optimal", "alone"])
def test_no_share_above_what_was_profiled_is_planned_or_handed_out(strategy: str) -> None:
    light = [
        Workload(name=model, model=model, rate_rps=10, slo_ms=200) for model in ("small", "middle")
    ]
    predictor = FakePredictor(most_profiled_share_pct=40)

    capped = planned(light, predictor=predictor, strategy=strategy)
    shares = [t.share_pct for d in capped.devices for t in d.tenants]
    assert max(shares) == 40
    assert "no share above 40% was profiled (middle, small), so none is planned" in capped.notes
    assert not any(note.startswith("outside of the profile") for note in capped.notes)

    free = planned(light, predictor=predictor, strategy=strategy, extrapolate=True)
    assert max(t.share_pct for d in free.devices for t in d.tenants) > 40


def test_what_only_an_unprofiled_share_could_meet_is_infeasible_and_says_so() -> None:
    hard = [Workload(name="w", model="large", rate_rps=50, slo_ms=12)]
    predictor = FakePredictor(most_profiled_share_pct=40)

    with pytest.raises(Infeasible, match=r"with 40% of it.*") as caught:
        planned(hard, predictor=predictor)
    assert "--extrapolate" in str(caught.value.hint)
    assert planned(hard, predictor=predictor, extrapolate=True).devices


@pytest.mark.parametrize(
    ("profiled", "asked"), [("resnet50", "resnet50_dynamic"), ("resnet50_dynamic", "resnet50")]
)
def test_a_model_is_planned_and_checked_under_any_of_its_names(profiled: str, asked: str) -> None:
    predictor = FakePredictor({profiled: MODELS["small"], "large": MODELS["large"]})
    workloads = [
        Workload(name="a", model=asked, rate_rps=100, slo_ms=40),
        Workload(name="b", model=profiled, rate_rps=100, slo_ms=40),
        Workload(name="c", model="large", rate_rps=20, slo_ms=90),
    ]
    made = planned(workloads, predictor=predictor)

    models = {t.workload: t.model for device in made.devices for t in device.tenants}
    assert models == {"a": profiled, "b": profiled, "c": "large"}

    def found(each: Plan) -> list[str]:
        return check_plan(each, predictor, workloads, request_latency=fake_request_latency)

    assert found(made) == []
    text = made.model_dump_json().replace(f'"model":"{profiled}"', f'"model":"{asked}"')
    assert found(Plan.model_validate_json(text)) == []
    text = text.replace(f'"model":"{asked}"', '"model":"vgg19"')
    assert any("know no model 'vgg19'" in each for each in found(Plan.model_validate_json(text)))


# --- what cannot be planned -------------------------------------------------------------------


def test_an_slo_that_no_device_meets_is_named_with_the_nearest_that_one_does() -> None:
    hard = Workload(name="hard", model="large", rate_rps=100, slo_ms=3)

    with pytest.raises(Infeasible) as caught:
        planned([*WORKLOADS, hard])
    message = str(caught.value)
    assert "'hard' (large)" in message
    assert "over its SLO of 3 ms" in message
    assert "'a" not in message

    nearest = float(message.split("an SLO of ")[1].split(" ms")[0])
    assert planned([hard.model_copy(update={"slo_ms": nearest})]).devices
    with pytest.raises(Infeasible):
        planned([hard.model_copy(update={"slo_ms": nearest * 0.99})])


def test_a_rate_beyond_a_device_is_named_with_the_nearest_that_is_not() -> None:
    hard = Workload(name="hard", model="large", rate_rps=5000, slo_ms=100)

    with pytest.raises(Infeasible, match=r"it can take .* less than its rate of 5000") as caught:
        planned([hard])

    nearest = float(str(caught.value).split("a rate of ")[1].split(" requests")[0])
    assert planned([hard.model_copy(update={"rate_rps": nearest})]).devices
    with pytest.raises(Infeasible):
        planned([hard.model_copy(update={"rate_rps": nearest * 1.01})])


def test_under_half_mean_too_the_nearest_slo_will_do() -> None:
    hard = Workload(name="hard", model="large", rate_rps=300, slo_ms=8)

    with pytest.raises(Infeasible) as caught:
        planned([hard], latency_rule="half-mean")

    nearest = float(str(caught.value).split("an SLO of ")[1].split(" ms")[0])
    eased = hard.model_copy(update={"slo_ms": nearest})
    assert planned([eased], latency_rule="half-mean").devices


def test_an_slo_below_a_single_inference_has_no_feasible_rate() -> None:
    with pytest.raises(Infeasible) as caught:
        planned([Workload(name="w", model="large", rate_rps=1, slo_ms=0.1)])

    assert "an SLO of" in str(caught.value)
    assert "a rate of" not in str(caught.value)


def test_all_workloads_that_cannot_be_met_are_named() -> None:
    with pytest.raises(Infeasible) as caught:
        planned([Workload(name=n, model=n, rate_rps=1, slo_ms=0.1) for n in ("small", "large")])

    assert "'small'" in str(caught.value)
    assert "'large'" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "optimum"}, "did you mean 'optimal'"),
        ({"latency_rule": "half-men"}, "did you mean 'half-mean'"),
        ({"latency_rule": "percentile+x"}, "'x' is no confidence"),
        ({"share_step_pct": 0.05}, "share step"),
        ({"time_limit_s": 0}, "time limit"),
        ({"workloads": []}, "no workloads"),
        (
            {"workloads": [Workload(name="w", model="smal", rate_rps=1, slo_ms=1)]},
            "did you mean 'small'",
        ),
        ({"workloads": [WORKLOADS[0], WORKLOADS[0]]}, "two workloads are named"),
    ],
)
def test_bad_questions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        planned(**{"workloads": WORKLOADS, **options})


# --- the pieces -------------------------------------------------------------------------------


def test_the_share_grid_has_exact_multiples_up_to_100() -> None:
    assert share_grid(25) == (25, 50, 75, 100)
    assert share_grid(30) == (30, 60, 90)
    assert share_grid(2.5)[2] == 7.5
    assert len(share_grid(0.1)) == 1000
    assert share_grid(0.1)[2] == 0.3
    for step in (0, 0.05, 101, math.nan):
        with pytest.raises(BadInput, match="share step"):
            share_grid(step)


def test_choices_stay_within_what_was_profiled() -> None:
    predictor = FakePredictor(profiled_batch=8, profiled_share_pct=20)

    choices, notes = choices_for(predictor, ["small", "large"], 10, rule=RULE)
    assert choices["small"] == Choices((1, 2, 4, 8), tuple(range(20, 101, 10)))
    assert notes == ["no share below 20% was profiled (large, small), so none is planned"]

    choices, notes = choices_for(predictor, ["small"], 10, rule=RULE, extrapolate=True)
    assert choices["small"].shares_pct[0] == 10
    assert choices["small"].batch_sizes[-1] == 64
    assert notes == []

    choices, _ = choices_for(predictor, ["small"], 10, rule=RULE, batch_sizes={"small": (6, 3)})
    assert choices["small"].batch_sizes == (3, 6)


def test_identical_workloads_are_one_class_in_natural_order_of_names() -> None:
    workloads = [
        Workload(name=name, model="small", rate_rps=1, slo_ms=1) for name in ("w10", "w9", "w1")
    ]
    (one,) = classes_of(workloads)

    assert one.names == ("w1", "w9", "w10")


def engine_of(*workloads: Workload) -> Engine:
    kind = fake_kind(FakePredictor(), workloads)
    return engine_for([kind], workloads, rule=RULE)


A = Workload(name="a", model="small", rate_rps=500, slo_ms=20)
B = Workload(name="b", model="middle", rate_rps=200, slo_ms=30)
LARGE = Workload(name="b", model="large", rate_rps=50, slo_ms=60)


def index_of(engine: Engine, name: str) -> int:
    (found,) = (k for k, each in enumerate(engine.problem.classes) if name in each.names)
    return found


def members(engine: Engine, configuration: Configuration) -> list[Workload]:
    return [engine.problem.classes[index].sample for index in configuration.pattern]


def test_no_share_can_be_a_step_lower_than_the_least_ones() -> None:
    engine = engine_of(A, B)
    configuration = engine.configure((0, 1), 0, spread=False)
    assert configuration is not None
    workloads = members(engine, configuration)
    evaluator = engine.problem.kinds[0].evaluator

    assert all(each.holds for each in evaluator.judge(workloads, configuration.settings))
    for index, setting in enumerate(configuration.settings):
        lower = list(configuration.settings)
        lower[index] = Setting(setting.batch_size, setting.share_pct - 5)
        assert not all(each.holds for each in evaluator.judge(workloads, lower))


def test_neighbours_raise_the_least_shares() -> None:
    engine = engine_of(A, LARGE)
    together = engine.configure((0, 1), 0, spread=False)
    alone = [engine.configure((index,), 0, spread=False) for index in (0, 1)]
    assert together is not None
    assert together.used_pct > sum(each.used_pct for each in alone if each is not None)


def test_spreading_what_is_left_never_costs_headroom() -> None:
    engine = engine_of(A, A.model_copy(update={"name": "twin"}))
    tight = engine.configure((0, 0), 0, spread=False)
    assert tight is not None

    def headroom(configuration: Configuration) -> float:
        evaluator = engine.problem.kinds[0].evaluator
        judged = evaluator.judge(members(engine, configuration), configuration.settings)
        return min(judgement.headroom for judgement in judged)

    roomy = engine.spread(tight)
    assert roomy.used_pct == 100
    assert headroom(roomy) > headroom(tight)


def test_shares_that_are_too_small_by_the_rule_are_raised() -> None:
    engine = engine_of(A, LARGE)
    pattern = (index_of(engine, "a"), index_of(engine, "b"))
    settled = engine.settled(0, pattern, (Setting(2, 5), Setting(2, 5)))
    assert settled is not None
    judged = engine.problem.kinds[0].evaluator.judge([A, LARGE], settled)
    assert all(each.holds for each in judged)
    assert [each.batch_size for each in settled] == [2, 2]
    busy = engine_of(*(A.model_copy(update={"name": name, "rate_rps": 3000}) for name in "xy"))
    assert busy.settled(0, (0, 0), (Setting(8, 5), Setting(8, 5))) is None


def test_what_no_device_holds_together_has_no_configuration() -> None:
    engine = engine_of(LARGE.model_copy(update={"rate_rps": 250}))
    assert engine.configure((0,), 0) is not None
    assert engine.configure((0, 0), 0) is None


def test_the_half_mean_rule_is_igniters() -> None:
    rule = rule_of("half-mean")
    workload = Workload(name="a", model="m", rate_rps=100, slo_ms=40)

    assert rule.limit_ms(workload) == 20
    assert rule.allows_batch(workload, 3)  # (3 - 1) / 100 s = 20 ms
    assert not rule.allows_batch(workload, 4)
    fast = workload.model_copy(update={"rate_rps": 1e6})
    assert rule.allows_batch(fast, 32)
    assert not rule.allows_batch(fast, 33)


def test_the_planner_agrees_with_trying_everything() -> None:
    workloads = [
        Workload(name="a", model="small", rate_rps=900, slo_ms=9),
        Workload(name="b", model="middle", rate_rps=300, slo_ms=20),
        Workload(name="c", model="large", rate_rps=60, slo_ms=70),
        Workload(name="d", model="small", rate_rps=300, slo_ms=12),
    ]
    made = planned(workloads, share_step_pct=20, max_tenants=3)
    kind = fake_kind(FakePredictor(), workloads, share_step_pct=20, max_tenants=3)

    assert made.cost == cheapest_by_brute_force([kind], workloads)


def test_strategies_have_the_names_that_the_docs_promise() -> None:
    assert set(STRATEGIES) == {"optimal", "igniter", "gpulets", "gslice", "ffd", "alone"}


def test_predictions_are_stated_without_the_margin() -> None:
    made = planned([WORKLOADS[0]], latency_rule="percentile+0.9")
    tenant = made.devices[0].tenants[0]
    cell = [
        Tenant(model=t.model, batch_size=t.batch_size, share_pct=t.share_pct)
        for t in made.devices[0].tenants
    ]
    prediction: Prediction = FakePredictor().predict([cell])[0][0]

    assert tenant.predicted is not None
    assert tenant.predicted.latency_ms == prediction.latency_ms
    assert tenant.predicted.latency_high_ms == prediction.latency_high_ms
    assert tenant.predicted.slo_percentile_ms == tenant.predicted.p99_ms
