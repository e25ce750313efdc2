"""The handle on a capture that runs: start it, let it be, end it and take what it saw."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

import igniter_prof
from igniter_prof.capture import bpf, interfaces, ring
from igniter_prof.capture.clocks import Readings
from igniter_prof.capture.conversations import GRPC, TCP
from igniter_prof.capture.exchanges import PAIRED, ROW
from igniter_prof.capture.packets import Dissector, Server
from igniter_prof.capture.worker import receive, send
from igniter_prof.errors import MissingCapability, OutsideFailure

ROW_DTYPE = np.dtype(
    [
        ("connection", "<u4"),
        ("label", "<u4"),
        ("outcome", "<u4"),
        ("request_ns", "<i8"),
        ("request_end_ns", "<i8"),
        ("response_ns", "<i8"),
        ("response_end_ns", "<i8"),
        ("request_bytes", "<u8"),
        ("response_bytes", "<u8"),
    ]
)
"""One row a request; times of first and last bytes, -1 where not seen."""
TIMES = ("request_ns", "request_end_ns", "response_ns", "response_end_ns")
assert ROW_DTYPE.itemsize == ROW.size

START_S = 20.0
END_S = 60.0
WATCH_S = 0.05
HEAD_BLOCKS, WHOLE_BLOCKS, WRITE_BLOCKS = 64, 128, 256
"""Size of the ring in MiB where heads suffice, where whole packets are needed, and where they are
written to a file."""
HURRY_ABOVE = 0.1
"""Part of the ring that waits, from which on the capturing process gets its full priority."""
NICE = 5
CAP_SYS_NICE = 23
_WORKER = (
    "import sys; sys.path.insert(0, sys.argv[2]);"
    "from igniter_prof.capture.worker import main; main()"
)


@dataclass(frozen=True)
class Captured:
    """What a capture saw."""

    rows: npt.NDArray[np.void]
    """(n,) of ROW_DTYPE, in the order in which the requests ended."""
    labels: tuple[tuple[int, str], ...]
    """(index of the server, what was asked for) by the label of rows."""
    servers: tuple[tuple[bytes, int], ...]
    """Address and port by index."""
    counters: tuple[tuple[int, int, int], ...]
    """Packets, retransmitted ones, merged ones of each server."""
    packets: int
    drops: int | None = None
    """By the kernel; None: not known (a file)."""
    freezes: int | None = None
    """Times that the ring was full."""
    connections: int = 0
    midway: int = 0
    """Connections that began before."""
    encrypted: int = 0
    opaque: int = 0
    cut: int = 0
    unsolicited: int = 0
    not_understood: int = 0
    stepped: bool = False
    """The wall clock was set meanwhile."""
    cpu_s: float | None = None
    """Of the capturing process."""
    write_error: str | None = None
    """Why not all packets are in the file that they were written to."""
    notes: tuple[str, ...] = ()

    @property
    def paired(self) -> npt.NDArray[np.bool_]:
        """Which rows have their whole response. (n,)"""
        found: npt.NDArray[np.bool_] = self.rows["outcome"] == PAIRED
        return found

    def server_of_rows(self) -> npt.NDArray[np.int64]:
        """The index of each row's server. (n,)"""
        of_label = np.array([server for server, _ in self.labels] or [0], np.int64)
        found: npt.NDArray[np.int64] = of_label[self.rows["label"]]
        return found


def captured_by(dissector: Dissector, notes: tuple[str, ...] = ()) -> Captured:
    """What a dissector has found in this process, such as from a file."""
    ledger = dissector.ledger
    return Captured(
        rows=np.frombuffer(bytes(ledger.rows), ROW_DTYPE),
        labels=tuple((server, label.decode(errors="replace")) for server, label in ledger.labels),
        servers=tuple(dissector.servers),
        counters=tuple(
            (each.packets, each.retransmitted, each.merged) for each in dissector.counters
        ),
        packets=dissector.packets,
        connections=ledger.connections,
        midway=ledger.midway,
        encrypted=ledger.encrypted,
        opaque=ledger.opaque,
        cut=ledger.cut,
        unsolicited=ledger.unsolicited,
        not_understood=dissector.not_understood,
        notes=notes,
    )


def check() -> None:
    """Whether packets can be captured here; a socket is really opened, a filter compiled.

    Raises:
        MissingCapability: no right to it, or no libpcap.
    """
    program = bpf.compile_program("tcp port 1", bpf.HEADERS)
    _open(program, 1, ignore_outgoing=True).close()


class Capture:
    """A capture of one interface, in a process of its own. Use as a context manager."""

    def __init__(
        self,
        interface: str,
        servers: Sequence[Server],
        *,
        cores: Sequence[int] = (),
        write_fd: int | None = None,
    ) -> None:
        """Set a capture up; it begins when it is entered.

        Args:
            interface: where the packets pass.
            servers: whose connections are looked at.
            cores: that the capturing process may use; empty: all.
            write_fd: an open file that gets all their packets, whole, as pcap.
        """
        self.interface = interface
        self._servers = tuple(servers)
        self._cores = tuple(cores)
        self._write_fd = write_fd
        self._stack = contextlib.ExitStack()
        self._ended = threading.Event()
        self._readings: Readings | None = None

    def __enter__(self) -> Capture:
        """Begin.

        Raises:
            BadInput: there is no such interface.
            MissingCapability: no right to capture, or no libpcap.
            OutsideFailure: the capturing process did not start.
        """
        interfaces.check(self.interface)
        protocols = {server.protocol for server in self._servers}
        whole = self._write_fd is not None or GRPC in protocols
        keep = bpf.HEADERS if protocols == {TCP} else bpf.HEADS
        text = bpf.expression(self._servers, all_packets=self._write_fd is not None)
        everything = bpf.compile_program(text, bpf.WHOLE)
        first = everything if whole else bpf.compile_program(text, keep)
        loopback = interfaces.is_loopback(self.interface)
        blocks = WHOLE_BLOCKS if whole else HEAD_BLOCKS
        if self._write_fd is not None:
            blocks = WRITE_BLOCKS
        with contextlib.ExitStack() as stack:
            packets = stack.enter_context(_open(first, blocks, ignore_outgoing=loopback))
            self._ring = ring.Ring(packets, blocks)
            stack.callback(self._ring.memory.close)
            ours, theirs = socket.socketpair()
            self._channel = stack.enter_context(ours)
            self._channel.settimeout(START_S)
            with theirs:
                self._process = self._start(theirs, packets)
            stack.callback(self._kill)
            # who writes all packets to a file has more to do than can wait
            self._may_hurry = self._write_fd is None and _may_raise_priority()
            job = {
                "packets_fd": packets.fileno(),
                "interface": self.interface,
                "blocks": blocks,
                "servers": [
                    [each.address.hex(), each.port, each.protocol] for each in self._servers
                ],
                "mtu": interfaces.mtu(self.interface) or 65535,
                "whole": None if whole or protocols == {TCP} else everything.hex(),
                "write_fd": self._write_fd,
                "cores": list(self._cores),
                "idle": self._may_hurry,
                "nice": 0 if self._may_hurry or self._write_fd is not None else NICE,
            }
            with self._explained():
                send(self._channel, json.dumps(job).encode())
                receive(self._channel)
            self._readings = Readings()
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
            stack.callback(self._watcher.join)
            stack.callback(self._ended.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def end(self) -> Captured:
        """End the capture and take what it saw, with times of the monotonic clock.

        Raises:
            OutsideFailure: the capturing process died or does not answer.
        """
        assert self._readings is not None
        self._ended.set()
        self._watcher.join()
        self._set_idle(False)
        self._channel.settimeout(END_S)
        with self._explained():
            send(self._channel, b"{}")
            found = json.loads(receive(self._channel))
            rows = np.frombuffer(receive(self._channel), ROW_DTYPE).copy()
        self._readings.read()
        for name in TIMES:
            rows[name] = self._readings.to_monotonic(rows[name])
        return Captured(
            rows=rows,
            labels=tuple((server, label) for server, label in found["labels"]),
            servers=tuple((bytes.fromhex(address), port) for address, port in found["servers"]),
            counters=tuple(tuple(each) for each in found["counters"]),
            stepped=self._readings.stepped,
            notes=tuple(found["notes"]),
            **{name: found[name] for name in _PLAIN},
        )

    def _start(self, channel: socket.socket, packets: socket.socket) -> subprocess.Popen[bytes]:
        descriptors = [channel.fileno(), packets.fileno()]
        if self._write_fd is not None:
            descriptors.append(self._write_fd)
        root = Path(igniter_prof.__file__).parents[1]
        # -I -S: nothing but the standard library, so that it is there at once and small
        command = [sys.executable, "-I", "-S", "-c", _WORKER, str(channel.fileno()), str(root)]
        return subprocess.Popen(
            command,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for igprof to interpret
        )

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _watch(self) -> None:
        """Read the clocks; let the capturing process run first where it falls behind.

        It dissects at the lowest priority, so that it disturbs nobody. If that is too little, the
        ring fills: then it gets an ordinary one until it has caught up.
        """
        assert self._readings is not None
        hurried = False
        while not self._ended.wait(WATCH_S):
            self._readings.read()
            if self._may_hurry:
                backlog = self._ring.backlog()
                if hurried != (backlog > (0 if hurried else HURRY_ABOVE)):
                    hurried = not hurried
                    self._set_idle(not hurried)

    def _set_idle(self, idle: bool) -> None:
        policy = os.SCHED_IDLE if idle else os.SCHED_OTHER
        with contextlib.suppress(OSError):  # it is about the disturbance only
            os.sched_setscheduler(self._process.pid, policy, os.sched_param(0))

    @contextlib.contextmanager
    def _explained(self) -> Any:
        try:
            yield
        except (EOFError, OSError) as error:
            self._process.kill()
            said = b"" if self._process.stderr is None else self._process.stderr.read()
            last = said.decode(errors="replace").strip().splitlines()
            reason = last[-1] if last else str(error) or type(error).__name__
            raise OutsideFailure(
                f"the capturing process ended unexpectedly: {reason}", where=self.interface
            ) from error


_PLAIN = (
    "packets",
    "drops",
    "freezes",
    "connections",
    "midway",
    "encrypted",
    "opaque",
    "cut",
    "unsolicited",
    "not_understood",
    "cpu_s",
    "write_error",
)


def _open(program: ring.Program, blocks: int, *, ignore_outgoing: bool) -> socket.socket:
    try:
        return ring.open_socket(program, blocks, ignore_outgoing=ignore_outgoing)
    except (OSError, AttributeError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.EPERM, errno.EACCES):
            python = Path(sys.executable).resolve()
            raise MissingCapability(
                "no right to capture packets (CAP_NET_RAW)",
                hint=f"sudo setcap cap_net_raw,cap_sys_nice+ep {python}, or run it as root",
            ) from error
        raise MissingCapability(
            f"packets cannot be captured here: {error}",
            hint="it takes Linux with packet sockets, and memory for their ring",
        ) from error


def _may_raise_priority() -> bool:
    """Whether a process that was made idle may be given its ordinary priority again."""
    if resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20:
        return True
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> CAP_SYS_NICE & 1)
    return False
