"""``igprof sniff``: times of requests and responses from packets, whoever sends them."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from igniter_prof.cli.common import json_option, note, print_json, print_table
from igniter_prof.cli.options import OutFile, keep_inputs
from igniter_prof.errors import BadInput, OutsideFailure

if TYPE_CHECKING:
    from igniter_prof.capture.live import Captured
    from igniter_prof.capture.packets import Server

_PROTOCOLS = ["auto", "http", "grpc", "tcp"]


@click.command("sniff")
@click.option("--interface", help="Where to capture; by default, the one that leads to --host.")
@click.option("--host", help="Name or address of the server.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the server.")
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    help="In seconds; by default, until Ctrl-C.",
)
@click.option(
    "--protocol",
    type=click.Choice(_PROTOCOLS),
    default="auto",
    show_default=True,
    help="tcp: any request/response protocol, by direction.",
)
@click.option("--write", type=OutFile(), help="Write the packets, whole, as pcap.")
@click.option(
    "--read", type=click.Path(path_type=Path), help="Read a pcap or pcapng file; captures nothing."
)
@click.option("--out", type=OutFile(), help="CSV, one row a request.")
@json_option
def command(
    interface: str | None,
    host: str | None,
    port: int | None,
    duration: float | None,
    protocol: str,
    write: Path | None,
    read: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure requests to a server from packets: server time, transfers, and what was missed."""
    from igniter_prof.capture import pcap
    from igniter_prof.monitors import sniffed

    if duration is not None and not math.isfinite(duration):
        raise BadInput(
            f"--duration is {duration}, no time", hint="leave it out to capture until Ctrl-C"
        )
    if write is not None and out is not None and write.resolve() == out.resolve():
        raise BadInput(
            "--write and --out name the same file", where=str(out), hint="give each its own"
        )
    servers = _servers(host, port, protocol)
    if read is not None:
        for name, value in (
            ("--interface", interface),
            ("--duration", duration),
            ("--write", write),
        ):
            if value is not None:
                raise BadInput(f"{name} does not go with --read", hint="a file is read as it is")
        if out is not None:
            keep_inputs(out, read)
        captured, source = pcap.read(read, servers), str(read)
    else:
        if host is None and port is None:
            raise BadInput(
                "whose requests?", hint="name the server with --host, --port or both, or use --read"
            )
        source = interface or _interface(servers)
        captured = _capture(source, servers, duration, write)
    if out is not None:
        sniffed.write_rows(out, captured)
    if as_json:
        print_json(sniffed.document(captured, source))
        return
    network = f"{len(captured.rows)} requests, {int(captured.paired.sum())} paired"
    drops = "" if captured.drops is None else f", {captured.drops} packets dropped"
    print_table(
        f"{source}: {network}{drops}",
        ["time", "mean", "p50", "p95", "p99"],
        sniffed.table(captured),
    )
    for remark in sniffed.remarks(captured):
        note(remark)


def _servers(host: str | None, port: int | None, protocol: str) -> list[Server]:
    from igniter_prof.capture.interfaces import resolve
    from igniter_prof.capture.packets import Server

    addresses = [b""] if host is None else resolve(host)
    return [Server(address, port or 0, protocol) for address in addresses]


def _interface(servers: list[Server]) -> str:
    from igniter_prof.capture.interfaces import leading_to

    if not servers[0].address:
        raise BadInput("on which interface?", hint="name it with --interface, or --host as well")
    found = leading_to(servers[0].address)
    if found is None:
        raise BadInput(
            "no interface of this machine leads to the host",
            hint="name it with --interface, if the host is right",
        )
    return found


def _capture(
    interface: str, servers: list[Server], duration: float | None, write: Path | None
) -> Captured:
    from igniter_prof.capture.live import Capture
    from igniter_prof.files import atomic_write

    with contextlib.ExitStack() as stack:
        handle: Any = None if write is None else stack.enter_context(atomic_write(write))
        descriptor = None if handle is None else handle.fileno()
        capture = stack.enter_context(Capture(interface, servers, write_fd=descriptor))
        note(f"capturing on {interface}" + ("; Ctrl-C ends it" if duration is None else ""))
        _wait(duration)
        captured = capture.end()
        if captured.write_error is not None:
            raise OutsideFailure(
                f"the packets could not be written: {captured.write_error}",
                where=str(write),
                hint="free some space, or leave --write out",
            )
        return captured


def _wait(duration: float | None) -> None:
    """Until the time is over or somebody ends it: either is the ordinary end of a capture."""
    ended = threading.Event()
    # also where a shell has started it in the background, with interrupts ignored
    before = {
        number: signal.signal(number, lambda *_: ended.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        ended.wait(None if duration is None else min(duration, threading.TIMEOUT_MAX))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
