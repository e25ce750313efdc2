"""The capturing process: reads the ring, keeps what is known of each request, tells it at the end.

``live`` starts it with the packet socket, which needs no right any more, and a socket to talk to.
Only the standard library is imported. Its messages are a length and that many bytes: JSON, and at
the end the rows of the ledger.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
import traceback
from typing import Any, BinaryIO

from igniter_prof.capture import ring
from igniter_prof.capture.packets import Dissector, Server

LENGTH = struct.Struct("=Q")
TICK_S = 0.2
LAST_S = 5.0
"""Longest wait at the end for packets that the kernel has counted and not handed over."""
PCAP_HEADER = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 101)
"""Nanoseconds, link type RAW: packets begin with their IP header."""
_PCAP_RECORD = struct.Struct("=IIII")


def send(channel: socket.socket, payload: bytes) -> None:
    """Send a message."""
    channel.sendall(LENGTH.pack(len(payload)))
    channel.sendall(payload)


def receive(channel: socket.socket) -> bytes:
    """Receive a message. Raises EOFError: the other side is gone."""
    (length,) = LENGTH.unpack(_exactly(channel, LENGTH.size))
    return _exactly(channel, length)


def _exactly(channel: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = channel.recv(min(length - len(data), 1 << 20))
        if not part:
            raise EOFError("the other side is gone")
        data += part
    return bytes(data)


class Worker:
    """The capture of one interface."""

    def __init__(self, channel: socket.socket, job: dict[str, Any]) -> None:
        self._channel = channel
        self._job = job
        self._packets = socket.socket(fileno=job["packets_fd"])
        self._ring = ring.Ring(self._packets, job["blocks"])
        servers = [Server(bytes.fromhex(a), port, protocol) for a, port, protocol in job["servers"]]
        self._dissector = Dissector(servers, job["mtu"])
        self._give: Any = self._dissector.packet
        self._out: BinaryIO | None = None
        if job["write_fd"] is not None:
            self._out = os.fdopen(job["write_fd"], "wb", 1 << 20)
            self._out.write(PCAP_HEADER)
            self._give = self._write
        self._whole = bytes.fromhex(job["whole"]) if job["whole"] else None
        """The filter that lets whole packets in, until it is in use."""
        self._accepted = 0
        self._drops = 0
        self._freezes = 0
        self._write_error: str | None = None
        self.notes: list[str] = []

    def run(self) -> None:
        """Capture until told to stop, then tell what was seen."""
        ring.bind(self._packets, self._job["interface"])
        send(self._channel, b"{}")
        _step_back(self._job)
        poll = select.poll()
        poll.register(self._packets, select.POLLIN | select.POLLERR)
        poll.register(self._channel, select.POLLIN)
        stopping = False
        while not stopping:
            for descriptor, events in poll.poll(TICK_S * 1000):
                if descriptor == self._channel.fileno():
                    receive(self._channel)
                    stopping = True
                elif events & select.POLLERR:
                    self._note_error()
            self._drain()
        self._last()
        self._tell()

    def _note_error(self) -> None:
        number = self._packets.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            text = f"the interface {self._job['interface']}: {os.strerror(number)}"
            if text not in self.notes:
                self.notes.append(text)

    def _drain(self) -> None:
        while self._ring.take(self._give):
            if self._whole is not None and self._needs_whole():
                ring.attach(self._packets, self._whole)
                self._whole = None

    def _needs_whole(self) -> bool:
        ledger = self._dissector.ledger
        return ledger.cut > 0 or ledger.framed > 0

    def _last(self) -> None:
        """Read on until all packets that the kernel has counted were seen."""
        self._count()
        wanted = self._accepted - self._drops
        deadline = time.monotonic() + LAST_S
        while self._dissector.packets < wanted:
            if time.monotonic() > deadline:
                self.notes.append("the kernel did not hand over its last packets")
                return
            time.sleep(0.005)
            self._drain()

    def _count(self) -> None:
        accepted, drops, freezes = ring.statistics(self._packets)
        self._accepted += accepted
        self._drops += drops
        self._freezes += freezes

    def _write(self, memory: Any, at: int, captured: int, length: int, time_ns: int) -> None:
        assert self._out is not None
        try:
            seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
            self._out.write(_PCAP_RECORD.pack(seconds, nanoseconds, captured, length))
            self._out.write(memory[at : at + captured])
        except OSError as error:
            self._write_error = error.strerror or str(error)
            self._give = self._dissector.packet
        self._dissector.packet(memory, at, captured, length, time_ns)

    def _tell(self) -> None:
        dissector = self._dissector
        dissector.close()
        if self._out is not None:
            try:
                self._out.close()
            except OSError as error:
                self._write_error = self._write_error or error.strerror or str(error)
        ledger = dissector.ledger
        summary = {
            "labels": [[server, label.decode(errors="replace")] for server, label in ledger.labels],
            "servers": [[address.hex(), port] for address, port in dissector.servers],
            "counters": [
                [each.packets, each.retransmitted, each.merged] for each in dissector.counters
            ],
            "connections": ledger.connections,
            "midway": ledger.midway,
            "encrypted": ledger.encrypted,
            "opaque": ledger.opaque,
            "cut": ledger.cut,
            "unsolicited": ledger.unsolicited,
            "not_understood": dissector.not_understood,
            "packets": dissector.packets,
            "accepted": self._accepted,
            "drops": self._drops,
            "freezes": self._freezes,
            "cpu_s": time.process_time(),
            "write_error": self._write_error,
            "notes": self.notes,
        }
        send(self._channel, json.dumps(summary).encode())
        send(self._channel, bytes(ledger.rows))


def _step_back(job: dict[str, Any]) -> None:
    """Let others run first."""
    if job["nice"]:
        os.nice(job["nice"])
    if job["idle"]:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """Entry point of the process; ends quietly when the parent is gone."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    status = 0
    try:
        job = json.loads(receive(channel))
        if job["cores"]:
            os.sched_setaffinity(0, job["cores"])
        Worker(channel, job).run()
    except (EOFError, ConnectionError):
        pass
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)
