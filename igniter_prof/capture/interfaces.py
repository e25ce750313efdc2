"""Network interfaces: which one leads to an address, its MTU, its offloads."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

from igniter_prof.errors import BadInput

SYSFS = Path("/sys/class/net")
IF_INET6 = Path("/proc/net/if_inet6")
_SIOCGIFADDR, _SIOCETHTOOL = 0x8915, 0x8946
_OFFLOADS = {"TSO": 0x1E, "GSO": 0x23, "GRO": 0x2B}
_GET_FLAGS, _LRO = 0x25, 1 << 15


def check(interface: str) -> None:
    """Whether there is such an interface.

    Raises:
        BadInput: there is not; says which there are.
    """
    known = [name for _, name in socket.if_nameindex()]
    if interface not in known:
        raise BadInput(
            f"there is no network interface '{interface}'", hint=f"there are: {', '.join(known)}"
        )


def is_loopback(interface: str) -> bool:
    """Whether every packet of it is seen twice, as it leaves and as it comes in."""
    return _number(interface, "type") == 772


def mtu(interface: str) -> int | None:
    """The longest packet, with its IP header, in bytes."""
    return _number(interface, "mtu")


def offloads(interface: str) -> tuple[str, ...]:
    """Which of TSO, GSO, GRO, LRO are on: then captured packets are merged ones, not the wire's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        found = [name for name, code in _OFFLOADS.items() if _ethtool(handle, interface, code)]
        if _ethtool(handle, interface, _GET_FLAGS) & _LRO:
            found.append("LRO")
    return tuple(found)


def resolve(host: str) -> list[bytes]:
    """The addresses of a host, 4 or 16 bytes each.

    Raises:
        BadInput: it has none.
    """
    try:
        return [ipaddress.ip_address(host).packed]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no name"
        raise BadInput(f"the host '{host}' has no address ({reason})") from error
    texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    return [ipaddress.ip_address(text).packed for text in texts]


def leading_to(address: bytes) -> str | None:
    """The interface that packets to an address go through; None: there is no route to it."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # nothing is sent: the kernel only chooses the route
            probe.connect((str(ipaddress.ip_address(address)), 9))
            source = ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]).packed
    except OSError:
        return None
    if source == address or ipaddress.ip_address(address).is_loopback:
        return "lo"  # also what goes to an address of another interface of this host
    return _owner(source)


def _owner(address: bytes) -> str | None:
    """The interface that has an address."""
    if len(address) == 16:
        lines = IF_INET6.read_text().splitlines() if IF_INET6.exists() else []
        return next((line.split()[5] for line in lines if line.startswith(address.hex())), None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(handle, _SIOCGIFADDR, request)
            except OSError:  # it has none
                continue
            if answer[20:24] == address:
                return name
    return None


def _ethtool(handle: socket.socket, interface: str, command: int) -> int:
    value = array.array("B", struct.pack("=II", command, 0))
    address, _ = value.buffer_info()
    request = struct.pack("16sP16x", interface.encode()[:15], address)
    try:
        fcntl.ioctl(handle, _SIOCETHTOOL, request)
    except OSError:  # not every kind of interface has it
        return 0
    return int(struct.unpack("=II", value.tobytes())[1])


def _number(interface: str, name: str) -> int | None:
    try:
        return int((SYSFS / interface / name).read_text())
    except (OSError, ValueError):
        return None
