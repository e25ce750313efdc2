"""A ground to plan again on that needs no latency model: a workload's rate is the share it needs.

Each neighbour takes a twentieth more; a type called ``fast`` needs half of it. Plans from scratch
are the cheapest there are, by trying all partitions; above six tenants by first fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from igniter_prof.errors import Infeasible
from igniter_prof.provisioning.layout import Ground, Placed
from igniter_prof.provisioning.operating import Evaluator, Setting
from igniter_prof.provisioning.problem import (
    Choices,
    Configuration,
    DeviceKind,
    Pattern,
    Problem,
    classes_of,
)
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import (
    Objective,
    Plan,
    PlanDevice,
    PlanDeviceType,
    PlanTenant,
    Workload,
)
from tests.provisioning_fakes import FakePredictor, fake_request_latency

MODEL = "small"
MOST_TRIED = 6


def workload(name: str, needs_pct: float, **more: Any) -> Workload:
    return Workload(name=name, model=MODEL, rate_rps=needs_pct, slo_ms=50, **more)


def kind(name: str = "gpu", **more: Any) -> DeviceKind:
    return DeviceKind(
        record=PlanDeviceType(name=name, max_tenants=3, share_step_pct=1, **more),
        evaluator=Evaluator(FakePredictor(), rule_of("percentile"), fake_request_latency),
        choices={MODEL: Choices((1,), tuple(map(float, range(1, 101))))},
    )


def ground(
    workloads: Sequence[Workload],
    kinds: Sequence[DeviceKind] = (kind(),),
    objective: Objective | None = None,
) -> Ground:
    problem = Problem(
        classes=classes_of(workloads),
        kinds=tuple(kinds),
        rule=rule_of("percentile"),
        objective=objective or Objective(),
    )

    def needs(pattern: Pattern, number: int) -> tuple[float, ...]:
        slower = (1 + 0.05 * (len(pattern) - 1)) / (2 if kinds[number].record.name == "fast" else 1)
        return tuple(math.ceil(problem.classes[c].sample.rate_rps * slower) for c in pattern)

    def configure(pattern: Pattern, number: int) -> Configuration | None:
        shares = needs(pattern, number)
        if sum(shares) > 100 or len(pattern) > 3:
            return None
        return Configuration(pattern, tuple(Setting(1, share) for share in shares), number)

    def holds(configuration: Configuration) -> bool:
        least = needs(configuration.pattern, configuration.kind)
        given = [setting.share_pct for setting in configuration.settings]
        enough = all(share >= need for share, need in zip(given, least, strict=True))
        return enough and sum(given) <= 100 and len(given) <= 3

    def size(index: int, number: int) -> float | None:
        (share,) = needs((index,), number)
        return share if share <= 100 else None

    def scratch(asked: Sequence[Workload], counts: Sequence[int | None]) -> Plan:
        names = [
            f"{each.name}.{number}" if each.replicas > 1 else each.name
            for each in asked
            for number in range(1, each.replicas + 1)
        ]
        needed = {each.name: each.rate_rps for each in asked}
        names.sort(key=lambda name: (-needed.get(name, needed.get(name[:-2], 0.0)), name))
        apart = {each.name: each.anti_affinity for each in asked if each.anti_affinity}
        partitions = _partitions(names) if len(names) <= MOST_TRIED else [_first_fit(made, names)]
        best: tuple[float, list[Placed]] | None = None
        for partition in partitions:
            labels = [[apart[name] for name in group if name in apart] for group in partition]
            if any(len(set(each)) < len(each) for each in labels):
                continue
            devices = _cheapest(made, partition, counts)
            if devices is not None:
                cost = sum(made.cost(device.configuration) for device in devices)
                if best is None or cost < best[0] - 1e-9:
                    best = (cost, devices)
        if best is None:
            going = [each for each in asked if each.priority is not None]
            if not going or len(asked) == 1:
                raise Infeasible("too few devices")
            last = min(going, key=lambda each: (each.priority or 0, each.name))
            less = scratch([each for each in asked if each is not last], counts)
            return less.model_copy(update={"left_out": (*less.left_out, last.name)})
        return plan_of(made, best[1], bound=best[0] if len(names) <= MOST_TRIED else None)

    made = Ground(
        problem=problem,
        configure=configure,
        holds=holds,
        cost=lambda configuration: problem.device_cost(configuration.kind),
        size=size,
        scratch=scratch,
    )
    return made


def plan_of(on: Ground, devices: Sequence[Placed], bound: float | None = None) -> Plan:
    """A plan as a layout says."""
    kinds = on.problem.kinds
    return Plan(
        strategy="fake",
        device_types=tuple(kind.record for kind in kinds),
        igprof="0",
        created_at="2026-01-01T00:00:00+00:00",
        bound=bound,
        cost=sum(on.cost(device.configuration) for device in devices),
        devices=tuple(
            PlanDevice(
                name=device.name or f"device-{number}",
                type=kinds[device.kind].record.name,
                tenants=tuple(
                    PlanTenant(
                        workload=name,
                        model=MODEL,
                        batch_size=setting.batch_size,
                        share_pct=setting.share_pct,
                        rate_rps=on.workload(name).rate_rps,
                        slo_ms=50,
                        replica_of=on.base(name) if on.base(name) != name else None,
                        anti_affinity=on.workload(name).anti_affinity,
                    )
                    for name, setting in device.settings.items()
                ),
            )
            for number, device in enumerate(devices, start=1)
        ),
    )


def planned(workloads: Sequence[Workload], kinds: Sequence[DeviceKind] = (kind(),)) -> Plan:
    """The plan from scratch."""
    on = ground(workloads, kinds)
    return on.scratch(workloads, [each.record.count for each in kinds])


def _cheapest(
    on: Ground, partition: Sequence[Sequence[str]], counts: Sequence[int | None]
) -> list[Placed] | None:
    """Each group on the cheapest kind that holds it and is left, in order."""
    used = [0] * len(counts)
    devices = []
    for group in partition:
        found = [
            (on.problem.device_cost(number), number, settled)
            for number, count in enumerate(counts)
            if (count is None or used[number] < count)
            and (settled := on.configured(group, number)) is not None
        ]
        if not found:
            return None
        _, number, (names, configuration) = min(found, key=lambda each: each[:2])
        used[number] += 1
        devices.append(Placed("", names, configuration))
    return devices


def _first_fit(on: Ground, names: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    for name in names:
        for group in groups:
            if any(
                on.configured([*group, name], number) is not None
                for number in range(len(on.problem.kinds))
            ):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _partitions(items: Sequence[str]) -> Iterator[list[list[str]]]:
    if not items:
        yield []
        return
    for partition in _partitions(items[1:]):
        yield [[items[0]], *partition]
        for index, group in enumerate(partition):
            yield [*partition[:index], [items[0], *group], *partition[index + 1 :]]
