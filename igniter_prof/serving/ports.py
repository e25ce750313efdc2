"""Free ports of the loopback interface."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from igniter_prof.errors import MissingCapability

LOOPBACK = "127.0.0.1"


def free_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """Distinct TCP ports that are free now.

    Somebody else may take one before its user binds it: be ready to ask again.

    Raises:
        MissingCapability: no port is free.
    """
    with ExitStack() as stack:
        ports = []
        try:
            for _ in range(count):
                # all are held until all are known, so that they differ
                held = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                held.bind((host, 0))
                ports.append(int(held.getsockname()[1]))
        except OSError as error:
            raise MissingCapability(
                f"no free port: {error.strerror}",
                where=host,
                hint="see who holds them with: ss -tlnp",
            ) from error
        return ports
