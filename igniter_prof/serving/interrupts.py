"""Putting off signals while something is cleaned up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off interrupts, so that an impatient second Ctrl-C leaves nothing behind.

    They take effect on leaving. A mask would not do: it is one thread's, the kernel hands the
    signal to another, and Python raises in the main thread all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    put_off: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        put_off.append(number)

    before = {}
    try:
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, later)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for pending in dict.fromkeys(put_off):
            signal.raise_signal(pending)
