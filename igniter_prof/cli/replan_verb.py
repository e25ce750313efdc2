"""``igprof replan``: a plan for changed workloads that moves as little as possible."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from igniter_prof.cli.common import json_option, note, print_json, print_most, print_notes
from igniter_prof.cli.options import OutFile, again_options, basis_of, keep_inputs

if TYPE_CHECKING:
    from igniter_prof.provisioning.replan import Change


@click.command("replan", short_help="Change a plan for other workloads, moving few of them.")
@click.argument("plan", metavar="PLAN.json", type=click.Path(path_type=Path))
@click.argument("workloads", metavar="WORKLOADS", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="NEW.json", type=OutFile(), help="The new plan.")
@click.option(
    "--lose",
    multiple=True,
    metavar="DEVICE",
    help="A device of the plan that is no longer there (repeatable).",
)
@again_options
@json_option
def command(
    plan: Path,
    workloads: Path,
    out: Path,
    coefficients: Path | None,
    devices: Path | None,
    move_cost: float,
    lose: tuple[str, ...],
    time_limit_s: float,
    as_json: bool,
) -> None:
    """Make a plan for WORKLOADS from PLAN.json that moves few tenants, weighed against its cost.

    The latency rule, the objective and the device types are the plan's. docs/replan.md says what
    counts as a move, and how much the new plan may cost more than the cheapest.
    """
    from igniter_prof.config.workloads import read_workloads, workloads_digest
    from igniter_prof.files import write_json
    from igniter_prof.provisioning.checker import read_plan
    from igniter_prof.provisioning.replanner import replanned

    keep_inputs(out, workloads, coefficients, devices)
    old, asked = read_plan(plan), read_workloads(workloads)
    basis = basis_of(old, plan, asked, coefficients=coefficients, devices=devices, lose=lose)
    keep_inputs(out, *basis.files)
    outcome = replanned(
        old,
        basis.kinds,
        asked,
        rule=basis.rule,
        move_cost=move_cost,
        lost=lose,
        time_limit_s=time_limit_s,
    )
    made = outcome.plan(workloads_hash=workloads_digest(asked), notes=basis.notes)
    write_json(out, made)
    if as_json:
        print_json({"written": str(out), **outcome.change.model_dump(mode="json")})
        return
    print_change(outcome.change)
    print_notes(made.notes)
    note(f"wrote {out}")


def print_change(said: Change) -> None:
    """What a new plan changes: a line, and a table with the most telling first."""
    click.echo(headline(said))
    rows: list[tuple[object, ...]] = []
    rows += [("moved", each.workload, each.before, each.after, None) for each in said.moved]
    rows += [("added", each.workload, None, each.device, None) for each in said.added]
    rows += [("removed", name, None, None, None) for name in said.removed]
    rows += [("left out", name, None, None, None) for name in said.left_out]
    for each in said.changed:
        settings = (
            f"b{each.batch_size_before} {each.share_pct_before:g}%"
            f" -> b{each.batch_size} {each.share_pct:g}%"
        )
        rows.append(("in place", each.workload, each.device, each.device, settings))
    print_most("changes", ("", "workload", "from", "to", "batch and share"), rows)


def headline(said: Change) -> str:
    """What it comes to, in a line."""
    before = "" if said.cost_before is None else f"{said.cost_before:g} -> "
    bound = "no bound" if said.bound is None else f"none costs under {said.bound:g}"
    return (
        f"devices {said.devices_before} -> {said.devices_after}, cost {before}"
        f"{said.cost_after:g} ({bound}): {len(said.moved)} moved, {len(said.changed)} changed in"
        f" place, {len(said.added)} added, {len(said.removed)} removed"
    )
