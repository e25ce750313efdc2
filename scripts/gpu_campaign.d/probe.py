"""What works on this GPU: the steps ``probe``, ``shares`` and ``power``, and what they found.

Each part runs in a process of its own (parts.py), so that none can keep another from being done.
``python probe.py PROBE.json`` prints what was found as tables.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import verdict
from machine import OutOfTime, Work

PARTS = {
    "machine": 20.0,
    "card": 20.0,
    "torch": 30.0,
    "nvml": 20.0,
    "mps": 45.0,
    "green": 45.0,
    "periods": 45.0,
}
"""The parts of the step ``probe``, and the longest that each may take, in seconds."""
OF_ANY_DEVICE = ("machine",)
"""Parts that a rehearsal on the CPU has, too."""
LEAST_S = 5.0
KEPT_S = 3.0
"""Between what a part is told and when it is stopped."""
HUNG_S = 5.0
"""How long the pipe of a part that was killed may stay open."""


def probe(work: Work, until: float) -> None:
    """The machine, the card, NVML, MPS, green contexts, update periods: ``probe.json``."""
    found = read(work.state, "probe.json")
    for name, limit in PARTS.items():
        if done(found.get(name)):
            continue
        left = min(limit, until - time.monotonic())
        if left < LEAST_S:
            raise OutOfTime(f"no time for the part {name}")
        if not work.on_gpu and name not in OF_ANY_DEVICE:
            found[name] = {"skipped": f"{work.device} is no GPU"}
        else:
            found[name] = look(work, name, left)
        work.save("probe.json", found)
    for line in table(found):
        work.log(line)


def shares(work: Work, until: float) -> None:
    """Which mechanism's shares are obeyed, and by which to measure: ``shares.json``."""
    found = read(work.state, "shares.json")
    if not done(found):
        if work.on_gpu:
            found = look(work, "shares", until - time.monotonic())
            found["mechanism"] = verdict.mechanism(found)
        else:
            found = {"skipped": f"{work.device} is no GPU", "mechanism": "cfs-quota"}
        work.save("shares.json", found)
    work.log(f"shares by {found['mechanism']}")
    for line in share_lines(found):
        work.log(line)


def power(work: Work, until: float) -> None:
    """A trace for ``replay``, and energy by counter against integral: ``power.json``."""
    found = read(work.state, "power.json")
    if not done(found):
        if work.on_gpu:
            found = look(work, "power", until - time.monotonic())
        else:
            found = {"skipped": f"{work.device} is no GPU"}
        work.save("power.json", found)


def mechanism(state: Path) -> str | None:
    """The share mechanism that the step ``shares`` chose; None: it was not done."""
    name = read(state, "shares.json").get("mechanism")
    return None if name is None else str(name)


def done(part: Mapping[str, Any] | None) -> bool:
    """Whether a part need not be done again."""
    return bool(part) and "error" not in (part or {})


def read(state: Path, name: str) -> dict[str, Any]:
    """A JSON document of the state; empty where there is none, or a broken one."""
    try:
        found: dict[str, Any] = json.loads((state / name).read_text())
    except (OSError, ValueError):
        return {}
    return found


def look(work: Work, name: str, seconds: float) -> dict[str, Any]:
    """Run a part; what it told, and ``error`` if it did not end well or in time."""
    command = [str(work.python), str(Path(__file__).with_name("parts.py")), name, work.device]
    process = subprocess.Popen(
        [*command, f"{max(1.0, seconds - KEPT_S):.1f}"],
        cwd=work.state,
        env={**os.environ, **work.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    trouble = None
    try:
        output, errors = process.communicate(timeout=seconds)
        if process.returncode != 0:
            lines = errors.strip().splitlines() or [f"ended with {process.returncode}"]
            trouble = lines[-1]
    except subprocess.TimeoutExpired:
        # once, so that daemons are ended; then for good
        _stop(process, signal.SIGINT, 10)
        _stop(process, signal.SIGKILL, 10)
        output = _rest(process)
        trouble = f"stopped after {seconds:.0f} s"
    found = told(output)
    return found if trouble is None else {**found, "error": trouble}


def _rest(process: subprocess.Popen[str]) -> str:
    """What a stopped part had told, also where one of its processes hangs in the driver."""
    try:
        return process.communicate(timeout=HUNG_S)[0]
    except subprocess.TimeoutExpired as error:
        told: bytes = error.output or b""  # not decoded, whatever the pipe was opened as
        return told.decode(errors="replace")


def _stop(process: subprocess.Popen[str], number: int, seconds: float) -> None:
    try:
        os.killpg(process.pid, number)
        process.wait(seconds)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        return


def told(output: str) -> dict[str, Any]:
    """What a part's lines say together; a later line adds to the earlier ones."""
    found: dict[str, Any] = {}
    for line in output.splitlines():
        with contextlib.suppress(TypeError, ValueError):  # something that a library printed
            found |= json.loads(line)
    return found


# --- tables ---------------------------------------------------------------------------------------


def table(found: Mapping[str, Any]) -> list[str]:
    """What the probe found, in lines for people."""
    lines = []
    for name in PARTS:
        part = found.get(name)
        if not part:
            lines.append(f"{name:<9} not done")
        elif "skipped" in part:
            lines.append(f"{name:<9} skipped: {part['skipped']}")
        else:
            lines += [f"{name:<9} {line}" for line in _LINES.get(name, _plain)(part)]
            if "error" in part:
                lines.append(f"{name:<9} failed: {part['error']}")
    return lines


def share_lines(found: Mapping[str, Any]) -> list[str]:
    """Throughput over shares, by mechanism: share, SMs, throughput alone and together."""
    lines = []
    for name in verdict.PREFERRED:
        tried = found.get(name)
        if tried is None:
            continue
        lines.append(
            f"{name}: obeyed {_yes(tried.get('obeyed'))}, at once {_yes(tried.get('concurrent'))}"
        )
        for group in tried["groups"]:
            if "error" in group:
                lines.append(f"  {_joined(group['shares'])}%: {group['error']}")
                continue
            lines.append(
                f"  {_joined(group['shares'])}%: SMs {_joined(group['sm_counts'])}, alone"
                f" {_joined(group['alone'])}/s, together {_joined(group['together'])}/s"
            )
    return lines


def _plain(part: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {_short(value)}" for key, value in part.items() if key != "error"]


def _calls(part: Mapping[str, Any]) -> list[str]:
    tried = {name: each for name, each in part.items() if isinstance(each, dict)}
    return [
        f"{name}: {_short(each.get('value', each.get('error')))}"
        + (f" ({each['took_ms']:g} ms)" if "took_ms" in each else "")
        for name, each in tried.items()
    ]


def _periods(part: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, each in part.items():
        if isinstance(each, dict) and "period_ms" in each:
            lines.append(
                f"{name}: changes every {_number(each['period_ms'])} ms, seen every"
                f" {_number(each['sampled_every_ms'])} ms, {_number(each['lowest'])} to"
                f" {_number(each['highest'])}, half way up {_number(each['step_to_half_ms'])} ms"
                " after the load began"
            )
        elif name != "error":
            lines.append(f"{name}: {_short(each)}")
    return lines


_LINES = {"nvml": _calls, "periods": _periods}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _joined(values: Sequence[Any]) -> str:
    return "+".join(_number(value) for value in values)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _yes(value: bool | None) -> str:
    return "not known" if value is None else "yes" if value else "no"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    everything = json.loads(path.read_text())
    print("\n".join(share_lines(everything) if "mechanism" in everything else table(everything)))
