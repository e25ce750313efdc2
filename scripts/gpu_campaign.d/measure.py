"""The measuring steps: cold starts, models alone, pairs, triples, quadruples, scales, again.

Each makes a list of cells and has igprof's own profiler measure those that the state does not hold.
"""

from __future__ import annotations

import csv
import itertools
import json
import random
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import probe
from machine import OutOfTime, Work


class Tenant(NamedTuple):
    """One tenant of a cell, as a row of igprof's CSV of cells says it."""

    model: str
    batch_size: int
    share_pct: int | None
    input_scale: float = 1.0


Cell = tuple[Tenant, ...]
TIME_SLICING = "time-slicing"


@dataclass(frozen=True)
class Design:
    """What is measured; shares are percent of the device."""

    main: tuple[str, ...]
    """Models that meet in every combination."""
    others: tuple[str, ...] = ()
    """Models that are measured alone, and in ``more_pairs``."""
    shares: tuple[int, ...] = (100, 50, 25)
    batches: tuple[int, ...] = (1, 4, 16)
    other_shares: tuple[int, ...] = (100, 50)
    other_batches: tuple[int, ...] = (1, 8)
    splits: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] | None = None
    """For each split of the device among co-located models, the batch sizes that they have."""
    more_pairs: tuple[tuple[str, str], ...] = ()
    triples: int = 5
    quads: int = 3
    scaled: tuple[str, ...] = ()
    scales: tuple[float, ...] = (0.5, 1.5)
    again: int = 4
    """So many groups of cells alone, and co-located, are measured once more."""
    cold: tuple[str, ...] = ()


GPU = Design(
    main=("resnet50_fp16", "vgg19_fp16", "mobilenet_v2_fp16", "ssd_fp16", "encoder_fp16"),
    others=("alexnet_fp16", "fcn_resnet50_fp16", "resnet50_fp32", "vgg19_fp32"),
    splits={
        (50, 50): ((4, 4), (16, 1), (1, 16)),
        (25, 50): ((4, 4),),
        (50, 25, 25): ((4, 4, 4), (1, 16, 4)),
        (25, 25, 25, 25): ((4, 4, 4, 4), (1, 16, 1, 16)),
    },
    more_pairs=(("resnet50_fp32", "encoder_fp16"), ("fcn_resnet50_fp16", "vgg19_fp16")),
    scaled=("resnet50_fp16", "vgg19_fp16", "encoder_fp16"),
    cold=("resnet50_fp16", "vgg19_fp16", "encoder_fp16"),
)
QUICK_TORCH = Design(
    main=("encoder_fp32", "mobilenet_v2_fp32"),
    shares=(100, 50),
    batches=(1, 4),
    splits={(50, 50): ((1, 1), (4, 1), (1, 4))},
    triples=0,
    quads=0,
    scaled=("encoder_fp32",),
    scales=(0.5,),
    again=1,
    cold=("encoder_fp32",),
)
QUICK_PLAIN = Design(
    main=("mlp", "encoder"),
    shares=(100, 50),
    batches=(1, 4),
    splits={(50, 50): ((1, 1), (4, 1), (1, 4))},
    triples=0,
    quads=0,
    scaled=("encoder",),
    scales=(0.5,),
    again=1,
    cold=("mlp",),
)
ENERGY = ("solo", "pairs")
"""Steps whose power is watched: that takes up to two seconds a cell."""
STOPPING = {
    **{"precision_pct": 2, "min_s": 0.8, "max_s": 2.0, "min_requests": 30, "warmup_s": 0.3},
    **{"request_timeout_s": 20, "start_timeout_s": 60, "cooldown_s": 0},
}
FRUITLESS = 2
"""So many runs of igprof that fail without a new cell end a step."""
QUICK_STOPPING = {**STOPPING, "min_s": 0.3, "max_s": 0.6, "min_requests": 10}


def cold(work: Work, until: float) -> None:
    """Fresh servers: from process start to ready, and the first inferences."""
    cells = [(Tenant(model, 1, 100),) for model in _design(work).cold]
    _measure(work, "cold", cells, until, keep=False)


def solo(work: Work, until: float) -> None:
    """Each model alone, over batch sizes and shares."""
    _measure(work, "solo", _solo(_design(work)), until)


def pairs(work: Work, until: float) -> None:
    """Two models at once."""
    _measure(work, "pairs", _pairs(_design(work)), until)


def triples(work: Work, until: float) -> None:
    """Three models at once."""
    _measure(work, "triples", _sets(_design(work), 3), until)


def quads(work: Work, until: float) -> None:
    """Four models at once."""
    _measure(work, "quads", _sets(_design(work), 4), until)


def scales(work: Work, until: float) -> None:
    """Smaller and larger inputs, alone."""
    design = _design(work)
    cells = [
        (Tenant(model, batch, 100, scale),)
        for model in design.scaled
        for scale in design.scales
        for batch in design.batches[:2]
    ]
    _measure(work, "scales", cells, until)


def again(work: Work, until: float) -> None:
    """A part of the cells once more, with fresh servers: the noise between runs."""
    design = _design(work)
    drawn = random.Random(1)
    cells = [
        cell
        for kind in (_solo(design), _pairs(design))
        for group in drawn.sample(_groups(kind), min(design.again, len(_groups(kind))))
        for cell in group
    ]
    _measure(work, "again", cells, until)


def profiles(work: Work, *steps: str) -> list[Path]:
    """The profiles of some steps that hold a cell."""
    folders = (work.state / "profiles" / step for step in steps)
    return [folder for folder in folders if any(folder.glob("cells/*.zip"))]


# --- cells ----------------------------------------------------------------------------------------


def _design(work: Work) -> Design:
    if work.server is None:
        return QUICK_PLAIN
    return QUICK_TORCH if work.quick else GPU


def _solo(design: Design) -> list[Cell]:
    grids = (
        (design.main, design.shares, design.batches),
        (design.others, design.other_shares, design.other_batches),
    )
    return [
        (Tenant(model, batch, share),)
        for models, shares, batches in grids
        for model, share, batch in itertools.product(models, shares, batches)
    ]


def _pairs(design: Design) -> list[Cell]:
    every = _colocated(design, itertools.combinations(design.main, 2), 2)
    more = _colocated(design, design.more_pairs, 2)
    return [*every, *more]


def _sets(design: Design, size: int) -> list[Cell]:
    wanted = {3: design.triples, 4: design.quads}[size]
    sets = list(itertools.combinations(design.main, size))
    drawn = random.Random(size).sample(sets, min(wanted, len(sets)))
    return _colocated(design, drawn, size)


def _colocated(design: Design, sets: Iterable[Sequence[str]], size: int) -> list[Cell]:
    return [
        tuple(map(Tenant, models, batches, split))
        for models in sets
        for split, choices in (design.splits or {}).items()
        if len(split) == size
        for batches in choices
    ]


def _groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that the same servers serve."""
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        found.setdefault(tuple((t.model, t.share_pct) for t in cell), []).append(cell)
    return list(found.values())


# --- measuring ------------------------------------------------------------------------------------


def _measure(
    work: Work, step: str, cells: Sequence[Cell], until: float, *, keep: bool = True
) -> None:
    """Have igprof measure the cells that the step's profile does not hold yet.

    A cell that igprof cannot measure ends its run: then the others are tried before it.

    Raises:
        OutOfTime: some are left.
        RuntimeError: igprof fails again and again, or no model answered.
    """
    if not cells:
        return
    if probe.mechanism(work.state) == TIME_SLICING:
        cells = _without_shares(cells)
    groups = _groups(cells)
    folder = work.state / "profiles" / step
    sheet = work.state / "sweeps" / f"{step}.csv"
    sweep = work.save(f"sweeps/{step}.yaml", _sweep(work, step, cells))  # JSON is YAML
    command = ["profile", sweep, "--cells", sheet, "--out", folder, *work.serving]
    command += ["--keep-servers"] if keep else []
    fruitless = 0
    for attempt in itertools.count():
        # so that heat does not look like an effect of the share, nor one cell ends the others
        random.Random(attempt).shuffle(groups)
        _write_cells(sheet, [cell for group in groups for cell in group])
        before = _stored(folder)
        try:
            work.run(command, until)
            break
        except RuntimeError as error:
            fruitless = 0 if _stored(folder) > before else fruitless + 1
            if fruitless == FRUITLESS:
                raise
            work.log(f"once more, in another order: {error}")
    stored, wanted = _stored(folder), len(set(cells))
    if stored < wanted:
        raise OutOfTime(f"{stored} of {wanted} cells")
    _expect_answers(work, step, folder)


def tenants_of(folder: Path) -> Iterator[dict[str, Any]]:
    """The measured tenants of a profile's cells, as igprof stores them."""
    for path in sorted(folder.glob("cells/*.zip")):
        with zipfile.ZipFile(path) as stored:
            yield from json.loads(stored.read("measurement.json"))["tenants"]


def _stored(folder: Path) -> int:
    return sum(1 for _ in folder.glob("cells/*.zip"))


def _expect_answers(work: Work, step: str, folder: Path) -> None:
    """Put a profile aside in which no model answered, so that the next piece measures it anew.

    Raises:
        RuntimeError: it is such a one.
    """
    tenants = list(tenants_of(folder))
    if any(tenant["status"] == "ok" for tenant in tenants):
        return
    aside = work.state / "failed" / step
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    raise RuntimeError(f"no model answered: {tenants[0].get('detail')}")


def _without_shares(cells: Sequence[Cell]) -> list[Cell]:
    """The same cells where nothing gives shares; those that only these told apart become one."""
    bare = (tuple(tenant._replace(share_pct=None) for tenant in cell) for cell in cells)
    return list({tuple(sorted(cell)): cell for cell in bare}.values())


def _sweep(work: Work, step: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """A sweep with what all cells have in common; the cells are in a CSV file."""
    watching = ("nvml" if step in ENERGY else None) if work.on_gpu else "container"
    models = sorted({tenant.model for cell in cells for tenant in cell})
    sweep: dict[str, Any] = {
        "device": work.device,
        "models": [{"name": model} for model in models],
        "repository": work.repository.name,
        "monitors": ["client", *filter(None, [watching])],
        "stopping": QUICK_STOPPING if work.quick else STOPPING,
        "baseline_every": 0,
    }
    mechanism = probe.mechanism(work.state)
    if mechanism is not None:
        sweep["share_mechanism"] = mechanism
    return sweep


def _write_cells(path: Path, cells: Sequence[Cell]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    most = max(map(len, cells))
    names = [f"{field}_{k}" for k in range(1, most + 1) for field in Tenant._fields]
    with path.open("w", newline="") as sheet:
        rows = csv.writer(sheet)
        rows.writerow(names)
        for cell in cells:
            values = [value for tenant in cell for value in tenant]
            rows.writerow([*values, *[""] * (len(names) - len(values))])
