"""The probe of the GPU campaign on a made-up GPU.

C libraries below the real nvidia-ml-py and our ctypes, a program that behaves like MPS, and a
``torch`` whose kernel takes as long as its SMs say.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.monitors.power.recording import read_recording
from tests.scripts import SCRIPTS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TORCH = """
import ctypes, os, sys, time, types

__version__ = "2.fake"
float16 = float32 = None
version = types.SimpleNamespace(cuda="13.fake")
lib = ctypes.CDLL("libcuda.so.1")

def sms():
    class Affinity(ctypes.Structure):
        _fields_ = (("type", ctypes.c_int), ("count", ctypes.c_uint))
    found = Affinity()
    lib.cuCtxGetExecAffinity(ctypes.byref(found), 0)
    return found.count

class Stream:
    def __init__(self, pointer):
        first, _, count = os.environ["IGPROF_SM_GRANT"].partition(":")
        self.sms = 8 * int(count) or 132

class cuda:
    current = None
    @staticmethod
    def init():
        device, context = ctypes.c_int(), ctypes.c_void_p()
        assert lib.cuInit(0) == 0
        lib.cuCtxCreate_v2(ctypes.byref(context), 0, device)
    @staticmethod
    def is_available(): return True
    @staticmethod
    def get_device_properties(index):
        return types.SimpleNamespace(name="Fake", multi_processor_count=132, total_memory=1 << 30,
                                     major=9, minor=0)
    ExternalStream = Stream
    @classmethod
    def set_stream(cls, stream): cls.current = stream
    @staticmethod
    def current_stream(): return types.SimpleNamespace(synchronize=lambda: None)

backends = types.SimpleNamespace(
    cuda=types.SimpleNamespace(matmul=types.SimpleNamespace(allow_tf32=True)),
    cudnn=types.SimpleNamespace(version=lambda: 90000),
)

def randn(*size, **how): return None
def empty_like(other): return None
def mm(a, b, out):
    seconds = 0.001 * 132 / (cuda.current.sms if cuda.current else sms())
    until = time.monotonic() + seconds
    time.sleep(0.9 * seconds)
    while time.monotonic() < until: pass
"""
STEP = """
import sys, time
sys.path.insert(0, sys.argv[1])
import machine, probe
from pathlib import Path
state = Path(sys.argv[2])
work = machine.Work(state=state, out=state, device="cuda:0", python=Path(sys.executable), igprof=[],
                    server=state, repository=state, quick=True)
getattr(probe, sys.argv[3])(work, time.monotonic() + float(sys.argv[4]))
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make the libraries with")
    folder = tmp_path_factory.mktemp("gpu")
    for source, library in (("nvml", "libnvidia-ml.so.1"), ("cuda", "libcuda.so.1")):
        command = [compiler, "-shared", "-fPIC", "-o", folder / library, HERE / f"fake_{source}.c"]
        subprocess.run(command, check=True)
    (folder / "torch.py").write_text(TORCH)
    shutil.copy(HERE.parent / "fakes" / "nvidia-cuda-mps-control", folder)
    return folder


@pytest.fixture
def gpu(libraries: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine with the made-up GPU."""
    cache = tempfile.mkdtemp(prefix="igp", dir="/tmp")  # short: sockets lie in it
    programs = tmp_path / "bin"
    programs.mkdir()
    shutil.copy(libraries / "nvidia-cuda-mps-control", programs)
    yield {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": f"{ROOT}:{libraries}",
        "XDG_CACHE_HOME": cache,
        "CUDA_MPS_PIPE_DIRECTORY": f"{cache}/nobody",
    }
    record = programs / "record.jsonl"
    lines = map(json.loads, record.read_text().splitlines() if record.exists() else [])
    for entry in lines:
        if "started" in entry:
            assert _gone(entry["started"]), "a daemon is left"
    shutil.rmtree(cache)


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not Path("/proc", str(pid)).exists():
            return True
        time.sleep(0.05)
    return False


def step(name: str, gpu: dict[str, str], state: Path, seconds: float = 90.0) -> dict[str, Any]:
    command = [sys.executable, "-c", STEP, SCRIPTS / "gpu_campaign.d", state, name, str(seconds)]
    done = subprocess.run(command, env=gpu, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((state / f"{name}.json").read_text())
    return found


def test_all_parts_tell_what_is_there(gpu: dict[str, str], tmp_path: Path) -> None:
    found = step("probe", gpu, tmp_path)
    assert {name: part.get("error") for name, part in found.items()} == dict.fromkeys(found)
    assert found["card"]["driver"] == "580.0"
    assert found["card"]["compute_mode"] == "exclusive process"
    assert found["card"]["mig_mode"].startswith("error")  # not in the library: named, not fatal
    assert found["nvml"]["nvmlDeviceGetClockInfo NVML_CLOCK_SM"]["value"] == 1410
    assert "error" in found["nvml"]["NVML_FI_DEV_POWER_AVERAGE"]
    mps = found["mps"]
    assert (mps["started"], mps["attached"], mps["quit"]) == (True, True, True)
    assert mps["sm_counts"] == {"100": 132, "75": 98, "50": 66, "25": 32, "10": 12}
    assert (found["green"]["sms"], found["green"]["half"]) == (132, 64)
    assert found["green"]["runs"]
    # the library updates both each 100 ms
    for name in ("power_instant", "energy_field"):
        assert found["periods"][name]["period_ms"] == pytest.approx(100, rel=0.2)
    assert found["periods"]["clock_event_reasons"] == {
        "idle": ["sw_power_cap"],
        "load": ["sw_power_cap"],
    }


def test_obeyed_percentages_are_chosen(gpu: dict[str, str], tmp_path: Path) -> None:
    found = step("shares", gpu, tmp_path)
    assert found["mechanism"] == "mps"
    assert "green-context" not in found
    assert [group["sm_counts"] for group in found["mps"]["groups"]] == [[66, 66], [132], [32, 98]]


def test_percentages_that_are_not_obeyed_are_not_used(gpu: dict[str, str], tmp_path: Path) -> None:
    found = step("shares", {**gpu, "DISOBEYS": "1"}, tmp_path)
    assert found["mps"]["obeyed"] is False
    assert found["mechanism"] == "green-context-mps"


def test_the_trace_can_be_replayed(gpu: dict[str, str], tmp_path: Path) -> None:
    found = step("power", gpu, tmp_path, 36.0)
    recording = read_recording(tmp_path / "trace.npz")
    assert recording.info.bare_idle_w == pytest.approx(250, rel=0.01)
    assert recording.info.window_start_ns is not None
    load = found["load (half)"]
    assert load["energy_counter_j"] == pytest.approx(load["energy_integral_j"], rel=0.1)
    assert found["trouble"] is None
