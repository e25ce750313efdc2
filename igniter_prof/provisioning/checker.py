"""``check_plan``: re-derives what a plan promises, with the predictors but without the planner."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from igniter_prof.errors import BadInput
from igniter_prof.files import read_record
from igniter_prof.provisioning.assignment_check import (
    TOLERANCE,
    asked_findings,
    claims_findings,
    cost_findings,
    counts_findings,
    device_findings,
    names_findings,
    type_name,
    types_of,
)
from igniter_prof.provisioning.certificate import refute
from igniter_prof.provisioning.interface import (
    Predictor,
    RequestLatency,
    default_request_latency,
)
from igniter_prof.provisioning.kinds import device_kind
from igniter_prof.provisioning.names import known_as
from igniter_prof.provisioning.operating import Evaluator, Judgement, Setting, memory_limit_mib
from igniter_prof.provisioning.planner import classes_of_plan
from igniter_prof.provisioning.problem import Problem, of_tenant
from igniter_prof.provisioning.rules import Rule, rule_of
from igniter_prof.records import (
    Plan,
    PlanDevice,
    PlanDeviceType,
    PlanTenant,
    PredictedTenant,
    Workload,
)
from igniter_prof.units import format_ms

DEFAULT_RULE = "percentile"


def read_plan(path: Path) -> Plan:
    """Read ``PLAN.json``.

    Raises:
        BadInput: it is unreadable, truncated, or of another schema.
    """
    return read_record(Path(path), Plan)


def check_plan(
    plan: Plan,
    predictors: Predictor | Mapping[str, Predictor],
    workloads: Sequence[Workload] | None = None,
    *,
    coefficients_hashes: str | Mapping[str, str] | None = None,
    request_latency: RequestLatency | None = None,
    bound: bool = True,
    told: Callable[[str, float], None] | None = None,
) -> list[str]:
    """Every promise of a plan that does not hold, in words; empty if all do.

    Args:
        plan: the plan.
        predictors: by the name of the device type; or the one of a plan of one type.
        workloads: what was asked for; with it, that each is placed exactly once, as asked.
        coefficients_hashes: digests of what the predictors came from, given as they are.
        request_latency: the queueing estimate; None: that of ``fitting``.
        bound: derive the bound again too, from the plan's certificate; it says nothing of a plan
            whose devices break something, so then it is not.
        told: called with each thing that was derived (constraints, objective, bound), and the
            seconds that it took.

    Raises:
        BadInput: the plan names a latency rule that there is not, or has a device type for which
            no predictor is given.
    """
    rule = rule_of(plan.latency_rule or DEFAULT_RULE)
    queueing = default_request_latency() if request_latency is None else request_latency
    types = types_of(plan)
    given = predictors if isinstance(predictors, Mapping) else dict.fromkeys(types, predictors)
    hashes = (
        dict.fromkeys(types, coefficients_hashes)
        if isinstance(coefficients_hashes, str)
        else coefficients_hashes or {}
    )
    used = {type_name(plan, device) for device in plan.devices} & set(types)
    if missing := sorted(used - set(given)):
        raise BadInput(f"there are no coefficients for the device type '{missing[0]}'")
    derivers = {
        name: _Deriver(types[name], Evaluator(given[name], rule, queueing)) for name in used
    }

    started = time.monotonic()
    other = _other_coefficients(types, hashes)
    findings = names_findings(plan)
    if workloads is not None:
        findings += asked_findings(plan, tuple(workloads))
    findings += counts_findings(plan)
    imported = plan.strategy.startswith("import:")
    power_w: dict[str, float | None] = {}
    for device in plan.devices:
        deriver = derivers.get(type_name(plan, device))
        if deriver is None:
            continue  # a type that the plan does not describe: named above
        own = device_findings(device, deriver.kind)
        derived, unknown = deriver.derive(device)
        findings += own + unknown
        if derived is not None:
            power_w[device.name] = derived.power_w
            findings += _limits(device, deriver.kind, derived)
            findings += _promises(device, derived, imported=imported)
    started = _tell(told, "constraints", started)

    findings += cost_findings(plan, power_w)
    findings += claims_findings(plan)
    started = _tell(told, "objective", started)

    if bound and plan.bound is not None and not findings:
        if unknown_types := sorted(set(types) - set(given)):
            raise BadInput(
                f"the bound needs the coefficients of the device type '{unknown_types[0]}' too",
                hint="give them, or leave the bound out: --no-bound",
            )
        findings += refute(plan, _problem(plan, given, types, rule, queueing))
        _tell(told, "bound", started)
    return other + findings


def _problem(
    plan: Plan,
    predictors: Mapping[str, Predictor],
    types: Mapping[str, PlanDeviceType],
    rule: Rule,
    queueing: RequestLatency,
) -> Problem:
    """The problem that a plan answers, from what it says."""
    known = {model for name in types for model in predictors[name].models}
    asked = {tenant.model for device in plan.devices for tenant in device.tenants}
    names = {model: known_as(model, known) or model for model in asked}
    kinds = [
        device_kind(kind, predictors[name], rule, names.values(), request_latency=queueing)[0]
        for name, kind in types.items()
    ]
    return Problem(
        classes=classes_of_plan(plan, names),
        kinds=tuple(kinds),
        rule=rule,
        objective=plan.objective,
    )


def _tell(told: Callable[[str, float], None] | None, what: str, started: float) -> float:
    now = time.monotonic()
    if told is not None:
        told(what, now - started)
    return now


def _other_coefficients(
    types: Mapping[str, PlanDeviceType], hashes: Mapping[str, str]
) -> list[str]:
    findings = []
    for name, kind in types.items():
        stated, given = kind.coefficients_hash, hashes.get(name)
        if stated is not None and given is not None and stated != given:
            of = f" for '{name}'" if len(types) > 1 else ""
            findings.append(
                f"the plan was made from other coefficients{of} ({stated[:12]}… in the plan,"
                f" {given[:12]}… given)"
            )
    return findings


@dataclass(frozen=True)
class _Derived:
    """What the predictor says of a device."""

    promises: Sequence[PredictedTenant]
    judged: Sequence[Judgement]
    power_w: float | None
    memory_mib: float | None


class _Deriver:
    """Derives what devices of one type do; equal devices once."""

    def __init__(self, kind: PlanDeviceType, evaluator: Evaluator) -> None:
        self.kind = kind
        self._evaluator = evaluator
        self._known = set(evaluator.predictor.models)
        self._names: dict[str, str | None] = {}
        self._seen: dict[tuple[object, ...], _Derived] = {}

    def derive(self, device: PlanDevice) -> tuple[_Derived | None, list[str]]:
        """What a device does, and why nothing can be said of it."""
        for tenant in device.tenants:
            if tenant.model not in self._names:
                self._names[tenant.model] = known_as(tenant.model, self._known)
        unknown = {t.model for t in device.tenants if self._names[t.model] is None}
        if unknown:
            models = ", ".join(map(repr, sorted(unknown)))
            return None, [f"{device.name}: the coefficients know no model {models}"]
        if any((t.arrival == "bursty") != (t.burstiness is not None) for t in device.tenants):
            return None, []  # told among the device's findings
        workloads = tuple(self._asked(tenant) for tenant in device.tenants)
        settings = tuple(
            Setting(tenant.batch_size, tenant.share_pct, tenant.queue_delay_us)
            for tenant in device.tenants
        )
        key = (workloads, settings)
        if key not in self._seen:
            self._seen[key] = _Derived(
                self._evaluator.promised(workloads, settings),
                self._evaluator.judge(workloads, settings),
                self._evaluator.power_w(workloads, settings),
                self._evaluator.memory_mib(workloads, settings),
            )
        return self._seen[key], []

    def _asked(self, tenant: PlanTenant) -> Workload:
        """A tenant as a workload, by the known name of its model; those that do the same, alike."""
        model = self._names[tenant.model] or tenant.model
        alike = {"name": "", "model": model, "anti_affinity": None, "devices": ()}
        return of_tenant(tenant).model_copy(update=alike)


def _limits(device: PlanDevice, kind: PlanDeviceType, derived: _Derived) -> list[str]:
    """Memory and power of a device: as stated, and within the limits of its type."""
    findings = []
    most_mib = memory_limit_mib(kind)
    if most_mib is not None and (derived.memory_mib or 0) > most_mib * (1 + TOLERANCE):
        findings.append(
            f"{device.name}: its tenants need {derived.memory_mib:.0f} MiB of memory, it has"
            f" {most_mib:.0f}"
        )
    most_w = kind.power_limit_w
    if most_w is not None and derived.power_w is None:
        findings.append(f"{device.name}: its power is not known, so neither that its limit holds")
    elif most_w is not None and (derived.power_w or 0) > most_w * (1 + TOLERANCE):
        findings.append(
            f"{device.name}: draws {derived.power_w:.1f} W in the mean, at most {most_w:g} W may be"
        )
    for field in ("power_w", "memory_mib"):
        stated, is_ = getattr(device, field), getattr(derived, field)
        if stated is not None and _differs(stated, is_):
            findings.append(f"{device.name}: {field} is stated as {_shown(stated, is_)}")
    return findings


def _promises(device: PlanDevice, derived: _Derived, *, imported: bool) -> list[str]:
    findings = []
    rows = zip(device.tenants, derived.promises, derived.judged, strict=True)
    for tenant, promise, judgement in rows:
        if tenant.predicted == promise and judgement.holds:
            continue
        where = f"{device.name}, '{tenant.workload}'"
        if tenant.predicted is not None:
            findings += _differences(where, tenant.predicted, promise, imported=imported)
        elif not imported:
            findings.append(f"{where}: there is no prediction, which only imported plans may lack")
        findings += _misses(where, tenant, judgement)
    return findings


def _differences(
    where: str, stated: PredictedTenant, derived: PredictedTenant, *, imported: bool
) -> list[str]:
    findings = []
    for field in PredictedTenant.model_fields:
        said, is_ = getattr(stated, field), getattr(derived, field)
        if said is None and imported:
            continue
        if _differs(said, is_):
            findings.append(f"{where}: {field} is stated as {_shown(said, is_)}")
    return findings


def _differs(said: float | None, is_: float | None) -> bool:
    if said is None or is_ is None:
        return said is not is_
    return not math.isclose(said, is_, rel_tol=TOLERANCE)


def _shown(said: float | None, is_: float | None) -> str:
    states, shown = ("no value" if v is None else f"{v:.6g}" for v in (said, is_))
    return f"{states}, predicted is {shown}"


def _misses(where: str, tenant: PlanTenant, judgement: Judgement) -> list[str]:
    findings = []
    if not judgement.sustained:
        findings.append(
            f"{where}: its rate of {tenant.rate_rps:g}/s is {judgement.utilisation:.1%} of its"
            f" throughput, at most {judgement.max_utilisation:.0%} may be"
        )
    if not judgement.batch_allowed:
        findings.append(
            f"{where}: the rule allows no batch of {tenant.batch_size} at {tenant.rate_rps:g}/s"
        )
    if judgement.latency_ms is None:
        findings.append(f"{where}: its queue grows without end, so its SLO does not hold")
    elif judgement.latency_ms > judgement.limit_ms * (1 + 1e-9):
        findings.append(
            f"{where}: its SLO does not hold: {format_ms(judgement.latency_ms)} is predicted,"
            f" {format_ms(judgement.limit_ms)} is the limit"
        )
    return findings
