"""``whatif``: what a change of workloads or devices would do to a plan, from coefficients alone."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from igniter_prof.config.workloads import expand
from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.provisioning.assignment_check import type_name
from igniter_prof.provisioning.layout import setting_of
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import DeviceKind, natural, of_tenant
from igniter_prof.records import Plan, PlanDevice, PlanTenant, Record, Workload

PRECISION = 1.0005
LEAST_FACTOR = 1e-3


class Standing(Record):
    """A tenant as the plan stands, with what was changed. ``why`` it misses; None: it does not."""

    workload: str
    device: str | None
    latency_ms: float | None = None
    limit_ms: float | None = None
    utilisation: float | None = None
    max_utilisation: float | None = None
    why: str | None = None


class Headroom(Record):
    """By how much rates can grow with nothing changed, as a factor; None: by no factor does it."""

    all_rates: float | None
    by_workload: dict[str, float | None]
    least: str


@dataclass(frozen=True)
class Adjustment:
    """A factor, or another value, for one workload by name; for all: None."""

    name: str | None
    factor: float | None = None
    value: float | None = None

    def of(self, before: float) -> float:
        """The value changed."""
        return self.value if self.value is not None else before * (self.factor or 1.0)


@dataclass(frozen=True)
class Question:
    """What is changed."""

    add: tuple[Workload, ...] = ()
    remove: tuple[str, ...] = ()
    lose: tuple[str, ...] = ()
    rates: tuple[Adjustment, ...] = ()
    slos: tuple[Adjustment, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is."""
        return not (self.add or self.remove or self.lose or self.rates or self.slos)


# --- what is asked --------------------------------------------------------------------------------


def addition(text: str) -> Workload:
    """``MODEL:RATE:SLO_MS[:NAME]`` as a workload; without a name it is called as its model.

    Raises:
        BadInput: it is no such thing.
    """
    parts = text.split(":")
    if len(parts) not in (3, 4) or not all(parts):
        raise BadInput(
            f"'{text}' is no MODEL:RATE:SLO_MS[:NAME]", hint="such as --add resnet50:200:40:camera"
        )
    model, rate, slo, *name = parts
    return Workload(
        name=name[0] if name else model,
        model=model,
        rate_rps=_positive(rate, text),
        slo_ms=_positive(slo, text),
    )


def changed(text: str) -> Adjustment:
    """``x1.2``, ``NAME=x1.2`` or ``NAME=500`` as a change.

    Raises:
        BadInput: it is no such thing.
    """
    name, equals, value = text.rpartition("=")
    if value.startswith("x"):
        return Adjustment(name if equals else None, factor=_positive(value[1:], text))
    if not equals or not name:
        raise BadInput(f"'{text}' names no workload", hint="write NAME=VALUE, or x1.2 for all")
    return Adjustment(name, value=_positive(value, text))


def _positive(number: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise BadInput(f"'{text}': '{number}' is no number over 0")
    return value


def workloads_of(plan: Plan) -> tuple[Workload, ...]:
    """The workloads that a plan places, as far as it says: each replica with the others of its own.

    A plan does not say who may be left out, nor into how many more parts they may be split.
    """
    parts: dict[str, list[PlanTenant]] = defaultdict(list)
    for device in plan.devices:
        for tenant in device.tenants:
            parts[tenant.replica_of or tenant.workload].append(tenant)
    return tuple(
        of_tenant(tenants[0]).model_copy(
            update={
                "name": name,
                "rate_rps": math.fsum(each.rate_rps for each in tenants),
                "replicas": len(tenants),
            }
        )
        for name, tenants in sorted(parts.items(), key=lambda each: natural(each[0]))
    )


def asked(workloads: Sequence[Workload], question: Question) -> tuple[Workload, ...]:
    """The workloads with what is changed of them; a NAME stands for NAME-1, NAME-2, … too.

    Raises:
        BadInput: a name that there is not, or that there is already.
    """
    there = {each.name: each for each in expand(workloads)}
    for change in question.rates:
        for name in _meant(change.name, there):
            each = there[name]
            there[name] = each.model_copy(update={"rate_rps": change.of(each.rate_rps)})
    for change in question.slos:
        for name in _meant(change.name, there):
            each = there[name]
            there[name] = each.model_copy(update={"slo_ms": change.of(each.slo_ms)})
    for gone in question.remove:
        for name in _meant(gone, there):
            del there[name]
    for added in question.add:
        if added.name in there:
            raise BadInput(
                f"there is a workload '{added.name}' already",
                hint="name the one to add: --add MODEL:RATE:SLO_MS:NAME",
            )
        there[added.name] = added
    if not there:
        raise BadInput("no workload is left")
    return tuple(there.values())


def _meant(name: str | None, there: Iterable[str]) -> list[str]:
    if name is None:
        return list(there)
    found = [each for each in there if each == name] or [
        each for each in there if re.fullmatch(re.escape(name) + r"-\d+", each)
    ]
    if not found:
        raise BadInput(f"there is no workload '{name}'", hint=did_you_mean(name, there))
    return found


# --- as the plan stands ---------------------------------------------------------------------------


def standing(
    plan: Plan,
    kinds: Mapping[str, DeviceKind],
    workloads: Sequence[Workload],
    lost: Iterable[str] = (),
) -> tuple[Standing, ...]:
    """Every tenant of the workloads, judged where the plan has it and as the plan has it set.

    Nowhere are those that are new, and those of a device that is lost or of a type that is gone.
    """
    wanted, lost = {each.name: each for each in expand(workloads)}, set(lost)
    was_rps = {each.name: each.rate_rps for each in workloads_of(plan)}
    found: list[Standing] = []
    placed: set[str] = set()
    for device in plan.devices:
        tenants = [each for each in device.tenants if _name(each) in wanted]
        placed |= {_name(each) for each in tenants}
        kind = kinds.get(type_name(plan, device))
        if device.name in lost or kind is None:
            why = "its device is lost" if device.name in lost else "its device's type is gone"
            found += [Standing(workload=t.workload, device=None, why=why) for t in tenants]
        elif tenants:
            samples = [_sample(each, wanted[_name(each)], was_rps[_name(each)]) for each in tenants]
            found += _judged(device, tenants, kind, samples)
    found += [
        Standing(workload=name, device=None, why="it is not placed")
        for name in wanted
        if name not in placed
    ]
    return tuple(sorted(found, key=lambda each: natural(each.workload)))


def _name(tenant: PlanTenant) -> str:
    return tenant.replica_of or tenant.workload


def _judged(
    device: PlanDevice,
    tenants: Sequence[PlanTenant],
    kind: DeviceKind,
    samples: Sequence[Workload],
) -> list[Standing]:
    settings = [setting_of(each) for each in tenants]
    found = []
    for tenant, judgement in zip(tenants, kind.evaluator.judge(samples, settings), strict=True):
        why = None
        if not judgement.sustained:
            why = "its rate is more than it can take"
        elif judgement.latency_ms is None:
            why = "its queue grows without end"
        elif not judgement.batch_allowed:
            why = "the rule does not allow its batch size at this rate"
        elif not judgement.holds:
            why = "its SLO does not hold"
        found.append(
            Standing(
                workload=tenant.workload,
                device=device.name,
                latency_ms=judgement.latency_ms,
                limit_ms=judgement.limit_ms,
                utilisation=judgement.utilisation,
                max_utilisation=judgement.max_utilisation,
                why=why,
            )
        )
    return found


def _sample(tenant: PlanTenant, workload: Workload, was_rps: float) -> Workload:
    """A tenant as a workload: of a rate that was changed from ``was_rps`` it keeps its part."""
    update: dict[str, object] = {"name": tenant.workload, "model": tenant.model}
    if tenant.replica_of is not None:
        update["rate_rps"] = workload.rate_rps * tenant.rate_rps / was_rps
    return workload.model_copy(update=update)


# --- how much more it takes -----------------------------------------------------------------------


def headroom(plan: Plan, kinds: Mapping[str, DeviceKind]) -> Headroom:
    """By which factor rates can grow until the first rule breaks, with the plan as it stands.

    Neighbours are taken to be loaded all the time, so that no rate disturbs another tenant, and all
    rates can grow as far as the one that can least; less where a device's power is limited.
    """
    factors: dict[str, float | None] = {}
    known: dict[tuple[object, ...], float | None] = {}
    together: list[tuple[float | None, str]] = []
    for device in plan.devices:
        kind = kinds[type_name(plan, device)]
        samples = [of_tenant(each) for each in device.tenants]
        settings = [setting_of(each) for each in device.tenants]
        alike = [each.model_copy(update={"name": ""}) for each in samples]
        for index, tenant in enumerate(device.tenants):
            name = _name(tenant)
            key = (kind.record.name, index, *map(Workload.model_dump_json, alike), *settings)
            if key not in known:
                known[key] = _own_headroom(kind, index, samples, settings)
            factors[name] = _lower(factors[name], known[key]) if name in factors else known[key]
            together.append((known[key], name))
        if kind.record.power_limit_w is not None:
            together.append((_power_headroom(kind, samples, settings), device.name))
    least, who = min(together, key=lambda each: (each[0] or 0.0, natural(each[1])))
    return Headroom(all_rates=least, by_workload=factors, least=who)


def _lower(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else min(one, other)


def _own_headroom(
    kind: DeviceKind, index: int, samples: Sequence[Workload], settings: Sequence[Setting]
) -> float | None:
    evaluator = kind.evaluator
    _, speeds = evaluator.sustained(samples, settings)

    def holds(factor: float) -> bool:
        faster = list(samples)
        rate_rps = samples[index].rate_rps * factor
        faster[index] = samples[index].model_copy(update={"rate_rps": rate_rps})
        return evaluator.holds(index, faster, settings, speeds[index])

    # no rate beyond the throughput of the mean batch is sustained, whatever the margin
    most = evaluator.rule.max_utilisation * speeds[index].throughput_rps / samples[index].rate_rps
    return largest_factor(holds, most)


def _power_headroom(
    kind: DeviceKind, samples: Sequence[Workload], settings: Sequence[Setting]
) -> float | None:
    limit_w = kind.record.power_limit_w or math.inf

    def holds(factor: float) -> bool:
        faster = [s.model_copy(update={"rate_rps": s.rate_rps * factor}) for s in samples]
        watts = kind.evaluator.power_w(faster, settings)
        return watts is None or watts <= limit_w

    _, speeds = kind.evaluator.sustained(samples, settings)
    busiest = max(
        sample.rate_rps / speed.throughput_rps
        for sample, speed in zip(samples, speeds, strict=True)
    )
    return largest_factor(holds, 1 / busiest)


def largest_factor(holds: Callable[[float], bool], most: float) -> float | None:
    """The largest factor up to ``most`` that holds, to 0.05%; None if none over 0.001 does.

    What holds is taken to be an interval: above 1 where 1 holds, else below.
    """
    if most >= 1 and holds(1.0):
        low, high = 1.0, most
    elif holds(LEAST_FACTOR):
        low, high = LEAST_FACTOR, min(1.0, most)
    else:
        return None
    if holds(high):
        return high
    while high / low > PRECISION:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
