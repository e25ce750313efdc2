"""Shares and caps come to the right quota, threads and refusals."""

from __future__ import annotations

import pytest

from igniter_prof.errors import BadInput
from igniter_prof.records import Device, Tenant
from igniter_prof.serving.shares import SHARE_PERIOD_US, Caps, caps_of, check_tenants, threads_of

FOUR = Device(id="cpu:0-3", kind="cpu", name="test", cores=(0, 1, 2, 3))
GPU = Device(id="cuda:GPU-1", kind="cuda", name="test")


@pytest.mark.parametrize(
    ("tenant", "cores", "threads"),
    [
        (Tenant(model="m"), None, 4),
        (Tenant(model="m", share_pct=100), 4.0, 4),
        (Tenant(model="m", share_pct=25), 1.0, 1),
        (Tenant(model="m", share_pct=30), 1.2, 2),
        (Tenant(model="m", share_pct=5), 0.2, 1),
        (Tenant(model="m", cpu_cores=2.5), 2.5, 3),
    ],
)
def test_a_share_is_a_quota_of_the_devices_cores(
    tenant: Tenant, cores: float | None, threads: int
) -> None:
    caps = caps_of(tenant, FOUR)
    assert caps.cpu_cores == pytest.approx(cores)
    assert threads_of(caps, FOUR) == threads
    if cores is not None:
        assert caps.quota_us == round(cores * SHARE_PERIOD_US)


def test_a_memory_cap_alone_is_a_limit_without_a_quota() -> None:
    caps = caps_of(Tenant(model="m", memory_mib=100), FOUR)
    assert caps == Caps(None, 100)
    assert caps.any
    assert caps.quota_us is None
    assert not Caps().any


@pytest.mark.parametrize(
    ("tenant", "device", "message"),
    [
        (Tenant(model="m", share_pct=50, cpu_cores=1), FOUR, "same knob"),
        (Tenant(model="m", cpu_cores=5), FOUR, "more than the 4 cores"),
        (Tenant(model="m", share_pct=1), FOUR, "share of 2.5%"),
    ],
)
def test_limits_that_cannot_be_are_refused(tenant: Tenant, device: Device, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        caps_of(tenant, device)


@pytest.mark.parametrize(
    ("tenants", "server", "message"),
    [
        ([], "own", "no tenants"),
        ([Tenant(model="m", share_pct=60), Tenant(model="n", share_pct=60)], "own", "120%"),
        ([Tenant(model="m", share_pct=60)], "shared", "no shares"),
        ([Tenant(model="m", memory_mib=60)], "shared", "no caps"),
        ([Tenant(model="m"), Tenant(model="m")], "shared", "'m' is there twice"),
    ],
)
def test_tenants_that_cannot_be_together_are_refused(
    tenants: list[Tenant], server: str, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        check_tenants(tenants, FOUR, server)  # type: ignore[arg-type]


def test_the_same_model_twice_is_fine_with_a_server_each() -> None:
    check_tenants([Tenant(model="m", share_pct=50)] * 2, FOUR, "own")
