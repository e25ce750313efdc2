"""Parts of the probe: MPS, green contexts, and whose shares are obeyed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loaded import Load, holder
from telling import tell
from verdict import judged

SHARES = ((50.0, 50.0), (100.0,), (25.0, 75.0))
"""Tenants that run beside each other, alone and together, for a mechanism of shares."""
RUN_S = 1.0
START_S = 15.0
"""How long the tenants of a group take to start, about; less is no time for another group."""
PERCENTAGES = (100, 75, 50, 25, 10)


def mps(device: str, seconds: float) -> None:
    """A daemon of our own: does it start, attach, obey percentages, end?"""
    from igniter_prof import files
    from igniter_prof.config.devices import resolve_device
    from igniter_prof.serving import marks
    from igniter_prof.serving.shares import mps_daemon
    from igniter_prof.serving.shares.gpu import sm_counts
    from igniter_prof.serving.shares.mps import PERCENTAGE

    uuid = resolve_device(device).id.partition(":")[2]
    there = mps_daemon.listening()
    tell(already_there=None if there is None else str(there.pipes))
    mark = marks.mint()
    files.make_cached(mark.folder)
    try:
        began = time.monotonic()
        daemon = mps_daemon.start(uuid, mark)
        tell(started=True, start_s=round(time.monotonic() - began, 2))
        tell(default_pct=daemon.default_pct())
        pipes = {mps_daemon.PIPES: str(daemon.pipes), "CUDA_VISIBLE_DEVICES": uuid}
        shares = [{**pipes, PERCENTAGE: f"{share}"} for share in PERCENTAGES]
        counts = sm_counts(shares)
        tell(sm_counts=dict(zip(map(str, PERCENTAGES), counts, strict=True)))
        with holder(device, pipes) as process:
            clients = [client.pid for client in daemon.clients()]
            tell(attached=process.pid in clients, clients=len(clients), fault=daemon.fault())
        began = time.monotonic()
        daemon.quit()
        tell(quit=not daemon.answers(), quit_s=round(time.monotonic() - began, 2))
    finally:
        tell(logs=_tails(mark.folder / "mps"))
        marks.sweep_up(mark)


def green(device: str, seconds: float) -> None:
    """How the SMs can be divided by green contexts, and whether a kernel runs on a part."""
    from igniter_prof.config.devices import resolve_device
    from igniter_prof.records import Tenant
    from igniter_prof.serving import ServeOptions
    from igniter_prof.serving.shares.gpu import WITHOUT_MPS
    from igniter_prof.serving.shares.green import GreenContext, layout_of

    record = resolve_device(device)
    uuid = record.id.partition(":")[2]
    layout = layout_of({**WITHOUT_MPS, "CUDA_VISIBLE_DEVICES": uuid})
    tell(sms=layout.sms, group=layout.group, groups=layout.groups)
    tenants = [Tenant(model="load", share_pct=50)]
    with GreenContext(record, tenants, ServeOptions()) as mechanism:
        environment = {**mechanism.grant(0).environment, "CUDA_VISIBLE_DEVICES": uuid}
        with Load(device, environment) as load:
            mechanism.verify(0, [load.pid])
            tell(half=mechanism.sm_count(0), runs=load.run(0.3)["rate"] > 0)


def shares(device: str, seconds: float) -> None:
    """Throughput of a fixed kernel over shares, alone and together, by each mechanism.

    One that is obeyed, with tenants that run at once, ends the search.
    """
    from igniter_prof.config.devices import resolve_device
    from igniter_prof.errors import IgprofError

    record = resolve_device(device)
    deadline = time.monotonic() + seconds
    tell(device=record.model_dump(), run_s=RUN_S)
    for name in ("mps", "green-context-mps", "green-context"):
        groups: list[dict[str, Any]] = []
        for wanted in SHARES:
            if time.monotonic() > deadline - START_S:
                tell(cut=f"no time for {name} with shares {list(wanted)}")
                break
            try:
                groups.append(_together(device, record, name, wanted))
            except (IgprofError, OSError, RuntimeError, ValueError) as error:
                groups.append({"shares": list(wanted), "error": str(error)})
            tell(**{name: {"groups": groups, **judged(groups)}})
            if "error" in groups[-1] and len(groups) == 1:
                break
        verdict = judged(groups)
        if verdict["obeyed"] and verdict["concurrent"]:
            break


def _together(device: str, record: Any, name: str, wanted: Sequence[float]) -> dict[str, Any]:
    from igniter_prof.records import Tenant
    from igniter_prof.serving import ServeOptions
    from igniter_prof.serving.shares import mechanism_for

    tenants = [Tenant(model=f"load{k}", share_pct=share) for k, share in enumerate(wanted)]
    options = ServeOptions(share_mechanism=name)
    uuid = record.id.partition(":")[2]
    with contextlib.ExitStack() as stack:
        mechanism = stack.enter_context(mechanism_for(record, tenants, options))
        loads = []
        for index in range(len(tenants)):
            grant = mechanism.grant(index)
            environment = {**grant.environment, "CUDA_VISIBLE_DEVICES": uuid}
            loads.append(stack.enter_context(Load(device, environment)))
        for index, load in enumerate(loads):
            mechanism.verify(index, [load.pid])
        counts = [mechanism.sm_count(index) for index in range(len(tenants))]
        alone = [load.run(RUN_S)["rate"] for load in loads]
        for load in loads:
            load.begin(RUN_S)
        both = [load.end()["rate"] for load in loads]
        trouble = mechanism.trouble(fresh=True)
    found = {"shares": list(wanted), "sm_counts": counts, "alone": alone, "together": both}
    return found if trouble is None else {**found, "error": trouble}


def _tails(folder: Path) -> dict[str, str]:
    return {
        path.name: path.read_text(errors="replace")[-1500:] for path in sorted(folder.glob("*.log"))
    }
