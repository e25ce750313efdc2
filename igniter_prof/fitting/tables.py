"""Latencies of many cells at once, made of a fixed list of settings: what a planner's search asks.

A cell is a row of setting numbers. What a latency needs of a setting is computed once, so that a
latency costs a few additions; a fitted model that has such a table offers it (``Tabulated``), for
the others the cells are predicted one by one (``PointsTable``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from igniter_prof.fitting.model import Fitted
from igniter_prof.fitting.points import FloatArray, IntArray, Points
from igniter_prof.fitting.quick import Configuration

NOBODY = -1
"""In a cell: no tenant in this place."""


class LatencyTable(Protocol):
    """Latencies of settings 0, 1, … n - 1, alone and beside others."""

    @property
    def alone_ms(self) -> FloatArray:
        """Latency of a full batch alone, (n,)."""
        ...

    def overlapped_ms(self, latency_ms: FloatArray) -> FloatArray:
        """As ``Fitted.overlapped_ms``, for each setting, (n,)."""
        ...

    def lightest(self, members: IntArray) -> IntArray:
        """Neighbours that slow others no more than any of their members does.

        ``members``: (m, k), numbers of settings or of earlier answers, ``NOBODY`` where a row has
        fewer. The answer, (m,), may stand for neighbours only; ``NOBODY`` where there is none.
        """
        ...

    def prepare(self, cells: IntArray) -> Any:
        """What ``latency_ms`` needs of cells (m, k), for many questions about the same cells."""
        ...

    def latency_ms(
        self, prepared: Any, row: IntArray, place: IntArray, own: IntArray
    ) -> FloatArray:
        """Latency, (r,), of setting ``own[i]`` in place ``place[i]`` of cell ``row[i]``.

        Of prepared cells; whoever stands in that place is not there.
        """
        ...


@runtime_checkable
class Tabulated(Protocol):
    """A ``Fitted`` that has a table faster than its points."""

    def table(self, settings: Sequence[Configuration]) -> LatencyTable:
        """The table of these settings."""
        ...


class PointsTable:
    """See ``LatencyTable``: for any fitted model, by predicting cells."""

    def __init__(self, fitted: Fitted, settings: Sequence[Configuration]) -> None:
        self._fitted = fitted
        self._model = np.array([each.model for each in settings], dtype=np.int64)
        self._batch = np.array([float(each.batch) for each in settings])
        self._share = np.array([each.share for each in settings])
        self._scale = np.array([each.scale for each in settings])
        self._instances = np.array([float(each.instances) for each in settings])
        # batch sizes and shares of one kind can be compared
        kinds = dict.fromkeys((each.model, each.scale, each.instances) for each in settings)
        numbered = {kind: number for number, kind in enumerate(kinds)}
        own = [numbered[each.model, each.scale, each.instances] for each in settings]
        self._kind = np.array(own, dtype=np.int64)
        self._number = {
            (kind, each.batch, each.share): number
            for number, (kind, each) in enumerate(zip(own, settings, strict=True))
        }
        self._points = self._of(np.arange(len(settings)), np.arange(len(settings)))
        self.alone_ms = fitted.latency_ms(self._points)

    def overlapped_ms(self, latency_ms: FloatArray) -> FloatArray:
        """See ``LatencyTable``."""
        return self._fitted.overlapped_ms(self._points, latency_ms)

    def lightest(self, members: IntArray) -> IntArray:
        """See ``LatencyTable``: the least batch with the least share, where it is in the table.

        Only of members of one model, input scale and number of instances. It is lighter where the
        model is monotone: of ``gpulets`` a smaller batch or share may press more.
        """
        found = np.full(len(members), NOBODY)
        for row, each in enumerate(members):
            known = each[each >= 0]
            if len(known) and (self._kind[known] == self._kind[known[0]]).all():
                least = (self._batch[known].min(), self._share[known].min())
                found[row] = self._number.get((int(self._kind[known[0]]), *least), NOBODY)
        return found

    def prepare(self, cells: IntArray) -> IntArray:
        """See ``LatencyTable``."""
        return cells

    def latency_ms(
        self, prepared: IntArray, row: IntArray, place: IntArray, own: IntArray
    ) -> FloatArray:
        """See ``LatencyTable``."""
        if not len(row):
            return np.zeros(0)
        asked = prepared[row]
        mine = np.arange(len(row))
        asked[mine, place] = own
        there = asked >= 0
        position = (np.cumsum(there.ravel()) - 1).reshape(there.shape)
        latency = self._fitted.latency_ms(self._of(asked[there], np.nonzero(there)[0]))
        return np.asarray(latency[position[mine, place]])

    def _of(self, settings: IntArray, cell: IntArray) -> Points:
        tenants = np.bincount(cell)[cell].astype(np.float64) if len(cell) else np.zeros(0)
        return Points(
            model=self._model[settings],
            batch=self._batch[settings],
            share=self._share[settings],
            scale=self._scale[settings],
            instances=self._instances[settings],
            cell=cell,
            tenants=tenants,
        )
