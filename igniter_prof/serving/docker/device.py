"""The device that containers run on: this host's, or that of the engine's host."""

from __future__ import annotations

from igniter_prof.config.devices import format_cores, parse_cores, resolve_device
from igniter_prof.errors import BadInput
from igniter_prof.records import Device
from igniter_prof.serving.contract import ServeOptions
from igniter_prof.serving.docker import naming
from igniter_prof.serving.docker.engine import Engine, connect
from igniter_prof.units import BYTES_PER_MIB


def device_of(spec: str, options: ServeOptions) -> Device:
    """The device that a user names, on the host of the engine.

    With an engine on this host it is as with the local runtime. Elsewhere it is ``cpu`` or
    ``cpu:<cores>``, with or without ``@host``, as the engine describes it.

    Raises:
        BadInput: it is no device, names cores that are not there, or the options name what no
            sweep may.
        MissingCapability: no engine answers.
    """
    naming.check_options(options)  # before a folder is made for the profile
    engine = connect()
    try:
        return resolve_device(spec) if engine.local else _elsewhere(spec, engine)
    finally:
        engine.close()


def _elsewhere(spec: str, engine: Engine) -> Device:
    host = engine.address.host
    named, _, at = spec.partition("@")
    if at and at != host:
        raise BadInput(f"the engine is at {host}, not at {at}", where=spec)
    kind, _, rest = named.partition(":")
    if kind != "cpu":
        raise BadInput(
            "only the CPUs of an engine elsewhere can be used",
            where=spec,
            hint="write cpu or cpu:0-3; for its GPUs run igprof on that host",
        )
    count = int(engine.info.get("NCPU") or 0)
    there = tuple(range(count))
    cores = parse_cores(rest) if rest else there
    if set(cores) - set(there):
        raise BadInput(
            f"core {max(cores)} is not there, {host} has {count} cores",
            where=spec,
        )
    memory = engine.info.get("MemTotal")
    return Device(
        id=f"cpu:{format_cores(cores)}@{host}",
        kind="cpu",
        name=f"{engine.info.get('Architecture', 'CPU')} of {engine.info.get('Name', host)}",
        cores=cores,
        memory_mib=None if not memory else memory / BYTES_PER_MIB,
    )
