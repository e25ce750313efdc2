"""``replanned``: an old plan, kinds of devices and changed workloads in, a new plan out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from igniter_prof import __version__
from igniter_prof.config.workloads import names_of
from igniter_prof.errors import Infeasible
from igniter_prof.files import now_utc
from igniter_prof.provisioning.certificate import certificate_of
from igniter_prof.provisioning.engine import Engine, within
from igniter_prof.provisioning.layout import Ground, Placed
from igniter_prof.provisioning.optimal import Placement, optimal, rounded_up
from igniter_prof.provisioning.planner import (
    by_priority,
    devices_of,
    engine_of,
    notes_of,
    refuse_too_few,
)
from igniter_prof.provisioning.problem import Configuration, DeviceKind, Problem, natural
from igniter_prof.provisioning.replan import (
    DEFAULT_MOVE_COST,
    Change,
    Replanned,
    bound_of,
    change,
    replan,
)
from igniter_prof.provisioning.rules import Rule
from igniter_prof.records import Objective, Plan, PlanDevice, PlanTenant, Workload

SCRATCH_PART = 0.5
"""Of the time limit, for the plan that is made anew."""


@dataclass(frozen=True)
class Outcome:
    """What planning again came to."""

    problem: Problem
    done: Replanned
    change: Change
    solve_s: float

    def plan(self, *, workloads_hash: str | None = None, notes: Sequence[str] = ()) -> Plan:
        """The new plan, with what it promises.

        Args:
            workloads_hash: stored in it.
            notes: for it, before its own.
        """
        problem, done, said = self.problem, self.done, self.change
        configurations = [each.configuration for each in done.layout.values()]
        return Plan(
            strategy="replan",
            device_types=tuple(kind.record for kind in problem.kinds),
            workloads_hash=workloads_hash,
            igprof=__version__,
            created_at=now_utc(),
            seed=problem.seed,
            latency_rule=str(problem.rule),
            objective=problem.objective,
            cost=said.cost_after,
            bound=said.bound,
            optimal=True if _meets(said) else None,
            certificate=done.scratch.certificate if done.scratch and bound_of(done) else None,
            solve_s=self.solve_s,
            devices=_devices(problem, done),
            left_out=said.left_out,
            notes=notes_of(problem, configurations, notes),
        )


def replanned(
    plan: Plan,
    kinds: Sequence[DeviceKind],
    workloads: Sequence[Workload],
    *,
    rule: Rule,
    objective: Objective | None = None,
    move_cost: float = DEFAULT_MOVE_COST,
    lost: Iterable[str] = (),
    time_limit_s: float = 60.0,
) -> Outcome:
    """Where workloads go on other devices, or others on the same, with few moves.

    Args:
        plan: the old plan.
        kinds: of devices, by the names of the plan's types; there may be others.
        workloads: all that are to be placed.
        rule: that the new plan must keep.
        objective: None: the plan's.
        move_cost: what moving a tenant costs, in the objective's unit.
        lost: names of devices that are no longer there.
        time_limit_s: of the search, half of it for a plan that is made anew to compare with.

    Raises:
        Infeasible: there is no such plan.
        BadInput: a model that no kind knows.
    """
    started = time.monotonic()
    objective = plan.objective if objective is None else objective

    def engine_for(some: Sequence[Workload]) -> Engine:
        return engine_of(
            kinds,
            some,
            rule=rule,
            objective=objective,
            time_limit_s=time_limit_s,
            seed=plan.seed,
        )

    possible, hopeless = _possible(workloads, engine_for)
    engine = engine_for(possible)
    ground = ground_of(engine, time_limit_s=SCRATCH_PART * time_limit_s)
    done = replan(
        plan, ground, move_cost=move_cost, lost=lost, time_limit_s=(1 - SCRATCH_PART) * time_limit_s
    )
    done = replace(done, left_out=tuple(sorted({*done.left_out, *hopeless}, key=natural)))
    said = change(plan, ground, done, move_cost=move_cost)
    return Outcome(engine.problem, done, said, round(time.monotonic() - started, 3))


def _possible(
    workloads: Sequence[Workload], engine_for: Callable[[Sequence[Workload]], Engine]
) -> tuple[list[Workload], list[str]]:
    """The workloads that have to be met, or can; and the names of those that need not and cannot.

    Raises:
        Infeasible: one that has no priority cannot be met alone.
    """
    possible: list[Workload] = []
    hopeless: list[str] = []
    known: dict[str, bool] = {}
    for each in workloads:
        alike = each.model_copy(update={"name": "", "count": 1}).model_dump_json()
        if each.priority is not None and alike not in known:
            try:
                engine_for([each])
                known[alike] = True
            except Infeasible:
                known[alike] = False
        if known.get(alike, True):
            possible.append(each)
        else:
            hopeless += names_of(each)
    return possible or list(workloads), hopeless


def ground_of(engine: Engine, *, time_limit_s: float) -> Ground:
    """How devices are judged, by an engine, and how tenants are planned anew."""
    problem = engine.problem
    costs: dict[Configuration, float] = {}

    def cost(configuration: Configuration) -> float:
        if configuration not in costs:
            costs[configuration] = _cost(problem, configuration)
        return costs[configuration]

    def size(index: int, kind: int) -> float | None:
        units = engine.demands[kind].alone[index].any(axis=0).nonzero()[0]
        return engine.grids[kind].share_pct(int(units[0]) + 1) if len(units) else None

    def scratch(workloads: Sequence[Workload], counts: Sequence[int | None]) -> Plan:
        kinds = [
            replace(kind, record=kind.record.model_copy(update={"count": count}))
            for kind, count in zip(problem.kinds, counts, strict=True)
            if count != 0
        ]
        if not kinds:
            raise Infeasible("no device is left for them")
        return _unpromised(problem, kinds, workloads, time_limit_s=time_limit_s)

    return Ground(
        problem=problem,
        configure=lambda pattern, kind: (
            engine.configure(pattern, kind) if engine.demands[kind].feasible.any() else None
        ),
        holds=_holds(problem),
        cost=cost,
        size=size,
        scratch=scratch,
    )


def _unpromised(
    like: Problem,
    kinds: Sequence[DeviceKind],
    workloads: Sequence[Workload],
    *,
    time_limit_s: float,
) -> Plan:
    """The cheapest plan by the rule and objective of ``like``, as far as who is where.

    What it would promise takes longer to predict than the plan takes to find.
    """

    def attempt(asked: Sequence[Workload]) -> tuple[Problem, Placement]:
        engine = engine_of(
            kinds,
            asked,
            rule=like.rule,
            objective=like.objective,
            time_limit_s=time_limit_s,
            gap=like.gap,
            seed=like.seed,
        )
        refuse_too_few(engine)
        return engine.problem, optimal(engine)

    (problem, placement), left_out = by_priority(workloads, attempt)
    if not placement.devices:
        raise Infeasible("no plan was found in time", hint="raise --time-limit")
    names = [iter(each.names) for each in problem.classes]
    devices = []
    for number, configuration in enumerate(placement.devices, start=1):
        tenants = []
        for index, setting in zip(configuration.pattern, configuration.settings, strict=True):
            sample = problem.classes[index].sample
            tenants.append(
                PlanTenant(
                    workload=next(names[index]),
                    model=sample.model,
                    batch_size=setting.batch_size,
                    share_pct=setting.share_pct,
                    queue_delay_us=setting.queue_delay_us,
                    rate_rps=sample.rate_rps,
                    slo_ms=sample.slo_ms,
                )
            )
        kind = problem.kinds[configuration.kind].record.name
        devices.append(PlanDevice(name=f"device-{number}", type=kind, tenants=tuple(tenants)))
    bound = placement.bound
    return Plan(
        strategy="optimal",
        igprof=__version__,
        created_at=now_utc(),
        bound=None if bound is None else rounded_up(problem, bound.value),
        certificate=None if bound is None else certificate_of(problem, bound),
        devices=tuple(devices),
        left_out=left_out,
        notes=placement.notes,
    )


def _cost(problem: Problem, configuration: Configuration) -> float:
    total = problem.device_cost(configuration.kind)
    if problem.objective.power:
        evaluator = problem.kinds[configuration.kind].evaluator
        watts = evaluator.power_w(_samples(problem, configuration), configuration.settings)
        total += problem.objective.power * (watts or 0.0)
    return total


def _samples(problem: Problem, configuration: Configuration) -> list[Workload]:
    return [problem.classes[index].sample for index in configuration.pattern]


def _holds(problem: Problem) -> Callable[[Configuration], bool]:
    """Whether a device with given settings keeps every rule and limit of its kind."""

    def holds(configuration: Configuration) -> bool:
        kind, settings = problem.kinds[configuration.kind], configuration.settings
        samples = _samples(problem, configuration)
        if configuration.used_pct > 100 + 1e-9 or len(settings) > kind.max_tenants:
            return False
        if any(not _on_grid(kind, each.share_pct) for each in settings):
            return False
        if not all(judged.holds for judged in kind.evaluator.judge(samples, settings)):
            return False
        return within(kind, samples, settings)

    return holds


def _on_grid(kind: DeviceKind, share_pct: float) -> bool:
    steps = share_pct / (kind.record.share_step_pct or share_pct)
    return abs(steps - round(steps)) < 1e-6


def _meets(said: Change) -> bool:
    return said.bound is not None and said.cost_after <= said.bound * (1 + 1e-9)


def _devices(problem: Problem, done: Replanned) -> tuple[PlanDevice, ...]:
    """The devices with their promises, in the order of their names."""
    placed = [done.layout[name] for name in sorted(done.layout, key=natural)]
    made = devices_of(problem, [each.configuration for each in placed])
    return tuple(_named(device, each) for device, each in zip(made, placed, strict=True))


def _named(device: PlanDevice, placed: Placed) -> PlanDevice:
    """A device by its own name, with its own tenants; they are alike those that it has."""
    tenants = []
    for tenant, name in zip(device.tenants, placed.tenants, strict=True):
        replica_of = None if tenant.replica_of is None else name.rpartition(".")[0]
        tenants.append(tenant.model_copy(update={"workload": name, "replica_of": replica_of}))
    return device.model_copy(update={"name": placed.name, "tenants": tuple(tenants)})
