"""MPS and time slicing on a real GPU, by CUDA itself: no model server is needed.

Skipped without a GPU, its driver and MPS. It starts a daemon of its own, unless one is there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from igniter_prof.config.devices import resolve_device
from igniter_prof.errors import IgprofError, OutsideFailure
from igniter_prof.records import Device, Tenant
from igniter_prof.serving import ServeOptions
from igniter_prof.serving.shares import Grant, mechanism_for, mps, mps_daemon
from igniter_prof.serving.shares.mps import Mps
from igniter_prof.serving.shares.timeslice import TimeSlicing

HOLDER = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
device, context = ctypes.c_int(), ctypes.c_void_p()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device) == 0
print("ready", flush=True)
sys.stdin.read()
"""


def gpu() -> Device | None:
    """The first GPU of this machine; None if there is none, or it is cut into slices."""
    try:
        device = resolve_device("cuda:0")
        TimeSlicing(device, [Tenant(model="m")], ServeOptions()).__enter__()
    except IgprofError:
        return None
    return device


DEVICE = gpu()
pytestmark = [
    pytest.mark.skipif(DEVICE is None, reason="needs an NVIDIA GPU that is not in MIG slices"),
    pytest.mark.skipif(
        shutil.which(mps_daemon.PROGRAM) is None, reason=f"needs {mps_daemon.PROGRAM}"
    ),
]


@pytest.fixture
def device() -> Device:
    assert DEVICE is not None
    return DEVICE


@contextlib.contextmanager
def holder(grant: Grant, more: Mapping[str, str] | None = None) -> Iterator[int]:
    """A process that holds a CUDA context, with a tenant's environment."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CUDA_")}
    environment = {
        **inherited,
        **grant.environment,
        "CUDA_VISIBLE_DEVICES": ",".join(grant.gpus),
        **(more or {}),
    }
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


def test_shares_are_given_seen_and_verified(device: Device) -> None:
    tenants = [Tenant(model="m", share_pct=30), Tenant(model="n", share_pct=70)]
    with mechanism_for(device, tenants, ServeOptions(share_mechanism="mps")) as mechanism:
        small, large = mechanism.sm_count(0), mechanism.sm_count(1)
        assert small is not None
        assert large is not None
        assert mechanism.step_pct is not None
        whole = round(100 / mechanism.step_pct)
        assert 0 < small < large < whole
        # the driver rounds, by a few SMs at most
        assert abs(small - 0.3 * whole) <= 4
        with holder(mechanism.grant(0)) as one, holder(mechanism.grant(1)) as other:
            mechanism.verify(0, [one])
            mechanism.verify(1, [other])
            assert mechanism.trouble(fresh=True) is None


def test_a_process_beside_mps_is_no_row(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "VERIFY_TIMEOUT_S", 2)
    tenants = [Tenant(model="m", share_pct=50)]
    beside = {mps_daemon.PIPES: "/dev/null"}
    with (
        Mps(device, tenants, ServeOptions()) as mechanism,
        holder(mechanism.grant(0), beside) as pid,
        pytest.raises(OutsideFailure, match="without MPS"),
    ):
        mechanism.verify(0, [pid])


def test_time_slicing_sees_the_whole_gpu(device: Device) -> None:
    with TimeSlicing(device, [Tenant(model="m")], ServeOptions()) as mechanism:
        assert (mechanism.sm_count(0) or 0) > 1
        with holder(mechanism.grant(0)):
            pass
