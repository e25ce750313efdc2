"""The conditions of a cell, as far as the runtime and this host know them."""

from __future__ import annotations

import os
import platform
from typing import Any

from igniter_prof import __version__
from igniter_prof.config.devices import cpu_model
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


def _os_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None
