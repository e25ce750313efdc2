"""``igprof status``: show what is launched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from igniter_prof.cli.common import json_option, note, print_json, print_table


@click.command("status")
@click.argument("plan_file", metavar="[PLAN.json]", required=False, type=click.Path(path_type=Path))
@json_option
def command(plan_file: Path | None, as_json: bool) -> None:
    """Show the servers of a launched plan, or of all launched plans."""
    from igniter_prof.deployment import all_launched, find_launched, health
    from igniter_prof.provisioning import read_plan

    found = all_launched() if plan_file is None else [find_launched(read_plan(plan_file))]
    rows = [(launched, health(launched)) for launched in found]
    if as_json:
        print_json(
            [
                {
                    "plan": launched.plan_path,
                    "plan_hash": launched.plan_hash,
                    "started_at": launched.started_at,
                    "tenants": [
                        {
                            "device": name,
                            "real_device": real,
                            "model": model,
                            "status": status,
                            "detail": detail,
                        }
                        for name, real, model, status, detail in tenants
                    ],
                }
                for launched, tenants in rows
            ]
        )
    elif not rows:
        note("nothing is launched")
    else:
        print_health(rows)


def print_health(rows: Sequence[tuple[Any, Sequence[tuple[Any, ...]]]]) -> None:
    """Print a table for each launched plan."""
    for launched, tenants in rows:
        print_table(
            f"{launched.plan_path}, since {launched.started_at}",
            ["device", "on", "model", "status", "address or reason"],
            tenants,
        )
