"""``igprof dataset``: check, merge and compare profiles, and say how noisy they are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from igniter_prof.cli.common import json_option, note, print_json, print_table
from igniter_prof.units import format_ms

if TYPE_CHECKING:
    from igniter_prof.dataset.comparing import Change, Comparison

PROFILE = click.Path(path_type=Path)


@click.group("dataset", short_help="Check, merge and compare profiles.")
def command() -> None:
    """Check, merge and compare profiles."""


@command.command("check", short_help="Validate every row of a profile.")
@click.argument("profile", metavar="PROFILE_DIR", type=PROFILE)
@json_option
def check(profile: Path, as_json: bool) -> None:
    """Validate every row of a profile: files, ids, windows, statistics, conditions, drift.

    Exit status 2 if there are errors; warnings alone are fine.
    """
    from igniter_prof.dataset.checking import check_profile
    from igniter_prof.dataset.store import ProfileStore
    from igniter_prof.errors import BadInput

    findings = check_profile(profile)
    errors = sum(finding.level == "error" for finding in findings)
    cells = len(ProfileStore.open(profile).done_ids())
    if as_json:
        print_json({"cells": cells, "errors": errors, "findings": [asdict(f) for f in findings]})
    elif findings:
        print_table(
            f"{profile}: {cells} cells",
            ["where", "level", "what"],
            [(finding.where, finding.level, finding.what) for finding in findings],
        )
    else:
        click.echo(f"{profile}: {cells} cells, nothing wrong")
    if errors:
        raise BadInput(
            f"{errors} error{'s' * (errors > 1)} in {cells} cells",
            where=str(profile),
            hint="delete the files named and run the same profile again: it measures them anew",
        )


@command.command("merge", short_help="Join profiles whose conditions agree.")
@click.argument("profiles", metavar="PROFILE_DIR...", type=PROFILE, nargs=-1, required=True)
@click.option("--out", required=True, type=PROFILE, help="Folder of the new profile.")
@json_option
def merge(profiles: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Join profiles of one device, measured under conditions that agree, into a new one.

    A cell measured in several of them is kept each time, as repeats.
    """
    from igniter_prof.dataset.merging import merge_profiles

    merged = merge_profiles(profiles, out)
    if as_json:
        print_json(asdict(merged))
    else:
        note(
            f"wrote {out}: {merged.cells} cells, {merged.renumbered} of them as further repeats;"
            f" {merged.identical} identical ones left out"
        )


@command.command("compare", short_help="What changed, and is it more than noise?")
@click.argument("first", metavar="A", type=PROFILE)
@click.argument("second", metavar="B", type=PROFILE)
@json_option
def compare(first: Path, second: Path, as_json: bool) -> None:
    """Say what changed from profile A to profile B, and whether it is more than noise."""
    from igniter_prof.dataset.comparing import compare_profiles

    comparison = compare_profiles(first, second)
    if as_json:
        print_json(_comparison_json(comparison))
    else:
        _print_comparison(comparison)


@command.command("noise", short_help="How far repeated measurements differ.")
@click.argument("profiles", metavar="PROFILE_DIR...", type=PROFILE, nargs=-1, required=True)
@json_option
def noise(profiles: tuple[Path, ...], as_json: bool) -> None:
    """Say how far repeated measurements of one point differ, within and across profiles."""
    from igniter_prof.dataset.noise import noise_of_profiles

    found = noise_of_profiles(profiles)
    if as_json:
        print_json({"noise": [asdict(each) for each in found]})
        return
    if not found:
        click.echo("nothing was measured more than once")
        return
    print_table(
        "difference of repeats, in percent of their mean",
        ["cells", "latency", "tenants", "mean", "median", "p90", "max"],
        [
            (
                each.group,
                each.statistic,
                each.points,
                *(
                    f"{value:.2f}"
                    for value in (each.mean_pct, each.median_pct, each.p90_pct, each.max_pct)
                ),
            )
            for each in found
        ],
    )


def _comparison_json(comparison: Comparison) -> dict[str, Any]:

    document = asdict(comparison)
    document["conditions"] = {
        name: {"a": a, "b": b} for name, (a, b) in comparison.conditions.items()
    }
    document["changes"] = [
        {
            "point": change.place.point,
            "tenant": change.place.tenant.model_dump(mode="json"),
            "neighbours": [each.model_dump(mode="json") for each in change.place.neighbours],
            "label": change.place.tenant.label,
            **{name: value for name, value in asdict(change).items() if name != "place"},
        }
        for change in comparison.changes
    ]
    return document


def _print_comparison(comparison: Comparison) -> None:
    from igniter_prof.records import labels

    if comparison.conditions:
        print_table(
            "conditions that changed",
            ["condition", "A", "B"],
            [
                (name, ", ".join(map(str, a)) or None, ", ".join(map(str, b)) or None)
                for name, (a, b) in comparison.conditions.items()
            ],
        )
    print_table(
        "mean latency, A to B",
        ["tenant", "beside", "A", "B", "change", "95% interval", "more than noise"],
        [
            (
                change.place.tenant.label,
                labels(change.place.neighbours) or "alone",
                _side(change.mean_a_ms, change.status_a),
                _side(change.mean_b_ms, change.status_b),
                None if change.change_pct is None else f"{change.change_pct:+.1f} %",
                _interval(change),
                {None: None, True: "yes", False: "no"}[change.significant],
            )
            for change in comparison.changes
        ],
    )
    click.echo("\n".join(_conclusions(comparison)))


def _side(mean_ms: float | None, status: str) -> str:
    return status if mean_ms is None else format_ms(mean_ms)


def _interval(change: Change) -> str | None:
    if change.low_pct is None or change.high_pct is None:
        return None
    return f"{change.low_pct:+.1f} to {change.high_pct:+.1f} %"


def _conclusions(comparison: Comparison) -> list[str]:
    """The comparison in a few sentences."""
    lines = []
    if comparison.ratio is None:
        lines.append("No tenant has a latency in both.")
    else:
        interval = (
            ""
            if comparison.ratio_low is None or comparison.ratio_high is None
            else f" (95% interval {comparison.ratio_low:.3f} to {comparison.ratio_high:.3f})"
        )
        changed = sum(change.significant is True for change in comparison.changes)
        lines.append(
            f"Overall B is {comparison.ratio:.3f} times A{interval};"
            f" {changed} of {len(comparison.changes)} tenants changed by more than noise."
        )
    if comparison.between_repeats_pct is None:
        lines.append(
            "Nothing was measured twice, so the noise between runs is not known and 'more than"
            " noise' says too much: measure with --repeats."
        )
    else:
        lines.append(f"Noise between repeats: {comparison.between_repeats_pct:.2g} %.")
    if comparison.only_a or comparison.only_b:
        lines.append(
            f"Not compared: {comparison.only_a} tenants only in A, {comparison.only_b} only in B."
        )
    return lines
