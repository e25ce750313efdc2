"""From the raw requests of a planned tenant to its verdict. Pure."""

from __future__ import annotations

from igniter_prof.errors import BadInput
from igniter_prof.records import MEASURED, Load, PlanDevice, PlanTenant, WorkloadResult
from igniter_prof.session import Observed, lagged_pct
from igniter_prof.statistics import answered_rps, latencies_ms, summarise
from igniter_prof.units import NS_PER_S

ROUNDING_PCT = 1e-9


def loads_of(device: PlanDevice) -> list[Load]:
    """The traffic that each tenant of a plan's device was planned for: open loops.

    Raises:
        BadInput: arrivals are bursty, and it is not said how much.
    """
    return [_load_of(tenant) for tenant in device.tenants]


def _load_of(tenant: PlanTenant) -> Load:
    bursty = tenant.arrival == "bursty"
    if bursty and tenant.burstiness is None:
        raise BadInput(
            f"'{tenant.workload}' has bursty arrivals without a burstiness",
            hint="plan it again, or add the tenant's 'burstiness' to the plan",
        )
    return Load(
        kind=tenant.arrival,
        rate_rps=tenant.rate_rps,
        burstiness=tenant.burstiness if bursty else None,
    )


def judge(
    tenant: PlanTenant, device: str, seen: Observed, start_ns: int | None, end_ns: int | None
) -> WorkloadResult:
    """What one planned tenant was measured to do.

    Latency counts from the *intended* send instant, so that a client held up by a slow server
    still counts the wait (no coordinated omission). The SLO is met if at most
    ``100 - percentile`` percent of all requests took longer than the SLO or failed.

    Args:
        tenant: as planned.
        device: name of the plan's device.
        seen: its requests and how it ended.
        start_ns: beginning of the counted window, None if there was none.
        end_ns: its end.
    """
    outcome = WorkloadResult(
        workload=tenant.workload,
        model=tenant.model,
        device=device,
        batch_size=tenant.batch_size,
        share_pct=tenant.share_pct,
        rate_rps=tenant.rate_rps,
        slo_ms=tenant.slo_ms,
        percentile=tenant.percentile,
        status=seen.status,
        detail=seen.detail,
        slo_met=False,
        predicted=tenant.predicted,
    )
    rows = seen.rows[seen.rows["phase"] == MEASURED]
    if seen.status != "ok" or len(rows) == 0 or start_ns is None or end_ns is None:
        if seen.status == "ok":
            return outcome.model_copy(update={"detail": "no request fell into the window"})
        return outcome
    latency_ms = latencies_ms(rows, intended=True)
    within = int((latency_ms <= tenant.slo_ms).sum())
    violations_pct = 100.0 * (len(rows) - within) / len(rows)
    times = seen.server_times
    return outcome.model_copy(
        update={
            "requests": len(rows),
            "failed_requests": len(rows) - len(latency_ms),
            "latency": summarise(latency_ms) if len(latency_ms) else None,
            "latency_sent": summarise(latencies_ms(rows)) if len(latency_ms) else None,
            "throughput_rps": answered_rps(seen.rows, start_ns, end_ns),
            "goodput_rps": within / ((end_ns - start_ns) / NS_PER_S),
            "violations_pct": violations_pct,
            "lagged_pct": lagged_pct(rows),
            "executed_batch": times.executed_batch if times else None,
            # 100 - 99.9 is a little less than 0.1
            "slo_met": bool(violations_pct <= 100.0 - tenant.percentile + ROUNDING_PCT),
        }
    )
