"""How long fit and predict take, through the command line and the Python API."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_trials import Profile, usable
from timed import timed

from igniter_prof.dataset import ProfileStore
from igniter_prof.errors import OutsideFailure
from igniter_prof.fitting import fit, predictor
from igniter_prof.records import REQUEST_DTYPE, Coefficients, Measurement, ProfileManifest, Tenant

NOISE = 0.01
"""Relative scatter of synthetic cells."""


def speed(profile: Profile, model: str, cells: int, many: int) -> list[dict[str, Any]]:
    """Fit of ``cells`` cells and predict of 10,000 by the verbs, ``many`` by the Python API.

    The profile is filled up with synthetic pairs: what the model, fitted to it, predicts for random
    settings, with noise.
    """
    measured = usable(profile.cells)[:cells]
    start = fit(
        measured, profile.device, profile_hash="", model=model, holdout=0.0, igniter=profile.igniter
    )
    rng = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [*measured, *_synthetic(start, measured, cells - len(measured), rng)]
        _store(folder / "P", made, profile)
        for label, more in (("", ()), (", --no-validation", ("--no-validation",))):
            out = str(folder / "C.json")
            arguments = ("fit", str(folder / "P"), "--out", out, "--model", model, *more)
            seconds, peak = _timed(*arguments)
            rows.append(_row(f"igprof fit{label}, {len(made)} cells", seconds, peak))
        table = folder / "cells.csv"
        table.write_text(_csv(_random_cells(start, measured, 10_000, rng)))
        seconds, peak = _timed(
            "predict", str(folder / "C.json"), "--cells", str(table), "--out", str(folder / "o.csv")
        )
        rows.append(_row("igprof predict, 10,000 cells", seconds, peak))
    rows.append(_by_api(start, measured, many, rng))
    return rows


def _by_api(
    coefficients: Coefficients, measured: Sequence[Measurement], many: int, rng: np.random.Generator
) -> dict[str, Any]:
    model = predictor(coefficients)
    block = model.points(_random_cells(coefficients, measured, min(many, 10_000), rng))
    x = block.repeated(max(1, many // 10_000))
    began = time.perf_counter()
    latency = model.fitted.latency_ms(x)
    seconds = time.perf_counter() - began
    assert np.isfinite(latency).all()
    count = int(x.cell.max()) + 1
    return _row(f"latency of {count:,} pairs as arrays (Fitted.latency_ms)", seconds, None)


def _row(what: str, seconds: float, peak_mib: float | None) -> dict[str, Any]:
    return {"what": what, "seconds": seconds, "peak_mib": peak_mib}


def _timed(*arguments: str) -> tuple[float, float]:
    """Seconds of an igprof verb as a process of its own, and its peak memory in MiB."""
    ended = timed(*arguments, quiet=True)
    if ended.status != 0:
        raise OutsideFailure(f"igprof {' '.join(arguments)} failed (status {ended.status})")
    return ended.seconds, ended.peak_mib


def _random_cells(
    coefficients: Coefficients,
    measured: Sequence[Measurement],
    count: int,
    rng: np.random.Generator,
) -> list[tuple[Tenant, ...]]:
    """Pairs of profiled models with batch sizes and shares within what was profiled."""
    names = list(coefficients.models)
    batches = sorted({t.tenant.batch_size for m in measured for t in m.tenants})
    cells = []
    for _ in range(count):
        first, second = rng.choice(names, 2)
        b1, b2 = rng.choice(batches, 2)
        share = float(rng.integers(2, 19) * 5)
        cells.append(
            (
                Tenant(model=str(first), batch_size=int(b1), share_pct=share),
                Tenant(model=str(second), batch_size=int(b2), share_pct=100 - share),
            )
        )
    return cells


def _synthetic(
    coefficients: Coefficients,
    measured: Sequence[Measurement],
    count: int,
    rng: np.random.Generator,
) -> list[Measurement]:
    """Cells as the profile's own look, with what the model predicts and noise."""
    pattern = next(m for m in measured if len(m.tenants) > 1)
    cells = _random_cells(coefficients, measured, count, rng)
    made = []
    for number, (cell, told) in enumerate(
        zip(cells, predictor(coefficients).predict(cells), strict=True)
    ):
        asked = pattern.cell.model_copy(update={"tenants": cell, "repeat": 1000 + number})
        tenants = []
        for tenant, p, like in zip(cell, told, pattern.tenants, strict=True):
            mean = p.latency_ms * float(np.exp(NOISE * rng.standard_normal()))
            assert like.latency is not None
            latency = like.latency.model_copy(update={"mean_ms": mean, "std_ms": p.cv * mean})
            tenants.append(like.model_copy(update={"tenant": tenant, "latency": latency}))
        made.append(
            pattern.model_copy(
                update={"cell": asked, "cell_id": asked.cell_id, "tenants": tuple(tenants)}
            )
        )
    return made


def _store(folder: Path, cells: Sequence[Measurement], profile: Profile) -> None:
    manifest = ProfileManifest(
        sweep=None, device=profile.device, created_at="", igprof="0", igniter=profile.igniter
    )
    with ProfileStore.create(folder, manifest) as store:
        for cell in cells:
            store.append(cell, [np.zeros(0, REQUEST_DTYPE)] * len(cell.tenants))


def _csv(cells: Sequence[Sequence[Tenant]]) -> str:
    header = ",".join(f"model_{k},batch_size_{k},share_pct_{k}" for k in (1, 2))
    lines = (",".join(f"{t.model},{t.batch_size},{t.share_pct:g}" for t in cell) for cell in cells)
    return "\n".join([header, *lines]) + "\n"
