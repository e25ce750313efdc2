"""A thread that looks at something again and again while a cell runs."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence

from igniter_prof.errors import BadInput, IgprofError

STOP_TIMEOUT_S = 15.0
"""Longer than any look may take: its own time-out comes first."""


class Sampler:
    """Calls ``take`` at a steady rate in a thread of its own; a slow look delays the next.

    ``take`` is never called twice at the same time, and stamps what it sees itself. After it
    raised, it is not called again; ``trouble`` says why.
    """

    def __init__(self, take: Callable[[], None], rate_hz: float) -> None:
        self._take = take
        self._period_s = 1 / rate_hz
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.trouble: str | None = None

    def start(self, name: str, cores: Sequence[int] = ()) -> None:
        """Look once, and then in a thread that keeps to ``cores`` (empty: any)."""
        self.look()
        self._thread = threading.Thread(target=self._run, args=(cores,), name=name, daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Look now, in the caller's thread."""
        with self._turn:
            if self.trouble is not None:
                return
            try:
                self._take()
            except IgprofError as error:
                self.trouble = error.note
            except Exception as error:  # a defect of ours or of a library: it costs the samples
                self.trouble = f"{type(error).__name__}: {error}"

    def stop(self) -> None:
        """End the thread; nothing is looked at afterwards."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
            self._thread = None

    def _run(self, cores: Sequence[int]) -> None:
        with contextlib.suppress(OSError):  # cores that went away since
            if cores:
                os.sched_setaffinity(0, cores)  # 0: of this thread alone
        due_s = time.monotonic() + self._period_s
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            self.look()
            # what was missed is not made up for: samples in a burst tell nothing
            due_s = max(due_s + self._period_s, time.monotonic())


def rate_of(
    argument: str | None, usual_hz: float, most_hz: float, monitor: str, least_hz: float = 0.0
) -> float:
    """A rate in samples per second as a monitor's argument.

    Args:
        argument: the text after the colon; None: the usual rate.
        usual_hz: that rate.
        most_hz: the highest.
        monitor: its name, for the message.
        least_hz: the lowest; 0: any above it.

    Raises:
        BadInput: it is no number, or out of range.
    """
    if argument is None:
        return usual_hz
    try:
        rate_hz = float(argument)
    except ValueError:
        rate_hz = 0.0
    if not 0 < rate_hz <= most_hz or rate_hz < least_hz:
        span = f"of {least_hz:g} to" if least_hz else "above 0 and up to"
        raise BadInput(
            f"the monitor '{monitor}' takes a rate {span} {most_hz:g} samples/s",
            where=f"'{monitor}:{argument}'",
            hint=f"for instance {monitor}:{usual_hz:g}",
        )
    return rate_hz
