"""Devices as users name them."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igniter_prof.config.devices import (
    client_cores,
    cpu_model,
    format_cores,
    parse_cores,
    resolve_device,
    usable_cores,
)
from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.records import Device


@pytest.fixture
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5, 6, 9})


@pytest.mark.usefixtures("_eight")
@pytest.mark.parametrize(
    ("spec", "id_"),
    [("cpu", "cpu:0-6,9"), ("cpu:0-3", "cpu:0-3"), ("cpu:2,0", "cpu:0,2"), ("cpu:9", "cpu:9")],
)
def test_a_cpu_device_is_a_set_of_usable_cores(spec: str, id_: str) -> None:
    device = resolve_device(spec)
    assert device.id == id_
    assert device.kind == "cpu"
    assert device.name
    assert device.memory_mib
    assert f"cpu:{format_cores(device.cores)}" == id_


@pytest.mark.usefixtures("_eight")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cpu:7", "core 7"),
        ("cpu:0-9", "core 7"),
        ("cpu:", "no list of cores"),
        ("cpu:a", "no list of cores"),
        ("cpu:3-1", "no range"),
        ("cpu:0-99999999999", "not there"),
        ("gpu:0", "no device"),
        ("", "no device"),
        ("cuda:", "lacks the GPU"),
    ],
)
def test_what_is_no_device_is_refused(spec: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve_device(spec)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cores_survive_writing_and_reading(cores: set[int]) -> None:
    assert parse_cores(format_cores(sorted(cores))) == tuple(sorted(cores))


def test_the_client_gets_cores_of_its_own_where_there_are_any() -> None:
    device = Device(id="cpu:0-1", kind="cpu", name="x", cores=(0, 1))
    assert client_cores(device, (0, 1, 2, 3)) == ((2, 3), True)
    assert client_cores(device, (0, 1)) == ((0, 1), False)
    gpu = Device(id="cuda:GPU-1", kind="cuda", name="x")
    assert client_cores(gpu, (0, 1)) == ((0, 1), True)
    assert client_cores(gpu)[0] == usable_cores()


class FakeNvml(types.ModuleType):
    """As much of nvidia-ml-py as a device needs; one GPU."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.driver = driver
        self.open = 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index:
            raise self.NVMLError("Invalid Argument")
        return "handle"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "GPU-abc":
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return b"GPU-abc"

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "Test GPU"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(total=2**30)


@pytest.mark.parametrize("spec", ["cuda:0", "cuda:GPU-abc"])
def test_an_index_becomes_the_uuid(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert resolve_device(spec) == Device(
        id="cuda:GPU-abc", kind="cuda", name="Test GPU", memory_mib=1024
    )
    assert nvml.open == 0


def test_a_gpu_that_is_not_there_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with pytest.raises(BadInput, match="no GPU '3'"):
        resolve_device("cuda:3")
    assert nvml.open == 0


@pytest.mark.parametrize("nvml", [None, FakeNvml(driver=False)])
def test_without_a_driver_a_gpu_is_a_missing_capability(
    nvml: FakeNvml | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    with pytest.raises(MissingCapability):
        resolve_device("cuda:0")


def test_the_cpus_name_is_the_kernels_and_may_lack(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nmodel name\t: Another\n")
    assert cpu_model(path) == "A CPU @ 2 GHz"
    path.write_text("processor\t: 0\nBogoMIPS\t: 50\n")
    assert cpu_model(path) is None
    assert cpu_model(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("cpu:0-3", None),
        ("cuda:GPU-1", None),
        ("cpu:0-3@10.0.0.5", "10.0.0.5"),
        ("cpu:0@localhost", None),
        ("remote:triton.example:8000", "triton.example"),
        ("remote:https://triton.example", "triton.example"),
        ("remote:127.0.0.1:8000", None),
        ("remote:[::1]:8000", None),
        ("remote:[fd00::1", "[fd00::1"),
    ],
)
def test_a_device_elsewhere_names_its_host(name: str, host: str | None) -> None:
    assert Device(id=name, kind="cpu", name="any").elsewhere == host
