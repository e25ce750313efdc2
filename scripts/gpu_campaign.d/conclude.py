"""The concluding steps: fit what was measured, plan from it, evaluate the plans on the device."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import probe
from machine import UNFINISHED, OutOfTime, Work, journal
from measure import profiles, tenants_of

MODELS = ("igprof", "igniter", "gpulets", "none")
"""The latency models that are held against each other."""
STRATEGIES = ("optimal", "igniter", "gpulets", "gslice", "ffd")
EVALUATED = ("optimal", "igniter", "ffd", "gpulets", "gslice")
"""The order in which plans are loaded, while there is time."""
FITTED = ("solo", "pairs", "triples", "quads", "scales")
SLO_FACTOR = 4.0
"""An SLO is so many times the latency of a request alone at half of the device."""
LOADED = 0.35
"""A workload's rate, of the batches per second that its model answers alone at half the device."""
EVALUATE_S, QUICK_EVALUATE_S = 20.0, 3.0
"""At the rate above, a model of up to 10 ms gets the 662 requests that a measured p99 takes."""
START_S = 25.0
"""What an evaluation takes beside its window; it is not begun with less time."""


def fit(work: Work, until: float) -> None:
    """Each latency model from all that was measured, with its error on the hold-out."""
    every, measured_at = _merged(work, until)
    for model in MODELS:
        out = work.state / "coefficients" / f"{model}.json"
        if not _fresh(out, measured_at):
            quick = ["--quick"] if work.quick else []
            out.parent.mkdir(exist_ok=True)
            try:
                work.run(["fit", every, "--model", model, "--out", out, *quick], until)
            except RuntimeError as error:
                if model == MODELS[0]:
                    raise
                work.log(f"no coefficients of {model}: {error}")
    _unless_more_comes(work)


def plan(work: Work, until: float) -> None:
    """A plan of each strategy for workloads that follow from what was measured."""
    coefficients = work.state / "coefficients" / "igprof.json"
    if not coefficients.exists():
        raise OutOfTime("nothing is fitted yet")
    folder = work.state / "plans"
    sheet = folder / "workloads.yaml"
    if not sheet.exists():
        work.save("plans/workloads.yaml", {"workloads": workloads(_alone(work))})  # JSON is YAML
    for strategy in STRATEGIES:
        out = folder / f"{strategy}.json"
        if not _fresh(out, coefficients.stat().st_mtime):
            options = ["--strategy", strategy, "--time-limit", "10"]
            try:
                work.run(["plan", coefficients, sheet, "--out", out, *options], until)
            except RuntimeError as error:
                work.log(f"no plan by {strategy}: {error}")  # one that finds none is a result, too
    if not any((folder / f"{strategy}.json").exists() for strategy in STRATEGIES):
        raise RuntimeError("no strategy found a plan")
    _unless_more_comes(work)


def evaluate(work: Work, until: float) -> None:
    """Load each plan on this device, at its rates, with open loops."""
    seconds = QUICK_EVALUATE_S if work.quick else EVALUATE_S
    chosen = EVALUATED[:1] if work.quick else EVALUATED
    plans = [work.state / "plans" / f"{strategy}.json" for strategy in chosen]
    if not any(path.exists() for path in plans):
        raise OutOfTime("there is no plan yet")
    for path in (path for path in plans if path.exists()):
        out = work.state / "evaluations" / path.name
        if _fresh(out, path.stat().st_mtime):
            continue
        devices = len(json.loads(path.read_text())["devices"])
        if until - time.monotonic() < devices * (seconds + START_S):
            raise OutOfTime(f"no time to load {path.stem}'s {devices} devices")
        out.parent.mkdir(exist_ok=True)
        options = [f"--duration={seconds}", *_mechanism(work), *work.serving]
        try:
            # 7: an SLO was missed, which is a verdict
            work.run(["evaluate", path, "--out", out, *options], until, accept=(0, 7))
        except RuntimeError as error:
            work.log(f"no evaluation of {path.stem}: {error}")
    if not any((work.state / "evaluations").glob("*.json")):
        raise RuntimeError("no plan could be loaded")
    _unless_more_comes(work)


def workloads(alone: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """A workload for each model; of each its latency in ms and its rate, alone at half a device."""
    return [
        {
            **{"name": f"w-{model.replace('_', '-')}", "model": model},
            **{
                "rate_rps": _rounded(LOADED * rate_rps),
                "slo_ms": _rounded(SLO_FACTOR * latency_ms),
            },
        }
        for model, (latency_ms, rate_rps) in sorted(alone.items())
    ]


def _rounded(value: float) -> float:
    """To two digits that count, so that workloads read well."""
    return float(f"{value:.2g}")


def _alone(work: Work) -> dict[str, tuple[float, float]]:
    """Mean latency in ms and inferences per second of one in flight, at half of the device."""
    found = {}
    for tenant in itertools.chain(*map(tenants_of, profiles(work, "solo"))):
        asked = tenant["tenant"]
        half = asked["share_pct"] in (50, None)  # None: nothing gives shares
        if half and asked["batch_size"] == 1 and tenant.get("latency"):
            latency_ms = tenant["latency"]["mean_ms"]
            found[asked["model"]] = (latency_ms, 1000 / latency_ms)
    return found


def _mechanism(work: Work) -> list[str]:
    """The option that names the profiles' share mechanism; empty: the device's usual one."""
    name = probe.mechanism(work.state)
    return [] if name is None else [f"--share-mechanism={name}"]


def _merged(work: Work, until: float) -> tuple[Path, float]:
    """All profiles in one, and when the last of their cells was stored."""
    parts = profiles(work, *FITTED)
    cells = [cell for part in parts for cell in part.glob("cells/*.zip")]
    if not cells:
        raise OutOfTime("nothing is measured yet")
    merged = work.state.parent / f"merged-{len(cells)}"
    if not merged.exists():
        fresh = merged.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        work.run(["dataset", "merge", *parts, "--out", fresh], until)
        fresh.rename(merged)
    return merged, max(cell.stat().st_mtime for cell in cells)


def _fresh(path: Path, since: float) -> bool:
    """Whether a file is there, and from after what it follows from."""
    return path.exists() and path.stat().st_mtime >= since


def _unless_more_comes(work: Work) -> None:
    """Raise OutOfTime while steps of measuring are to go on: what follows from them will, too."""
    stands = journal(work.state)
    left = [step for step in FITTED if stands.get(step, {}).get("state") in UNFINISHED]
    if left:
        raise OutOfTime(f"made from what there was; to go on: {', '.join(left)}")
