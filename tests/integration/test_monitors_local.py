"""The monitors container and triton beside a real Triton in its control group."""

from __future__ import annotations

import time

import pytest

from igniter_prof.config.devices import resolve_device
from igniter_prof.records import Cell, Measurement, Stopping, Tenant
from igniter_prof.serving import ServeOptions
from igniter_prof.session import CellContext, run_cell
from igniter_prof.session.cell import MeasuredCell
from tests.integration.local_runtime import needs_local_runtime

pytestmark = needs_local_runtime

SHARE_PCT = 20.0


@pytest.fixture(scope="module")
def measured() -> MeasuredCell:
    device = resolve_device("cpu:0")
    stopping = Stopping(min_s=2.5, max_s=3.0, cooldown_s=0)
    tenant = Tenant(model="mlp", share_pct=SHARE_PCT)
    context = CellContext(
        device, ServeOptions(), stopping, monitors=("client", "container:20", "triton")
    )
    return run_cell(Cell(device=device.id, tenants=(tenant,)), context)


def window_s(measurement: Measurement) -> float:
    assert measurement.window_start_ns is not None
    assert measurement.window_end_ns is not None
    return (measurement.window_end_ns - measurement.window_start_ns) / 1e9


def test_all_monitors_saw_all(measured: MeasuredCell) -> None:
    assert [(each.name, each.complete, each.notes) for each in measured.measurement.monitors] == [
        ("client", True, ()),
        ("container", True, ()),
        ("triton", True, ()),
    ]


def test_cpu_is_within_the_quota_and_that_of_the_kernels_counters(measured: MeasuredCell) -> None:
    (tenant,) = measured.measurement.tenants
    used, counted = tenant.container, tenant.usage
    assert used is not None
    assert counted is not None
    assert counted.cpu_s is not None
    assert used.source.startswith("cgroup v")
    assert used.cpu_mean_cores is not None
    assert used.cpu_peak_cores is not None
    # the session reads the same counters a moment before and after the window
    assert used.cpu_mean_cores == pytest.approx(
        counted.cpu_s / window_s(measured.measurement), rel=0.1
    )
    assert used.cpu_mean_cores <= used.cpu_peak_cores * (1 + 1e-9)
    # a quota of a 10 ms period may be overdrawn by a period at both ends of an interval
    assert used.cpu_peak_cores <= 1.3 * SHARE_PCT / 100
    assert used.throttled_pct is not None
    assert 0 < used.throttled_pct <= 100
    assert used.memory_peak_mib is not None
    assert 10 < used.memory_peak_mib < 4096
    assert used.memory_working_peak_mib is not None
    assert used.memory_working_peak_mib <= used.memory_peak_mib


def test_triton_counts_the_clients_requests(measured: MeasuredCell) -> None:
    (tenant,) = measured.measurement.tenants
    told = tenant.metrics
    assert told is not None
    assert tenant.latency is not None
    assert told.requests_failed == 0
    assert told.requests_ok == pytest.approx(tenant.latency.count, rel=0.05)  # interpolated
    assert told.pending_peak is not None
    assert any(name.startswith("nv_inference_count{") for name in told.values)


def test_the_samples_lie_around_the_window(measured: MeasuredCell) -> None:
    measurement = measured.measurement
    for name in ("container_0", "triton_0"):
        at_ns = measured.traces[name]["at_ns"]
        assert (at_ns[1:] > at_ns[:-1]).all()
        assert at_ns[0] <= (measurement.window_start_ns or 0)
        assert at_ns[-1] >= (measurement.window_end_ns or 0)
    assert at_ns[-1] <= time.monotonic_ns()
