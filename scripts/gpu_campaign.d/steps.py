"""The steps of the campaign: their order, their time, what is done already."""

from __future__ import annotations

import importlib
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import machine
from machine import JOURNAL, OutOfTime, Work, journal

Step = Callable[[Work, float], None]

MODULES = {
    "probe": "probe",
    "shares": "probe",
    "cold": "measure",
    "solo": "measure",
    "pairs": "measure",
    "power": "probe",
    "triples": "measure",
    "quads": "measure",
    "scales": "measure",
    "again": "measure",
    "fit": "conclude",
    "plan": "conclude",
    "evaluate": "conclude",
}
"""Each step, in order, and the module whose function of that name it is."""
ORDER = tuple(MODULES)
LIMITS_S = {"probe": 60.0, "shares": 90.0, "cold": 60.0, "power": 60.0}
"""The longest that a step may take, beside the time that is left."""
PACKING_S = 20.0
"""Kept back for packing what there is."""
LEAST_S = 10.0
"""No step is begun with less time than that."""


def run(
    device: str, out: Path, until: float, *, only: tuple[str, ...] | None = None, quick: bool
) -> int:
    """Do the steps that are not done yet, until the time is up; always packs what there is.

    Returns:
        0 if something usable is in ``out``, else 4.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = machine.state_folder()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        work = machine.prepare(device, out, quick=quick)
        for name in only or ORDER:
            if time.monotonic() >= until - PACKING_S - LEAST_S:
                break
            _do(name, work, until - PACKING_S)
    except (Exception, KeyboardInterrupt):
        _note(state, traceback.format_exc())
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        summary = _summary(state)
        (out / "summary.txt").write_text(summary)
        print(summary, flush=True)
        machine.pack_state(state, out)
        signal.signal(signal.SIGTERM, before)
    return 0 if any(each["state"] != "failed" for each in journal(state).values()) else 4


def _do(name: str, work: Work, until: float) -> None:
    """One step; whatever happens in it, the next can begin."""
    entries = journal(work.state)
    if entries.get(name, {}).get("state") == "done":
        return
    began = time.monotonic()
    limit = min(until, began + LIMITS_S.get(name, until - began))
    work.log(f"== {name} (at most {limit - began:.0f} s)")
    entry: dict[str, Any] = {"state": "done"}
    try:
        step: Step = getattr(importlib.import_module(MODULES[name]), name)
        step(work, limit)
    except OutOfTime as error:
        entry = {"state": "unfinished", "detail": str(error)}
    except Exception as error:
        entry = {"state": "failed", "detail": f"{type(error).__name__}: {error}"}
        _note(work.state, traceback.format_exc())
    spent = round(time.monotonic() - began, 1)
    entry["seconds"] = round(spent + entries.get(name, {}).get("seconds", 0.0), 1)
    work.save(JOURNAL, {**entries, name: entry})
    work.log(f"== {name}: {entry['state']} after {spent} s {entry.get('detail', '')}".rstrip())


def _summary(state: Path) -> str:
    entries = journal(state)
    lines = ["step       state        seconds  detail"]
    for name in ORDER:
        entry = entries.get(name, {"state": "not begun", "seconds": 0})
        lines.append(
            f"{name:<10} {entry['state']:<12} {entry['seconds']:>7}  {entry.get('detail', '')}"
        )
    log = state / "log.txt"
    tail = log.read_text(errors="replace").splitlines()[-40:] if log.exists() else []
    return "\n".join([*lines, "", "the log's end:", *tail, ""])


def _note(state: Path, text: str) -> None:
    state.mkdir(parents=True, exist_ok=True)
    with (state / "log.txt").open("a") as log:
        log.write(text + "\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
