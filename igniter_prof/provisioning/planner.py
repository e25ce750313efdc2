"""``plan``: from workloads and a predictor to a plan."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from igniter_prof import __version__
from igniter_prof.config.workloads import expand
from igniter_prof.errors import BadInput, Infeasible, did_you_mean
from igniter_prof.files import now_utc
from igniter_prof.provisioning.infeasible import refuse_infeasible
from igniter_prof.provisioning.interface import (
    Predictor,
    RequestLatency,
    default_request_latency,
)
from igniter_prof.provisioning.operating import Evaluator
from igniter_prof.provisioning.problem import (
    Problem,
    WorkloadClass,
    choices_for,
    classes_of,
    with_known_models,
)
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.provisioning.shares import Configuration, LeastShares
from igniter_prof.provisioning.strategies import STRATEGIES, Placement
from igniter_prof.records import Device, Plan, PlanDevice, PlanTenant, Tenant, Workload

MAX_NOTES = 20


def plan(
    predictor: Predictor,
    workloads: Sequence[Workload],
    *,
    coefficients_hash: str | None,
    workloads_hash: str | None,
    device_type: Device | None,
    strategy: str = "optimal",
    latency_rule: str = "percentile",
    share_step_pct: float = 5.0,
    max_tenants: int = 4,
    max_devices: int | None = None,
    batch_sizes: Mapping[str, Sequence[int]] | None = None,
    extrapolate: bool = False,
    time_limit_s: float = 60.0,
    seed: int = 0,
    request_latency: RequestLatency | None = None,
) -> Plan:
    """Place workloads on devices, with a batch size and a share for each.

    Args:
        predictor: predicts the latency of tenants of one device.
        workloads: what to place; ``count`` is expanded to NAME-1 to NAME-n.
        coefficients_hash: stored in the plan: digest of what the predictor came from.
        workloads_hash: stored in the plan (``config.workloads.workloads_digest``).
        device_type: stored in the plan: what was profiled.
        strategy: a name of STRATEGIES.
        latency_rule: ``percentile`` or ``half-mean``; with ``+interval`` the upper end of the
            prediction interval must hold too, not only the mean.
        share_step_pct: shares are multiples of it.
        max_tenants: on one device.
        max_devices: how many there are; None: any number.
        batch_sizes: to choose from, by model; a model that it lacks gets the powers of two that
            were profiled.
        extrapolate: plan outside of what was profiled too.
        time_limit_s: of the search for fewer devices, not a hard limit of the call.
        seed: of the solver.
        request_latency: the queueing estimate; None: that of ``fitting``.

    Raises:
        BadInput: an unknown model, strategy or rule, a bad limit, or two workloads of one name.
        Infeasible: a workload cannot be met even alone, or there are too few devices.
    """
    started = time.monotonic()
    if strategy not in STRATEGIES:
        hint = did_you_mean(strategy, STRATEGIES)
        raise BadInput(f"unknown strategy '{strategy}'", hint=hint)
    for name, value in (("max_tenants", max_tenants), ("max_devices", max_devices)):
        if value is not None and value < 1:
            raise BadInput(f"{name} must be at least 1, got {value}")
    if not time_limit_s > 0:
        raise BadInput(f"the time limit must be over 0 s, got {time_limit_s:g}")
    if not workloads:
        raise BadInput("there are no workloads to place")
    classes = classes_of(expand(with_known_models(workloads, predictor)))
    models = {each.sample.model for each in classes}
    choices, narrowed = choices_for(
        predictor, models, share_step_pct, extrapolate=extrapolate, batch_sizes=batch_sizes
    )
    problem = Problem(
        classes=classes,
        choices=choices,
        rule=rule_of(latency_rule),
        share_step_pct=share_step_pct,
        max_tenants=max_tenants,
        max_devices=max_devices,
        time_limit_s=time_limit_s,
        seed=seed,
    )
    queueing = default_request_latency() if request_latency is None else request_latency
    evaluator = Evaluator(predictor, problem.rule, queueing)
    least = LeastShares(problem, evaluator)
    refuse_infeasible(problem, least)
    placement = STRATEGIES[strategy](problem, least)
    _refuse_too_many(problem, placement)
    devices = _name(classes, placement.devices)
    return Plan(
        strategy=strategy,
        device_type=device_type,
        coefficients_hash=coefficients_hash,
        workloads_hash=workloads_hash,
        igprof=__version__,
        created_at=now_utc(),
        seed=seed,
        latency_rule=str(problem.rule),
        share_step_pct=share_step_pct,
        max_tenants=max_tenants,
        bound_devices=placement.bound_devices,
        optimal=placement.optimal,
        devices=_promise(evaluator, devices),
        notes=_notes(evaluator, placement, narrowed, devices),
        solve_s=round(time.monotonic() - started, 3),
    )


def _refuse_too_many(problem: Problem, placement: Placement) -> None:
    needed = len(placement.devices)
    if problem.max_devices is None or needed <= problem.max_devices:
        return
    bound = placement.bound_devices
    proof = (
        "and no plan has fewer"
        if placement.optimal
        else f"the proven bound is {bound}"
        if bound is not None
        else "which need not be the fewest"
    )
    devices = "device" if needed == 1 else "devices"
    raise Infeasible(
        f"the {problem.workload_count} workloads need {needed} {devices}, {proof};"
        f" at most {problem.max_devices} may be used",
        hint="allow more devices, or relax rates and SLOs",
    )


NamedDevice = tuple[tuple[Workload, ...], Configuration]


def _name(
    classes: Sequence[WorkloadClass], configurations: Sequence[Configuration]
) -> list[NamedDevice]:
    """Hand the names of each class out to its places, in order."""
    names = [iter(each.names) for each in classes]
    return [
        (
            tuple(
                classes[index].sample.model_copy(update={"name": next(names[index])})
                for index in configuration.pattern
            ),
            configuration,
        )
        for configuration in configurations
    ]


def _promise(evaluator: Evaluator, devices: Sequence[NamedDevice]) -> tuple[PlanDevice, ...]:
    promised: dict[Configuration, list[PlanTenant]] = {}
    made = []
    for number, (workloads, configuration) in enumerate(devices, start=1):
        if configuration not in promised:
            settings = configuration.settings
            promised[configuration] = [
                PlanTenant(
                    workload=workload.name,
                    model=workload.model,
                    batch_size=setting.batch_size,
                    share_pct=setting.share_pct,
                    rate_rps=workload.rate_rps,
                    slo_ms=workload.slo_ms,
                    percentile=workload.percentile,
                    arrival=workload.arrival,
                    predicted=predicted,
                )
                for workload, setting, predicted in zip(
                    workloads, settings, evaluator.promised(workloads, settings), strict=True
                )
            ]
        tenants = (
            tenant.model_copy(update={"workload": workload.name})
            for workload, tenant in zip(workloads, promised[configuration], strict=True)
        )
        made.append(PlanDevice(name=f"device-{number}", tenants=tuple(tenants)))
    return tuple(made)


def _notes(
    evaluator: Evaluator,
    placement: Placement,
    narrowed: Sequence[str],
    devices: Sequence[NamedDevice],
) -> tuple[str, ...]:
    """What a reader of the plan should know, each thing once."""
    notes = [*placement.notes, *narrowed]
    seen: set[Configuration] = set()
    for workloads, configuration in devices:
        if configuration in seen:
            continue
        seen.add(configuration)
        settings = configuration.settings
        tenants = [
            Tenant(model=workload.model, batch_size=setting.batch_size, share_pct=setting.share_pct)
            for workload, setting in zip(workloads, settings, strict=True)
        ]
        notes += (
            f"outside of the profile: {what}" for what in evaluator.predictor.outside(tenants)
        )
        for workload, judgement in zip(
            workloads, evaluator.judge(workloads, settings), strict=True
        ):
            if not judgement.holds:
                notes.append(f"workload '{workload.name}' is predicted to miss its SLO or its rate")
    unique = list(dict.fromkeys(notes))
    more = len(unique) - MAX_NOTES
    return tuple(unique[:MAX_NOTES] + ([f"… and {more} more"] if more > 0 else []))
