"""The process that sends one tenant's requests; ``Generator`` starts it with a socket's number.

A process of its own, so that neither other tenants' clients nor igprof itself share its interpreter
lock. It gets its request bodies ready-made over that socket, from which a lost parent is noticed
too: it then ends.

Threads send; the main thread talks to the parent. In a closed loop each thread keeps one request in
flight. In an open loop the threads take turns (leader and followers): the leader takes the next
intended instant, sleeps until then, hands the lead on and sends, so that a late answer never delays
the next request as long as a thread is free.
"""

from __future__ import annotations

import gc
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from igniter_prof.load.arrivals import arrivals_s
from igniter_prof.load.job import Body, Job
from igniter_prof.load.senders import GrpcSender, HttpSender, RequestFailed, Sender

REPORT_S = 0.05
OPEN_LOOP_THREADS = 128
"""Most requests in flight in an open loop; beyond it requests go out late, and are marked so."""
ROW = struct.Struct("<qqqB")
"""intended_ns, sent_ns, done_ns, ok"""


@dataclass(frozen=True)
class Report:
    """What a worker tells its parent every ``REPORT_S``."""

    at_ns: int
    rows: bytes
    oldest_in_flight_ns: int | None
    failures: dict[str, int]
    first_failure: str | None
    cpu_s: float


@dataclass
class Shared:
    """What the threads of one worker share. List append and pop are atomic under CPython."""

    stop: threading.Event = field(default_factory=threading.Event)
    rows: list[tuple[int, int, int, int]] = field(default_factory=list)
    in_flight: dict[int, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    first_failure: str | None = None

    def send(self, sender: Sender, body: Body, intended_ns: int | None) -> bool:
        """Send one request, time it and record it; True if it succeeded."""
        thread = threading.get_ident()
        sent_ns = time.monotonic_ns()
        self.in_flight[thread] = sent_ns if intended_ns is None else intended_ns
        ok, done_ns = 1, 0
        try:
            answer = sender.send(body)
            done_ns = time.monotonic_ns()
            sender.judge(answer)
        except RequestFailed as error:
            ok, done_ns = 0, done_ns or time.monotonic_ns()
            self.failures[error.kind] = self.failures.get(error.kind, 0) + 1
            self.first_failure = self.first_failure or f"{error.kind}: {error}"
        self.rows.append((sent_ns if intended_ns is None else intended_ns, sent_ns, done_ns, ok))
        # after the row: a request is always either in flight or recorded
        self.in_flight.pop(thread, None)
        return bool(ok)


def _closed_loop(job: Job, shared: Shared, sender: Sender, start_ns: int, index: int) -> None:
    bodies = job.bodies
    turn = index
    _sleep_until(start_ns, shared.stop)
    while not shared.stop.is_set():
        if not shared.send(sender, bodies[turn % len(bodies)], None):
            shared.stop.wait(0.02)  # a dead server answers at once; do not spin on it
        turn += 1


class _Lead:
    """A lock that goes to whoever asked last, so that the thread and connection used last lead.

    In turn, each request would go out on the coldest of all connections.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiting: list[threading.Lock] = []

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.pop().release()
            else:
                self._held = False


class _Schedule:
    """Intended instants of an open loop, handed to one thread at a time."""

    def __init__(self, arrivals: Iterator[float], start_ns: int) -> None:
        self.lead = _Lead()
        self._arrivals = arrivals
        self._start_ns = start_ns
        self.index = 0
        self.next_ns = 0

    def take(self) -> tuple[int, int]:
        """The next request's number and intended instant; call with the lead held.

        ``next_ns`` stays that of the request in hand, so that the reporter sees it as in flight
        from its intended instant on even before it is sent.
        """
        self.next_ns = self._start_ns + int(next(self._arrivals) * 1e9)
        self.index += 1
        return self.index - 1, self.next_ns


def _open_loop(job: Job, shared: Shared, sender: Sender, schedule: _Schedule) -> None:
    bodies = job.bodies
    while not shared.stop.is_set():
        with schedule.lead:
            if shared.stop.is_set():
                break
            turn, intended_ns = schedule.take()
            if not _sleep_until(intended_ns, shared.stop):
                break
            shared.in_flight[threading.get_ident()] = intended_ns
        shared.send(sender, bodies[turn % len(bodies)], intended_ns)


def _sleep_until(instant_ns: int, stop: threading.Event) -> bool:
    """Sleep until an instant of the monotonic clock; False if stopped before."""
    while True:
        left_s = (instant_ns - time.monotonic_ns()) / 1e9
        if left_s <= 0:
            return True
        if left_s > 0.2:
            if stop.wait(left_s - 0.1):
                return False
        else:
            # time.sleep wakes closer to the instant than Event.wait does
            time.sleep(left_s)


def _senders(job: Job) -> list[Sender]:
    """A sender for each thread, connected before the clock runs where it is known to be used."""
    count = job.load.concurrency if job.load.kind == "closed" else OPEN_LOOP_THREADS
    senders: list[Sender]
    if job.protocol == "grpc":
        senders = [GrpcSender(job)] * count
        senders[0].connect()
        return senders
    senders = [HttpSender(job) for _ in range(count)]
    if job.load.kind == "closed":
        for sender in senders:
            sender.connect()
    # an open loop connects as many as it comes to need, the first of them in its warm-up
    return senders


def _start(
    job: Job, shared: Shared, senders: list[Sender], start_ns: int
) -> Callable[[], int | None]:
    """Start the sending threads; returns a function that tells the oldest unanswered instant."""
    if job.load.kind == "closed":
        for index, sender in enumerate(senders):
            thread = threading.Thread(
                target=_closed_loop, args=(job, shared, sender, start_ns, index), daemon=True
            )
            thread.start()
        return lambda: min(list(shared.in_flight.values()), default=None)

    schedule = _Schedule(arrivals_s(job.load, job.seed), start_ns)
    for sender in senders:
        arguments = (job, shared, sender, schedule)
        threading.Thread(target=_open_loop, args=arguments, daemon=True).start()

    def oldest() -> int | None:
        waiting = [*list(shared.in_flight.values()), schedule.next_ns]
        return min(waiting)

    return oldest


def serve(channel: Connection) -> None:
    """Take a job, warm nothing, send when told to, report until told to stop."""
    job: Job = channel.recv()
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    senders = _senders(job)
    sys.setswitchinterval(0.0005)
    gc.collect()
    gc.freeze()
    gc.disable()  # rows are tuples of ints without cycles; a collection would stop all threads
    channel.send("ready")
    start_ns: int = channel.recv()
    shared = Shared()
    oldest = _start(job, shared, senders, start_ns)
    while True:
        stopping = channel.poll(REPORT_S)
        if stopping:
            channel.recv()
            shared.stop.set()
        # taken before the rows: a request that ends in between is reported in both, never in none
        at_ns = time.monotonic_ns()
        oldest_ns = oldest()
        count = len(shared.rows)
        rows, shared.rows[:count] = shared.rows[:count], []
        channel.send(
            Report(
                at_ns=at_ns,
                rows=b"".join(ROW.pack(*row) for row in rows),
                oldest_in_flight_ns=oldest_ns,
                failures=dict(shared.failures),
                first_failure=shared.first_failure,
                cpu_s=time.process_time(),
            )
        )
        if stopping:
            channel.send("done")
            return


def main() -> None:
    """Entry point of the process; ends quietly when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    channel = Connection(int(sys.argv[1]))
    status = 0
    try:
        serve(channel)
    except (EOFError, ConnectionError):
        pass
    except BaseException:
        traceback.print_exc()
        status = 1
    # requests in flight must not keep the process: its threads are daemons
    os._exit(status)
