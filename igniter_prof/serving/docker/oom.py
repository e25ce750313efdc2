"""OOM kills, seen while the counter is still there: it goes with the container's control group.

The kernel tells of a lack of memory at once: version 1 by an eventfd, version 2 by a change of
``memory.events``. A thread waits for that and reads the counter before the engine has collected the
dead container and removed its group.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
import time
from collections.abc import Callable

from igniter_prof.serving.cgroup import Group

CATCH_S = 2.0
"""How long after a notice the counter is read again and again."""
CATCH_EVERY_S = 0.0005
POLL_S = 0.01
"""How often the counter is read where the kernel may not be asked to tell (no root)."""


class OomWatch:
    """The highest count of OOM kills that was seen of one control group."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._lock = threading.Lock()
        self._kills = 0
        self._wake, self._waker = os.pipe()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="igprof-oom", daemon=True)
        self._thread.start()

    @property
    def kills(self) -> int:
        """How often the kernel killed a process of the group for want of memory."""
        self._read()
        return self._kills

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        os.write(self._waker, b".")
        self._thread.join()
        os.close(self._wake)
        os.close(self._waker)

    def _read(self) -> bool:
        """Read the counter; whether it is still there."""
        found = self._group.oom_kills()
        with self._lock:
            self._kills = max(self._kills, found or 0)
        return found is not None

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                notice, quieten = self._subscribe(stack)
            except OSError:
                self._poll()
                return
            poller = select.poll()
            poller.register(self._wake, select.POLLIN)
            # files of the kernel tell of a change as an exceptional condition
            poller.register(notice, select.POLLIN if self._group.version == 1 else select.POLLPRI)
            while not self._closed.is_set():
                ready = {descriptor for descriptor, _ in poller.poll()}
                if notice not in ready:
                    continue
                if not quieten():
                    self._read()
                    continue
                deadline = time.monotonic() + CATCH_S
                before = self._kills
                while not self._closed.is_set() and time.monotonic() < deadline:
                    if not self._read():
                        return  # the group is gone
                    if self._kills > before:
                        break
                    time.sleep(CATCH_EVERY_S)

    def _poll(self) -> None:
        while not self._closed.wait(POLL_S):
            if not self._read():
                return

    def _subscribe(self, stack: contextlib.ExitStack) -> tuple[int, Callable[[], bool]]:
        """The descriptor that gets ready at a notice, and what makes it quiet again.

        The latter says whether there was no memory left. Version 2 also tells, all the time, of
        groups at their cap that only lose page cache: reading on would cost them CPU time.
        """
        folder = self._group.memory
        if folder is None:
            raise FileNotFoundError("no memory controller")
        if self._group.version == 2:
            events = os.open(folder / "memory.events", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, events)
            seen = _shortages(os.read(events, 4096))  # from here on changes count

            def changed() -> bool:
                nonlocal seen
                before, seen = seen, _shortages(os.pread(events, 4096, 0))
                return seen > before

            return events, changed
        counter = os.open(folder / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, counter)
        notice = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        stack.callback(os.close, notice)
        control = os.open(folder / "cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(control, f"{notice} {counter}".encode())
        finally:
            os.close(control)

        def quieten() -> bool:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(notice)
            return True

        return notice, quieten


def _shortages(events: bytes) -> int:
    """How often an allocation was about to fail, by ``memory.events``."""
    found = re.search(rb"^oom (\d+)$", events, re.MULTILINE)
    return int(found[1]) if found else 0
