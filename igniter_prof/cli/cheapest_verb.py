"""``igprof cheapest``: the cheapest type of device for each workload, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from igniter_prof.cli.common import json_option, print_json, print_notes, print_table
from igniter_prof.cli.options import (
    asked_of,
    latency_rule_option,
    share_step_option,
    time_limit_option,
)

if TYPE_CHECKING:
    from igniter_prof.provisioning.alone import Alone, OneType


@click.command("cheapest", short_help="The cheapest type of device for each workload, and why.")
@click.argument("workloads", metavar="WORKLOADS", type=click.Path(path_type=Path))
@click.argument(
    "coefficients",
    metavar="[COEFFICIENTS.json]",
    required=False,
    type=click.Path(path_type=Path),
)
@click.option(
    "--devices",
    metavar="DEVICES.yaml",
    type=click.Path(path_type=Path),
    help="The device types, with their coefficients and prices.",
)
@latency_rule_option
@share_step_option
@click.option(
    "--totals", is_flag=True, help="What all workloads cost on one type only, and on all types."
)
@time_limit_option("Seconds for each plan of --totals.")
@json_option
def command(
    workloads: Path,
    coefficients: Path | None,
    devices: Path | None,
    latency_rule: str | None,
    share_step_pct: float | None,
    totals: bool,
    time_limit_s: float,
    as_json: bool,
) -> None:
    """Say what each of WORKLOADS needs alone on each device type, and where it is cheapest.

    docs/cheapest.md says how the price of a share is counted, and what iGniter chooses.
    """
    from igniter_prof.provisioning.alone import alone, one_type_for_all, priced
    from igniter_prof.provisioning.inventory import kinds_of
    from igniter_prof.provisioning.sources import inventory_of_files

    asked, rule = asked_of(workloads, latency_rule)
    inventory = inventory_of_files(devices, coefficients, share_step_pct=share_step_pct)
    kinds, notes = kinds_of(inventory, asked, rule)
    print_notes(notes)
    found = alone(kinds, asked, rule)
    together = None
    if totals:
        from igniter_prof.provisioning.planner import plan

        together = one_type_for_all(
            kinds,
            lambda some: plan(
                some, asked, rule=rule, objective=priced(kinds), time_limit_s=time_limit_s
            ),
        )
    has_prices = all(kind.record.price_per_hour is not None for kind in kinds)
    if as_json:
        print_json(
            {
                "unit": "price per hour" if has_prices else "devices",
                "workloads": [each.model_dump(mode="json") for each in found],
                "totals": None
                if together is None
                else [each.model_dump(mode="json") for each in together],
            }
        )
        return
    _print(found, "price/h" if has_prices else "devices")
    if together is not None:
        _print_totals(together, "cost/h" if has_prices else "cost")


def _print(found: tuple[Alone, ...], unit: str) -> None:
    from igniter_prof.provisioning.alone import shown

    rows: list[tuple[object, ...]] = []
    for each in found:
        named = each.workload if each.alike == 1 else f"{each.workload} and {each.alike - 1} alike"
        for on in each.on:
            rows.append(
                (
                    named,
                    on.device_type,
                    None if on.replicas in (None, 1) else on.replicas,
                    on.batch_size,
                    None if on.share_pct is None else f"{on.share_pct:g}%",
                    shown(on) if on.holds else None,
                    None if on.share_price is None else f"{on.share_price:.3g}",
                    None if on.device_price is None else f"{on.device_price:.3g}",
                    on.why,
                )
            )
            named = ""
    print_table(
        f"alone: the least share, and what it costs ({unit})",
        ("workload", "type", "split", "batch", "share", "latency", "share's", "whole", "why"),
        rows,
    )


def _print_totals(together: tuple[OneType, ...], unit: str) -> None:
    print_table(
        "all together",
        ("types", "devices", unit, "bound", "why not"),
        [
            (
                each.device_type or "all",
                each.devices,
                None if each.cost is None else f"{each.cost:.4g}",
                None if each.bound is None else f"{each.bound:.4g}",
                each.why,
            )
            for each in together
        ],
    )
