"""When requests are meant to be sent, as seconds from the start of the load."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import numpy as np

from igniter_prof.records import Load


def burstiness_of(instants_s: Sequence[float]) -> float:
    """The squared coefficient of variation of the gaps between requests.

    0: evenly spaced; about 1: Poisson; above: they come in bursts. It says nothing of how long a
    burst lasts: gaps that follow each other are taken to be independent.

    Args:
        instants_s: (n,), at least 3, when requests came, in any order, in seconds from anywhere.

    Raises:
        ValueError: there are too few instants, one is not finite, or all are the same.
    """
    gaps = np.diff(np.sort(np.asarray(instants_s, dtype=np.float64)))
    if len(gaps) < 2 or not np.isfinite(gaps).all() or not gaps.any():
        raise ValueError("the burstiness of at least 3 finite instants that differ can be told")
    return float(gaps.var() / gaps.mean() ** 2)


def arrivals_s(load: Load, seed: int) -> Iterator[float]:
    """Intended send instants of an open loop, without end, in seconds from its start.

    ``constant`` starts at a phase drawn with the seed, so that tenants with equal rates do not send
    in step; ``poisson`` has exponential gaps; ``bursty`` has independent gamma gaps with a squared
    coefficient of variation of ``burstiness``; ``trace`` repeats, each round starting one mean gap
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
        rate_rps = load.rate_rps
        return itertools.accumulate(draw.expovariate(rate_rps) for _ in itertools.count())
    if load.kind == "bursty" and load.rate_rps is not None and load.burstiness is not None:
        shape, scale = 1.0 / load.burstiness, load.burstiness / load.rate_rps
        # of strong bursts most gaps are next to nothing; instants in ns still differ, each is known
        gaps_s = (max(draw.gammavariate(shape, scale), 2e-9) for _ in itertools.count())
        return itertools.accumulate(gaps_s)
    if load.kind == "trace" and load.trace_s:
        return _repeat(sorted(load.trace_s))
    raise ValueError(f"a {load.kind} load has no arrivals")


def _repeat(trace_s: list[float]) -> Iterator[float]:
    first, last = trace_s[0], trace_s[-1]
    mean_gap = (last - first) / (len(trace_s) - 1) if len(trace_s) > 1 else 1.0
    round_s = last - first + mean_gap
    for turn in itertools.count():
        for instant in trace_s:
            yield instant - first + turn * round_s
