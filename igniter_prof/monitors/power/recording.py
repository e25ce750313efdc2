"""Recorded traces of a GPU: reading them from what they are stored in, and recording one."""

from __future__ import annotations

import argparse
import io
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from igniter_prof.errors import BadInput, IgprofError, OutsideFailure
from igniter_prof.files import ZIP_DAMAGE, atomic_write, parse
from igniter_prof.monitors.power.buffer import Buffer
from igniter_prof.monitors.power.card import Card, nvml_library, start
from igniter_prof.monitors.power.smi import read_csv
from igniter_prof.monitors.power.trace import POWER_DTYPE, Trace, TraceInfo, unknown_rows
from igniter_prof.monitors.sampling import Sampler
from igniter_prof.records import Measurement
from igniter_prof.units import NS_PER_S

SUFFIXES: Final = (".npz", ".npy", ".csv", ".zip")
LARGEST_BYTES: Final = 256 << 20
"""Of a file and of what a member of it unpacks to; a trace of a day is 400 MB, of an hour 17."""


class Recording(NamedTuple):
    """Samples of a GPU that were taken at another time."""

    trace: Trace
    info: TraceInfo


def read_recording(path: Path) -> Recording:
    """A recorded trace.

    Args:
        path: ``.npz`` as ``--record`` writes it, ``.npy`` (rows of POWER_DTYPE), ``.csv`` (of
            nvidia-smi, or with the columns of POWER_DTYPE), or ``.zip`` (a cell of a profile that
            the monitor nvml watched).

    Raises:
        BadInput: it is none of these, is damaged, too large, or its times go back.
    """
    if path.suffix not in SUFFIXES:
        raise BadInput(
            "is no recorded trace by its name",
            where=str(path),
            hint=f"known: {', '.join(SUFFIXES)}",
        )
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise BadInput("is too large for a recorded trace", where=str(path))
        trace, info = _READERS[path.suffix](path)
    except FileNotFoundError as error:
        raise BadInput("no such file", where=str(path), hint="check the path") from error
    except ZIP_DAMAGE as error:
        raise BadInput(f"is no recorded trace, or damaged ({error})", where=str(path)) from error
    if len(trace) < 2 or (np.diff(trace["at_ns"]) <= 0).any():
        raise BadInput("has too few samples, or their times do not rise", where=str(path))
    return Recording(trace, info)


def write_recording(path: Path, recording: Recording) -> None:
    """Write a trace as ``.npz``, atomically. Raises as ``files.atomic_write``."""
    with atomic_write(path) as out:
        np.savez_compressed(
            out, trace=recording.trace, info=np.array(recording.info.model_dump_json())
        )


def record(nvml: Any, which: str, seconds: float, rate_hz: float) -> Recording:
    """Sample a GPU for some time.

    Raises:
        MissingCapability: no such GPU, no driver, or it tells no power.
        OutsideFailure: it was lost meanwhile.
    """
    start(nvml)
    try:
        card, buffer = Card(nvml, which), Buffer()
        sampler = Sampler(lambda: buffer.append(card.read()), rate_hz)
        sampler.start("igprof-nvml")
        try:
            until = time.monotonic() + seconds
            while sampler.trouble is None and (left := until - time.monotonic()) > 0:
                time.sleep(min(left, 0.1))
        finally:
            sampler.stop()
    finally:
        nvml.nvmlShutdown()
    if sampler.trouble is not None:
        raise OutsideFailure(sampler.trouble)
    return Recording(buffer.trace(), card.info)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m igniter_prof.monitors.nvml``; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m igniter_prof.monitors.nvml",
        description="Record power, energy and state of a GPU, to be played by the monitor replay.",
    )
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help=".npz to write")
    parser.add_argument("--seconds", type=float, default=10.0, help="default: 10")
    parser.add_argument("--device", default="0", metavar="D", help="UUID or index; default: 0")
    parser.add_argument("--hz", type=float, default=50.0, help="samples a second; default: 50")
    given = parser.parse_args(arguments)
    if given.record.suffix != ".npz":
        parser.error("FILE must end in .npz")
    if not 0 < given.seconds <= 86400 or not 1 <= given.hz <= 1000:
        parser.error("--seconds must be in (0, 86400], --hz in [1, 1000]")
    try:
        which = given.device.removeprefix("cuda:")
        recording = record(nvml_library(), which, given.seconds, given.hz)
        write_recording(given.record, recording)
    except IgprofError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    trace = recording.trace
    span_s = float(trace["at_ns"][-1] - trace["at_ns"][0]) / NS_PER_S
    print(f"{given.record}: {len(trace)} samples of {recording.info.uuid} in {span_s:.1f} s")
    return 0


def _from_npz(path: Path) -> Recording:
    _check_members(path)
    with np.load(path, allow_pickle=False) as members:
        trace = _as_trace(members["trace"])
        info = TraceInfo.model_validate_json(str(members["info"]))
    return Recording(trace, info)


def _from_npy(path: Path) -> Recording:
    return Recording(_as_trace(np.load(path, allow_pickle=False)), TraceInfo())


def _from_cell(path: Path) -> Recording:
    """The trace in a cell of a profile, and what its measurement tells of it."""
    import json

    _check_members(path)
    with zipfile.ZipFile(path) as archive:
        if "traces/nvml.npy" not in archive.namelist():
            raise BadInput(
                "holds no trace of the monitor nvml",
                where=str(path),
                hint="only a cell measured with --monitors nvml has one; a replay is no recording",
            )
        samples = np.load(io.BytesIO(archive.read("traces/nvml.npy")), allow_pickle=False)
        document = json.loads(archive.read("measurement.json"))
    measurement = parse(document, Measurement, str(path))
    info = TraceInfo(window_start_ns=measurement.window_start_ns)
    if (power := measurement.power) is not None:
        info = info.model_copy(
            update={
                "uuid": power.uuid,
                "name": power.name,
                "scope": power.scope,
                "power_field": power.power_field,
                "part_time": power.part_time_sensor,
                "bare_idle_w": power.bare_idle_w,
                "context_idle_w": power.context_idle_w,
            }
        )
    return Recording(_as_trace(samples), info)


def _from_csv(path: Path) -> Recording:
    return Recording(*read_csv(path))


_READERS: Final = {".npz": _from_npz, ".npy": _from_npy, ".csv": _from_csv, ".zip": _from_cell}


def _check_members(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > LARGEST_BYTES:
                raise BadInput(f"{member.filename} in it is too large", where=str(path))


def _as_trace(samples: Any) -> Trace:
    """Rows with some of the columns of POWER_DTYPE as rows with all. Raises ValueError."""
    types = samples.dtype.fields or {}
    if samples.ndim != 1 or "at_ns" not in types:
        raise ValueError("no rows with a column at_ns")
    trace = unknown_rows(len(samples))
    for name in POWER_DTYPE.names or ():
        if name in types:
            whole = POWER_DTYPE[name].kind == "i"
            if types[name][0].kind not in ("iu" if whole else "iuf"):
                raise ValueError(f"the column {name} has the type {types[name][0]}")
            trace[name] = samples[name]
    return trace
