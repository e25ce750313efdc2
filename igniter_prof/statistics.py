"""Statistics of latencies: means with honest intervals, percentiles, and a verdict on stability.

Successive requests of one server are correlated (queues, quota periods, clocks), so the interval
of the mean comes from *batch means*: the series is cut into consecutive batches, whose means are
nearly independent, and Student's t is applied to them. [Schmeiser 1982, "Batch size effects in the
analysis of simulation output", Operations Research 30(3): 10 to 30 batches are enough.]

The intervals of percentiles are order statistics [e.g. Conover, "Practical Nonparametric
Statistics", 3rd ed., section 3.2]: they hold for any distribution, but for independent samples;
under heavy queueing they are too narrow.

Nothing here looks at more than the numbers given: order matters only where it says "in time order".
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from igniter_prof.records import MEASURED, LatencySummary, Quantile
from igniter_prof.units import NS_PER_MS, NS_PER_S

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
MIN_SAMPLES = 10
"""Fewer samples have no interval of the mean."""
MIN_BATCHES, MAX_BATCHES = 10, 30
MIN_BEYOND = 2.0
"""A percentile p is given if at least this many samples are expected beyond it: n(1-p) >= 2."""


@dataclass(frozen=True)
class Stability:
    """Whether a mean is known well enough, and why."""

    stable: bool
    precision_pct: float | None
    """Half-width of the mean's 95% interval, relative to the mean; None: too few samples."""
    drift_pct: float | None
    """Mean of the second half over that of the first, less one; None: too few samples."""
    reason: str
    drifting: bool = False
    """The halves differ by more than allowed, and significantly."""


def counted(requests: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which requests count: measured and answered with success. (n,) bool of REQUEST_DTYPE rows."""
    mask: NDArray[np.bool_] = (requests["phase"] == MEASURED) & (requests["ok"] == 1)
    return mask


def latencies_ms(requests: NDArray[np.void], *, intended: bool = False) -> Floats:
    """Latencies of the counted requests, in the order in which they are stored.

    Args:
        requests: (n,), REQUEST_DTYPE.
        intended: from the intended send instant (no coordinated omission), not from the real one.

    Returns:
        (m,), float64, ms, with m the number of counted requests.
    """
    rows = requests[counted(requests)]
    start = rows["intended_ns"] if intended else rows["sent_ns"]
    latency: Floats = (rows["done_ns"] - start) / NS_PER_MS
    return latency


def answered_rps(requests: NDArray[np.void], start_ns: int, end_ns: int) -> float:
    """Successful answers per second between two instants, whatever they were meant for.

    Counting the requests meant for the window instead would give the offered rate even where the
    server cannot keep up.

    Args:
        requests: (n,), REQUEST_DTYPE, of all phases.
        start_ns: beginning of the window, on the requests' clock.
        end_ns: its end, after the beginning.
    """
    good = (
        (requests["ok"] == 1) & (requests["done_ns"] >= start_ns) & (requests["done_ns"] < end_ns)
    )
    return float(good.sum()) / ((end_ns - start_ns) / NS_PER_S)


def batch_count(samples: int) -> int:
    """How many batches the batch-means interval uses: about the square root, 10 to 30."""
    return int(min(MAX_BATCHES, max(MIN_BATCHES, math.sqrt(samples))))


@functools.cache
def student_t(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def _batches(values: Floats, count: int) -> tuple[Floats, NDArray[np.int64]]:
    """Means and sizes of ``count`` consecutive batches that use every sample."""
    edges = np.linspace(0, len(values), count + 1).astype(np.int64)
    sizes = np.diff(edges)
    return np.add.reduceat(values, edges[:-1]) / sizes, sizes


def mean_half_width(values: Floats) -> float | None:
    """Half-width of the mean's 95% interval by batch means.

    Args:
        values: (n,), in time order.

    Returns:
        In the unit of the values; None for fewer than 10 samples.
    """
    if len(values) < MIN_SAMPLES:
        return None
    means, _ = _batches(values, batch_count(len(values)))
    return student_t(len(means) - 1) * float(means.std(ddof=1)) / math.sqrt(len(means))


def standard_error(half_width: float, samples: int) -> float:
    """The standard error behind a ``mean_half_width`` of that many samples."""
    return half_width / student_t(batch_count(samples) - 1)


def quantile(ordered_ms: Floats, p: float) -> Quantile | None:
    """A percentile with its 95% interval.

    Args:
        ordered_ms: (n,), sorted.
        p: in (0, 1).

    Returns:
        None if fewer than 2 samples are expected beyond it (p99: below 200 samples, p95: below
        40). The interval is None where no two order statistics enclose it with 95% confidence
        (p99: below 368 samples, p95: below 72).
    """
    n = len(ordered_ms)
    # the slack is for 1 - 0.99, which is a little more than 0.01
    if n * min(p, 1 - p) < MIN_BEYOND - 1e-9:
        return None
    value = float(np.quantile(ordered_ms, p))
    low, high = _interval_ranks(n, p)
    if low < 1 or high > n:
        return Quantile(value_ms=value)
    # interpolation may leave the interval by rounding only
    low_ms, high_ms = float(ordered_ms[low - 1]), float(ordered_ms[high - 1])
    return Quantile(value_ms=value, low_ms=min(low_ms, value), high_ms=max(high_ms, value))


def _interval_ranks(n: int, p: float) -> tuple[int, int]:
    """Ranks (from 1) of the order statistics that enclose the p-quantile; 0 or n + 1: none does.

    The number of samples at or below the quantile is binomial(n, p), so P(X_(l) > q) = P(B < l)
    and P(X_(u) < q) <= P(B >= u), each at most 2.5%.
    """
    tail = (1 - CONFIDENCE) / 2
    return _binomial_quantile(tail, n, p), _binomial_quantile(1 - tail, n, p) + 1


def _binomial_quantile(q: float, n: int, p: float) -> int:
    """The least k with P(B <= k) >= q; what scipy.stats does, whose import takes seconds."""
    from scipy.special import bdtr, bdtrik

    k: int = math.ceil(bdtrik(q, n, p))
    return k - 1 if k > 0 and bdtr(k - 1, n, p) >= q else k


def summarise(latency_ms: Floats) -> LatencySummary:
    """Statistics of latencies.

    Args:
        latency_ms: (n,), float64, ms, in time order (only the mean's interval depends on it).

    Returns:
        The standard deviation is that of a sample (n - 1), and 0 for one sample.

    Raises:
        ValueError: there is no sample, or one is not finite.
    """
    values = np.asarray(latency_ms, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("latencies must be a non-empty series of finite numbers")
    ordered = np.sort(values)
    return LatencySummary(
        count=len(values),
        mean_ms=float(values.mean()),
        std_ms=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        mean_ci_ms=mean_half_width(values),
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        p50=quantile(ordered, 0.50),
        p95=quantile(ordered, 0.95),
        p99=quantile(ordered, 0.99),
    )


def stability(latency_ms: Floats, *, precision_pct: float, max_drift_pct: float) -> Stability:
    """Whether the mean is known to ``precision_pct`` and does not drift.

    Stable: the half-width of the mean's 95% interval is at most ``precision_pct`` of the mean, and
    the means of the two halves do not differ by more than ``max_drift_pct`` with significance (5%,
    Welch's test on the batch means). It is cheap enough to be asked again and again while
    measuring; stopping at the first yes makes the interval a little optimistic, as every
    sequential rule does.

    Args:
        latency_ms: (n,), float64, ms, in time order.
        precision_pct: the largest relative half-width.
        max_drift_pct: the largest drift that is not looked at more closely.
    """
    values = np.asarray(latency_ms, dtype=np.float64)
    half_width = mean_half_width(values)
    if half_width is None:
        return Stability(
            False, None, None, f"only {len(values)} requests, {MIN_SAMPLES} are the least"
        )
    mean = float(values.mean())
    if mean <= 0:
        return Stability(False, None, None, "the mean latency is not positive")
    precision = 100 * half_width / mean
    middle = len(values) // 2
    # at least 5 batches a half, so that each half has a spread
    count = batch_count(len(values)) // 2
    first, _ = _batches(values[:middle], count)
    second, _ = _batches(values[middle:], count)
    difference = float(values[middle:].mean() - values[:middle].mean())
    drift = 100 * difference / float(values[:middle].mean() or mean)
    drifts = abs(drift) > max_drift_pct and _differ(first, second, difference)
    known = f"the mean is known to ±{precision:.2g} % (wanted: {precision_pct:g} %)"
    if drifts:
        reason = (
            f"drift of {drift:+.2g} % between the halves (at most {max_drift_pct:g} %); {known}"
        )
    else:
        reason = known
    stable = precision <= precision_pct and not drifts
    return Stability(stable, precision, drift, reason, drifting=drifts)


def _differ(first: Floats, second: Floats, difference: float) -> bool:
    """Whether two means differ by Welch's test at 5%; the batch means are their samples."""
    parts = [float(one.var(ddof=1)) / len(one) for one in (first, second)]
    variance = sum(parts)
    if variance == 0:
        return difference != 0
    # shares of the variance: their squares do not underflow
    shares = [(part / variance) ** 2 for part in parts]
    degrees = 1 / (shares[0] / (len(first) - 1) + shares[1] / (len(second) - 1))
    return abs(difference) > student_t(max(1, int(degrees))) * math.sqrt(variance)
