"""The monitor ``replay``: a recorded trace of a GPU in the place of a GPU, for tests and elsewhere.

It never passes for a measurement: its ``source`` is ``replay:<file>``, the estimates of tenants
name it, its samples are stored as ``traces/replay.npy``, and ``power_w`` and ``energy_j`` of the
measurement stay empty.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType

from igniter_prof.errors import BadInput
from igniter_prof.monitors.contract import Counted, Scene, Seen
from igniter_prof.monitors.power import Trace, TraceInfo, analyse
from igniter_prof.monitors.power.recording import SUFFIXES, Recording, read_recording
from igniter_prof.records import Device, Tenant
from igniter_prof.units import NS_PER_S

KEPT_NS = NS_PER_S
"""How much of the recording before and after the window is stored with the cell."""


def replay(device: Device, argument: str | None) -> ReplayMonitor:
    """The monitor that plays ``replay:FILE``; on any device.

    Raises:
        BadInput: no file is named, or it is no recorded trace.
    """
    if argument is None:
        raise BadInput(
            "the monitor 'replay' needs a recorded trace",
            hint=f"replay:FILE, where FILE ends in {', '.join(SUFFIXES)}",
        )
    path = Path(argument)
    return ReplayMonitor(read_recording(path), path.name)


class ReplayMonitor:
    """Plays one recording for one cell."""

    def __init__(self, recording: Recording, name: str) -> None:
        self._recording = recording
        self._name = name
        self._tenants: list[Tenant] = []

    def __enter__(self) -> ReplayMonitor:
        """Nothing to begin."""
        return self

    def attach(self, scene: Scene) -> None:
        """Note the tenants."""
        self._tenants = [endpoint.tenant for endpoint in scene.endpoints]

    def seen(self, window: Counted) -> Seen:
        """What the monitor nvml would have seen of these samples; they are not looped."""
        trace, info = at_window(self._recording, window, f"replay:{self._name}")
        seen = analyse(trace, info, window, self._tenants)
        of = f"{info.name or 'a GPU'}, {info.uuid}"
        notes = [f"recorded, not measured here: {self._name} ({of})", *seen.notes]
        if trace["at_ns"][-1] < window.end_ns:
            notes.insert(1, "the recording ends before the window, and it is not played again")
        kept = trace[
            (trace["at_ns"] >= window.start_ns - KEPT_NS)
            & (trace["at_ns"] <= window.end_ns + KEPT_NS)
        ]
        return replace(seen, traces={"replay": kept}, notes=tuple(notes))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to end."""


def at_window(recording: Recording, window: Counted, source: str) -> tuple[Trace, TraceInfo]:
    """A recording on the clock of a window.

    Where the window of the recorded cell began, or else its first sample, comes to lie at the
    window's begin.
    """
    trace, info = recording.trace.copy(), recording.info
    begin_ns = int(trace["at_ns"][0]) if info.window_start_ns is None else info.window_start_ns
    trace["at_ns"] += window.start_ns - begin_ns
    return trace, info.model_copy(update={"source": source, "window_start_ns": window.start_ns})
