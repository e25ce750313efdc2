"""Options that several verbs share: how tenants are served, planned, and lists of values."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from igniter_prof.provisioning.problem import DeviceKind
    from igniter_prof.provisioning.rules import Rule
    from igniter_prof.records import Device, Plan, Workload
    from igniter_prof.serving import ServeOptions

F = TypeVar("F", bound=Callable[..., Any])


class Numbers(click.ParamType[tuple[float, ...]]):
    """A comma-separated list of numbers, such as ``1,4,8``."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind
        self.name = "N,N,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Parse the list; fails with the part that is no number."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",") if part.strip()]
        try:
            return tuple(self.kind(part) for part in parts)
        except ValueError:
            self.fail(f"'{value}' is not a comma-separated list of numbers", param, ctx)


INTEGERS = Numbers(int)
NUMBERS = Numbers(float)


class Header(click.ParamType[tuple[str, str]]):
    """A header, ``Name: value``."""

    name = "NAME: VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split a header; the message of a failure does not show the value, a secret."""
        from igniter_prof.serving import parse_header

        return value if isinstance(value, tuple) else parse_header(str(value))


class OutFile(click.Path):
    """A file to write, whose folder must be there before the work begins."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raise BadInput now rather than when an hour of work is to be stored."""
        from igniter_prof.errors import BadInput

        path = Path(str(super().convert(value, param, ctx)))
        folder = path.parent
        if not folder.is_dir():
            raise BadInput("its folder does not exist", where=str(path), hint=f"mkdir -p {folder}")
        if not os.access(folder, os.W_OK):
            raise BadInput("its folder may not be written", where=str(path), hint="choose another")
        return path


def keep_inputs(out: Path, *inputs: Path | None) -> None:
    """Raise BadInput if an output would take the place of an input."""
    from igniter_prof.errors import BadInput

    for path in inputs:
        if path is not None and path.exists() and out.exists() and path.samefile(out):
            raise BadInput(
                "is an input, it would be overwritten", where=str(out), hint="choose another --out"
            )


def _add(function: F, options: list[Callable[[F], F]]) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def local_options(function: F) -> F:
    """Add what says how servers are started here."""
    return _add(
        function,
        [
            click.option(
                "--triton", type=click.Path(path_type=Path), help="A tritonserver to use."
            ),
            click.option(
                "--repository",
                type=click.Path(path_type=Path),
                help="A Triton model repository of your own.",
            ),
        ],
    )


def share_option(function: F) -> F:
    """Add ``--share-mechanism``."""
    option = click.option(
        "--share-mechanism",
        metavar="NAME",
        help="cfs-quota or cpuset on a CPU; mps, mig, green-context-mps, green-context or"
        " time-slicing on a GPU.",
    )
    return option(function)


def runtime_options(function: F) -> F:
    """Add what says how a plan's servers run."""
    runtime = click.option(
        "--runtime",
        type=click.Choice(["local", "docker"]),
        default="local",
        show_default=True,
        help="Processes or containers.",
    )
    return _add(function, [runtime, share_option])


def docker_options(function: F) -> F:
    """Add what says how containers are started."""
    return _add(
        function,
        [
            click.option("--image", help="Container image with Triton (docker)."),
            click.option(
                "--pull", is_flag=True, help="Download images that are not there (docker)."
            ),
        ],
    )


def remote_options(function: F) -> F:
    """Add what says how a server that runs elsewhere is reached."""
    return _add(
        function,
        [
            click.option("--address", help="host:port or URL of a running Triton (remote)."),
            click.option("--grpc-address", help="host:port of its gRPC service (remote)."),
            click.option("--metrics-address", help="host:port of its metrics (remote)."),
            click.option(
                "--ca-file",
                type=click.Path(path_type=Path, exists=True, dir_okay=False),
                help="Certificates to check a TLS server against (remote).",
            ),
            click.option(
                "--header",
                "headers",
                type=Header(),
                multiple=True,
                help="Sent with every request, e.g. 'Authorization: Bearer …'; never stored.",
            ),
        ],
    )


def cells_option(function: F) -> F:
    """Add ``--cells``: the rows to answer."""
    option = click.option(
        "--cells",
        "cells_path",
        type=click.Path(path_type=Path),
        required=True,
        help="CSV, one row a cell: model_1,batch_size_1,share_pct_1,model_2,… (docs/predict.md).",
    )
    return option(function)


def latency_rule_option(function: F) -> F:
    """Add ``--latency-rule``."""
    option = click.option(
        "--latency-rule",
        metavar="NAME",
        help="What 'within its SLO' means: percentile, or half-mean (iGniter's rule). Default: that"
        " of the workloads file.",
    )
    return option(function)


def share_step_option(function: F) -> F:
    """Add ``--share-step``."""
    option = click.option(
        "--share-step", "share_step_pct", type=float, help="In percent.  [default: 5]"
    )
    return option(function)


def time_limit_option(help: str) -> Callable[[F], F]:
    """``--time-limit`` of a search, in seconds."""
    return click.option(
        "--time-limit",
        "time_limit_s",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        show_default=True,
        help=help,
    )


def again_options(function: F) -> F:
    """Add what planning again takes besides the plan and what is changed."""
    return _add(
        function,
        [
            click.option(
                "--coefficients",
                metavar="COEFFICIENTS.json",
                type=click.Path(path_type=Path),
                help="Others than the plan was made from.",
            ),
            click.option(
                "--devices",
                metavar="DEVICES.yaml",
                type=click.Path(path_type=Path),
                help="Other device types than the plan was made with.",
            ),
            click.option(
                "--move-cost",
                type=click.FloatRange(min=0),
                default=0.1,
                show_default=True,
                help="What moving a tenant costs, in the unit of the plan's objective (a device).",
            ),
            time_limit_option("Seconds to look for something better."),
        ],
    )


class Basis(NamedTuple):
    """What a plan is changed by: its rule, devices that may be used, and what was read for it."""

    rule: Rule
    kinds: Sequence[DeviceKind]
    files: tuple[Path, ...]
    notes: Sequence[str]


def basis_of(
    plan: Plan,
    path: Path,
    asked: Sequence[Workload],
    *,
    coefficients: Path | None,
    devices: Path | None,
    lose: tuple[str, ...],
) -> Basis:
    """From the options of ``again_options``; ``path`` is the plan's file, ``asked`` what to place.

    Raises:
        BadInput: a file is missing or wrong, a model or a device is not known.
        Infeasible: no device is left.
    """
    from igniter_prof.provisioning.checker import DEFAULT_RULE
    from igniter_prof.provisioning.inventory import kinds_of
    from igniter_prof.provisioning.rules import rule_of
    from igniter_prof.provisioning.sources import inventory_of_plan

    rule = rule_of(plan.latency_rule or DEFAULT_RULE)
    inventory, notes = inventory_of_plan(
        plan, path, coefficients=coefficients, devices=devices, lost=lose
    )
    kinds, narrowed = kinds_of(inventory, asked, rule, plan.objective)
    return Basis(rule, kinds, inventory.files, [*notes, *narrowed])


def asked_of(
    path: Path, latency_rule: str | None, confidence: float | None = None
) -> tuple[tuple[Workload, ...], Rule]:
    """The workloads of a file, and the rule of the options, else the file's, else the usual.

    Raises:
        BadInput: the file is missing or wrong, or there is no such rule or confidence.
    """
    from igniter_prof.config.workloads import load_workloads
    from igniter_prof.provisioning.rules import asked_rule

    file = load_workloads(path)
    defaults = file.defaults
    rule = asked_rule(latency_rule or defaults.latency_rule, confidence, defaults.confidence)
    return file.merged(), rule


def on_option(function: F) -> F:
    """Add ``--on``: which real devices a plan's devices run on."""
    option = click.option(
        "--on",
        multiple=True,
        metavar="[TYPE=]DEVICE",
        help="A real device for the plan's next device (of that type); by default the one that was"
        " profiled.",
    )
    return option(function)


def devices_for(
    plan: Plan, on: tuple[str, ...], options: ServeOptions | None = None
) -> list[Device]:
    """A real device for each of a plan's, as the runtime sees it; several times where short.

    Raises:
        MissingCapability: no container engine answers.
        BadInput: a device does not exist, is named twice, or is of another kind than the plan's.
    """
    from igniter_prof.deployment import assign, type_of
    from igniter_prof.errors import BadInput
    from igniter_prof.serving import ServeOptions, device_for

    options = options or ServeOptions()
    if on:
        given = [(spec.rpartition("=")[0] or None, spec.rpartition("=")[2]) for spec in on]
        return assign(plan, [(name, device_for(spec, options)) for name, spec in given])
    profiled = [type_of(plan, device) for device in plan.devices]
    if any(each is None or each.device is None for each in profiled):
        raise BadInput("the plan does not say what it is for", hint="name a device with --on")
    ids = [each.device.id for each in profiled if each is not None and each.device is not None]
    found = {spec: device_for(spec, options) for spec in dict.fromkeys(ids)}
    return [found[spec] for spec in ids]
