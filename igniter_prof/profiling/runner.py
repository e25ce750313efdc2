"""Measure the cells of a sweep, one after the other, into a profile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from igniter_prof import __version__
from igniter_prof.dataset import ProfileStore
from igniter_prof.files import now_utc
from igniter_prof.load import InputSource
from igniter_prof.records import Cell, Measurement, ProfileManifest, Stopping, Sweep, digest_of
from igniter_prof.session import CellContext, run_cell, skipped

START_STOP_S = 4.0
"""Typical time to start and stop the servers of a cell; for the estimate only."""

CellFunction = Callable[[Cell, CellContext], Sequence[Any]]
"""From a cell to its measurement, raw requests, and perhaps traces (``MeasuredCell``)."""


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands, told after every cell."""

    done: int
    total: int
    left: int
    """cells that are still to be measured: without those that this host cannot"""
    measurement: Measurement
    foreseen: bool = False
    """total and left are what a model expects, not what is planned"""


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    cells: int
    measured: int
    """cells measured now; the others were there already"""
    interrupted: bool
    """ended before all cells were measured"""
    measurements: tuple[Measurement, ...]
    """of the planned cells, those of earlier runs first"""

    @property
    def failed_tenants(self) -> int:
        """Tenants that ended neither ``ok`` nor ``skipped``, over all cells that are stored."""
        return sum(
            tenant.status not in ("ok", "skipped")
            for each in self.measurements
            for tenant in each.tenants
        )

    @property
    def skipped_cells(self) -> int:
        """Cells that are more than this host has."""
        return sum(each.tenants[0].status == "skipped" for each in self.measurements)

    @property
    def unstable_tenants(self) -> int:
        """Tenants that were measured, but not to the wanted precision."""
        return sum(
            tenant.status == "ok" and tenant.stable is False
            for each in self.measurements
            for tenant in each.tenants
        )


def profile(
    sweep: Sweep,
    cells: Sequence[Cell],
    context: CellContext,
    out: Path,
    *,
    skips: Mapping[str, str] | None = None,
    measure_cell: CellFunction = run_cell,
    on_progress: Callable[[Progress], None] | None = None,
    on_cell: Callable[[int, Cell], None] | None = None,
    on_interrupt: Callable[[], None] | None = None,
) -> Outcome:
    """Measure the cells that ``out`` does not hold yet; each is stored before the next begins.

    The first interrupt (SIGINT) lets the cell in flight finish, the second stops at once.

    Args:
        sweep: what was asked for; stored, and compared when resuming.
        cells: in the order in which they are measured.
        context: the device and how its cells are served.
        out: the profile's folder.
        skips: ids of cells that this host cannot measure, and why; stored as such.
        measure_cell: from a cell to what is stored of it.
        on_progress: told after each cell.
        on_cell: told before each cell, with the number of cells done so far.
        on_interrupt: told of the first interrupt.

    Raises:
        BadInput: ``out`` holds something else or a damaged file, or the first cell shows that
            the conditions are not those of the stored ones.
        OutsideFailure, MissingCapability: a cell could not be measured at all; what was measured
            before is kept.
    """
    with campaign(
        sweep,
        cells,
        context,
        out,
        skips=skips,
        measure_cell=measure_cell,
        on_cell=on_cell,
        on_interrupt=on_interrupt,
    ) as run:
        for cell in cells:
            if cell.cell_id in run.done:
                continue
            measurement = run.measure(cell)
            if measurement is None:
                break
            if on_progress is not None:
                left = len(run.planned - run.done - run.skips.keys())
                on_progress(Progress(len(run.done), len(run.planned), left, measurement))
        return run.outcome(complete=run.done == run.planned)


class Campaign:
    """A profile that is being measured, a cell at a time; made by ``campaign``."""

    def __init__(
        self,
        store: ProfileStore,
        planned: Set[str],
        context: CellContext,
        skips: Mapping[str, str],
        measure_cell: CellFunction,
        on_cell: Callable[[int, Cell], None] | None,
        interrupted: threading.Event,
    ) -> None:
        self.planned = planned
        self.skips = skips
        # all are read now: a damaged file is to be told of before hours of measuring
        self.found = [one for one in store.measurements() if one.cell_id in planned]
        self.done = {one.cell_id for one in self.found}
        self.measured = 0
        self._store = store
        self._context = context
        self._measure_cell = measure_cell
        self._on_cell = on_cell
        self._interrupted = interrupted

    @property
    def interrupted(self) -> bool:
        """Whether no further cell is to be begun."""
        return self._interrupted.is_set()

    def measure(self, cell: Cell) -> Measurement | None:
        """Measure and store a cell that is not there yet; None: interrupted, nothing was done."""
        if self.interrupted:
            return None
        if self._on_cell is not None:
            self._on_cell(len(self.done), cell)
        if cell.cell_id in self.skips:
            result: Sequence[Any] = skipped(cell, self._context, self.skips[cell.cell_id])
        else:
            result = self._measure_cell(cell, self._context)
        self._store.append(*result)
        measurement: Measurement = result[0]
        self.found.append(measurement)
        self.done.add(cell.cell_id)
        self.measured += 1
        return measurement

    def outcome(self, *, complete: bool) -> Outcome:
        """What there is now; ``complete``: nothing that was to be measured is missing."""
        return Outcome(
            cells=len(self.planned),
            measured=self.measured,
            interrupted=self.interrupted and not complete,
            measurements=tuple(self.found),
        )


@contextmanager
def campaign(
    sweep: Sweep,
    cells: Sequence[Cell],
    context: CellContext,
    out: Path,
    *,
    skips: Mapping[str, str] | None = None,
    measure_cell: CellFunction = run_cell,
    on_cell: Callable[[int, Cell], None] | None = None,
    on_interrupt: Callable[[], None] | None = None,
) -> Iterator[Campaign]:
    """Open the profile ``out`` to measure some of ``cells`` into it; see ``profile``."""
    planned = {cell.cell_id for cell in cells}
    manifest = ProfileManifest(
        sweep=sweep,
        device=context.device,
        created_at=now_utc(),
        igprof=__version__,
        cells_hash=digest_of(sorted(planned)),
    )
    with ProfileStore.create(out, manifest) as store, _finish_first(on_interrupt) as interrupted:
        yield Campaign(store, planned, context, skips or {}, measure_cell, on_cell, interrupted)


def sources_of(sweep: Sweep, folder: Path) -> dict[str, InputSource]:
    """Where each model's inputs come from; paths are relative to the sweep file's folder."""
    return {
        model.name: InputSource(
            path=None if model.inputs is None else folder / model.inputs,
            shapes=dict(model.shapes or {}),
            seed=sweep.seed,
        )
        for model in sweep.models
    }


def expected_s(cells: int, stopping: Stopping) -> tuple[float, float]:
    """The shortest and the longest time that so many cells usually take, in seconds."""
    fixed = START_STOP_S + stopping.warmup_s
    return cells * (fixed + stopping.min_s), cells * (fixed + stopping.max_s + stopping.cooldown_s)


@contextmanager
def _finish_first(notify: Callable[[], None] | None) -> Iterator[threading.Event]:
    """Within it the first SIGINT only sets the event; the second interrupts as usual."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # signals are the main thread's
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        if notify is not None:
            notify()

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
