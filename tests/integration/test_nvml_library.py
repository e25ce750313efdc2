"""The real nvidia-ml-py above a made-up driver library: structures, units, missing functions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from igniter_prof.monitors.power.recording import Recording, read_recording

SOURCE = Path(__file__).with_name("fake_nvml.c")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make the library with")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True)
    return folder


def _run(driver: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


def _recorded(driver: Path, path: Path, device: str) -> Recording:
    record = ("-m", "igniter_prof.monitors.nvml", "--record", str(path), "--device", device)
    done = _run(driver, *record, "--seconds", "1.5")
    assert done.returncode == 0, done.stderr
    return read_recording(path)


def test_a_board_is_recorded_in_its_units(driver: Path, tmp_path: Path) -> None:
    trace, info = _recorded(driver, tmp_path / "board.npz", "0")
    assert (info.uuid, info.name, info.scope) == ("GPU-c", "Fake A100", "gpu")
    assert info.power_field == "NVML_FI_DEV_POWER_INSTANT"
    assert info.part_time is True
    assert np.allclose(trace["power_w"], 250, atol=0.002)
    assert np.isnan(trace["power_average_w"]).all()
    assert trace["energy_j"][0] > 5_000_000  # millijoules do not fit into 32 bits
    spent_w = np.ptp(trace["energy_j"]) / (np.ptp(trace["at_ns"]) / 1e9)
    assert spent_w == pytest.approx(250, rel=0.2)
    seen = {name: set(trace[name].tolist()) for name in trace.dtype.names or ()}
    assert seen["sm_mhz"] == {1410}
    assert seen["memory_mhz"] == {1593}
    assert seen["temperature_c"] == {61}
    assert seen["utilisation_pct"] == {97}
    assert seen["memory_utilisation_pct"] == {40}
    assert seen["memory_mib"] == {512}
    assert seen["power_limit_w"] == {400}
    assert seen["throttle"] == {4}  # by the older function: the newer one is not in the library


def test_a_slice_is_recorded_with_its_card(driver: Path, tmp_path: Path) -> None:
    trace, info = _recorded(driver, tmp_path / "slice.npz", "MIG-c")
    assert (info.uuid, info.scope) == ("MIG-c", "mig-parent")
    assert np.allclose(trace["power_w"], 250, atol=0.002)
    assert set(trace["memory_mib"].tolist()) == {128}
    assert np.isnan(trace["utilisation_pct"]).all()


def test_the_monitor_is_made_from_a_device_by_index(driver: Path) -> None:
    code = (
        "from igniter_prof import monitors\n"
        "from igniter_prof.config.devices import resolve_device\n"
        "device = resolve_device('cuda:0')\n"
        "assert device.id == 'cuda:GPU-c', device\n"
        "assert monitors.check(['nvml:20'], device) == {}\n"
        "lost = device.model_copy(update={'id': 'cuda:GPU-x'})\n"
        "print(monitors.check(['nvml'], lost)['nvml'])\n"
    )
    done = _run(driver, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "there is no GPU GPU-x here" in done.stdout
