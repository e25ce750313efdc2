"""What "within its SLO" means: the rules that a plan may be made and checked under."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.records import Workload

HALF_MEAN_MAX_BATCH = 32
PREDICTED_CONFIDENCE = 0.9
"""Of the intervals of every prediction; two-sided."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule: which latency is compared with which limit, and how busy a tenant may be.

    ``queueing``: the latency compared is that of a request at the SLO's percentile, with waiting;
    else the mean of a full batch. ``slo_fraction`` of the SLO is the limit. The rate may be at
    most ``max_utilisation`` of the throughput. ``confidence``: the upper end of the prediction
    interval of this two-sided confidence is taken in place of the mean, for latency and throughput.
    """

    name: str
    queueing: bool
    slo_fraction: float
    max_utilisation: float
    fill_within_limit: bool = False
    max_batch: int | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise BadInput(
                f"a confidence must be between 0 and 1, got {self.confidence:g}",
                hint="0.9 is what predictions carry; leave it out for their means",
            )

    def __str__(self) -> str:
        return self.name if self.confidence is None else f"{self.name}+{self.confidence!r}"

    @cached_property
    def stretch(self) -> float:
        """What ln(high / mean) of a predicted 90% interval is multiplied with; 0 without margin.

        z((1 + c) / 2) / z(0.95), z the normal quantile: the ratio of the half-widths if log errors
        are normal, which nothing guarantees far from the 90% that were calibrated.
        """
        if self.confidence is None:
            return 0.0
        normal = NormalDist()
        return normal.inv_cdf((1 + self.confidence) / 2) / normal.inv_cdf(
            (1 + PREDICTED_CONFIDENCE) / 2
        )

    def limit_ms(self, workload: Workload) -> float:
        """The limit of the latency that is compared, ms."""
        return self.slo_fraction * workload.slo_ms

    def allows_batch(self, workload: Workload, batch_size: int) -> bool:
        """Whether the rule leaves this batch size to this workload."""
        if self.max_batch is not None and batch_size > self.max_batch:
            return False
        if not self.fill_within_limit:
            return True
        fill_ms = 1000 * (batch_size - 1) / workload.rate_rps
        return fill_ms <= self.limit_ms(workload)


RULES = {
    # 5% of the throughput stays free: at full load any queue grows without end
    "percentile": Rule(name="percentile", queueing=True, slo_fraction=1.0, max_utilisation=0.95),
    # iGniter's: mean <= SLO/2, throughput >= rate, (b - 1)/rate <= SLO/2, b <= 32
    "half-mean": Rule(
        name="half-mean",
        queueing=False,
        slo_fraction=0.5,
        max_utilisation=1.0,
        fill_within_limit=True,
        max_batch=HALF_MEAN_MAX_BATCH,
    ),
}


def rule_of(text: str) -> Rule:
    """The rule that a plan's ``latency_rule`` names: a name of RULES, or ``NAME+CONFIDENCE``.

    Raises:
        BadInput: there is no such rule, or the confidence is no number between 0 and 1.
    """
    name, plus, confidence = text.partition("+")
    if name not in RULES:
        raise BadInput(f"unknown latency rule '{text}'", hint=did_you_mean(name, RULES))
    if not plus:
        return RULES[name]
    try:
        return replace(RULES[name], confidence=float(confidence))
    except ValueError:
        raise BadInput(
            f"latency rule '{text}': '{confidence}' is no confidence",
            hint=f"write {name}+0.9",
        ) from None


def asked_rule(text: str, confidence: float | None, default: float | None) -> Rule:
    """The rule of a name, at a confidence that is asked for, or its own, or the default one.

    Raises:
        BadInput: as :func:`rule_of`.
    """
    rule = rule_of(text)
    if confidence is None:
        confidence = default if rule.confidence is None else rule.confidence
    return replace(rule, confidence=confidence)
