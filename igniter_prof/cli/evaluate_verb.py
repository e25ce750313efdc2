"""``igprof evaluate``: load a plan and count SLO violations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from igniter_prof.cli.common import json_option, note, print_json, print_table
from igniter_prof.cli.options import (
    OutFile,
    devices_for,
    docker_options,
    keep_inputs,
    local_options,
    on_option,
    runtime_options,
)
from igniter_prof.errors import BrokenPromise


@click.command("evaluate")
@click.argument("plan_file", metavar="PLAN.json", type=click.Path(path_type=Path))
@click.option("--out", type=OutFile(), required=True, help="RESULT.json to write.")
@click.option(
    "--duration",
    "duration_s",
    type=float,
    default=30.0,
    show_default=True,
    help="Length of the counted window, in seconds.",
)
@click.option("--protocol", type=click.Choice(["http", "grpc"]), default="http", show_default=True)
@click.option("--inputs", multiple=True, metavar="MODEL=FILE", help="Real inputs of a model.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of arrivals and random inputs.",
)
@on_option
@runtime_options
@local_options
@docker_options
@json_option
def command(
    plan_file: Path,
    out: Path,
    duration_s: float,
    protocol: str,
    inputs: tuple[str, ...],
    seed: int,
    on: tuple[str, ...],
    as_json: bool,
    runtime: str,
    share_mechanism: str | None,
    triton: Path | None,
    repository: Path | None,
    image: str | None,
    pull: bool,
) -> None:
    """Load a plan at its rates (open loop) and judge each workload against its SLO.

    Uses the servers of igprof launch if the plan is launched, else starts them for the time of the
    evaluation; a plan for more devices than there are is evaluated in turn. Exit status 7 if an
    SLO is violated.
    """
    from igniter_prof.deployment import find_launched, is_launched
    from igniter_prof.evaluation import evaluate
    from igniter_prof.files import write_json
    from igniter_prof.load import InputSource
    from igniter_prof.provisioning import read_plan
    from igniter_prof.serving import ServeOptions

    keep_inputs(out, plan_file)
    if not 0 < duration_s < math.inf:
        raise click.UsageError("--duration must be positive, in seconds")
    plan = read_plan(plan_file)
    sources = {}
    for text in inputs:
        model, equals, file = text.partition("=")
        if equals and model not in {each.model for one in plan.devices for each in one.tenants}:
            raise click.UsageError(f"--inputs: the plan has no model '{model}'")
        if not equals or not Path(file).exists():
            raise click.UsageError(f"--inputs wants MODEL=FILE with an existing file, got '{text}'")
        sources[model] = InputSource(path=Path(file), seed=seed)
    options = ServeOptions(
        runtime=runtime,
        triton=triton,
        repository=repository,
        image=image,
        pull=pull,
        share_mechanism=share_mechanism,
    )
    launched = is_launched(plan)
    if launched:
        devices = [each.device for each in find_launched(plan, str(plan_file)).devices]
    else:
        devices = devices_for(plan, on, options)
    result = evaluate(
        plan,
        devices,
        options,
        launched=launched,
        duration_s=duration_s,
        protocol=protocol,
        sources=sources,
        seed=seed,
        on_device=lambda planned, real: note(f"loading {planned} on {real} for {duration_s:g} s …"),
    )
    write_json(out, result)
    if as_json:
        print_json(result)
    else:
        print_result(result)
        for line in result.notes:
            note(f"note: {line}")
    violated = [each for each in result.workloads if not each.slo_met]
    if violated:
        raise BrokenPromise(
            f"{len(violated)} of {len(result.workloads)} workloads miss their SLO:"
            f" {', '.join(each.workload for each in violated)}",
            where=str(out),
            hint="plan with a margin (igprof plan --confidence 0.9), or see igprof report",
        )


def print_result(result: Any) -> None:
    """Print what was measured beside what was predicted, a row a workload."""
    rows = []
    for each in result.workloads:
        predicted = each.predicted
        latency = each.latency

        def pair(name: str, latency: Any = latency, predicted: Any = predicted) -> str:
            measured = getattr(latency, name, None)
            return (
                f"{_number(getattr(predicted, f'{name}_ms', None))}"
                f" / {_number(measured.value_ms if measured else None)}"
            )

        rows.append(
            [
                each.workload,
                f"{each.device}: {each.model} b{each.batch_size} {each.share_pct:g}%",
                f"{each.rate_rps:g}",
                f"p{each.percentile:g} ≤ {each.slo_ms:g}",
                pair("p50"),
                pair("p95"),
                pair("p99"),
                _number(each.throughput_rps),
                "-" if each.violations_pct is None else f"{each.violations_pct:.2f}",
                "met" if each.slo_met else (each.detail or "VIOLATED"),
            ]
        )
    print_table(
        "predicted / measured latency in ms, from the intended send instant",
        [
            "workload",
            "placed",
            "rate 1/s",
            "SLO ms",
            "p50",
            "p95",
            "p99",
            "throughput 1/s",
            "violations %",
            "verdict",
        ],
        rows,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
