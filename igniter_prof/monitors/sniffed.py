"""What a capture of somebody else's requests tells: a document, a table's rows, a CSV file."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from igniter_prof.capture.exchanges import OUTCOMES, UNSEEN
from igniter_prof.capture.live import Captured
from igniter_prof.files import write_csv
from igniter_prof.monitors.sniffer import network_times
from igniter_prof.records import LatencySummary
from igniter_prof.statistics import summarise
from igniter_prof.units import NS_PER_MS, NS_PER_S, format_ms

PARTS = {
    "server": ("request_end_ns", "response_ns"),
    "up": ("request_ns", "request_end_ns"),
    "down": ("response_ns", "response_end_ns"),
    "total": ("request_ns", "response_end_ns"),
}
"""The times of a request: from one instant to the other."""
COLUMNS = [
    "connection",
    "server",
    "request",
    "outcome",
    "request_ns",
    "request_end_ns",
    "response_ns",
    "response_end_ns",
    "request_bytes",
    "response_bytes",
    "server_ms",
    "total_ms",
]


def latencies_ms(captured: Captured, part: str) -> npt.NDArray[np.float64]:
    """One of PARTS of each paired request, in the order of their first bytes. (n,), ms."""
    good = np.sort(captured.rows[captured.paired], order="request_ns")
    first, last = PARTS[part]
    values: npt.NDArray[np.float64] = (good[last] - good[first]) / NS_PER_MS
    return values


def summary_of(captured: Captured, part: str) -> LatencySummary | None:
    """Statistics of one of PARTS; None: no request was paired."""
    values = latencies_ms(captured, part)
    if part == "server":
        values = values[values >= 0]  # answered before the whole request was there
    return summarise(values) if len(values) else None


def document(captured: Captured, source: str) -> dict[str, Any]:
    """All that is known of a capture but its single requests.

    Args:
        captured: the capture.
        source: the interface or the file that it is from.
    """
    rows = captured.rows
    spread = {part: summary_of(captured, part) for part in PARTS}
    return {
        "source": source,
        "seconds": float(np.ptp(rows["request_ns"])) / NS_PER_S if len(rows) else 0.0,
        "network": network_times(rows, source, captured).model_dump(mode="json"),
        "times": {
            part: None if found is None else found.model_dump(mode="json")
            for part, found in spread.items()
        },
        "outcomes": {
            text: int((rows["outcome"] == outcome).sum()) for outcome, text in OUTCOMES.items()
        },
        "requests": {
            f"{place(captured, server)} {label}".strip(): int((rows["label"] == index).sum())
            for index, (server, label) in enumerate(captured.labels)
        },
        "connections": captured.connections,
        "connections_begun_before": captured.midway,
        "connections_encrypted": captured.encrypted,
        "connections_not_understood": captured.opaque,
        "responses_without_request": captured.unsolicited,
        "packets": captured.packets,
        "packets_dropped": captured.drops,
        "ring_full": captured.freezes,
        "cpu_s": captured.cpu_s,
        "notes": list(captured.notes),
    }


def place(captured: Captured, index: int) -> str:
    """A server's ``host:port``."""
    address, port = captured.servers[index]
    host = ipaddress.ip_address(address)
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"


def table(captured: Captured) -> list[list[str]]:
    """Rows for people: part, mean, p50, p95, p99."""
    rows = []
    for part in PARTS:
        found = summary_of(captured, part)
        if found is not None:
            values = [found.p50, found.p95, found.p99]
            shown = [format_ms(each.value_ms if each else None) for each in values]
            rows.append([part, format_ms(found.mean_ms), *shown])
    return rows


def remarks(captured: Captured) -> list[str]:
    """What could not be measured, for people."""
    found = list(captured.notes)
    if not captured.packets:
        found.append("no packet passed: is it the right interface, is the server asked by TCP?")
    elif not captured.servers:
        found.append("no packet was of that server")
    for count, text in (
        (captured.drops, "packets dropped by the kernel"),
        (captured.encrypted, "connections are encrypted (TLS): not measurable from packets"),
        (captured.opaque, "connections are of a protocol that is not understood"),
        (captured.midway, "connections began before the capture"),
        (captured.unsolicited, "responses whose request was not seen"),
    ):
        if count:
            found.append(f"{count} {text}")
    for outcome, text in OUTCOMES.items():
        count = int((captured.rows["outcome"] == outcome).sum())
        if outcome and count:
            found.append(f"{count} requests unpaired: {text}")
    if captured.stepped:
        found.append("the wall clock was set during the capture: times are uncertain")
    return found


def write_rows(path: Path, captured: Captured) -> None:
    """Write one row a request as CSV, by their first bytes; what was not seen stays empty.

    Raises:
        BadInput, MissingCapability: it cannot be written.
    """
    rows = []
    for row in np.sort(captured.rows, order="request_ns"):
        server, label = captured.labels[row["label"]]
        cells: dict[str, Any] = {name: row[name] for name in COLUMNS[4:10]}
        cells = {name: None if value == UNSEEN else int(value) for name, value in cells.items()}
        cells |= {
            "connection": int(row["connection"]),
            "server": place(captured, server),
            "request": label,
            "outcome": OUTCOMES[int(row["outcome"])],
        }
        for part in ("server", "total"):
            first, last = (cells[name] for name in PARTS[part])
            if first is not None and last is not None:
                cells[f"{part}_ms"] = (last - first) / NS_PER_MS
        rows.append(cells)
    write_csv(path, rows, COLUMNS)
