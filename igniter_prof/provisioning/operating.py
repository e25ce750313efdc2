"""Judges what runs on one device: predicted latency, request latency, and whether a rule holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from igniter_prof.fitting.quick import Speed
from igniter_prof.provisioning.interface import Estimate, Predictor, RequestLatency
from igniter_prof.provisioning.queue_limits import QueueCurve
from igniter_prof.provisioning.rules import Rule
from igniter_prof.records import PlanDeviceType, PredictedTenant, Prediction, Tenant, Workload

Floats = npt.NDArray[np.float64]
REPORTED = (50.0, 95.0, 99.0)
MOST_QUEUED = 0.95
"""Utilisation above which no percentiles are stated under a rule that does not ask for them.

Half of what is left of the throughput there doubles the wait, and the queue takes longest to solve.
"""


@dataclass(frozen=True, order=True)
class Setting:
    """What the planner chooses for one workload."""

    batch_size: int
    share_pct: float
    queue_delay_us: int = 0


@dataclass(frozen=True)
class Judgement:
    """How one tenant stands against the rule.

    ``latency_ms`` is what the rule compares with ``limit_ms`` (None: no queue is that stable);
    ``utilisation`` is the rate over the throughput.
    """

    latency_ms: float | None
    limit_ms: float
    utilisation: float
    max_utilisation: float
    batch_allowed: bool

    @property
    def sustained(self) -> bool:
        """Whether the rate is within the throughput that the rule lets it use."""
        return self.utilisation <= self.max_utilisation * (1 + 1e-9)

    @property
    def holds(self) -> bool:
        """Whether the rule holds."""
        in_time = self.latency_ms is not None and self.latency_ms <= self.limit_ms * (1 + 1e-9)
        return self.sustained and in_time and self.batch_allowed

    @property
    def headroom(self) -> float:
        """What is left of the scarcer of latency and throughput, as a fraction of its limit."""
        if self.latency_ms is None:
            return -math.inf
        return min(1 - self.latency_ms / self.limit_ms, 1 - self.utilisation / self.max_utilisation)


def memory_limit_mib(record: PlanDeviceType) -> float | None:
    """Memory that the tenants of a device may use: as the user said, else that of the profiled."""
    return record.memory_mib or (record.device.memory_mib if record.device is not None else None)


@lru_cache(maxsize=200_000)
def _tenant(model: str, batch_size: int, share_pct: float) -> Tenant:
    # validation of a record costs more than a prediction: make each once
    return Tenant(model=model, batch_size=batch_size, share_pct=share_pct)


class Evaluator:
    """Judges devices under one predictor and one rule; remembers what it has predicted.

    A device is two equally long sequences: its workloads and their settings.
    """

    def __init__(self, predictor: Predictor, rule: Rule, request_latency: RequestLatency) -> None:
        self.predictor = predictor
        self.rule = rule
        self._request_latency = request_latency
        self._staircases: dict[tuple[object, ...], _Staircase] = {}
        self._alone: dict[tuple[str, Setting], Prediction] = {}
        self._curves: dict[tuple[object, ...], QueueCurve] = {}

    def predict(
        self, workloads: Sequence[Workload], settings: Sequence[Setting]
    ) -> list[Prediction]:
        """The predictions of full batches of everybody on the device."""
        (cell,) = self.predictor.predict([_tenants(workloads, settings)])
        return cell

    def sustained(
        self, workloads: Sequence[Workload], settings: Sequence[Setting]
    ) -> tuple[list[bool], Sequence[Speed]]:
        """Whether each tenant keeps up with its rate: cheap, as it needs no queue."""
        speeds = self._speeds(workloads, settings)
        judged = [
            self._judge(workload, setting, speed, math.inf).sustained
            for workload, setting, speed in zip(workloads, settings, speeds, strict=True)
        ]
        return judged, speeds

    def judge(self, workloads: Sequence[Workload], settings: Sequence[Setting]) -> list[Judgement]:
        """How each tenant stands against the rule."""
        judged = []
        speeds = self._speeds(workloads, settings)
        for index, (workload, setting) in enumerate(zip(workloads, settings, strict=True)):
            speed = speeds[index]
            latency_ms: float | None
            if self.rule.queueing:
                service_ms = self._service_ms(index, workloads, settings, speed)
                wanted = (workload.percentile,)
                estimate = self._queue(workload, setting, service_ms, speed.cv, wanted)
                latency_ms = _quantile(estimate, workload.percentile)
            else:
                latency_ms = self._batch_ms(speed)
            judged.append(self._judge(workload, setting, speed, latency_ms))
        return judged

    def holds(
        self,
        index: int,
        workloads: Sequence[Workload],
        settings: Sequence[Setting],
        speed: Speed,
    ) -> bool:
        """Whether the rule holds for one tenant, whose full-batch speed is given.

        Answers from what is known where it can: service times that are nowhere shorter than ones
        that failed fail too, and nowhere longer than ones that passed pass too.
        """
        workload, setting = workloads[index], settings[index]
        if not self._judge(workload, setting, speed, 0.0).holds:
            return False
        if not self.rule.queueing:
            mean_ms = self._batch_ms(speed)
            return self._judge(workload, setting, speed, mean_ms).holds
        service_ms = self._service_ms(index, workloads, settings, speed)
        key = (
            workload.model,
            workload.rate_rps,
            workload.slo_ms,
            workload.percentile,
            workload.arrival,
            workload.burstiness,
            setting.batch_size,
            setting.queue_delay_us,
        )
        staircase = self._staircases.setdefault(key, _Staircase())
        point = np.append(service_ms, speed.cv)
        known = staircase.known(point)
        if known is not None:
            return known
        estimate = self._queue(workload, setting, service_ms, speed.cv, (workload.percentile,))
        latency_ms = _quantile(estimate, workload.percentile)
        verdict = self._judge(workload, setting, speed, latency_ms).holds
        staircase.learn(point, verdict)
        return verdict

    def curve(self, workload: Workload, setting: Setting) -> QueueCurve:
        """The workload's percentile by the rate, alone with a setting; the same one every time."""
        of = (workload.percentile, workload.arrival, workload.burstiness)
        key = (workload.model, setting, *of)
        if key not in self._curves:
            (tenant,) = _tenants([workload], [setting])
            service_ms = self.predictor.service_ms(tenant)
            (speed,) = self.predictor.speeds([tenant])

            def solve(rate_rps: float) -> float:
                asked = workload.model_copy(update={"rate_rps": rate_rps})
                wanted = (workload.percentile,)
                estimate = self._queue(asked, setting, service_ms, speed.cv, wanted)
                latency_ms = _quantile(estimate, workload.percentile)
                return math.inf if latency_ms is None else latency_ms

            self._curves[key] = QueueCurve(solve)
        return self._curves[key]

    def promised(
        self, workloads: Sequence[Workload], settings: Sequence[Setting]
    ) -> list[PredictedTenant]:
        """What a plan states for each tenant: means without the rule's margin, 90% intervals.

        The interval of the latency at the SLO's percentile is that of the batches: every service
        time as much shorter or longer as the ends of a full batch's interval. It is stated only
        under a rule of that percentile; percentiles themselves under another rule only up to a
        utilisation of MOST_QUEUED.
        """
        promises = []
        tenants = _tenants(workloads, settings)
        for index, prediction in enumerate(self.predict(workloads, settings)):
            neighbours = tenants[:index] + tenants[index + 1 :]
            service_ms = self.predictor.service_ms(tenants[index], neighbours)
            workload, setting = workloads[index], settings[index]
            wanted = (*REPORTED, workload.percentile)
            utilisation = workload.rate_rps / prediction.throughput_rps
            p50 = p95 = p99 = at_percentile = low = high = None
            if self.rule.queueing or utilisation <= MOST_QUEUED:
                estimate = self._queue(workload, setting, service_ms, prediction.cv, wanted)
                p50, p95, p99, at_percentile = (_quantile(estimate, wish) for wish in wanted)
            if self.rule.queueing:
                low, high = (
                    self._scaled(workload, setting, service_ms, prediction, end_ms)
                    for end_ms in (prediction.latency_low_ms, prediction.latency_high_ms)
                )
            promises.append(
                PredictedTenant(
                    latency_ms=prediction.latency_ms,
                    latency_low_ms=prediction.latency_low_ms,
                    latency_high_ms=prediction.latency_high_ms,
                    throughput_rps=prediction.throughput_rps,
                    utilisation=utilisation,
                    p50_ms=p50,
                    p95_ms=p95,
                    p99_ms=p99,
                    slo_percentile_ms=at_percentile,
                    slo_percentile_low_ms=low,
                    slo_percentile_high_ms=high,
                    memory_mib=self.tenant_memory_mib(workload, setting),
                )
            )
        return promises

    def _scaled(
        self,
        workload: Workload,
        setting: Setting,
        service_ms: Floats,
        prediction: Prediction,
        end_ms: float,
    ) -> float | None:
        """The latency at the SLO's percentile if a full batch takes ``end_ms``."""
        scaled_ms = service_ms * (end_ms / prediction.latency_ms)
        wanted = (workload.percentile,)
        estimate = self._queue(workload, setting, scaled_ms, prediction.cv, wanted)
        return _quantile(estimate, workload.percentile)

    def power_w(self, workloads: Sequence[Workload], settings: Sequence[Setting]) -> float | None:
        """Mean power of the device at its load; None where it is not known of everybody.

        Idle, and what each tenant adds alone for the part of the time that it is busy: its rate
        over its throughput beside the others. At most what the power limit holds.
        """
        power = self.predictor.resources.power
        if power is None:
            return None
        rises = [self.rise_w(*each) for each in zip(workloads, settings, strict=True)]
        total_w = power.idle_w
        speeds = self.predictor.speeds(_tenants(workloads, settings))
        for workload, rise_w, speed in zip(workloads, rises, speeds, strict=True):
            if rise_w is None:
                return None
            total_w += rise_w * min(workload.rate_rps / speed.throughput_rps, 1.0)
        return min(total_w, power.held_w)

    def rise_w(self, workload: Workload, setting: Setting) -> float | None:
        """What a tenant that is busy all the time adds to the idle power, W; None: unknown."""
        power = self.predictor.resources.power
        alone_w = self._predicted_alone(workload, setting).power_w
        if power is None or alone_w is None:
            return None
        return max(alone_w - power.idle_w, 0.0)

    def memory_mib(
        self, workloads: Sequence[Workload], settings: Sequence[Setting]
    ) -> float | None:
        """Memory of the device that its tenants take, without those of whom nothing is known.

        None where nothing is known of anybody.
        """
        known = [
            mib
            for each in zip(workloads, settings, strict=True)
            if (mib := self.tenant_memory_mib(*each)) is not None
        ]
        return sum(known) if known else None

    def tenant_memory_mib(self, workload: Workload, setting: Setting) -> float | None:
        """Memory of a tenant, its neighbours do not change it: as the user said, or predicted."""
        if workload.memory_mib is not None:
            return workload.memory_mib
        # none at all is what a profile without a model's memory says
        return self._predicted_alone(workload, setting).memory_mib or None

    def _predicted_alone(self, workload: Workload, setting: Setting) -> Prediction:
        key = (workload.model, setting)
        if key not in self._alone:
            (self._alone[key],) = self.predict([workload], [setting])
        return self._alone[key]

    def _judge(
        self,
        workload: Workload,
        setting: Setting,
        speed: Speed,
        latency_ms: float | None,
    ) -> Judgement:
        slower = self._batch_ms(speed) / speed.latency_ms
        return Judgement(
            latency_ms=latency_ms,
            limit_ms=self.rule.limit_ms(workload),
            utilisation=workload.rate_rps * slower / speed.throughput_rps,
            max_utilisation=self.rule.max_utilisation,
            batch_allowed=self.rule.allows_batch(workload, setting.batch_size),
        )

    def _batch_ms(self, speed: Speed) -> float:
        if self.rule.confidence is None:
            return speed.latency_ms
        assert speed.latency_high_ms is not None  # asked for by _speeds
        if self.rule.stretch == 1.0:
            return speed.latency_high_ms
        return speed.latency_ms * float(
            (speed.latency_high_ms / speed.latency_ms) ** self.rule.stretch
        )

    def _speeds(
        self, workloads: Sequence[Workload], settings: Sequence[Setting]
    ) -> Sequence[Speed]:
        tenants = _tenants(workloads, settings)
        return self.predictor.speeds(tenants, interval=self.rule.confidence is not None)

    def _service_ms(
        self,
        index: int,
        workloads: Sequence[Workload],
        settings: Sequence[Setting],
        speed: Speed,
    ) -> Floats:
        """Latency of executed batches of 1 to the batch size, (b,), ms, with the rule's margin."""
        tenants = _tenants(workloads, settings)
        own = tenants.pop(index)
        slower = self._batch_ms(speed) / speed.latency_ms
        return self.predictor.service_ms(own, tenants) * slower

    def _queue(
        self,
        workload: Workload,
        setting: Setting,
        service_ms: Floats,
        cv: float,
        percentiles: tuple[float, ...],
    ) -> Estimate:
        return self._request_latency(
            service_ms,
            cv,
            workload.rate_rps,
            workload.arrival,
            tuple(dict.fromkeys(percentiles)),
            queue_delay_us=setting.queue_delay_us,
            burstiness=workload.burstiness,
        )


class _Staircase:
    """Points known to pass or fail a test that is monotone in every coordinate."""

    def __init__(self) -> None:
        self._passed: Floats | None = None
        self._failed: Floats | None = None

    def known(self, point: Floats) -> bool | None:
        """The answer where dominance gives it, else None."""
        if self._passed is not None and bool((self._passed >= point).all(axis=1).any()):
            return True
        if self._failed is not None and bool((self._failed <= point).all(axis=1).any()):
            return False
        return None

    def learn(self, point: Floats, passed: bool) -> None:
        """Keep a point; those that it makes needless go."""
        row = point[np.newaxis, :]
        if passed:
            keep = self._passed
            if keep is not None:
                row = np.vstack([keep[~(keep <= point).all(axis=1)], row])
            self._passed = row
        else:
            keep = self._failed
            if keep is not None:
                row = np.vstack([keep[~(keep >= point).all(axis=1)], row])
            self._failed = row


def _tenants(workloads: Sequence[Workload], settings: Sequence[Setting]) -> list[Tenant]:
    return [
        _tenant(workload.model, setting.batch_size, setting.share_pct)
        for workload, setting in zip(workloads, settings, strict=True)
    ]


def _quantile(estimate: Estimate, percentile: float) -> float | None:
    if not estimate.stable:
        return None
    value = float(estimate.quantiles_ms[percentile])
    return value if math.isfinite(value) else None
