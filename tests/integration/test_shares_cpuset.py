"""A real Triton with cores of its own: bound to them, measured, and refused where they end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from igniter_prof.config.devices import resolve_device
from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.records import Device, Tenant
from igniter_prof.serving import ServeOptions, attach, deploy, launch, server_conditions, stop
from igniter_prof.serving.cgroup import version
from tests.integration.local_runtime import needs_local_runtime

pytestmark = [
    needs_local_runtime,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores"),
]

CPUSET = ServeOptions(share_mechanism="cpuset")

ESCAPE = """
import os
import triton_python_backend_utils as utils

class TritonPythonModel:
    def initialize(self, args):
        os.sched_setaffinity(0, range(os.cpu_count()))
    def execute(self, requests):
        return []
"""
CONFIG = """
name: "escape" backend: "python" max_batch_size: 1
input [{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [ 1 ] }]
"""


@pytest.fixture
def device() -> Device:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    return resolve_device(f"cpu:{first},{second}")


def cores_of_threads(pid: int) -> set[int]:
    found: set[int] = set()
    for thread in Path("/proc", str(pid), "task").iterdir():
        found |= os.sched_getaffinity(int(thread.name))
    return found


def test_each_server_has_its_core_and_its_threads_stay_there(device: Device) -> None:
    tenants = [Tenant(model="mlp", share_pct=50), Tenant(model="mlp", cpu_cores=1)]
    with deploy(device, tenants, options=CPUSET) as deployment:
        for index, endpoint in enumerate(deployment.endpoints):
            assert endpoint.pid is not None
            pids = deployment.servers[index].pids()  # type: ignore[attr-defined]
            assert len(pids) > 1, "the Python backend runs models in processes of their own"
            for pid in pids:
                assert cores_of_threads(pid) == {device.cores[index]}
            assert endpoint.threads == 1
            usage = deployment.usage(index)
            # cores are no quota, so nothing is throttled
            assert usage is None or not usage.throttled_periods
        conditions = server_conditions(deployment)
        assert conditions["share_mechanism"] == "cpuset"
        assert conditions["share_period_us"] is None
        assert conditions["share_step_pct"] == 50


def test_the_quota_is_another_mechanism_on_the_same_cores(device: Device) -> None:
    if version() is None or os.geteuid() != 0:
        pytest.skip("needs the right to make control groups")
    with deploy(device, [Tenant(model="mlp", share_pct=50)]) as deployment:
        (endpoint,) = deployment.endpoints
        assert endpoint.pid is not None
        assert cores_of_threads(endpoint.pid) == set(device.cores)
        conditions = server_conditions(deployment)
        assert conditions["share_mechanism"] == "cfs-quota"
        assert conditions["share_period_us"] == 10_000
        assert conditions["share_step_pct"] == pytest.approx(0.005)


def test_more_cores_than_there_are_is_bad_input_before_anything_starts(device: Device) -> None:
    tenants = [Tenant(model="mlp", cpu_cores=2), Tenant(model="mlp", cpu_cores=1)]
    with pytest.raises(BadInput, match="0 of"), deploy(device, tenants, options=CPUSET):
        pytest.fail("it cannot have started")


def test_a_model_that_leaves_its_cores_is_no_row(device: Device, tmp_path: Path) -> None:
    folder = tmp_path / "escape"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1" / "model.py").write_text(ESCAPE)
    options = ServeOptions(share_mechanism="cpuset", repository=tmp_path)
    with (
        pytest.raises(OutsideFailure, match="which is not its"),
        deploy(device, [Tenant(model="escape", cpu_cores=1)], options=options),
    ):
        pytest.fail("its numbers would be of two cores")


def test_a_launched_plan_remembers_its_cores(device: Device) -> None:
    state = launch(device, [Tenant(model="mlp", cpu_cores=1)], CPUSET)
    try:
        found = attach(state)
        assert found.servers[0].recipe.caps.cpuset == device.cores[:1]
        assert found.conditions()["share_mechanism"] == "cpuset"
        assert found.ending(0) is None
    finally:
        stop(state)
