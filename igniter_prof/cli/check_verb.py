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
    "--workloads",
    metavar="WORKLOADS",
    type=click.Path(path_type=Path),
    help="Check too that each of these workloads is placed once, as asked.",
)
@json_option
def command(plan: Path, coefficients: Path, workloads: Path | None, as_json: bool) -> None:
    """Re-derive every promise of PLAN.json from COEFFICIENTS.json, without the planner.

    Exits with 7 if one is broken: shares over 100%, a workload placed twice, a predicted number
    that the coefficients do not give, an SLO or a rate that is not kept, a bound above the plan.
    """
    from igniter_prof.errors import BrokenPromise
    from igniter_prof.fitting import load_coefficients, predictor
    from igniter_prof.provisioning import check_plan, read_plan, read_workloads

    checked = read_plan(plan)
    fitted = load_coefficients(coefficients)
    asked = read_workloads(workloads) if workloads is not None else None
    findings = check_plan(checked, predictor(fitted), asked, coefficients_hash=fitted.digest())
    if as_json:
        print_json({"plan": str(plan), "holds": not findings, "findings": findings})
    elif not findings:
        tenants = sum(len(device.tenants) for device in checked.devices)
        note(f"{plan}: every promise holds ({len(checked.devices)} devices, {tenants} workloads)")
    if findings:
        told = findings[:_FINDINGS]
        if len(findings) > len(told):
            told = [*told, f"and {len(findings) - len(told)} more (--json has all)"]
        raise BrokenPromise(
            "promises do not hold:\n  - " + "\n  - ".join(told),
            where=str(plan),
            hint="plan again with igprof plan",
        )
