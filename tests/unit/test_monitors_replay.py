from __future__ import annotations

import contextlib
import csv
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof import monitors
from igniter_prof.dataset import cellfile
from igniter_prof.errors import BadInput
from igniter_prof.monitors import Counted, Scene, Seen
from igniter_prof.monitors.power import POWER_DTYPE, Trace, TraceInfo, analyse, recording
from igniter_prof.monitors.power.recording import Recording, read_recording, write_recording
from igniter_prof.monitors.power.trace import reason_shares
from igniter_prof.records import (
    REQUEST_DTYPE,
    Cell,
    Conditions,
    Device,
    DevicePower,
    Endpoint,
    Measurement,
    Stopping,
    Tenant,
    TenantMeasurement,
)
from igniter_prof.serving import ServeOptions
from igniter_prof.session import CellContext, run_cell
from igniter_prof.session import cell as cell_module
from tests.kserve import FakeDeployment, KServe, kserve
from tests.nvml_fakes import FakeGpu, FakeNvml, S, sampled

CPU = Device(id="cpu:0", kind="cpu", name="a CPU", cores=(0,))
INFO = TraceInfo(
    uuid="GPU-rec",
    name="H100",
    power_field="NVML_FI_DEV_POWER_INSTANT",
    part_time=True,
    bare_idle_w=60.0,
    context_idle_w=90.0,
)


def _wavy(seconds: float = 12.0) -> Trace:
    trace = sampled(lambda t: 250 + 60 * np.sin(3 * t), seconds=seconds)
    trace["sm_mhz"] = 1400 + np.arange(len(trace)) % 7
    trace["throttle"] = np.where(np.arange(len(trace)) % 4 == 0, 0x4, 0)
    return trace


def _window(start_ns: int, seconds: float, inferences: int = 1000) -> Counted:
    end_ns = start_ns + int(seconds * S)
    rows = np.zeros(inferences, REQUEST_DTYPE)
    edges = np.linspace(start_ns, end_ns, inferences + 1).astype(np.int64)
    rows["sent_ns"], rows["done_ns"] = edges[:-1], edges[1:]
    return Counted(start_ns, end_ns, (inferences,), (rows,))


def _played(path: Path, window: Counted) -> Seen:
    monitor = monitors.make(f"replay:{path}", CPU)
    assert monitor is not None
    with monitor:
        tenant = Tenant(model="a")
        monitor.attach(
            Scene(CPU, (Endpoint(tenant=tenant, model_name="n"),), "http", (), lambda index: None)
        )
        return monitor.seen(window)


def test_a_replayed_recording_says_the_same_as_live_and_where_it_is_from(tmp_path: Path) -> None:
    trace = _wavy()
    live = analyse(trace, INFO, _window(13 * S, 6.0), [Tenant(model="a")])
    # as the cell of a profile ...
    live_power: DevicePower = live.fields["power"]
    cell = Cell(device="cuda:GPU-rec", tenants=(Tenant(model="a"),))
    measurement = Measurement(
        cell_id=cell.cell_id,
        cell=cell,
        tenants=(TenantMeasurement(tenant=Tenant(model="a"), status="ok"),),
        conditions=Conditions(igprof="0", runtime="docker"),
        started_at="2026-01-01T00:00:00+00:00",
        anchor_monotonic_ns=0,
        anchor_wall_ns=0,
        window_start_ns=13 * S,
        window_end_ns=19 * S,
        duration_s=9,
        power=live_power,
    )
    stored = tmp_path / f"{cell.cell_id}.zip"
    empty = np.zeros(0, REQUEST_DTYPE)
    stored.write_bytes(cellfile.encode(measurement, [empty], {"nvml": trace}))
    # ... and as a file of its own, which begins where the window is to begin
    alone = tmp_path / "h100.npz"
    write_recording(alone, Recording(trace, INFO.model_copy(update={"window_start_ns": 13 * S})))
    for path in (stored, alone):
        seen = _played(path, _window(123_456_789 * S + 7, 6.0))
        source = f"replay:{path.name}"
        assert seen.fields["power"] == live_power.model_copy(update={"source": source})
        # nothing of it passes for a measurement
        assert set(seen.fields) == {"power"}
        assert seen.notes[0].startswith(f"recorded, not measured here: {path.name}")
        (tenant,) = seen.tenants
        assert tenant["energy"].method.startswith(source)
        assert tenant["energy"].energy_j == live.tenants[0]["energy"].energy_j
        assert set(seen.traces) == {"replay"}
        assert seen.complete
    assert set(live.fields) == {"power", "power_w", "energy_j"}
    assert live_power.per_inference_j == pytest.approx(live.fields["energy_j"] / 1000)
    assert live_power.throttle_reasons == {"sw_power_cap": pytest.approx(25, abs=1)}
    assert live_power.energy_error_j is not None
    assert 0 < live_power.energy_error_j < 0.2 * live.fields["energy_j"]


def test_a_recording_that_is_too_short_is_not_looped(tmp_path: Path) -> None:
    path = tmp_path / "short.npy"
    np.save(path, _wavy(4.0))
    seen = _played(path, _window(50 * S, 6.0))
    assert not seen.complete
    assert "ends before the window" in seen.notes[1]
    assert seen.fields["power"].energy_integral_j is None
    assert seen.tenants == ()


def test_a_short_window_or_few_inferences_give_no_energy_each() -> None:
    trace = _wavy()
    for window in (_window(12 * S, 4.0), _window(12 * S, 6.0, inferences=99)):
        seen = analyse(trace, INFO, window, [Tenant(model="a")])
        assert seen.fields["power"].per_inference_j is None
        assert seen.tenants[0]["energy"].per_inference_j is None
        assert "no energy per inference" in seen.notes[-1]


def test_power_that_was_not_read_throughout_gives_no_energy() -> None:
    trace = _wavy()
    trace["power_w"][200:300] = np.nan
    seen = analyse(trace, INFO, _window(12 * S, 6.0), [Tenant(model="a")])
    assert seen.complete  # the counter was
    assert seen.fields["power"].energy_integral_j is None
    assert seen.fields["power"].energy_differs is None
    trace["energy_j"] = 5.0  # a counter that stands still
    seen = analyse(trace, INFO, _window(12 * S, 6.0), [Tenant(model="a")])
    assert not seen.complete
    assert "no energy" in seen.notes[0]
    assert "energy_j" not in seen.fields
    assert seen.fields["power"].energy_counter_j is None


def test_nvidia_smi_csv(tmp_path: Path) -> None:
    path = tmp_path / "smi.csv"
    lines = [
        "timestamp, uuid, name, power.draw.instant [W], power.draw.average [W],"
        " clocks.current.sm [MHz], utilization.gpu [%], memory.used [MiB],"
        " clocks_event_reasons.active, pstate"
    ]
    lines += [
        f"2026/11/21 23:59:{59 + k // 50 if k < 50 else 0:02d}.{k % 50 * 20:03d}, GPU-smi, L4,"
        f" {70 + k % 3}.25 W, [N/A], 2040 MHz, 97 %, 1024 MiB, 0x0000000000000004, P0"
        for k in range(50)
    ]
    lines.append("2026/11/22 00:00:00.000, GPU-smi, L4, 70.25 W, [N/A], 2040 MHz, 97 %, 1 MiB,,P0")
    path.write_text("\n".join(lines) + "\n")
    trace, info = read_recording(path)
    assert len(trace) == 51
    assert (np.diff(trace["at_ns"]) == S // 50).all()
    assert trace["power_w"][1] == 71.25
    assert np.isnan(trace["power_average_w"]).all()
    assert np.isnan(trace["energy_j"]).all()
    assert trace["throttle"][0] == 4
    assert trace["throttle"][-1] == -1
    assert (info.uuid, info.name) == ("GPU-smi", "L4")
    assert info.power_field == "power.draw.instant of nvidia-smi"
    power = _played(path, _window(9 * S, 0.9)).fields["power"]
    assert power.source == "replay:smi.csv"
    assert power.energy_counter_j is None
    assert power.energy_integral_j == pytest.approx(71.2 * 0.9, rel=0.01)
    path.write_text(path.read_text() + lines[1].replace("GPU-smi", "GPU-two") + "\n")
    with pytest.raises(BadInput, match="several GPUs"):
        read_recording(path)


def test_our_own_csv(tmp_path: Path) -> None:
    path, trace = tmp_path / "ours.csv", _wavy(2.0)
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["at_s", "power_w", "energy_j"])
        writer.writerows([row["at_ns"] / S, row["power_w"], row["energy_j"]] for row in trace)
    read = read_recording(path).trace
    assert np.allclose(read["at_ns"], trace["at_ns"], atol=1000)
    assert (read["power_w"] == trace["power_w"]).all()
    assert (read["energy_j"] == trace["energy_j"]).all()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"x", "no recorded trace by its name"),
        ("shadow", b"root:x", "no recorded trace by its name"),
        ("a.npz", b"no zip", "damaged"),
        ("a.npy", b"\x93NUMPY\x01\x00", "damaged"),
        ("a.zip", b"PK", "damaged"),
        ("a.csv", b"", "empty"),
        ("a.csv", b"power.draw [W]\n1 W\n", "no time"),
        ("a.csv", b"timestamp, pstate\n2026/01/01 00:00:00.000, P0\n", "no column that is known"),
        ("a.csv", b"at_s,power_w\nsoon,5\n", "no time in 'at_s'"),
        ("a.csv", b"at_s,power_w\ninf,5\n", "no time in 'at_s'"),
        ("a.csv", b"at_s,power_w\n1,5\n", "too few samples"),
        ("a.csv", b"at_s,power_w\n2,5\n1,5\n", "do not rise"),
        ("a.csv", b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_what_is_no_recording_is_refused(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=says):
        monitors.make(f"replay:{path}", CPU)


def test_what_would_run_code_or_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{"at_ns": 1}], dtype=object), allow_pickle=True)
    large = tmp_path / "large.npz"
    with zipfile.ZipFile(large, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("trace.npy", bytes(2_000_000))
    columns = tmp_path / "columns.npy"
    np.save(columns, np.zeros(5, [("at_ns", "<i8"), ("power_w", "U5")]))
    times = tmp_path / "times.npy"
    np.save(times, np.full(5, np.nan, [("at_ns", "<f8")]))
    monkeypatch.setattr(recording, "LARGEST_BYTES", 1_000_000)
    for path, says in (
        (pickled, "damaged"),
        (large, "too large"),
        (columns, "column power_w"),
        (times, "column at_ns"),
    ):
        with pytest.raises(BadInput, match=says):
            read_recording(path)
    with pytest.raises(BadInput, match="no such file"):
        read_recording(tmp_path / "none.npz")
    with pytest.raises(BadInput, match="needs a recorded trace"):
        monitors.make("replay", CPU)


def test_a_cell_that_nvml_did_not_watch_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "cell.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("measurement.json", "{}")
        archive.writestr("traces/replay.npy", b"")
    with pytest.raises(BadInput, match="no trace of the monitor nvml"):
        read_recording(path)


def test_a_trace_can_be_recorded_without_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library = FakeNvml(FakeGpu(levels=[(time.monotonic() - 5, 200.0)]))
    monkeypatch.setattr(recording, "nvml_library", lambda: library)
    path = tmp_path / "trace.npz"
    assert recording.main(["--record", str(path), "--seconds", "0.4"]) == 0
    assert "samples of GPU-0" in capsys.readouterr().out
    trace, info = read_recording(path)
    assert info.power_field == "NVML_FI_DEV_POWER_INSTANT"
    assert np.nanmean(trace["power_w"]) == pytest.approx(200, rel=0.001)
    assert library.initialised == 0
    arguments = ["--record", str(path), "--seconds", "0.1", "--device", "GPU-none"]
    assert recording.main(arguments) == 3
    assert "no GPU GPU-none" in capsys.readouterr().err
    library.gpus["GPU-0"].lost = True
    assert recording.main(["--record", str(path), "--seconds", "0.1"]) == 4
    with pytest.raises(SystemExit):
        recording.main(["--record", "trace.txt"])


def test_bits_without_a_name_are_told_too() -> None:
    masks = np.array([0, 0x4, 0x4 | 0x20, 1 << 40, -1])
    assert reason_shares(masks) == {
        "sw_power_cap": 50.0,
        "sw_thermal_slowdown": 25.0,
        "bit_40": 25.0,
    }
    assert reason_shares(np.array([-1])) == {}


@pytest.fixture
def server() -> Iterator[KServe]:
    with kserve() as found:
        yield found


def test_a_cell_with_a_replayed_gpu(
    server: KServe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deploy(device: Device, tenants: Any, *, options: ServeOptions) -> Any:
        return contextlib.nullcontext(FakeDeployment([server], tenants))

    monkeypatch.setattr(cell_module, "deploy", deploy)
    path = tmp_path / "h100.npz"
    write_recording(path, Recording(_wavy(), INFO))
    context = CellContext(
        device=CPU,
        options=ServeOptions(),
        stopping=Stopping(
            precision_pct=50,
            max_drift_pct=1000,
            min_s=0.3,
            max_s=2,
            min_requests=10,
            warmup_requests=3,
            warmup_s=0.1,
            cooldown_s=0,
        ),
        monitors=("client", f"replay:{path}"),
    )
    cell = Cell(device="cpu:0", tenants=(Tenant(model="a"),))
    measurement, requests, traces = run_cell(cell, context)
    assert measurement.power is not None
    assert measurement.power.source == "replay:h100.npz"
    assert measurement.power.uuid == "GPU-rec"
    assert 190 < (measurement.power.power_mean_w or 0) < 310
    assert measurement.power_w is None
    assert measurement.energy_j is None
    (tenant,) = measurement.tenants
    assert tenant.status == "ok"
    assert tenant.energy is not None
    assert tenant.energy.method.startswith("replay:h100.npz: only tenant")
    client, replayed = measurement.monitors
    assert client.name == "client"
    assert replayed.name == "replay"
    assert replayed.complete
    assert replayed.notes[0].startswith("recorded, not measured here")
    assert traces["replay"].dtype == POWER_DTYPE
    stored = tmp_path / f"{cell.cell_id}.zip"
    stored.write_bytes(cellfile.encode(measurement, requests, traces))
    assert cellfile.read_measurement(stored) == measurement
    with pytest.raises(BadInput, match="no trace of the monitor nvml"):
        read_recording(stored)
