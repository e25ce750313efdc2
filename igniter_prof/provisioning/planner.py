"""``plan``: from workloads and kinds of devices to a plan."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from igniter_prof import __version__
from igniter_prof.config.workloads import expand
from igniter_prof.errors import BadInput, Infeasible, did_you_mean
from igniter_prof.files import now_utc
from igniter_prof.provisioning.certificate import certificate_of
from igniter_prof.provisioning.engine import Engine, within
from igniter_prof.provisioning.infeasible import refuse_crowded, refuse_infeasible
from igniter_prof.provisioning.objectives import refuse_unknown_costs
from igniter_prof.provisioning.optimal import Placement, rounded_up
from igniter_prof.provisioning.problem import (
    Configuration,
    DeviceKind,
    Problem,
    WorkloadClass,
    classes_of,
    of_tenant,
    with_known_models,
)
from igniter_prof.provisioning.rules import Rule
from igniter_prof.provisioning.strategies import STRATEGIES
from igniter_prof.records import (
    Objective,
    Plan,
    PlanDevice,
    PlanTenant,
    Tenant,
    Workload,
)

MAX_NOTES = 20


def plan(
    kinds: Sequence[DeviceKind],
    workloads: Sequence[Workload],
    *,
    rule: Rule,
    strategy: str = "optimal",
    objective: Objective | None = None,
    time_limit_s: float = 60.0,
    gap: float = 0.0,
    seed: int = 0,
    workloads_hash: str | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """Place workloads on devices, with a batch size and a share for each.

    Args:
        kinds: of devices that may be used (``kinds.device_kind``).
        workloads: what to place; ``count`` is expanded to NAME-1 to NAME-n.
        rule: what "within its SLO" means.
        strategy: a name of STRATEGIES.
        objective: what is as small as possible; None: the number of devices.
        time_limit_s: of the search, not a hard limit of the call.
        gap: the search may end with a plan that costs so much more than the bound (relative).
        seed: of the solver.
        workloads_hash: stored in the plan (``config.workloads.workloads_digest``).
        notes: for the plan, before its own.

    Raises:
        BadInput: an unknown model or strategy, a bad limit, or two workloads of one name.
        Infeasible: a workload cannot be met even alone, or there are too few devices.
        OutsideFailure: no solver works.
    """
    started = time.monotonic()
    if strategy not in STRATEGIES:
        hint = did_you_mean(strategy, STRATEGIES)
        raise BadInput(f"unknown strategy '{strategy}'", hint=hint)
    if not time_limit_s > 0:
        raise BadInput(f"the time limit must be over 0 s, got {time_limit_s:g}")
    if not gap >= 0:
        raise BadInput(f"the gap must be 0 or more, got {gap:g}")

    def attempt(asked: Sequence[Workload]) -> tuple[Problem, Placement]:
        engine = engine_of(
            kinds,
            asked,
            rule=rule,
            objective=objective,
            time_limit_s=time_limit_s,
            gap=gap,
            seed=seed,
        )
        refuse_too_few(engine)
        return engine.problem, STRATEGIES[strategy](engine)

    (problem, placement), left_out = by_priority(workloads, attempt)
    devices = devices_of(problem, placement.devices)
    cost = cost_of(problem, devices)
    bound = None if placement.bound is None else rounded_up(problem, placement.bound.value)
    return Plan(
        strategy=strategy,
        device_types=tuple(kind.record for kind in kinds),
        workloads_hash=workloads_hash,
        igprof=__version__,
        created_at=now_utc(),
        seed=seed,
        latency_rule=str(rule),
        objective=problem.objective,
        cost=cost,
        bound=bound,
        optimal=True if bound is not None and cost <= bound * (1 + 1e-9) else None,
        certificate=None if placement.bound is None else certificate_of(problem, placement.bound),
        devices=devices,
        left_out=left_out,
        notes=notes_of(problem, placement.devices, [*notes, *placement.notes]),
        solve_s=round(time.monotonic() - started, 3),
    )


def engine_of(
    kinds: Sequence[DeviceKind],
    workloads: Sequence[Workload],
    *,
    rule: Rule,
    objective: Objective | None = None,
    time_limit_s: float = 60.0,
    gap: float = 0.0,
    seed: int = 0,
) -> Engine:
    """The problem of placing workloads, each of which can be met alone, and what devices can hold.

    A workload gets the fewest replicas with which it can be met, from ``replicas`` to
    ``max_replicas``.

    Raises:
        BadInput: no workloads, two of one name, an unknown model, or a price or a power that is
            needed and not known.
        Infeasible: a workload cannot be met even alone on a device.
    """
    if not workloads:
        raise BadInput("there are no workloads to place")
    wish = Objective() if objective is None else objective
    predictors = {kind.record.name: kind.evaluator.predictor for kind in kinds}
    refuse_unknown_costs(wish, [kind.record for kind in kinds], predictors)
    expand(tuple(workloads))  # refuses two of one name
    known = {model for kind in kinds for model in kind.evaluator.predictor.models}
    asked = with_known_models(workloads, known)
    for kind in kinds:
        if not kind.choices:
            raise BadInput(
                f"the coefficients of device type '{kind.record.name}' know none of the workloads'"
                " models",
                hint="leave the type out, or profile the models on it",
            )
    parts: dict[str, int] = {}
    while True:
        problem = Problem(
            classes=classes_of(asked, lambda each: parts.get(each.name, each.replicas)),
            kinds=tuple(kinds),
            rule=rule,
            objective=wish,
            time_limit_s=time_limit_s,
            gap=gap,
            seed=seed,
        )
        engine = Engine(problem)
        missed = [each for index, each in enumerate(problem.classes) if not engine.feasible(index)]
        names = {
            name.rpartition(".")[0] if each.sample.replicas > 1 else name
            for each in missed
            for name in each.names
        }
        more = [
            each
            for each in asked
            if each.max_replicas is not None
            and parts.get(each.name, each.replicas) < each.max_replicas
            and (each.name in names or f"{each.name}-1" in names)
        ]
        if not more:
            break
        for each in more:
            parts[each.name] = parts.get(each.name, each.replicas) + 1
    refuse_infeasible(problem, engine.feasible)
    placed = Counter(name for each in problem.classes for name in each.names)
    if twin := next((name for name, times in placed.items() if times > 1), None):
        raise BadInput(
            f"a replica is named '{twin}', as a workload is",
            hint="give the workload another name: the replicas of W are W.1, W.2, …",
        )
    return engine


def refuse_too_few(engine: Engine) -> None:
    """Raise Infeasible, and say why, if tenants that must be apart have too few devices."""
    demands = engine.demands
    refuse_crowded(engine.problem, lambda index, kind: bool(demands[kind].feasible[index]))


def devices_of(problem: Problem, configurations: Sequence[Configuration]) -> tuple[PlanDevice, ...]:
    """Devices of a plan, with the names of tenants handed out in order, and what is promised."""
    handed = [0] * len(problem.classes)
    promised: dict[Configuration, PlanDevice] = {}
    devices = []
    for number, configuration in enumerate(configurations, start=1):
        if configuration not in promised:
            promised[configuration] = _promise(problem, configuration)
        model = promised[configuration]
        tenants = []
        for index, tenant in zip(configuration.pattern, model.tenants, strict=True):
            each = problem.classes[index]
            name = each.names[handed[index]]
            handed[index] += 1
            tenants.append(
                tenant.model_copy(
                    update={
                        "workload": name,
                        "replica_of": name.rpartition(".")[0] if each.sample.replicas > 1 else None,
                    }
                )
            )
        devices.append(
            model.model_copy(update={"name": f"device-{number}", "tenants": tuple(tenants)})
        )
    return tuple(devices)


def cost_of(problem: Problem, devices: Sequence[PlanDevice]) -> float:
    """The objective's value.

    Raises:
        BadInput: it weighs power, which is not known of some device.
    """
    numbers = {kind.record.name: number for number, kind in enumerate(problem.kinds)}
    total = 0.0
    for device in devices:
        total += problem.device_cost(numbers[device.type or problem.kinds[0].record.name])
        if problem.objective.power:
            if device.power_w is None:
                raise BadInput(
                    "the objective weighs power, which the coefficients do not predict",
                    hint="profile with --monitors nvml, or leave power out of --objective",
                )
            total += problem.objective.power * device.power_w
    return total


def _promise(problem: Problem, configuration: Configuration) -> PlanDevice:
    kind = problem.kinds[configuration.kind]
    workloads = [problem.classes[index].sample for index in configuration.pattern]
    settings = configuration.settings
    promises = kind.evaluator.promised(workloads, settings)
    tenants = tuple(
        PlanTenant(
            workload=workload.name,
            model=workload.model,
            batch_size=setting.batch_size,
            share_pct=setting.share_pct,
            rate_rps=workload.rate_rps,
            slo_ms=workload.slo_ms,
            percentile=workload.percentile,
            arrival=workload.arrival,
            burstiness=workload.burstiness,
            memory_mib=workload.memory_mib,
            anti_affinity=workload.anti_affinity,
            devices=workload.devices,
            predicted=predicted,
        )
        for workload, setting, predicted in zip(workloads, settings, promises, strict=True)
    )
    return PlanDevice(
        name="device",
        type=kind.record.name,
        tenants=tenants,
        power_w=kind.evaluator.power_w(workloads, settings),
        memory_mib=kind.evaluator.memory_mib(workloads, settings),
    )


def by_priority(
    workloads: Sequence[Workload],
    attempt: Callable[[Sequence[Workload]], tuple[Problem, Placement]],
) -> tuple[tuple[Problem, Placement], tuple[str, ...]]:
    """An attempt with as few workloads left out as need be, and their names: least priority first.

    Raises:
        Infeasible: without all that may be left out, too, the attempt fails.
    """
    try:
        return attempt(workloads), ()
    except Infeasible:
        if all(each.priority is None for each in workloads):
            raise
    everybody = expand(tuple(workloads))
    droppable = sorted(
        (each for each in everybody if each.priority is not None),
        key=lambda each: (each.priority, -each.rate_rps, each.name),
    )

    def without(number: int) -> tuple[Problem, Placement]:
        dropped = {each.name for each in droppable[:number]}
        return attempt([each for each in everybody if each.name not in dropped])

    # without all that may go, it is infeasible for good
    low, high = 0, len(droppable)
    if high == len(everybody):
        high -= 1
    best = without(high)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            best, high = without(middle), middle
        except Infeasible:
            low = middle
    return best, tuple(each.name for each in droppable[:high])


def notes_of(
    problem: Problem, configurations: Iterable[Configuration], notes: Sequence[str]
) -> tuple[str, ...]:
    """What a reader of a plan should know, each thing once, after ``notes``."""
    found = list(notes)
    for configuration in dict.fromkeys(configurations):
        evaluator = problem.kinds[configuration.kind].evaluator
        workloads = [problem.classes[index].sample for index in configuration.pattern]
        settings = configuration.settings
        tenants = [
            Tenant(model=workload.model, batch_size=setting.batch_size, share_pct=setting.share_pct)
            for workload, setting in zip(workloads, settings, strict=True)
        ]
        found += (
            f"outside of the profile: {what}" for what in evaluator.predictor.outside(tenants)
        )
        if not within(problem.kinds[configuration.kind], workloads, settings):
            found.append("a device is beyond its memory or its power limit")
        for workload, judgement in zip(
            workloads, evaluator.judge(workloads, settings), strict=True
        ):
            if not judgement.holds:
                found.append(f"workload '{workload.name}' is predicted to miss its SLO or its rate")
    unique = list(dict.fromkeys(found))
    more = len(unique) - MAX_NOTES
    return tuple(unique[:MAX_NOTES] + ([f"… and {more} more"] if more > 0 else []))


def classes_of_plan(given: Plan, models: Mapping[str, str]) -> tuple[WorkloadClass, ...]:
    """The classes of a plan's tenants, as ``classes_of`` made them; ``models``: known names."""
    whole: dict[str, Workload] = {}
    parts: dict[str, int] = {}
    for device in given.devices:
        for tenant in device.tenants:
            name = tenant.replica_of or tenant.workload
            parts[name] = parts.get(name, 0) + 1
            model = models.get(tenant.model, tenant.model)
            whole[name] = of_tenant(tenant).model_copy(update={"name": name, "model": model})
    return classes_of(
        workload.model_copy(
            update={"replicas": parts[name], "rate_rps": workload.rate_rps * parts[name]}
        )
        for name, workload in whole.items()
    )
