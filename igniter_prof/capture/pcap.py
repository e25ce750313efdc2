"""Reading capture files: pcap (micro- and nanoseconds, either byte order) and pcapng.

Own readers, because those of scapy cut merged segments off at 65,535 bytes with their link's
header, which loses the place in the stream.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from igniter_prof.capture.live import Captured, captured_by
from igniter_prof.capture.packets import Dissector, Server
from igniter_prof.errors import BadInput

ETHERNET, RAW, LINUX_COOKED, LINUX_COOKED_2 = 1, 101, 113, 276
NULL, LOOP, IPV4, IPV6 = 0, 108, 228, 229
_RAW_OTHERS = (12, 14)
IP_TYPES = (0x0800, 0x86DD)
VLAN_TYPES = (0x8100, 0x88A8, 0x9100)
OUTGOING, LOOPBACK_HARDWARE = 4, 772
MAX_PACKET = 1 << 24
NS_PER_S = 1_000_000_000

_MAGIC = {
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
}
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_BYTE_ORDER = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_RESOLUTION, _OFFSET = 9, 14


class Packet(NamedTuple):
    """One packet of a file."""

    link: int
    data: bytes
    wire: int
    """Bytes that it had."""
    time_ns: int
    """Wall clock."""


def read_into(dissector: Dissector, path: Path) -> bool:
    """Give all packets of a file to a dissector.

    Returns:
        Whether the file is whole; False: it breaks off.

    Raises:
        BadInput: it cannot be read, is no capture, or is of a link that is not known.
    """
    try:
        with _open(path) as handle:
            for each in _packets(handle, path):
                place = ip_begin(each.link, each.data)
                if place is None:
                    raise BadInput(
                        f"its packets are of link type {each.link}, which igprof cannot read",
                        where=str(path),
                        hint="capture on an Ethernet, bridge or loopback interface",
                    )
                if place >= 0:
                    dissector.packet(
                        each.data, place, len(each.data) - place, each.wire - place, each.time_ns
                    )
    except _Truncated:
        return False
    except (EOFError, gzip.BadGzipFile):
        return False
    except FileNotFoundError as error:
        raise BadInput("no such file", where=str(path), hint="check the path") from error
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    return True


def ip_begin(link: int, data: bytes) -> int | None:
    """Where the IP header begins; -1: there is none, or it was seen before; None: unknown link."""
    if link in (RAW, IPV4, IPV6, *_RAW_OTHERS):
        return 0
    if link in (NULL, LOOP):
        return 4 if len(data) > 4 and data[4] >> 4 in (4, 6) else -1
    if link == ETHERNET:
        kind_at, begin = 12, 14
    elif link == LINUX_COOKED:
        kind_at, begin = 14, 16
        if len(data) >= 4 and _twice(data[1], int.from_bytes(data[2:4], "big")):
            return -1
    elif link == LINUX_COOKED_2:
        kind_at, begin = 0, 20
        if len(data) >= 11 and _twice(data[10], int.from_bytes(data[8:10], "big")):
            return -1
    else:
        return None
    kind = int.from_bytes(data[kind_at : kind_at + 2], "big")
    while kind in VLAN_TYPES:
        kind = int.from_bytes(data[begin + 2 : begin + 4], "big")
        begin += 4
    return begin if kind in IP_TYPES else -1


def _twice(direction: int, hardware: int) -> bool:
    # on the loopback every packet leaves and comes in; it counts when it comes in
    return direction == OUTGOING and hardware == LOOPBACK_HARDWARE


class _Truncated(Exception):
    """The file ends in the middle of something."""


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def _read(handle: BinaryIO, count: int) -> bytes:
    data = handle.read(count)
    if len(data) < count:
        raise _Truncated
    return data


def _packets(handle: BinaryIO, path: Path) -> Iterator[Packet]:
    magic = handle.read(4)
    if magic in _MAGIC:
        return _pcap(handle, *_MAGIC[magic], path)
    if magic == _SECTION.to_bytes(4, "big"):
        return _pcapng(handle, path)
    raise BadInput(
        "is no capture file (pcap or pcapng)",
        where=str(path),
        hint="make one with: igprof sniff --write FILE, tcpdump -w FILE, or tshark -w FILE",
    )


def _pcap(handle: BinaryIO, order: str, unit_ns: int, path: Path) -> Iterator[Packet]:
    link = struct.unpack(order + "I", _read(handle, 20)[16:])[0] & 0xFFFF
    record = struct.Struct(order + "IIII")
    while head := handle.read(16):
        if len(head) < 16:
            raise _Truncated
        seconds, fraction, captured, wire = record.unpack(head)
        if captured > MAX_PACKET:
            raise BadInput(f"is damaged: a packet of {captured} bytes", where=str(path))
        yield Packet(link, _read(handle, captured), wire, seconds * NS_PER_S + fraction * unit_ns)


def _pcapng(handle: BinaryIO, path: Path) -> Iterator[Packet]:
    """Blocks of a pcapng file; the first four bytes were read [draft-ietf-opsawg-pcapng]."""
    order, links = "<", list[tuple[int, int, int]]()
    kind_bytes = _SECTION.to_bytes(4, "big")
    while kind_bytes:
        if len(kind_bytes) < 4:
            raise _Truncated
        size_bytes = _read(handle, 4)
        if kind_bytes == _SECTION.to_bytes(4, "big"):
            magic = _read(handle, 4)
            if magic not in _BYTE_ORDER:
                raise BadInput("is damaged: a section without byte order", where=str(path))
            order, links = _BYTE_ORDER[magic], []
            size = struct.unpack(order + "I", size_bytes)[0] - 4
            kind = _SECTION
        else:
            kind, size = struct.unpack(order + "II", kind_bytes + size_bytes)
        if not 12 <= size <= MAX_PACKET:
            raise BadInput(f"is damaged: a block of {size} bytes", where=str(path))
        body = _read(handle, size - 8)[:-4]
        try:
            if kind == _INTERFACE:
                links.append(_interface(order, body))
            elif kind in (_PACKET, _OLD_PACKET, _SIMPLE_PACKET):
                yield _block(order, kind, body, links)
        except (struct.error, IndexError) as error:
            raise BadInput("is damaged: a block that is not whole", where=str(path)) from error
        kind_bytes = handle.read(4)


def _interface(order: str, body: bytes) -> tuple[int, int, int]:
    """Link type, ticks a second, and seconds to add, of an interface description."""
    (link,) = struct.unpack_from(order + "H", body)
    ticks, offset_s, at = 1_000_000, 0, 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if code == _RESOLUTION and length == 1:
            power = value[0] & 0x7F
            ticks = 2**power if value[0] & 0x80 else 10**power
        elif code == _OFFSET and length == 8:
            (offset_s,) = struct.unpack(order + "q", value)
        at += 4 + (length + 3) // 4 * 4
    return link, ticks, offset_s


def _block(order: str, kind: int, body: bytes, links: list[tuple[int, int, int]]) -> Packet:
    if kind == _SIMPLE_PACKET:
        link, _, _ = links[0]
        (wire,) = struct.unpack_from(order + "I", body)
        return Packet(link, body[4 : 4 + wire], wire, 0)
    if kind == _PACKET:
        index, high, low, captured, wire = struct.unpack_from(order + "IIIII", body)
    else:
        index, _, high, low, captured, wire = struct.unpack_from(order + "HHIIII", body)
    link, ticks, offset_s = links[index]
    stamp = (high << 32) + low
    return Packet(
        link, body[20 : 20 + captured], wire, offset_s * NS_PER_S + stamp * NS_PER_S // ticks
    )


def read(path: Path, servers: Sequence[Server]) -> Captured:
    """The requests in a capture file, with times of its wall clock.

    Args:
        path: pcap or pcapng, by whatever tool; gzip is unpacked.
        servers: whose requests are looked for.

    Raises:
        BadInput: it cannot be read, is no capture, or is of a link that is not known.
    """
    dissector = Dissector(servers)
    whole = read_into(dissector, path)
    dissector.close()
    return captured_by(dissector, notes=() if whole else (f"{path} breaks off",))
