"""Green contexts against a stand-in for CUDA's driver: who gets which SMs, and who is no row."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.records import Device, Tenant
from igniter_prof.serving import ServeOptions, deploy, marks, server_conditions
from igniter_prof.serving.shares import Grant, green, mechanism_for, mps, mps_daemon
from igniter_prof.serving.shares.green import Layout, ranges
from tests.fake_gpu import GPU, FakeMachine, machine

__all__ = ["machine"]

HOPPER = Layout(sms=132, group=8, groups=16)

LIBCUDA = Path(__file__).parents[1] / "integration" / "fake_cuda.c"

MODEL = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("sm_partition", os.environ["IGPROF_SM_PARTITION"])
partition = importlib.util.module_from_spec(spec)
spec.loader.exec_module(partition)
print(partition.granted_stream(), flush=True)
sys.stdin.read()
"""
"""What docs/gpu-shares.md tells models to do, without a framework."""


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    folder: Path = tmp_path_factory.mktemp("cuda")
    command = ["gcc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", LIBCUDA]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def gpu(libcuda: Path, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libcuda))
    for module in (green, mps):
        monkeypatch.setattr(module, "VERIFY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(mps, "sm_counts", lambda environments, user: [None for _ in environments])
    return machine


def tenants(*shares: float | None) -> list[Tenant]:
    return [Tenant(model=f"m{k}", share_pct=share) for k, share in enumerate(shares)]


def options(name: str = "green-context", runtime: str = "local") -> ServeOptions:
    return ServeOptions(share_mechanism=name, runtime=runtime)


@contextlib.contextmanager
def model(grant: Grant, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A model's process that has taken its part."""
    environment = {**os.environ, **grant.environment, "CUDA_VISIBLE_DEVICES": GPU, **more}
    with subprocess.Popen(
        [sys.executable, "-c", MODEL],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{0x7F0012345678}\n"  # more than 32 bits
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_each_tenant_works_on_sms_of_its_own(gpu: FakeMachine) -> None:
    with mechanism_for(gpu.device, tenants(25, 50, None), options()) as mechanism:
        assert [mechanism.sm_count(k) for k in range(3)] == [32, 64, 132]
        assert mechanism.step_pct == pytest.approx(100 * 8 / 132)
        taken = []
        for index in range(3):
            with model(mechanism.grant(index)) as process:
                mechanism.verify(index, [1, process.pid])
                assert process.stderr is not None
                taken.append(os.read(process.stderr.fileno(), 4096).decode().split())
        assert mechanism.trouble(fresh=True) is None
    assert taken == [list("0123"), [str(k) for k in range(4, 12)], ["99"]]
    assert mechanism.grant(0).environment["CUDA_MPS_PIPE_DIRECTORY"] == "/dev/null"
    assert gpu.started() == []


def test_a_model_that_takes_no_part_is_no_row(gpu: FakeMachine) -> None:
    with mechanism_for(gpu.device, tenants(50), options()) as mechanism:
        with pytest.raises(OutsideFailure, match="m0: its model does not work in its part"):
            mechanism.verify(0, [os.getpid()])
        with model(mechanism.grant(0)) as process:
            mechanism.verify(0, [process.pid, os.getpid()])
            gpu.nvml.computing = [os.getpid()]  # a second process of the tenant, outside
            with pytest.raises(OutsideFailure, match="does not work in its part"):
                mechanism.verify(0, [process.pid, os.getpid()])


def test_a_part_of_another_size_is_no_row(gpu: FakeMachine) -> None:
    with (
        mechanism_for(gpu.device, tenants(50), options()) as mechanism,
        model(mechanism.grant(0), LESS="2") as process,
        pytest.raises(OutsideFailure, match="has 62 SMs, and 64 were to be given"),
    ):
        mechanism.verify(0, [process.pid])


def test_with_mps_all_are_clients_without_a_percentage(gpu: FakeMachine) -> None:
    with mechanism_for(gpu.device, tenants(25, 75), options("green-context-mps")) as mechanism:
        grants = [mechanism.grant(k) for k in range(2)]
        assert [mechanism.sm_count(k) for k in range(2)] == [32, 96]
        for grant in grants:
            assert mps.PERCENTAGE not in grant.environment
            assert Path(grant.environment[mps_daemon.PIPES], "control").exists()
        with model(grants[0]) as process:
            mechanism.verify(0, [process.pid])
        with (
            model(grants[1], STAYS_OUT="1") as process,
            pytest.raises(OutsideFailure, match="runs without MPS"),
        ):
            mechanism.verify(1, [process.pid])
        assert mechanism.trouble(fresh=True) is None
        gpu.behave(status="FAULT")
        assert "FAULT" in (mechanism.trouble(fresh=True) or "")
    assert gpu.told("quit") == ["quit"]


def test_nothing_is_left(gpu: FakeMachine) -> None:
    with mechanism_for(gpu.device, tenants(50), options()) as mechanism:
        reports = Path(mechanism.grant(0).environment["IGPROF_SM_REPORTS"]).parent
        assert reports.is_dir()
    assert not reports.exists()


@pytest.mark.parametrize("name", ["green-context", "green-context-mps"])
def test_the_local_runtime_serves_parts_of_a_gpu(gpu: FakeMachine, name: str) -> None:
    both = [Tenant(model="mlp", share_pct=share) for share in (25, 75)]
    with deploy(gpu.device, both, options=options(name)) as deployment:
        assert [endpoint.sm_count for endpoint in deployment.endpoints] == [32, 96]
        conditions = server_conditions(deployment)
        assert conditions["share_mechanism"] == name
        assert conditions["share_step_pct"] == pytest.approx(100 * 8 / 132)
    assert list(marks.runs().iterdir()) == []


def test_a_server_that_takes_no_part_is_an_error_and_nothing_stays(
    gpu: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRITON_TAKES_NO_PART", "1")
    with (
        pytest.raises(OutsideFailure, match="tenant mlp: its model does not work in its part"),
        deploy(gpu.device, [Tenant(model="mlp", share_pct=50)], options=options()),
    ):
        pytest.fail("it is no row")
    assert list(marks.runs().iterdir()) == []


def test_without_green_contexts_it_says_why(
    gpu: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(gpu.cache))
    for name in ("green-context", "green-context-mps"):
        with (
            pytest.raises(MissingCapability, match=r"cannot be divided.*libcuda"),
            mechanism_for(gpu.device, tenants(50), options(name)),
        ):
            pass


def test_a_container_or_a_cpu_has_none(gpu: FakeMachine) -> None:
    with pytest.raises(BadInput, match="local processes only, not by docker"):
        mechanism_for(gpu.device, tenants(50), options(runtime="docker"))
    with pytest.raises(BadInput, match="shares a GPU"):
        mechanism_for(Device(id="cpu:0", kind="cpu", name="c"), tenants(50), options())


def test_a_tenant_without_the_gpu_is_left_alone(gpu: FakeMachine) -> None:
    for name in ("green-context", "green-context-mps"):
        with mechanism_for(gpu.device, [Tenant(model="m", gpu=False)], options(name)) as mechanism:
            assert mechanism.grant(0).environment == {}
            assert mechanism.sm_count(0) is None
            mechanism.verify(0, [1])


def test_a_share_below_the_smallest_part_is_refused() -> None:
    with pytest.raises(BadInput, match="less than the smallest part, 8 of 132 SMs"):
        ranges(HOPPER, tenants(6), [True])
    assert ranges(HOPPER, tenants(6.07), [True]) == [(0, 1)]
    with pytest.raises(BadInput, match="more than the 16 parts"):
        ranges(HOPPER, tenants(60, 60), [True, True])


@given(
    st.lists(st.integers(7, 99), min_size=1, max_size=12).filter(lambda shares: sum(shares) <= 100)
)
def test_parts_are_disjoint_and_fit_and_depend_on_no_neighbour(shares: list[int]) -> None:
    found = ranges(HOPPER, tenants(*shares), [True] * len(shares))
    groups = [k for first, count in found for k in range(first, first + count)]
    assert groups == list(range(len(groups)))
    assert len(groups) <= HOPPER.groups
    for share, (_, count) in zip(shares, found, strict=True):
        assert count == HOPPER.count(share)
        assert 0 <= share / 100 * HOPPER.sms - count * HOPPER.group < HOPPER.group


def test_the_program_prints_the_layout(gpu: FakeMachine) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": GPU}
    assert green.layout_of(environment) == HOPPER
    done = subprocess.run(
        [sys.executable, "-I", str(green.CODE)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"sms": 132, "groups": [8] * 16}
