from __future__ import annotations

import contextlib
import math
import re
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pynvml
import pytest

from igniter_prof import monitors
from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.monitors import Counted, Scene, Seen
from igniter_prof.monitors import nvml as nvml_module
from igniter_prof.monitors.nvml import BareIdle, NvmlMonitor
from igniter_prof.monitors.power import card
from igniter_prof.monitors.power.buffer import CHUNK, Buffer
from igniter_prof.monitors.power.card import Card
from igniter_prof.monitors.power.trace import POWER_DTYPE, REASONS
from igniter_prof.records import (
    MEASURED,
    REQUEST_DTYPE,
    Cell,
    Device,
    DevicePower,
    Endpoint,
    Stopping,
    Tenant,
)
from igniter_prof.serving import ServeOptions
from igniter_prof.session import CellContext, run_cell
from igniter_prof.session import cell as cell_module
from tests.kserve import FakeDeployment, kserve
from tests.nvml_fakes import ALL_FIELDS, FakeGpu, FakeNvml, S

H100 = FakeGpu(uuid="GPU-h100", name="H100", capability=(9, 0))
A100 = FakeGpu(
    uuid="GPU-a100",
    capability=(8, 0),
    fields=ALL_FIELDS - {pynvml.NVML_FI_DEV_POWER_AVERAGE},
    period_s=0.1,
)
RTX = FakeGpu(  # an older driver: no power fields, and what there is averages
    uuid="GPU-rtx",
    capability=(8, 6),
    fields=frozenset({pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION}),
)
PASCAL = FakeGpu(
    uuid="GPU-pascal",
    capability=(6, 1),
    fields=frozenset(),
    unsupported=frozenset({"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues"}),
)


WINDOW_S = 0.5
ENERGY = pytest.approx(300 * WINDOW_S, rel=0.15)
"""Of the window. Samples are taken in real time here, on a machine that may be busy; the
arithmetic itself is tested in tests/property."""


def _fresh(gpu: FakeGpu, **changes: Any) -> FakeGpu:
    return replace(gpu, levels=[(time.monotonic() - 5, 80.0)], **changes)


def _scene(*tenants: Tenant) -> Scene:
    return Scene(
        device=Device(id="cuda:GPU-h100", kind="cuda", name="H100"),
        endpoints=tuple(Endpoint(tenant=tenant, model_name="net") for tenant in tenants),
        protocol="http",
        cores=(),
        usage=lambda index: None,
    )


def _watch(
    gpu: FakeGpu,
    library: FakeNvml | None = None,
    *,
    uuid: str | None = None,
    seconds: float = WINDOW_S,
    tenants: tuple[Tenant, ...] = (Tenant(model="a"),),
    load_w: float = 300.0,
    known_idle: dict[str, BareIdle] | None = None,
    lost_after_s: float | None = None,
    rate_hz: float = 50.0,
) -> tuple[Seen, DevicePower]:
    library = library or FakeNvml(gpu)
    monitor = NvmlMonitor(
        library,
        uuid or gpu.uuid,
        rate_hz,
        {} if known_idle is None else known_idle,
        bare_idle_s=0.1,
        context_idle_s=0.1,
    )
    with monitor:
        gpu.set_power(110.0)  # contexts
        time.sleep(0.06)
        monitor.attach(_scene(*tenants))
        gpu.set_power(load_w)
        time.sleep(0.2)
        start_ns = time.monotonic_ns()
        if lost_after_s is not None:
            time.sleep(lost_after_s)
            gpu.lost = True
        end_ns = start_ns + int(seconds * S)
        while time.monotonic_ns() < end_ns:
            time.sleep(0.02)
        rows = []
        for k, _ in enumerate(tenants):
            requests = np.zeros(200, REQUEST_DTYPE)
            # the second tenant is busy a third of the time, the first all of it
            sent = start_ns + np.linspace(0, (end_ns - start_ns) / (1 + 2 * k), 201).astype(int)
            requests["sent_ns"], requests["done_ns"] = sent[:-1], sent[1:]
            requests["phase"], requests["ok"] = MEASURED, 1
            rows.append(requests)
        seen = monitor.seen(Counted(start_ns, end_ns, (200,) * len(tenants), tuple(rows)))
    assert library.initialised == 0
    return seen, seen.fields["power"]


def test_a_board_with_everything() -> None:
    gpu = _fresh(H100, throttle=pynvml.nvmlClocksEventReasonSwPowerCap)
    seen, power = _watch(gpu)
    assert seen.complete
    assert power.uuid == "GPU-h100"
    assert power.name == "H100"
    assert power.scope == "gpu"
    assert power.source == "nvml"
    assert power.power_field == "NVML_FI_DEV_POWER_INSTANT"
    assert power.energy_counter_j == ENERGY
    assert power.energy_integral_j == ENERGY
    assert power.energy_differs is False
    assert seen.fields["energy_j"] == power.energy_counter_j
    assert seen.fields["power_w"] == pytest.approx(300, rel=0.15)
    assert power.power_peak_w == pytest.approx(300, rel=1e-3)
    assert power.power_average_mean_w == pytest.approx(300, rel=1e-3)
    assert power.power_limit_w == 400
    assert power.bare_idle_w == pytest.approx(80, rel=0.05)
    assert power.context_idle_w == pytest.approx(110, rel=0.05)
    assert power.counter_period_ms == pytest.approx(50, rel=0.4)
    assert power.sm_clock_mean_mhz == 1410
    assert power.memory_clock_mean_mhz == 1593
    assert power.temperature_peak_c == 61
    assert power.utilisation_mean_pct == 97
    assert power.memory_utilisation_mean_pct == 40
    assert power.memory_peak_mib == 512
    assert power.throttle_reasons == {"sw_power_cap": 100.0}
    assert power.part_time_sensor is True
    assert power.per_inference_j is None  # the window is too short
    notes = " ".join(seen.notes)
    assert "5 s" in notes
    assert "sw_power_cap in 100 %" in notes
    assert "quarter of the time" in notes
    (tenant,) = seen.tenants
    assert tenant["energy"].energy_j == seen.fields["energy_j"]
    assert tenant["energy"].method.startswith("only tenant")
    trace = seen.traces["nvml"]
    assert trace.dtype == POWER_DTYPE
    assert (np.diff(trace["at_ns"]) > 0).all()
    assert power.interval_ms is not None
    assert power.interval_ms <= 50


def test_two_tenants_share_the_energy() -> None:
    tenants = (Tenant(model="a", share_pct=50), Tenant(model="b", share_pct=25))
    seen, power = _watch(_fresh(H100), tenants=tenants)
    first, second = (fields["energy"] for fields in seen.tenants)
    assert first.energy_j + second.energy_j == pytest.approx(seen.fields["energy_j"], rel=1e-12)
    assert power.context_idle_w is not None
    idle_j = power.context_idle_w * WINDOW_S
    # busy all and a third of the time, with shares of 50 and 25: 6 to 1
    active_j = seen.fields["energy_j"] - idle_j
    assert first.energy_j == pytest.approx(idle_j / 2 + active_j * 6 / 7, rel=1e-3)
    assert first.method == second.method
    assert first.method == (
        "estimate: idle power with contexts evenly, the rest by busy time x share"
    )


def test_a_tenant_without_the_gpu_is_given_none_of_its_energy() -> None:
    tenants = (Tenant(model="a", gpu=False), Tenant(model="b"))
    seen, _ = _watch(_fresh(H100), tenants=tenants)
    first, second = seen.tenants
    assert first == {}
    assert second["energy"].energy_j == seen.fields["energy_j"]
    assert second["energy"].method == "only tenant: all of the device's energy"
    alone, power = _watch(_fresh(H100), tenants=tenants[:1], seconds=5.1)
    assert alone.tenants == ()
    assert power.per_inference_j is None
    assert "0 inferences" in alone.notes[-1]


def test_before_volta_there_is_no_counter_and_it_is_asked_once() -> None:
    gpu = _fresh(PASCAL)
    library = FakeNvml(gpu)
    _, power = _watch(gpu, library)
    assert power.energy_counter_j is None
    assert power.energy_differs is None
    assert power.counter_period_ms is None
    assert power.energy_integral_j == ENERGY
    assert power.power_field == "nvmlDeviceGetPowerUsage (instant on this architecture)"
    assert power.power_average_mean_w is None
    assert library.asked["nvmlDeviceGetTotalEnergyConsumption"] == 1
    assert library.asked["nvmlDeviceGetFieldValues"] == 1
    assert library.asked["nvmlDeviceGetPowerUsage"] > 20


def test_an_instant_power_is_taken_where_the_average_is_not_told() -> None:
    seen, power = _watch(_fresh(A100))
    assert power.power_average_mean_w is None
    assert power.part_time_sensor is True
    assert power.power_period_ms == pytest.approx(100, rel=0.4)
    assert "the integral" not in " ".join(seen.notes)


def test_the_power_that_lags_is_named() -> None:
    _, power = _watch(_fresh(RTX))
    assert power.power_field == "nvmlDeviceGetPowerUsage (1 s average on this architecture)"
    assert power.energy_counter_j is not None  # from the field
    assert power.part_time_sensor is None


def test_an_idle_power_is_not_that_of_the_second_before() -> None:
    gpu = _fresh(RTX)
    known = {gpu.uuid: BareIdle(80.0, time.monotonic_ns())}
    monitor = NvmlMonitor(FakeNvml(gpu), gpu.uuid, 50.0, known, context_idle_s=0.2)
    with monitor:
        # what loading the model took, and until when a reading that averages shows it
        gpu.set_power(300.0)
        gpu.levels.append((time.monotonic() + 0.9, 110.0))
        time.sleep(0.1)
        start_ns = time.monotonic_ns()
        monitor.attach(_scene(Tenant(model="a")))
        seen = monitor.seen(Counted(start_ns, time.monotonic_ns(), (1,)))
    assert seen.fields["power"].context_idle_w == pytest.approx(110, rel=1e-3)


def test_servers_that_go_on_are_not_waited_for_again() -> None:
    gpu = _fresh(H100, uuid="GPU-kept")
    known = {gpu.uuid: BareIdle(80.0, time.monotonic_ns())}

    def idle_w(pid: int | None, power_w: float) -> float | None:
        gpu.set_power(power_w)
        time.sleep(0.15)  # for the reading's next update
        with NvmlMonitor(FakeNvml(gpu), gpu.uuid, 50.0, known, context_idle_s=0.3) as monitor:
            start_ns = time.monotonic_ns()
            scene = _scene(Tenant(model="a"))
            (endpoint,) = scene.endpoints
            served = endpoint.model_copy(update={"pid": pid})
            monitor.attach(replace(scene, endpoints=(served,)))
            time.sleep(0.1)
            power = monitor.seen(Counted(start_ns, time.monotonic_ns(), (1,))).fields["power"]
        told: float | None = power.context_idle_w
        return told

    for pid, power_w, told_w in ((7, 110, 110), (7, 200, 110), (8, 90, 90), (None, 70, 70)):
        assert idle_w(pid, power_w) == pytest.approx(told_w, rel=0.05)
    assert idle_w(None, 120) == pytest.approx(120, rel=0.05)  # whose they are is not known


def test_a_slice_tells_of_its_card_and_is_given_no_energy() -> None:
    gpu = _fresh(A100, slices=("MIG-1", "MIG-2"), name="A100 with slices")
    seen, power = _watch(gpu, uuid="MIG-2")
    assert power.uuid == "MIG-2"
    assert power.scope == "mig-parent"
    assert power.name == "A100 with slices"
    assert power.energy_counter_j == ENERGY  # of the card, and said so
    assert power.memory_peak_mib == 128  # of the slice
    assert power.utilisation_mean_pct is None
    assert set(seen.fields) == {"power"}
    assert seen.tenants == ()
    assert "whole card" in seen.notes[-1]


def test_a_gpu_that_is_lost_on_the_way_is_a_note() -> None:
    seen, power = _watch(_fresh(H100), lost_after_s=0.1)
    assert not seen.complete
    assert "GPU is lost" in seen.notes[0]
    assert "energy_j" not in seen.fields
    assert power.energy_counter_j is None
    assert power.energy_integral_j is None
    assert len(seen.traces["nvml"]) > 10


def test_what_is_not_supported_is_missing_and_not_zero() -> None:
    gpu = _fresh(
        H100,
        unsupported=frozenset(
            {
                "nvmlDeviceGetUtilizationRates",
                "nvmlDeviceGetCurrentClocksThrottleReasons",
                "nvmlDeviceGetTemperature",
                "nvmlDeviceGetMemoryInfo",
                "nvmlDeviceGetEnforcedPowerLimit",
                "nvmlDeviceGetClockInfo",
            }
        ),
    )
    library = FakeNvml(gpu)
    _, power = _watch(gpu, library)
    missing = (
        "utilisation_mean_pct",
        "memory_utilisation_mean_pct",
        "temperature_mean_c",
        "memory_mean_mib",
        "power_limit_w",
        "sm_clock_mean_mhz",
        "memory_clock_mean_mhz",
    )
    assert [getattr(power, name) for name in missing] == [None] * len(missing)
    assert power.throttle_reasons == {}
    assert library.asked["nvmlDeviceGetTemperature"] == 1


def test_bare_idle_power_is_measured_once_and_never_beside_others() -> None:
    known: dict[str, BareIdle] = {}
    gpu = _fresh(H100)
    _watch(gpu, seconds=0.1, known_idle=known)
    assert known["GPU-h100"].power_w == pytest.approx(80, rel=0.05)
    gpu.set_power(200.0)
    _, power = _watch(gpu, seconds=0.1, known_idle=known)
    assert power.bare_idle_w == known["GPU-h100"].power_w
    known["GPU-h100"] = BareIdle(81.0, time.monotonic_ns() - 1200 * S)
    seen, _ = _watch(gpu, seconds=0.1, known_idle=known)
    assert "20 min before" in " ".join(seen.notes)
    busy = _fresh(H100, processes=2)
    seen, power = _watch(busy, seconds=0.1)
    assert power.bare_idle_w is None
    assert "2 processes hold the card" in " ".join(seen.notes)


def test_a_slow_driver_is_asked_less_often_and_it_is_said() -> None:
    gpu = _fresh(H100, delay_s=0.004)  # eight calls a sample
    seen, power = _watch(gpu)
    assert power.interval_ms is not None
    assert power.interval_ms > 40
    assert "the driver answers slowly" in " ".join(seen.notes)
    assert seen.complete


def test_energies_that_differ_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = _fresh(H100)
    honest = FakeGpu.energy_mj
    monkeypatch.setattr(FakeGpu, "energy_mj", lambda self: honest(self) // 2)
    seen, power = _watch(gpu)
    assert power.energy_differs is True
    # a busy machine moves the samples, so not exactly half
    assert re.search(r"the energies differ by (4[5-9]|5[0-5]) %", " ".join(seen.notes))


def test_the_factory_says_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Device(id="cpu:0", kind="cpu", name="a CPU", cores=(0,))
    with pytest.raises(MissingCapability, match="needs a GPU"):
        monitors.make("nvml", cpu)
    gpu = Device(id="cuda:GPU-h100", kind="cuda", name="H100")
    for argument in ("5", "1e9", "nan", "fast"):
        with pytest.raises(BadInput, match="20 to 200"):
            monitors.make(f"nvml:{argument}", gpu)
    library = FakeNvml(_fresh(H100))
    monkeypatch.setattr(nvml_module, "nvml_library", lambda: library)
    assert isinstance(monitors.make("nvml:25", gpu), NvmlMonitor)
    other = gpu.model_copy(update={"id": "cuda:GPU-other"})
    assert "no GPU GPU-other" in monitors.check(["nvml"], other)["nvml"]
    assert library.initialised == 0
    library.gpus["GPU-h100"].lost = True
    assert "lost" in monitors.check(["nvml"], gpu)["nvml"]
    mute = _fresh(
        H100,
        fields=frozenset(),
        unsupported=frozenset({"nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption"}),
    )
    monkeypatch.setattr(nvml_module, "nvml_library", lambda: FakeNvml(mute))
    assert "neither power nor energy" in monitors.check(["nvml"], gpu)["nvml"]


def test_a_slice_whose_card_is_not_told_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoParent(FakeNvml):
        def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any) -> Any:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)

    uuid = "MIG-1"
    library = NoParent(_fresh(H100, slices=(uuid,)))
    monkeypatch.setattr(nvml_module, "nvml_library", lambda: library)
    lacking = monitors.check(["nvml"], Device(id=f"cuda:{uuid}", kind="cuda", name="a slice"))
    assert "no GPU MIG-1" in lacking["nvml"]
    assert library.initialised == 0


def test_without_a_driver_it_says_so() -> None:
    class NoDriver(FakeNvml):
        def nvmlInit(self) -> None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    with (
        pytest.raises(MissingCapability, match="no NVIDIA driver answers"),
        NvmlMonitor(NoDriver(), "GPU-0"),
    ):
        pass


def test_milliwatts_and_millijoules_become_watts_and_joules() -> None:
    gpu = FakeGpu(levels=[(time.monotonic() - 100, 250.0)])
    row = np.array([Card(FakeNvml(gpu), "0").read()], POWER_DTYPE)[0]
    assert row["power_w"] == pytest.approx(250, abs=0.01)
    assert row["energy_j"] == pytest.approx(25_000, rel=0.01)
    assert row["power_limit_w"] == 400
    assert row["memory_mib"] == 512


def test_a_value_that_fails_now_is_missing_now() -> None:
    gpu = FakeGpu()
    library = FakeNvml(gpu)
    card = Card(library, "GPU-0")
    gpu.unsupported = frozenset({"nvmlDeviceGetTemperature"})
    row = np.array([card.read()], POWER_DTYPE)[0]
    assert math.isnan(row["temperature_c"])
    assert row["power_w"] > 0


def test_what_is_asked_exists_in_the_library() -> None:
    names = [
        *card.LOST,
        *card.VALUE_TYPES,
        *(name for name, _ in card.FIELDS.values()),
        *(name for call in card.CALLS for name in (call.function, *call.constants)),
        "nvmlDeviceGetHandleByIndex",
        "nvmlDeviceGetHandleByUUID",
        "nvmlDeviceIsMigDeviceHandle",
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetName",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetFieldValues",
    ]
    assert [name for name in names if not hasattr(pynvml, name)] == []
    members = {name for name, _ in pynvml.c_nvmlValue_t._fields_}
    assert set(card.VALUE_TYPES.values()) <= members
    for bit, reason in REASONS.items():
        constants = [
            getattr(pynvml, f"{prefix}{reason.title().replace('_', '')}", None)
            for prefix in ("nvmlClocksEventReason", "nvmlClocksThrottleReason")
        ]
        assert bit in constants, reason


def test_the_buffer_keeps_all_rows_in_order() -> None:
    buffer = Buffer()
    assert buffer.last_ns == 0
    count = 2 * CHUNK + 3
    for at_ns in range(1, count + 1):
        buffer.append((at_ns, *[0.0] * (len(POWER_DTYPE) - 1)))
    assert buffer.last_ns == count
    assert (buffer.trace()["at_ns"] == np.arange(1, count + 1)).all()


def test_a_cell_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = _fresh(H100)
    library = FakeNvml(gpu)
    monkeypatch.setattr(nvml_module, "nvml_library", lambda: library)
    monkeypatch.setattr(nvml_module, "_BARE_IDLE", {})
    with kserve() as server:

        def deploy(device: Device, tenants: Any, *, options: ServeOptions) -> Any:
            gpu.set_power(110.0)
            server.service_s = lambda: gpu.set_power(300.0) or 0.004
            return contextlib.nullcontext(FakeDeployment([server], tenants))

        monkeypatch.setattr(cell_module, "deploy", deploy)
        context = CellContext(
            device=Device(id="cuda:GPU-h100", kind="cuda", name="H100"),
            options=ServeOptions(),
            stopping=Stopping(
                precision_pct=50, max_drift_pct=1000, min_s=0.5, max_s=2, cooldown_s=0
            ),
            monitors=("client", "nvml:100"),
        )
        cell = Cell(device="cuda:GPU-h100", tenants=(Tenant(model="a"),))
        measurement, _, traces = run_cell(cell, context)
    power = measurement.power
    assert power is not None
    assert power.bare_idle_w == pytest.approx(80, rel=0.05)
    assert power.context_idle_w == pytest.approx(110, rel=0.05)
    assert measurement.power_w == pytest.approx(300, rel=0.2)
    assert measurement.energy_j == power.energy_counter_j
    assert measurement.tenants[0].energy is not None
    assert measurement.tenants[0].energy.energy_j == measurement.energy_j
    assert [report.complete for report in measurement.monitors] == [True, True]
    assert len(traces["nvml"]) > 100
    assert library.initialised == 0
