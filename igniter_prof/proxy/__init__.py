"""A reverse proxy that times the requests of clients that igprof does not own (HTTP/1.1).

``wire`` is one connection with its HTTP state, ``headers`` says what is forwarded and what is
refused, ``pool`` keeps connections to the server, ``exchange`` takes one request through,
``rows`` writes what was seen of it, ``tally`` sums up, ``server`` puts them together.
"""

from igniter_prof.proxy.rows import COLUMNS, Row, RowFile
from igniter_prof.proxy.server import Proxy, parse_place, run
from igniter_prof.proxy.tally import PathSummary, Tally

__all__ = ["COLUMNS", "PathSummary", "Proxy", "Row", "RowFile", "Tally", "parse_place", "run"]
