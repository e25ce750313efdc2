"""The kernel's filter: which packets are captured, and how much of each; scapy compiles it."""

from __future__ import annotations

import ctypes
import functools
import ipaddress
import struct
from collections.abc import Sequence

from igniter_prof.capture.packets import Server
from igniter_prof.capture.ring import Program
from igniter_prof.errors import BadInput, MissingCapability

HEADERS, HEADS, WHOLE = 128, 1024, 262144
"""Bytes that are kept of a packet: the headers of IP and TCP; heads of HTTP messages as well; all
that the kernel may have merged into one."""

_DLT_RAW = 12
_INSTRUCTION = struct.Struct("HBBI")
_RETURN = 0x06
# acknowledgements without data are as many as packets with data, and tell nothing that these do not
_MATTERS = (
    "((ip and ((ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2)) != 0"
    " or tcp[13] & 7 != 0))"
    " or (ip6 and ((ip6[4:2] - ((ip6[52] & 0xf0) >> 2)) != 0 or ip6[53] & 7 != 0)))"
)


def expression(servers: Sequence[Server], *, all_packets: bool = False) -> str:
    """A filter in libpcap's language for the TCP connections of some servers.

    Args:
        servers: of any of them.
        all_packets: acknowledgements without data as well.
    """
    parts = []
    for server in servers:
        words = ["tcp"]
        if server.address:
            words.append(f"host {ipaddress.ip_address(server.address)}")
        if server.port:
            words.append(f"port {server.port}")
        parts.append(f"({' and '.join(words)})")
    either = f"({' or '.join(dict.fromkeys(parts))})"
    return either if all_packets else f"{either} and {_MATTERS}"


@functools.lru_cache(maxsize=64)
def compile_program(text: str, keep: int) -> Program:
    """Compile a filter of packets that begin with their IP header.

    Args:
        text: in libpcap's language.
        keep: bytes of each packet that are kept.

    Raises:
        MissingCapability: libpcap is not there.
        BadInput: libpcap does not take the filter.
    """
    from scapy.arch.common import compile_filter
    from scapy.error import Scapy_Exception

    try:
        compiled = compile_filter(text, linktype=_DLT_RAW)
    except (ImportError, OSError) as error:
        raise MissingCapability(
            "libpcap is not there, which compiles the filter of packets",
            hint="sudo apt-get install libpcap0.8",
        ) from error
    except Scapy_Exception as error:
        raise BadInput(f"libpcap does not take the filter ({error})", where=text) from error
    program = bytearray()
    for index in range(compiled.bf_len):
        each = compiled.bf_insns[index]
        # scapy declares the operand signed: an address from 128.0.0.0 on is below zero
        value = keep if each.code == _RETURN and each.k else each.k & 0xFFFFFFFF
        program += _INSTRUCTION.pack(each.code, each.jt, each.jf, value)
    _free(compiled)
    return bytes(program)


def _free(compiled: ctypes.Structure) -> None:
    from scapy.libs.winpcapy import pcap_freecode

    pcap_freecode(ctypes.byref(compiled))
