"""The planning problem as data: classes of identical workloads, and what may be chosen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.provisioning.interface import Predictor
from igniter_prof.provisioning.names import known_as
from igniter_prof.provisioning.operating import Evaluator, Setting
from igniter_prof.provisioning.rules import Rule
from igniter_prof.records import PlanDeviceType, Tenant, Workload

DEFAULT_MAX_TENANTS = 4
LARGEST_BATCH = 64
DEVICE_PCT = 100.0


@dataclass(frozen=True)
class WorkloadClass:
    """Workloads that differ in nothing but their names.

    ``sample`` stands for each of them; ``names`` are in natural order (``w2`` before ``w10``).
    """

    sample: Workload
    names: tuple[str, ...]

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
    """Which workloads, which choices, under which rule and limits."""

    classes: tuple[WorkloadClass, ...]
    choices: Mapping[str, Choices]
    rule: Rule
    share_step_pct: float
    max_tenants: int
    max_devices: int | None
    time_limit_s: float
    seed: int

    @property
    def workload_count(self) -> int:
        """How many workloads there are to place."""
        return sum(each.count for each in self.classes)


def classes_of(workloads: Iterable[Workload]) -> tuple[WorkloadClass, ...]:
    """Merge workloads (each of count 1) that are alike; the order given does not matter."""
    groups: dict[tuple[str, float, float, float, str], list[Workload]] = {}
    key: tuple[str, float, float, float, str]
    for workload in workloads:
        key = (
            workload.model,
            workload.rate_rps,
            workload.slo_ms,
            workload.percentile,
            workload.arrival,
        )
        groups.setdefault(key, []).append(workload)
    classes = []
    for key in sorted(groups):
        members = sorted(groups[key], key=lambda workload: natural(workload.name))
        classes.append(WorkloadClass(members[0], tuple(member.name for member in members)))
    return tuple(classes)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key in which numbers inside a name count as numbers."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts)


def with_known_models(workloads: Sequence[Workload], predictor: Predictor) -> tuple[Workload, ...]:
    """The workloads, each model by the name that the coefficients have for it.

    Raises:
        BadInput: a model that they do not know, with the workload and the nearest known model.
    """
    known = set(predictor.models)
    named = []
    for workload in workloads:
        model = known_as(workload.model, known)
        if model is None:
            raise BadInput(
                f"workload '{workload.name}': the coefficients know no model '{workload.model}'",
                hint=did_you_mean(workload.model, known),
            )
        named.append(workload.model_copy(update={"model": model}))
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
    extrapolate: bool = False,
    batch_sizes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[dict[str, Choices], list[str]]:
    """What may be chosen for each model, and notes about where that was narrowed.

    Batch sizes are the powers of two that were profiled; shares are the grid from the smallest
    to the largest that was. A share below all that was measured would rest on extrapolating
    1/share, where the fitted curve is steepest; of one above, nothing says that it still helps.
    ``extrapolate`` gives the whole grid, and batches up to 64. Models of which nothing on the grid
    was profiled get everything.
    """
    grid = share_grid(share_step_pct)
    powers = tuple(2**power for power in range(LARGEST_BATCH.bit_length()))
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
