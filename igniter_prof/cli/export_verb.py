"""``igprof export``: write our files in other tools' formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from igniter_prof.cli.common import json_option, note, print_json

Exporter = Callable[[Path, Path, Path | None], Sequence[Path]]
"""From (what to export, file or folder to write, file for raw requests) to what was written."""


def _csv(source: Path, out: Path, requests: Path | None) -> Sequence[Path]:
    from igniter_prof.dataset.export import export_profile

    return export_profile(source, out, "csv", requests)


def _parquet(source: Path, out: Path, requests: Path | None) -> Sequence[Path]:
    from igniter_prof.dataset.export import export_profile

    return export_profile(source, out, "parquet", requests)


def _acprof(source: Path, out: Path, requests: Path | None) -> Sequence[Path]:
    from igniter_prof.dataset.acprof import export_acprof

    done = export_acprof(source, out)
    for reason, count in done.left_out.items():
        if count:
            note(f"left out: {count} {reason}")
    return done.written


def _igniter_profile(source: Path, out: Path, requests: Path | None) -> Sequence[Path]:
    from igniter_prof.dataset.igniter import export_igniter

    done = export_igniter(source, out)
    for reason, count in done.left_out.items():
        note(f"left out: {count} {reason}")
    return done.written


def _igniter(source: Path, out: Path, requests: Path | None) -> Sequence[Path]:
    from igniter_prof.provisioning.checker import read_plan
    from igniter_prof.provisioning.igniter import export_plan

    return export_plan(read_plan(source), out)


# what is exported, and the formats that it can be written in
EXPORTERS: dict[str, dict[str, Exporter]] = {
    "profile": {
        "csv": _csv,
        "parquet": _parquet,
        "acprof": _acprof,
        "igniter": _igniter_profile,
    },
    "plan": {"igniter": _igniter},
}


def _formats() -> str:
    return "; ".join(f"{', '.join(formats)} for a {kind}" for kind, formats in EXPORTERS.items())


@click.command("export", short_help="Write our files in other tools' formats.")
@click.argument("source", metavar="FILE_OR_DIR", type=click.Path(path_type=Path))
@click.option("--to", "format", required=True, metavar="FORMAT", help=f"{_formats()}.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The file (or folder) to write."
)
@click.option(
    "--requests",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Of a profile: a second file, with one row a raw request.",
)
@json_option
def command(source: Path, format: str, out: Path, requests: Path | None, as_json: bool) -> None:
    """Write FILE_OR_DIR in another tool's FORMAT; what it is is told from its content.

    A profile becomes a table with one row a tenant of a cell (columns: docs/dataset.md), or with
    'acprof' a folder of files with AC-Prof's columns, one row a request (docs/acprof.md), or with
    'igniter' a folder of iGniter's files, one row a cell (docs/igniter.md).
    """
    from igniter_prof.dataset.identify import identify
    from igniter_prof.errors import BadInput

    kind = identify(source)
    exporters = EXPORTERS.get(kind, {})
    if format not in exporters:
        raise BadInput(
            f"is a {kind}, which cannot be exported to '{format}'"
            if kind != "coefficients"
            else f"holds coefficients, which cannot be exported to '{format}'",
            where=str(source),
            hint=f"possible: {_formats()}",
        )
    if requests is not None and kind != "profile":
        raise BadInput("--requests is for profiles only", where=str(source))
    if requests is not None and format == "acprof":
        raise BadInput("acprof has one row a request already", hint="leave --requests out")
    if requests is not None and kind == "profile" and format == "igniter":
        raise BadInput("igniter has no file for raw requests", hint="leave --requests out")
    written = exporters[format](source, out, requests)
    if as_json:
        print_json({"written": [str(path) for path in written]})
    else:
        for path in written:
            note(f"wrote {path}")
