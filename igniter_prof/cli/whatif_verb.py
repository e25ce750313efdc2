"""``igprof whatif``: what a change would do to a plan, from the coefficients alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from igniter_prof.cli.common import json_option, print_json, print_most, print_notes
from igniter_prof.cli.options import again_options, basis_of

if TYPE_CHECKING:
    from igniter_prof.errors import Infeasible
    from igniter_prof.provisioning.replan import Change
    from igniter_prof.provisioning.whatif import Headroom, Standing


@click.command("whatif", short_help="What a change of workloads or devices would do to a plan.")
@click.argument("plan", metavar="PLAN.json", type=click.Path(path_type=Path))
@click.option(
    "--add",
    multiple=True,
    metavar="MODEL:RATE:SLO_MS[:NAME]",
    help="One workload more (repeatable, like all that follow).",
)
@click.option("--remove", multiple=True, metavar="NAME", help="A workload less.")
@click.option("--lose", multiple=True, metavar="DEVICE", help="A device less.")
@click.option(
    "--rate",
    multiple=True,
    metavar="[NAME=]xFACTOR",
    help="Another rate: x1.2 of all, NAME=x1.2 or NAME=500 of one.",
)
@click.option("--slo", multiple=True, metavar="NAME=MS", help="Another SLO; NAME=x0.5 as well.")
@click.option(
    "--workloads",
    metavar="WORKLOADS",
    type=click.Path(path_type=Path),
    help="What the plan was made for: it says who may be left out, and into how many split.",
)
@again_options
@json_option
def command(
    plan: Path,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    lose: tuple[str, ...],
    rate: tuple[str, ...],
    slo: tuple[str, ...],
    workloads: Path | None,
    coefficients: Path | None,
    devices: Path | None,
    move_cost: float,
    time_limit_s: float,
    as_json: bool,
) -> None:
    """Say who would miss its SLO in PLAN.json as it stands, and what planning it again would do.

    Nothing is measured and nothing is written. Without any change: by how much rates can grow with
    nothing changed. Exits with 6 if no plan can do it.
    """
    from igniter_prof.config.workloads import read_workloads
    from igniter_prof.errors import Infeasible
    from igniter_prof.provisioning.assignment_check import type_name
    from igniter_prof.provisioning.checker import read_plan
    from igniter_prof.provisioning.replanner import replanned
    from igniter_prof.provisioning.whatif import (
        Question,
        addition,
        asked,
        changed,
        headroom,
        standing,
        workloads_of,
    )

    old = read_plan(plan)
    question = Question(
        add=tuple(map(addition, add)),
        remove=remove,
        lose=lose,
        rates=tuple(map(changed, rate)),
        slos=tuple(map(changed, slo)),
    )
    base = workloads_of(old) if workloads is None else read_workloads(workloads)
    wanted = asked(base, question)
    basis = basis_of(old, plan, wanted, coefficients=coefficients, devices=devices, lose=lose)
    by_name = {kind.record.name: kind for kind in basis.kinds}
    print_notes(basis.notes)
    stands = standing(old, by_name, wanted, lose)
    room, said, refused = None, None, None
    gone = {type_name(old, device) for device in old.devices} - set(by_name)
    if question.empty and workloads is None and not gone:
        room = headroom(old, by_name)
    else:
        try:
            said = replanned(
                old,
                basis.kinds,
                wanted,
                rule=basis.rule,
                move_cost=move_cost,
                lost=lose,
                time_limit_s=time_limit_s,
            ).change
        except Infeasible as error:
            refused = error
    if as_json:
        print_json(_document(stands, room, said, refused))
    else:
        _print(stands, room, said)
    if refused is not None:
        raise refused


def _document(
    stands: tuple[Standing, ...],
    room: Headroom | None,
    said: Change | None,
    refused: Infeasible | None,
) -> dict[str, Any]:
    return {
        "misses": sum(each.why is not None for each in stands),
        "as_it_stands": [each.model_dump(mode="json") for each in stands],
        "headroom": None if room is None else room.model_dump(mode="json"),
        "replanned": None if said is None else said.model_dump(mode="json"),
        "infeasible": None if refused is None else refused.what,
    }


def _print(stands: tuple[Standing, ...], room: Headroom | None, said: Change | None) -> None:
    from igniter_prof.cli.replan_verb import print_change
    from igniter_prof.units import format_ms

    missing = [each for each in stands if each.why is not None]
    click.echo(f"as the plan stands, {len(missing)} of {len(stands)} tenants would miss")
    print_most(
        "would miss",
        ("workload", "device", "predicted", "limit", "utilisation", "why"),
        [
            (
                each.workload,
                each.device,
                format_ms(each.latency_ms),
                format_ms(each.limit_ms),
                None if each.utilisation is None else f"{each.utilisation:.0%}",
                each.why,
            )
            for each in missing
        ],
    )
    if room is not None:
        _print_headroom(room)
    if said is not None:
        click.echo("planned again: ", nl=False)
        print_change(said)


def _print_headroom(room: Headroom) -> None:
    factors = sorted(room.by_workload.items(), key=lambda each: each[1] or 0.0)
    click.echo(f"with nothing changed, all rates can be {_factor(room.all_rates)} ({room.least})")
    rows = [(name, _factor(factor)) for name, factor in factors]
    print_most("each rate by itself", ("workload", "rate"), rows)


def _factor(factor: float | None) -> str:
    # rounded down: what is shown holds
    return "none" if factor is None else f"x{int(factor * 1000) / 1000:.3f}"
