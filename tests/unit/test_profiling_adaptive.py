"""Adaptive sweeps through the runner, on synthetic cells with known equations."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof.config import cells as cells_of
from igniter_prof.config import load_sweep
from igniter_prof.dataset import ProfileStore
from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.fitting import latency_models
from igniter_prof.fitting.suggest import Proposer
from igniter_prof.profiling import Progress, profile
from igniter_prof.profiling.adaptive import (
    STATE,
    AdaptiveOutcome,
    RoundProgress,
    profile_adaptively,
    start_cells,
)
from igniter_prof.records import Cell, Stopping, Tenant
from igniter_prof.serving import ServeOptions
from igniter_prof.session import CellContext
from tests.dataset_samples import DEVICE, align, measured, rows
from tests.gaussian_process import ProcessModel

CONTEXT = CellContext(device=DEVICE, options=ServeOptions(), stopping=Stopping())
NAMES = ("a", "b", "c", "d", "e", "f")
WORK_MS = dict(zip(NAMES, (1.0, 2.0, 3.0, 5.0, 8.0, 12.0), strict=True))
FEELS = dict(zip(NAMES, (0.5, 0.1, 0.3, 0.2, 0.4, 0.6), strict=True))
PRESSES = dict(zip(NAMES, (0.3, 0.9, 0.5, 1.0, 0.7, 0.2), strict=True))


def truth(tenants: Sequence[Tenant]) -> list[float]:
    """Latency alone, and a slowdown by the pressure of all neighbours."""
    pressure = [PRESSES[t.model] * (t.share_pct or 100) / 100 * t.batch_size**0.3 for t in tenants]
    return [
        (1 + WORK_MS[t.model] * t.batch_size / ((t.share_pct or 100) / 100 + 0.1))
        * (1 + FEELS[t.model] * (sum(pressure) - own))
        for t, own in zip(tenants, pressure, strict=True)
    ]


class Measure:
    """In the place of run_cell: the truth with 0.5% of noise, and a note of what was asked."""

    def __init__(self, seed: int = 0) -> None:
        self.asked: list[Cell] = []
        self.fails: Any = lambda cell: False
        self.trap: Any = lambda count: None
        self._rng = np.random.default_rng(seed)

    def __call__(self, cell: Cell, context: CellContext) -> Any:
        self.asked.append(cell)
        self.trap(len(self.asked))
        values = [v * np.exp(0.005 * self._rng.standard_normal()) for v in truth(cell.tenants)]
        # every tenant is loaded for as long as the slowest
        requests = align([rows([v] * int(1 + 20 * max(values) / v)) for v in values])
        found = measured(cell, requests, start=len(self.asked))
        if self.fails(cell):
            ended = [t.model_copy(update={"status": "crashed"}) for t in found.tenants]
            found = found.model_copy(update={"tenants": tuple(ended)})
        return found, requests


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency_models.MODELS, "process", ProcessModel())


def sweep_of(names: Sequence[str], batches: Sequence[int] = (1, 4), **changes: Any) -> Any:
    given = {
        "models": list(names),
        "batch_sizes": tuple(batches),
        "shares": (25.0, 50.0, 75.0, 100.0),
        "colocate": "pairs",
        "device": DEVICE.id,
        "baseline_every": 0,
    }
    sweep = load_sweep(None, given | changes)
    return sweep, cells_of(sweep, DEVICE.id)


SMALL = sweep_of("abc")


def adapt(
    out: Path, measure: Measure, plan: Any = SMALL, *, model: str = "process", **changes: Any
) -> AdaptiveOutcome:
    sweep, cells = plan
    proposer = Proposer(DEVICE, model=model)
    return profile_adaptively(sweep, cells, CONTEXT, out, proposer, measure_cell=measure, **changes)


@pytest.mark.parametrize("model", ["process", "igprof"])
def test_six_models_need_less_than_a_quarter_of_their_pairs_cells(
    tmp_path: Path, model: str
) -> None:
    plan = sweep_of(NAMES)
    candidates = [cell for cell in plan[1] if len(cell.tenants) == 2]
    assert len(candidates) == 15 * 4 * 6
    told: list[RoundProgress] = []
    measure = Measure()
    ended = adapt(tmp_path / "p", measure, plan, model=model, on_round=told.append)
    assert ended.reason == "target"
    together = [cell for cell in measure.asked if len(cell.tenants) == 2]
    assert len(together) < len(candidates) / 4
    assert ended.predicted_error_pct is not None
    assert ended.predicted_error_pct <= 3.0
    # what it says of the cells that it did not measure is about so
    rest = [cell.tenants for cell in candidates if cell not in set(together)]
    assert len(rest) == ended.candidates
    measurements = ProfileStore.open(tmp_path / "p").measurements()
    proposal = Proposer(DEVICE, model=model)(measurements, rest, 1)
    predicted, _ = proposal.forecast(range(len(rest)))
    errors = [
        abs(value / right - 1)
        for cell, values in zip(rest, predicted, strict=True)
        for value, right in zip(values, truth(cell), strict=True)
    ]
    assert 100 * np.mean(errors) < 3.5
    assert [each.number for each in told] == list(range(len(told)))
    assert told[0].seen_error_pct is None
    assert all(each.seen_error_pct is not None for each in told[1:])
    assert all(each.drawn_error_pct is not None for each in told[1:])


def test_cells_alone_come_first_then_some_far_apart(tmp_path: Path) -> None:
    measure = Measure()
    adapt(tmp_path / "p", measure)
    sizes = [len(cell.tenants) for cell in measure.asked]
    alone = sum(len(cell.tenants) == 1 for cell in SMALL[1])
    assert sizes[:alone] == [1] * alone
    assert set(sizes[alone:]) == {2}
    first = [frozenset(t.model for t in cell.tenants) for cell in measure.asked[alone : alone + 3]]
    assert len(set(first)) == 3


def test_a_large_grid_alone_is_measured_in_part_its_corners_first() -> None:
    sweep, cells = sweep_of("a", (1, 2, 4, 8, 16, 32, 64), colocate="none")
    chosen = start_cells(cells, sweep.seed)
    assert len(chosen) == 24 < len(cells)
    corners = {(b, s) for b in (1, 64) for s in (25.0, 100.0)}
    assert corners <= {(c.tenants[0].batch_size, c.tenants[0].share_pct) for c in chosen}


def test_the_same_command_again_adds_nothing(tmp_path: Path) -> None:
    plan = sweep_of("abc", baseline_every=10)
    measure = Measure()
    first = adapt(tmp_path / "p", measure, plan)
    assert first.reason == "target"
    baselines = [cell for cell in measure.asked if cell.baseline]
    assert measure.asked[0].baseline
    assert measure.asked[-1].baseline
    assert len(baselines) == -(-first.measured_cells // 10) + 1
    before = (tmp_path / "p" / STATE).read_bytes()
    again = Measure()
    second = adapt(tmp_path / "p", again, plan)
    assert again.asked == []
    assert (second.reason, second.predicted_error_pct) == ("target", first.predicted_error_pct)
    assert second.outcome.measured == 0
    assert (tmp_path / "p" / STATE).read_bytes() == before
    more = adapt(tmp_path / "p", again, plan, target_error_pct=first.predicted_error_pct * 0.8)
    assert again.asked
    assert more.measured_cells > first.measured_cells


@pytest.mark.parametrize("at", [1, 9, 26, 33, 35])
def test_a_sweep_that_was_cut_short_goes_on_with_what_was_proposed(tmp_path: Path, at: int) -> None:
    whole = Measure()
    ended = adapt(tmp_path / "whole", whole, target_error_pct=0.8)
    assert len(whole.asked) > 35
    first = Measure()

    def fail(count: int) -> None:
        if count == at:
            raise OutsideFailure("the power went")

    first.trap = fail
    with pytest.raises(OutsideFailure):
        adapt(tmp_path / "p", first, target_error_pct=0.8)
    stored = ProfileStore.open(tmp_path / "p").done_ids()
    assert len(stored) == at - 1
    second = Measure(seed=1)
    resumed = adapt(tmp_path / "p", second, target_error_pct=0.8)
    assert resumed.reason == ended.reason == "target"
    ids = [cell.cell_id for cell in second.asked]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & stored
    rounds = json.loads((tmp_path / "p" / STATE).read_text())["rounds"]
    # every proposal was measured to its end, none was made twice
    proposed = list(itertools.chain.from_iterable(each["cells"] for each in rounds))
    assert len(set(proposed)) == len(proposed)
    assert set(proposed) <= stored | set(ids)
    assert {c.cell_id for c in first.asked[:-1]} == stored


def test_an_interrupt_ends_it_after_the_cell_in_flight(tmp_path: Path) -> None:
    measure = Measure()
    measure.trap = lambda count: os.kill(os.getpid(), signal.SIGINT) if count == 5 else None
    ended = adapt(tmp_path / "p", measure)
    assert (ended.reason, ended.outcome.interrupted, ended.outcome.measured) == (
        "interrupted",
        True,
        5,
    )
    assert adapt(tmp_path / "p", Measure()).reason == "target"


@pytest.mark.parametrize("most", [3, 28, 34])
def test_no_more_cells_than_are_allowed(tmp_path: Path, most: int) -> None:
    measure = Measure()
    ended = adapt(tmp_path / "p", measure, max_cells=most, target_error_pct=1e-3)
    assert (ended.reason, ended.measured_cells, len(measure.asked)) == ("max_cells", most, most)
    assert not ended.outcome.interrupted
    again = Measure()
    adapt(tmp_path / "p", again, max_cells=most, target_error_pct=1e-3)
    assert again.asked == []


def test_without_a_target_in_reach_all_candidates_are_measured(tmp_path: Path) -> None:
    plan = sweep_of("ab")
    measure = Measure()
    left: list[Progress] = []
    ended = adapt(tmp_path / "p", measure, plan, target_error_pct=1e-6, on_progress=left.append)
    assert (ended.reason, ended.candidates) == ("exhausted", 0)
    assert len(measure.asked) == len(plan[1])
    assert left[-1].left == 0
    # it is then a profile like any other of that sweep
    rest = Measure()
    profile(*plan, CONTEXT, tmp_path / "p", measure_cell=rest)
    assert rest.asked == []


def test_what_failed_is_not_proposed_again_and_a_model_that_never_ran_not_at_all(
    tmp_path: Path,
) -> None:
    measure = Measure()
    measure.fails = lambda cell: any(t.model == "c" for t in cell.tenants)
    ended = adapt(tmp_path / "p", measure, target_error_pct=1e-6)
    assert ended.reason == "exhausted"
    ids = [cell.cell_id for cell in measure.asked]
    assert len(set(ids)) == len(ids)
    assert not [c for c in measure.asked if len(c.tenants) == 2 and measure.fails(c)]

    pairs = Measure()
    pairs.fails = lambda cell: len(cell.tenants) == 2 and cell.tenants[0].batch_size == 4
    ended = adapt(tmp_path / "q", pairs, target_error_pct=1e-6)
    assert ended.reason == "exhausted"
    ids = [cell.cell_id for cell in pairs.asked]
    assert len(set(ids)) == len(ids) == len(SMALL[1])


def test_what_exceeds_the_host_is_not_proposed(tmp_path: Path) -> None:
    large = {c.cell_id: "too large" for c in SMALL[1] if len(c.tenants) == 2 and "b4" in c.label}
    start = {c.cell_id for c in start_cells(SMALL[1], 0)}
    skips = {i: why for i, why in large.items() if i not in start}
    measure = Measure()
    ended = adapt(tmp_path / "p", measure, target_error_pct=1e-6, skips=skips)
    assert ended.reason == "exhausted"
    assert not {cell.cell_id for cell in measure.asked} & skips.keys()


def test_an_open_loop_cannot_be_predicted(tmp_path: Path) -> None:
    plan = sweep_of("ab", load={"kind": "poisson", "rate_rps": 5})
    with pytest.raises(BadInput, match="closed loop"):
        adapt(tmp_path / "p", Measure(), plan)
    assert not (tmp_path / "p").exists()


def test_repeats_of_a_point_go_together(tmp_path: Path) -> None:
    plan = sweep_of("ab", repeats=2)
    measure = Measure()
    adapt(tmp_path / "p", measure, plan)
    points = [cell.model_copy(update={"repeat": 0}) for cell in measure.asked]
    assert points[::2] == points[1::2]
