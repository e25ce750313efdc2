"""The planner beside the baselines: devices, proven bounds, seconds, memory; and what plans keep.

From iGniter's published V100 profile (``--data DIR``: a folder with ``igniter_config.jsonl``,
``igniter_plans.json`` and the mixes of workloads) the coefficients of its own model are made, and
every strategy plans every mix by ``igprof plan`` under iGniter's rule. Then the plans are simulated
under Poisson arrivals (``simulation``), beside plans for the wanted percentile.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import describe_setting, markdown, run, setting, warn_if_busy
from simulate import by_type
from simulation import Conduct, Outcome, rooms, simulate
from timed import KILLED, timed

from igniter_prof.cli.common import note, print_json
from igniter_prof.errors import BadInput, OutsideFailure
from igniter_prof.files import atomic_write, read_record
from igniter_prof.fitting import load_coefficients
from igniter_prof.records import Plan

STRATEGIES = ("optimal", "igniter", "gpulets", "gslice", "ffd", "alone")
PLANNED = ("--share-step", "2.5", "--extrapolate", "--max-tenants", "48")
"""iGniter's share unit, its profile of few shares extrapolated, and the limit of MPS clients."""

MOST_SEEDS = 160
"""Runs of half a minute of a device with a workload that is close to its limit."""

HALF_MEAN, PERCENTILE = "half-mean", "percentile"
BASELINE_LIMIT_S = 150.0


@dataclass(frozen=True)
class Goal:
    """What is to be reached on one file of workloads, and what iGniter's own code does there."""

    devices: int | None = None
    gap: float | None = None
    proven: bool = False
    seconds: float = 60.0
    memory_gib: float | None = None
    igniter: str = "-"

    def __str__(self) -> str:
        wanted = []
        if self.devices is not None:
            wanted.append(f"{self.devices}{', proven' if self.proven else ''}")
        if self.gap is not None:
            wanted.append(f"gap <= {100 * self.gap:g}%")
        wanted.append(f"< {self.seconds:g} s")
        if self.memory_gib is not None:
            wanted.append(f"< {self.memory_gib:g} GiB")
        return ", ".join(wanted)

    def misses(self, made: Made) -> list[str]:
        """What of it a plan does not reach; empty if it reaches all."""
        plan, missed = made.plan, []
        if plan is None:
            return [made.failure or "no plan"]
        if self.devices is not None and plan["devices"] > self.devices:
            missed.append("devices")
        if self.proven and plan["gap"] != 0:
            missed.append("proof")
        if self.gap is not None and (plan["gap"] is None or plan["gap"] > self.gap):
            missed.append("gap")
        if made.wall_s >= self.seconds:
            missed.append("time")
        if self.memory_gib is not None and made.peak_mib >= 1024 * self.memory_gib:
            missed.append("memory")
        if made.check is not None and not made.check.holds:
            missed.append("check")
        return missed


GOALS = {
    "mix-50": Goal(devices=16, proven=True, seconds=30, igniter="17 in 0.02 s"),
    "mix-100": Goal(devices=30, proven=True, seconds=30, igniter="33 in 0.03 s"),
    "mix-200": Goal(devices=60, proven=True, seconds=30, igniter="66 in 0.06 s"),
    "mix-1000": Goal(devices=292, seconds=15, igniter="322 in 1.5 s"),
    "mix-3000": Goal(devices=898, seconds=15, igniter="996 in 13 s"),
    "classes-100000": Goal(gap=0.001, seconds=60),
    "continuous-1000": Goal(gap=0.01, seconds=120, igniter="335 in 1.3 s"),
    "continuous-10000": Goal(gap=0.02, seconds=600, memory_gib=4, igniter="3352 in 140 s"),
}
"""Issue 5. The times of iGniter's own code were taken on another machine of two cores."""

HOPELESS = {
    ("classes-100000", strategy): "it places one workload at a time: hours"
    for strategy in ("igniter", "gpulets", "gslice")
}


@dataclass(frozen=True)
class Check:
    """What ``igprof check`` said of a plan."""

    holds: bool
    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Made:
    """What one ``igprof plan`` came to."""

    workloads: str
    strategy: str
    rule: str
    wall_s: float = 0.0
    peak_mib: float = 0.0
    plan: Mapping[str, Any] | None = None
    """Its number of devices and tenants, bound, gap and solve_s; None: there is no plan."""
    failure: str | None = None
    check: Check | None = None


@dataclass(frozen=True)
class Bench:
    """Where things are, and how long a plan may take."""

    data: Path
    work: Path
    coefficients: Path
    limit_s: float | None

    def workloads(self, name: str) -> Path:
        """The file of a mix."""
        found = sorted(self.data.rglob(f"{name}.csv"))
        if not found:
            raise BadInput(f"holds no {name}.csv", where=str(self.data))
        return found[0]

    def plan_file(self, name: str, strategy: str, rule: str) -> Path:
        """Where its plan is written."""
        return self.work / f"{name}.{strategy}.{rule}.json"


def main() -> int:
    """Run it; returns the exit status: 0 whatever is reached."""
    given = _arguments()
    files = _chosen(given.only, GOALS, "mix of workloads")
    strategies = _chosen(given.strategies, STRATEGIES, "strategy")
    simulated = _chosen(given.simulate, GOALS, "mix of workloads") if given.simulate else []
    warn_if_busy()
    where = setting()
    with tempfile.TemporaryDirectory(prefix="igprof-planner-") as temporary:
        work = given.keep or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(given.data, work, prepare(given.data, work), given.time_limit)
        made = [
            planned(bench, name, strategy, HALF_MEAN, check=strategy == "optimal")
            for name in files
            for strategy in strategies
        ]
        sections = [sizes(made), *agreement(bench, made)]
        for section in sections:
            _show(section, given.json)
        kept = list(promises(bench, made, simulated, strategies, given.processes))
        if kept:
            sections.append(promises_section(kept))
            _show(sections[-1], given.json)
    footer = describe_setting(where)
    if given.json:
        print_json(
            {
                "setting": where,
                "plans": [asdict(each) for each in made],
                "promises": [asdict(each) for each in kept],
            }
        )
    else:
        print(footer)
    if given.out is not None:
        with atomic_write(given.out) as out:
            out.write("\n".join([*sections, footer, ""]).encode())
        note(f"wrote {given.out}")
    return 0


def _show(section: str, as_json: bool) -> None:
    if not as_json:
        print(section, flush=True)


def _chosen(given: str, known: Sequence[str] | Mapping[str, Any], what: str) -> list[str]:
    names = list(known) if given == "all" else given.split(",")
    for name in names:
        if name not in known:
            raise BadInput(f"there is no {what} '{name}'", hint=f"known: {', '.join(known)}")
    return names


# --- planning ---------------------------------------------------------------------------------


def prepare(data: Path, work: Path) -> Path:
    """iGniter's coefficients from its published profile.

    Raises:
        BadInput: the profile is not there.
        OutsideFailure: igprof failed.
    """
    found = sorted(data.rglob("igniter_config.jsonl"))
    if not found:
        raise BadInput("holds no igniter_config.jsonl", where=str(data))
    coefficients = work / "coefficients.json"
    if not coefficients.exists():
        profile = work / "profile"
        for arguments in (
            ("import", "igniter", "--config", found[0], "--out", profile),
            ("fit", profile, "--model", "igniter", "--out", coefficients),
        ):
            status, _, _ = timed(*arguments, out=work / "stdout", limit_s=BASELINE_LIMIT_S)
            if status != 0:
                raise OutsideFailure(f"igprof {arguments[0]} ended with {status}")
    return coefficients


def planned(bench: Bench, name: str, strategy: str, rule: str, *, check: bool = False) -> Made:
    """Plan one mix by one strategy; with ``check``, check it too."""
    made = Made(name, strategy, rule)
    if (name, strategy) in HOPELESS:
        return replace(made, failure=HOPELESS[name, strategy])
    out, workloads = bench.plan_file(name, strategy, rule), bench.workloads(name)
    # what the planner may take leaves room to start and to read and write
    limit_s = bench.limit_s or (
        0.8 * GOALS[name].seconds if strategy == "optimal" else BASELINE_LIMIT_S
    )
    killed_s = 2 * limit_s + 60
    out.unlink(missing_ok=True)
    options: list[str | Path] = [
        "--strategy",
        strategy,
        "--time-limit",
        f"{limit_s:g}",
        "--out",
        out,
        "--json",
    ]
    wanted = GOALS[name].gap
    if strategy == "optimal" and wanted is not None:
        options += ["--gap", f"{wanted:g}"]
    note(f"{name}, {strategy}, {rule} ...")
    printed = bench.work / "stdout"
    asked = ("plan", bench.coefficients, workloads, "--latency-rule", rule, *PLANNED, *options)
    status, wall_s, peak_mib = timed(*asked, out=printed, limit_s=killed_s)
    made = replace(made, wall_s=wall_s, peak_mib=peak_mib)
    if status != 0 or not out.exists():
        over = f"over {killed_s:g} s" if status == KILLED else f"exit status {status}"
        return replace(made, failure=over)
    made = replace(made, plan=figures(read_record(out, Plan)))
    if check:
        arguments = ("check", out, bench.coefficients, "--workloads", workloads)
        status, seconds, peak = timed(*arguments, out=printed, limit_s=killed_s)
        made = replace(made, check=Check(status == 0, seconds, peak))
    return made


def figures(plan: Plan) -> dict[str, Any]:
    """What the table tells of a plan."""
    return {
        "devices": len(plan.devices),
        "tenants": sum(len(device.tenants) for device in plan.devices),
        "bound": plan.bound,
        "proven": plan.certificate.value if plan.certificate is not None else None,
        "gap": plan.gap,
        "solve_s": plan.solve_s,
    }


SIZES = (
    "workloads",
    "strategy",
    "devices",
    "bound",
    "gap",
    "solver s",
    "wall s",
    "peak MiB",
    "check",
    "goal",
    "reached",
)


def sizes(made: Sequence[Made]) -> str:
    """Devices, bounds, seconds and memory of every plan under iGniter's rule, as markdown."""
    rows = []
    for each in made:
        goal = GOALS[each.workloads]
        ours = each.strategy == "optimal"
        told = {"optimal": str(goal), "igniter": f"(own code: {goal.igniter})"}
        missed = ", ".join(goal.misses(each)) if ours else None
        rows.append(
            [
                each.workloads,
                each.strategy,
                *_plan_cells(each),
                _check_cell(each.check),
                told.get(each.strategy),
                None if missed is None else f"no: {missed}" if missed else "yes",
            ]
        )
    return f"### Devices under the rule `{HALF_MEAN}`\n\n{markdown(SIZES, rows)}"


def _plan_cells(made: Made) -> list[str | None]:
    if made.plan is None:
        return [made.failure, *[None] * 5]
    plan = made.plan
    return [
        str(plan["devices"]),
        None if plan["bound"] is None else f"{plan['bound']:g}",
        None if plan["gap"] is None else f"{100 * plan['gap']:.2f}%",
        f"{plan['solve_s']:.2f}",
        f"{made.wall_s:.1f}",
        f"{made.peak_mib:.0f}",
    ]


def _check_cell(check: Check | None) -> str | None:
    if check is None:
        return None
    return f"{'holds' if check.holds else 'broken'}, {check.seconds:.1f} s"


# --- agreement with iGniter's own code --------------------------------------------------------


def agreement(bench: Bench, made: Sequence[Made]) -> Iterator[str]:
    """How many devices of our ``igniter`` are those of its own code, as markdown."""
    found = sorted(bench.data.rglob("igniter_plans.json"))
    if not found:
        return
    published = json.loads(found[0].read_text())
    rows = []
    for each in made:
        if each.strategy != "igniter" or each.plan is None:
            continue
        theirs = published.get(f"{each.workloads}.csv")
        if theirs is not None:
            plan = read_record(bench.plan_file(each.workloads, "igniter", HALF_MEAN), Plan)
            rows.append([each.workloads, *agree(plan, theirs)])
    if rows:
        columns = ("workloads", "devices: ours / theirs", "alike", "alike by name too")
        about = (
            "Alike: the same models with the same rates, SLOs, batch sizes and shares; by name:"
            " the very same workloads."
        )
        yield (
            f"### Strategy `igniter` beside iGniter's own code\n\n{about}\n\n"
            f"{markdown(columns, rows)}"
        )


def agree(plan: Plan, theirs: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Devices of both, and how many are in both: as kinds of tenants, and by workload's name.

    Raises:
        BadInput: the plan lacks a workload that theirs has.
    """
    asked = {
        tenant.workload: (tenant.model, tenant.rate_rps, tenant.slo_ms)
        for device in plan.devices
        for tenant in device.tenants
    }
    ours = [
        [(t.workload, t.batch_size, round(t.share_pct, 6)) for t in device.tenants]
        for device in plan.devices
    ]
    others = [
        [(t["workload"], t["batch_size"], round(t["share_pct"], 6)) for t in device]
        for device in theirs
    ]
    if missing := {name for device in others for name, _, _ in device} - set(asked):
        raise BadInput(f"the plan lacks {', '.join(sorted(missing))}")
    return [
        f"{len(ours)} / {len(others)}",
        *(
            f"{sum((_devices(ours, of) & _devices(others, of)).values())} of {len(others)}"
            for of in (asked.__getitem__, str)
        ),
    ]


def _devices(
    devices: Sequence[Sequence[tuple[str, int, float]]], of: Callable[[str], Any]
) -> Counter[tuple[Any, ...]]:
    return Counter(
        tuple(sorted((of(name), batch, share) for name, batch, share in device))
        for device in devices
    )


# --- what plans keep --------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """How the workloads of one plan fared in the simulation."""

    workloads: str
    rule: str
    strategy: str
    devices: int
    tenants: int
    missed: int
    open: int
    worst_pct: float
    """Requests over the SLO, of the workload that misses it most."""
    missed_always: int
    """With neighbours that are always busy."""
    missed_overlapped: int
    """With loading that overlaps with the batch before."""
    missed_constant: int
    """With constant arrivals in place of Poisson ones."""


def promises(
    bench: Bench,
    made: Sequence[Made],
    names: Sequence[str],
    strategies: Sequence[str],
    processes: int,
) -> Iterator[Kept]:
    """Simulate the plans of some mixes under both rules."""
    there = {(each.workloads, each.strategy, each.rule): each for each in made}
    for name in names:
        for rule in (HALF_MEAN, PERCENTILE):
            for strategy in strategies:
                known = there.get((name, strategy, rule))
                done = known if known is not None else planned(bench, name, strategy, rule)
                if done.plan is None:
                    note(f"{name}, {strategy}, {rule}: {done.failure}")
                    continue
                plan = read_record(bench.plan_file(name, strategy, rule), Plan)
                note(f"simulating {name}, {strategy}, {rule} ...")
                yield kept(plan, bench.coefficients, name, rule, strategy, processes)


def kept(
    plan: Plan, coefficients: Path, name: str, rule: str, strategy: str, processes: int
) -> Kept:
    """Simulate one plan under Poisson arrivals, and with each of three assumptions changed."""
    predictors = by_type(plan, [load_coefficients(coefficients)])
    # what is wanted is an answer for every workload: near its limit that takes long
    conducts = (
        Conduct(most_seeds=MOST_SEEDS),
        Conduct(neighbours="always"),
        Conduct(loading="overlapped"),
    )
    devices = rooms(plan, predictors, arrival="poisson")
    usual, always, overlapped = (
        simulate(devices, conduct, processes=processes) for conduct in conducts
    )
    constant = simulate(rooms(plan, predictors, arrival="constant"), Conduct(), processes=processes)
    return Kept(
        workloads=name,
        rule=rule,
        strategy=strategy,
        devices=len(plan.devices),
        tenants=len(usual),
        missed=_count(usual, "missed"),
        open=_count(usual, "open"),
        worst_pct=max(each.over_pct for each in usual),
        missed_always=_count(always, "missed"),
        missed_overlapped=_count(overlapped, "missed"),
        missed_constant=_count(constant, "missed"),
    )


def _count(found: Sequence[Outcome], verdict: str) -> int:
    return sum(each.verdict == verdict for each in found)


PROMISES = (
    "workloads",
    "rule",
    "strategy",
    "devices",
    "miss their p99",
    "too close to tell",
    "worst: over its SLO",
    "miss, neighbours always busy",
    "miss, loading overlapped",
    "miss, constant arrivals",
)


def promises_section(found: Sequence[Kept]) -> str:
    """Who misses the wanted percentile under Poisson arrivals, as markdown."""
    rows = [
        [
            each.workloads,
            each.rule,
            each.strategy,
            each.devices,
            f"{each.missed} of {each.tenants}",
            each.open,
            f"{each.worst_pct:.2f}%",
            each.missed_always,
            each.missed_overlapped,
            each.missed_constant,
        ]
        for each in found
    ]
    return f"### Plans under simulated Poisson arrivals\n\n{markdown(PROMISES, rows)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--only", default="all", help="mixes of workloads, such as mix-50,mix-200")
    parser.add_argument("--strategies", default="all", help="such as optimal,igniter")
    parser.add_argument(
        "--simulate", default="mix-50,mix-200", help="mixes whose plans are simulated; '': none"
    )
    parser.add_argument(
        "--time-limit", type=float, help="of any plan, in seconds; default: 80%% of the goal's"
    )
    parser.add_argument("--processes", type=int, default=2, help="of the simulation")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder to keep the plans in")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the tables there too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
