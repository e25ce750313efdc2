"""What the report says under its figures of latencies alone."""

from __future__ import annotations

from igniter_prof.records import Load, Tenant
from igniter_prof.reporting.derived import SoloPoint
from igniter_prof.reporting.profile_plots import bars_caption


def point(half_ms: float, cells: int = 1) -> SoloPoint:
    return SoloPoint(Tenant(model="m"), Load(), "http", 2.0, 2.0 - half_ms, 2.0 + half_ms, cells)


def test_bars_are_intervals_where_these_are_known() -> None:
    assert bars_caption([point(0.1), point(0)]) == "Bars: 95% interval of the mean."
    assert "2 points measured more than once" in bars_caption(
        [point(0.1), point(0.1, 2), point(0, 3)]
    )
    assert bars_caption([point(0.1, 2)]).startswith("Bars: 95% interval of the mean; for the")


def test_an_import_knows_no_intervals() -> None:
    assert bars_caption([point(0), point(0)]) == "Intervals of the means are not known."
    told = bars_caption([point(0), point(0.1, 2)])
    assert told.startswith("Intervals of the means are not known; bars span the 1 point")
