"""A machine with a GPU, as far as shares need one: NVML, MPS, and a Triton that joins it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.records import Device

FAKES = Path(__file__).parent / "fakes"
GPU = "GPU-11111111-2222-3333-4444-555555555555"
SLICES = {
    "MIG-aaaaaaaa-0000-0000-0000-000000000000": (3, 20096),
    "MIG-bbbbbbbb-0000-0000-0000-000000000000": (2, 9856),
    "MIG-cccccccc-0000-0000-0000-000000000000": (1, 4864),
}
"""UUID of each slice: its compute slices of seven, its memory in MiB."""


class FakeNvml(types.ModuleType):
    """As much of nvidia-ml-py as shares need: one GPU, perhaps cut into SLICES."""

    class NVMLError(Exception):
        """What NVML raises."""

    def __init__(self, *, mig: bool = False) -> None:
        super().__init__("pynvml")
        self.mig = mig
        self.capability = (8, 0)
        self.cuda = 12_040
        self.computing: list[int] = []
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index:
            raise self.NVMLError("Invalid Argument")
        return GPU

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid == GPU or (self.mig and uuid in SLICES):
            return uuid
        raise self.NVMLError("Not Found")

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:
        if handle not in SLICES:
            raise self.NVMLError("Not Supported")
        return GPU

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "NVIDIA A100-SXM4-40GB"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> types.SimpleNamespace:
        mib = SLICES[handle][1] if handle in SLICES else 40_960
        return types.SimpleNamespace(total=mib << 20)

    def nvmlDeviceGetAttributes(self, handle: str) -> types.SimpleNamespace:
        if handle not in SLICES:
            raise self.NVMLError("Not Supported")
        compute, mib = SLICES[handle]
        return types.SimpleNamespace(gpuInstanceSliceCount=compute, memorySizeMB=mib)

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        return [int(self.mig), int(self.mig)]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        if not self.mig or index >= len(SLICES):
            raise self.NVMLError("Not Found")
        return list(SLICES)[index]

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:
        return self.capability

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[types.SimpleNamespace]:
        return [types.SimpleNamespace(pid=pid) for pid in self.computing]


@dataclass(frozen=True)
class FakeMachine:
    """Where the fakes are, and what they were told."""

    bin: Path
    cache: Path
    nvml: FakeNvml

    @property
    def device(self) -> Device:
        """The GPU."""
        return Device(id=f"cuda:{GPU}", kind="cuda", name="fake")

    def slice(self, number: int = 0) -> Device:
        """A slice of it."""
        return Device(id=f"cuda:{list(SLICES)[number]}", kind="cuda", name="fake")

    def behave(self, **how: Any) -> None:
        """How the daemon behaves from now on; see the program."""
        (self.bin / "fake.json").write_text(json.dumps(how))

    def record(self) -> list[dict[str, Any]]:
        """What daemons were started with and told, in order."""
        path = self.bin / "record.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def told(self, command: str) -> list[str]:
        """The commands that begin with a word."""
        said = [entry["command"] for entry in self.record() if "command" in entry]
        return [each for each in said if each.split()[0] == command]

    def started(self) -> list[dict[str, Any]]:
        """Process ids and environments of the daemons that were started."""
        return [entry for entry in self.record() if "started" in entry]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMachine]:
    """A machine with a GPU and MPS; its cache has a name short enough for sockets."""
    programs = tmp_path / "bin"
    shutil.copytree(FAKES, programs)
    cache = Path(tempfile.mkdtemp(prefix="igp", dir="/tmp"))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(cache / "nobody"))
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    made = FakeMachine(programs, cache, nvml)
    yield made
    for entry in made.started():
        assert _ends(entry["started"]), "a daemon is left"
    assert nvml.open == 0
    shutil.rmtree(cache)


def _ends(pid: int) -> bool:
    """Whether a daemon is gone, or goes within seconds (it answers before it ends)."""
    command = Path("/proc", str(pid), "cmdline")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if b"mps-control" not in command.read_bytes():
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False
