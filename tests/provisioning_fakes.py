"""A small analytic latency model and queueing estimate, with the planner's two protocols."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igniter_prof.fitting.points import FloatArray, IntArray
from igniter_prof.fitting.quick import Speed
from igniter_prof.fitting.tables import NOBODY
from igniter_prof.provisioning.interface import Predictor, RequestLatency
from igniter_prof.provisioning.kinds import device_kind
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import DeviceKind
from igniter_prof.provisioning.rules import rule_of
from igniter_prof.records import Objective, PlanDeviceType, Prediction, Tenant, Workload


@dataclass(frozen=True)
class FakeModel:
    """Latency alone: (fixed + each · batch) / share; ``pressure`` is what it does to others.

    ``rise_w`` is what it adds to the power with the whole device, ``memory_mib`` what an item of a
    batch needs, and what its weights need.
    """

    fixed_ms: float
    each_ms: float
    pressure: float
    rise_w: float = 100.0
    memory_mib: float = 100.0


@dataclass(frozen=True)
class FakePower:
    idle_w: float = 50.0
    held_w: float = math.inf


@dataclass(frozen=True)
class FakeResources:
    power: FakePower | None = None


MODELS = {
    "small": FakeModel(fixed_ms=0.3, each_ms=0.2, pressure=0.1),
    "middle": FakeModel(fixed_ms=0.8, each_ms=0.5, pressure=0.3),
    "large": FakeModel(fixed_ms=2.0, each_ms=1.5, pressure=0.5),
}


class FakeTable:
    """See ``LatencyTable``; latencies alone (n,), and what each setting slows others by (n,)."""

    def __init__(self, alone_ms: FloatArray, slowing: FloatArray) -> None:
        self.alone_ms = alone_ms
        # nobody, as the last one, slows nobody
        self._slowing = np.append(slowing, 0.0)

    def overlapped_ms(self, latency_ms: FloatArray) -> FloatArray:
        return np.zeros(len(latency_ms))

    def lightest(self, members: IntArray) -> IntArray:
        slowing = np.where(members >= 0, self._slowing[members], np.inf)
        best = np.take_along_axis(members, slowing.argmin(axis=1)[:, None], axis=1)[:, 0]
        return np.asarray(np.where((members >= 0).any(axis=1), best, NOBODY))

    def prepare(self, cells: IntArray) -> FloatArray:
        return np.asarray(self._slowing[cells])

    def latency_ms(
        self, prepared: FloatArray, row: IntArray, place: IntArray, own: IntArray
    ) -> FloatArray:
        beside = prepared[row].sum(axis=1) - prepared[row, place]
        return np.asarray(self.alone_ms[own] * (1 + beside))


class FakePredictor:
    """Monotone in shares and neighbours, as the planner needs."""

    def __init__(
        self,
        models: dict[str, FakeModel] = MODELS,
        *,
        interference: float = 1.0,
        profiled_batch: int = 8,
        profiled_share_pct: float = 5.0,
        most_profiled_share_pct: float = 100.0,
        spread: float = 0.1,
        power: FakePower | None = None,
        memory: bool = False,
    ) -> None:
        self._models = models
        self.models = tuple(models)
        self._interference = interference
        self._profiled_batch = profiled_batch
        self._profiled_share_pct = profiled_share_pct
        self._most_profiled_share_pct = most_profiled_share_pct
        self._spread = spread
        self._memory = memory
        self.resources = FakeResources(power)

    def _latency_ms(self, tenant: Tenant, batch: int, neighbours: Iterable[Tenant]) -> float:
        model = self._models[tenant.model]
        alone = (model.fixed_ms + model.each_ms * batch) / ((tenant.share_pct or 100) / 100)
        return alone * (1 + self._slowing(neighbours))

    def _slowing(self, neighbours: Iterable[Tenant]) -> float:
        """How much longer a tenant takes beside neighbours, as a fraction."""
        pressure = sum(
            self._models[n.model].pressure * (n.share_pct or 100) / 100 * (1 + n.batch_size / 32)
            for n in neighbours
        )
        return self._interference * pressure

    def predict(self, cells: Sequence[Sequence[Tenant]]) -> list[list[Prediction]]:
        return [
            [
                self._prediction(
                    tenant,
                    self._latency_ms(tenant, tenant.batch_size, [*cell[:k], *cell[k + 1 :]]),
                    self._power_w(cell),
                )
                for k, tenant in enumerate(cell)
            ]
            for cell in cells
        ]

    def _power_w(self, cell: Sequence[Tenant]) -> float | None:
        power = self.resources.power
        if power is None:
            return None
        rises = (self._models[t.model].rise_w * (t.share_pct or 100) / 100 for t in cell)
        return min(power.idle_w + sum(rises), power.held_w)

    def _prediction(self, tenant: Tenant, latency_ms: float, power_w: float | None) -> Prediction:
        memory_mib = self._models[tenant.model].memory_mib * (1 + tenant.batch_size)
        return Prediction(
            latency_ms=latency_ms,
            latency_low_ms=latency_ms * (1 - self._spread),
            latency_high_ms=latency_ms * (1 + self._spread),
            throughput_rps=1000 * tenant.batch_size / latency_ms,
            cv=0.05,
            power_w=power_w,
            memory_mib=memory_mib if self._memory else None,
        )

    def speeds(self, tenants: Sequence[Tenant], *, interval: bool = False) -> list[Speed]:
        (cell,) = self.predict([tenants])
        return [
            Speed(p.latency_ms, p.latency_high_ms if interval else None, p.throughput_rps, p.cv)
            for p in cell
        ]

    def service_ms(self, tenant: Tenant, neighbours: Sequence[Tenant] = ()) -> np.ndarray:
        return np.array(
            [self._latency_ms(tenant, n, neighbours) for n in range(1, tenant.batch_size + 1)]
        )

    def table(self, tenants: Sequence[Tenant]) -> FakeTable:
        return FakeTable(
            np.array([self._latency_ms(each, each.batch_size, ()) for each in tenants]),
            np.array([self._slowing([each]) for each in tenants]),
        )

    def outside(self, tenants: Sequence[Tenant]) -> list[str]:
        found = []
        for tenant in tenants:
            if tenant.batch_size > self._profiled_batch:
                found.append(f"{tenant.model}: batch_size {tenant.batch_size} was not profiled")
            share_pct = tenant.share_pct or 100
            if not self._profiled_share_pct <= share_pct <= self._most_profiled_share_pct:
                found.append(f"{tenant.model}: share_pct {tenant.share_pct:g} was not profiled")
        return found


@dataclass(frozen=True)
class FakeEstimate:
    quantiles_ms: dict[float, float]
    stable: bool


def fake_request_latency(
    service_ms: np.ndarray,
    cv: float,
    rate_rps: float,
    arrival: str,
    percentiles: Sequence[float],
    queue_delay_us: int = 0,
    burstiness: float | None = None,
) -> FakeEstimate:
    """An exponential wait behind full batches: monotone in service times and in the rate."""
    batch_ms = float(service_ms[-1])
    busy = rate_rps * batch_ms / (1000 * len(service_ms))
    if busy >= 1:
        return FakeEstimate(dict.fromkeys(percentiles, math.inf), stable=False)
    uneven = {"constant": 0.5, "poisson": 1.0}.get(arrival) or (1 + (burstiness or 0)) / 2
    wait_ms = batch_ms * busy / (2 * (1 - busy)) * uneven
    return FakeEstimate(
        {
            p: batch_ms * (1 + cv) - wait_ms * math.log(1 - p / 100) + queue_delay_us / 1000
            for p in percentiles
        },
        stable=True,
    )


def as_predictor(predictor: FakePredictor) -> Predictor:
    return predictor  # a type checker sees here that the fake fulfils the protocol


def fake_kind(
    predictor: Predictor,
    workloads: Sequence[Workload],
    rule: str = "percentile",
    *,
    batch_sizes: Sequence[int] | None = None,
    request_latency: RequestLatency = fake_request_latency,
    **record: Any,
) -> DeviceKind:
    """A kind of device for workloads; ``record``: of its ``PlanDeviceType``."""
    models = {each.model for each in workloads}
    kind, _ = device_kind(
        PlanDeviceType(**{"name": "gpu", **record}),
        predictor,
        rule_of(rule),
        models,
        batch_sizes=None if batch_sizes is None else dict.fromkeys(models, batch_sizes),
        request_latency=request_latency,
    )
    return kind


def cheapest_by_brute_force(
    kinds: Sequence[DeviceKind],
    workloads: Sequence[Workload],
    objective: Objective | None = None,
) -> float:
    """The least cost by trying every partition, kind, batch size and share; infinite if none.

    Workloads are placed whole. There is no pruning, but for shares that add up to more than 100.
    """
    wish = Objective() if objective is None else objective
    known: dict[tuple[int, tuple[str, ...]], float] = {}

    def cost(group: Sequence[int], number: int) -> float:
        members = [workloads[index] for index in group]
        alike = sorted(each.model_copy(update={"name": ""}).model_dump_json() for each in members)
        key = number, tuple(alike)
        if key not in known:
            known[key] = _cheapest_device(kinds[number], members, wish)
        return known[key]

    best = math.inf
    for partition in _partitions(list(range(len(workloads)))):
        for chosen in itertools.product(range(len(kinds)), repeat=len(partition)):
            used = [chosen.count(number) for number in range(len(kinds))]
            if all(
                kind.record.count is None or n <= kind.record.count
                for kind, n in zip(kinds, used, strict=True)
            ):
                best = min(best, sum(map(cost, partition, chosen)))
    return best


def _cheapest_device(kind: DeviceKind, members: Sequence[Workload], objective: Objective) -> float:
    record, evaluator = kind.record, kind.evaluator
    labels = [each.anti_affinity for each in members if each.anti_affinity is not None]
    if len(members) > kind.max_tenants or len(set(labels)) < len(labels):
        return math.inf
    if any(each.devices and record.name not in each.devices for each in members):
        return math.inf
    if any(each.model not in kind.choices for each in members):
        return math.inf
    best = math.inf
    choices = [kind.choices[each.model] for each in members]
    for shares in itertools.product(*(each.shares_pct for each in choices)):
        if sum(shares) > 100 + 1e-9:
            continue
        for batches in itertools.product(*(each.batch_sizes for each in choices)):
            settings = [Setting(batch, share) for batch, share in zip(batches, shares, strict=True)]
            if (
                record.memory_mib is not None
                and (evaluator.memory_mib(members, settings) or 0) > record.memory_mib
            ):
                continue
            power_w = 0.0
            if objective.power or record.power_limit_w is not None:
                power_w = evaluator.power_w(members, settings) or 0.0
            if record.power_limit_w is not None and power_w > record.power_limit_w:
                continue
            price = objective.price * (record.price_per_hour or 0.0)
            total = objective.devices + price + objective.power * power_w
            if total < best and all(each.holds for each in evaluator.judge(members, settings)):
                best = total
    return best


def _partitions(items: list[int]) -> Iterable[list[list[int]]]:
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for partition in _partitions(rest):
        yield [[first], *partition]
        for index, group in enumerate(partition):
            yield [*partition[:index], [first, *group], *partition[index + 1 :]]


__all__ = [
    "MODELS",
    "FakeModel",
    "FakePower",
    "FakePredictor",
    "as_predictor",
    "cheapest_by_brute_force",
    "fake_kind",
    "fake_request_latency",
]
