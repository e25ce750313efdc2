"""Says why a workload cannot be met, and what could be: the nearest SLO, rate, or replicas."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from igniter_prof.errors import Infeasible
from igniter_prof.provisioning.operating import Judgement, Setting, memory_limit_mib
from igniter_prof.provisioning.problem import DEVICE_PCT, DeviceKind, Problem, WorkloadClass
from igniter_prof.records import Workload
from igniter_prof.units import format_ms

MAX_SHOWN = 20
MOST_REPLICAS = 64
"""That a workload may ask for."""


def refuse_infeasible(problem: Problem, feasible: Callable[[int], bool]) -> None:
    """Raise if a workload cannot be met even alone on a device.

    Args:
        problem: the problem.
        feasible: whether a class, by its index, can be met alone on some kind of device.

    Raises:
        Infeasible: names all such workloads, why each cannot be met, and the nearest feasible SLO,
            rate and number of replicas.
    """
    missed = [each for index, each in enumerate(problem.classes) if not feasible(index)]
    if not missed:
        return
    reasons = [explain(problem, each) for each in missed[:MAX_SHOWN]]
    if len(missed) > MAX_SHOWN:
        reasons.append(f"… and {len(missed) - MAX_SHOWN} more")
    hint = "relax the SLO or the rate, or let its rate be split (max_replicas)"
    if any(
        _top_pct(kind, each.sample) < DEVICE_PCT
        for each in missed
        for kind in _allowed(problem, each)
    ):
        hint += ", or profile larger shares (--extrapolate plans with them unseen)"
    raise Infeasible(
        "no plan can meet these workloads:\n  - " + "\n  - ".join(reasons),
        hint=hint,
    )


def refuse_crowded(problem: Problem, feasible: Callable[[int, int], bool]) -> None:
    """Raise if tenants of whom no two may share a device are more than the devices for them.

    Args:
        problem: the problem.
        feasible: whether a class can be met alone on a kind of device, by their indices.

    Raises:
        Infeasible: names each such ``anti_affinity``, or workload of several replicas, how many
            devices it needs at least, and how many there are.
    """
    if all(kind.record.count is None for kind in problem.kinds):
        return
    kinds = range(len(problem.kinds))
    apart: dict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
    for index, each in enumerate(problem.classes):
        places = tuple(kind for kind in kinds if feasible(index, kind))
        if each.sample.anti_affinity is not None:
            apart[f"anti_affinity '{each.sample.anti_affinity}'"][places] += each.count
        elif each.sample.replicas > 1:
            # one workload of the class stands for all
            base = each.names[0].rpartition(".")[0]
            apart[f"workload '{base}'"][places] += each.sample.replicas
    reasons = [
        reason
        for label, tenants in apart.items()
        if (reason := _crowded(problem, label, tenants)) is not None
    ]
    if not reasons:
        return
    if len(reasons) > MAX_SHOWN:
        reasons[MAX_SHOWN:] = [f"… and {len(reasons) - MAX_SHOWN} more"]
    raise Infeasible(
        "there are too few devices:\n  - " + "\n  - ".join(reasons),
        hint="allow more devices, let some of them share a device, or give workloads a priority, so"
        " that the lowest may be left out",
    )


def _crowded(problem: Problem, label: str, tenants: Counter[tuple[int, ...]]) -> str | None:
    """Why tenants are too many for the kinds of devices that they may be on; None: they are not."""
    everywhere = tuple(sorted({kind for places in tenants for kind in places}))
    for places in [*tenants, everywhere]:
        counts = [problem.kinds[kind].record.count for kind in places]
        needed = sum(number for own, number in tenants.items() if set(own) <= set(places))
        there = sum(count for count in counts if count is not None)
        if None not in counts and needed > there:
            names = ", ".join(problem.kinds[kind].record.name for kind in places)
            return (
                f"{label}: {needed} tenants of whom no two may share a device need {needed} devices"
                f" at least, there {'is' if there == 1 else 'are'} {there} ({names})"
            )
    return None


def explain(problem: Problem, each: WorkloadClass) -> str:
    """Why a class cannot be met alone on any kind of device, and what nearest to it could be.

    Split into as many replicas as it may have; the why is that of the kind on which the least is
    missing.
    """
    sample = each.sample
    parts = max(sample.replicas, sample.max_replicas or 1)
    whole_rps = sample.rate_rps * sample.replicas
    base = each.names[0].rpartition(".")[0] if sample.replicas > 1 else each.names[0]
    alike = each.count // sample.replicas - 1
    names = f"'{base}'" + (f" and {alike} alike" if alike else "")
    return f"{names} ({sample.model}): {_why(problem, each, whole_rps, parts)}"


def nearest_slo_ms(kinds: Sequence[DeviceKind], workload: Workload) -> float | None:
    """The smallest SLO, to 4 digits, that a workload can have at its rate; None if none.

    None too where the rate is beyond each kind of device, whatever the SLO.
    """
    candidates = []
    for alone in (_alone(kind, workload) for kind in kinds):
        rule = alone.kind.evaluator.rule
        for setting, judgement in zip(alone.settings, alone.judged, strict=True):
            if not judgement.sustained or judgement.latency_ms is None:
                continue
            if not _fits_power(alone.kind, workload, setting):
                continue
            needed_ms = judgement.latency_ms
            if rule.fill_within_limit:
                needed_ms = max(needed_ms, 1000 * (setting.batch_size - 1) / workload.rate_rps)
            candidates.append(_round_up(needed_ms / rule.slo_fraction))
    return min(candidates, default=None)


def nearest_rate_rps(kinds: Sequence[DeviceKind], workload: Workload) -> float | None:
    """The highest rate, to 4 digits, that a workload can have with its SLO; None if none."""

    def feasible(rate_rps: float) -> bool:
        return _feasible(kinds, workload.model_copy(update={"rate_rps": rate_rps}))

    low, high = workload.rate_rps / 1e6, workload.rate_rps
    if not feasible(low):
        return None
    while high / low > 1.0005:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if feasible(middle) else (low, middle)
    rounded = _round_down(low)
    return rounded if feasible(rounded) else low


def nearest_replicas(kinds: Sequence[DeviceKind], workload: Workload, parts: int) -> int | None:
    """The fewest replicas, more than ``parts``, that would do; None if none. ``workload`` is whole.

    As a smaller rate is taken never to need more, this is a search by halves.
    """

    def feasible(into: int) -> bool:
        return _feasible(kinds, _part(workload, into))

    low, high = parts, MOST_REPLICAS
    if low >= high or not feasible(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if feasible(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class _Alone:
    """A workload alone on a device, whatever power it draws, where its memory suffices."""

    kind: DeviceKind
    settings: Sequence[Setting]
    judged: Sequence[Judgement]
    rate_rps: float

    @property
    def most_rps(self) -> float:
        """The highest rate that the rule allows."""
        return max(self.rate_rps * j.max_utilisation / j.utilisation for j in self.judged)

    @property
    def best_ms(self) -> float | None:
        """The least latency among those that keep up with the rate."""
        reachable = [j.latency_ms for j in self.judged if j.sustained and j.latency_ms is not None]
        return min(reachable, default=None)

    @property
    def lacking(self) -> tuple[bool, float, float]:
        """The less is missing the smaller: rate, latency."""
        best_ms = self.best_ms
        slow = self.most_rps < self.rate_rps * (1 - 1e-9)
        return slow, math.inf if best_ms is None else best_ms, -self.most_rps


def _why(problem: Problem, each: WorkloadClass, whole_rps: float, parts: int) -> str:
    allowed = _allowed(problem, each)
    if not allowed:
        return _nowhere(problem, each)
    whole = each.sample.model_copy(update={"rate_rps": whole_rps})
    part = _part(whole, parts)
    places = [alone for kind in allowed if (alone := _alone(kind, part)).judged]
    if not places:
        return _too_little_memory(allowed, part)
    if any(judgement.holds for alone in places for judgement in alone.judged):
        why = _too_much_power(places, part)
    else:
        why = _missing(problem, min(places, key=lambda alone: alone.lacking), part, parts)
    kinds = [alone.kind for alone in places]
    nearest = []
    slo_ms = nearest_slo_ms(kinds, part)
    if slo_ms is not None:
        nearest.append(f"an SLO of {slo_ms:g} ms")
    rate_rps = nearest_rate_rps(kinds, part)
    if rate_rps is not None:
        nearest.append(f"a rate of {rate_rps * parts:g} requests/s")
    replicas = nearest_replicas(kinds, whole, parts)
    if replicas is not None:
        nearest.append(f"max_replicas of {replicas}")
    return why + (f"; {' or '.join(nearest)} would do" if nearest else "")


def _nowhere(problem: Problem, each: WorkloadClass) -> str:
    """No kind of device that it may be on knows its model."""
    only = ", ".join(each.sample.devices)
    knowing = [kind.record.name for kind in problem.kinds if each.sample.model in kind.choices]
    found = f"; those of {', '.join(knowing)} do" if knowing else ""
    return f"it may only be on {only}, whose coefficients do not know its model{found}"


def _too_little_memory(kinds: Sequence[DeviceKind], workload: Workload) -> str:
    needed = min(
        kind.evaluator.tenant_memory_mib(workload, setting) or 0.0
        for kind in kinds
        for setting in _settings(kind, workload)
    )
    most = max(memory_limit_mib(kind.record) or 0.0 for kind in kinds)
    said = " as it says" if workload.memory_mib is not None else ""
    return (
        f"it needs {needed:g} MiB of device memory{said}, the largest device that it may be on"
        f" has {most:g}; memory_mib of {most:g} or a larger device would do"
    )


def _too_much_power(places: Sequence[_Alone], workload: Workload) -> str:
    """It would be met but for limits of power."""
    drawn = [
        (watts, alone.kind.record.power_limit_w or 0.0)
        for alone in places
        for setting, judgement in zip(alone.settings, alone.judged, strict=True)
        if judgement.holds
        and (watts := alone.kind.evaluator.power_w([workload], [setting])) is not None
    ]
    if not drawn:
        return "nothing is known of its power, so no power limit is sure to hold"
    least_w, limit_w = min(drawn, key=lambda pair: pair[0] - pair[1])
    return (
        f"alone a device draws {least_w:.4g} W in the mean, over its power limit of {limit_w:g} W"
    )


def _missing(problem: Problem, alone: _Alone, workload: Workload, parts: int) -> str:
    evaluator, rule = alone.kind.evaluator, problem.rule
    top_pct = _top_pct(alone.kind, workload)
    where = "alone on a device"
    if len(problem.kinds) > 1:
        where += f" of type {alone.kind.record.name}"
    if top_pct < DEVICE_PCT:
        where += f" with {top_pct:g}% of it"
    if parts > 1:
        where = f"split into {parts} replicas, each {where},"
    if alone.most_rps < workload.rate_rps * (1 - 1e-9):
        rate = f"its rate of {workload.rate_rps * parts:g}"
        return f"{where} it can take {alone.most_rps * parts:.4g} requests/s, less than {rate}"
    best_ms = alone.best_ms
    if best_ms is None:
        fastest = min(
            evaluator.predict([workload], [setting])[0].latency_ms for setting in alone.settings
        )
        return f"no batch size gives a stable queue (a batch takes {format_ms(fastest)} at best)"
    limit_ms = rule.limit_ms(workload)
    what = f"p{workload.percentile:g}" if rule.queueing else "mean latency"
    if best_ms <= limit_ms:
        return f"no batch size keeps {what}, filling and rate within its SLO at once"
    of_it = "" if rule.slo_fraction == 1 else f" = {limit_ms:g} ms of it"
    return (
        f"{where} its best {what} is {format_ms(best_ms)}, over its SLO of"
        f" {workload.slo_ms:g} ms{of_it}"
    )


def _allowed(problem: Problem, each: WorkloadClass) -> list[DeviceKind]:
    return [kind for index, kind in enumerate(problem.kinds) if problem.allows(each, index)]


def _part(workload: Workload, into: int) -> Workload:
    return workload.model_copy(update={"rate_rps": workload.rate_rps / into})


def _feasible(kinds: Sequence[DeviceKind], workload: Workload) -> bool:
    return any(
        judgement.holds and _fits_power(alone.kind, workload, setting)
        for alone in (_alone(kind, workload) for kind in kinds)
        for setting, judgement in zip(alone.settings, alone.judged, strict=True)
    )


def _alone(kind: DeviceKind, workload: Workload) -> _Alone:
    settings = [
        setting for setting in _settings(kind, workload) if _fits_memory(kind, workload, setting)
    ]
    judged = [kind.evaluator.judge([workload], [setting])[0] for setting in settings]
    return _Alone(kind, settings, judged, workload.rate_rps)


def _settings(kind: DeviceKind, workload: Workload) -> list[Setting]:
    """Every batch size with the largest share; with every share where power is limited."""
    choices, largest = kind.choices[workload.model], kind.evaluator.rule.max_batch
    batches = [each for each in choices.batch_sizes if largest is None or each <= largest]
    limited = kind.record.power_limit_w is not None
    shares = choices.shares_pct if limited else choices.shares_pct[-1:]
    return [
        Setting(batch, share) for batch in batches or choices.batch_sizes[:1] for share in shares
    ]


def _fits_memory(kind: DeviceKind, workload: Workload, setting: Setting) -> bool:
    limit_mib = memory_limit_mib(kind.record)
    if limit_mib is None:
        return True
    return (kind.evaluator.tenant_memory_mib(workload, setting) or 0.0) <= limit_mib


def _fits_power(kind: DeviceKind, workload: Workload, setting: Setting) -> bool:
    limit_w = kind.record.power_limit_w
    if limit_w is None:
        return True
    watts = kind.evaluator.power_w([workload], [setting])
    return watts is not None and watts <= limit_w


def _top_pct(kind: DeviceKind, workload: Workload) -> float:
    """The largest share that may be chosen for a workload."""
    return kind.choices[workload.model].shares_pct[-1]


def _round_up(value: float) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.ceil(value / step * (1 - 1e-12)) * step:.4g}")


def _round_down(value: float) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.floor(value / step * (1 + 1e-12)) * step:.4g}")
