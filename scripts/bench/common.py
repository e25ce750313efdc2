"""What the benchmarks share: markdown tables, where they were taken, errors as exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from igniter_prof import __version__
from igniter_prof.cli.common import note
from igniter_prof.errors import IgprofError
from igniter_prof.files import now_utc
from igniter_prof.serving import host_conditions

QUIET_LOAD = 0.7
"""Load average of the last minute above which a machine is not quiet."""


def setting() -> dict[str, Any]:
    """Where and when a benchmark is taken, and how busy the machine was just before."""
    host = host_conditions()
    return {
        "igprof": __version__,
        "taken_at": now_utc(),
        "cpu_model": host["cpu_model"],
        "cpu_count": host["cpu_count"],
        "kernel": host["kernel"],
        "os": host["os"],
        "load_1min": round(os.getloadavg()[0], 2),
    }


def describe_setting(where: dict[str, Any]) -> str:
    """``setting`` in one line for people."""
    return (
        f"{where['cpu_count']} cores of {where['cpu_model']}, {where['os']}, Linux"
        f" {where['kernel']}, igprof {where['igprof']}, {where['taken_at']},"
        f" load average before: {where['load_1min']}"
    )


def warn_if_busy() -> None:
    """Say so on standard error if other work would disturb what is timed."""
    load = os.getloadavg()[0]
    if load > QUIET_LOAD:
        note(f"the machine is not quiet (load average {load:.2f}): expect scatter")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; the first column is flush left, None shows as ``-``."""
    ruler = ["---"] + ["---:"] * (len(columns) - 1)
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in [columns, ruler, *cells])


def run(main: Callable[[], int]) -> None:
    """Run a benchmark; igprof's own failures become a message and their exit status."""
    try:
        sys.exit(main())
    except IgprofError as error:
        note(f"{sys.argv[0]}: {error}")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(130)
