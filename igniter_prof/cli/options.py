"""Options that several verbs share: how tenants are served, and lists of values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from igniter_prof.records import Device, Plan
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
        name, colon, text = str(value).partition(":")
        if not colon or not name.strip():
            self.fail("a header is written 'Name: value'", param, ctx)
        return name.strip(), text.strip()


def serving_options(function: F) -> F:
    """Add the options of ``ServeOptions`` that do not depend on the runtime's own verbs."""
    for option in reversed(
        [
            click.option(
                "--triton", type=click.Path(path_type=Path), help="A tritonserver to use."
            ),
            click.option(
                "--repository",
                type=click.Path(path_type=Path),
                help="A Triton model repository of your own.",
            ),
            click.option("--address", help="host:port or URL of a running Triton (remote)."),
            click.option("--grpc-address", help="host:port of its gRPC service (remote)."),
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
        ]
    ):
        function = option(function)
    return function


def serve_options(
    *,
    runtime: str,
    server: str = "own",
    start_timeout_s: float = 120.0,
    triton: Path | None,
    repository: Path | None,
    address: str | None,
    grpc_address: str | None,
    ca_file: Path | None,
    headers: tuple[tuple[str, str], ...],
) -> ServeOptions:
    """Build ServeOptions from what ``serving_options`` parsed."""
    from igniter_prof.serving import ServeOptions

    return ServeOptions(
        runtime=runtime,
        server="shared" if server == "shared" else "own",
        start_timeout_s=start_timeout_s,
        triton=triton,
        repository=repository,
        address=address,
        grpc_address=grpc_address,
        ca_file=ca_file,
        headers=headers,
    )


def on_option(function: F) -> F:
    """Add ``--on``: which real devices a plan's devices run on."""
    option = click.option(
        "--on",
        multiple=True,
        metavar="DEVICE",
        help="A real device for the plan's next device; by default the one that it was made for.",
    )
    return option(function)


def devices_for(plan: Plan, on: tuple[str, ...]) -> list[Device]:
    """The real devices of a plan, in its order.

    Raises:
        BadInput: a device does not exist, is named twice, or is of another kind than the plan's.
    """
    from igniter_prof.config.devices import resolve_device
    from igniter_prof.errors import BadInput

    if not on:
        if plan.device_type is None:
            raise BadInput("the plan does not say what it is for", hint="name a device with --on")
        on = (plan.device_type.id,)
    devices = [resolve_device(spec) for spec in on]
    if len({device.id for device in devices}) < len(devices):
        raise BadInput("a device is named twice", where="--on")
    for device in devices:
        if plan.device_type is not None and device.kind != plan.device_type.kind:
            raise BadInput(
                f"the plan was made for a {plan.device_type.kind} device, {device.id} is none",
                where="--on",
            )
    return devices
