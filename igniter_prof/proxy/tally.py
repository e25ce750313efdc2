"""Sums up what went through: counts and latencies by path."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np

from igniter_prof.proxy.rows import Row
from igniter_prof.records import LatencySummary
from igniter_prof.statistics import summarise

PATHS_LIMIT = 200
"""Different paths that are told apart; what comes later is counted together."""
OTHERS = "(other paths)"


@dataclass(frozen=True)
class PathSummary:
    """The requests of one path."""

    path: str
    requests: int
    failed: int
    """Cut off, or answered by the proxy itself; not in the latencies."""
    latency: LatencySummary | None
    """Of whole exchanges, whatever their status; None: there was none."""


@dataclass
class _Path:
    requests: int = 0
    failed: int = 0
    latency_ms: array[float] = field(default_factory=lambda: array("d"))


@dataclass
class Tally:
    """Running sums."""

    requests: int = 0
    failed: int = 0
    total_ms: float = 0.0
    _paths: dict[str, _Path] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Count a request that has ended."""
        known = row.path in self._paths or len(self._paths) < PATHS_LIMIT
        path = self._paths.setdefault(row.path if known else OTHERS, _Path())
        latency_ms = row.latency_ms
        failed = bool(row.error) or latency_ms is None
        self.requests += 1
        path.requests += 1
        if failed or latency_ms is None:
            self.failed += 1
            path.failed += 1
            return
        self.total_ms += latency_ms
        path.latency_ms.append(latency_ms)

    @property
    def mean_ms(self) -> float | None:
        """Mean latency of whole exchanges so far."""
        whole = self.requests - self.failed
        return self.total_ms / whole if whole else None

    def summary(self) -> list[PathSummary]:
        """Each path, the busiest first."""
        found = [
            PathSummary(
                path=name,
                requests=path.requests,
                failed=path.failed,
                latency=summarise(np.array(path.latency_ms)) if path.latency_ms else None,
            )
            for name, path in self._paths.items()
        ]
        return sorted(found, key=lambda each: (-each.requests, each.path))
