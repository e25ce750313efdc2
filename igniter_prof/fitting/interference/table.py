"""Latencies of many cells at once by ``igprof``: the equations of ``single``, as matrices.

What every setting costs every other one is a matrix, made once; a latency then adds up one entry a
neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from igniter_prof.fitting.interference.single import SingleCells, log_neighbours
from igniter_prof.fitting.model import Fitted
from igniter_prof.fitting.points import FloatArray, IntArray, Points
from igniter_prof.fitting.quick import Configuration
from igniter_prof.fitting.tables import NOBODY

_CHUNK = 16_384
"""Latencies at a time: what is in between stays in the processor's cache."""

_GROWTH = 1.5

_SingleArray = npt.NDArray[np.float32]


class InterferenceTable:
    """See ``LatencyTable``.

    A neighbour is what it adds to the power, and a row of h by tenant. Those that ``lightest``
    makes may be many: their rows are of single precision, rounded down, which keeps them light.

    Args:
        fitted: the model.
        cells: of the same model.
        settings: whose table it is.
    """

    def __init__(
        self, fitted: Fitted, cells: SingleCells, settings: Sequence[Configuration]
    ) -> None:
        n = len(settings)
        self._points = x = Points(
            model=np.array([each.model for each in settings], dtype=np.int64),
            batch=np.array([float(each.batch) for each in settings]),
            share=np.array([each.share for each in settings]),
            scale=np.array([each.scale for each in settings]),
            instances=np.array([float(each.instances) for each in settings]),
            cell=np.arange(n),
            tenants=np.full(n, 2.0),
        )
        self._fitted = fitted
        self._power = cells.power
        self._rows = rows = cells.rows(x)
        # by neighbour, then tenant: the members of a lightest neighbour are compared row by row
        self._h = np.ascontiguousarray(cells.between(x.model, rows).T)
        self._low_h = _rounded_down(self._h)
        self._rise_w = rows.rise_w
        self._count = n
        self.alone_ms = rows.level_ms

    def overlapped_ms(self, latency_ms: FloatArray) -> FloatArray:
        """See ``LatencyTable``."""
        return self._fitted.overlapped_ms(self._points, latency_ms)

    def lightest(self, members: IntArray) -> IntArray:
        """See ``LatencyTable``: the least power, and for each tenant the least h."""
        there = members >= 0
        wanted = np.flatnonzero(there.any(axis=1))
        found = np.full(len(members), NOBODY)
        found[wanted] = self._count + np.arange(len(wanted))
        self._make_room(len(wanted))
        for number, row in zip(found[wanted], wanted, strict=True):
            known = members[row, there[row]]
            np.min(self._low_h[known], axis=0, out=self._low_h[number])
            self._rise_w[number] = self._rise_w[known].min()
        self._count += len(wanted)
        return found

    def prepare(self, cells: IntArray) -> IntArray:
        """See ``LatencyTable``: the cells by place, (k, m)."""
        return np.ascontiguousarray(cells.T)

    def latency_ms(
        self, prepared: IntArray, row: IntArray, place: IntArray, own: IntArray
    ) -> FloatArray:
        """See ``LatencyTable``."""
        found = np.empty(len(row))
        for start in range(0, len(row), _CHUNK):
            part = slice(start, start + _CHUNK)
            found[part] = self._latency_ms(prepared, row[part], place[part], own[part])
        return found

    def _latency_ms(
        self, prepared: IntArray, row: IntArray, place: IntArray, own: IntArray
    ) -> FloatArray:
        """``latency_ms`` of a chunk, (r,)."""
        beside = prepared[:, row]
        beside[place, np.arange(len(row))] = NOBODY
        there = beside >= 0
        total, most = log_neighbours(self._rows.slope[own], there.sum(axis=0))
        if self._power is not None:
            others_w = np.where(there, self._rise_w[beside], 0.0).sum(axis=0)
            demand_w = self._power.idle_w + self._rows.rise_w[own] + others_w
            clock = self._power.clock_ratio(demand_w)
            total += np.maximum(np.log(self._rows.alone_clock[own] / clock), 0.0)
        for other, present in zip(beside, there, strict=True):
            total += np.where(present, np.maximum(self._of(own, other), -most), 0.0)
        return np.asarray(self.alone_ms[own] * np.exp(np.maximum(total, 0.0)))

    def _of(self, own: IntArray, other: IntArray) -> FloatArray:
        """h of tenants beside one neighbour each, (r,); anything beside ``NOBODY``."""
        n = len(self._h)
        found = self._h.take(np.minimum(other, n - 1) * n + own, mode="wrap")
        made = np.flatnonzero(other >= n)
        if len(made):
            found[made] = self._low_h[other[made], own[made]]
        return np.asarray(found)

    def _make_room(self, more: int) -> None:
        """For further neighbours; what is not yet used takes no memory."""
        needed, n = self._count + more, len(self._h)
        if needed > len(self._low_h):
            size = max(needed, int(_GROWTH * len(self._low_h)))
            h, rise_w = np.empty((size, n), dtype=np.float32), np.empty(size)
            h[: self._count] = self._low_h[: self._count]
            rise_w[: self._count] = self._rise_w[: self._count]
            self._low_h, self._rise_w = h, rise_w


def _rounded_down(values: FloatArray) -> _SingleArray:
    """The nearest numbers of single precision that are not above."""
    found = values.astype(np.float32)
    return np.where(found > values, np.nextafter(found, np.float32(-np.inf)), found)
