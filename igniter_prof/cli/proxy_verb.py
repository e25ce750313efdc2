"""``igprof proxy``: time the requests of clients that igprof does not own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from igniter_prof.cli.common import (
    json_option,
    note,
    print_json,
    print_table,
    tell,
    told_to_terminal,
)
from igniter_prof.errors import INTERRUPTED

if TYPE_CHECKING:
    from igniter_prof.proxy import Row, RowFile, Tally

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command("proxy")
@click.option(
    "--listen", required=True, metavar="[HOST:]PORT", help="Host 127.0.0.1 by default; port 0: any."
)
@click.option("--to", required=True, metavar="HOST:PORT", help="The server (HTTP/1.1, no TLS).")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="A new CSV file: one row a request.",
)
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long; otherwise until Ctrl-C.",
)
@json_option
def command(listen: str, to: str, out: Path, duration_s: float | None, as_json: bool) -> int:
    """Pass requests on to a server, and time them: a reverse proxy for any HTTP/1.1 client.

    Ctrl-C ends it; every request has its row by then. gRPC (HTTP/2) and TLS are not spoken.
    """
    from igniter_prof.proxy import RowFile, Tally, parse_place, run

    here = parse_place(listen, "--listen", LOOPBACK[0])
    there = parse_place(to, "--to")
    display = _Display(Tally())
    with RowFile(out) as rows:
        display.rows = rows

        def ready(port: int) -> None:
            shown = f"[{here[0]}]" if ":" in here[0] else here[0]
            note(f"http://{shown}:{port} -> {to}; Ctrl-C ends it")
            if here[0] not in LOOPBACK:
                note("note: other machines can reach this port, and the server through it")

        try:
            interrupted = run(
                here,
                there,
                display.ended,
                duration_s=duration_s,
                on_ready=ready,
                on_tick=display.tick,
            )
        finally:
            display.erase()
    _print(display, out, as_json)
    # without a duration Ctrl-C is how it ends
    return INTERRUPTED if interrupted and duration_s is not None else 0


class _Display:
    """Rows on disk and, on a terminal, what has gone through so far."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.rows: RowFile | None = None
        self.began_s = time.monotonic()

    def ended(self, row: Row) -> None:
        assert self.rows is not None
        self.rows.append(row)
        self.tally.add(row)

    def tick(self) -> None:
        if not told_to_terminal():
            return
        mean_ms = self.tally.mean_ms
        rate = self.tally.requests / max(1e-9, time.monotonic() - self.began_s)
        mean = "" if mean_ms is None else f", mean {mean_ms:.3f} ms"
        tally = self.tally
        tell(f"\r\033[K{tally.requests} requests, {rate:.1f}/s{mean}, {tally.failed} failed")

    def erase(self) -> None:
        if told_to_terminal():
            tell("\r\033[K")


def _print(display: _Display, out: Path, as_json: bool) -> None:
    tally = display.tally
    paths = tally.summary()
    duration_s = time.monotonic() - display.began_s
    if as_json:
        print_json(
            {
                "out": str(out),
                "duration_s": round(duration_s, 3),
                "requests": tally.requests,
                "failed": tally.failed,
                "paths": [
                    {
                        "path": each.path,
                        "requests": each.requests,
                        "failed": each.failed,
                        "latency": None
                        if each.latency is None
                        else each.latency.model_dump(mode="json"),
                    }
                    for each in paths
                ],
            }
        )
        return

    def ms(value: Any) -> str | None:
        return None if value is None else f"{value:.3f}"

    print_table(
        f"{out}: {tally.requests} requests in {duration_s:.1f} s, {tally.failed} failed",
        ["path", "requests", "failed", "mean ms", "p50 ms", "p95 ms", "p99 ms"],
        [
            [
                each.path or "(none)",
                each.requests,
                each.failed,
                ms(each.latency and each.latency.mean_ms),
                *(
                    ms(each.latency and quantile and quantile.value_ms)
                    for quantile in (
                        (each.latency.p50, each.latency.p95, each.latency.p99)
                        if each.latency
                        else (None, None, None)
                    )
                ),
            ]
            for each in paths
        ],
    )
