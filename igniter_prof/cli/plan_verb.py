"""``igprof plan``: place workloads on as few or as cheap devices as possible."""

from __future__ import annotations

from pathlib import Path

import click

from igniter_prof.cli.common import json_option, note, print_json, print_notes
from igniter_prof.cli.options import (
    OutFile,
    asked_of,
    keep_inputs,
    latency_rule_option,
    share_step_option,
    time_limit_option,
)
from igniter_prof.cli.plan_table import print_plan


@click.command("plan", short_help="Place workloads on as few or as cheap devices as possible.")
@click.argument("coefficients", metavar="COEFFICIENTS.json", type=click.Path(path_type=Path))
@click.argument("workloads", metavar="WORKLOADS", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="PLAN.json", type=OutFile(), help="The plan.")
@click.option(
    "--strategy",
    default="optimal",
    show_default=True,
    metavar="NAME",
    help="optimal, or a baseline: igniter, gpulets, gslice, ffd (blind to interference), alone (a"
    " device each).",
)
@click.option(
    "--devices",
    "devices_file",
    metavar="DEVICES.yaml",
    type=click.Path(path_type=Path),
    help="Device types: coefficients, number, price, limits. Types that name no coefficients have"
    " those of the command line.",
)
@latency_rule_option
@click.option(
    "--confidence",
    type=float,
    metavar="C",
    help="SLOs hold at the upper end of an interval of this confidence too, such as 0.9. Default:"
    " that of the workloads file, else at the prediction itself.",
)
@click.option(
    "--objective",
    "objective_text",
    default="devices",
    show_default=True,
    metavar="TEXT",
    help="What to minimise: devices, price, power, or a sum such as price+0.01*power.",
)
@share_step_option
@click.option(
    "--max-tenants", type=click.IntRange(min=1), help="Most tenants of one device.  [default: 4]"
)
@click.option(
    "--max-devices",
    type=click.IntRange(min=1),
    help="How many devices there are.  [default: no limit]",
)
@click.option(
    "--extrapolate",
    is_flag=True,
    help="Use shares and batch sizes outside of what was profiled, too. (How many tenants share a"
    " device, and which, --max-tenants alone limits.)",
)
@time_limit_option("Seconds to look for a cheaper plan and a better bound.")
@click.option(
    "--gap",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Enough is a plan that costs at most so much more than the bound: 0.01 is 1%.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the solver."
)
@json_option
def command(
    coefficients: Path,
    workloads: Path,
    out: Path,
    strategy: str,
    devices_file: Path | None,
    latency_rule: str | None,
    confidence: float | None,
    objective_text: str,
    share_step_pct: float | None,
    max_tenants: int | None,
    max_devices: int | None,
    extrapolate: bool,
    time_limit_s: float,
    gap: float,
    seed: int,
    as_json: bool,
) -> None:
    """Place WORKLOADS (YAML or CSV) on as few devices as their SLOs allow, or as cheap ones.

    COEFFICIENTS.json is what igprof fit wrote. docs/planning.md says what is solved, and when the
    answer is proven; docs/workloads.md and docs/devices.md how workloads and device types are
    written.
    """
    from igniter_prof.config.workloads import workloads_digest
    from igniter_prof.files import write_json
    from igniter_prof.provisioning import plan
    from igniter_prof.provisioning.inventory import kinds_of, load_inventory
    from igniter_prof.provisioning.objectives import parse_objective

    keep_inputs(out, coefficients, workloads, devices_file)
    asked, rule = asked_of(workloads, latency_rule, confidence)
    objective = parse_objective(objective_text)
    inventory = load_inventory(
        coefficients,
        devices_file,
        share_step_pct=share_step_pct,
        max_tenants=max_tenants,
        max_devices=max_devices,
        extrapolate=extrapolate,
    )
    keep_inputs(out, *inventory.files)
    kinds, notes = kinds_of(inventory, asked, rule, objective)
    made = plan(
        kinds,
        asked,
        rule=rule,
        strategy=strategy,
        objective=objective,
        time_limit_s=time_limit_s,
        gap=gap,
        seed=seed,
        workloads_hash=workloads_digest(asked),
        notes=notes,
    )
    write_json(out, made)
    if as_json:
        print_json(made)
        return
    print_plan(made)
    print_notes(made.notes)
    note(f"wrote {out}")
