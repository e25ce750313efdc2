"""``igprof import``: read other tools' files into ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from igniter_prof.cli.common import json_option, note, print_json

Importer = Callable[[Sequence[Path], Path, dict[str, Any]], tuple[str, dict[str, Any]]]
"""From (files to read, file or folder to write, the format's own options that were given) to one
line on what was imported, and its details for ``--json``; what is refused is told on standard
error."""

_SHOWN = 20


def _igniter_plan(
    sources: Sequence[Path], out: Path, options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    from igniter_prof.errors import BadInput
    from igniter_prof.files import write_json
    from igniter_prof.provisioning.igniter import import_plan

    if len(sources) > 1:
        raise BadInput("igniter-plan reads one file", hint="its format has one device a file")
    plan = import_plan(sources[0])
    write_json(out, plan)
    return f"a plan of {len(plan.devices[0].tenants)} workloads on one device", {}


def _acprof(
    sources: Sequence[Path], out: Path, options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    from igniter_prof.dataset.acprof import import_acprof
    from igniter_prof.dataset.acprof.formats import NET_POWER

    report = import_acprof(sources, out)
    for file, rows in report.files.items():
        note(
            f"{file}: {rows['in']} rows in, {rows['counted']} counted, {rows['warmup']} warm-up,"
            f" {rows['failed']} failed, {rows['refused']} refused"
        )
    for one in report.refused[:_SHOWN]:
        note(f"refused: {one}")
    if len(report.refused) > _SHOWN:
        note(f"refused: and {len(report.refused) - _SHOWN} more: all are in {out}/import.json")
    for name in report.ignored:
        note(f"not read: {name}")
    if report.static_only:
        names = sorted({one.model_name for one in report.static_only})
        note(f"sizes only, nothing measured (kept in import.json): {', '.join(names)}")
    for file, (low, high) in report.raw_power_w.items():
        note(
            f"{file}: power is taken for {NET_POWER}; its digits show that readings of"
            f" {low:g}-{high:g} W were subtracted"
        )
    counted = sum(rows["counted"] + rows["failed"] for rows in report.files.values())
    return f"{counted} rows in {report.cells} cells", report.as_dict()


def _igniter(
    sources: Sequence[Path], out: Path, options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    from igniter_prof.dataset.igniter import Sources, find_sources, import_igniter

    files = {kind: options.pop(kind) for kind in ("config", "solo", "pairs") if kind in options}
    report = import_igniter(find_sources(sources, Sources(**files)), out, **options)
    for name, count in report.cells.items():
        note(f"{name}: {count} cells")
    for column in report.ignored:
        note(f"not read: {column}")
    return (
        f"{sum(report.cells.values())} cells of {', '.join(report.models)}",
        report.as_dict(),
    )


FORMATS: dict[str, Importer] = {
    "igniter-plan": _igniter_plan,
    "acprof": _acprof,
    "igniter": _igniter,
}
"""Formats by name; their libraries are imported when they are used."""
_OPTIONS = {"config": "igniter", "solo": "igniter", "pairs": "igniter", "device_name": "igniter"}
"""Options of one format only, with that format; its files may be named by them alone."""


@click.command("import", short_help="Read other tools' files into ours.")
@click.argument("format")
@click.argument("sources", metavar="[FILE_OR_DIR...]", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Of igniter: its lightweight profile, igniter_config.jsonl.",
)
@click.option(
    "--solo",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Of igniter: models alone, solo.csv.",
)
@click.option(
    "--pairs",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Of igniter: two models at a time, pairs.csv.",
)
@click.option(
    "--device-name",
    metavar="NAME",
    help="Of igniter: the GPU, which its files do not tell (default: not known).",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The file (or folder) to write.",
)
@json_option
def command(format: str, sources: tuple[Path, ...], out: Path, as_json: bool, **given: Any) -> None:
    """Read FILEs of another tool's FORMAT into a file or folder of ours.

    igniter-plan: a plan as iGniter writes it, five lists in JSON for one device. Its SLOs, which
    are half of the user's, are doubled.

    acprof: result and static files of the AC-Prof dataset, or folders of them, into a profile;
    rows that are refused are listed with file, line and reason.

    igniter: iGniter's lightweight profile and measurements (--config, --solo, --pairs, one at
    least, or FILEs, or a folder that holds them) into a profile.
    """
    from igniter_prof.errors import BadInput, did_you_mean

    if format not in FORMATS:
        raise BadInput(f"unknown format '{format}'", hint=did_you_mean(format, FORMATS))
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if _OPTIONS[name] != format:
            raise BadInput(f"--{name.replace('_', '-')} is for {_OPTIONS[name]} only")
    if not sources and not options.keys() - {"device_name"}:
        raise BadInput("no file to import", hint=f"igprof import {format} FILE_OR_DIR... --out OUT")
    what, details = FORMATS[format](sources, out, options)
    if as_json:
        print_json({**details, "format": format, "imported": what, "written": str(out)})
    else:
        note(f"imported {what}: wrote {out}")
