"""``igprof schema``: print the JSON Schema of a file format."""

from __future__ import annotations

import click

from igniter_prof.cli.common import print_json


@click.command("schema", short_help="Print the JSON Schema of a file format.")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """Print the JSON Schema of the file format NAME; without NAME, the names of all formats."""
    from igniter_prof.schemas import FORMATS, schema

    if name is None:
        click.echo("\n".join(FORMATS))
    else:
        print_json(schema(name))
