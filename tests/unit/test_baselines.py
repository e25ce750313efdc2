"""Baseline strategies: against results worked out by hand, and properties of every plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.fitting.predictor import Predictor
from igniter_prof.provisioning import interface
from igniter_prof.provisioning.baselines import ffd, gpulets, gslice, igniter
from igniter_prof.provisioning.baselines.judging import Judge
from igniter_prof.provisioning.baselines.lower_bounds import largest_first, lower_bounds
from igniter_prof.provisioning.operating import Evaluator, Setting
from igniter_prof.provisioning.problem import (
    Choices,
    Configuration,
    DeviceKind,
    WorkloadClass,
    classes_of,
    share_grid,
)
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import Coefficients, Device, Parameter, PlanDeviceType, Tenant, Workload
from tests.provisioning_fakes import FakePredictor, fake_request_latency

Place = Callable[[Sequence[WorkloadClass], DeviceKind], list[Configuration]]
STRATEGIES = {
    "igniter": igniter.place,
    "gpulets": gpulets.place,
    "gslice": gslice.place,
    "ffd": ffd.place,
}
SEES_INTERFERENCE = {"igniter", "gpulets"}

SHARED = {
    "bytes_per_ms": 1000.0,
    "clock_drop_mhz_per_w": 0.0,
    "idle_power_w": 50.0,
    "max_clock_mhz": 1500.0,
    "power_limit_w": 300.0,
    "scheduling_ms_at_0": 0.0,
    "scheduling_ms_per_tenant": 0.0,
}
PLAIN = {
    "alpha_cache_per_pct": 0.01,
    "idle_ms": 0.0,
    "input_bytes": 0.0,
    "k1_ms": 0.0,
    "k2_ms": 1.0,
    "k3_ms": 0.0,
    "k4": 0.0,
    "k5_ms": 0.0,
    "kernels": 10.0,
    "l2_pct_at_0": 10.0,
    "l2_pct_per_rate": 0.0,
    "least_active_ms": 1e-3,
    "output_bytes": 0.0,
    "power_w_at_0": 60.0,
    "power_w_per_rate": 0.0,
}
"""A batch of b takes b/r ms, r the part of the device; each neighbour adds a tenth of that."""


def lightweight(**models: dict[str, float]) -> Predictor:
    """iGniter's own equations; of each model what differs from PLAIN."""
    return Predictor(
        Coefficients(
            model="igniter",
            device=Device(id="cuda:GPU-made-up", kind="cuda", name="made up"),
            profile_hash="0" * 64,
            igprof="test",
            created_at="2026-01-01T00:00:00+00:00",
            shared={name: Parameter(value=value) for name, value in SHARED.items()},
            models={
                model: {name: Parameter(value=value) for name, value in {**PLAIN, **own}.items()}
                for model, own in models.items()
            },
            extra={"fitted": {"profile": "lightweight"}},
        )
    )


def kind_of(
    predictor: interface.Predictor,
    *,
    rule: str = "half-mean",
    batch_sizes: Sequence[int] = range(1, 33),
    share_step_pct: float = 5.0,
    max_tenants: int = 8,
) -> DeviceKind:
    choices = Choices(tuple(batch_sizes), share_grid(share_step_pct))
    return DeviceKind(
        record=PlanDeviceType(name="gpu", share_step_pct=share_step_pct, max_tenants=max_tenants),
        evaluator=Evaluator(predictor, rule_of(rule), fake_request_latency),
        choices=dict.fromkeys(predictor.models, choices),
    )


def named_devices(
    classes: Sequence[WorkloadClass], configurations: Sequence[Configuration]
) -> list[list[tuple[str, int, float]]]:
    """The tenants of each device as (model, batch size, share): models differ in these tests."""
    return [
        [
            (classes[index].sample.model, setting.batch_size, setting.share_pct)
            for index, setting in zip(each.pattern, each.settings, strict=True)
        ]
        for each in configurations
    ]


def mix(*workloads: tuple[str, float, float]) -> tuple[WorkloadClass, ...]:
    """Classes of workloads w0, w1, … of a model, a rate and an SLO."""
    return classes_of(
        Workload(name=f"w{number}", model=model, rate_rps=rate_rps, slo_ms=slo_ms)
        for number, (model, rate_rps, slo_ms) in enumerate(workloads)
    )


# alone with half of the SLO: a needs 2 ms/r <= 20 ms, so 10%; b 10 ms/r <= 40 ms, so 25%;
# c 15 ms/r <= 50 ms, so 30%
MIX = mix(("a", 100, 40), ("b", 250, 80), ("c", 300, 100), ("a", 100, 40), ("c", 300, 100))
ABC = lightweight(a={}, b={}, c={})


def test_lower_bounds_by_hand() -> None:
    bounds = lower_bounds(MIX, Judge(kind_of(ABC)))
    assert bounds == [Setting(2, 10.0), Setting(10, 25.0), Setting(15, 30.0)]


def test_a_batch_size_that_cannot_do_gives_way_to_the_next_smaller_one() -> None:
    # 7 arrive in half of the SLO, but even alone 8 take 8 ms of those 7
    kind = kind_of(lightweight(a={}), batch_sizes=[1, 2, 4, 8, 16])
    assert lower_bounds(mix(("a", 1000, 14)), Judge(kind)) == [Setting(4, 100.0)]


def test_igniter_by_hand() -> None:
    # c, c: both need 16.5/50 = 33%, so 35% each; b beside them: 110% in all, so a new device
    # a beside c, c: 40 + 40 + 15, 15% more than was asked for; beside b: 30 + 15, only 10% more
    # a beside b, a: 12/40 = 30%, 2.4/20 = 12%, so 15% each: 5% more
    assert named_devices(MIX, igniter.place(MIX, kind_of(ABC))) == [
        [("c", 15, 35.0), ("c", 15, 35.0)],
        [("a", 2, 15.0), ("a", 2, 15.0), ("b", 10, 30.0)],
    ]


@pytest.mark.parametrize("second", ["d", "e"])
def test_igniter_takes_the_oldest_of_devices_where_it_adds_equally_little(second: str) -> None:
    # d and e need 65% alone, so a device each; a raises either by 10% (71.5 -> 75), itself by 5%
    predictor = lightweight(a={}, d={}, e={})
    classes = mix(("e", 650, 40), (second, 650, 40), ("a", 100, 40))
    assert named_devices(classes, igniter.place(classes, kind_of(predictor))) == [
        [("a", 2, 15.0), ("e", 13, 75.0)],
        [(second, 13, 65.0)],
    ]


def test_ffd_by_hand() -> None:
    # 30 + 30 + 25 + 10 = 95%: the second a finds no room
    assert named_devices(MIX, ffd.place(MIX, kind_of(ABC))) == [
        [("a", 2, 10.0), ("b", 10, 25.0), ("c", 15, 30.0), ("c", 15, 30.0)],
        [("a", 2, 10.0)],
    ]
    assert named_devices(MIX, ffd.place(MIX, kind_of(ABC, max_tenants=3))) == [
        [("b", 10, 25.0), ("c", 15, 30.0), ("c", 15, 30.0)],
        [("a", 2, 10.0), ("a", 2, 10.0)],
    ]


def test_ffd_returns_to_devices_that_had_no_room_for_a_larger_one() -> None:
    classes = mix(("d", 650, 40), ("d", 650, 40), ("c", 300, 100))
    predictor = lightweight(c={}, d={})
    assert named_devices(classes, ffd.place(classes, kind_of(predictor))) == [
        [("c", 15, 30.0), ("d", 13, 65.0)],
        [("d", 13, 65.0)],
    ]


def test_gslice_by_hand() -> None:
    # iGniter's devices, and shares until what is left alone is at most 10%: at 35% c has 14%
    assert named_devices(MIX, gslice.place(MIX, kind_of(ABC))) == [
        [("c", 15, 30.0), ("c", 15, 30.0)],
        [("a", 2, 10.0), ("a", 2, 10.0), ("b", 10, 25.0)],
    ]


def test_gslice_leaves_a_tenth_unused() -> None:
    # d would do with 60% alone; beside a it got 70%, of which 14% are unused; at 65% it is 8%
    predictor = lightweight(a={}, d={})
    classes = mix(("d", 600, 40), ("a", 100, 40))
    assert named_devices(classes, igniter.place(classes, kind_of(predictor))) == [
        [("a", 2, 15.0), ("d", 12, 70.0)]
    ]
    assert named_devices(classes, gslice.place(classes, kind_of(predictor))) == [
        [("a", 2, 10.0), ("d", 12, 65.0)]
    ]


def test_gslice_lowers_the_batch_size_with_the_share() -> None:
    # 3 ms/r <= 25 ms needs 15%, where it takes 20 ms; at 10% a batch of 2 takes 20 ms
    # and sustains just 100 requests/s
    classes = mix(("a", 100, 50))
    kind = kind_of(lightweight(a={}))
    assert named_devices(classes, igniter.place(classes, kind)) == [[("a", 3, 15.0)]]
    assert named_devices(classes, gslice.place(classes, kind)) == [[("a", 2, 10.0)]]


def test_gpulets_by_hand() -> None:
    # c sustains its rate from 30%, so in a part of 40%, and fills a batch of 16 in half of the SLO;
    # the second c gets the other 60%; b does with 40%, too, a with 20%: it gets the 60% beside b
    assert named_devices(MIX, gpulets.place(MIX, kind_of(ABC))) == [
        [("c", 16, 40.0), ("c", 16, 60.0)],
        [("a", 3, 60.0), ("b", 11, 40.0)],
        [("a", 3, 20.0)],
    ]


def test_gpulets_shares_no_device_where_the_predictor_sees_one_miss() -> None:
    # each neighbour adds 70%: 16 ms/40% becomes 68 ms, over c's 50 ms
    predictor = lightweight(c={"alpha_cache_per_pct": 0.07})
    classes = [each for each in MIX if each.sample.model == "c"]
    assert named_devices(classes, gpulets.place(classes, kind_of(predictor))) == [
        [("c", 16, 40.0)],
        [("c", 16, 40.0)],
    ]


def test_gpulets_takes_the_least_remainder_that_does() -> None:
    # by rate: d gets 60%; in the other 40% c would sustain 364 requests/s, so it opens a device;
    # then a, which disturbs nobody, fits beside either
    predictor = lightweight(a={"l2_pct_at_0": 0.0}, c={}, d={})
    classes = mix(("c", 400, 18), ("d", 520, 200), ("a", 100, 40))
    assert named_devices(classes, gpulets.place(classes, kind_of(predictor))) == [
        [("a", 3, 40.0), ("d", 32, 60.0)],
        [("c", 3, 40.0)],
    ]


def test_equal_shares_are_placed_in_the_order_of_names() -> None:
    classes = classes_of(
        [
            Workload(name="w10", model="a", rate_rps=100, slo_ms=40),
            Workload(name="w2", model="b", rate_rps=100, slo_ms=40),
            Workload(name="w3", model="c", rate_rps=100, slo_ms=40),
            Workload(name="w11", model="b", rate_rps=100, slo_ms=40),
        ]
    )
    assert [each.sample.model for each in classes] == ["a", "b", "c"]
    same = [Setting(1, 5.0)] * 3
    assert largest_first(classes, same) == [1, 2, 0, 1]
    assert largest_first(classes, [Setting(1, 10.0), *same[1:]]) == [0, 1, 2, 1]


class BestAt30(FakePredictor):
    """Each percent of share away from 30% costs a tenth."""

    def _latency_ms(self, tenant: Tenant, batch: int, neighbours: object) -> float:
        return batch * (1 + abs((tenant.share_pct or 100) - 30) / 10)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_share_beyond_which_a_model_gets_slower_is_found(strategy: str) -> None:
    classes = mix(("small", 100, 2.2))
    devices = STRATEGIES[strategy](classes, kind_of(BestAt30(), batch_sizes=[1, 2]))
    assert named_devices(classes, devices) == [[("small", 1, 30.0)]]


@settings(max_examples=60, deadline=None)
@given(
    rate_rps=st.floats(5, 400),
    slo_ms=st.floats(20, 200),
    k1_ms=st.floats(0, 0.01),
    k2_ms=st.floats(0.05, 0.5),
    k3_ms=st.floats(0, 1),
    k4=st.floats(0, 0.1),
    k5_ms=st.floats(0, 0.5),
    input_bytes=st.floats(0, 500),
    output_bytes=st.floats(0, 100),
)
def test_lower_bounds_are_those_of_theorem_1(
    rate_rps: float, slo_ms: float, input_bytes: float, output_bytes: float, **k: float
) -> None:
    step, half, bandwidth = 0.025, slo_ms / 2, SHARED["bytes_per_ms"]
    rate = rate_rps / 1000
    exact = half * rate * bandwidth / (bandwidth + rate * input_bytes)
    batch = math.ceil(exact)
    left = half - (input_bytes + output_bytes) * batch / bandwidth - k["k5_ms"]
    if left <= 0 or batch > 32:
        return
    needed = ((k["k1_ms"] * batch + k["k2_ms"]) * batch + k["k3_ms"]) / left - k["k4"]
    share = max(math.ceil(needed / step), 1) * step
    on_the_edge = (
        abs(exact - round(exact)) < 1e-6 or abs(needed / step - round(needed / step)) < 1e-6
    )
    if share > 1 or on_the_edge:
        return
    predictor = lightweight(m={**k, "input_bytes": input_bytes, "output_bytes": output_bytes})
    classes = classes_of([Workload(name="w", model="m", rate_rps=rate_rps, slo_ms=slo_ms)])
    (bound,) = lower_bounds(classes, Judge(kind_of(predictor, share_step_pct=2.5)))
    assert bound.batch_size == batch
    assert bound.share_pct == pytest.approx(100 * share)


@settings(max_examples=40, deadline=None)
@given(
    workloads=st.lists(
        st.tuples(
            st.sampled_from(["small", "middle", "large"]),
            st.sampled_from([5.0, 20.0, 50.0, 120.0]),
            st.sampled_from([30.0, 60.0, 150.0]),
        ),
        min_size=1,
        max_size=14,
    ),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    rule=st.sampled_from(["half-mean", "percentile"]),
    max_tenants=st.integers(1, 4),
)
def test_every_workload_is_placed_once_within_the_limits(
    workloads: list[tuple[str, float, float]], strategy: str, rule: str, max_tenants: int
) -> None:
    kind = kind_of(FakePredictor(), rule=rule, batch_sizes=[1, 2, 4, 8], max_tenants=max_tenants)
    judge = Judge(kind)
    every = [
        Workload(name=f"w{number}", model=model, rate_rps=rate, slo_ms=slo)
        for number, (model, rate, slo) in enumerate(workloads)
    ]
    feasible = [each for each in every if _feasible(judge, each)]
    classes = classes_of(feasible)
    devices = STRATEGIES[strategy](classes, kind)
    placed = Counter(index for device in devices for index in device.pattern)
    assert placed == Counter({index: each.count for index, each in enumerate(classes)})
    for device in devices:
        assert list(device.pattern) == sorted(device.pattern)
        assert 1 <= len(device.pattern) == len(device.settings) <= max_tenants
        assert device.used_pct <= 100
        members = [classes[index].sample for index in device.pattern]
        for member, setting in zip(members, device.settings, strict=True):
            choices = kind.choices[member.model]
            assert setting.batch_size in choices.batch_sizes
            assert setting.share_pct in choices.shares_pct
            assert judge.holds_alone(member, setting)
        if strategy == "gpulets":
            assert len(device.pattern) <= 2
        if strategy in SEES_INTERFERENCE:
            assert all(judge.holding(members, device.settings))
    assert STRATEGIES[strategy](classes_of(reversed(feasible)), kind) == devices


def _feasible(judge: Judge, workload: Workload) -> bool:
    choices = judge.kind.choices[workload.model]
    return any(
        judge.holds_alone(workload, Setting(batch, share))
        for batch in choices.batch_sizes
        for share in choices.shares_pct
    )
