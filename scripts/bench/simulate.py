"""Simulate a plan under the arrivals that it was made for: does each workload keep its percentile?

Nothing here is measured: batches take the time that the coefficients predict. With ``--against
RESULT.json`` (of ``igprof evaluate``) the simulated latencies stand beside the measured ones.
docs/simulation.md says what is simulated.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from common import describe_setting, markdown, run, setting
from simulation import CONFIDENCE, Conduct, Outcome, rooms, simulate

from igniter_prof.cli.common import note, print_json
from igniter_prof.errors import BadInput
from igniter_prof.files import atomic_write, read_record
from igniter_prof.fitting import load_coefficients, predictor
from igniter_prof.provisioning.interface import Predictor
from igniter_prof.records import Coefficients, Plan, PlanTenant, Quantile, Result, WorkloadResult

COLUMNS = (
    "workload",
    "device",
    "requests",
    "mean batch",
    "p50 ms",
    "percentile",
    "ms",
    "interval",
    "SLO ms",
    "over %",
    "verdict",
)
AGAINST = (
    "workload",
    "batch, share, rate",
    "mean batch: simulated / evaluated",
    "p50 ms: simulated / evaluated",
    "ratio",
    "p99 ms: simulated / evaluated",
    "ratio",
    "planned p99 ms",
)


def main() -> int:
    """Run it; returns the exit status: 0 whatever the verdicts are."""
    given = _arguments()
    if given.seconds <= 0 or given.warmup < 0 or not 1 <= given.seeds <= given.most_seeds:
        raise BadInput("--seconds must be above 0, --warmup not below, --seeds within --most-seeds")
    plan = read_record(given.plan, Plan)
    result = None if given.against is None else read_record(given.against, Result)
    conduct = Conduct(
        neighbours=given.neighbours,
        loading=given.loading,
        window_s=given.seconds,
        warmup_s=given.warmup,
        least_seeds=given.seeds,
        most_seeds=given.most_seeds,
        seed=given.seed,
    )
    predictors = by_type(plan, [load_coefficients(path) for path in given.coefficients])
    where = setting()
    began = time.monotonic()
    devices = rooms(plan, predictors, arrival=given.arrival)
    found = simulate(devices, conduct, processes=given.processes)
    took_s = time.monotonic() - began
    text = (
        f"{table(plan, found, only_broken=given.only_broken)}\n{summary(found)}"
        f" Arrivals: {given.arrival or 'as planned'}; neighbours: {given.neighbours};"
        f" loading: {given.loading}; seed {given.seed}; {took_s:.1f} s.\n"
    )
    if result is not None:
        text = f"{against(plan, found, result)}\n{text}"
    if given.json:
        document = [asdict(each) for each in found]
        print_json({"setting": where, "took_s": took_s, "workloads": document})
    else:
        print(f"{text}\n{describe_setting(where)}")
    if given.out is not None:
        with atomic_write(given.out) as out:
            out.write(text.encode())
        note(f"wrote {given.out}")
    return 0


def by_type(plan: Plan, coefficients: Sequence[Coefficients]) -> dict[str | None, Predictor]:
    """A predictor for each device type of a plan, and for devices that name none (the first).

    One file serves all types unless it is known to be another's; of several, each type takes the
    one that it was planned with.

    Raises:
        BadInput: a type was planned with none of them.
    """
    types: list[tuple[str | None, str | None]] = [
        (each.name, each.coefficients_hash) for each in plan.device_types
    ]
    by_hash = {each.digest(): each for each in coefficients}
    found: dict[str | None, Predictor] = {}
    for name, wanted in types or [(None, None)]:
        if wanted in by_hash:
            fitted = by_hash[wanted]
        elif wanted is None and len(coefficients) == 1:
            fitted = coefficients[0]
        else:
            raise BadInput(
                f"none of the coefficients is what the type '{name}' was planned with",
                hint="give the files that igprof plan was given",
            )
        found[name] = predictor(fitted)
        found.setdefault(None, found[name])
    return found


def table(plan: Plan, found: Iterable[Outcome], *, only_broken: bool = False) -> str:
    """What each workload's requests met, as markdown."""
    tenants = {each.workload: each for device in plan.devices for each in device.tenants}
    rows = []
    for each in found:
        if only_broken and each.verdict == "kept":
            continue
        tenant = tenants[each.workload]
        rows.append(
            [
                each.workload,
                each.device,
                each.requests,
                f"{each.mean_batch:.2f}",
                f"{each.p50_ms:.2f}",
                f"p{tenant.percentile:g}",
                f"{each.percentile_ms:.2f}",
                f"{each.percentile_low_ms:.2f}-{each.percentile_high_ms:.2f}",
                f"{tenant.slo_ms:g}",
                f"{each.over_pct:.2f}",
                each.verdict,
            ]
        )
    return markdown(COLUMNS, rows)


def summary(found: Sequence[Outcome]) -> str:
    """How many workloads keep their percentile, in a sentence."""
    count = Counter(each.verdict for each in found)
    requests = sum(each.requests for each in found)
    return (
        f"Of {len(found)} workloads {count['kept']} keep their percentile, {count['missed']} miss"
        f" it, {count['open']} are too close to tell at {100 * CONFIDENCE:g}% confidence"
        f" ({requests} requests)."
    )


def against(plan: Plan, found: Iterable[Outcome], result: Result) -> str:
    """Simulated beside measured latencies, as markdown.

    Raises:
        BadInput: the result is of other workloads.
    """
    tenants = {each.workload: each for device in plan.devices for each in device.tenants}
    measured = {each.workload: each for each in result.workloads}
    if set(measured) != set(tenants):
        raise BadInput("the result is not of this plan: its workloads differ")
    return markdown(
        AGAINST, [_beside(tenants[each.workload], each, measured[each.workload]) for each in found]
    )


def _beside(tenant: PlanTenant, simulated: Outcome, real: WorkloadResult) -> list[str | None]:
    latency = real.latency
    executed = "-" if real.executed_batch is None else f"{real.executed_batch:.2f}"
    promised = tenant.predicted.p99_ms if tenant.predicted else None
    return [
        tenant.workload,
        f"{tenant.model} b{tenant.batch_size}, {tenant.share_pct:g}%, {tenant.rate_rps:g}/s",
        f"{simulated.mean_batch:.2f} / {executed}",
        *_ratio(simulated.p50_ms, latency.p50 if latency else None),
        *_ratio(simulated.p99_ms, latency.p99 if latency else None),
        None if promised is None else f"{promised:.1f}",
    ]


def _ratio(simulated_ms: float, real: Quantile | None) -> tuple[str, str | None]:
    if real is None:
        return f"{simulated_ms:.1f} / -", None
    return f"{simulated_ms:.1f} / {real.value_ms:.1f}", f"{simulated_ms / real.value_ms:.2f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("plan", type=Path, metavar="PLAN.json")
    parser.add_argument("coefficients", type=Path, nargs="+", metavar="COEFFICIENTS.json")
    parser.add_argument(
        "--neighbours",
        choices=["busy", "always"],
        default=Conduct.neighbours,
        help="who slows a batch down: those that are busy, or all of them always (the planner's"
        " assumption)",
    )
    parser.add_argument(
        "--loading",
        choices=["serial", "overlapped"],
        default=Conduct.loading,
        help="whether a batch loads its inputs while the one before computes",
    )
    parser.add_argument(
        "--arrival", choices=["constant", "poisson"], help="of all requests; default: as planned"
    )
    parser.add_argument("--seconds", type=float, default=Conduct.window_s, help="of one run")
    parser.add_argument("--warmup", type=float, default=Conduct.warmup_s, help="seconds before it")
    parser.add_argument("--seeds", type=int, default=Conduct.least_seeds, help="runs of a device")
    parser.add_argument(
        "--most-seeds", type=int, default=Conduct.most_seeds, help="while a verdict is open"
    )
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--against", type=Path, metavar="RESULT.json", help="of igprof evaluate")
    parser.add_argument("--only-broken", action="store_true", help="leave out who keeps it")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the tables there too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
