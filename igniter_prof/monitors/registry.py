"""Monitors by name: those that come along, and plug-ins."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from igniter_prof.errors import BadInput, IgprofError, MissingCapability, did_you_mean
from igniter_prof.monitors.contract import Monitor, MonitorFactory
from igniter_prof.records import Device

ENTRY_POINTS = "igniter_prof.monitors"
CLIENT = "client"
"""The client's clock: always there, for it is the load itself."""

MONITORS = {
    "sniffer": "igniter_prof.monitors.sniffer:sniffer",
    "nvml": "igniter_prof.monitors.nvml:nvml",
    "rapl": "igniter_prof.monitors.rapl:rapl",
    "container": "igniter_prof.monitors.container:container",
    "triton": "igniter_prof.monitors.metrics:metrics",
    "replay": "igniter_prof.monitors.replay:replay",
}
"""``module:factory`` by name; imported when used."""


def known_monitors() -> list[str]:
    """The names of all monitors, plug-ins included."""
    return [CLIENT, *MONITORS, *_plugins()]


def make(spec: str, device: Device) -> Monitor | None:
    """The monitor that ``name`` or ``name:argument`` stands for; None for ``client``.

    Raises:
        BadInput: no such monitor, or a bad argument.
        MissingCapability: it cannot run here.
    """
    name, _, argument = spec.partition(":")
    if name == CLIENT:
        if argument:
            raise BadInput(f"the monitor '{CLIENT}' takes no argument", where=f"'{spec}'")
        return None
    if name in MONITORS:
        module, _, attribute = MONITORS[name].partition(":")
        factory: MonitorFactory = getattr(importlib.import_module(module), attribute)
        return factory(device, argument or None)
    plugins = _plugins()
    if name not in plugins:
        raise BadInput(f"unknown monitor '{name}'", hint=did_you_mean(name, known_monitors()))
    return _of_plugin(plugins[name], device, argument or None)


def check(specs: Sequence[str], device: Device) -> dict[str, str]:
    """Which of some monitors cannot run here, and why (name: reason with what to do).

    Raises:
        BadInput: there is no such monitor, it is named twice, or its argument is bad.
    """
    names = [spec.partition(":")[0] for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"the monitor '{twice}' is named twice", hint="name it once")
    lacking = {}
    for spec in specs:
        try:
            make(spec, device)
        except BadInput:  # noqa: PERF203 (a handful)
            raise
        except IgprofError as error:  # it would be a note of each cell, and no end of the sweep
            lacking[spec] = error.note
    return lacking


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _of_plugin(point: EntryPoint, device: Device, argument: str | None) -> Monitor:
    try:
        factory: MonitorFactory = point.load()
        return factory(device, argument)
    except IgprofError:
        raise
    except Exception as error:  # whatever it raises, it is no defect of igprof
        raise MissingCapability(
            f"the plug-in '{point.name}' cannot be used: {type(error).__name__}: {error}",
            where=point.value,
            hint="mend it, or leave the monitor out",
        ) from error
