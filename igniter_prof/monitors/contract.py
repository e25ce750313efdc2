"""What every monitor is: a context around one cell that samples on its own clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from igniter_prof.records import Device, Endpoint, Usage


@dataclass(frozen=True)
class Scene:
    """The endpoints that a monitor is to watch; all are ready, and not yet loaded."""

    device: Device
    endpoints: tuple[Endpoint, ...]
    protocol: str
    """``http`` or ``grpc``: how Triton endpoints are asked (others: always HTTP)."""
    cores: tuple[int, ...]
    """The CPU cores that monitors may use."""
    usage: Callable[[int], Usage | None]
    """What a tenant's server has used so far; may be called from any thread."""
    headers: tuple[tuple[str, str], ...] = ()
    """What every request to the servers must carry (secrets: never stored)."""
    ca_file: Path | None = None


@dataclass(frozen=True)
class Seen:
    """What a monitor saw in the counted window."""

    tenants: tuple[Mapping[str, Any], ...] = ()
    """For each endpoint, fields of TenantMeasurement (plug-ins: ``{"extra": {their name: ...}}``);
    empty: nothing for any."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of Measurement."""
    traces: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Raw samples, stored with the cell by name; structured arrays, times as ``at_ns`` of the
    monotonic clock."""
    complete: bool = True
    """False: something was lost, so the cell is marked."""
    notes: tuple[str, ...] = ()
    """For people: what was lost, what is an estimate, what could not be had."""


@dataclass(frozen=True)
class Counted:
    """The counted window of a cell."""

    start_ns: int
    """Monotonic clock."""
    end_ns: int
    inferences: tuple[int, ...]
    """Answered with success in it, for each tenant; a batch of b counts b."""
    requests: tuple[npt.NDArray[np.void], ...] = ()
    """Raw requests of each tenant as the client saw them, (n,) of REQUEST_DTYPE."""


class Monitor(Protocol):
    """Watches one cell. Entered before its tenants start, left after they ended.

    It samples in threads or processes of its own from ``attach`` on and stamps what it sees with
    the monotonic clock, because the window is known only afterwards. It never raises for what it
    cannot see: that is a note, and ``complete`` is False.
    """

    def __enter__(self) -> Monitor:
        """Begin to watch the device, still without tenants."""

    def attach(self, scene: Scene) -> None:
        """Begin to watch the endpoints; the load starts when this returns."""

    def seen(self, window: Counted) -> Seen:
        """What was seen in the window; called at most once, while the tenants still run."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching; nothing of it stays."""


MonitorFactory = Callable[[Device, str | None], Monitor]
"""From a device and the text after the colon of ``name:argument`` to a monitor of one cell.

Raises MissingCapability where it cannot run here (a right, a driver, a tool), BadInput for an
argument that is none; checked once before a sweep begins.
"""
