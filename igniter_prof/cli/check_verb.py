"""``igprof check``: re-derive every promise of a plan."""

from __future__ import annotations

from pathlib import Path

import click

from igniter_prof.cli.common import json_option, note, print_json

_FINDINGS = 20


@click.command("check", short_help="Re-derive every promise of a plan.")
@click.argument("plan", metavar="PLAN.json", type=click.Path(path_type=Path))
@click.argument("coefficients", metavar="COEFFICIENTS.json", type=click.Path(path_type=Path))
@click.option(
    "--devices",
    "devices_file",
    metavar="DEVICES.yaml",
    type=click.Path(path_type=Path),
    help="Where the coefficients of further device types are.",
)
@click.option(
    "--workloads",
    metavar="WORKLOADS",
    type=click.Path(path_type=Path),
    help="Check too that each of these workloads is placed once, as asked.",
)
@click.option(
    "--no-bound",
    is_flag=True,
    help="Take the bound as it is stated: deriving it can take as long as planning did.",
)
@json_option
def command(
    plan: Path,
    coefficients: Path,
    devices_file: Path | None,
    workloads: Path | None,
    no_bound: bool,
    as_json: bool,
) -> None:
    """Re-derive every promise of PLAN.json from COEFFICIENTS.json, without the planner.

    Exits with 7 if one is broken: shares over 100%, a workload placed twice, a predicted number
    that the coefficients do not give, an SLO or a rate that is not kept, a cost that its devices do
    not have, a bound that is not proven.
    """
    from igniter_prof.errors import BrokenPromise
    from igniter_prof.fitting import predictor
    from igniter_prof.provisioning import check_plan, read_plan, read_workloads
    from igniter_prof.provisioning.inventory import coefficients_of

    checked = read_plan(plan)
    found = coefficients_of(checked, coefficients, devices_file)
    asked = read_workloads(workloads) if workloads is not None else None
    derived: dict[str, float] = {}

    def told(what: str, seconds: float) -> None:
        derived[what] = round(seconds, 3)
        note(f"derived: {what} ({seconds:.1f} s)")

    findings = check_plan(
        checked,
        {name: predictor(fitted) for name, fitted in found.items()},
        asked,
        coefficients_hashes={name: fitted.digest() for name, fitted in found.items()},
        bound=not no_bound,
        told=told,
    )
    if no_bound and checked.bound is not None:
        note("not derived: the bound, which is taken as it is stated (--no-bound)")
    if as_json:
        print_json(
            {
                "plan": str(plan),
                "holds": not findings,
                "findings": findings,
                "derived_s": derived,
            }
        )
    elif not findings:
        tenants = sum(len(device.tenants) for device in checked.devices)
        note(f"{plan}: every promise holds ({len(checked.devices)} devices, {tenants} tenants)")
    if findings:
        told_first = findings[:_FINDINGS]
        if len(findings) > len(told_first):
            told_first = [*told_first, f"and {len(findings) - len(told_first)} more (--json: all)"]
        raise BrokenPromise(
            "promises do not hold:\n  - " + "\n  - ".join(told_first),
            where=str(plan),
            hint="plan again with igprof plan",
        )
