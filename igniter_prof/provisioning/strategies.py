"""Ways to place workloads, by name: the optimal one, and strategies to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from igniter_prof.errors import BadInput, Infeasible
from igniter_prof.provisioning.baselines import ffd, gpulets, gslice, igniter
from igniter_prof.provisioning.engine import Engine
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
    """Shares nothing: each workload has a device, the cheapest kind, with the roomiest batch."""
    devices = []
    problem = engine.problem
    for index, each in enumerate(problem.classes):
        kinds = [k for k, demand in enumerate(engine.demands) if demand.feasible[index]]
        kind = min(kinds, key=lambda number: (problem.device_cost(number), number))
        device, ranked = problem.kinds[kind], []
        choices = device.choices[each.sample.model]
        for batch in choices.batch_sizes:
            setting = Setting(batch, choices.shares_pct[-1])
            (judgement,) = device.evaluator.judge([each.sample], [setting])
            if judgement.holds:
                ranked.append((-judgement.headroom, setting))
        setting = min(ranked)[1] if ranked else _least(engine, index, kind)
        devices += [Configuration((index,), (setting,), kind)] * each.count
    return Placement(devices=tuple(devices))


def _least(engine: Engine, index: int, kind: int) -> Setting:
    found = engine.configure((index,), kind)
    assert found is not None  # strategies get workloads that are feasible alone
    return found.settings[0]


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
