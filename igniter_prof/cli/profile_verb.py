"""``igprof profile``: measure a sweep."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from igniter_prof.cli.common import (
    json_option,
    note,
    print_json,
    print_table,
    tell,
    told_to_terminal,
)
from igniter_prof.cli.options import (
    INTEGERS,
    NUMBERS,
    docker_options,
    local_options,
    remote_options,
    share_option,
)
from igniter_prof.errors import INTERRUPTED, Unstable

if TYPE_CHECKING:
    from igniter_prof.profiling import Outcome, Progress
    from igniter_prof.records import Cell, Sweep


@click.command("profile")
@click.argument(
    "sweep_file", metavar="[SWEEP.yaml]", required=False, type=click.Path(path_type=Path)
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the profile.")
@click.option("--models", help="Comma-separated names.")
@click.option("--batch-sizes", type=INTEGERS, help="Inferences that a request carries.")
@click.option("--shares", type=NUMBERS, help="In percent of the device.")
@click.option("--instances", type=INTEGERS, help="Of a model in its server.")
@click.option("--input-scales", type=NUMBERS, help="Of image sides or text length, 0.1 to 2.0.")
@click.option("--cpu-cores", type=NUMBERS, help="CPU caps, in cores.")
@click.option("--memory-mib", type=NUMBERS, help="Memory caps, in MiB.")
@click.option("--gpu", type=click.Choice(["on", "off", "both"]), help="Give tenants the GPU.")
@click.option(
    "--colocate",
    type=click.Choice(["none", "pairs", "triples"]),
    help="Measure sets of different models together, too.",
)
@click.option("--device", help="cpu, cpu:<cores>, or cuda:<index or UUID>.")
@click.option("--runtime", metavar="NAME", help="local (the default), docker or remote.")
@share_option
@click.option(
    "--monitors",
    metavar="NAME[:ARGUMENT],…",
    help="What watches from outside: client, container, sniffer, nvml, rapl, triton, replay:FILE.",
)
@click.option(
    "--server",
    type=click.Choice(["own", "shared"]),
    help="own: a Triton a tenant; shared: one for all, without shares.",
)
@click.option("--protocol", type=click.Choice(["http", "grpc"]))
@click.option("--load", "load_kind", type=click.Choice(["closed", "constant", "poisson"]))
@click.option("--concurrency", type=int, help="Requests in flight (closed loop).")
@click.option("--rate", "rate_rps", type=float, help="Requests per second (open loops).")
@click.option(
    "--precision",
    "precision_pct",
    type=float,
    help="Half-width of the mean's 95% interval that is good enough, in percent.",
)
@click.option("--min-time", "min_s", type=float, help="Shortest window, in seconds.")
@click.option("--max-time", "max_s", type=float, help="Longest window, in seconds.")
@click.option("--repeats", type=int, help="How often each cell is measured.")
@click.option("--seed", type=int, help="Of the order, arrivals and random inputs.")
@click.option(
    "--cells",
    "cells_file",
    type=click.Path(path_type=Path),
    help="Measure the cells of a CSV file instead of the sweep's own.",
)
@local_options
@docker_options
@remote_options
@click.option(
    "--dry-run", is_flag=True, help="Print the cells and the time expected; measure none."
)
@click.option("--strict", is_flag=True, help="Exit with 5 if a tenant failed or is unstable.")
@json_option
def command(
    sweep_file: Path | None,
    out: Path | None,
    cells_file: Path | None,
    dry_run: bool,
    strict: bool,
    as_json: bool,
    triton: Path | None,
    repository: Path | None,
    address: str | None,
    grpc_address: str | None,
    metrics_address: str | None,
    ca_file: Path | None,
    headers: tuple[tuple[str, str], ...],
    pull: bool,
    **flags: Any,
) -> int:
    """Measure models alone and co-located; the same command again resumes.

    What to measure is said in SWEEP.yaml (docs/profile.md), by flags, or both: flags win.
    """
    from igniter_prof import monitors
    from igniter_prof.config import cells as cells_of
    from igniter_prof.config import load_sweep
    from igniter_prof.config.cells_csv import read_cells
    from igniter_prof.config.sweep import shared_server
    from igniter_prof.profiling import preflight, profile, sources_of
    from igniter_prof.serving import ServeOptions, device_for, exceeds
    from igniter_prof.session import CellContext

    table = None if cells_file is None else read_cells(cells_file)
    if table is not None and sweep_file is None and not flags["models"]:
        flags["models"] = ",".join(dict.fromkeys(t.model for cell in table.cells for t in cell))
    if sweep_file is None and not flags["models"]:
        raise click.UsageError("nothing to measure: give SWEEP.yaml, --models, or --cells")
    sweep = load_sweep(sweep_file, _overrides(flags, address=address, repository=repository))
    options = ServeOptions(
        runtime=sweep.runtime,
        server="shared" if shared_server(sweep) else "own",
        start_timeout_s=sweep.stopping.start_timeout_s,
        triton=triton,
        repository=Path(sweep.repository) if sweep.repository else None,
        address=sweep.address,
        grpc_address=grpc_address,
        metrics_address=metrics_address,
        ca_file=ca_file,
        headers=headers,
        image=sweep.image,
        pull=pull,
        share_mechanism=sweep.share_mechanism,
        http={model.name: model.http for model in sweep.models if model.http is not None},
    )
    device = device_for(sweep.device, options)
    planned = cells_of(sweep, device.id, fits=lambda tenants: not exceeds(tenants, device))
    if cells_file is not None:
        table = read_cells(cells_file, device=device)  # now that it is known what it has
        like = planned[0].model_copy(update={"baseline": False, "repeat": 0})
        planned = [like.model_copy(update={"tenants": tenants}) for tenants in table.cells]
        planned = list(dict.fromkeys(planned))
    skips = preflight(planned, device, options)
    lacking = monitors.check(sweep.monitors, device)
    for spec, reason in lacking.items():
        note(f"note: the monitor {spec} cannot run here: {reason}; going on without it")
    if sweep.runtime == "remote" and flags["shares"]:
        note("note: a remote server takes no shares from us; they are left out")
    if dry_run:
        _print_plan(sweep, planned, skips, as_json)
        return 0
    if out is None:
        raise click.UsageError("where to store it? give --out PROFILE_DIR")
    folder = sweep_file.parent if sweep_file else Path()
    context = CellContext(
        device=device,
        options=options,
        stopping=sweep.stopping,
        sources=sources_of(sweep, folder),
        seed=sweep.seed,
        # one that cannot run stays named, so that each cell says why it is not there
        monitors=sweep.monitors,
    )
    with _Display(len(planned)) as display:
        outcome = profile(
            sweep,
            planned,
            context,
            out,
            skips=skips,
            on_cell=display.begin,
            on_progress=display.end,
            on_interrupt=display.interrupted,
        )
    _print_outcome(outcome, out, as_json)
    if outcome.interrupted:
        note("interrupted; the same command again goes on from here")
        return INTERRUPTED
    if strict and (outcome.failed_tenants or outcome.unstable_tenants):
        raise Unstable(
            f"{outcome.failed_tenants} tenants failed, {outcome.unstable_tenants} are unstable",
            where=str(out),
            hint="igprof report shows which; a longer --max-time may help",
        )
    return 0


def _overrides(
    flags: dict[str, Any], *, address: str | None, repository: Path | None
) -> dict[str, Any]:
    """The fields of Sweep that flags set; a flag that was not given sets nothing."""
    given = {name: value for name, value in flags.items() if value is not None}
    if "models" in given:
        given["models"] = [name.strip() for name in given["models"].split(",") if name.strip()]
    if "monitors" in given:
        given["monitors"] = [name.strip() for name in given["monitors"].split(",") if name.strip()]
    if "gpu" in given:
        given["gpu"] = {"on": [True], "off": [False], "both": [True, False]}[given["gpu"]]
    load = {
        field: given.pop(flag)
        for flag, field in (
            ("load_kind", "kind"),
            ("concurrency", "concurrency"),
            ("rate_rps", "rate_rps"),
        )
        if flag in given
    }
    stopping = {
        name: given.pop(name) for name in ("precision_pct", "min_s", "max_s") if name in given
    }
    if load:
        given["load"] = load
    if stopping:
        given["stopping"] = stopping
    if address is not None:
        given["address"] = address
    if repository is not None:
        given["repository"] = str(repository)
    return given


def _print_plan(sweep: Sweep, cells: list[Cell], skips: dict[str, str], as_json: bool) -> None:
    from igniter_prof.profiling import expected_s
    from igniter_prof.units import format_duration

    low_s, high_s = expected_s(len(cells) - len(skips), sweep.stopping)
    if as_json:
        print_json(
            {
                "cells": [
                    {
                        "cell_id": cell.cell_id,
                        "skipped": skips.get(cell.cell_id),
                        **cell.model_dump(mode="json"),
                    }
                    for cell in cells
                ],
                "count": len(cells),
                "expected_s": [round(low_s), round(high_s)],
            }
        )
        return
    print_table(
        f"{len(cells)} cells, {format_duration(low_s)} to {format_duration(high_s)}",
        ["#", "cell", "tenants", ""],
        [
            [index + 1, cell.cell_id, cell.label, _remark(cell, skips)]
            for index, cell in enumerate(cells)
        ],
    )


def _remark(cell: Cell, skips: dict[str, str]) -> str:
    if cell.cell_id in skips:
        return f"skipped: {skips[cell.cell_id]}"
    return "baseline" if cell.baseline else ""


@dataclasses.dataclass
class _Display:
    """Progress on standard error: a line a cell; on a terminal the cell in flight as well."""

    total: int
    began: float = dataclasses.field(default_factory=time.monotonic)
    measured: int = 0

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._erase()

    def _erase(self) -> None:
        if told_to_terminal():
            tell("\r\033[K")

    def begin(self, done: int, cell: Cell) -> None:
        if told_to_terminal():
            tell(f"[{done + 1}/{self.total}] {cell.label} …")

    def interrupted(self) -> None:
        note("finishing this cell; Ctrl-C again stops at once")

    def end(self, progress: Progress) -> None:
        from igniter_prof.units import format_duration, format_ms

        self._erase()
        tenants = progress.measurement.tenants
        self.measured += tenants[0].status != "skipped"  # that takes no time
        shown = []
        for tenant in tenants:
            if tenant.status != "ok":
                shown.append(f"{tenant.status} ({tenant.detail})")
            elif tenant.latency is not None:
                ci_ms = tenant.latency.mean_ci_ms
                spread = "" if ci_ms is None else f" ±{100 * ci_ms / tenant.latency.mean_ms:.1f}%"
                mark = "" if tenant.stable else " (unstable)"
                if tenant.failed_requests:
                    mark += f" ({tenant.failed_requests} requests failed)"
                shown.append(f"{format_ms(tenant.latency.mean_ms)}{spread}{mark}")
        left = ""
        if self.measured:
            left_s = (time.monotonic() - self.began) / self.measured * progress.left
            left = f"; about {format_duration(left_s)} left"
        note(
            f"[{progress.done}/{progress.total}] {progress.measurement.cell.label}:"
            f" {', '.join(shown)}{left}"
        )


def _print_outcome(outcome: Outcome, out: Path, as_json: bool) -> None:
    from igniter_prof.dataset.checking import drift_pct

    summary = {
        "profile": str(out),
        "cells": outcome.cells,
        "stored": len(outcome.measurements),
        "measured_now": outcome.measured,
        "skipped_cells": outcome.skipped_cells,
        "failed_tenants": outcome.failed_tenants,
        "unstable_tenants": outcome.unstable_tenants,
        "drift_pct": drift_pct(outcome.measurements),
        "interrupted": outcome.interrupted,
    }
    if as_json:
        print_json(summary)
        return
    drift = summary["drift_pct"]
    skipped = f", {outcome.skipped_cells} skipped" if outcome.skipped_cells else ""
    drifted = "" if drift is None else f"; repeats of a solo cell differ by up to {drift:.1f} %"
    click.echo(
        f"{out}: {summary['stored']} of {outcome.cells} cells stored"
        f" ({outcome.measured} now{skipped}),"
        f" {outcome.failed_tenants} failed and {outcome.unstable_tenants} unstable tenants{drifted}"
    )
