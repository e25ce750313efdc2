"""``igprof launch``: start a plan's servers and leave them running."""

from __future__ import annotations

from pathlib import Path

import click

from igniter_prof.cli.common import json_option, note, print_json
from igniter_prof.cli.options import (
    devices_for,
    docker_options,
    local_options,
    on_option,
    runtime_options,
)
from igniter_prof.cli.status_verb import print_health


@click.command("launch")
@click.argument("plan_file", metavar="PLAN.json", type=click.Path(path_type=Path))
@on_option
@runtime_options
@local_options
@docker_options
@json_option
def command(
    plan_file: Path,
    on: tuple[str, ...],
    as_json: bool,
    runtime: str,
    share_mechanism: str | None,
    triton: Path | None,
    repository: Path | None,
    image: str | None,
    pull: bool,
) -> None:
    """Start a plan's servers and leave them running until igprof stop."""
    from igniter_prof.deployment import health, launch
    from igniter_prof.provisioning import read_plan
    from igniter_prof.serving import ServeOptions

    plan = read_plan(plan_file)
    options = ServeOptions(
        runtime=runtime,
        triton=triton,
        repository=repository,
        image=image,
        pull=pull,
        share_mechanism=share_mechanism,
    )
    launched = launch(
        plan,
        plan_file,
        devices_for(plan, on, options),
        options,
        on_device=lambda planned, real: note(f"starting {planned} on {real} …"),
    )
    if as_json:
        print_json(launched)
    else:
        print_health([(launched, health(launched))])
