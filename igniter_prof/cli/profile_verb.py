"""``igprof profile``: measure a sweep."""

from __future__ import annotations

import contextlib
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
    from igniter_prof.profiling.adaptive import AdaptiveOutcome, RoundProgress
    from igniter_prof.records import Cell, Sweep
    from igniter_prof.session import CellContext


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
@click.option(
    "--adaptive",
    is_flag=True,
    help="Measure only until the other cells are predicted well enough (docs/adaptive.md).",
)
@click.option(
    "--target-error",
    "target_error_pct",
    metavar="PCT",
    type=click.FloatRange(min=0, min_open=True),
    help="Mean error of predictions at which --adaptive stops, in percent (3 by default).",
)
@click.option(
    "--max-cells",
    type=click.IntRange(min=1),
    help="At most so many cells with --adaptive, baselines not counted.",
)
@click.option(
    "--keep-servers",
    is_flag=True,
    help="Order the cells so that servers can go on from one to the next, where they do for both.",
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
    adaptive: bool,
    target_error_pct: float | None,
    max_cells: int | None,
    keep_servers: bool,
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
    from igniter_prof.profiling.adaptive import require_predictable
    from igniter_prof.serving import ServeOptions, device_for, exceeds
    from igniter_prof.session import CellContext, KeptServers, together

    if not adaptive and (target_error_pct is not None or max_cells is not None):
        raise click.UsageError("--target-error and --max-cells are for --adaptive")
    table = None if cells_file is None else read_cells(cells_file)
    if table is not None and sweep_file is None and not flags["models"]:
        flags["models"] = ",".join(dict.fromkeys(t.model for cell in table.cells for t in cell))
    if sweep_file is None and not flags["models"]:
        raise click.UsageError("nothing to measure: give SWEEP.yaml, --models, or --cells")
    sweep = load_sweep(sweep_file, _overrides(flags, address=address, repository=repository))
    if adaptive:
        require_predictable(sweep)
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
        # an adaptive sweep needs the models alone, whatever it chooses from
        alone = [cell for cell in planned if len(cell.tenants) == 1] if adaptive else []
        planned = [like.model_copy(update={"tenants": tenants}) for tenants in table.cells]
        planned = list(dict.fromkeys([*alone, *planned]))
    if keep_servers:
        planned = together(planned, options)
    skips = preflight(planned, device, options)
    lacking = monitors.check(sweep.monitors, device)
    for spec, reason in lacking.items():
        note(f"note: the monitor {spec} cannot run here: {reason}; going on without it")
    if sweep.runtime == "remote" and flags["shares"]:
        note("note: a remote server takes no shares from us; they are left out")
    if dry_run:
        first = _first_cells(sweep, planned, max_cells) if adaptive else None
        _print_plan(sweep, planned, skips, as_json, first, max_cells)
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
        kept=KeptServers() if keep_servers else None,
    )
    with _Display(len(planned)) as display, context.kept or contextlib.nullcontext():
        callbacks: dict[str, Any] = {
            "skips": skips,
            "on_cell": display.begin,
            "on_progress": display.end,
            "on_interrupt": display.interrupted,
        }
        if adaptive:
            target_pct = 3.0 if target_error_pct is None else target_error_pct
            display.total = None
            ended = _adaptively(
                sweep, planned, context, out, target_pct, max_cells, display, callbacks
            )
            outcome = ended.outcome
        else:
            ended, target_pct = None, None
            outcome = profile(sweep, planned, context, out, **callbacks)
    _print_outcome(outcome, out, as_json, ended, target_pct)
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


def _adaptively(
    sweep: Sweep,
    cells: list[Cell],
    context: CellContext,
    out: Path,
    target_pct: float,
    max_cells: int | None,
    display: _Display,
    callbacks: dict[str, Any],
) -> AdaptiveOutcome:
    from igniter_prof.fitting.suggest import Proposer
    from igniter_prof.profiling.adaptive import profile_adaptively

    return profile_adaptively(
        sweep,
        cells,
        context,
        out,
        Proposer(context.device, seed=sweep.seed),
        target_error_pct=target_pct,
        max_cells=max_cells,
        on_round=display.round,
        **callbacks,
    )


def _first_cells(sweep: Sweep, cells: list[Cell], max_cells: int | None) -> set[str]:
    """Ids of the points that an adaptive sweep measures before it chooses."""
    from igniter_prof.profiling.adaptive import start_cells

    return {cell.cell_id for cell in start_cells(cells, sweep.seed)[:max_cells]}


def _print_plan(
    sweep: Sweep,
    cells: list[Cell],
    skips: dict[str, str],
    as_json: bool,
    first: set[str] | None,
    max_cells: int | None,
) -> None:
    """``first``: what an adaptive sweep measures in any case; None: it is none."""
    from igniter_prof.profiling import expected_s
    from igniter_prof.units import format_duration

    able = len(cells) - len(skips)
    low_s, high_s = expected_s(min(able, max_cells or able), sweep.stopping)
    if first is not None:
        low_s, _ = expected_s(len(first - skips.keys()), sweep.stopping)
    if as_json:
        print_json(
            {
                "cells": [
                    {
                        "cell_id": cell.cell_id,
                        "skipped": skips.get(cell.cell_id),
                        **({} if first is None else {"first": cell.cell_id in first}),
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
        f"{len(cells)} cells, {format_duration(low_s)} to {format_duration(high_s)}"
        + (
            "" if first is None else f"; measured are at least {len(first)} and no more than needed"
        ),
        ["#", "cell", "tenants", ""],
        [
            [index + 1, cell.cell_id, cell.label, _remark(cell, skips, first)]
            for index, cell in enumerate(cells)
        ],
    )


def _remark(cell: Cell, skips: dict[str, str], first: set[str] | None) -> str:
    if cell.cell_id in skips:
        return f"skipped: {skips[cell.cell_id]}"
    if cell.baseline:
        return "baseline"
    if first is None:
        return ""
    return "first" if cell.cell_id in first else "if needed"


@dataclasses.dataclass
class _Display:
    """Progress on standard error: a line a cell; on a terminal the cell in flight as well."""

    total: int | None
    """None: not known beforehand"""
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
            of = "" if self.total is None else f"/{self.total}"
            tell(f"[{done + 1}{of}] {cell.label} …")

    def round(self, fitted: RoundProgress) -> None:
        self._erase()
        seen = ""
        if fitted.seen_error_pct is not None:
            seen = f"; error on the {fitted.seen_cells} just measured {fitted.seen_error_pct:.2f}%"
        if fitted.drawn_error_pct is not None:
            seen += f", on the random ones of them {fitted.drawn_error_pct:.2f}%"
        note(
            f"round {fitted.number}: {fitted.measured_cells} cells measured, predicted error of the"
            f" other {fitted.candidates} {fitted.predicted_error_pct:.2f}%{seen}"
        )

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
            f"[{progress.done}/{'~' if progress.foreseen else ''}{progress.total}]"
            f" {progress.measurement.cell.label}:"
            f" {', '.join(shown)}{left}"
        )


def _print_outcome(
    outcome: Outcome,
    out: Path,
    as_json: bool,
    adaptive: AdaptiveOutcome | None,
    target_pct: float | None,
) -> None:
    from igniter_prof.dataset.checking import drift_pct

    summary: dict[str, Any] = {
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
    if adaptive is not None:
        summary["adaptive"] = {
            "reason": adaptive.reason,
            "rounds": adaptive.rounds,
            "measured_cells": adaptive.measured_cells,
            "candidates_left": adaptive.candidates,
            "target_error_pct": target_pct,
            "predicted_error_pct": adaptive.predicted_error_pct,
            "drawn_error_pct": adaptive.drawn_error_pct,
        }
    if as_json:
        print_json(summary)
        return
    if adaptive is not None:
        _say_why(adaptive, target_pct)
    drift = summary["drift_pct"]
    skipped = f", {outcome.skipped_cells} skipped" if outcome.skipped_cells else ""
    drifted = "" if drift is None else f"; repeats of a solo cell differ by up to {drift:.1f} %"
    click.echo(
        f"{out}: {summary['stored']} of {outcome.cells} cells stored"
        f" ({outcome.measured} now{skipped}),"
        f" {outcome.failed_tenants} failed and {outcome.unstable_tenants} unstable tenants{drifted}"
    )


def _say_why(adaptive: AdaptiveOutcome, target_pct: float | None) -> None:
    """Why an adaptive sweep ended, and how well it predicts."""
    why = {
        "target": f"the target of {target_pct:g}% is reached",
        "max_cells": f"the target of {target_pct:g}% is not reached: --max-cells ended it",
        "exhausted": "all candidates are measured",
        "interrupted": "interrupted",
    }[adaptive.reason]
    shown = []
    if adaptive.predicted_error_pct is not None and adaptive.candidates:
        shown.append(
            f"predicted error of the other {adaptive.candidates}"
            f" {adaptive.predicted_error_pct:.2f}%"
        )
    if adaptive.drawn_error_pct is not None:
        shown.append(
            f"error on the random cells, before they were measured, {adaptive.drawn_error_pct:.2f}%"
        )
    note("; ".join([f"{why} after {adaptive.measured_cells} cells", *shown]))
