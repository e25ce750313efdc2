"""When requests are meant to be sent, as seconds from the start of the load."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from igniter_prof.records import Load


def arrivals_s(load: Load, seed: int) -> Iterator[float]:
    """Intended send instants of an open loop, without end, in seconds from its start.

    ``constant`` starts at a phase drawn with the seed, so that tenants with equal rates do not send
    in step; ``poisson`` has exponential gaps; ``trace`` repeats, each round starting one mean gap
    after the end of the last.

    Raises:
        ValueError: the load is a closed loop, which has no intended instants.
    """
    draw = random.Random(seed)
    if load.kind == "constant" and load.rate_rps is not None:
        gap = 1.0 / load.rate_rps
        phase = draw.random() * gap
        return (phase + index * gap for index in itertools.count())
    if load.kind == "poisson" and load.rate_rps is not None:
        return _poisson(load.rate_rps, draw)
    if load.kind == "trace" and load.trace_s:
        return _repeat(sorted(load.trace_s))
    raise ValueError(f"a {load.kind} load has no arrivals")


def _poisson(rate_rps: float, draw: random.Random) -> Iterator[float]:
    now = 0.0
    while True:
        now += draw.expovariate(rate_rps)
        yield now


def _repeat(trace_s: list[float]) -> Iterator[float]:
    first, last = trace_s[0], trace_s[-1]
    mean_gap = (last - first) / (len(trace_s) - 1) if len(trace_s) > 1 else 1.0
    round_s = last - first + mean_gap
    for turn in itertools.count():
        for instant in trace_s:
            yield instant - first + turn * round_s
