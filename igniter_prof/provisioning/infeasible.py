"""Says why a workload cannot be met, and what could be: the nearest SLO and the nearest rate."""

from __future__ import annotations

import math

from igniter_prof.errors import Infeasible
from igniter_prof.provisioning.operating import Evaluator, Judgement, Setting
from igniter_prof.provisioning.problem import DEVICE_PCT, Problem, WorkloadClass
from igniter_prof.provisioning.shares import LeastShares
from igniter_prof.records import Workload
from igniter_prof.units import format_ms

MAX_SHOWN = 20


def refuse_infeasible(problem: Problem, least: LeastShares) -> None:
    """Raise if a workload cannot be met even alone on a device.

    Raises:
        Infeasible: names all such workloads, why each cannot be met, and the nearest feasible SLO
            and rate.
    """
    reasons = [
        explain(problem, least.evaluator, each)
        for index, each in enumerate(problem.classes)
        if least.alone(index) is None
    ]
    if not reasons:
        return
    if len(reasons) > MAX_SHOWN:
        reasons = [*reasons[:MAX_SHOWN], f"… and {len(reasons) - MAX_SHOWN} more"]
    hint = "relax the SLO or the rate, or split the workload into several of a lower rate"
    if any(_top_pct(problem, each.sample) < DEVICE_PCT for each in problem.classes):
        hint += ", or profile larger shares (--extrapolate plans with them unseen)"
    raise Infeasible(
        "no plan can meet these workloads:\n  - " + "\n  - ".join(reasons),
        hint=hint,
    )


def explain(problem: Problem, evaluator: Evaluator, each: WorkloadClass) -> str:
    """Why a class cannot be met alone on a device, with the nearest SLO and rate that can."""
    workload = each.sample
    top_pct = _top_pct(problem, workload)
    where = "alone on a device" + (f" with {top_pct:g}% of it" if top_pct < DEVICE_PCT else "")
    settings = _alone(problem, workload)
    judged = [_judge(evaluator, workload, setting) for setting in settings]
    predictions = [evaluator.predict([workload], [setting])[0] for setting in settings]
    most_rps = max(workload.rate_rps * j.max_utilisation / j.utilisation for j in judged)
    reachable = [j.latency_ms for j in judged if j.sustained and j.latency_ms is not None]
    if most_rps < workload.rate_rps * (1 - 1e-9):
        why = (
            f"{where} it can take {most_rps:.4g} requests/s,"
            f" less than its rate of {workload.rate_rps:g}"
        )
    elif reachable:
        limit_ms = evaluator.rule.limit_ms(workload)
        what = f"p{workload.percentile:g}" if evaluator.rule.queueing else "mean latency"
        share = "" if evaluator.rule.slo_fraction == 1 else f" = {limit_ms:g} ms of it"
        best_ms = min(reachable)
        why = (
            f"{where} its best {what} is {format_ms(best_ms)}, over its SLO of"
            f" {workload.slo_ms:g} ms{share}"
            if best_ms > limit_ms
            else f"no batch size keeps {what}, filling and rate within its SLO at once"
        )
    else:
        fastest = min(prediction.latency_ms for prediction in predictions)
        why = f"no batch size gives a stable queue (a batch takes {format_ms(fastest)} at best)"
    nearest = []
    slo_ms = nearest_slo_ms(problem, evaluator, workload)
    if slo_ms is not None:
        nearest.append(f"an SLO of {slo_ms:g} ms")
    rate_rps = nearest_rate_rps(problem, evaluator, workload)
    if rate_rps is not None:
        nearest.append(f"a rate of {rate_rps:g} requests/s")
    would_do = f"; {' or '.join(nearest)} would do" if nearest else ""
    names = f"'{each.names[0]}'" + (f" and {each.count - 1} alike" if each.count > 1 else "")
    return f"{names} ({workload.model}): {why}{would_do}"


def nearest_slo_ms(problem: Problem, evaluator: Evaluator, workload: Workload) -> float | None:
    """The smallest SLO, to 4 digits, that the workload can have at its rate; None if none.

    None too where the rate is beyond the device, whatever the SLO.
    """
    candidates = []
    for setting in _alone(problem, workload):
        judgement = _judge(evaluator, workload, setting)
        if not judgement.sustained or judgement.latency_ms is None:
            continue
        needed_ms = judgement.latency_ms
        if evaluator.rule.fill_within_limit:
            needed_ms = max(needed_ms, 1000 * (setting.batch_size - 1) / workload.rate_rps)
        candidates.append(_round_up(needed_ms / evaluator.rule.slo_fraction))
    return min(candidates, default=None)


def nearest_rate_rps(problem: Problem, evaluator: Evaluator, workload: Workload) -> float | None:
    """The highest rate, to 4 digits, that the workload can have with its SLO; None if none."""

    def feasible(rate_rps: float) -> bool:
        slower = workload.model_copy(update={"rate_rps": rate_rps})
        return any(_judge(evaluator, slower, setting).holds for setting in _alone(problem, slower))

    low, high = workload.rate_rps / 1e6, workload.rate_rps
    if not feasible(low):
        return None
    while high / low > 1.0005:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if feasible(middle) else (low, middle)
    rounded = _round_down(low)
    return rounded if feasible(rounded) else low


def _alone(problem: Problem, workload: Workload) -> list[Setting]:
    choices = problem.choices[workload.model]
    share_pct = _top_pct(problem, workload)
    settings = [Setting(batch, share_pct) for batch in choices.batch_sizes]
    limit = problem.rule.max_batch
    allowed = [each for each in settings if limit is None or each.batch_size <= limit]
    return allowed or settings[:1]


def _top_pct(problem: Problem, workload: Workload) -> float:
    """The largest share that may be chosen for a workload."""
    return problem.choices[workload.model].shares_pct[-1]


def _judge(evaluator: Evaluator, workload: Workload, setting: Setting) -> Judgement:
    (judgement,) = evaluator.judge([workload], [setting])
    return judgement


def _round_up(value: float) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.ceil(value / step * (1 - 1e-12)) * step:.4g}")


def _round_down(value: float) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.floor(value / step * (1 + 1e-12)) * step:.4g}")
