"""igprof dataset check on what monitors left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.checking import check_profile, check_traces
from igniter_prof.records import MEASURED, Measurement, MonitorReport, NetworkTimes
from igniter_prof.statistics import summarise
from tests.dataset_samples import cell, manifest, sample, write

TRACE_DTYPE = np.dtype(
    [
        ("at_ns", "<i8"),
        ("request_end_ns", "<i8"),
        ("response_ns", "<i8"),
        ("response_end_ns", "<i8"),
        ("outcome", "u1"),
    ]
)


def sniffed() -> tuple[Measurement, list[np.ndarray], np.ndarray]:
    """A measurement with times by packets that agree with their trace."""
    measurement, requests = sample()
    rows = requests[0]
    trace = np.zeros(len(rows), TRACE_DTYPE)
    trace["at_ns"] = rows["sent_ns"] + 10_000
    trace["request_end_ns"] = trace["at_ns"] + 50_000
    trace["response_ns"] = rows["done_ns"] - 60_000
    trace["response_end_ns"] = rows["done_ns"] - 20_000
    inside = trace[rows["phase"] == MEASURED]
    network = NetworkTimes(
        interface="lo",
        requests=len(inside),
        paired=len(inside),
        unpaired=0,
        server=summarise((inside["response_ns"] - inside["request_end_ns"]) / 1e6),
        total=summarise((inside["response_end_ns"] - inside["at_ns"]) / 1e6),
    )
    # a request's first packet is on its way a little after it was sent
    changes = {"window_end_ns": (measurement.window_end_ns or 0) + 5_000}
    tenant = measurement.tenants[0].model_copy(update={"network": network})
    found = measurement.model_copy(update={**changes, "tenants": (tenant,)})
    return found, requests, trace


def test_what_agrees_is_no_finding() -> None:
    measurement, _, trace = sniffed()
    assert check_traces(measurement, {"sniffer_0": trace}) == []
    assert check_traces(measurement, {}) == []  # not stored
    assert check_traces(sample()[0], {"sniffer_0": trace}) == []


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (10, {"outcome": 1}, "paired is 100, not 99"),
        (10, {"response_ns": 0}, "server.count is 100, not 99"),
        (10, {"response_end_ns": 6_000_000_000_000}, "total.max_ms is"),
        (10, {"at_ns": 0}, "requests is 100, not 99"),
    ],
)
def test_what_disagrees_is_a_warning(place: int, change: dict[str, int], words: str) -> None:
    measurement, _, trace = sniffed()
    for name, value in change.items():
        trace[name][place] = value
    (finding,) = check_traces(measurement, {"sniffer_0": trace})
    assert finding.level == "warning"
    assert finding.where == f"{measurement.cell_id}.zip, tenant 1"
    assert words in finding.what


def test_a_trace_without_its_columns_is_a_warning() -> None:
    measurement, _, trace = sniffed()
    (finding,) = check_traces(measurement, {"sniffer_0": trace[["at_ns", "outcome"]]})
    assert "lacks columns" in finding.what
    (finding,) = check_traces(measurement, {"sniffer_0": np.zeros(3)})
    assert "lacks columns" in finding.what


def test_incomplete_monitors_are_warnings_alike_cells_together(tmp_path: Path) -> None:
    lost = MonitorReport(name="sniffer", complete=False, notes=("3 packets dropped",))
    silent = MonitorReport(name="nvml", complete=False)
    fine = MonitorReport(name="container", complete=True, notes=("the tenants share a server",))
    pairs = []
    for repeat, reports in enumerate([(lost, fine), (lost, silent), (fine,)]):
        measurement, requests = sample(cell(repeat=repeat))
        pairs.append((measurement.model_copy(update={"monitors": reports}), requests))
    findings = check_profile(write(tmp_path / "p", pairs))
    assert {finding.level for finding in findings} == {"warning"}
    assert sorted(finding.what for finding in findings) == [
        "the monitor nvml did not see all: it gave no reason",
        "the monitor sniffer did not see all: 3 packets dropped",
    ]
    (sniffer,) = [finding for finding in findings if "sniffer" in finding.what]
    assert sniffer.where.endswith(".zip and 1 more cells")


def test_a_trace_in_a_profile_is_compared(tmp_path: Path) -> None:
    measurement, requests, trace = sniffed()
    trace["outcome"][10] = 2
    with ProfileStore.create(tmp_path / "p", manifest()) as store:
        store.append(measurement, requests, {"sniffer_0": trace})
    findings = check_profile(tmp_path / "p")
    assert any("network disagrees" in finding.what for finding in findings), findings


def test_the_sniffers_own_trace_has_these_columns() -> None:
    from igniter_prof.capture.exchanges import PAIRED as OF_SNIFFER
    from igniter_prof.dataset.monitored import PAIRED
    from igniter_prof.monitors.sniffer import TRACE_DTYPE as OF_TRACE

    assert PAIRED == OF_SNIFFER
    assert set(TRACE_DTYPE.names or ()) <= set(OF_TRACE.names or ())
