"""Rows that one thread appends and another copies, without a Python object for each number."""

from __future__ import annotations

import threading

import numpy as np

from igniter_prof.monitors.power.trace import POWER_DTYPE, Trace

CHUNK = 4096


class Buffer:
    """Samples of a GPU in time order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._full: list[Trace] = []
        self._chunk = np.empty(CHUNK, POWER_DTYPE)
        self._count = 0

    def append(self, row: tuple[float, ...]) -> None:
        """Add a row of POWER_DTYPE."""
        with self._lock:
            if self._count == CHUNK:
                self._full.append(self._chunk)
                self._chunk = np.empty(CHUNK, POWER_DTYPE)
                self._count = 0
            self._chunk[self._count] = row
            self._count += 1

    @property
    def last_ns(self) -> int:
        """When the last row was taken; 0: there is none."""
        with self._lock:
            if self._count:
                return int(self._chunk["at_ns"][self._count - 1])
            return int(self._full[-1]["at_ns"][-1]) if self._full else 0

    def trace(self) -> Trace:
        """A copy of all rows so far."""
        with self._lock:
            return np.concatenate([*self._full, self._chunk[: self._count]])
