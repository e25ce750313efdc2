"""Energy of a window from samples of a counter and of a power sensor that move in steps.

A driver updates its energy counter and its power reading every so often (tens to hundreds of
milliseconds) and answers with the last value in between, so a sampler sees steps. What is known is
at which sample a new value was first seen: the true update lies between that sample and the one
before. Reading between the steps, at the window's ends, is an interpolation whose error is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from igniter_prof.units import NS_PER_S

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

MIN_CHANGES: Final = 4
"""Fewer changes do not tell an update period."""
NEAR: Final = 1.5
"""Distances of changes within so many sampling intervals of the usual one are one update."""

LONGEST_GAP_NS: Final = NS_PER_S // 2
AT_ENDS: Final = 2
"""Sampling intervals that may lie between an end of the window and the nearest sample beyond."""


@dataclass(frozen=True)
class Energy:
    """An energy, and what the ends of its window leave open."""

    joules: float
    ends_j: float
    """How far off it may be because the ends lie between two updates."""


def known(at_ns: Times, values: Floats) -> tuple[Times, Floats]:
    """The samples that have a value, with their times."""
    mask = np.isfinite(values)
    return at_ns[mask], values[mask]


def interval_ns(at_ns: Times) -> float | None:
    """The typical distance of samples; None for fewer than two."""
    return float(np.median(np.diff(at_ns))) if len(at_ns) > 1 else None


def longest_gap_ns(at_ns: Times, start_ns: int, end_ns: int) -> int:
    """The longest part of a window that no sample lies in.

    Args:
        at_ns: (n,) times of samples, ascending, of any length.
        start_ns: beginning of the window.
        end_ns: its end.
    """
    inside = at_ns[(at_ns > start_ns) & (at_ns < end_ns)]
    before = at_ns[at_ns <= start_ns]
    after = at_ns[at_ns >= end_ns]
    edges = [
        *([max(int(before[-1]), start_ns)] if len(before) else [start_ns]),
        *inside.tolist(),
        *([min(int(after[0]), end_ns)] if len(after) else [end_ns]),
    ]
    return max(int(gap) for gap in np.diff(edges))


def covered(at_ns: Times, start_ns: int, end_ns: int) -> bool:
    """Whether samples tell of a whole window: to both its ends, and no longer gap than 0.5 s.

    Args:
        at_ns: (n,) times of samples, ascending.
        start_ns: beginning of the window.
        end_ns: its end.
    """
    sampling = interval_ns(at_ns)
    if sampling is None:
        return False
    return bool(
        at_ns[0] <= start_ns + AT_ENDS * sampling
        and at_ns[-1] >= end_ns - AT_ENDS * sampling
        and longest_gap_ns(at_ns, start_ns, end_ns) <= LONGEST_GAP_NS
    )


def changes(values: Floats) -> NDArray[np.intp]:
    """Indices of the samples whose value is not that of the sample before."""
    return np.flatnonzero(np.diff(values) != 0) + 1


def update_period_ns(at_ns: Times, values: Floats) -> float | None:
    """How often a reading is really updated, from the distances of its changes.

    Sampling cuts each distance to a multiple of its own interval, up or down, so the mean over
    many is taken; an update that did not change the value makes one distance a multiple of the
    usual one and counts as several. A period below the sampling interval cannot be seen: the
    answer is then about that interval.

    Args:
        at_ns: (n,) times of samples, ascending.
        values: (n,), finite.

    Returns:
        None if the value changed fewer than 4 times.
    """
    distances = np.diff(at_ns[changes(values)]).astype(np.float64)
    sampling = interval_ns(at_ns)
    if len(distances) + 1 < MIN_CHANGES or sampling is None:
        return None
    usual = float(np.median(distances))
    updates = np.where(
        np.abs(distances - usual) <= NEAR * sampling,
        1.0,
        np.maximum(1.0, np.round(distances / usual)),
    )
    return float(distances.sum() / updates.sum())


def counter_energy(at_ns: Times, joules: Floats, start_ns: int, end_ns: int) -> Energy | None:
    """Energy of a window by a cumulative counter.

    The counter is taken to grow evenly between two updates. The error at an end is the most that
    a power between zero and the highest seen can make of that, and one sampling interval's energy
    for the update's own time.

    Args:
        at_ns: (n,) times of samples, ascending.
        joules: (n,) the counter, finite.
        start_ns: beginning of the window.
        end_ns: its end.

    Returns:
        None where the counter does not tell: it never moved, it fell (the driver was loaded
        again), or the window reaches more than two updates beyond what was sampled.
    """
    moved = changes(joules)
    sampling = interval_ns(at_ns)
    if len(moved) < 2 or sampling is None or (np.diff(joules) < 0).any():
        return None
    # from the window's start, for a float does not hold a nanosecond of a long uptime
    times, level = (at_ns[moved] - start_ns).astype(np.float64), joules[moved]
    length_ns = end_ns - start_ns
    steps_ns = np.diff(times)
    rates = np.diff(level) / steps_ns
    highest = float(rates.max())
    reach = 2 * float(np.median(steps_ns)) + sampling
    if times[0] > reach or length_ns - times[-1] > reach:
        return None

    def read(instant: int) -> tuple[float, float]:
        step = int(np.clip(np.searchsorted(times, instant, side="right") - 1, 0, len(rates) - 1))
        rate = float(rates[step])
        after, before = instant - float(times[step]), float(times[step + 1]) - instant
        value = float(level[step]) + rate * after
        if after < 0 or before < 0:  # beyond the updates seen: as long as the gap, at full power
            open_j = abs(min(after, before)) * highest
        else:
            more = min(after * (highest - rate), before * rate)
            less = min(after * rate, before * (highest - rate))
            open_j = max(more, less)
        return value, open_j + highest * sampling

    (low, low_open), (high, high_open) = read(0), read(length_ns)
    return Energy(high - low, low_open + high_open)


def power_energy(at_ns: Times, watts: Floats, start_ns: int, end_ns: int) -> Energy | None:
    """Energy of a window by integrating a power reading: the trapezoid rule on its updates.

    The updates are the samples at which a new value was first seen. Where a value stayed for
    longer than one update, it is held until one update before the next value, so that a long
    constant stretch is not made a ramp. At the window's ends the power is interpolated; before
    the first and after the last sample it is held.

    Args:
        at_ns: (n,) times of samples, ascending.
        watts: (n,) the power, finite.
        start_ns: beginning of the window.
        end_ns: its end.

    Returns:
        None for fewer than two samples.
    """
    sampling = interval_ns(at_ns)
    if sampling is None:
        return None
    times, levels = updates(at_ns - start_ns, watts)
    length_ns = end_ns - start_ns
    within = (times > 0) & (times < length_ns)
    ends = np.interp([0, length_ns], times, levels)
    x = np.concatenate([[0], times[within], [length_ns]])
    y = np.concatenate([ends[:1], levels[within], ends[1:]])
    joules = float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum()) / NS_PER_S
    period = update_period_ns(at_ns, watts) or sampling
    open_j = 0.0
    for instant in (0, length_ns):
        step = int(np.clip(np.searchsorted(times, instant) - 1, 0, len(times) - 2))
        open_j += abs(float(levels[step + 1] - levels[step])) * (period / 2 + sampling) / NS_PER_S
    return Energy(joules, open_j)


def updates(at_ns: Times, values: Floats) -> tuple[Floats, Floats]:
    """The instants at which a reading was updated, and its values from then on.

    Args:
        at_ns: (n,) times of samples, ascending, at least two.
        values: (n,), finite.

    Returns:
        Times in ns and values, (m,) each: the first sample, every change, before a change that
        took longer than an update the held value once more, and the last sample.
    """
    sampling = interval_ns(at_ns) or 0.0
    period = update_period_ns(at_ns, values) or sampling
    index = np.unique(np.concatenate([[0], changes(values), [len(values) - 1]]))
    times, levels = at_ns[index].astype(np.float64), values[index]
    held = np.flatnonzero((np.diff(times) > NEAR * period) & (np.diff(levels) != 0))
    return (
        np.insert(times, held + 1, times[held + 1] - period),
        np.insert(levels, held + 1, levels[held]),
    )
