"""The conditions of a cell, as far as the runtime and this host know them."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from igniter_prof import __version__
from igniter_prof.serving.contract import Deployment


def server_conditions(deployment: Deployment) -> dict[str, Any]:
    """Fields of :class:`~igniter_prof.records.Conditions` that the runtime knows."""
    return deployment.conditions()


def host_conditions() -> dict[str, Any]:
    """Fields of :class:`~igniter_prof.records.Conditions` that this host knows."""
    return {
        "igprof": __version__,
        "os": _os_name(),
        "kernel": platform.release(),
        "cpu_model": cpu_model(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The CPU's name from the kernel; None where it has none (some ARM machines)."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None)


def _os_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None
