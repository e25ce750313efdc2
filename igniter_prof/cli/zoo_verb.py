"""``igprof zoo list | build``: the networks that come with igprof, and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from igniter_prof.cli.common import json_option, note, print_json, print_table
from igniter_prof.errors import BadInput

if TYPE_CHECKING:
    from igniter_prof.zoo import Network, Port


@click.group(name="zoo")
def command() -> None:
    """List and build the networks that come with igprof."""


@command.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """What networks there are, and which have weights in the cache."""
    from igniter_prof import zoo

    rows = [_row(network) for network in zoo.networks()]
    if as_json:
        print_json({"networks": rows})
        return
    print_table(
        "networks",
        ["name", "parameters", "GMACs", "input", "output", "weights", "also called"],
        [
            [
                row["name"],
                f"{row['parameters']:,}",
                f"{row['gmacs']:.3g}",
                _ports(row["inputs"]),
                _ports(row["outputs"]),
                row["weights"],
                ", ".join(row["aliases"]) or None,
            ]
            for row in rows
        ],
    )


@command.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "every", is_flag=True, help="Build every network (about 1.3 GB).")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE.onnx",
    help="Real weights, served for this one network from now on.",
)
@click.option("--forget-weights", is_flag=True, help="Go back to the seeded random weights.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also put the networks into this Triton model repository.",
)
@click.option(
    "--torch",
    "torch_precision",
    type=click.Choice(["fp32", "fp16", "both"]),
    help="Put PyTorch models of that precision into --into, in the place of ONNX files.",
)
@json_option
def build(
    names: tuple[str, ...],
    every: bool,
    weights: Path | None,
    forget_weights: bool,
    into: Path | None,
    torch_precision: str | None,
    as_json: bool,
) -> None:
    """Build networks' ONNX files in the cache, with random weights or your own."""
    from igniter_prof import zoo

    if every == bool(names):
        raise BadInput("name the networks to build, or say --all", hint="igprof zoo list")
    if torch_precision is not None:
        _build_torch(names or zoo.TORCH_NETWORKS, torch_precision, weights, into, as_json)
        return
    if weights is not None and (len(names) != 1 or forget_weights):
        raise BadInput("--weights goes with the name of one network, and no other weights option")
    chosen = [zoo.find(name) for name in names] if names else list(zoo.networks())
    done = []
    for network in dict.fromkeys(chosen):
        if forget_weights and zoo.forget(network.name):
            note(f"{network.name}: your weights are forgotten")
        before = zoo.built(network.name)
        if before is None and weights is None:
            note(f"{network.name}: building {network.parameters * 4 / 1e6:.0f} MB of weights ...")
        path = zoo.build(network.name, weights)
        document = {"name": network.name, "file": str(path), "sha256": zoo.file_hash(path)}
        if into is not None:
            document["folder"] = str(zoo.install(network.name, into))
        done.append(document)
        note(f"{network.name}: {'there already' if path == before else 'built'}")
    if as_json:
        print_json({"built": done})
    else:
        for document in done:
            click.echo(document.get("folder") or document["file"])


def _build_torch(
    names: tuple[str, ...], precision: str, weights: Path | None, into: Path | None, as_json: bool
) -> None:
    """Put networks into a repository as PyTorch models."""
    from igniter_prof import zoo

    if into is None or weights is not None:
        raise BadInput("--torch goes with --into, and with no option of weights")
    chosen = [each for each in zoo.PRECISIONS if precision in (each, "both")]
    folders = [
        zoo.install_torch(name, each, into) for name in dict.fromkeys(names) for each in chosen
    ]
    if as_json:
        print_json({"built": [{"name": each.name, "folder": str(each)} for each in folders]})
        return
    for folder in folders:
        click.echo(folder)


def _row(network: Network) -> dict[str, Any]:
    from igniter_prof import zoo

    own = zoo.installed(network.name)
    built = zoo.built(network.name)
    return {
        "name": network.name,
        "aliases": list(network.aliases),
        "summary": network.summary,
        "source": network.source,
        "parameters": network.parameters,
        "gmacs": network.gmacs,
        "inputs": [_port(port) for port in network.inputs],
        "outputs": [_port(port) for port in network.outputs],
        "weights": "own" if own else "random" if built else None,
        "file": None if built is None else str(built),
    }


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": port.dtype,
        "dims": list(port.dims),
        "native_shape": list(port.shape),
        "scaled_axes": list(port.scaled_axes),
    }


def _ports(ports: list[dict[str, Any]]) -> str:
    return ", ".join(f"{port['name']} {_shape(port['native_shape'])}" for port in ports)


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape))
