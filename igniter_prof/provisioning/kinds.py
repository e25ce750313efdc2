"""Kinds of devices to plan with, from what a user says of device types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from igniter_prof.provisioning.interface import (
    Predictor,
    RequestLatency,
    default_request_latency,
)
from igniter_prof.provisioning.operating import Evaluator
from igniter_prof.provisioning.problem import DeviceKind, choices_for
from igniter_prof.provisioning.rules import Rule
from igniter_prof.records import PlanDeviceType

DEFAULT_SHARE_STEP_PCT = 5.0


def device_kind(
    record: PlanDeviceType,
    predictor: Predictor,
    rule: Rule,
    models: Iterable[str],
    *,
    batch_sizes: Mapping[str, Sequence[int]] | None = None,
    request_latency: RequestLatency | None = None,
) -> tuple[DeviceKind, list[str]]:
    """A kind of device, and notes about where its choices were narrowed.

    Args:
        record: the device type; a missing share step is 5%.
        predictor: of its coefficients.
        rule: that a plan must keep.
        models: that the workloads use; those that the predictor does not know are left out.
        batch_sizes: to choose from, by model, in place of those that were profiled.
        request_latency: the queueing estimate; None: that of ``fitting``.

    Raises:
        BadInput: the share step is out of range.
    """
    step_pct = record.share_step_pct or DEFAULT_SHARE_STEP_PCT
    choices, notes = choices_for(
        predictor,
        sorted(set(models) & set(predictor.models)),
        step_pct,
        rule=rule,
        extrapolate=record.extrapolate,
        batch_sizes=batch_sizes,
    )
    queueing = default_request_latency() if request_latency is None else request_latency
    return (
        DeviceKind(
            record=record.model_copy(update={"share_step_pct": step_pct}),
            evaluator=Evaluator(predictor, rule, queueing),
            choices=choices,
        ),
        notes,
    )
