"""What can be known to fail before the first cell is started."""

from __future__ import annotations

from collections.abc import Sequence

from igniter_prof import serving, zoo
from igniter_prof.errors import BadInput
from igniter_prof.load import check_http
from igniter_prof.records import Cell, Device
from igniter_prof.serving import ServeOptions
from igniter_prof.serving.remote import parse_address


def preflight(cells: Sequence[Cell], device: Device, options: ServeOptions) -> dict[str, str]:
    """Check that each cell could be served, as far as that is known without starting anything.

    Returns:
        The ids of cells that are more than this host has, each with the reason.

    Raises:
        BadInput: an unknown runtime or model, shares or caps that the device cannot give, a
            protocol without an address, an address that is none, an HTTP server that cannot be
            asked as it is described.
        MissingCapability: shares of a GPU are asked for, and nothing here gives them; requests
            are images, and Pillow is not installed.
    """
    serving.check_runtime(options.runtime)
    for name, server in options.http.items():
        check_http(server, f"model '{name}', http")
        if server.address is not None:
            parse_address(server.address, server.port, where=f"model '{name}', http.address")
    if options.runtime == "remote":
        if options.grpc_address is None and any(cell.protocol == "grpc" for cell in cells):
            raise BadInput(
                "gRPC needs the address of the server's gRPC service",
                where=options.address,
                hint="--grpc-address host:port",
            )
        if options.address is not None:
            parse_address(options.address)  # one with a password is not even to be stored
        return {}
    repository = options.repository
    if repository is not None and not repository.is_dir():
        raise BadInput("no such folder", where=str(repository), hint="check --repository")
    for model in sorted({tenant.model for cell in cells for tenant in cell.tenants}):
        if model in options.http:
            continue
        if repository is None or not (repository / model).is_dir():
            zoo.resolve(model)
    skips = {}
    for cell in cells:
        reason = serving.exceeds(cell.tenants, device)
        if reason is None:
            serving.check_tenants(cell.tenants, device, cell.server, options)
        else:
            skips[cell.cell_id] = reason
    if len(skips) == len(cells):
        raise BadInput(
            f"every cell is more than this host has: {next(iter(skips.values()))}",
            where=device.id,
            hint="smaller cpu_cores, memory_mib or sizes",
        )
    return skips
