"""``igprof plan``: place workloads on as few devices as possible."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from igniter_prof.cli.common import json_option, note, print_json, print_table
from igniter_prof.cli.options import OutFile, keep_inputs

if TYPE_CHECKING:
    from igniter_prof.records import Plan


@click.command("plan", short_help="Place workloads on as few devices as possible.")
@click.argument("coefficients", metavar="COEFFICIENTS.json", type=click.Path(path_type=Path))
@click.argument("workloads", metavar="WORKLOADS", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="PLAN.json", type=OutFile(), help="The plan.")
@click.option(
    "--strategy",
    default="optimal",
    show_default=True,
    metavar="NAME",
    help="optimal, or a baseline: ffd (blind to interference), alone (a device each).",
)
@click.option(
    "--devices",
    "devices_file",
    metavar="DEVICES.yaml",
    type=click.Path(path_type=Path),
    help="The device type: how many there are, and its share step.",
)
@click.option(
    "--latency-rule",
    metavar="NAME",
    help="What 'within its SLO' means: percentile, or half-mean (iGniter's rule). Default: that"
    " of the workloads file.",
)
@click.option(
    "--margin",
    type=click.Choice(["none", "interval"]),
    default="none",
    show_default=True,
    help="interval: SLOs hold at the upper end of the prediction interval too.",
)
@click.option("--share-step", "share_step_pct", type=float, help="In percent.  [default: 5]")
@click.option(
    "--max-tenants", type=int, default=4, show_default=True, help="Most tenants of one device."
)
@click.option("--max-devices", type=int, help="How many devices there are.  [default: no limit]")
@click.option(
    "--extrapolate",
    is_flag=True,
    help="Use shares and batch sizes outside of what was profiled, too. (How many tenants share a"
    " device, and which, --max-tenants alone limits.)",
)
@click.option(
    "--time-limit",
    "time_limit_s",
    type=float,
    default=60.0,
    show_default=True,
    help="Seconds to look for fewer devices.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the solver."
)
@json_option
def command(
    coefficients: Path,
    workloads: Path,
    out: Path,
    strategy: str,
    devices_file: Path | None,
    latency_rule: str | None,
    margin: str,
    share_step_pct: float | None,
    max_tenants: int,
    max_devices: int | None,
    extrapolate: bool,
    time_limit_s: float,
    seed: int,
    as_json: bool,
) -> None:
    """Place WORKLOADS (YAML or CSV) on as few devices as their SLOs allow.

    COEFFICIENTS.json is what igprof fit wrote. docs/planning.md says what is solved, and when the
    answer is proven; docs/workloads.md how workloads are written.
    """
    from igniter_prof.config.device_types import load_device_type
    from igniter_prof.config.workloads import load_workloads, workloads_digest
    from igniter_prof.files import write_json
    from igniter_prof.fitting import load_coefficients, predictor
    from igniter_prof.provisioning import plan

    keep_inputs(out, coefficients, workloads, devices_file)
    asked = load_workloads(workloads)
    device_type = load_device_type(devices_file) if devices_file is not None else None
    if device_type is not None and devices_file is not None:
        if device_type.coefficients is not None:
            coefficients = _same_file(devices_file.parent / device_type.coefficients, coefficients)
        share_step_pct = share_step_pct or device_type.share_step_pct
        max_devices = max_devices or device_type.count
    fitted = load_coefficients(coefficients)
    rule = latency_rule or asked.defaults.latency_rule
    made = plan(
        predictor(fitted),
        asked.merged(),
        coefficients_hash=fitted.digest(),
        workloads_hash=workloads_digest(asked.merged()),
        device_type=fitted.device,
        strategy=strategy,
        latency_rule=f"{rule}+interval" if margin == "interval" else rule,
        share_step_pct=5.0 if share_step_pct is None else share_step_pct,
        max_tenants=max_tenants,
        max_devices=max_devices,
        extrapolate=extrapolate,
        time_limit_s=time_limit_s,
        seed=seed,
    )
    write_json(out, made)
    if as_json:
        print_json(made)
        return
    _print(made)
    for each in made.notes:
        note(f"note: {each}")
    note(f"wrote {out}")


def _same_file(named: Path, given: Path) -> Path:
    from igniter_prof.errors import BadInput

    if named.resolve() != given.resolve():
        raise BadInput(
            f"DEVICES.yaml names {named}, the command line {given}",
            hint="give the same coefficients in both, or leave them out of DEVICES.yaml",
        )
    return given


def _print(plan: Plan) -> None:
    from igniter_prof.units import format_ms

    number = len(plan.devices)
    proof = (
        "no plan has fewer"
        if plan.optimal
        else f"at least {plan.bound_devices:g} are needed"
        if plan.bound_devices is not None
        else "no bound"
    )
    rows = []
    for device in plan.devices:
        for tenant in device.tenants:
            predicted = tenant.predicted
            rows.append(
                (
                    device.name,
                    tenant.workload,
                    tenant.model,
                    tenant.batch_size,
                    f"{tenant.share_pct:g}%",
                    f"{tenant.rate_rps:g}/s",
                    f"p{tenant.percentile:g} {format_ms(tenant.slo_ms)}",
                    format_ms(predicted.slo_percentile_ms if predicted else None),
                    format_ms(predicted.latency_ms if predicted else None),
                    f"{predicted.throughput_rps:.4g}/s" if predicted else None,
                )
            )
    print_table(
        f"{number} device{'' if number == 1 else 's'} ({proof}), strategy {plan.strategy},"
        f" rule {plan.latency_rule}, {plan.solve_s:.1f} s",
        (
            "device",
            "workload",
            "model",
            "batch",
            "share",
            "rate",
            "SLO",
            "predicted",
            "batch mean",
            "throughput",
        ),
        rows,
    )
