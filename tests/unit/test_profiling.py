from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.config import cells as cells_of
from igniter_prof.config import load_sweep
from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.checking import check_profile
from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.profiling import expected_s, preflight, profile
from igniter_prof.records import Cell, Device, HttpServer, Stopping, Tenant
from igniter_prof.serving import ServeOptions
from igniter_prof.session import CellContext, conditions_of
from tests.dataset_samples import CONDITIONS, DEVICE, measured, rows

SWEEP = load_sweep(
    None, {"models": ["a", "b"], "shares": (50.0, 100.0), "baseline_every": 0, "device": DEVICE.id}
)
CELLS = cells_of(SWEEP, DEVICE.id)
CONTEXT = CellContext(device=DEVICE, options=ServeOptions(), stopping=Stopping())


class Measure:
    """In the place of run_cell: synthetic measurements, and a note of what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.trap: Any = None
        self.conditions = CONDITIONS

    def __call__(self, cell: Cell, context: CellContext) -> Any:
        self.asked.append(cell.cell_id)
        if self.trap is not None:
            self.trap(len(self.asked))
        requests = [rows([5.0] * 20) for _ in cell.tenants]
        return measured(cell, requests, conditions=self.conditions), requests


def _profile(out: Path, measure: Measure, **changes: Any) -> Any:
    return profile(SWEEP, CELLS, CONTEXT, out, measure_cell=measure, **changes)


def test_every_cell_is_measured_once_and_stored_before_the_next(tmp_path: Path) -> None:
    measure = Measure()
    stored: list[int] = []
    measure.trap = lambda count: stored.append(len(list((tmp_path / "p" / "cells").glob("*.zip"))))
    outcome = _profile(tmp_path / "p", measure)
    assert measure.asked == [cell.cell_id for cell in CELLS]
    assert stored == [0, 1, 2, 3]
    assert (outcome.cells, outcome.measured, outcome.interrupted) == (4, 4, False)


def test_the_same_command_again_measures_only_what_is_missing(tmp_path: Path) -> None:
    first = Measure()

    def fail(count: int) -> None:
        if count == 3:
            raise OutsideFailure("the server's disk is gone")

    first.trap = fail
    with pytest.raises(OutsideFailure):
        _profile(tmp_path / "p", first)
    second = Measure()
    outcome = _profile(tmp_path / "p", second)
    assert second.asked == [cell.cell_id for cell in CELLS[2:]]
    assert outcome.measured == 2
    assert ProfileStore.open(tmp_path / "p").done_ids() == {cell.cell_id for cell in CELLS}


def test_cells_that_exceed_the_host_are_stored_with_the_reason(tmp_path: Path) -> None:
    measure = Measure()
    measure.conditions = conditions_of(None, DEVICE)
    skips = {CELLS[1].cell_id: "a wants 64 cores, there are 2"}
    outcome = _profile(tmp_path / "p", measure, skips=skips)
    assert CELLS[1].cell_id not in measure.asked
    assert (outcome.measured, outcome.skipped_cells, outcome.failed_tenants) == (4, 1, 0)
    stored = {m.cell_id: m for m in ProfileStore.open(tmp_path / "p").measurements()}
    tenant = stored[CELLS[1].cell_id].tenants[0]
    assert (tenant.status, tenant.detail) == ("skipped", "a wants 64 cores, there are 2")
    assert not [f for f in check_profile(tmp_path / "p") if f.level == "error"]
    again = _profile(tmp_path / "p", Measure(), skips=skips)
    assert again.measured == 0


def test_what_exceeds_the_host_is_known_before_the_sweep() -> None:
    device = Device(id="cpu:0-1", kind="cpu", name="a CPU", cores=(0, 1), memory_mib=4096)
    wanted = [
        Tenant(model="mlp", cpu_cores=2, memory_mib=1024),
        Tenant(model="mlp", cpu_cores=8),
        Tenant(model="mlp", memory_mib=16384),
        Tenant(model="mlp", gpu=True),
    ]
    cells = [Cell(device=device.id, tenants=(tenant,)) for tenant in wanted]
    skips = preflight(cells, device, ServeOptions())
    assert [skips.get(cell.cell_id) for cell in cells] == [
        None,
        "mlp wants 8 cores, there are 2",
        "the memory caps add up to 16384 MiB, there are 4096",
        "mlp wants a GPU, and cpu:0-1 is none",
    ]
    with pytest.raises(BadInput, match="every cell is more than this host has"):
        preflight(cells[1:], device, ServeOptions())


@pytest.mark.parametrize("at", ["sweep", "model"])
def test_an_address_with_a_password_is_refused_before_it_is_stored(at: str) -> None:
    address = "http://user:secret@triton:8000"
    options = ServeOptions(
        runtime="remote",
        address=address if at == "sweep" else "triton:8000",
        http={"a": HttpServer(address=address)} if at == "model" else {},
    )
    device = Device(id="remote:triton:8000", kind="cpu", name="not known")
    with pytest.raises(BadInput, match="credentials go into headers") as caught:
        preflight([Cell(device=device.id, tenants=(Tenant(model="a"),))], device, options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"body": "${no}"}, "model 'a', http, body"),
        ({"headers": {"Cookie": "hunter2"}}, "model 'a', http, headers"),
        ({"address": "host:port"}, "model 'a', http.address"),
        ({"address": "http://host/path"}, "model 'a', http.address"),
    ],
)
@pytest.mark.parametrize("runtime", ["remote", "docker"])
def test_an_http_server_is_checked_before_the_sweep(
    changes: dict[str, Any], where: str, runtime: str
) -> None:
    options = ServeOptions(
        runtime=runtime,
        address="triton:8000" if runtime == "remote" else None,
        http={"a": HttpServer.model_validate({"image": "an-image", **changes})},
    )
    device = Device(id="cpu:0", kind="cpu", name="a CPU", cores=(0,), memory_mib=4096)
    with pytest.raises(BadInput) as refusal:
        preflight([Cell(device=device.id, tenants=(Tenant(model="a"),))], device, options)
    assert str(refusal.value.where).startswith(where)
    assert "hunter2" not in str(refusal.value)


def test_the_first_interrupt_finishes_the_cell_in_flight(tmp_path: Path) -> None:
    measure = Measure()
    measure.trap = lambda count: os.kill(os.getpid(), signal.SIGINT) if count == 2 else None
    before = signal.getsignal(signal.SIGINT)
    outcome = _profile(tmp_path / "p", measure)
    assert outcome.interrupted
    assert outcome.measured == 2
    assert len(ProfileStore.open(tmp_path / "p").done_ids()) == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_during_the_last_cell_leaves_nothing_undone(tmp_path: Path) -> None:
    measure = Measure()
    measure.trap = lambda count: os.kill(os.getpid(), signal.SIGINT) if count == 4 else None
    outcome = _profile(tmp_path / "p", measure)
    assert (outcome.measured, outcome.interrupted) == (4, False)


def test_other_conditions_end_the_sweep_at_its_first_cell(tmp_path: Path) -> None:
    first = Measure()
    first.trap = lambda count: os.kill(os.getpid(), signal.SIGINT)
    _profile(tmp_path / "p", first)
    second = Measure()
    second.conditions = CONDITIONS.model_copy(update={"triton": "2.60"})
    with pytest.raises(BadInput, match="under different conditions: triton"):
        _profile(tmp_path / "p", second)
    assert len(second.asked) == 1
    assert len(ProfileStore.open(tmp_path / "p").done_ids()) == 1


def test_a_damaged_file_is_found_before_anything_is_measured(tmp_path: Path) -> None:
    first = Measure()
    first.trap = lambda count: os.kill(os.getpid(), signal.SIGINT)
    _profile(tmp_path / "p", first)
    (file,) = ProfileStore.open(tmp_path / "p").cell_paths()
    file.write_bytes(file.read_bytes()[:99])
    second = Measure()
    with pytest.raises(BadInput, match="damaged"):
        _profile(tmp_path / "p", second)
    assert second.asked == []


def test_another_set_of_cells_of_the_same_sweep_is_refused(tmp_path: Path) -> None:
    profile(SWEEP, CELLS[:2], CONTEXT, tmp_path / "p", measure_cell=Measure())
    measure = Measure()
    with pytest.raises(BadInput, match="another set of cells"):
        profile(SWEEP, CELLS[2:], CONTEXT, tmp_path / "p", measure_cell=measure)
    assert measure.asked == []


def test_progress_counts_the_planned_cells_only(tmp_path: Path) -> None:
    profile(SWEEP, CELLS[:2], CONTEXT, tmp_path / "p", measure_cell=Measure())
    path = tmp_path / "p" / "profile.json"
    older = json.loads(path.read_text())
    del older["cells_hash"]  # as an igprof wrote it that did not note its cells
    path.write_text(json.dumps(older))
    seen: list[tuple[int, int]] = []
    outcome = profile(
        SWEEP,
        CELLS[1:],
        CONTEXT,
        tmp_path / "p",
        measure_cell=Measure(),
        on_progress=lambda progress: seen.append((progress.done, progress.total)),
    )
    assert seen == [(2, 3), (3, 3)]
    assert (outcome.cells, len(outcome.measurements)) == (3, 3)


def test_progress_leaves_out_what_is_skipped(tmp_path: Path) -> None:
    measure = Measure()
    measure.conditions = conditions_of(None, DEVICE)
    skips = {cell.cell_id: "too large" for cell in CELLS[1:3]}
    left: list[int] = []
    _profile(
        tmp_path / "p",
        measure,
        skips=skips,
        on_progress=lambda progress: left.append(progress.left),
    )
    assert left == [1, 1, 1, 0]


def test_the_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    measure = Measure()

    def twice(count: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    measure.trap = twice
    with pytest.raises(KeyboardInterrupt):
        _profile(tmp_path / "p", measure)
    assert ProfileStore.open(tmp_path / "p").done_ids() == set()


def test_a_folder_with_another_sweep_is_refused(tmp_path: Path) -> None:
    _profile(tmp_path / "p", Measure())
    other = SWEEP.model_copy(update={"seed": 9})
    measure = Measure()
    with pytest.raises(BadInput, match="another sweep"):
        profile(other, CELLS, CONTEXT, tmp_path / "p", measure_cell=measure)
    assert measure.asked == []


def test_the_time_expected_grows_with_the_cells() -> None:
    low, high = expected_s(10, Stopping(min_s=1, max_s=30))
    assert 10 <= low < high
    assert expected_s(20, Stopping(min_s=1, max_s=30)) == (2 * low, 2 * high)
