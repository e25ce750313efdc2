"""``igprof import``: read other tools' files into ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from igniter_prof.cli.common import json_option, note, print_json

Importer = Callable[[Sequence[Path], Path], str]
"""From (files to read, file or folder to write) to one line on what was imported."""


def _igniter_plan(sources: Sequence[Path], out: Path) -> str:
    from igniter_prof.errors import BadInput
    from igniter_prof.files import write_json
    from igniter_prof.provisioning.igniter import import_plan

    if len(sources) > 1:
        raise BadInput("igniter-plan reads one file", hint="its format has one device a file")
    plan = import_plan(sources[0])
    write_json(out, plan)
    return f"a plan of {len(plan.devices[0].tenants)} workloads on one device"


FORMATS: dict[str, Importer] = {"igniter-plan": _igniter_plan}
"""Formats by name; their libraries are imported when they are used."""


@click.command("import", short_help="Read other tools' files into ours.")
@click.argument("format")
@click.argument(
    "sources", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The file (or folder) to write.",
)
@json_option
def command(format: str, sources: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Read FILEs of another tool's FORMAT into a file of ours.

    FORMAT is igniter-plan: a plan as iGniter writes it, five lists in JSON for one device. Its
    SLOs, which are half of the user's, are doubled.
    """
    from igniter_prof.errors import BadInput, did_you_mean

    if format not in FORMATS:
        raise BadInput(f"unknown format '{format}'", hint=did_you_mean(format, FORMATS))
    what = FORMATS[format](sources, out)
    if as_json:
        print_json({"format": format, "imported": what, "written": str(out)})
    else:
        note(f"imported {what}: wrote {out}")
