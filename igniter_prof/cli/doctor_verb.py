"""``igprof doctor``: what this machine can do, and the command that adds what is missing."""

from __future__ import annotations

import click

from igniter_prof.cli.common import json_option, print_json
from igniter_prof.errors import MissingCapability


@click.command("doctor")
@click.option(
    "--require",
    type=click.Choice(["local", "docker"]),
    help="Exit with status 3 if this runtime cannot work here.",
)
@json_option
def command(require: str | None, as_json: bool) -> None:
    """Show what this machine can do, and how to add what is missing."""
    from igniter_prof.serving.checks import lacking, run_checks

    checks = run_checks()
    if as_json:
        print_json({"checks": [check.model_dump(mode="json") for check in checks]})
    else:
        for check in checks:
            click.echo(f"{check.name:<10} {check.status:<8} {check.detail}")
            if check.status != "ok" and check.fix:
                click.echo(f"{'':<19} -> {check.fix}")
    missing = lacking(checks, require) if require else []
    if missing:
        raise MissingCapability(
            f"the runtime '{require}' cannot work here: {missing[0].detail}", hint=missing[0].fix
        )
