"""``igprof stop``: stop a launched plan."""

from __future__ import annotations

from pathlib import Path

import click

from igniter_prof.cli.common import json_option, note, print_json


@click.command("stop")
@click.argument("plan_file", metavar="[PLAN.json]", required=False, type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Stop everything that is launched.")
@json_option
def command(plan_file: Path | None, everything: bool, as_json: bool) -> None:
    """Stop the servers that igprof launch started for a plan."""
    from igniter_prof.deployment import find_launched, launched_from, stop, stop_all
    from igniter_prof.provisioning import read_plan

    if (plan_file is None) is not everything:
        raise click.UsageError("name a plan, or --all")
    if plan_file is None:
        devices = stop_all()
    else:
        # a file that was planned anew still stops what was launched from it
        found = launched_from(plan_file) or [find_launched(read_plan(plan_file), str(plan_file))]
        for launched in found:
            stop(launched)
        devices = sum(len(launched.devices) for launched in found)
    if as_json:
        print_json({"stopped_devices": devices})
    else:
        note(f"stopped what ran for {devices} device{'' if devices == 1 else 's'}")
