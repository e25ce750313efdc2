"""The planning problem as data: classes of identical workloads, and what may be chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from igniter_prof.config.workloads import names_of
from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.provisioning.interface import Predictor
from igniter_prof.provisioning.names import known_as
from igniter_prof.provisioning.operating import Evaluator, Setting
from igniter_prof.provisioning.rules import Rule
from igniter_prof.records import Objective, PlanDeviceType, PlanTenant, Tenant, Workload

DEFAULT_AT_MOST = 1_000_000
DEFAULT_MAX_TENANTS = 4
LARGEST_BATCH = 64
DEVICE_PCT = 100.0


@dataclass(frozen=True)
class WorkloadClass:
    """Tenants to place that differ in nothing but their names.

    ``sample`` stands for each of them: a workload, or one replica of it with its part of the rate
    (``replicas`` of it then is the number of parts). ``names`` are of tenants, in an order in which
    ``at_most`` that follow each other may share a device; workloads are in natural order (``w2``
    before ``w10``).
    """

    sample: Workload
    names: tuple[str, ...]
    at_most: int = DEFAULT_AT_MOST

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.names)


@dataclass(frozen=True)
class Choices:
    """What the planner may choose for one model: batch sizes and shares, both ascending."""

    batch_sizes: tuple[int, ...]
    shares_pct: tuple[float, ...]


Pattern = tuple[int, ...]
"""What runs on one device: indices of classes, ascending; a class may stand there repeatedly."""


@dataclass(frozen=True)
class Configuration:
    """Settings for a pattern, in its order, on a type of device (its index)."""

    pattern: Pattern
    settings: tuple[Setting, ...]
    kind: int = 0

    @property
    def used_pct(self) -> float:
        """Sum of the shares."""
        return sum(setting.share_pct for setting in self.settings)


@dataclass(frozen=True, kw_only=True)
class DeviceKind:
    """A type of device to plan with: its limits, its predictor, and what may be chosen on it."""

    record: PlanDeviceType
    evaluator: Evaluator
    choices: Mapping[str, Choices]
    """By model; models that its coefficients do not know are not there."""

    @property
    def max_tenants(self) -> int:
        """Of one device."""
        return self.record.max_tenants or DEFAULT_MAX_TENANTS


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What to place, on which kinds of devices, under which rule, and what a device costs."""

    classes: tuple[WorkloadClass, ...]
    kinds: tuple[DeviceKind, ...]
    rule: Rule
    objective: Objective = field(default_factory=Objective)
    time_limit_s: float = 60.0
    gap: float = 0.0
    """The search may end when a plan costs at most so much more than the bound (relative)."""
    seed: int = 0

    @property
    def tenant_count(self) -> int:
        """How many tenants there are to place."""
        return sum(each.count for each in self.classes)

    def device_cost(self, kind: int) -> float:
        """What a device of a kind costs, but for its power, in the objective's unit."""
        price = self.kinds[kind].record.price_per_hour
        return self.objective.devices + self.objective.price * (price or 0.0)

    def allows(self, each: WorkloadClass, kind: int) -> bool:
        """Whether a class may be on a kind of device, whatever it needs."""
        allowed, record = each.sample.devices, self.kinds[kind].record
        return (not allowed or record.name in allowed) and (
            each.sample.model in self.kinds[kind].choices
        )


def classes_of(
    workloads: Iterable[Workload], parts: Callable[[Workload], int] = lambda each: each.replicas
) -> tuple[WorkloadClass, ...]:
    """Merge workloads that are alike; the order given does not matter.

    ``parts`` says into how many tenants a workload is split, each with its part of the rate. Two of
    one workload never share a device, and two of one ``anti_affinity`` neither.
    """
    groups: dict[str, list[Workload]] = {}
    for workload in workloads:
        alike = workload.model_copy(update={"name": "", "count": 1})
        groups.setdefault(alike.model_dump_json(), []).append(workload)
    classes = []
    for members in groups.values():
        names = sorted((name for each in members for name in names_of(each)), key=natural)
        into = parts(members[0])
        sample = members[0].model_copy(
            update={
                "name": names[0] if into == 1 else f"{names[0]}.1",
                "count": 1,
                "replicas": into,
                "rate_rps": members[0].rate_rps / into,
            }
        )
        at_most = len(names)
        if into > 1:
            # one replica of each workload, then the next of each: neighbours are of different ones
            names = [f"{name}.{number}" for number in range(1, into + 1) for name in names]
        if sample.anti_affinity is not None:
            at_most = 1
        classes.append(WorkloadClass(sample, tuple(names), at_most))
    return tuple(sorted(classes, key=_order))


def of_tenant(tenant: PlanTenant) -> Workload:
    """A tenant of a plan as a workload of its own."""
    return Workload(
        name=tenant.workload,
        model=tenant.model,
        rate_rps=tenant.rate_rps,
        slo_ms=tenant.slo_ms,
        percentile=tenant.percentile,
        arrival=tenant.arrival,
        burstiness=tenant.burstiness,
        memory_mib=tenant.memory_mib,
        anti_affinity=tenant.anti_affinity,
        devices=tenant.devices,
    )


def _order(each: WorkloadClass) -> tuple[object, ...]:
    sample = each.sample
    values = (sample.model, sample.rate_rps, sample.slo_ms, sample.percentile, sample.arrival)
    return (*values, natural(sample.name))


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which numbers inside a name count as numbers."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts)


def with_known_models(workloads: Sequence[Workload], known: Iterable[str]) -> tuple[Workload, ...]:
    """The workloads, each model by the name that the coefficients have for it.

    Raises:
        BadInput: a model that none of them knows, with the workload and the nearest known model.
    """
    names = set(known)
    found = {each.model: known_as(each.model, names) for each in workloads}
    named = []
    for workload in workloads:
        model = found[workload.model]
        if model is None:
            raise BadInput(
                f"workload '{workload.name}': the coefficients know no model '{workload.model}'",
                hint=did_you_mean(workload.model, names),
            )
        named.append(
            workload if model == workload.model else workload.model_copy(update={"model": model})
        )
    return tuple(named)


def share_grid(step_pct: float) -> tuple[float, ...]:
    """All shares that are multiples of a step, up to 100.

    Raises:
        BadInput: the step is no number between 0 and 100, or makes over 1000 shares.
    """
    if not 0.1 <= step_pct <= DEVICE_PCT:
        raise BadInput(
            f"the share step must be between 0.1 and 100 percent, got {step_pct:g}",
            hint="5 is usual; 2.5 is iGniter's",
        )
    # products, not a running sum: 3 * 0.1 and 0.1 + 0.1 + 0.1 would differ
    return tuple(
        round(number * step_pct, 9) for number in range(1, int(DEVICE_PCT / step_pct + 1e-9) + 1)
    )


def choices_for(
    predictor: Predictor,
    models: Iterable[str],
    share_step_pct: float,
    *,
    rule: Rule,
    extrapolate: bool = False,
    batch_sizes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[dict[str, Choices], list[str]]:
    """What may be chosen for each model, and notes about where that was narrowed.

    Batch sizes are the powers of two that were profiled, or all under a rule that limits them
    (``Rule.max_batch``, as iGniter's does); shares are the grid from the smallest
    to the largest that was. A share below all that was measured would rest on extrapolating
    1/share, where the fitted curve is steepest; of one above, nothing says that it still helps.
    ``extrapolate`` gives the whole grid, and batches up to 64. Models of which nothing on the grid
    was profiled get everything.
    """
    grid = share_grid(share_step_pct)
    powers = (
        tuple(range(1, rule.max_batch + 1))
        if rule.max_batch is not None
        else tuple(2**power for power in range(LARGEST_BATCH.bit_length()))
    )
    choices: dict[str, Choices] = {}
    # what is told of several models alike is told once
    narrowed: dict[str, list[str]] = {}
    for model in sorted(set(models)):
        given = tuple(sorted(set(batch_sizes.get(model, ())))) if batch_sizes else ()
        batches, shares = given or powers, grid
        if not extrapolate:
            inside = {
                (batch, share)
                for batch in batches
                for share in grid
                if not predictor.outside([Tenant(model=model, batch_size=batch, share_pct=share)])
            }
            if inside:
                batches = given or tuple(sorted({batch for batch, _ in inside}))
                shares = tuple(sorted({share for _, share in inside}))
                if shares[0] > grid[0]:
                    what = f"no share below {shares[0]:g}% was profiled ({{}}), so none is planned"
                    narrowed.setdefault(what, []).append(model)
                if shares[-1] < grid[-1]:
                    what = f"no share above {shares[-1]:g}% was profiled ({{}}), so none is planned"
                    narrowed.setdefault(what, []).append(model)
            else:
                what = "nothing on the grid was profiled ({}), so the plan extrapolates"
                narrowed.setdefault(what, []).append(model)
        choices[model] = Choices(batches, shares)
    return choices, [what.format(", ".join(names)) for what, names in narrowed.items()]
