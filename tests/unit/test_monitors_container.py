from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.monitors import Counted, Scene, Seen
from igniter_prof.monitors.container import (
    COLUMNS,
    USAGE_DTYPE,
    ContainerMonitor,
    container,
    usage_in,
)
from igniter_prof.monitors.sampling import Sampler, rate_of
from igniter_prof.records import ContainerUsage, Device, Endpoint, Tenant, Usage

DEVICE = Device(id="cpu:0", kind="cpu", name="a CPU", cores=(0,))
S = 1_000_000_000


def series(seconds: list[float], **columns: list[float]) -> np.ndarray:
    rows = np.array([(0, *[np.nan] * len(COLUMNS))] * len(seconds), USAGE_DTYPE)
    rows["at_ns"] = [int(at * S) for at in seconds]
    for name, values in columns.items():
        rows[name] = values
    return rows


def test_counters_are_differences_between_the_edges() -> None:
    rows = series(
        [0.0, 1.0, 2.0, 3.0],
        cpu_s=[10.0, 10.5, 12.5, 13.0],
        periods=[0, 10, 20, 30],
        throttled_periods=[0, 1, 6, 6],
        read_bytes=[0, 0, 4096, 4096],
    )
    found = usage_in(rows, int(0.5 * S), int(2.5 * S), "cgroup v2")
    assert found == ContainerUsage(
        source="cgroup v2",
        samples=2,
        cpu_mean_cores=(12.75 - 10.25) / 2,
        cpu_peak_cores=2.0,
        interval_s=1.0,
        throttled_pct=100 * (6 - 0.5) / 20,
        read_bytes=4096,
    )


def test_a_peak_is_taken_over_a_tenth_of_a_second() -> None:
    at = [0.0, 0.1, 0.2, 0.25, 0.26, 0.36, 0.5]
    # 0.01 s in one core's full use beside nothing: not 1 core, but what it is over 0.1 s
    cpu = [0.0, 0.0, 0.0, 0.0, 0.01, 0.01, 0.01]
    found = usage_in(series(at, cpu_s=cpu), 0, S // 2, "engine API")
    assert found is not None
    assert found.cpu_peak_cores == pytest.approx(0.01 / 0.11)
    short = usage_in(series([0.0, 0.1, 0.2], cpu_s=[0.0, 0.1, 0.2]), 0, S // 20, "engine API")
    assert short is not None
    assert short.cpu_peak_cores is None
    assert short.cpu_mean_cores == pytest.approx(1.0)


def test_nanoseconds_since_boot_keep_their_precision() -> None:
    zero = 90 * 24 * 3600  # a float holds such instants to a microsecond only
    rows = series([zero, zero + 1.0], cpu_s=[5.0, 6.0])
    found = usage_in(rows, zero * S + 1, zero * S + 1_000_001, "cgroup v1")
    assert found is not None
    assert found.cpu_mean_cores == pytest.approx(1.0, rel=1e-9)


def test_the_kernels_peak_counts_if_it_was_reached_in_the_window() -> None:
    at = [0.0, 1.0, 2.0, 3.0]
    early = series(at, memory_peak_mib=[90, 90, 90, 90], memory_mib=[50, 55, 52, 50])
    found = usage_in(early, S // 2, 2 * S + 1, "cgroup v2")
    assert found is not None
    assert found.memory_peak_mib == 55
    late = series(at, memory_peak_mib=[60, 60, 90, 90], memory_mib=[50, 55, 52, 50])
    found = usage_in(late, S // 2, 2 * S + 1, "cgroup v2")
    assert found is not None
    assert found.memory_peak_mib == 90
    assert found.memory_working_peak_mib is None
    untold = series(at, memory_peak_mib=[90, 90, 90, 90])
    found = usage_in(untold, S // 2, 2 * S + 1, "cgroup v2")
    assert found is not None
    assert found.memory_peak_mib is None  # the peak of its start is not that of the window


def test_what_does_not_reach_around_the_window_is_none() -> None:
    rows = series([1.0, 2.0], cpu_s=[0.0, 1.0])
    assert usage_in(rows, 0, 2 * S, "cgroup v2") is None
    assert usage_in(rows, S, 3 * S, "cgroup v2") is None
    assert usage_in(rows[:1], S, S + 1, "cgroup v2") is None


def test_without_a_quota_there_is_no_throttling() -> None:
    rows = series([0.0, 1.0], cpu_s=[0.0, 1.0])
    found = usage_in(rows, 0, S, "cgroup v2")
    assert found is not None
    assert found.throttled_pct is None
    assert found.read_bytes is None


def watch(
    usage: Callable[[int], Usage | None], endpoints: tuple[Endpoint, ...], wait_s: float = 0.25
) -> Seen:
    scene = Scene(device=DEVICE, endpoints=endpoints, protocol="http", cores=(0,), usage=usage)
    with ContainerMonitor(50) as monitor:
        monitor.attach(scene)
        start_ns = time.monotonic_ns()
        time.sleep(wait_s)
        end_ns = time.monotonic_ns()
        return monitor.seen(Counted(start_ns, end_ns, (1,) * len(endpoints)))


def endpoint(address: str = "127.0.0.1:1", pid: int | None = 1) -> Endpoint:
    return Endpoint(tenant=Tenant(model="a"), model_name="a", http_address=address, pid=pid)


def test_a_cell_is_sampled_in_a_thread_of_its_own() -> None:
    threads = set()

    def usage(index: int) -> Usage:
        threads.add(threading.current_thread().name)
        return Usage(cpu_s=time.monotonic() * (index + 1), memory_mib=10.0)

    two = (endpoint(), endpoint("127.0.0.1:2", pid=None))
    seen = watch(usage, two)
    assert seen.complete
    assert seen.notes == ()
    first, second = (fields["container"] for fields in seen.tenants)
    assert first.cpu_mean_cores == pytest.approx(1.0, rel=0.02)
    assert second.cpu_mean_cores == pytest.approx(2.0, rel=0.02)
    assert first.source.startswith("cgroup v")
    assert second.source == "engine API"
    assert "igprof-container" in threads
    assert set(seen.traces) == {"container_0", "container_1"}
    assert len(seen.traces["container_0"]) >= first.samples
    assert not [one for one in threading.enumerate() if one.name == "igprof-container"]


def test_a_runtime_that_tells_nothing_is_a_note() -> None:
    seen = watch(lambda index: None, (endpoint(pid=None),))
    assert seen.tenants == ({},)
    assert seen.complete
    assert "tenant 1" in seen.notes[0]
    assert seen.traces == {}


def test_an_engine_that_goes_away_leaves_the_cell_marked() -> None:
    calls = []

    def usage(index: int) -> Usage:
        calls.append(index)
        if len(calls) > 3:
            raise OutsideFailure("the engine does not answer")
        return Usage(cpu_s=1.0)

    seen = watch(usage, (endpoint(),))
    assert not seen.complete
    assert seen.tenants == ({},)
    assert any("the engine does not answer" in note for note in seen.notes)


def test_tenants_of_one_server_are_told_of() -> None:
    seen = watch(lambda index: Usage(cpu_s=1.0), (endpoint(), endpoint()))
    assert any("share a server" in note for note in seen.notes)
    assert seen.complete


def test_its_argument_is_a_rate() -> None:
    assert container(DEVICE, None) is not None
    assert container(DEVICE, "20") is not None
    for wrong in ("fast", "0", "-1", "101", "nan", "inf"):
        with pytest.raises(BadInput, match="rate"):
            container(DEVICE, wrong)
    assert rate_of("0.5", 1, 1, "triton") == 0.5


def test_a_defect_while_sampling_ends_the_samples_only() -> None:
    looks = []

    def take() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise ZeroDivisionError("by nought")

    sampler = Sampler(take, 100)
    sampler.start("igprof-test")
    deadline = time.monotonic() + 5
    while sampler.trouble is None and time.monotonic() < deadline:
        time.sleep(0.01)
    sampler.look()
    sampler.stop()
    assert sampler.trouble == "ZeroDivisionError: by nought"
    assert len(looks) == 2
