from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.checking import check_cell, check_drift, check_profile
from igniter_prof.records import Measurement, Tenant
from tests.dataset_samples import CONDITIONS, cell, sample, smuggle, write

PAIR = cell(Tenant(model="mlp", share_pct=50), Tenant(model="vgg19", share_pct=25, batch_size=4))


def test_a_sound_profile_has_no_findings(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [sample(), sample(PAIR, [5.0, 9.0], count=400)])
    assert check_profile(path) == []


def test_a_damaged_cell_is_found_and_the_others_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [sample(), sample(cell(repeat=1))])
    file = ProfileStore.open(path).cell_paths()[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    findings = check_profile(path)
    assert [(finding.level, finding.where) for finding in findings] == [("error", file.name)]
    assert "damaged" in findings[0].what


def test_mixed_conditions_and_foreign_files_are_found(tmp_path: Path) -> None:
    newer = CONDITIONS.model_copy(update={"driver": "2"})
    older = CONDITIONS.model_copy(update={"driver": "1"})
    path = write(tmp_path / "p", [sample(conditions=older)])
    smuggle(path, *sample(cell(repeat=1), conditions=newer))
    (path / "cells" / "notes.txt").write_text("hello")
    (path / "cells" / ".x.zip.1.tmp").write_text("half")
    findings = {finding.where: finding for finding in check_profile(path)}
    assert findings["all cells"].level == "error"
    assert "driver: 1, 2" in findings["all cells"].what
    assert findings["cells/notes.txt"].level == "warning"
    assert findings[".x.zip.1.tmp"].level == "warning"
    assert len(findings) == 3


def test_a_cell_of_another_device_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "p", [sample()])
    profile = (path / "profile.json").read_text().replace('"id": "cpu:0-1"', '"id": "cpu:7"')
    (path / "profile.json").write_text(profile)
    assert ["the profile is of cpu:7" in finding.what for finding in check_profile(path)] == [True]


def tenant_with(measurement: Measurement, **changes: Any) -> Measurement:
    tenant = measurement.tenants[0].model_copy(update=changes)
    return measurement.model_copy(update={"tenants": (tenant, *measurement.tenants[1:])})


def wrong_mean(m: Measurement, rows: list[np.ndarray]) -> Measurement:
    assert m.tenants[0].latency is not None
    latency = m.tenants[0].latency.model_copy(update={"mean_ms": 4.0})
    return tenant_with(m, latency=latency)


def wrong_percentile(m: Measurement, rows: list[np.ndarray]) -> Measurement:
    assert m.tenants[0].latency is not None
    return tenant_with(m, latency=m.tenants[0].latency.model_copy(update={"p50": None}))


def one_request_less(m: Measurement, rows: list[np.ndarray]) -> Measurement:
    rows[0]["ok"][10] = 0
    return m


def shifted_phase(m: Measurement, rows: list[np.ndarray]) -> Measurement:
    rows[0]["phase"][0] = 1
    return m


def ends_before_it_is_sent(m: Measurement, rows: list[np.ndarray]) -> Measurement:
    rows[0]["done_ns"][0] = rows[0]["sent_ns"][0] - 1
    return m


def sent_early(m: Measurement, rows: list[np.ndarray]) -> Measurement:
    rows[0]["intended_ns"][0] += 1
    return m


def odd_phase(m: Measurement, rows: list[np.ndarray]) -> Measurement:
    rows[0]["phase"][0] = 9
    return m


def odd_ok(m: Measurement, rows: list[np.ndarray]) -> Measurement:
    rows[0]["ok"][0] = 3
    return m


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (wrong_mean, "latency disagrees with the raw requests: mean_ms is 4, not"),
        (wrong_percentile, "p50 is none, not"),
        (one_request_less, "count is 100, not 99"),
        (one_request_less, "failed_requests is 0, the raw requests say 1"),
        (shifted_phase, "1 of 103 requests are not of the phase"),
        (ends_before_it_is_sent, "ended before it was sent"),
        (sent_early, "before its intended instant"),
        (odd_phase, "unknown phase"),
        (odd_ok, "neither good nor failed"),
        (lambda m, r: tenant_with(m, throughput_rps=1.0), "throughput_rps is 1"),
        (lambda m, r: tenant_with(m, latency=None), "is ok but has no latency"),
        (lambda m, r: tenant_with(m, stable=None), "no verdict"),
        (lambda m, r: tenant_with(m, status="oom"), "status oom and is called stable"),
        (lambda m, r: tenant_with(m, status="oom", stable=None), "no reason"),
        (lambda m, r: tenant_with(m, tenant=Tenant(model="vgg19")), "are not those of the cell"),
        (lambda m, r: m.model_copy(update={"window_end_ns": None}), "there is no counted window"),
        (
            lambda m, r: m.model_copy(update={"window_end_ns": m.window_start_ns}),
            "ends before it begins",
        ),
        (lambda m, r: m.model_copy(update={"window_start_ns": 1}), "begins before the cell"),
        (
            lambda m, r: m.model_copy(update={"window_end_ns": 10 * m.anchor_monotonic_ns}),
            "ends after the cell",
        ),
    ],
)
def test_each_kind_of_damage_is_named(
    change: Callable[[Measurement, list[np.ndarray]], Measurement], words: str
) -> None:
    measurement, requests = sample()
    assert check_cell(measurement, requests) == []
    findings = check_cell(change(measurement, requests), requests)
    assert any(words in finding.what for finding in findings), findings


def test_a_tenant_that_died_is_a_sound_result() -> None:
    measurement, requests = sample()
    changes = {"status": "oom", "detail": "killed", "stable": None, "latency": None}
    died = tenant_with(measurement, **changes, throughput_rps=None)
    assert check_cell(died, requests) == []


def test_an_imported_cell_needs_no_raw_requests() -> None:
    measurement, requests = sample()
    conditions = CONDITIONS.model_copy(update={"runtime": "import:acprof"})
    changes = {"conditions": conditions, "window_start_ns": None, "window_end_ns": None}
    imported = measurement.model_copy(update=changes)
    assert check_cell(imported, [requests[0][:0]]) == []
    assert check_cell(measurement, [requests[0][:0]]) != []


def test_drift_of_a_repeated_baseline_is_reported() -> None:
    steady = [sample(cell(repeat=k, baseline=True), 5.0, seed=k, start=k)[0] for k in range(3)]
    assert check_drift(steady) == []
    slower = sample(cell(repeat=3), 6.0, start=9)[0]
    (finding,) = check_drift([*steady, slower])
    assert finding.level == "warning"
    assert finding.where == "mlp b1 50%"
    assert "4 repeats alone differ by 2" in finding.what
