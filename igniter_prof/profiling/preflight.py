"""What can be known to fail before the first cell is started."""

from __future__ import annotations

from collections.abc import Sequence

from igniter_prof import serving, zoo
from igniter_prof.errors import BadInput
from igniter_prof.records import Cell, Device
from igniter_prof.serving import ServeOptions


def preflight(cells: Sequence[Cell], device: Device, options: ServeOptions) -> None:
    """Check that each cell could be served, as far as that is known without starting anything.

    Raises:
        BadInput: an unknown runtime or model, shares or caps that the device cannot give, a
            protocol without an address.
    """
    serving.check_runtime(options.runtime)
    if options.runtime == "remote":
        if options.grpc_address is None and any(cell.protocol == "grpc" for cell in cells):
            raise BadInput(
                "gRPC needs the address of the server's gRPC service",
                where=options.address,
                hint="--grpc-address host:port",
            )
        return
    repository = options.repository
    if repository is not None and not repository.is_dir():
        raise BadInput("no such folder", where=str(repository), hint="check --repository")
    for model in sorted({tenant.model for cell in cells for tenant in cell.tenants}):
        if repository is None or not (repository / model).is_dir():
            zoo.resolve(model)
    for cell in cells:
        serving.check_tenants(cell.tenants, device, cell.server)
