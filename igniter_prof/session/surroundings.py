"""What surrounds a cell: the conditions of host and server, and a machine that comes to rest."""

from __future__ import annotations

import time
from pathlib import Path

from igniter_prof.config.devices import client_cores
from igniter_prof.records import (
    Conditions,
    Device,
)
from igniter_prof.serving import (
    Deployment,
    host_conditions,
    server_conditions,
)

REST_BUSY = 0.15
"""A machine whose device's cores are busy for less than this part of the time is at rest."""
OF_THE_HOST = ("os", "kernel", "cpu_model", "cpu_count")
"""Conditions that are those of the device's host."""


def conditions_of(
    deployment: Deployment | None, device: Device, runtime: str = "local"
) -> Conditions:
    """The conditions under which a deployment runs; None: it could not start, or was not tried."""
    cores, apart = client_cores(device)
    served = server_conditions(deployment) if deployment is not None else {"runtime": runtime}
    # an engine elsewhere knows its own host better; nobody was asked where nothing was started
    known = {**host_conditions(), **served}
    # (an engine at localhost may be in a virtual machine)
    if deployment is None and (device.elsewhere or "@" in device.id):
        known = {name: value for name, value in known.items() if name not in OF_THE_HOST}
    return Conditions(client_cores=cores, client_apart=apart, **known)


def come_to_rest(device: Device, limit_s: float) -> str | None:
    """Wait until the device's cores are nearly idle, at most ``limit_s``; says how it ended.

    Of a device on another host nothing is seen: then it is this host, the client's, that rests.
    """
    if limit_s <= 0:
        return None
    cores, whose = ((), "client ") if device.elsewhere else (device.cores, "")
    began = time.monotonic()
    while True:
        busy = _busy(cores, 0.1)
        waited_s = time.monotonic() - began
        if busy < REST_BUSY:
            return f"{whose}at rest after {waited_s:.1f} s"
        if waited_s >= limit_s:
            return f"{whose}not at rest after {waited_s:.1f} s: cores {busy:.0%} busy"


def _busy(cores: tuple[int, ...], over_s: float) -> float:
    """The busy part of some cores' time (all cores if none are named), read from /proc/stat."""

    def jiffies() -> tuple[int, int]:
        idle = total = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if not name.startswith("cpu") or name == "cpu":
                continue
            if cores and int(name[3:]) not in cores:
                continue
            values = [int(value) for value in fields[:8]]
            idle += values[3] + values[4]
            total += sum(values)
        return idle, total

    idle_0, total_0 = jiffies()
    time.sleep(over_s)
    idle_1, total_1 = jiffies()
    return 1.0 - (idle_1 - idle_0) / max(1, total_1 - total_0)
