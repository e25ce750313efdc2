"""``igprof report``: one HTML file from profiles, coefficients, plans, results."""

from __future__ import annotations

from pathlib import Path

import click

from igniter_prof.cli.common import json_option, print_json
from igniter_prof.cli.options import keep_inputs


@click.command("report")
@click.argument(
    "inputs", nargs=-1, required=True, metavar="FILE_OR_DIR...", type=click.Path(path_type=Path)
)
@click.option(
    "--out",
    required=True,
    metavar="REPORT.html|PLAN.svg",
    type=click.Path(path_type=Path),
    help="The page; its tables go to REPORT-tables/ beside it, as CSV. If it ends in .svg: the"
    " picture of one plan.",
)
@json_option
def command(inputs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """One HTML file, which opens without a network, from profiles, coefficients, plans, results.

    Each FILE_OR_DIR is a profile folder, or a JSON file that fit, plan or evaluate wrote; what it
    is is told from its content. With an --out that ends in .svg, the picture of the one plan given.
    """
    from igniter_prof.reporting import write_report
    from igniter_prof.reporting.plan_picture import write_picture

    keep_inputs(out, *inputs)
    written = [write_picture(inputs, out)] if is_svg(out) else write_report(inputs, out)
    if as_json:
        print_json({"report": str(written[0]), "tables": [str(path) for path in written[1:]]})
    else:
        click.echo(str(written[0]))


def is_svg(out: Path) -> bool:
    """Whether a picture is asked for, by the ending of the name."""
    return out.suffix.lower() == ".svg"
