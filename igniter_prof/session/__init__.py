"""One cell in, one measurement out, all closed again.

::

    deploy ─▶ generators ready ─▶ warm-up ─▶ window … ─▶ drain ─▶ stop ─▶ cool-down
                                    │          ▲   │
                                    │  drift:  └───┘ the window begins anew
                                    └ until every tenant has warmed up

All tenants are loaded from before the window until every request meant for the window has been
answered, so that each counted request met all its neighbours.
"""

from igniter_prof.session.cell import CellContext, MeasuredCell, run_cell, skipped
from igniter_prof.session.kept import KeptServers, together
from igniter_prof.session.measuring import (
    Observed,
    Rows,
    Window,
    failed_window,
    lagged_pct,
    measure,
)
from igniter_prof.session.surroundings import come_to_rest, conditions_of

__all__ = [
    "CellContext",
    "KeptServers",
    "MeasuredCell",
    "Observed",
    "Rows",
    "Window",
    "come_to_rest",
    "conditions_of",
    "failed_window",
    "lagged_pct",
    "measure",
    "run_cell",
    "skipped",
    "together",
]
