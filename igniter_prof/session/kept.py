"""Servers that stay up from cell to cell where the next has the same tenants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from igniter_prof.records import Cell, Device, Endpoint, Status, Tenant, Usage
from igniter_prof.serving import Deployment, ServeOptions, deploy

if TYPE_CHECKING:
    from typing_extensions import Self


class KeptServers:
    """Deploys tenants, and keeps their servers for the next that need the same. A context."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._running: Deployment | None = None
        self._served: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    @contextlib.contextmanager
    def deployed(
        self, device: Device, tenants: Sequence[Tenant], *, options: ServeOptions
    ) -> Iterator[Deployment]:
        """As ``serving.deploy``, but that the servers go on when the context is left in peace.

        Servers that ran before have endpoints without ``ready_s`` and ``cold_start``.
        """
        wanted = (device, options, servers_of(tenants, options))
        if self._running is not None and wanted == self._served:
            current: Deployment = _Again(self._running, tenants)
        else:
            self.end()
            # entered first: what cannot start leaves nothing to be kept
            self._running = self._stack.enter_context(deploy(device, tenants, options=options))
            self._served = wanted
            current = self._running
        try:
            yield current
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End what runs, so that the next cell has fresh servers."""
        self._running = self._served = None
        self._stack.close()


def servers_of(tenants: Sequence[Tenant], options: ServeOptions) -> tuple[Tenant, ...]:
    """What of some tenants their servers depend on: equal for all that the same servers serve.

    The scale of its inputs is in a tenant's requests only. So is the batch size where the model's
    configuration is the user's own and nothing of it is written by ``zoo.render``.
    """
    return tuple(
        tenant.model_copy(
            update={"input_scale": 1.0, **({"batch_size": 1} if _as_it_is(tenant, options) else {})}
        )
        for tenant in tenants
    )


def together(cells: Sequence[Cell], options: ServeOptions) -> list[Cell]:
    """Cells that the same servers serve one after the other, in the order of each one's first."""
    groups: dict[tuple[Tenant, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(servers_of(cell.tenants, options), []).append(cell)
    return [cell for group in groups.values() for cell in group]


def _as_it_is(tenant: Tenant, options: ServeOptions) -> bool:
    own = options.repository is not None and (options.repository / tenant.model).is_dir()
    return own and tenant.queue_delay_us is None


class _Again:
    """A deployment that runs already, with other requests to it."""

    def __init__(self, running: Deployment, tenants: Sequence[Tenant]) -> None:
        self._running = running
        self.endpoints: tuple[Endpoint, ...] = tuple(
            endpoint.model_copy(update={"tenant": tenant, "ready_s": None, "cold_start": None})
            for endpoint, tenant in zip(running.endpoints, tenants, strict=True)
        )

    @property
    def runtime(self) -> str:
        return self._running.runtime

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        return self._running.headers

    @property
    def ca_file(self) -> Path | None:
        return self._running.ca_file

    def usage(self, index: int) -> Usage | None:
        return self._running.usage(index)

    def ending(self, index: int) -> tuple[Status, str] | None:
        return self._running.ending(index)

    def log_tail(self, index: int) -> str:
        return self._running.log_tail(index)

    def conditions(self) -> dict[str, Any]:
        return self._running.conditions()
