"""Traces of a GPU as CSV: what ``nvidia-smi --query-gpu=… --format=csv -lms N`` prints, or ours."""

from __future__ import annotations

import csv
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import numpy as np

from igniter_prof.errors import BadInput
from igniter_prof.files import read_text
from igniter_prof.monitors.power.trace import (
    POWER_DTYPE,
    SMI_DRAW,
    SMI_INSTANT,
    Trace,
    TraceInfo,
    unknown_rows,
)
from igniter_prof.units import NS_PER_MS, NS_PER_S, US_PER_MS

SMI: Final = {
    "power.draw.instant": "power_w",
    "power.draw": "power_w",
    "power.draw.average": "power_average_w",
    "clocks.current.sm": "sm_mhz",
    "clocks.sm": "sm_mhz",
    "clocks.current.memory": "memory_mhz",
    "clocks.mem": "memory_mhz",
    "temperature.gpu": "temperature_c",
    "utilization.gpu": "utilisation_pct",
    "utilization.memory": "memory_utilisation_pct",
    "memory.used": "memory_mib",
    "enforced.power.limit": "power_limit_w",
    "power.limit": "power_limit_w",
    "clocks_event_reasons.active": "throttle",
    "clocks_throttle_reasons.active": "throttle",
}
"""Our column by nvidia-smi's name; of two for the same column the first counts."""
UUIDS, NAMES, INDEXES = ("uuid", "gpu_uuid"), ("name", "gpu_name"), ("index",)
SMI_TIME: Final = "%Y/%m/%d %H:%M:%S.%f"
OUR_COLUMNS: Final = frozenset(POWER_DTYPE.names or ())


def read_csv(path: Path) -> tuple[Trace, TraceInfo]:
    """A trace from a CSV file with a header.

    Columns are nvidia-smi's (with ``timestamp``; units in brackets and after values are dropped)
    or those of POWER_DTYPE (with ``at_ns``, or ``at_s``). Others are ignored. What is no number
    (``[N/A]``) is missing.

    Raises:
        BadInput: no time or no known column, a line without its time, or several GPUs in one file.
    """
    lines = list(csv.reader(read_text(path).splitlines(), skipinitialspace=True))
    if not lines:
        raise BadInput("is empty", where=str(path))
    header = [name.partition("[")[0].strip() for name in lines[0]]
    rows = [[field.strip() for field in line] for line in lines[1:] if line]
    clock = next((name for name in ("at_ns", "at_s", "timestamp") if name in header), None)
    columns = _columns(header)
    if clock is None or not columns:
        raise BadInput(
            "has no time, or no column that is known",
            where=f"{path}, line 1",
            hint="nvidia-smi --query-gpu=timestamp,uuid,power.draw.instant --format=csv -lms 20",
        )
    for name in (*UUIDS, *INDEXES):
        if len(set(_of(header, rows, name))) > 1:
            raise BadInput(
                "holds several GPUs", where=str(path), hint="record one: nvidia-smi -i UUID ..."
            )
    trace = unknown_rows(len(rows))
    at = header.index(clock)
    for number, fields in enumerate(rows):
        try:
            trace["at_ns"][number] = _time_ns(clock, fields[at])
        except (ValueError, IndexError, OverflowError) as error:
            raise BadInput(f"no time in '{clock}'", where=f"{path}, row {number + 1}") from error
        for index, name in columns.items():
            value = _number(fields[index]) if index < len(fields) else math.nan
            if name != "throttle":
                trace[name][number] = value
            elif 0 <= value < 2**62:
                trace[name][number] = int(value)
    # nvidia-smi's clock has milliseconds: of samples in the same one the first stays
    _, first = np.unique(trace["at_ns"], return_index=True)
    trace = trace[np.sort(first)]
    info = TraceInfo(
        uuid=next(iter(_of(header, rows, *UUIDS)), "unknown"),
        name=next(iter(_of(header, rows, *NAMES)), None),
        power_field=_power_field(header),
    )
    return trace, info


def _columns(header: list[str]) -> dict[int, str]:
    """The index of each column that is read, and ours that it fills."""
    found: dict[int, str] = {}
    named = {**{name: name for name in OUR_COLUMNS - {"at_ns"}}, **SMI}
    for theirs, ours in named.items():
        if theirs in header and ours not in found.values():
            found[header.index(theirs)] = ours
    return found


def _of(header: list[str], rows: list[list[str]], *names: str) -> list[str]:
    """All values of the first of some columns that is there."""
    index = next((header.index(name) for name in names if name in header), None)
    return [] if index is None else [fields[index] for fields in rows if index < len(fields)]


def _power_field(header: list[str]) -> str | None:
    if "power_w" in header:
        return "power_w of a CSV file"
    if "power.draw.instant" in header:
        return SMI_INSTANT
    return SMI_DRAW if "power.draw" in header else None


def _time_ns(clock: str, text: str) -> int:
    if clock == "at_ns":
        return int(text)
    if clock == "at_s":
        return round(float(text) * NS_PER_S)
    # local time without a zone: only differences count
    at = datetime.strptime(text, SMI_TIME).replace(tzinfo=timezone.utc)
    return int(at.timestamp()) * NS_PER_S + at.microsecond * NS_PER_MS // US_PER_MS


def _number(text: str) -> float:
    """The number that a value begins with; NaN where it is none."""
    first = text.partition(" ")[0]
    try:
        return float(int(first, 16)) if first.startswith("0x") else float(first)
    except ValueError:
        return math.nan
