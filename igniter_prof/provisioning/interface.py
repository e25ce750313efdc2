"""What the planner asks of a latency model: two protocols that ``fitting`` fulfils."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from igniter_prof.fitting.quick import Speed
from igniter_prof.fitting.tables import LatencyTable
from igniter_prof.records import Prediction, Tenant


class Power(Protocol):
    """What is known of a device's power besides what is predicted for its tenants."""

    @property
    def idle_w(self) -> float:
        """With nobody on it."""
        ...

    @property
    def held_w(self) -> float:
        """At its power limit; infinite if it has none."""
        ...


class Resources(Protocol):
    """What a profile says besides latency."""

    @property
    def power(self) -> Power | None:
        """None: nothing."""
        ...


class Predictor(Protocol):
    """A fitted latency model.

    The planner's proofs rest on this: one more neighbour, or a larger share of a neighbour, never
    makes a tenant faster. Where a model breaks it (``docs/planning.md`` says how far each does), a
    plan with fewer devices may be overlooked; every plan is judged as it is in the end.
    """

    @property
    def models(self) -> Iterable[str]:
        """Names of the models that it knows."""
        ...

    @property
    def resources(self) -> Resources:
        """Of the device that was profiled."""
        ...

    def predict(self, cells: Sequence[Sequence[Tenant]]) -> list[list[Prediction]]:
        """One prediction a tenant, for each cell: the tenants of one device."""
        ...

    def speeds(self, tenants: Sequence[Tenant], *, interval: bool = False) -> Sequence[Speed]:
        """What ``predict`` says of the speed of one cell's tenants, but fast.

        ``interval``: with the upper end of the interval.
        """
        ...

    def service_ms(
        self, tenant: Tenant, neighbours: Sequence[Tenant] = ()
    ) -> npt.NDArray[np.float64]:
        """Mean latency of executed batches of 1, 2, … ``tenant.batch_size``: (batch_size,), ms.

        Beside neighbours that are loaded all the time with their own full batches; the last
        value is what ``predict`` says of the tenant.
        """
        ...

    def table(self, tenants: Sequence[Tenant]) -> LatencyTable:
        """Latencies of many cells at once that are made of these tenants."""
        ...

    def outside(self, tenants: Sequence[Tenant]) -> list[str]:
        """What of these tenants lies outside of what was profiled, in words."""
        ...


class Estimate(Protocol):
    """What queueing makes of the latency of batches: request latencies at some percentiles."""

    @property
    def quantiles_ms(self) -> Mapping[float, float]:
        """Latency of a request at each percentile asked for, ms."""
        ...

    @property
    def stable(self) -> bool:
        """Whether the queue stays finite."""
        ...


class RequestLatency(Protocol):
    """The queueing estimate, as ``fitting.queueing.request_latency``."""

    def __call__(
        self,
        service_ms: npt.NDArray[np.float64],
        cv: float,
        rate_rps: float,
        arrival: Any,
        percentiles: Any,
        queue_delay_us: int = 0,
        burstiness: float | None = None,
    ) -> Estimate:
        """Estimate; ``service_ms``: (b_max,), ms, of an executed batch of 1, 2, … b_max."""
        ...


def default_request_latency() -> RequestLatency:
    """The project's own queueing estimate (imported when it is first used)."""
    from igniter_prof.fitting.queueing import request_latency

    return request_latency
