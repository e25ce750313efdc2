import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igniter_prof.config.workloads import workloads_digest
from igniter_prof.errors import Infeasible
from igniter_prof.provisioning import check_plan, plan
from igniter_prof.records import Plan, Workload
from tests.provisioning_fakes import (
    MODELS,
    FakePredictor,
    fake_request_latency,
    fewest_by_brute_force,
)

PREDICTOR = FakePredictor(profiled_batch=4)
RULES = st.sampled_from(["percentile", "half-mean", "percentile+interval"])
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def workload_lists(draw: st.DrawFn, most: int = 5) -> tuple[Workload, ...]:
    return tuple(
        Workload(
            name=f"w{number}",
            model=draw(st.sampled_from(sorted(MODELS))),
            rate_rps=draw(st.sampled_from([20, 60, 150, 400])),
            slo_ms=draw(st.sampled_from([12, 25, 50, 100])),
            percentile=draw(st.sampled_from([50, 99])),
            arrival=draw(st.sampled_from(["poisson", "constant"])),
        )
        for number in range(draw(st.integers(1, most)))
    )


def planned(workloads: tuple[Workload, ...], rule: str, strategy: str = "optimal") -> Plan | None:
    try:
        return plan(
            PREDICTOR,
            workloads,
            coefficients_hash=None,
            workloads_hash=workloads_digest(workloads),
            device_type=None,
            strategy=strategy,
            latency_rule=rule,
            share_step_pct=20,
            max_tenants=3,
            request_latency=fake_request_latency,
        )
    except Infeasible:
        return None


def devices(made: Plan | None) -> float:
    return math.inf if made is None else len(made.devices)


@SLOW
@given(workload_lists(), RULES)
def test_every_optimal_plan_passes_the_check(workloads: tuple[Workload, ...], rule: str) -> None:
    made = planned(workloads, rule)
    if made is not None:
        assert made.optimal is True
        assert check_plan(made, PREDICTOR, workloads, request_latency=fake_request_latency) == []


@SLOW
@given(workload_lists(most=4), RULES)
def test_the_optimum_is_that_of_trying_everything(
    workloads: tuple[Workload, ...], rule: str
) -> None:
    fewest = fewest_by_brute_force(
        PREDICTOR,
        workloads,
        batch_sizes=(1, 2, 4),
        share_step_pct=20,
        max_tenants=3,
        latency_rule=rule,
    )
    assert devices(planned(workloads, rule)) == (math.inf if fewest is None else fewest)


@SLOW
@given(
    workload_lists(),
    st.integers(0, 4),
    st.floats(1.0, 2.0),
    st.floats(0.5, 1.0),
    # under half-mean more rate fills a batch sooner, so that more rate may need fewer devices
    st.sampled_from(["percentile", "percentile+interval"]),
)
def test_more_rate_or_a_tighter_slo_never_needs_fewer_devices(
    workloads: tuple[Workload, ...], which: int, more: float, tighter: float, rule: str
) -> None:
    chosen = workloads[which % len(workloads)]
    harder = chosen.model_copy(
        update={"rate_rps": chosen.rate_rps * more, "slo_ms": chosen.slo_ms * tighter}
    )
    changed = tuple(harder if each is chosen else each for each in workloads)

    assert devices(planned(changed, rule)) >= devices(planned(workloads, rule))


@SLOW
@given(workload_lists(), st.randoms(use_true_random=False), RULES)
def test_the_order_of_workloads_changes_nothing(
    workloads: tuple[Workload, ...], random: object, rule: str
) -> None:
    shuffled = list(workloads)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = planned(workloads, rule), planned(tuple(shuffled), rule)

    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert first.devices == second.devices
        assert first.workloads_hash == second.workloads_hash


@SLOW
@given(workload_lists(), RULES, st.sampled_from(["ffd", "alone"]))
def test_no_baseline_that_keeps_its_promises_needs_fewer_devices(
    workloads: tuple[Workload, ...], rule: str, strategy: str
) -> None:
    best, baseline = planned(workloads, rule), planned(workloads, rule, strategy)
    if best is None or baseline is None:
        assert best is baseline
        return
    broken = check_plan(baseline, PREDICTOR, workloads, request_latency=fake_request_latency)
    assert broken or len(baseline.devices) >= len(best.devices)
    # what first fit breaks, it says
    assert bool(broken) == any("predicted to miss" in note for note in baseline.notes)
