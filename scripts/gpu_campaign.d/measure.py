"""The measuring steps: solo grid, cold start, pairs, triples, quadruples, input scales, again."""

from __future__ import annotations

from machine import Work


def solo(work: Work, until: float) -> None:
    """Each model alone, over batch sizes and shares."""
    raise NotImplementedError
