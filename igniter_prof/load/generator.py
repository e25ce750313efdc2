"""The handle on a worker process: start it, collect what it measured, stop it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np
import numpy.typing as npt

from igniter_prof.errors import OutsideFailure
from igniter_prof.load.job import Job
from igniter_prof.load.worker import Report
from igniter_prof.records import REQUEST_DTYPE

READY_S = 60.0
# without the current folder on the path: it may hold a random.py
_WORKER = (
    "import sys; sys.path = [folder for folder in sys.path if folder];"
    "from igniter_prof.load.worker import main; main()"
)
_ROW_DTYPE = np.dtype(
    [("intended_ns", "<i8"), ("sent_ns", "<i8"), ("done_ns", "<i8"), ("ok", "u1")]
)


class LoadError(OutsideFailure):
    """The process that sends requests died or does not answer."""


@contextlib.contextmanager
def generators(count: int) -> Iterator[list[Generator]]:
    """That many load processes, starting up; enter it before the servers start, to lose no time."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Generator()) for _ in range(count)]


class Generator:
    """One tenant's client, in a process of its own. Use as a context manager.

    The process starts at once and is ready when ``wait_ready`` returns; requests are sent between
    ``start`` and ``stop``. ``collect`` takes over what it reported meanwhile.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # not -m: what is pickled must belong to the module, not to __main__
                [sys.executable, "-c", _WORKER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # gRPC's own log of connections that end is noise beside our statuses
                env={**os.environ, "GRPC_VERBOSITY": "NONE"},
                # Ctrl-C is for igprof to interpret
                start_new_session=True,
            )
        self._channel = Connection(ours.detach())
        self._chunks: list[npt.NDArray[np.void]] = []
        self.last_report: Report | None = None
        self.successes = 0
        self.failing = 0
        """Requests that failed since the last success."""
        self._stopped = False

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def assign(self, job: Job) -> None:
        """Hand over the job; sending it may block until the process has started."""
        with self._explained():
            self._channel.send(job)

    def wait_ready(self) -> None:
        """Wait until the process could send its first request. Raises LoadError."""
        with self._explained():
            if not self._channel.poll(READY_S):
                raise LoadError(f"the load process was not ready in {READY_S:.0f} s")
            self._channel.recv()

    def start(self, start_ns: int) -> None:
        """Begin to send at an instant of the monotonic clock."""
        with self._explained():
            self._channel.send(start_ns)

    def collect(self) -> None:
        """Take over all reports that have arrived, without waiting. Raises LoadError."""
        with self._explained():
            while not self._stopped and self._channel.poll():
                self._take(self._channel.recv())

    def stop(self) -> None:
        """Stop sending and collect the last report. Requests in flight are given up."""
        with self._explained():
            if not self._stopped:
                self._channel.send("stop")
            while not self._stopped:
                if not self._channel.poll(READY_S):
                    raise LoadError("the load process did not stop")
                self._take(self._channel.recv())

    def rows(self) -> npt.NDArray[np.void]:
        """All requests so far, in the order of their ends: (n,), REQUEST_DTYPE, phase 0."""
        rows = np.zeros(sum(len(chunk) for chunk in self._chunks), REQUEST_DTYPE)
        if self._chunks:
            joined = np.concatenate(self._chunks)
            self._chunks = [joined]
            for name in ("intended_ns", "sent_ns", "done_ns", "ok"):
                rows[name] = joined[name]
        return rows

    def answered_until(self, instant_ns: int) -> bool:
        """Whether every request meant for before that instant has ended and is collected."""
        report = self.last_report
        if report is None or report.at_ns < instant_ns:
            return False
        return report.oldest_in_flight_ns is None or report.oldest_in_flight_ns >= instant_ns

    def _take(self, message: Report | str) -> None:
        if isinstance(message, str):
            self._stopped = True
            return
        self.last_report = message
        if message.rows:
            chunk = np.frombuffer(message.rows, _ROW_DTYPE)
            self._chunks.append(chunk)
            good = np.flatnonzero(chunk["ok"])
            self.successes += len(good)
            if len(good):
                self.failing = len(chunk) - 1 - int(good[-1])
            else:
                self.failing += len(chunk)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            status = self._process.poll()
            raise LoadError(
                f"the load process ended unexpectedly (status {status})",
                hint="is memory short? dmesg shows what the kernel killed",
            ) from error
