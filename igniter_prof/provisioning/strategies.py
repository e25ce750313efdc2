"""Ways to place workloads, by name: the optimal one, and strategies to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from igniter_prof.errors import BadInput, Infeasible
from igniter_prof.provisioning.baselines import ffd, gpulets, gslice, igniter
from igniter_prof.provisioning.engine import Engine, within
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.optimal import Placement, optimal
from igniter_prof.provisioning.problem import (
    Configuration,
    DeviceKind,
    Problem,
    WorkloadClass,
)

_Place = Callable[[Sequence[WorkloadClass], DeviceKind], list[Configuration]]


def alone(engine: Engine) -> Placement:
    """Shares nothing: each workload has a device, the cheapest kind, with the roomiest batch.

    Raises:
        Infeasible: there are too few devices.
    """
    devices = []
    problem = engine.problem
    left = [kind.record.count for kind in problem.kinds]
    by_cost = sorted(range(len(left)), key=lambda kind: (problem.device_cost(kind), kind))
    for index, each in enumerate(problem.classes):
        waiting = each.count
        for kind in by_cost:
            number = _at_most(waiting, left[kind])
            setting = _roomiest(engine, index, kind) if number else None
            if setting is None:
                continue
            devices += [Configuration((index,), (setting,), kind)] * number
            waiting -= number
            if (has := left[kind]) is not None:
                left[kind] = has - number
        if waiting:
            raise Infeasible(
                f"strategy 'alone' has no device left for '{each.names[-waiting]}'",
                hint="use --strategy optimal, or allow more devices",
            )
    return Placement(devices=tuple(devices))


def _at_most(number: int, limit: int | None) -> int:
    return number if limit is None else min(number, limit)


def _roomiest(engine: Engine, index: int, kind: int) -> Setting | None:
    """The setting of a class alone on a kind of device; None: it cannot hold it."""
    if not engine.demands[kind].feasible[index]:
        return None
    device, sample = engine.problem.kinds[kind], engine.problem.classes[index].sample
    choices, ranked = device.choices[sample.model], []
    for batch in choices.batch_sizes:
        setting = Setting(batch, choices.shares_pct[-1])
        (judgement,) = device.evaluator.judge([sample], [setting])
        if judgement.holds and within(device, [sample], [setting]):
            ranked.append((-judgement.headroom, setting))
    if ranked:
        return min(ranked)[1]
    found = engine.configure((index,), kind)
    return None if found is None else found.settings[0]


def _on_one_kind(name: str, place: _Place, note: str | None) -> Callable[[Engine], Placement]:
    """A strategy of the literature: all devices are of one kind, the one with the cheapest plan."""

    def strategy(engine: Engine) -> Placement:
        problem = engine.problem
        _refuse_unknown(problem, name)
        plans = []
        for number, kind in enumerate(problem.kinds):
            demand = engine.demands[number]
            if not demand.feasible.all():
                continue
            devices = place(problem.classes, kind)
            if kind.record.count is not None and len(devices) > kind.record.count:
                continue
            cost = len(devices) * problem.device_cost(number)
            plans.append((cost, number, [replace(each, kind=number) for each in devices]))
        if not plans:
            raise Infeasible(
                f"strategy '{name}' finds no plan on one type of device",
                hint="it knows neither several types at once nor what is beyond their count; use"
                " --strategy optimal",
            )
        notes = () if note is None else (note,)
        return Placement(devices=tuple(min(plans)[2]), notes=notes)

    return strategy


def _refuse_unknown(problem: Problem, name: str) -> None:
    """The strategies of the literature place workloads by rate and SLO alone."""
    for each in problem.classes:
        sample = each.sample
        for what, given in (
            ("replicas", sample.replicas > 1),
            ("anti_affinity", sample.anti_affinity is not None),
        ):
            if given:
                raise BadInput(
                    f"workload '{sample.name}' has {what}, which strategy '{name}' does not know",
                    hint="use --strategy optimal, or leave it out to compare",
                )


_BLIND = "made without regard to interference"

STRATEGIES: dict[str, Callable[[Engine], Placement]] = {
    "optimal": optimal,
    "igniter": _on_one_kind("igniter", igniter.place, None),
    "gpulets": _on_one_kind("gpulets", gpulets.place, None),
    "gslice": _on_one_kind("gslice", gslice.place, _BLIND),
    "ffd": _on_one_kind("ffd", ffd.place, _BLIND),
    "alone": alone,
}
"""Strategies by name. Each gets a problem of which every workload is feasible alone."""
