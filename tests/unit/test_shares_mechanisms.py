"""Which mechanism shares a device, and what those of a CPU, of MIG and of time slicing give."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from igniter_prof.config import cells, load_sweep
from igniter_prof.config.devices import resolve_device
from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.records import Device, Tenant
from igniter_prof.serving import ServeOptions, checks
from igniter_prof.serving.shares import (
    SHARE_PERIOD_US,
    Caps,
    check_tenants,
    mechanism_for,
    shared_grant,
    threads_of,
)
from igniter_prof.serving.shares.cpu import Cpuset, cores_of
from igniter_prof.serving.shares.gpu import sm_counts
from igniter_prof.serving.shares.mig import Mig, slices_of
from igniter_prof.serving.shares.timeslice import TimeSlicing
from tests.fake_gpu import GPU, SLICES, FakeMachine, machine

__all__ = ["machine"]

FOUR = Device(id="cpu:2-5", kind="cpu", name="test", cores=(2, 3, 4, 5))
WITHOUT_DAEMON = {"CUDA_MPS_PIPE_DIRECTORY": "/dev/null"}


def options(mechanism: str | None = None) -> ServeOptions:
    return ServeOptions(share_mechanism=mechanism)


def tenant(share_pct: float | None = None, **fields: object) -> Tenant:
    return Tenant(model="m", share_pct=share_pct, **fields)  # type: ignore[arg-type]


# --- the choice ---


def test_the_usual_mechanism_is_the_devices_and_no_cells(machine: FakeMachine) -> None:
    assert mechanism_for(FOUR, [tenant(50)], options()).name == "cfs-quota"
    for tenants in ([tenant()], [tenant(100)], [tenant(50)], [tenant(), tenant()]):
        assert mechanism_for(machine.device, tenants, options()).name == "mps"
    assert mechanism_for(machine.slice(), [tenant()], options()).name == "mig"


def test_without_mps_a_gpu_is_time_sliced_and_shares_are_refused(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(machine.cache))
    assert mechanism_for(machine.device, [tenant(), tenant()], options()).name == "time-slicing"
    with pytest.raises(MissingCapability, match="nvidia-cuda-mps-control"):
        check_tenants([tenant(50)], machine.device, "own")


def test_an_unknown_mechanism_is_bad_input_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="unknown share mechanism 'cpu-set'") as error:
        mechanism_for(FOUR, [tenant()], options("cpu-set"))
    assert "cpuset" in str(error.value)


@pytest.mark.parametrize("name", ["mps", "mig", "time-slicing"])
def test_a_mechanism_of_a_gpu_shares_no_cpu(name: str) -> None:
    with pytest.raises(BadInput, match="shares a GPU"):
        check_tenants([tenant()], FOUR, "own", options(name))


@pytest.mark.parametrize("name", ["cfs-quota", "cpuset"])
def test_a_mechanism_of_a_cpu_shares_no_gpu(name: str) -> None:
    with pytest.raises(BadInput, match="shares the cores of a CPU"):
        check_tenants(
            [tenant()], Device(id=f"cuda:{GPU}", kind="cuda", name="x"), "own", options(name)
        )


def test_a_shared_server_has_no_mechanism() -> None:
    with pytest.raises(BadInput, match="no 'cpuset'"):
        check_tenants([tenant()], FOUR, "shared", options("cpuset"))
    assert shared_grant(FOUR).gpus == ()
    grant = shared_grant(Device(id=f"cuda:{GPU}", kind="cuda", name="x"))
    assert (grant.gpus, grant.environment) == ((GPU,), WITHOUT_DAEMON)


# --- a CPU ---


def test_a_quota_has_its_period_and_step() -> None:
    with mechanism_for(FOUR, [tenant(25), tenant(30)], options()) as mechanism:
        assert mechanism.grant(1).caps.cpu_cores == pytest.approx(1.2)
        assert mechanism.grant(1).environment == {}
        assert mechanism.period_us == SHARE_PERIOD_US
        # one microsecond of CPU time
        assert mechanism.step_pct == pytest.approx(0.0025)
        assert mechanism.sm_count(0) is None


def test_each_tenant_has_cores_of_its_own_in_order() -> None:
    tenants = [tenant(25), tenant(cpu_cores=2, memory_mib=64), tenant(25)]
    with mechanism_for(FOUR, tenants, options("cpuset")) as mechanism:
        caps = [mechanism.grant(index).caps for index in range(3)]
    assert [cap.cpuset for cap in caps] == [(2,), (3, 4), (5,)]
    assert caps[1] == Caps(None, 64, (3, 4))
    assert [threads_of(cap, FOUR) for cap in caps] == [1, 2, 1]
    assert mechanism.period_us is None
    assert mechanism.step_pct == 25


def test_a_tenant_alone_has_all_cores() -> None:
    assert cores_of([tenant()], FOUR) == [FOUR.cores]


def test_a_rounded_share_is_whole_cores() -> None:
    three = Device(id="cpu:0-2", kind="cpu", name="test", cores=(0, 1, 2))
    third = 100 / 3
    assert cores_of([tenant(third), tenant(200 / 3)], three) == [(0,), (1, 2)]


@pytest.mark.parametrize(
    ("tenants", "message"),
    [
        ([tenant(30)], "1.2 is no whole number"),
        ([tenant(10)], "0.4 is no whole number"),
        ([tenant(cpu_cores=1.5)], "1.5 is no whole number"),
        ([tenant(cpu_cores=3), tenant(cpu_cores=2)], "wants 2 cores of its own, 1 of"),
        ([tenant(50), tenant()], "each of several tenants needs a share"),
        ([tenant(cpu_cores=5)], "more than the 4 cores"),
    ],
)
def test_what_does_not_fit_whole_cores_is_refused(tenants: list[Tenant], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_tenants(tenants, FOUR, "own", options("cpuset"))


def test_a_thread_beyond_its_cores_is_told() -> None:
    mine = sorted(os.sched_getaffinity(0))
    device = Device(id="cpu:x", kind="cpu", name="test", cores=tuple(mine))
    with Cpuset(device, [tenant(cpu_cores=1)], options()) as mechanism:
        with subprocess.Popen(["sleep", "60"]) as bound:
            os.sched_setaffinity(bound.pid, mine[:1])
            mechanism.verify(0, [bound.pid, 2**22])
            bound.kill()
        if len(mine) > 1:
            with pytest.raises(OutsideFailure, match=f"core {mine[1]}, which is not its"):
                mechanism.verify(0, [os.getpid()])


# --- time slicing ---


def test_time_slicing_is_named_and_keeps_away_from_mps(machine: FakeMachine) -> None:
    tenants = [tenant(), tenant(memory_mib=64), tenant(gpu=False)]
    with TimeSlicing(machine.device, tenants, options()) as mechanism:
        assert mechanism.name == "time-slicing"
        assert mechanism.step_pct is None
        assert mechanism.grant(0).gpus == (GPU,)
        assert mechanism.grant(0).environment == WITHOUT_DAEMON
        assert mechanism.grant(1).caps.memory_mib == 64
        assert mechanism.grant(2).gpus == ()
    assert machine.record() == []


@pytest.mark.parametrize("tenants", [[tenant(50)], [tenant(60), tenant(40)]])
def test_time_slicing_gives_no_shares(tenants: list[Tenant], machine: FakeMachine) -> None:
    with pytest.raises(BadInput, match="cannot be given by time slicing"):
        check_tenants(tenants, machine.device, "own", options("time-slicing"))
    check_tenants([tenant(100)], machine.device, "own", options("time-slicing"))


def test_a_sweep_of_time_slicing_has_co_located_cells_without_shares() -> None:
    fields = {"models": ["a", "b"], "colocate": "pairs", "share_mechanism": "time-slicing"}
    found = cells(load_sweep(None, fields), f"cuda:{GPU}")
    assert {len(cell.tenants) for cell in found} == {1, 2}
    assert {each.share_pct for cell in found for each in cell.tenants} == {None}
    for more in ({"shares": [50]}, {"colocate_shares": [[50, 50]]}):
        with pytest.raises(BadInput, match="time-slicing gives no shares"):
            load_sweep(None, {**fields, **more})


def test_a_core_cap_takes_no_share_of_a_gpu() -> None:
    fields = {"models": ["a"], "shares": [50], "cpu_cores": [2], "gpu": [True, False]}
    found = cells(load_sweep(None, fields), f"cuda:{GPU}")
    assert {(t.share_pct, t.cpu_cores, t.gpu) for c in found for t in c.tenants} == {
        (50, 2, True),
        (None, 2, False),
    }


@pytest.mark.parametrize("name", ["mps", "mig", "time-slicing"])
def test_a_share_of_a_gpu_that_is_not_given_is_refused(name: str, machine: FakeMachine) -> None:
    with pytest.raises(BadInput, match=r"not given|time slicing"):
        check_tenants([tenant(50, gpu=False)], machine.device, "own", options(name))


# --- MIG ---


def test_a_slice_is_a_device_by_its_uuid(machine: FakeMachine) -> None:
    machine.nvml.mig = True
    device = resolve_device(machine.slice(1).id)
    assert device.id == machine.slice(1).id
    assert device.name == "NVIDIA A100-SXM4-40GB MIG 2g.10gb"
    assert device.memory_mib == 9856
    machine.nvml.mig = False
    with pytest.raises(BadInput, match="no MIG slice") as error:
        resolve_device(machine.slice(1).id)
    assert "nvidia-smi -L" in str(error.value)


def test_a_slice_is_one_tenants_and_whole(machine: FakeMachine) -> None:
    machine.nvml.mig = True
    for share_pct in (None, 100):
        with mechanism_for(machine.slice(), [tenant(share_pct)], options()) as mechanism:
            assert mechanism.grant(0).gpus == (machine.slice().id.removeprefix("cuda:"),)
            assert mechanism.grant(0).environment == WITHOUT_DAEMON
            assert mechanism.step_pct == 100
    with pytest.raises(BadInput, match="no whole slice"):
        check_tenants([tenant(50)], machine.slice(), "own", options("mig"))
    with pytest.raises(BadInput, match="one tenant's"):
        check_tenants([tenant(), tenant()], machine.slice(), "own", options("mig"))


def test_shares_of_a_gpu_in_slices_are_slices_that_exist(machine: FakeMachine) -> None:
    machine.nvml.mig = True
    tenants = [tenant(14.3), tenant(gpu=False), tenant(300 / 7)]
    with Mig(machine.device, tenants, options()) as mechanism:
        given = [mechanism.grant(index).gpus for index in range(3)]
        assert mechanism.step_pct == pytest.approx(100 / 7)
    big, _, small = SLICES
    assert given == [(small,), (), (big,)]


@pytest.mark.parametrize(
    ("tenants", "message"),
    [
        ([tenant(50)], "no MIG slice that is left is exactly 50%"),
        ([tenant(14.3), tenant(14.3)], "no MIG slice that is left is exactly 14.3%"),
        ([tenant()], "needs a share"),
    ],
)
def test_other_shares_of_a_gpu_in_slices_are_refused(
    tenants: list[Tenant], message: str, machine: FakeMachine
) -> None:
    machine.nvml.mig = True
    with pytest.raises(BadInput, match=message) as error:
        check_tenants(tenants, machine.device, "own", options("mig"))
    assert "28.6%" in str(error.value)


def test_no_slice_is_ever_made(machine: FakeMachine) -> None:
    with pytest.raises(MissingCapability, match="no MIG slices") as error:
        slices_of(machine.device)
    assert "igprof makes none" in str(error.value)


def test_a_gpu_in_slices_is_not_time_sliced_by_mistake(machine: FakeMachine) -> None:
    machine.nvml.mig = True
    with pytest.raises(MissingCapability, match="cut into MIG slices"):
        TimeSlicing(machine.device, [tenant()], options()).__enter__()
    with TimeSlicing(machine.slice(), [tenant(), tenant()], options()) as mechanism:
        assert mechanism.name == "time-slicing"


# --- what CUDA sees ---

LIBCUDA = """
#include <stdlib.h>
#include <string.h>
typedef struct { int type; unsigned count; } affinity;
static int share(void) {
    const char *text = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    return text ? 108 * atoi(text) / 100 / 2 * 2 : 108;
}
int cuInit(unsigned flags) { return getenv("CUDA_VISIBLE_DEVICES") ? 0 : 100; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuCtxCreate_v2(void **context, unsigned flags, int device) { return 0; }
int cuCtxDestroy_v2(void *context) { return 0; }
int cuDeviceGetAttribute(int *value, int what, int device) {
    *value = what == 16 ? (getenv("ATTRIBUTE") ? share() : 108) : -1; return 0;
}
int cuCtxGetExecAffinity(affinity *found, int type) { found->count = share(); return 0; }
"""


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    folder: Path = tmp_path_factory.mktemp("cuda")
    (folder / "cuda.c").write_text(LIBCUDA)
    library = folder / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "cuda.c"], check=True)
    return str(library)


def test_the_sms_are_those_that_cuda_sees(libcuda: str) -> None:
    gpu = {"CUDA_VISIBLE_DEVICES": GPU}
    share = {**gpu, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "45"}
    found = sm_counts([gpu, share, {**share, "ATTRIBUTE": "1"}, {}], library=libcuda)
    assert found == [108, 48, 48, None]


def test_without_a_driver_the_sms_are_not_known() -> None:
    assert sm_counts([{"CUDA_VISIBLE_DEVICES": GPU}], library="libnothing.so") == [None]


def test_each_tenants_sms_and_the_step_are_recorded(
    libcuda: str, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(libcuda).parent))
    tenants = [tenant(25), tenant(75), tenant(gpu=False)]
    with mechanism_for(machine.device, tenants, options()) as mechanism:
        assert [mechanism.sm_count(index) for index in range(3)] == [26, 80, None]
        assert mechanism.step_pct == pytest.approx(100 / 108)
    with mechanism_for(machine.device, [tenant()], options("time-slicing")) as mechanism:
        assert mechanism.sm_count(0) == 108
        assert mechanism.step_pct is None


# --- doctor ---


def test_doctor_tells_of_mps(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checks.check_mps()
    assert (found.status, "no daemon is there" in found.detail) == ("ok", True)
    with mechanism_for(machine.device, [tenant()], options()) as mechanism:
        monkeypatch.setenv(
            "CUDA_MPS_PIPE_DIRECTORY", mechanism.grant(0).environment["CUDA_MPS_PIPE_DIRECTORY"]
        )
        found = checks.check_mps()
        assert found.status == "ok"
        assert f"a daemon of user {os.geteuid()}" in found.detail
        machine.behave(default_pct=50)
        found = checks.check_mps()
        assert (found.status, "at 50%" in found.detail) == ("limited", True)
    monkeypatch.setenv("PATH", str(machine.cache))
    assert checks.check_mps().status == "missing"
