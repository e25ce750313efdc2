"""MPS against a fake daemon: what would go wrong silently with a real one is an error."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.records import Tenant
from igniter_prof.serving import (
    ServeOptions,
    TenantFailure,
    attach,
    deploy,
    launch,
    marks,
    reap,
    server_conditions,
    stop,
)
from igniter_prof.serving.shares import mechanism_for, mps, mps_daemon
from igniter_prof.serving.shares.mps import Mps
from igniter_prof.serving.shares.mps_clients import Client, is_client, parse_clients
from igniter_prof.serving.shares.mps_daemon import Daemon
from igniter_prof.session.measuring import failed_window
from tests.fake_gpu import GPU, FakeMachine, machine

__all__ = ["machine"]

HALVES = [Tenant(model="m", share_pct=40), Tenant(model="n", share_pct=60)]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "VERIFY_TIMEOUT_S", 0.3)
    # counting SMs starts a Python for each share; test_shares_mechanisms.py does it
    monkeypatch.setattr(mps, "sm_counts", lambda environments, user: [None for _ in environments])


@contextlib.contextmanager
def tenant_process() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def join(mechanism: Mps, index: int, pid: int) -> str:
    """Have a process become a client, as CUDA would with the tenant's environment."""
    environment = mechanism.grant(index).environment
    done = subprocess.run(
        ["nvidia-cuda-mps-control"],
        input=f"join {pid} {environment.get(mps.PERCENTAGE, '100')}\n",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@contextlib.contextmanager
def foreign_daemon(machine: FakeMachine, visible: str = GPU) -> Iterator[Daemon]:
    """A daemon that somebody else started."""
    pipes = machine.cache / "theirs"
    pipes.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        mps_daemon.PIPES: str(pipes),
        "CUDA_VISIBLE_DEVICES": visible,
    }
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(mps_daemon.PIPES, str(pipes))
        daemon = Daemon(pipes, own=False)
        deadline = time.monotonic() + 10
        while not daemon.answers() and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            yield daemon
        finally:
            daemon.ask("quit")


def test_each_tenant_has_its_percentage_and_the_daemon_has_none(machine: FakeMachine) -> None:
    with Mps(machine.device, HALVES, ServeOptions()) as mechanism:
        grants = [mechanism.grant(index) for index in range(2)]
        pipes = str(mechanism.daemon.pipes)
    (daemon,) = machine.started()
    assert [grant.environment[mps.PERCENTAGE] for grant in grants] == ["40", "60"]
    for grant in grants:
        assert grant.environment[mps_daemon.PIPES] == pipes
        assert grant.mounts == {pipes: pipes}
        assert grant.host_ipc
        assert grant.gpus == (GPU,)
    assert mps.PERCENTAGE not in daemon["environment"]
    assert daemon["environment"]["CUDA_VISIBLE_DEVICES"] == GPU
    assert daemon["environment"][mps_daemon.PIPES] == pipes
    assert machine.told("quit") == ["quit"]
    assert not Path(pipes).exists()


def test_a_program_beside_the_driver_is_found_without_path(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = mps_daemon.find()
    assert on_path is not None
    monkeypatch.setattr(mps_daemon, "DRIVER_PROGRAMS", str(Path(on_path).parent))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with mechanism_for(machine.device, HALVES, ServeOptions()) as mechanism:
        assert mechanism.name == "mps"
    (daemon,) = machine.started()
    # the daemon starts its servers by their name
    assert str(machine.bin) in daemon["environment"]["PATH"].split(":")


def test_a_tenant_without_a_share_has_no_percentage(machine: FakeMachine) -> None:
    with Mps(machine.device, [Tenant(model="m")], ServeOptions()) as mechanism:
        assert mps.PERCENTAGE not in mechanism.grant(0).environment


def test_a_tenant_without_the_gpu_needs_no_daemon(machine: FakeMachine) -> None:
    tenants = [Tenant(model="m", gpu=False, memory_mib=64)]
    with Mps(machine.device, tenants, ServeOptions()) as mechanism:
        grant = mechanism.grant(0)
        mechanism.verify(0, [1])
        assert mechanism.trouble(fresh=True) is None
    assert grant.gpus == ()
    assert grant.caps.memory_mib == 64
    assert machine.started() == []


def test_a_client_is_verified_and_a_stranger_is_no_row(machine: FakeMachine) -> None:
    with (
        Mps(machine.device, HALVES, ServeOptions()) as mechanism,
        tenant_process() as one,
        tenant_process() as other,
    ):
        assert join(mechanism, 0, one) == "joined"
        mechanism.verify(0, [one])
        with pytest.raises(OutsideFailure, match="tenant n: runs without MPS"):
            mechanism.verify(1, [other])


def test_a_late_client_is_waited_for(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "VERIFY_TIMEOUT_S", 20)
    with Mps(machine.device, HALVES, ServeOptions()) as mechanism, tenant_process() as pid:
        environment = {**os.environ, **mechanism.grant(0).environment}
        late = f"sleep 0.6; echo join {pid} 40 | nvidia-cuda-mps-control"
        with subprocess.Popen(["sh", "-c", late], env=environment, stdout=subprocess.DEVNULL):
            mechanism.verify(0, [pid])


def test_a_process_that_uses_the_gpu_beside_mps_is_told(machine: FakeMachine) -> None:
    with (
        Mps(machine.device, HALVES, ServeOptions()) as mechanism,
        tenant_process() as one,
        tenant_process() as stub,
    ):
        join(mechanism, 0, one)
        machine.nvml.computing = [one, stub]
        with pytest.raises(OutsideFailure, match=f"process {stub} .* without MPS"):
            mechanism.verify(0, [one, stub])
        join(mechanism, 0, stub)
        mechanism.verify(0, [one, stub])


def test_a_full_daemon_keeps_clients_out(machine: FakeMachine) -> None:
    machine.behave(limit=1)
    with (
        Mps(machine.device, HALVES, ServeOptions()) as mechanism,
        tenant_process() as one,
        tenant_process() as other,
    ):
        join(mechanism, 0, one)
        assert join(mechanism, 1, other) == "full"
        with pytest.raises(OutsideFailure, match="without MPS"):
            mechanism.verify(1, [other])


def test_an_older_daemon_lists_its_clients_otherwise(machine: FakeMachine) -> None:
    machine.behave(old=True)
    with Mps(machine.device, HALVES, ServeOptions()) as mechanism, tenant_process() as pid:
        join(mechanism, 0, pid)
        mechanism.verify(0, [pid])
        assert machine.told("get_client_list")


@pytest.mark.parametrize(
    ("cuda", "fits", "too_many"), [(12_040, 48, 49), (13_000, 48, 49), (13_010, 60, 61)]
)
def test_more_clients_than_are_documented_are_refused(
    machine: FakeMachine, cuda: int, fits: int, too_many: int
) -> None:
    machine.nvml.cuda = cuda
    with (
        pytest.raises(BadInput, match=f"{too_many} processes .* {fits} clients"),
        Mps(machine.device, [Tenant(model="m", instances=too_many)], ServeOptions()),
    ):
        pytest.fail("too many")
    with Mps(machine.device, [Tenant(model="m", instances=fits)], ServeOptions()):
        pass
    options = ServeOptions(backend="tensorrt")
    with Mps(machine.device, [Tenant(model="m", instances=64)], options):
        pass  # one process


def test_before_volta_there_are_no_shares(machine: FakeMachine) -> None:
    machine.nvml.capability = (6, 1)
    with pytest.raises(MissingCapability, match=r"compute capability 6\.1"):
        Mps(machine.device, HALVES, ServeOptions()).__enter__()
    assert machine.started() == []
    with Mps(machine.device, [Tenant(model="m", instances=16)], ServeOptions()):
        pass
    with pytest.raises(BadInput, match="MPS takes 16 clients"):
        Mps(machine.device, [Tenant(model="m", instances=17)], ServeOptions()).__enter__()


def test_without_the_program_shares_are_refused_before_anything(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingCapability, match="nvidia-cuda-mps-control"):
        mechanism_for(machine.device, HALVES, ServeOptions())


def test_a_daemon_that_does_not_start_is_told_with_its_words(machine: FakeMachine) -> None:
    machine.behave(start="fail")
    with pytest.raises(OutsideFailure, match="already running"):
        Mps(machine.device, HALVES, ServeOptions()).__enter__()
    assert list(marks.runs().iterdir()) == []
    assert list(mps_daemon.folder().iterdir()) == []


def test_a_name_that_is_too_long_for_a_socket_is_told(
    machine: FakeMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("long" * 20)))
    with pytest.raises(MissingCapability, match="too long a name") as error:
        Mps(machine.device, HALVES, ServeOptions()).__enter__()
    assert "XDG_CACHE_HOME" in str(error.value)


def test_a_daemon_that_is_there_is_used_and_left_alone(machine: FakeMachine) -> None:
    with foreign_daemon(machine) as theirs:
        with Mps(machine.device, HALVES, ServeOptions()) as mechanism:
            assert mechanism.daemon == theirs
        assert theirs.answers()
        assert len(machine.started()) == 1
        assert machine.told("quit") == []
        assert machine.told("set_default_active_thread_percentage") == []
        with pytest.raises(AssertionError):
            theirs.quit()


def test_a_daemon_for_another_gpu_is_none_for_ours(machine: FakeMachine) -> None:
    with foreign_daemon(machine, visible="GPU-99999999") as theirs:
        with Mps(machine.device, HALVES, ServeOptions()) as mechanism:
            assert mechanism.daemon != theirs
        assert theirs.answers()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a socket to another user")
def test_a_daemon_of_another_user_is_refused_or_lends_its_user(machine: FakeMachine) -> None:
    machine.behave(uid=4242)
    with foreign_daemon(machine):
        with pytest.raises(MissingCapability, match="belongs to user 4242"):
            Mps(machine.device, HALVES, ServeOptions()).__enter__()
        with Mps(machine.device, HALVES, ServeOptions(runtime="docker")) as mechanism:
            assert mechanism.grant(0).user == 4242


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a process of another user")
def test_a_daemon_that_serves_another_user_is_refused(machine: FakeMachine) -> None:
    with subprocess.Popen(["sleep", "60"], user=4242) as process, foreign_daemon(machine) as theirs:
        machine.behave(server=process.pid)
        theirs.ask(f"join {process.pid} 100")
        with pytest.raises(MissingCapability, match="serves user 4242"):
            Mps(machine.device, HALVES, ServeOptions()).__enter__()
        process.kill()


def test_a_daemon_that_caps_its_clients_lower_is_refused(machine: FakeMachine) -> None:
    machine.behave(default_pct=50.0)
    with foreign_daemon(machine):
        with pytest.raises(MissingCapability, match="caps every client at 50%, and 60%"):
            Mps(machine.device, HALVES, ServeOptions()).__enter__()
        with Mps(machine.device, [Tenant(model="m", share_pct=50)], ServeOptions()):
            pass


def test_a_daemon_in_fault_is_refused(machine: FakeMachine) -> None:
    with foreign_daemon(machine) as theirs, tenant_process() as pid:
        theirs.ask(f"join {pid} 100")
        machine.behave(status="FAULT")
        with pytest.raises(MissingCapability, match="FAULT"):
            Mps(machine.device, HALVES, ServeOptions()).__enter__()


def test_a_fault_is_everybodys_and_stays(machine: FakeMachine) -> None:
    with Mps(machine.device, HALVES, ServeOptions()) as mechanism, tenant_process() as pid:
        join(mechanism, 0, pid)
        mechanism.verify(0, [pid])
        assert mechanism.trouble() is None
        machine.behave(status="FAULT")
        assert mechanism.trouble() is None  # asked a moment ago
        assert "FAULT" in str(mechanism.trouble(fresh=True))
        machine.behave()
        assert "FAULT" in str(mechanism.trouble(fresh=True))
    with Mps(machine.device, HALVES, ServeOptions()) as mechanism:
        assert mechanism.trouble(fresh=True) is None
    assert len(machine.started()) == 2


def test_a_fault_makes_every_row_invalid() -> None:
    window = failed_window(HALVES, TenantFailure(0, "invalid", "a fault"))
    assert [each.status for each in window.tenants] == ["invalid", "invalid"]


def test_a_server_that_ended_under_its_clients_is_told(machine: FakeMachine) -> None:
    with Mps(machine.device, HALVES, ServeOptions()) as mechanism, tenant_process() as pid:
        join(mechanism, 0, pid)
        mechanism.verify(0, [pid])
        machine.behave(server_gone=True)
        assert "ended under its clients" in str(mechanism.trouble(fresh=True))


def test_a_daemon_that_was_stopped_by_others_is_told(machine: FakeMachine) -> None:
    with Mps(machine.device, HALVES, ServeOptions()) as mechanism:
        mechanism.daemon.ask("quit")
        assert "the MPS daemon is gone" in str(mechanism.trouble(fresh=True))
        with pytest.raises(OutsideFailure, match="no MPS daemon answers"):
            mechanism.verify(0, [os.getpid()])


def test_a_gpu_in_slices_is_no_whole_gpu(machine: FakeMachine) -> None:
    machine.nvml.mig = True
    with pytest.raises(MissingCapability, match="cut into MIG slices"):
        Mps(machine.device, HALVES, ServeOptions()).__enter__()


def test_a_slice_is_shared_if_that_is_asked_for(machine: FakeMachine) -> None:
    machine.nvml.mig = True
    options = ServeOptions(share_mechanism="mps")
    with mechanism_for(machine.slice(), HALVES, options) as mechanism:
        assert mechanism.name == "mps"
        assert mechanism.grant(0).gpus == (machine.slice().id.removeprefix("cuda:"),)


TABLE = """
PID       ID    SERVER    DEVICE             NAMESPACE    COMMAND
9741      0     6472      GPU-cb1213a3-d6a4  4026531836   ./nbody --a b
7         1     6472      GPU-cb1213a3-d6a4  4026532999   tritonserver
"""


def test_the_daemons_table_is_read_by_its_header() -> None:
    assert parse_clients(TABLE) == [
        Client(9741, 4026531836, "GPU-cb1213a3-d6a4"),
        Client(7, 4026532999, "GPU-cb1213a3-d6a4"),
    ]
    assert parse_clients("PID ID SERVER DEVICE NAMESPACE COMMAND\n") == []
    assert parse_clients("Unknown command\n") is None
    assert parse_clients("") is None


def test_a_container_is_known_by_its_own_number_and_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = marks.namespace()
    folder = tmp_path / "500"
    (folder / "ns").mkdir(parents=True)
    (folder / "status").write_text("Name:\tx\nNSpid:\t500\t7\n")
    (folder / "ns" / "pid").write_text("")
    inner = (folder / "ns" / "pid").stat().st_ino
    monkeypatch.setattr(marks, "PROC", tmp_path)
    monkeypatch.setattr(marks, "namespace", lambda: own)
    for client in (Client(7, inner), Client(500, inner), Client(500, own), Client(500)):
        assert is_client(500, [client], GPU)
    # another container's process 7, a host's process 7, and one without a namespace prove nothing
    for client in (Client(7, inner + 1), Client(7, own), Client(7)):
        assert not is_client(500, [client], GPU)
    assert not is_client(500, [Client(500, own, "GPU-99999999")], GPU)
    assert is_client(500, [Client(500, own, GPU[:12])], GPU)


def test_the_local_runtime_serves_shares_of_a_gpu(machine: FakeMachine) -> None:
    tenants = [Tenant(model="mlp", share_pct=40), Tenant(model="mlp", share_pct=60)]
    with deploy(machine.device, tenants, options=ServeOptions(start_timeout_s=30)) as deployment:
        pids = [endpoint.pid for endpoint in deployment.endpoints]
        assert machine.told("join") == [f"join {pids[0]} 40", f"join {pids[1]} 60"] or (
            machine.told("join") == [f"join {pids[1]} 60", f"join {pids[0]} 40"]
        )
        conditions = server_conditions(deployment)
        assert conditions["share_mechanism"] == "mps"
        assert conditions["share_period_us"] is None
        assert deployment.ending(0) is None
        machine.behave(status="FAULT")
        assert deployment.mechanism.trouble(fresh=True)  # type: ignore[attr-defined]
        for index in range(2):
            status, detail = deployment.ending(index) or ("ok", "")
            assert status == "invalid"
            assert "FAULT" in detail
    assert machine.told("quit")
    assert list(marks.runs().iterdir()) == []


def test_a_crash_of_a_tenant_alone_is_its_own(machine: FakeMachine) -> None:
    with deploy(machine.device, [Tenant(model="mlp", share_pct=40)]) as deployment:
        process = deployment.servers[0].process  # type: ignore[attr-defined]
        process.signal(signal.SIGSEGV)
        deadline = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        machine.behave(status="FAULT")
        assert (deployment.ending(0) or ("ok", ""))[0] == "crashed"


def test_a_server_that_stays_out_of_mps_is_an_error_and_nothing_stays(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRITON_STAYS_OUT", "1")
    with (
        pytest.raises(OutsideFailure, match="tenant mlp: runs without MPS"),
        deploy(machine.device, [Tenant(model="mlp", share_pct=40)]),
    ):
        pytest.fail("it is no row")
    assert list(marks.runs().iterdir()) == []


def test_a_users_own_settings_are_no_share(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mps.PERCENTAGE, "7")
    with deploy(machine.device, [Tenant(model="mlp")]):
        assert [command.split()[2] for command in machine.told("join")] == ["100"]


def test_a_daemon_does_not_outlive_a_killed_igprof(machine: FakeMachine) -> None:
    code = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        import tests.fake_gpu as fake
        sys.modules["pynvml"] = fake.FakeNvml()
        from igniter_prof.records import Device, Tenant
        from igniter_prof.serving import deploy
        device = Device(id="cuda:" + fake.GPU, kind="cuda", name="fake")
        with deploy(device, [Tenant(model="mlp", share_pct=40)]):
            print("ready", flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as igprof:
        assert igprof.stdout is not None
        assert igprof.stdout.readline() == b"ready\n"
        (daemon,) = machine.started()
        igprof.kill()
    assert marks.start_ticks(daemon["started"]) is not None
    assert len(reap()) == 1
    assert marks.start_ticks(daemon["started"]) is None
    assert len(list(mps_daemon.folder().iterdir())) == 1
    mps_daemon.remove_leftovers()
    assert list(mps_daemon.folder().iterdir()) == []


def test_a_launched_plan_keeps_its_daemon_until_it_is_stopped(machine: FakeMachine) -> None:
    state = launch(machine.device, [Tenant(model="mlp", share_pct=40)], ServeOptions())
    try:
        state = type(state).model_validate_json(json.dumps(state.model_dump(mode="json")))
        found = attach(state)
        assert found.conditions()["share_mechanism"] == "mps"
        assert found.ending(0) is None
        assert state.shares is not None
        assert Daemon(Path(str(state.shares.mps_pipes)), own=True).answers()
        assert reap() == []
        machine.behave(status="FAULT")
        assert (attach(state).ending(0) or ("ok", ""))[0] == "invalid"
    finally:
        stop(state)
    assert machine.told("quit") == ["quit"]
    assert list(marks.runs().iterdir()) == []
    stop(state)
