"""Several deployments seen as one, so that all their tenants are loaded and watched together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from igniter_prof.records import Endpoint, Status, Usage
from igniter_prof.serving import Deployment


class Joined:
    """Deployments one after the other, with the tenants numbered through.

    They are of one runtime, and need no headers: a plan's servers are local ones.
    """

    headers: tuple[tuple[str, str], ...] = ()
    ca_file: Path | None = None

    def __init__(self, parts: Sequence[Deployment]) -> None:
        self._parts = parts
        self._places = [(part, index) for part in parts for index in range(len(part.endpoints))]

    @property
    def runtime(self) -> str:
        """That of the first."""
        return self._parts[0].runtime

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Those of all, in order."""
        return tuple(endpoint for part in self._parts for endpoint in part.endpoints)

    def usage(self, index: int) -> Usage | None:
        """As the deployment of that tenant says."""
        part, place = self._places[index]
        return part.usage(place)

    def ending(self, index: int) -> tuple[Status, str] | None:
        """As the deployment of that tenant says."""
        part, place = self._places[index]
        return part.ending(place)

    def log_tail(self, index: int) -> str:
        """As the deployment of that tenant says."""
        part, place = self._places[index]
        return part.log_tail(place)

    def conditions(self) -> dict[str, Any]:
        """Those of the first."""
        return self._parts[0].conditions()
