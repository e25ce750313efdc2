"""What a planner asks of a latency model millions of times: one cell, nothing but its speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from igniter_prof.fitting.points import FloatArray


class Speed(NamedTuple):
    """How fast a tenant is; the part of a ``Prediction`` that planning needs.

    ``latency_high_ms`` is the upper end of the interval; None where it was not asked for.
    """

    latency_ms: float
    latency_high_ms: float | None
    throughput_rps: float
    cv: float


class Configuration(NamedTuple):
    """A tenant as ``Points`` has it: ``model`` is its number, ``share`` in (0, 1]."""

    model: int
    batch: int
    share: float
    scale: float
    instances: int


class Quick(Protocol):
    """Latencies of single cells, the same as ``Fitted.latency_ms`` up to rounding."""

    def service_ms(self, own: Configuration, beside: Sequence[Configuration]) -> FloatArray:
        """Latency of executed batches of 1, 2, … ``own.batch`` beside full batches, (batch,)."""
        ...

    def log_scale(self, own: Configuration, beside: Sequence[Configuration]) -> float:
        """As ``Fitted.log_scale``, of a full batch."""
        ...

    def overlapped_ms(self, own: Configuration, latency_ms: float) -> float:
        """As ``Fitted.overlapped_ms``, of a full batch of that latency."""
        ...


@runtime_checkable
class AnswersQuickly(Protocol):
    """A ``Fitted`` that has a faster way to predict a single cell."""

    @property
    def quick(self) -> Quick:
        """It."""
        ...
