"""The report of a campaign: what was predicted and what was measured, from whatever a state holds.

``report.md`` has a part for each question; a part for which the state lacks something says what.
``report.html`` is igprof's own report of the same files.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import dataset
import probe

from igniter_prof.dataset.merging import merge_profiles
from igniter_prof.dataset.noise import noise
from igniter_prof.dataset.store import ProfileStore
from igniter_prof.errors import IgprofError
from igniter_prof.fitting.latency_models import MODELS
from igniter_prof.monitors.power.trace import LIVE
from igniter_prof.records import Coefficients, FitError, Measurement, Plan, Record, Result
from igniter_prof.reporting import write_report
from igniter_prof.reporting.blocks import number
from igniter_prof.reporting.inputs import read_inputs

BENCH = Path(__file__).resolve().parents[1] / "bench"
if str(BENCH) not in sys.path:
    sys.path.append(str(BENCH))

import accuracy_trials as trials  # noqa: E402
from common import markdown  # noqa: E402

COMPARED = ("igprof", "igniter", "gpulets", "none")
FOLDS = 5
MERGED = "profile"


class Missing(Exception):
    """What a part of the report needs and the state does not hold."""


@dataclass(frozen=True)
class Kept:
    """What of a state can be read; what cannot is in ``broken``, with the reason."""

    state: Path
    steps: tuple[dataset.Step, ...]
    merged: Path | None
    """One profile of all steps, repeats included."""
    files: dict[type[Record], dict[Path, Any]]
    """Coefficients, plans and results by their paths."""
    broken: list[str] = field(default_factory=list)

    @property
    def measurements(self) -> list[Measurement]:
        """All cells."""
        return [one for step in self.steps for one in step.measurements]

    def of(self, kind: type[Record]) -> dict[str, Any]:
        """The records of a kind, by the names of their files."""
        return {path.stem: record for path, record in self.files.get(kind, {}).items()}


def make(state: Path, out: Path) -> Path:
    """Write ``report.md`` and ``report.html`` of a state; missing parts are named in it."""
    out.mkdir(parents=True, exist_ok=True)
    kept = read(state, out)
    lines = [f"# Report of a campaign on {_device(kept)}", ""]
    if not _on_gpu(kept):
        lines += ["**A rehearsal: nothing here was measured on a GPU.**", ""]
    for title, part in PARTS.items():
        lines += [f"## {title}", ""]
        try:
            lines += [line for block in part(kept) for line in (block.rstrip("\n"), "")]
        except Missing as missing:
            lines += [f"Not there: {missing}.", ""]
        except (IgprofError, OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            lines += [f"Could not be made: {error}", ""]
    lines += ["## Plots", "", _page(kept, out), ""]
    if kept.broken:
        lines += ["## What could not be read", "", *(f"- {what}" for what in kept.broken), ""]
    path = out / "report.md"
    path.write_text("\n".join(lines))
    return path


def read(state: Path, out: Path) -> Kept:
    """All that a state holds; what is broken is noted and left out."""
    broken: list[str] = []
    try:
        steps = tuple(dataset.profiles(state))
    except IgprofError as error:
        steps = ()
        broken.append(str(error))
    files: dict[type[Record], dict[Path, Any]] = {}
    for folder in ("coefficients", "plans", "evaluations"):
        for path in sorted((state / folder).rglob("*.json")):
            try:
                (source,) = read_inputs([path])
            except IgprofError as error:
                broken.append(str(error))
                continue
            if isinstance(source.content, (Coefficients, Plan, Result)):
                files.setdefault(type(source.content), {})[path] = source.content
    return Kept(state, steps, _merged(steps, out, broken), files, broken)


def _merged(steps: Sequence[dataset.Step], out: Path, broken: list[str]) -> Path | None:
    """One profile of all steps; where they do not agree, that of the step with the most cells."""
    if not steps:
        return None
    path = out / MERGED
    shutil.rmtree(path, ignore_errors=True)
    try:
        merge_profiles([step.store.path for step in steps], path)
    except IgprofError as error:
        largest = max(steps, key=lambda step: len(step.measurements))
        broken.append(f"the steps make no one profile, only {largest.name} is used: {error}")
        return largest.store.path
    return path


def _device(kept: Kept) -> str:
    names = sorted({step.store.manifest.device.name for step in kept.steps})
    return ", ".join(names) or "an unknown device"


def _on_gpu(kept: Kept) -> bool:
    kinds = {step.store.manifest.device.kind for step in kept.steps}
    return kinds == {"cuda"}


# --- the parts ------------------------------------------------------------------------------------


def _measured(kept: Kept) -> Iterator[str]:
    journal = probe.read(kept.state, "steps.json")
    if not kept.steps and not journal:
        raise Missing("neither a journal of the steps nor a profile")
    by_name = {step.name.partition("/")[0]: step for step in kept.steps}
    rows = []
    for name in dict.fromkeys([*journal, *by_name]):
        entry, step = journal.get(name, {}), by_name.get(name)
        cells = None if step is None else len(step.measurements)
        rows.append([name, entry.get("state"), entry.get("seconds"), cells, entry.get("detail")])
    yield markdown(["step", "state", "seconds", "cells", "detail"], rows)
    mechanisms = {one.conditions.share_mechanism for one in kept.measurements} - {None}
    if mechanisms:
        yield f"Share mechanism of the cells: {', '.join(sorted(map(str, mechanisms)))}."


def _probed(kept: Kept) -> Iterator[str]:
    found = probe.read(kept.state, "probe.json")
    if not found:
        raise Missing("probe.json (the step probe)")
    yield "```\n" + "\n".join(probe.table(found)) + "\n```"


def _shared(kept: Kept) -> Iterator[str]:
    found = probe.read(kept.state, "shares.json")
    if "mechanism" not in found:
        raise Missing("shares.json (the step shares)")
    yield f"Measured with: {found['mechanism']}. {found.get('skipped', '')}".strip()
    lines = probe.share_lines(found)
    if lines:
        yield "```\n" + "\n".join(lines) + "\n```"


def _fitted(kept: Kept) -> Iterator[str]:
    coefficients = kept.of(Coefficients)
    known = {name: each for name, each in coefficients.items() if each.report is not None}
    if not known:
        raise Missing("coefficients with a report (the step fit)")
    rows = []
    for name, each in known.items():
        report = each.report
        interval = report.intervals.get("all")
        rows.append(
            [
                name,
                each.model,
                report.holdout.cells,
                *_errors(report.holdout),
                *_errors(report.cross_validated.get("pairs"))[:1],
                None if interval is None else _text(interval.coverage_pct),
            ]
        )
    yield markdown(
        [
            "file",
            "model",
            "cells held out",
            "mean error %",
            "p90 %",
            "p99 %",
            "pairs never together: mean %",
            "in 90% interval %",
        ],
        rows,
    )


def _compared(kept: Kept) -> Iterator[str]:
    if kept.merged is None:
        raise Missing("a profile")
    store = ProfileStore.open(kept.merged)
    cells = trials.usable(store.measurements(strict=False))
    profile = trials.Profile(cells, store.manifest.device, store.manifest.igniter)
    size = {n: [m for m in cells if len(m.tenants) == n] for n in (1, 2, 3, 4)}
    if not size[1] or not size[2]:
        raise Missing("cells of models alone and of pairs (the steps solo and pairs)")
    below = [*size[1], *size[2]]
    protocols = {
        f"pairs, cross-validated in {FOLDS} parts": list(trials.folds(size[2], size[1], FOLDS, 0)),
        "pairs of models never measured together": list(trials.one_pair_out(size[2], size[1])),
        "triples, from alone and pairs": [trials.Trial(below, size[3])],
        "quadruples, from alone, pairs and triples": [trials.Trial([*below, *size[3]], size[4])],
    }
    rows: list[list[Any]] = []
    left_out: list[str] = []
    for label, drawn in protocols.items():
        drawn = [trial for trial in drawn if trial.train and trial.test]
        if not drawn:
            left_out.append(f"{label}: no such cells")
        for name in COMPARED if drawn else ():
            try:
                found = trials.judge(profile, drawn, MODELS[name], 0, intervals=False).figures()
            except IgprofError as error:
                left_out.append(f"{label}, {name}: {error.what}")
                continue
            figures = [_text(found["mean_pct"]), _text(found["p99_pct"])]
            rows.append([label, name, found["tenants"], *figures])
    yield markdown(["predicted", "model", "tenants", "mean error %", "p99 %"], rows)
    floors = [
        f"{name} {number(floor)}% ({source})"
        for name, count in (("alone", 1), ("pairs", 2), ("triples", 3), ("quadruples", 4))
        for floor, source in [trials.noise_floor(size[count])]
        if floor is not None
    ]
    yield f"Error of a perfect model, for noise alone: {', '.join(floors) or 'not known'}."
    if left_out:
        yield "\n".join(f"- {what}" for what in left_out)


def _noise(kept: Kept) -> Iterator[str]:
    # of the merged profile: where conditions differ, a difference is no noise
    found = [] if kept.merged is None else noise(ProfileStore.open(kept.merged).measurements())
    if not found:
        raise Missing("cells that were measured twice (the step again)")
    rows = [
        [
            each.group,
            each.statistic,
            each.points,
            *(_text(v) for v in (each.mean_pct, each.median_pct, each.p90_pct, each.max_pct)),
        ]
        for each in found
    ]
    yield markdown(["cells", "latency", "tenants", "mean %", "median %", "p90 %", "max %"], rows)


def _energy(kept: Kept) -> Iterator[str]:
    powers = [one.power for one in kept.measurements if one.power and one.power.source == LIVE]
    both = [
        each.energy_integral_j / each.energy_counter_j - 1
        for each in powers
        if each.energy_counter_j and each.energy_integral_j is not None
    ]
    stretches = {
        name: each
        for name, each in probe.read(kept.state, "power.json").items()
        if isinstance(each, dict) and each.get("energy_counter_j")
    }
    if not both and not stretches:
        raise Missing("a cell or a stretch with both energies (a GPU, the monitor nvml)")
    if both:
        rows = [
            [
                len(both),
                _text(100 * fmean(both)),
                _text(100 * fmean(map(abs, both))),
                _text(100 * median(map(abs, both))),
                _text(100 * max(map(abs, both))),
            ]
        ]
        yield "Integral of the power over the driver's counter, less one, of cells:"
        yield markdown(["cells", "mean %", "mean of size %", "median of size %", "max %"], rows)
    if stretches:
        rows = [
            [
                name,
                _text(each["seconds"]),
                _text(each["power_mean_w"]),
                _text(each["energy_counter_j"]),
                _text(each["energy_integral_j"]),
                _text(100 * (each["energy_integral_j"] / each["energy_counter_j"] - 1))
                if each["energy_integral_j"] is not None
                else None,
            ]
            for name, each in stretches.items()
        ]
        yield "The step power, without a server:"
        yield markdown(["stretch", "s", "W", "counter J", "integral J", "difference %"], rows)


def _planned(kept: Kept) -> Iterator[str]:
    plans = kept.of(Plan)
    if not plans:
        raise Missing("plans (the step plan)")
    rows = [
        [
            name,
            plan.strategy,
            len(plan.devices),
            sum(len(device.tenants) for device in plan.devices),
            _text(plan.cost),
            _text(plan.bound),
            {True: "proven", False: "not proven", None: None}[plan.optimal],
            len(plan.left_out) or None,
        ]
        for name, plan in plans.items()
    ]
    yield markdown(
        ["plan", "strategy", "devices", "tenants", "cost", "bound", "cheapest", "left out"], rows
    )


def _evaluated(kept: Kept) -> Iterator[str]:
    results = kept.of(Result)
    if not results:
        raise Missing("evaluations (the step evaluate)")
    rows: list[list[Any]] = []
    apart: dict[str, list[float]] = {"p95": [], "p99": []}
    for name, result in results.items():
        for each in result.workloads:
            beside = []
            for percentile, errors in apart.items():
                promised = getattr(each.predicted, f"{percentile}_ms", None)
                quantile = getattr(each.latency, percentile, None)
                measured = None if quantile is None else quantile.value_ms
                if promised and measured:
                    errors.append(promised / measured - 1)
                beside += [_text(promised), _text(measured)]
            met = {True: "met", False: "violated", None: each.status}[each.slo_met]
            rows.append(
                [
                    name,
                    each.workload,
                    each.device,
                    _text(each.rate_rps),
                    each.requests,
                    _text(each.slo_ms),
                    *beside,
                    _text(each.violations_pct),
                    met,
                ]
            )
    yield markdown(
        [
            "evaluation",
            "workload",
            "device",
            "rate /s",
            "requests",
            "SLO ms",
            "p95 predicted ms",
            "measured",
            "p99 predicted ms",
            "measured",
            "over the SLO %",
            "verdict",
        ],
        rows,
    )
    lines = [
        f"- {percentile} predicted over measured, less one: mean {number(100 * fmean(errors))}%,"
        f" mean of size {number(100 * fmean(map(abs, errors)))}%, over {len(errors)} workloads"
        for percentile, errors in apart.items()
        if errors
    ]
    notes = sorted({note for result in results.values() for note in result.notes})
    if lines or notes:
        yield "\n".join([*lines, *(f"- {note}" for note in notes)])


PARTS: dict[str, Callable[[Kept], Iterable[str]]] = {
    "What was measured": _measured,
    "What works there": _probed,
    "Are shares obeyed": _shared,
    "Prediction error on the hold-out": _fitted,
    "Prediction error beside baselines": _compared,
    "Noise between runs": _noise,
    "Energy: integral against counter": _energy,
    "Plans": _planned,
    "Plans under load": _evaluated,
}


def _page(kept: Kept, out: Path) -> str:
    paths = [path for records in kept.files.values() for path in records]
    inputs = [*([kept.merged] if kept.merged else []), *paths]
    if not inputs:
        return "Not there: nothing to draw."
    try:
        page, *tables = write_report(inputs, out / "report.html")
    except IgprofError as error:
        return f"Could not be made: {error}"
    return f"In [{page.name}]({page.name}), with {len(tables)} tables beside it as CSV."


def _errors(error: FitError | None) -> list[str | None]:
    """Mean, p90 and p99 of an error for a table."""
    if error is None:
        return [None, None, None]
    return [_text(error.mean_pct), _text(error.p90_pct), _text(error.p99_pct)]


def _text(value: float | None) -> str | None:
    return None if value is None else number(float(value))
