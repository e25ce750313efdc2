"""``sniffer``: times of requests and responses from packets, apart from any client's clock."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from igniter_prof.capture import interfaces
from igniter_prof.capture.exchanges import OUTCOMES, PAIRED
from igniter_prof.capture.live import Capture, Captured, check
from igniter_prof.capture.packets import Server
from igniter_prof.errors import BadInput
from igniter_prof.monitors.contract import Counted, Scene, Seen
from igniter_prof.records import Device, Endpoint, NetworkTimes
from igniter_prof.statistics import summarise
from igniter_prof.units import NS_PER_MS

Rows = npt.NDArray[np.void]

TRACE_DTYPE = np.dtype(
    [
        ("at_ns", "<i8"),
        ("request_end_ns", "<i8"),
        ("response_ns", "<i8"),
        ("response_end_ns", "<i8"),
        ("request_bytes", "<i8"),
        ("response_bytes", "<i8"),
        ("connection", "<u4"),
        ("outcome", "u1"),
    ]
)
"""One row a request, by its first byte; -1: not seen. ``outcome`` as in ``capture.exchanges``."""


def sniffer(device: Device, argument: str | None) -> Sniffer:
    """The packet sniffer of one cell.

    Args:
        device: of the cell; any will do.
        argument: the network interface to capture on; None: the one that leads to each endpoint.

    Raises:
        BadInput: there is no such interface.
        MissingCapability: no right to capture (CAP_NET_RAW), or no libpcap.
    """
    if argument is not None:
        interfaces.check(argument)
    check()
    return Sniffer(argument)


@dataclass
class _Target:
    """One tenant's requests: where they pass, and how they are told from others."""

    servers: tuple[Server, ...] = ()
    interface: str | None = None
    is_its: Callable[[str], bool] = field(default=lambda label: True)
    note: str | None = None
    """Why it cannot be measured."""


class Sniffer:
    """A capture for each interface that leads to the cell's endpoints."""

    def __init__(self, interface: str | None) -> None:
        self._interface = interface
        self._stack = contextlib.ExitStack()
        self._targets: list[_Target] = []
        self._captures: dict[str, Capture] = {}

    def __enter__(self) -> Sniffer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def attach(self, scene: Scene) -> None:
        """Begin to capture.

        Raises:
            MissingCapability: no right to it, or no libpcap.
            OutsideFailure: a capturing process did not start.
        """
        self._targets = [self._target(each, scene) for each in scene.endpoints]
        chosen = dict.fromkeys(each.interface for each in self._targets if each.interface)
        for interface in chosen:
            servers = dict.fromkeys(
                server
                for each in self._targets
                if each.interface == interface
                for server in each.servers
            )
            capture = Capture(interface, tuple(servers), cores=scene.cores)
            self._captures[interface] = self._stack.enter_context(capture)

    def seen(self, window: Counted) -> Seen:
        """What passed in the window. Ends the captures.

        Raises:
            OutsideFailure: a capturing process died.
        """
        captured = {name: capture.end() for name, capture in self._captures.items()}
        self._stack.close()
        notes = [note for name, each in captured.items() for note in _notes(name, each)]
        complete = not any(_lost(each) for each in captured.values())
        tenants: list[dict[str, Any]] = []
        traces = {}
        for index, target in enumerate(self._targets):
            if target.interface is None:
                tenants.append({})
                notes.append(f"tenant {index + 1}: {target.note}")
                complete = False
                continue
            whole = captured[target.interface]
            rows = _rows_of(target, whole)
            traces[f"sniffer_{index}"] = trace_of(rows)
            start_ns, end_ns = window.start_ns, window.end_ns
            within = rows[(rows["request_ns"] >= start_ns) & (rows["request_ns"] < end_ns)]
            tenants.append({"network": network_times(within, target.interface, whole, target)})
            asked = window.requests[index] if window.requests else None
            found = [*_unpaired(within), *_differs(within, asked, window)]
            notes += [f"tenant {index + 1}: {text}" for text in found]
            complete = complete and not found
        return Seen(tenants=tuple(tenants), traces=traces, complete=complete, notes=tuple(notes))

    def _target(self, endpoint: Endpoint, scene: Scene) -> _Target:
        grpc = endpoint.http is None and scene.protocol == "grpc"
        address = endpoint.grpc_address if grpc else endpoint.http_address
        if address is None:
            return _Target(note="its address is not known")
        if endpoint.tls:
            return _Target(note="its connections are encrypted (TLS): not measurable from packets")
        host, _, port = address.rpartition(":")
        if not port.isdecimal():
            return _Target(note=f"its address, {address}, has no port")
        try:
            found = interfaces.resolve(host.strip("[]"))
        except BadInput as error:
            return _Target(note=error.what)
        interface = self._interface or endpoint.interface or interfaces.leading_to(found[0])
        if interface is None:
            return _Target(note=f"no interface of this machine leads to {host}")
        protocol = "grpc" if grpc else "http"
        return _Target(
            servers=tuple(Server(each, int(port), protocol) for each in found),
            interface=interface,
            is_its=_asks(endpoint, scene, grpc),
        )


def network_times(
    rows: Rows, interface: str, captured: Captured, target: _Target | None = None
) -> NetworkTimes:
    """Statistics of one server's requests.

    Args:
        rows: (n,) of the capture's rows, times on one clock.
        interface: where they were captured.
        captured: the whole capture, for what is counted by packets.
        target: whose packets are counted; None: all.
    """
    good = np.sort(rows[rows["outcome"] == PAIRED], order="request_ns")
    server_ms = (good["response_ns"] - good["request_end_ns"]) / NS_PER_MS
    # a server that answers before it has the whole request did not wait for it
    server_ms = server_ms[server_ms >= 0]
    wanted = None if target is None else {(each.address, each.port) for each in target.servers}
    counters = [
        each
        for place, each in zip(captured.servers, captured.counters, strict=True)
        if wanted is None or place in wanted
    ]
    packets, retransmitted, merged = (
        sum(column) for column in zip((0, 0, 0), *counters, strict=True)
    )
    some = len(good) > 0

    def mean(values: Any) -> float | None:
        return float(np.mean(values)) if some else None

    return NetworkTimes(
        interface=interface,
        requests=len(rows),
        paired=len(good),
        unpaired=len(rows) - len(good),
        server=summarise(server_ms) if len(server_ms) else None,
        total=summarise((good["response_end_ns"] - good["request_ns"]) / NS_PER_MS)
        if some
        else None,
        up_ms=mean((good["request_end_ns"] - good["request_ns"]) / NS_PER_MS),
        down_ms=mean((good["response_end_ns"] - good["response_ns"]) / NS_PER_MS),
        request_bytes=mean(good["request_bytes"]),
        response_bytes=mean(good["response_bytes"]),
        packets=packets,
        dropped_packets=captured.drops,
        retransmitted_packets=retransmitted,
        merged_packets=merged,
    )


def trace_of(rows: Rows) -> npt.NDArray[np.void]:
    """The requests of a capture as they are stored: (n,) of TRACE_DTYPE, by their first byte."""
    trace = np.zeros(len(rows), TRACE_DTYPE)
    trace["at_ns"] = rows["request_ns"]
    for name in TRACE_DTYPE.names[1:] if TRACE_DTYPE.names else ():
        trace[name] = rows[name]
    return np.sort(trace, order="at_ns")


def _asks(endpoint: Endpoint, scene: Scene, grpc: bool) -> Callable[[str], bool]:
    """Which labels are the tenant's inferences, not questions about health or statistics."""
    if endpoint.http is not None:
        path = endpoint.http.path.partition("?")[0]
        wanted = f"{endpoint.http.method} {path}"[:200]
        return lambda label: label == wanted
    name = endpoint.model_name
    if grpc:
        alone = sum(each.grpc_address == endpoint.grpc_address for each in scene.endpoints) == 1
        return lambda label: label == name or (alone and not label)
    begin = f"POST /v2/models/{quote(name)}/"
    return lambda label: label.startswith(begin) and label.endswith("/infer")


def _rows_of(target: _Target, captured: Captured) -> Rows:
    wanted = {(server.address, server.port) for server in target.servers}
    mine = [
        captured.servers[server] in wanted and target.is_its(label)
        for server, label in captured.labels
    ]
    rows: Rows = captured.rows[np.array(mine or [False], bool)[captured.rows["label"]]]
    return rows


def _lost(captured: Captured) -> bool:
    """Whether something may be missing anywhere in a capture."""
    return bool(captured.drops or captured.stepped or captured.encrypted or captured.notes)


def _notes(interface: str, captured: Captured) -> list[str]:
    """What people should know of a capture."""
    notes = list(captured.notes)
    if captured.drops:
        notes.append(f"{interface}: the kernel dropped {captured.drops} packets")
    if captured.stepped:
        notes.append(f"{interface}: the wall clock was set during the capture: times are uncertain")
    if captured.encrypted:
        notes.append(f"{interface}: {captured.encrypted} connections are encrypted (TLS)")
    offloads = interfaces.offloads(interface)
    if offloads:
        notes.append(
            f"{interface}: offloads on ({', '.join(offloads)}): packets are those of the kernel,"
            " not of the wire"
        )
    return notes


def _unpaired(rows: Rows) -> list[str]:
    """Requests in the window without a whole response, by reason."""
    return [
        f"{count} requests unpaired: {text}"
        for outcome, text in OUTCOMES.items()
        if outcome != PAIRED and (count := int((rows["outcome"] == outcome).sum()))
    ]


def _differs(rows: Rows, asked: Rows | None, window: Counted) -> Sequence[str]:
    """Whether the client sent another number of requests in the window than were seen.

    A request's first byte passes between the client's two stamps: those that lie in the window
    with both are seen in it, and those seen in it lie in it with one at least.
    """
    if asked is None:
        return ()
    sent, done = asked["sent_ns"], asked["done_ns"]
    least = int(((sent >= window.start_ns) & (done < window.end_ns) & (asked["ok"] == 1)).sum())
    most = int(((done >= window.start_ns) & (sent < window.end_ns)).sum())
    if least <= len(rows) <= most:
        return ()
    return (f"{len(rows)} requests were seen, the client sent {least} to {most}",)
