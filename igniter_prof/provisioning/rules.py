"""What "within its SLO" means: the rules that a plan may be made and checked under."""

from __future__ import annotations

from dataclasses import dataclass, replace

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.records import Workload

HALF_MEAN_MAX_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule: which latency is compared with which limit, and how busy a tenant may be.

    ``queueing``: the latency compared is that of a request at the SLO's percentile, with waiting;
    else the mean of a full batch. ``slo_fraction`` of the SLO is the limit. The rate may be at
    most ``max_utilisation`` of the throughput. ``interval``: the upper end of the prediction
    interval is taken in place of the mean, for latency and throughput.
    """

    name: str
    queueing: bool
    slo_fraction: float
    max_utilisation: float
    fill_within_limit: bool = False
    max_batch: int | None = None
    interval: bool = False

    def __str__(self) -> str:
        return f"{self.name}+interval" if self.interval else self.name

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
    """The rule that a plan's ``latency_rule`` names: a name of RULES, or ``NAME+interval``.

    Raises:
        BadInput: there is no such rule.
    """
    name, _, margin = text.partition("+")
    if name not in RULES or margin not in ("", "interval"):
        raise BadInput(f"unknown latency rule '{text}'", hint=did_you_mean(name, RULES))
    return replace(RULES[name], interval=margin == "interval")
