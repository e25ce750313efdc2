"""From the kernel's time stamps (wall clock) to the monotonic clock."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

STEP_NS = 1_000_000
"""Two readings of the offset differ by less than that, unless the wall clock was set."""
TRIES = 5

Times = npt.NDArray[np.int64]


class Offset(NamedTuple):
    """How far the wall clock is ahead of the monotonic one."""

    at_ns: int
    """Of the monotonic clock."""
    offset_ns: int


def read_offset() -> Offset:
    """Read both clocks, as close together as it works out in a few tries."""
    best = None
    for _ in range(TRIES):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = after - before, (before + after) // 2, wall
    assert best is not None
    return Offset(best[1], best[2] - best[1])


class Readings:
    """Readings of the offset over the time of a capture; few are kept."""

    def __init__(self) -> None:
        self.kept = [read_offset()]
        """The first, and of each step of the wall clock the readings before and after it."""
        self._last = self.kept[0]

    def read(self) -> None:
        """Read both clocks once more; call it several times a second."""
        found = read_offset()
        if abs(found.offset_ns - self.kept[-1].offset_ns) > STEP_NS:
            self.kept += [self._last, found]
        self._last = found

    @property
    def stepped(self) -> bool:
        """Whether the wall clock was set meanwhile, so that stamps near that are uncertain."""
        return len(self.kept) > 1

    def to_monotonic(self, wall_ns: Times) -> Times:
        """Times of the monotonic clock for some of the wall clock.

        Both clocks are slewed alike, so their distance changes only where the wall clock is set.
        Where it was set back, the same wall time passed twice: such stamps are taken for the first.

        Args:
            wall_ns: (n,), int64; negative ones (not seen) stay as they are.

        Returns:
            (n,), int64.
        """
        times = wall_ns - self.kept[0].offset_ns
        for before, after in zip(self.kept[1::2], self.kept[2::2], strict=True):
            moved = wall_ns - after.offset_ns
            times = np.where((times > before.at_ns) & (moved > before.at_ns), moved, times)
        return np.where(wall_ns < 0, wall_ns, times)
