"""Which real device each device of a plan runs on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igniter_prof.cli.options import devices_for
from igniter_prof.config import devices as config_devices
from igniter_prof.deployment import assign, launch, type_of
from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.records import Device, Plan, PlanDevice, PlanDeviceType, PlanTenant
from igniter_prof.serving import ServeOptions

TENANT = PlanTenant(workload="w", model="m", batch_size=1, share_pct=50, rate_rps=1, slo_ms=9)


def gpu(name: str) -> Device:
    return Device(id=f"cuda:{name}", kind="cuda", name="a GPU")


def cpu(cores: str) -> Device:
    return Device(id=f"cpu:{cores}", kind="cpu", name="a CPU")


def plan_of(*types: str | None, described: tuple[PlanDeviceType, ...] = ()) -> Plan:
    return Plan(
        strategy="test",
        igprof="0",
        created_at="2026-01-01",
        device_types=described,
        devices=tuple(
            PlanDevice(name=f"device-{index}", type=name, tenants=(TENANT,))
            for index, name in enumerate(types)
        ),
    )


MIXED = (
    PlanDeviceType(name="a100", device=gpu("profiled-a100")),
    PlanDeviceType(name="host", device=cpu("0")),
    PlanDeviceType(name="t4", device=gpu("profiled-t4")),
)


def ids(devices: list[Device]) -> list[str]:
    return [device.id for device in devices]


def test_real_devices_go_to_the_plans_in_order() -> None:
    plan = plan_of("a100", "host", "t4", described=MIXED)
    real = [(None, gpu("x")), (None, cpu("3")), (None, gpu("y")), (None, gpu("spare"))]
    assert ids(assign(plan, real)) == ["cuda:x", "cpu:3", "cuda:y"]


def test_a_real_device_may_be_for_a_type() -> None:
    plan = plan_of("a100", "a100", "host", "t4", described=MIXED)
    real = [("t4", gpu("x")), ("host", cpu("3")), (None, gpu("y")), ("a100", gpu("z"))]
    assert ids(assign(plan, real)) == ["cuda:y", "cuda:z", "cpu:3", "cuda:x"]


def test_fewer_take_turns_within_their_type() -> None:
    plan = plan_of(*["a100", "t4"] * 3, "a100", described=MIXED)
    real = [("a100", gpu("x")), ("a100", gpu("y")), ("t4", gpu("z"))]
    assert ids(assign(plan, real)) == [f"cuda:{name}" for name in "xzyzxzy"]


@given(st.lists(st.sampled_from(["a100", "t4", "host"]), min_size=1), st.integers(1, 4))
def test_each_plan_device_gets_one_of_its_type(types: list[str], number: int) -> None:
    plan = plan_of(*types, described=MIXED)
    real = [
        (name, (cpu if name == "host" else gpu)(f"{name}-{index}"))
        for name in dict.fromkeys(types)
        for index in range(number)
    ]
    assigned = assign(plan, real)
    assert [device.id.split(":")[1].split("-")[0] for device in assigned] == types
    # as evenly as can be
    for name in set(types):
        used = [ids(assigned).count(device.id) for of, device in real if of == name]
        assert max(used) - min(used) <= 1


@pytest.mark.parametrize(
    ("real", "what"),
    [
        ([(None, gpu("x")), (None, gpu("x"))], "twice"),
        ([(None, cpu("0"))], r"device-0 is a cuda device \(a100\), cpu:0 is none"),
        ([("host", gpu("x"))], "device-1 is a cpu device"),
        ([("a10", gpu("x"))], "(?s)no device type 'a10'.*did you mean 'a100'"),
        ([("a100", gpu("x")), ("host", cpu("0"))], "(?s)device-2, which is a t4.*--on t4=DEVICE"),
    ],
)
def test_what_does_not_fit_is_refused(real: list[tuple[str | None, Device]], what: str) -> None:
    with pytest.raises(BadInput, match=what):
        assign(plan_of("a100", "host", "t4", described=MIXED), real)


def test_a_plan_without_types_takes_any_device_but_no_type() -> None:
    plan = plan_of(None, None)
    assert ids(assign(plan, [(None, cpu("0")), (None, gpu("x"))])) == ["cpu:0", "cuda:x"]
    with pytest.raises(BadInput, match="no device type 't4'"):
        assign(plan, [("t4", gpu("x"))])


def test_a_device_without_a_type_is_of_the_first() -> None:
    plan = plan_of(None, "t4", described=MIXED)
    assert [type_of(plan, device) for device in plan.devices] == [MIXED[0], MIXED[2]]
    strange = plan_of("t5", described=MIXED)
    with pytest.raises(BadInput, match=r"type 't5'(?s:.*)known: a100, host, t4"):
        type_of(strange, strange.devices[0])


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_devices, "usable_cores", lambda: (0, 1, 2, 3))


@pytest.mark.usefixtures("cores")
def test_the_profiled_devices_are_the_default() -> None:
    described = (
        PlanDeviceType(name="a", device=cpu("0")),
        PlanDeviceType(name="b", device=cpu("1-2")),
    )
    plan = plan_of("a", "b", "a", described=described)
    assert ids(devices_for(plan, ())) == ["cpu:0", "cpu:1-2", "cpu:0"]
    assert ids(devices_for(plan, ("b=cpu:3", "cpu:2"))) == ["cpu:2", "cpu:3", "cpu:2"]
    with pytest.raises(BadInput, match="name a device with --on"):
        devices_for(plan_of(None), ())


def test_a_plan_is_launched_on_as_many_devices_as_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = plan_of("a100", "a100", described=MIXED)
    with pytest.raises(MissingCapability, match="needs 2 devices, 1 are there"):
        launch(plan, tmp_path / "plan.json", [gpu("x"), gpu("x")], ServeOptions())
