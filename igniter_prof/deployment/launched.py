"""Launched plans: their servers outlive igprof; a state file each says where they are.

The state lies in ``<cache>/launched/<plan>.json``, named by the plan's digest, so that ``status``,
``stop`` and ``evaluate`` find the servers from the plan alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from igniter_prof import serving
from igniter_prof.errors import BadInput, IgprofError, MissingCapability, OutsideFailure
from igniter_prof.files import cache_dir, make_cached, now_utc, read_record, write_json
from igniter_prof.records import Device, Plan, PlanDevice, Record, Status, Tenant
from igniter_prof.serving import Deployment, LaunchedState, ServeOptions, TenantFailure


class LaunchedDevice(Record):
    """What runs for one device of a plan."""

    name: str
    device: Device
    workloads: tuple[str, ...] = ()
    state: LaunchedState


class Launched(Record):
    """A plan that was launched."""

    plan_hash: str
    plan_path: str
    started_at: str
    devices: tuple[LaunchedDevice, ...]


def tenants_of(device: PlanDevice) -> tuple[Tenant, ...]:
    """The tenants that a plan's device asks for: dynamic batching up to the planned batch."""
    return tuple(
        Tenant(
            model=tenant.model,
            batch_size=tenant.batch_size,
            share_pct=tenant.share_pct,
            instances=tenant.instances,
            queue_delay_us=tenant.queue_delay_us,
        )
        for tenant in device.tenants
    )


def launch(
    plan: Plan,
    plan_path: Path,
    devices: Sequence[Device],
    options: ServeOptions,
    *,
    on_device: Callable[[str, str], None] | None = None,
) -> Launched:
    """Start all servers of a plan and leave them running. All or nothing.

    Args:
        plan: what to start.
        plan_path: the file that it came from, for people.
        devices: a real device for each of the plan's, in its order (``assign``).
        options: how to serve.
        on_device: told the plan's device and the real one before its servers start.

    Raises:
        BadInput: the plan is launched already.
        MissingCapability: fewer real devices than the plan has, so that some stand there twice.
        OutsideFailure: a tenant did not start; nothing is left running.
    """
    if _path(plan).exists() or launched_from(plan_path):
        raise BadInput(
            "is launched already, or an earlier plan of this file is",
            where=str(plan_path),
            hint=f"igprof stop {plan_path}",
        )
    there = len({device.id for device in devices})
    if there < len(plan.devices):
        raise MissingCapability(
            f"needs {len(plan.devices)} devices, {there} are there",
            where=str(plan_path),
            hint="name them with --on, once for each; igprof evaluate can try them in turn on one",
        )
    started: list[LaunchedDevice] = []
    try:
        for planned, real in zip(plan.devices, devices, strict=True):
            if on_device is not None:
                on_device(planned.name, real.id)
            state = serving.launch(real, tenants_of(planned), options)
            workloads = tuple(tenant.workload for tenant in planned.tenants)
            started.append(
                LaunchedDevice(name=planned.name, device=real, workloads=workloads, state=state)
            )
        launched = Launched(
            plan_hash=plan.digest(),
            plan_path=str(plan_path.resolve()),
            started_at=now_utc(),
            devices=tuple(started),
        )
        make_cached(_folder())
        write_json(_path(plan), launched)
    except BaseException as error:
        with serving.uninterrupted(), contextlib.suppress(IgprofError):  # the first reason counts
            _stop_each(each.state for each in started)
        if isinstance(error, TenantFailure):
            tenant = plan.devices[len(started)].tenants[error.index]
            raise OutsideFailure(
                f"'{tenant.workload}' did not start ({error.status}): {error.detail}",
                where=f"{plan_path}, {plan.devices[len(started)].name}",
                hint="nothing was left running",
            ) from error
        raise
    return launched


def find_launched(plan: Plan, where: str) -> Launched:
    """The state of a launched plan; ``where`` is its file. Raises BadInput if it is not launched.

    A file that was planned anew since it was launched is another plan: its message says so.
    """
    path = _path(plan)
    if path.exists():
        launched = _launched_at(path)
        if launched is None:
            raise BadInput(
                "what is noted of the launched plan is damaged",
                where=str(path),
                hint="igprof stop --all stops its servers",
            )
        return launched
    if launched_from(Path(where)):
        raise BadInput(
            "what is launched from this file is an earlier plan",
            where=where,
            hint=f"igprof stop {where} stops it",
        )
    raise BadInput("is not launched", where=where, hint=f"igprof launch {where}")


def launched_from(path: Path) -> list[Launched]:
    """What was launched from a plan's file and not stopped, whatever is in that file now."""
    return [each for each in all_launched() if each.plan_path == str(path.resolve())]


def is_launched(plan: Plan) -> bool:
    """Whether a plan is launched (its servers may have died meanwhile)."""
    return _path(plan).exists()


def all_launched() -> list[Launched]:
    """Every launched plan of this user, oldest first; files that cannot be read are left out."""
    return _read()[0]


def damaged() -> list[Path]:
    """The files of launched plans that cannot be read; ``stop_all`` removes them."""
    return _read()[1]


def _read() -> tuple[list[Launched], list[Path]]:
    read = {path: _launched_at(path) for path in sorted(_folder().glob("*.json"))}
    found = [launched for launched in read.values() if launched is not None]
    broken = [path for path, launched in read.items() if launched is None]
    return sorted(found, key=lambda launched: launched.started_at), broken


def _launched_at(path: Path) -> Launched | None:
    """None for a damaged file: it must not keep other plans from being shown and stopped."""
    try:
        return read_record(path, Launched)
    except BadInput:
        return None


def unplanned() -> list[LaunchedState]:
    """Launched servers of this machine that no plan knows of, oldest first.

    They are left by a launch that was killed before it had noted its plan, or by a damaged file.
    """
    known = {device.state.mark for launched in all_launched() for device in launched.devices}
    return [state for state in serving.launched_states() if state.mark not in known]


class Health(Record):
    """How one tenant of a launched plan is."""

    device: str
    real_device: str
    workload: str
    model: str
    status: Status
    address: str | None = None
    detail: str | None = None


def health(launched: Launched) -> list[Health]:
    """How each tenant is, by its server's process; ``crashed`` where that has gone.

    ``ok`` says that the process lives and was not out of memory, not that it answers.
    """
    rows = []
    for each in launched.devices:
        try:
            deployment = serving.attach(each.state)
        except OutsideFailure as error:
            endings: list[tuple[Status, str] | None] = [("crashed", error.what)] * len(
                each.state.endpoints
            )
        else:
            try:
                endings = [deployment.ending(index) for index in range(len(each.state.endpoints))]
            finally:
                serving.detach(deployment)
        workloads = each.workloads or ("",) * len(each.state.endpoints)
        for ending, workload, endpoint in zip(
            endings, workloads, each.state.endpoints, strict=True
        ):
            status, detail = ending or ("ok", None)
            rows.append(
                Health(
                    device=each.name,
                    real_device=each.device.id,
                    workload=workload,
                    model=endpoint.tenant.model,
                    status=status,
                    address=endpoint.http_address,
                    detail=detail,
                )
            )
    return rows


def stop(launched: Launched) -> None:
    """Stop all servers of a launched plan and forget it; it is no error if some have gone."""
    _stop_each(each.state for each in launched.devices)
    (_folder() / f"{launched.plan_hash[:16]}.json").unlink(missing_ok=True)


def stop_all() -> int:
    """Stop every launched plan, and launched servers that no plan knows of; how many devices.

    Files of launched plans that cannot be read are removed. What cannot be stopped keeps nothing
    else from it; it is told at the end.

    Raises:
        OutsideFailure: something could not be stopped.
    """
    plans, broken = _read()
    count = 0
    failures: list[OutsideFailure] = []
    for launched in plans:
        try:
            stop(launched)
        except OutsideFailure as error:  # noqa: PERF203 (a few)
            failures.append(error)
        else:
            count += len(launched.devices)
    known = {device.state.mark for launched in plans for device in launched.devices}
    orphans = [state for state in serving.launched_states() if state.mark not in known]
    try:
        _stop_each(orphans)
    except OutsideFailure as error:
        failures.append(error)
    for path in broken:
        path.unlink(missing_ok=True)
    if failures:
        raise failures[0]
    return count + len(orphans)


def _stop_each(states: Iterable[LaunchedState]) -> None:
    """Stop all of some servers. Raises the first OutsideFailure when all were tried."""
    failures: list[OutsideFailure] = []
    for state in states:
        try:
            serving.stop(state)
        except OutsideFailure as error:  # noqa: PERF203 (a few)
            failures.append(error)
    if failures:
        raise failures[0]


def attached(plan: Plan, device: PlanDevice) -> Deployment:
    """The running servers of one device of a launched plan; they keep running.

    Raises:
        BadInput: the plan is not launched.
        OutsideFailure: the machine was started anew since.
    """
    launched = find_launched(plan, "the plan")
    (state,) = [each.state for each in launched.devices if each.name == device.name]
    return serving.attach(state)


def _folder() -> Path:
    return cache_dir() / "launched"


def _path(plan: Plan) -> Path:
    return _folder() / f"{plan.digest()[:16]}.json"
