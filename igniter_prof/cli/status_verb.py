"""``igprof status``: show what is launched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from igniter_prof.cli.common import json_option, note, print_json, print_table

if TYPE_CHECKING:
    from igniter_prof.deployment import Health, Launched


@click.command("status")
@click.argument("plan_file", metavar="[PLAN.json]", required=False, type=click.Path(path_type=Path))
@json_option
def command(plan_file: Path | None, as_json: bool) -> None:
    """Show the servers of a launched plan, or of all launched plans."""
    from igniter_prof.deployment import all_launched, damaged, find_launched, health, unplanned
    from igniter_prof.provisioning import read_plan
    from igniter_prof.records import labels

    orphans = []
    if plan_file is None:
        found = all_launched()
        orphans = unplanned()
        for path in damaged():
            note(f"{path}: is damaged and left out\n  igprof stop --all stops its servers")
    else:
        found = [find_launched(read_plan(plan_file), str(plan_file))]
    rows = [(launched, health(launched)) for launched in found]
    if as_json:
        print_json(
            [
                {
                    "plan": launched.plan_path,
                    "plan_hash": launched.plan_hash,
                    "started_at": launched.started_at,
                    "tenants": [tenant.model_dump(mode="json") for tenant in tenants],
                }
                for launched, tenants in rows
            ]
        )
    elif not rows and not orphans:
        note("nothing is launched")
    else:
        print_health(rows)
    if orphans:
        tenants = labels(e.tenant for state in orphans for e in state.endpoints)
        note(f"servers run that no plan knows of: {tenants}\n  igprof stop --all stops them")


def print_health(rows: Sequence[tuple[Launched, Sequence[Health]]]) -> None:
    """Print a table for each launched plan."""
    for launched, tenants in rows:
        print_table(
            f"{launched.plan_path}, since {launched.started_at}",
            ["workload", "model", "device", "on", "status", "address or reason"],
            [
                [
                    tenant.workload,
                    tenant.model,
                    tenant.device,
                    tenant.real_device,
                    tenant.status,
                    tenant.detail or tenant.address,
                ]
                for tenant in tenants
            ],
        )
