"""The kernel's ring of captured packets: AF_PACKET with TPACKET_V3 [packet_mmap in Linux' docs].

The socket gives packets from their IP header on (SOCK_DGRAM), whatever the link below is, each
stamped by the kernel. Opening it needs CAP_NET_RAW; reading the ring, whoever has the socket.
"""

from __future__ import annotations

import mmap
import socket
import struct
import sys
from array import array
from collections.abc import Callable

SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, PACKET_IGNORE_OUTGOING = 5, 6, 10, 23
TPACKET_V3 = 2
SO_ATTACH_FILTER = 26
ETH_P_ALL = 0x0003

BLOCK_BYTES = 1 << 20
RETIRE_MS = 30
"""A block with packets in it is handed over after that long even if it is not full."""
STATUS_AT = 8 if sys.byteorder == "little" else 11
"""Where the low byte of a block's status is."""
OF_USER = 1
_HEAD = struct.Struct("=II")
_HEAD_AT = 12
_PACKET = struct.Struct("=IIIIIxxxxxxH")
"""tpacket3_hdr: next, sec, nsec, captured, length, net."""
_FREE = b"\0\0\0\0"

Program = bytes
"""A classic BPF program, as the kernel takes it."""


def open_socket(program: Program, blocks: int, *, ignore_outgoing: bool) -> socket.socket:
    """A packet socket with its ring, that sees nothing until it is bound.

    Raises:
        OSError: no right to it (EPERM), or the kernel cannot do it.
    """
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        attach(opened, program)  # before it is bound: nothing else may come in
        opened.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        if ignore_outgoing:
            opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        frame = 2048
        request = struct.pack(
            "=7I",
            BLOCK_BYTES,
            blocks,
            frame,
            BLOCK_BYTES // frame * blocks,
            RETIRE_MS,
            0,
            0,
        )
        opened.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
    except BaseException:
        opened.close()
        raise
    return opened


def attach(opened: socket.socket, program: Program) -> None:
    """Let only those packets in that the program accepts, as much of them as it says."""
    code = array("B", program)
    address, length = code.buffer_info()
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", length // 8, address))


def bind(opened: socket.socket, interface: str) -> None:
    """Begin to capture."""
    opened.bind((interface, ETH_P_ALL))


def statistics(opened: socket.socket) -> tuple[int, int, int]:
    """Packets that were accepted (drops included), drops, and times that the ring was full.

    Counted since they were asked for last.
    """
    packets, drops, freezes = struct.unpack(
        "=3I", opened.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
    )
    return packets, drops, freezes


class Ring:
    """The ring of a socket, block by block in the order of time."""

    def __init__(self, opened: socket.socket, blocks: int) -> None:
        self.memory = mmap.mmap(
            opened.fileno(),
            BLOCK_BYTES * blocks,
            mmap.MAP_SHARED,
            mmap.PROT_READ | mmap.PROT_WRITE,
        )
        self._blocks = blocks
        self._next = 0

    def backlog(self) -> float:
        """The part of the ring that waits to be read, 0 to 1."""
        memory = self.memory
        waiting = sum(
            memory[index * BLOCK_BYTES + STATUS_AT] & OF_USER for index in range(self._blocks)
        )
        return waiting / self._blocks

    def take(self, give: Callable[[mmap.mmap, int, int, int, int], None]) -> bool:
        """Give each packet of the next block away, then the block back to the kernel.

        Args:
            give: gets the memory, where the IP header begins, captured and full length, and the
                time in ns of the wall clock.

        Returns:
            Whether there was a block.
        """
        memory, base = self.memory, self._next * BLOCK_BYTES
        if not memory[base + STATUS_AT] & OF_USER:
            return False
        count, first = _HEAD.unpack_from(memory, base + _HEAD_AT)
        at = base + first
        for _ in range(count):
            following, sec, nsec, captured, length, net = _PACKET.unpack_from(memory, at)
            give(memory, at + net, captured, length, sec * 1_000_000_000 + nsec)
            at += following
        memory[base + 8 : base + 12] = _FREE
        self._next = (self._next + 1) % self._blocks
        return True
