import math
from collections.abc import Sequence
from typing import Any

import pytest

from igniter_prof.config.workloads import workloads_digest
from igniter_prof.errors import BadInput, Infeasible
from igniter_prof.provisioning import STRATEGIES, check_plan, plan
from igniter_prof.provisioning.operating import Evaluator, Setting
from igniter_prof.provisioning.patterns import enumerate_patterns
from igniter_prof.provisioning.problem import Choices, Problem, choices_for, classes_of, share_grid
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.provisioning.shares import Configuration, LeastShares, spread
from igniter_prof.provisioning.solver import ENGINES, cover
from igniter_prof.records import Plan, Prediction, Tenant, Workload
from tests.provisioning_fakes import (
    MODELS,
    FakePredictor,
    as_predictor,
    fake_request_latency,
    fewest_by_brute_force,
)

WORKLOADS = (
    Workload(name="a", model="small", rate_rps=500, slo_ms=20, count=3),
    Workload(name="b", model="middle", rate_rps=200, slo_ms=30, count=2),
    Workload(name="c", model="large", rate_rps=50, slo_ms=60, count=4),
)


def planned(
    workloads: Sequence[Workload] = WORKLOADS, predictor: Any = None, **options: Any
) -> Plan:
    return plan(
        as_predictor(predictor or FakePredictor()),
        workloads,
        coefficients_hash="c" * 64,
        workloads_hash=workloads_digest(tuple(workloads)),
        device_type=None,
        request_latency=fake_request_latency,
        **options,
    )


def checked(made: Plan, workloads: Sequence[Workload] = WORKLOADS) -> list[str]:
    return check_plan(
        made,
        FakePredictor(),
        workloads,
        coefficients_hash="c" * 64,
        request_latency=fake_request_latency,
    )


def names(made: Plan) -> list[str]:
    return sorted(tenant.workload for device in made.devices for tenant in device.tenants)


# --- plans ------------------------------------------------------------------------------------


def test_the_optimal_plan_is_proven_complete_and_keeps_its_promises() -> None:
    made = planned()

    assert names(made) == ["a-1", "a-2", "a-3", "b-1", "b-2", "c-1", "c-2", "c-3", "c-4"]
    assert made.optimal is True
    assert made.bound_devices == len(made.devices) == 4
    assert checked(made) == []


@pytest.mark.parametrize("rule", ["percentile", "half-mean", "percentile+interval"])
def test_every_rule_gives_plans_that_pass_the_check_under_it(rule: str) -> None:
    made = planned(latency_rule=rule)

    assert made.latency_rule == rule
    assert checked(made) == []


def test_a_margin_costs_devices_but_keeps_slos_at_the_upper_end() -> None:
    predictor = FakePredictor(spread=0.5)
    bare = planned(predictor=predictor)
    wide = planned(predictor=predictor, latency_rule="percentile+interval")
    assert len(wide.devices) > len(bare.devices)

    # the plan without a margin does not hold under the rule with one
    asked_more = bare.model_copy(update={"latency_rule": "percentile+interval"})
    assert check_plan(wide, predictor, WORKLOADS, request_latency=fake_request_latency) == []
    assert check_plan(asked_more, predictor, WORKLOADS, request_latency=fake_request_latency)


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


def test_fewer_tenants_a_device_need_more_devices_and_the_plan_says_that_the_limit_binds() -> None:
    light = [Workload(name="w", model="small", rate_rps=20, slo_ms=80, count=8)]

    pairs = planned(light, max_tenants=2)
    assert len(pairs.devices) == 4
    assert any("limit of 2 tenants a device binds" in note for note in pairs.notes)
    assert len(planned(light, max_tenants=4).devices) == 2
    assert not any("limit" in note for note in planned(light[:1], max_tenants=8).notes)


def test_an_enumeration_cut_short_gives_a_plan_with_a_valid_bound_and_no_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = planned()

    def cut(least: LeastShares, deadline: float) -> Any:
        return enumerate_patterns(least, deadline, max_tested=4)

    monkeypatch.setattr("igniter_prof.provisioning.strategies.enumerate_patterns", cut)
    made = planned()

    assert any("not all enumerated" in note for note in made.notes)
    assert made.bound_devices is not None
    assert made.bound_devices <= len(exact.devices) <= len(made.devices)
    assert made.optimal is (True if made.bound_devices == len(made.devices) else None)
    assert checked(made) == []


def test_a_noisy_queueing_estimate_still_gives_plans_that_hold() -> None:
    def noisy(service_ms: Any, cv: float, *arguments: Any, **options: Any) -> Any:
        # the answer jumps about with the last digits of the service time
        jitter = 1 + 0.03 * math.sin(1e6 * float(service_ms[-1]))
        return fake_request_latency(service_ms * jitter, cv, *arguments, **options)

    made = plan(
        FakePredictor(),
        WORKLOADS,
        coefficients_hash=None,
        workloads_hash=None,
        device_type=None,
        request_latency=noisy,
    )

    assert check_plan(made, FakePredictor(), WORKLOADS, request_latency=noisy) == []


def test_patterns_that_turn_out_not_to_hold_are_done_without_and_nothing_is_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_threes(least: LeastShares, pattern: tuple[int, ...]) -> Configuration | None:
        return None if len(pattern) == 3 else least.configure(pattern, best=True)

    assert any(len(device.tenants) == 3 for device in planned().devices)
    monkeypatch.setattr("igniter_prof.provisioning.strategies._settled", no_threes)
    made = planned()

    assert {len(device.tenants) for device in made.devices} <= {1, 2}
    assert (made.bound_devices, made.optimal) == (None, None)
    assert any("not monotone" in note for note in made.notes)
    assert checked(made) == []


def test_a_solver_that_runs_out_of_time_leaves_a_plan_by_best_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = planned()
    monkeypatch.setattr(
        "igniter_prof.provisioning.strategies.cover", lambda *arguments, **options: None
    )
    made = planned()

    assert names(made) == names(exact)
    assert len(exact.devices) <= len(made.devices) < 9
    assert made.optimal is None
    assert made.bound_devices is not None
    assert made.bound_devices <= len(exact.devices)
    assert any("no plan within 60 s" in note and "best fit" in note for note in made.notes)
    assert checked(made) == []


def test_without_a_pattern_that_holds_each_workload_gets_a_device_and_nothing_is_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("igniter_prof.provisioning.strategies._settled", lambda *arguments: None)
    made = planned()

    assert {len(device.tenants) for device in made.devices} == {1}
    assert names(made) == names(planned(strategy="alone"))
    assert (made.bound_devices, made.optimal) == (None, None)
    assert any("best fit" in note for note in made.notes)


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


def test_too_few_devices_are_infeasible_with_the_proven_number() -> None:
    with pytest.raises(Infeasible, match="need 4 devices, and no plan has fewer; at most 3"):
        planned(max_devices=3)
    assert len(planned(max_devices=4).devices) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "optimum"}, "did you mean 'optimal'"),
        ({"latency_rule": "half-men"}, "did you mean 'half-mean'"),
        ({"latency_rule": "percentile+x"}, "unknown latency rule"),
        ({"share_step_pct": 0}, "share step"),
        ({"share_step_pct": math.nan}, "share step"),
        ({"max_tenants": 0}, "max_tenants"),
        ({"max_devices": 0}, "max_devices"),
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


def test_choices_stay_within_what_was_profiled() -> None:
    predictor = FakePredictor(profiled_batch=8, profiled_share_pct=20)

    choices, notes = choices_for(predictor, ["small", "large"], 10)
    assert choices["small"] == Choices((1, 2, 4, 8), tuple(range(20, 101, 10)))
    assert notes == ["no share below 20% was profiled (large, small), so none is planned"]

    choices, notes = choices_for(predictor, ["small"], 10, extrapolate=True)
    assert choices["small"].shares_pct[0] == 10
    assert choices["small"].batch_sizes[-1] == 64
    assert notes == []

    choices, _ = choices_for(predictor, ["small"], 10, batch_sizes={"small": (6, 3)})
    assert choices["small"].batch_sizes == (3, 6)


def test_identical_workloads_are_one_class_in_natural_order_of_names() -> None:
    workloads = [
        Workload(name=name, model="small", rate_rps=1, slo_ms=1) for name in ("w10", "w9", "w1")
    ]
    (one,) = classes_of(workloads)

    assert one.names == ("w1", "w9", "w10")


def pieces(*workloads: Workload, step: float = 5, max_tenants: int = 4) -> LeastShares:
    predictor = FakePredictor()
    rule = rule_of("percentile")
    models = {each.model for each in workloads}
    problem = Problem(
        classes=classes_of(workloads),
        choices=choices_for(predictor, models, step)[0],
        rule=rule,
        share_step_pct=step,
        max_tenants=max_tenants,
        max_devices=None,
        time_limit_s=60,
        seed=0,
    )
    return LeastShares(problem, Evaluator(predictor, rule, fake_request_latency))


def test_no_share_can_be_a_step_lower_than_the_least_ones() -> None:
    least = pieces(
        Workload(name="a", model="small", rate_rps=500, slo_ms=20),
        Workload(name="b", model="middle", rate_rps=200, slo_ms=30),
    )
    configuration = least.configure((0, 1), best=True)
    assert configuration is not None
    workloads = [least.problem.classes[index].sample for index in configuration.pattern]

    assert all(j.holds for j in least.evaluator.judge(workloads, configuration.settings))
    for index, setting in enumerate(configuration.settings):
        lower = list(configuration.settings)
        lower[index] = Setting(setting.batch_size, setting.share_pct - 5)
        assert not all(j.holds for j in least.evaluator.judge(workloads, lower))


def test_neighbours_raise_the_least_shares() -> None:
    least = pieces(
        Workload(name="a", model="small", rate_rps=500, slo_ms=20),
        Workload(name="b", model="large", rate_rps=50, slo_ms=60),
    )
    together = least.of(((0, 1), (1, 4))) or least.of(((0, 2), (1, 4)))
    assert together is not None

    assert sum(together) > (least.alone(0) or 0) + (least.alone(1) or 0)


def test_spreading_what_is_left_never_costs_headroom() -> None:
    least = pieces(
        Workload(name="a", model="small", rate_rps=500, slo_ms=20),
        Workload(name="b", model="small", rate_rps=500, slo_ms=20),
    )
    tight = least.configure((0, 0), best=True)
    assert tight is not None
    workloads = [least.problem.classes[0].sample] * 2

    def headroom(configuration: Configuration) -> float:
        judged = least.evaluator.judge(workloads, configuration.settings)
        return min(judgement.headroom for judgement in judged)

    roomy = spread(least.problem, least.evaluator, tight)
    assert roomy.used_pct == 100
    assert headroom(roomy) > headroom(tight)


def test_answers_from_memory_agree_with_the_estimate() -> None:
    workload = Workload(name="a", model="middle", rate_rps=300, slo_ms=25)
    remembering = pieces(workload).evaluator
    for batch in (1, 2, 4, 8):
        for share in (*range(5, 101, 5), *range(97, 0, -7)):
            setting = Setting(batch, share)
            (prediction,) = remembering.predict([workload], [setting])
            (judgement,) = remembering.judge([workload], [setting])
            assert remembering.holds(0, [workload], [setting], prediction) is judgement.holds


def test_the_half_mean_rule_is_igniters() -> None:
    rule = rule_of("half-mean")
    workload = Workload(name="a", model="m", rate_rps=100, slo_ms=40)

    assert rule.limit_ms(workload) == 20
    assert rule.allows_batch(workload, 3)  # (3 - 1) / 100 s = 20 ms
    assert not rule.allows_batch(workload, 4)
    fast = workload.model_copy(update={"rate_rps": 1e6})
    assert rule.allows_batch(fast, 32)
    assert not rule.allows_batch(fast, 33)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_finds_the_fewest_patterns(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igniter_prof.provisioning.solver.ENGINES", (engine,))
    # a bin packing: sizes 60, 40, 30 of which 2, 2, 2 must be packed
    used = {(0,): 60.0, (1,): 40.0, (2,): 30.0, (0, 1): 100.0, (0, 2): 90.0, (1, 2): 70.0}
    used[(2, 2)] = 60.0
    used[(1, 2, 2)] = 100.0

    found = cover(used, [2, 2, 2], time_limit_s=10, seed=0)

    assert found is not None
    assert (found.devices, found.engine) == (3, engine)
    # now and then the bundled CBC runs to its time limit with the best answer in hand
    assert found.proven or engine != "HiGHS"
    held = [sum(pattern.count(c) * n for pattern, n in found.times.items()) for c in range(3)]
    assert held == [2, 2, 2]


def test_the_planner_agrees_with_trying_everything() -> None:
    workloads = [
        Workload(name="a", model="small", rate_rps=900, slo_ms=9),
        Workload(name="b", model="middle", rate_rps=300, slo_ms=20),
        Workload(name="c", model="large", rate_rps=60, slo_ms=70),
        Workload(name="d", model="small", rate_rps=300, slo_ms=12),
    ]
    made = planned(workloads, share_step_pct=20, max_tenants=3)

    assert len(made.devices) == fewest_by_brute_force(
        FakePredictor(), workloads, batch_sizes=(1, 2, 4, 8), share_step_pct=20, max_tenants=3
    )


def test_strategies_have_the_names_that_the_docs_promise() -> None:
    assert set(STRATEGIES) == {"optimal", "ffd", "alone"}


def test_predictions_are_stated_without_the_margin() -> None:
    made = planned([WORKLOADS[0]], latency_rule="percentile+interval")
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
