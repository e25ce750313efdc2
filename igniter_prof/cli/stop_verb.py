"""``igprof stop``: stop a launched plan."""

from __future__ import annotations

from pathlib import Path

import click

from igniter_prof.cli.common import json_option, note, print_json


@click.command("stop")
@click.argument("plan_file", metavar="PLAN.json", type=click.Path(path_type=Path))
@json_option
def command(plan_file: Path, as_json: bool) -> None:
    """Stop the servers that igprof launch started for a plan."""
    from igniter_prof.deployment import find_launched, stop
    from igniter_prof.provisioning import read_plan

    launched = find_launched(read_plan(plan_file))
    stop(launched)
    if as_json:
        print_json({"stopped": launched.plan_hash})
    else:
        note(f"stopped {plan_file}")
