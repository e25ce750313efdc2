"""A real Triton as local processes: it serves, it is limited, and nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest

from igniter_prof.config.devices import resolve_device
from igniter_prof.errors import BadInput
from igniter_prof.records import Device, Tenant
from igniter_prof.serving import (
    LaunchedState,
    ServeOptions,
    TenantFailure,
    attach,
    cgroup,
    deploy,
    launch,
    launched_states,
    marks,
    reap,
    server,
    server_conditions,
    stop,
    triton,
)

pytestmark = pytest.mark.skipif(
    triton.locate(None) is None and triton.unsupported() is not None,
    reason="no Triton runs on this machine",
)
needs_cgroups = pytest.mark.skipif(
    cgroup.version() is None or os.geteuid() != 0, reason="needs the right to make control groups"
)

IDENTITY = """
import numpy
import triton_python_backend_utils as utils

OLD = numpy.__version__.startswith("1.")

# NumPy 1 crashes the stubs by way of DLPack, NumPy 2 reads and writes wrong values without it
def read(tensor):
    return tensor.as_numpy() if OLD else numpy.from_dlpack(tensor)

def tensor(name, array):
    return utils.Tensor(name, array) if OLD else utils.Tensor.from_dlpack(name, array)

class TritonPythonModel:
    def initialize(self, args):
        {initialize}
    def execute(self, requests):
        inputs = [read(utils.get_input_tensor_by_name(request, "x")) for request in requests]
        return [utils.InferenceResponse([tensor("y", numpy.array(x))]) for x in inputs]
"""
CONFIG = """
backend: "python" max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }]
"""


@pytest.fixture
def device() -> Device:
    return resolve_device("cpu")


def write_model(
    repository: Path, name: str, *, initialize: str = "pass", config: str = CONFIG
) -> None:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(f'name: "{name}" {config}')
    (folder / "1" / "model.py").write_text(IDENTITY.format(initialize=initialize))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_model(tmp_path / "repository", "echo")
    return tmp_path / "repository"


def infer(address: str, model: str) -> list[float]:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    request = urllib.request.Request(
        f"http://{address}/v2/models/{model}/infer",
        data=json.dumps({"inputs": [tensor]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        values: list[float] = json.load(answer)["outputs"][0]["data"]
        return values


def left_of(mark_name: str) -> list[str]:
    """Everything that still carries a mark."""
    found = [f"process {pid}" for pid, _ in marks.marked_processes(mark_name)]
    found += [f"group {group.cpu}" for group in cgroup.named(mark_name)]
    found += [str(path) for path in Path("/dev/shm").glob(f"{mark_name}*")]
    found += [str(path) for path in marks.runs().glob(f"{mark_name}*")]
    return found


def gone(pid: int, timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while marks.start_ticks(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return marks.start_ticks(pid) is None


def test_tenants_are_served_within_their_limits_and_nothing_stays(
    device: Device, repository: Path
) -> None:
    told: list[str] = []
    tenants = [Tenant(model="echo", share_pct=50), Tenant(model="mlp", share_pct=25)]
    options = ServeOptions(repository=repository)
    with deploy(device, tenants, options=options, progress=told.append) as deployment:
        first, second = deployment.endpoints
        assert infer(str(first.http_address), "echo") == [1, 2, 3, 4]
        assert first.tenant == tenants[0]
        assert second.model_name == "mlp"
        assert first.pid is not None
        assert os.sched_getaffinity(first.pid) == set(device.cores)
        assert first.ready_s is not None
        assert 0 < first.ready_s < 60
        assert len({first.http_address, first.grpc_address, second.http_address}) == 3
        mark = marks.parse(deployment.mark.name)  # type: ignore[attr-defined]
        assert left_of(mark.name)
        assert deployment.ending(0) is None
        assert "Started HTTPService" in deployment.log_tail(0)
        conditions = server_conditions(deployment)
        assert conditions["runtime"] == "local"
        assert conditions["triton"].startswith("2.")
        if triton.locate(None) is None:
            assert conditions["framework"].startswith("onnxruntime 1.")
    assert any("starting 2" in line for line in told)
    assert left_of(mark.name) == []
    assert gone(first.pid)


@needs_cgroups
def test_a_share_is_obeyed_and_read_back(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    spin = "import threading; threading.Thread(target=self.spin, daemon=True).start()"
    write_model(repository, "busy", initialize=spin)
    model = repository / "busy" / "1" / "model.py"
    model.write_text(model.read_text() + "    def spin(self):\n        while True: pass\n")
    device = resolve_device("cpu:0")
    with deploy(
        device,
        [Tenant(model="busy", share_pct=30)],
        options=ServeOptions(repository=repository),
    ) as deployment:
        before, start = deployment.usage(0), time.monotonic()
        time.sleep(1.5)
        after, seconds = deployment.usage(0), time.monotonic() - start
    assert before is not None
    assert after is not None
    assert None not in (before.cpu_s, after.cpu_s, after.throttled_periods, before.periods)
    assert (after.cpu_s - before.cpu_s) / seconds < 0.35
    assert after.throttled_periods > (before.throttled_periods or 0)
    assert after.periods - before.periods > 50
    assert after.throttled_s > 0
    assert after.memory_peak_mib > 1
    assert after.oom_kills == 0


@needs_cgroups
def test_too_little_memory_is_an_oom(device: Device) -> None:
    with (
        pytest.raises(TenantFailure) as failure,
        deploy(device, [Tenant(model="mlp"), Tenant(model="mlp", memory_mib=30)]),
    ):
        pytest.fail("it cannot have started")
    assert failure.value.status == "oom"
    assert failure.value.index == 1
    assert "30 MiB" in failure.value.detail
    assert not [name for name in left_of("igprof-t-") if f"-{os.getpid()}-" in name]


@needs_cgroups
def test_an_oom_while_serving_is_told_from_a_crash(tmp_path: Path, device: Device) -> None:
    write_model(tmp_path, "hungry")
    model = tmp_path / "hungry" / "1" / "model.py"
    model.write_text(
        model.read_text().replace(
            "        return [", "        self.x = b'1' * 2**30\n        return ["
        )
    )
    with deploy(
        device,
        [Tenant(model="hungry", memory_mib=300)],
        options=ServeOptions(repository=tmp_path),
    ) as deployment:
        assert deployment.ending(0) is None
        with pytest.raises(OSError):
            infer(str(deployment.endpoints[0].http_address), "hungry")
        ending = deployment.ending(0)
    assert ending is not None
    assert ending[0] == "oom"


def test_a_server_killed_from_outside_has_crashed(device: Device, repository: Path) -> None:
    options = ServeOptions(repository=repository)
    with deploy(device, [Tenant(model="echo")], options=options) as deployment:
        pid = deployment.endpoints[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        ending = deployment.ending(0)
    assert ending is not None
    assert ending[0] == "crashed"
    assert "SIGKILL" in ending[1]


@pytest.mark.parametrize(
    ("initialize", "config", "reason"),
    [
        ("raise RuntimeError('the weights are missing')", CONFIG, "the weights are missing"),
        ("import os; os._exit(3)", CONFIG, "echo"),
        ("pass", CONFIG.replace("python", "nope"), "'nope'"),
    ],
)
def test_a_model_that_does_not_load_says_why(
    tmp_path: Path, device: Device, initialize: str, config: str, reason: str
) -> None:
    write_model(tmp_path, "echo", initialize=initialize, config=config)
    with (
        pytest.raises(TenantFailure) as failure,
        deploy(device, [Tenant(model="echo")], options=ServeOptions(repository=tmp_path)),
    ):
        pytest.fail("it cannot have started")
    assert failure.value.status == "crashed"
    assert reason in failure.value.detail
    assert "|" not in failure.value.detail
    assert "\\n" not in failure.value.detail


def test_a_model_that_loads_for_ever_times_out(tmp_path: Path, device: Device) -> None:
    write_model(tmp_path, "echo", initialize="import time; time.sleep(60)")
    start = time.monotonic()
    with (
        pytest.raises(TenantFailure) as failure,
        deploy(
            device,
            [Tenant(model="echo")],
            options=ServeOptions(repository=tmp_path, start_timeout_s=2),
        ),
    ):
        pytest.fail("it cannot have started")
    assert failure.value.status == "timeout"
    assert "loading: echo" in failure.value.detail
    assert time.monotonic() - start < 10


def test_two_deployments_at_once_do_not_disturb_each_other(
    device: Device, repository: Path
) -> None:
    options = ServeOptions(repository=repository)
    with deploy(device, [Tenant(model="echo")], options=options) as outer:
        with deploy(device, [Tenant(model="echo")], options=options) as inner:
            assert inner.endpoints[0].http_address != outer.endpoints[0].http_address
            assert reap() is not None  # the owner of both is alive
            assert infer(str(inner.endpoints[0].http_address), "echo") == [1, 2, 3, 4]
        assert infer(str(outer.endpoints[0].http_address), "echo") == [1, 2, 3, 4]


def test_a_shared_server_serves_all_tenants(tmp_path: Path, device: Device) -> None:
    write_model(tmp_path, "one")
    write_model(tmp_path, "two")
    options = ServeOptions(repository=tmp_path, server="shared")
    tenants = [Tenant(model="one"), Tenant(model="two")]
    with deploy(device, tenants, options=options) as deployment:
        one, two = deployment.endpoints
        assert one.pid == two.pid
        assert infer(str(one.http_address), "one") == infer(str(two.http_address), "two")
        assert server_conditions(deployment)["share_mechanism"] is None


def test_a_port_that_somebody_took_is_exchanged(
    device: Device, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = server.free_ports
        asked: list[int] = []

        def unlucky(count: int) -> list[int]:
            asked.append(count)
            return [taken.getsockname()[1], *ports(2)] if len(asked) == 1 else ports(count)

        monkeypatch.setattr(server, "free_ports", unlucky)
        options = ServeOptions(repository=repository)
        with deploy(device, [Tenant(model="echo")], options=options) as deployment:
            address = str(deployment.endpoints[0].http_address)
            assert infer(address, "echo") == [1, 2, 3, 4]
    assert len(asked) == 2


def test_an_unknown_runtime_is_named(device: Device) -> None:
    with pytest.raises(BadInput, match="did you mean 'local'"):
        deploy(device, [Tenant(model="mlp")], options=ServeOptions(runtime="locl"))


# --- owners that end in the middle ----------------------------------------------------------------

OWNER = """
    import os, sys, threading, time
    from pathlib import Path
    from igniter_prof.config.devices import resolve_device
    from igniter_prof.records import Tenant
    from igniter_prof.serving import ServeOptions, deploy, launch, marks

    device = resolve_device("cpu")
    tenants = [Tenant(model="echo", share_pct=50)]
    options = ServeOptions(repository=Path(sys.argv[1]), start_timeout_s=60)

    def say(line):
        print(line, flush=True)
"""


def start_owner(repository: Path, body: str) -> subprocess.Popen[str]:
    script = textwrap.dedent(OWNER) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(repository)], stdout=subprocess.PIPE, text=True
    )


# not in the main thread: there the kernel would end the server with its owner
SERVE_IN_THREAD = """
    def serve():
        with deploy(device, tenants, options=options) as deployment:
            say(deployment.mark.name)
            say(deployment.endpoints[0].pid)
            time.sleep(120)

    threading.Thread(target=serve).start()
    time.sleep(120)
"""
SERVE_IN_MAIN = """
    with deploy(device, tenants, options=options) as deployment:
        say(deployment.mark.name)
        say(deployment.endpoints[0].pid)
        time.sleep(120)
"""


def read_two(owner: subprocess.Popen[str]) -> tuple[str, int]:
    assert owner.stdout is not None
    return owner.stdout.readline().strip(), int(owner.stdout.readline())


def end(owner: subprocess.Popen[str], number: int) -> None:
    owner.send_signal(number)
    owner.wait(30)
    assert owner.stdout is not None
    owner.stdout.close()


def test_after_kill_9_of_the_owner_the_next_start_removes_everything(repository: Path) -> None:
    owner = start_owner(repository, SERVE_IN_THREAD)
    name, pid = read_two(owner)
    end(owner, signal.SIGKILL)
    assert left_of(name)
    reap()
    assert left_of(name) == []
    assert gone(pid)


def test_kill_9_of_the_owner_ends_the_server_at_once(repository: Path) -> None:
    owner = start_owner(repository, SERVE_IN_MAIN)
    name, pid = read_two(owner)
    end(owner, signal.SIGKILL)
    assert gone(pid, 3)
    reap()
    assert left_of(name) == []


def test_ctrl_c_leaves_nothing(repository: Path) -> None:
    owner = start_owner(repository, SERVE_IN_MAIN)
    name, pid = read_two(owner)
    end(owner, signal.SIGINT)
    assert left_of(name) == []
    assert gone(pid)


def test_ctrl_c_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    write_model(tmp_path, "echo", initialize="import time; time.sleep(60)")
    owner = start_owner(
        tmp_path, "with deploy(device, tenants, options=options, progress=say): pass"
    )
    assert owner.stdout is not None
    assert "starting" in owner.stdout.readline()
    mine = f"igprof-t-{owner.pid}-"
    deadline = time.monotonic() + 120  # the very first start installs the servers' packages
    while not list(marks.marked_processes(mine)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(marks.marked_processes(mine))
    end(owner, signal.SIGINT)
    assert owner.returncode != 0
    assert left_of(mine) == []


# --- launched servers -----------------------------------------------------------------------------


def test_launched_servers_outlive_their_owner_until_they_are_stopped(
    repository: Path, device: Device
) -> None:
    owner = start_owner(repository, "say(launch(device, tenants, options).model_dump_json())")
    assert owner.stdout is not None
    state = LaunchedState.model_validate_json(owner.stdout.readline())
    try:
        owner.wait(30)
        owner.stdout.close()
        reap()
        assert state in launched_states()
        deployment = attach(state)
        address = str(deployment.endpoints[0].http_address)
        assert infer(address, "echo") == [1, 2, 3, 4]
        assert deployment.ending(0) is None
        usage = deployment.usage(0)
        assert usage is None or usage.cpu_s
        pid = deployment.endpoints[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        ending = attach(state).ending(0)
        assert ending is not None
        assert ending[0] == "crashed"
    finally:
        stop(state)
    assert left_of(state.mark) == []
    assert state not in launched_states()
    stop(state)  # a second time is no error


def test_a_launched_server_is_stopped_gracefully(repository: Path, device: Device) -> None:
    state = launch(device, [Tenant(model="echo")], ServeOptions(repository=repository))
    start = time.monotonic()
    stop(state)
    assert time.monotonic() - start < 9  # by itself, not after the grace time
    assert left_of(state.mark) == []


def test_a_launch_killed_halfway_is_reaped(tmp_path: Path) -> None:
    write_model(tmp_path, "echo", initialize="import time; time.sleep(60)")
    owner = start_owner(tmp_path, "launch(device, tenants, options, progress=say)")
    assert owner.stdout is not None
    assert "starting" in owner.stdout.readline()
    mine = f"igprof-l-{owner.pid}-"
    deadline = time.monotonic() + 120  # the very first start installs the servers' packages
    while not list(marks.marked_processes(mine)) and time.monotonic() < deadline:
        time.sleep(0.02)
    end(owner, signal.SIGKILL)
    assert left_of(mine)
    reap()
    assert left_of(mine) == []
