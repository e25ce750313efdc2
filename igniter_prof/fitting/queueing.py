"""From the latency of batches to the latency of requests: one dynamic batcher with one instance.

When the server is free it takes up to ``b`` waiting requests at once, or the next one that comes.
With Poisson arrivals this is the bulk-service queue M/G^[1,b]/1 (Bailey 1954; Chaudhry and
Templeton, "A First Course in Bulk Queues", 1983) with a service time that depends on the batch.
Its queue length at the ends of services is a Markov chain, solved here; a request's wait and
service follow from it exactly, up to quadrature and a grid of time. Constant and bursty arrivals
are followed batch by batch. docs/model.md has the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from igniter_prof.errors import BadInput
from igniter_prof.fitting.points import FloatArray
from igniter_prof.units import MS_PER_S, US_PER_MS

_TAIL = 1e-6
_LONGEST_QUEUE = 2048
_BINS = 2048
_DETERMINISTIC = 0.005
_CONSTANT_BATCHES = 3000
_BURSTY_REQUESTS = 100_000
_STRATA = 2048
_EXCEEDANCES = 100
_FULL = 0.5
_EVEN = 1e-4


@dataclass(frozen=True)
class QueueEstimate:
    """Latency of requests, queueing included.

    ``quantiles_ms`` by percentile; infinite where the queue is not stable, as is ``mean_ms``.
    ``utilisation`` is the part of the time in which the server is busy, ``mean_batch`` the mean
    executed batch.
    """

    quantiles_ms: Mapping[float, float]
    mean_ms: float
    utilisation: float
    mean_batch: float
    stable: bool


def request_latency(
    service_ms: npt.NDArray[np.float64],
    cv: float,
    rate_rps: float,
    arrival: str,
    percentiles: Sequence[float],
    queue_delay_us: int = 0,
    burstiness: float | None = None,
) -> QueueEstimate:
    """Estimate the latency of requests that are batched dynamically.

    Args:
        service_ms: (b_max,), ms, mean latency of an executed batch of 1, 2, … b_max requests.
        cv: standard deviation over mean of single batches (gamma distributed).
        rate_rps: requests per second, one inference each.
        arrival: ``poisson``, ``constant`` or ``bursty``.
        percentiles: wanted, each 0-100.
        queue_delay_us: how long the batcher may wait for more requests; each quantile then grows
            by the longest such wait, which is an upper estimate.
        burstiness: with ``bursty``, the squared coefficient of variation of the gaps between
            requests, 0 or more: gaps are independent and gamma distributed. The answer is that of
            a fixed seed. Up to p99 it is within 3% for a spread up to 0.5, batches up to 8 and a
            load up to 0.9, and within 6% beyond, up to batches of 32; a p99.9 is half as good.

    Raises:
        BadInput: an unknown arrival, or a number out of range.
    """
    service = np.asarray(service_ms, dtype=np.float64)
    if service.ndim != 1 or not len(service) or not np.all(np.isfinite(service) & (service > 0)):
        raise BadInput("service times must be a list of positive numbers, one a batch size")
    if not (rate_rps > 0 and cv >= 0 and queue_delay_us >= 0):
        raise BadInput(
            f"a rate of {rate_rps:g}/s, a spread of {cv:g} or a delay of {queue_delay_us} us"
            " is out of range"
        )
    if any(not 0 <= p < 100 for p in percentiles):
        raise BadInput("percentiles must be from 0 to below 100")
    if arrival not in ("poisson", "constant", "bursty"):
        raise BadInput(f"no arrival is called '{arrival}'", hint="known: bursty, constant, poisson")
    if (arrival == "bursty") != (burstiness is not None):
        raise BadInput("bursty arrivals need a burstiness, and no others have one")
    if burstiness is not None and not 0 <= burstiness < np.inf:
        raise BadInput(f"a burstiness of {burstiness:g} is out of range", hint="0 or more")
    rate = rate_rps / MS_PER_S
    largest = len(service)
    if rate * service[-1] >= largest * (1.0 - 1e-9):
        return QueueEstimate(dict.fromkeys(percentiles, np.inf), np.inf, 1.0, largest, False)
    wanted = np.asarray(percentiles, dtype=np.float64)
    if arrival == "poisson":
        solved = _poisson(service, cv, rate, wanted)
    elif burstiness is None or burstiness < _EVEN:
        solved = _constant(service, cv, rate, wanted)
    else:
        solved = _bursty(service, cv, rate, wanted, burstiness)
    quantiles, mean, utilisation, mean_batch = solved
    # a batch that fills up starts before the delay is over
    delay = min(queue_delay_us / US_PER_MS, (largest - 1) / rate)
    return QueueEstimate(
        {p: float(q) + delay for p, q in zip(percentiles, quantiles, strict=True)},
        float(mean) + delay,
        float(utilisation),
        float(mean_batch),
        True,
    )


# --- constant arrivals ------------------------------------------------------------------------


def _constant(
    service: FloatArray, cv: float, rate: float, percentiles: FloatArray
) -> tuple[FloatArray, float, float, float]:
    """Follow the batches one by one; spread is drawn from a fixed seed, so answers repeat."""
    gap = 1.0 / rate
    largest = len(service)
    spread = (
        np.random.default_rng(0).gamma(cv**-2, cv**2, _CONSTANT_BATCHES)
        if cv >= _DETERMINISTIC
        else np.ones(_CONSTANT_BATCHES)
    ).tolist()
    means = service.tolist()
    free, first = 0.0, 0
    batches: list[int] = []
    ends: list[float] = []
    busy = 0.0
    for factor in spread:
        start = max(free, first * gap)
        batch = min(largest, int((start - first * gap) / gap + 1e-9) + 1)
        took = means[batch - 1] * factor
        free = start + took
        busy += took
        first += batch
        batches.append(batch)
        ends.append(free)
    sizes = np.array(batches)
    latency = np.repeat(np.array(ends), sizes) - np.arange(first) * gap
    settled = latency[len(latency) // 10 :]
    return (
        np.percentile(settled, percentiles),
        float(settled.mean()),
        min(1.0, busy / free),
        float(sizes.mean()),
    )


# --- bursty arrivals --------------------------------------------------------------------------


def _bursty(
    service: FloatArray, cv: float, rate: float, percentiles: FloatArray, burstiness: float
) -> tuple[FloatArray, float, float, float]:
    """Follow the batches of many independent streams side by side; percentiles far out by theory.

    Near saturation the waits of successive requests are so alike that no affordable number of them
    tells a p99. But long waits fall off exponentially, at a decay that is known exactly: where
    fewer than about ``_EXCEEDANCES`` independent waits lie beyond a percentile, it is taken from
    one further down and that decay.
    """
    largest = len(service)
    load = rate * float(service[-1]) / largest
    decay = _decay(rate * float(service[-1]), cv, largest, burstiness)
    # after about so many requests, diffusion forgets how long the queue was
    memory = 2.0 * (burstiness + largest * cv**2) / (1.0 - load) ** 2
    skipped = int(np.clip(2.0 * memory, 100, 3000))
    # who comes in the last longest wait of a stream may find batches that lack later arrivals
    spare = int(min(7.0 / decay, 2000)) + 2 * largest
    counted = max(3 * (skipped + spare), 1000)
    length = skipped + counted + spare
    requests = int(_BURSTY_REQUESTS * (1.0 + np.sqrt(largest)))
    shape = (max(8, requests // length), length)
    window = slice(skipped, skipped + counted)
    latency, batch, took = (
        each[:, window] for each in _followed(service, cv, rate, burstiness, shape, load, decay)
    )
    # a batch of n stands there n times
    per_batch = float((1.0 / batch).sum())
    utilisation = min(1.0, rate * float((took / batch).sum()) / batch.size)
    mean_batch = min(batch.size / per_batch, largest)

    known = max(0.3, 1.0 - _EXCEEDANCES * max(1.0, memory) / latency.size)
    quantiles = np.percentile(latency, percentiles)
    last = float(np.quantile(latency, known))
    mean = float(latency.mean())
    full = np.count_nonzero(batch[latency > last] == largest) / latency.size
    if full > _FULL * (1.0 - known):
        beyond = percentiles / 100.0 > known
        odds = (1.0 - known) / (1.0 - percentiles[beyond] / 100.0)
        quantiles[beyond] = last + np.log(odds) / (rate * decay)
        mean = float(np.minimum(latency, last).mean()) + (1.0 - known) / (rate * decay)
    return quantiles, mean, utilisation, mean_batch


def _followed(
    service: FloatArray,
    cv: float,
    rate: float,
    burstiness: float,
    shape: tuple[int, int],
    load: float,
    decay: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of each request of some streams, (n_streams, n_requests): latency, its batch, its service.

    Times are in ms. A stream starts with a wait as in heavy traffic: over t with a probability of
    load·exp(-decay·rate·t).
    """
    draw = np.random.default_rng(0)
    streams, length = shape
    gaps = draw.standard_gamma(1.0 / burstiness, shape)
    # a rate that is off by chance would matter more than all else
    arrivals = np.cumsum(gaps / (gaps.mean() * rate), axis=1)
    # one stream after the other, so that all are searched at once
    arrivals += np.arange(streams)[:, None] * (1.01 * float(arrivals[:, -1].max()))
    instants = arrivals.ravel()
    first = np.arange(streams) * length
    end = first + length
    chance = (np.arange(streams) + 0.5) / streams
    free = instants[first] + np.maximum(np.log(load / (1.0 - chance)), 0.0) / (rate * decay)
    spread, used = _spread(cv, len(instants), draw), 0
    batches = np.zeros(len(instants), dtype=np.int64)
    ends, services = np.zeros(len(instants)), np.zeros(len(instants))
    while len(first):
        start = np.maximum(free, instants[first])
        came = np.minimum(np.searchsorted(instants, start, side="right"), end) - first
        batch = np.minimum(came, len(service))
        took = service[batch - 1] * spread[used : used + len(batch)]
        used += len(batch)
        free = start + took
        batches[first], services[first], ends[first] = batch, took, free
        first = first + batch
        more = first < end
        if not more.all():
            first, end, free = first[more], end[more], free[more]
    led = batches > 0
    size = batches[led]
    return (
        (np.repeat(ends[led], size) - instants).reshape(shape),
        np.repeat(size, size).reshape(shape).astype(np.float64),
        np.repeat(services[led], size).reshape(shape),
    )


def _spread(cv: float, most: int, draw: np.random.Generator) -> FloatArray:
    """Gamma factors of mean 1, (n >= most,): each stratum of the distribution equally often."""
    from scipy.special import gammaincinv

    if cv < _DETERMINISTIC:
        return np.broadcast_to(1.0, most)
    factors = gammaincinv(cv**-2, (np.arange(_STRATA) + 0.5) / _STRATA)
    rounds = np.tile(factors / factors.mean(), (most // _STRATA + 1, 1))
    return draw.permuted(rounds, axis=1).ravel()


# --- Poisson arrivals -------------------------------------------------------------------------


def _poisson(
    service: FloatArray, cv: float, rate: float, percentiles: FloatArray
) -> tuple[FloatArray, float, float, float]:
    largest = len(service)
    left, beyond, decay = _queue_at_ends(service, cv, rate)
    batch = np.clip(np.arange(len(left)), 1, largest)
    cycle = float(left @ service[batch - 1]) + beyond * service[-1] + left[0] / rate
    utilisation = 1.0 - left[0] / rate / cycle
    mean_batch = float(left @ batch) + beyond * largest
    # arrivals see time averages: in which service does a request come, and behind how many
    during = left * service[batch - 1] / cycle
    lost = beyond * service[-1] / cycle
    met = _largest_met(during + left * batch / mean_batch + lost, largest)
    fresh = np.bincount(batch[: met + 1], weights=during[: met + 1], minlength=met + 1)
    backlog = during[met:].copy()
    backlog[0] = fresh[-1]
    pmf, step = _sojourn(
        service[:met], cv, rate, np.asarray(fresh[1:], dtype=np.float64), backlog, 1.0 - utilisation
    )
    pmf *= 1.0 - lost
    sure = len(pmf)
    if lost > _TAIL:
        # who came behind more than the chain holds waits at least about this long
        rounds = (len(left) - 1) // largest - 1
        shortest = max(rounds - 4.0 * cv * np.sqrt(rounds), 0.5 * rounds) * service[-1]
        sure = min(sure, int(shortest / step))
    quantiles, mean = _summary(pmf[:sure], step, percentiles, rate * decay)
    return quantiles, mean, utilisation, mean_batch


def _largest_met(weight: FloatArray, largest: int) -> int:
    """The largest batch that matters, from the weights (n_states,) of queues at ends.

    The grid of time is spread over what is met, not over a largest batch that never fills up.
    """
    above = np.cumsum(weight[::-1])[::-1]
    return int(np.clip(np.count_nonzero(above >= _TAIL) - 1, 1, largest))


def _queue_at_ends(service: FloatArray, cv: float, rate: float) -> tuple[FloatArray, float, float]:
    """Distribution of the requests that wait when a service ends.

    Returns:
        Probabilities (longest + 1,) of 0, 1, … requests; the probability of more; and the decay u:
        from there on, each further request is 1/(1 + u) times as likely, which closes the chain.
    """
    largest = len(service)
    decay = _decay(rate * float(service[-1]), cv, largest)
    ratio = 1.0 / (1.0 + decay)
    longest = max(32, 2 * largest, int(4 * rate * service[-1]))
    while True:
        arrivals = _arrivals(rate * service, cv, longest)
        states = np.arange(longest + largest + 1)
        batch = np.clip(states, 1, largest)
        waiting = np.maximum(states - largest, 0)
        # from a state, the queue becomes what waits on and what came
        came = states[None, : longest + 1] - waiting[:, None]
        chain = np.where(came >= 0, arrivals[batch[:, None] - 1, np.maximum(came, 0)], 0.0)
        # all states beyond the last stand in proportion to it
        chain[longest] += ratio ** np.arange(1, largest + 1) @ chain[longest + 1 :]
        chain = chain[: longest + 1]
        system = chain.T - np.eye(longest + 1)
        system[0] = 1.0
        system[0, -1] += 1.0 / decay
        right = np.zeros(longest + 1)
        right[0] = 1.0
        left = np.maximum(np.linalg.solve(system, right), 0.0)
        beyond = float(left[-1]) / decay
        left, beyond = left / (left.sum() + beyond), beyond / (left.sum() + beyond)
        if left[longest * 7 // 8 :].sum() + beyond < _TAIL or longest >= _LONGEST_QUEUE:
            return np.asarray(left), beyond, decay
        longest *= 2


def _decay(mean: float, cv: float, largest: int, burstiness: float = 1.0) -> float:
    """The u > 0 at which ``E[exp(λuS)] · E[exp(-λuA)]^largest = 1``.

    S is the service of a full batch, in which ``mean`` requests come on average (below
    ``largest``), and A a gap between requests; both are gamma distributed. Long waits, at an
    arrival rate λ, fall off as exp(-λ·u·t); for Poisson arrivals the equation is
    ``A(1 + u) = (1 + u)^largest`` with the generating function A of the arrivals in a full batch,
    and long queues fall off as (1 + u)^-n.
    """
    from scipy.optimize import brentq

    shape = np.inf if cv < _DETERMINISTIC else cv**-2
    # beyond its pole, the generating function does not exist
    most = shape / mean * (1.0 - 1e-9)

    def over(u: float) -> float:
        log = mean * u if np.isinf(shape) else -shape * np.log1p(-mean * u / shape)
        return float(log - largest * np.log1p(burstiness * u) / burstiness)

    spread = mean**2 / shape + largest * burstiness
    low = min(1e-3 * (largest - mean) / spread, 0.5 * most)
    while over(low) >= 0:
        low /= 8.0
    high = low
    while over(high) < 0:
        if high >= most:
            return float(most)
        high = min(2.0 * high, most)
    return float(brentq(over, low, high, xtol=1e-3 * low))


def _arrivals(mean: FloatArray, cv: float, most: int) -> FloatArray:
    """Probability of 0 … ``most`` Poisson arrivals in gamma services, (len(mean), most + 1)."""
    from scipy.special import gammaln

    count = np.arange(most + 1)
    expected = mean[:, None]
    if cv < _DETERMINISTIC:
        log = count * np.log(expected) - expected - gammaln(count + 1.0)
    else:  # a gamma mixture of Poissons is negative binomial
        shape = cv**-2
        log = (
            gammaln(count + shape)
            - gammaln(shape)
            - gammaln(count + 1.0)
            - shape * np.log1p(expected / shape)
            + count * np.log(expected / (shape + expected))
        )
    return np.asarray(np.exp(log))


def _sojourn(
    service: FloatArray,
    cv: float,
    rate: float,
    fresh: FloatArray,
    backlog: FloatArray,
    idle: float,
) -> tuple[FloatArray, float]:
    """Distribution of wait plus service on a grid of time, and the grid's step in ms.

    Args:
        service: (b,) mean service times.
        cv: their spread.
        rate: arrivals per ms.
        fresh: (b,) probability to come in a service of n = 1 … b that left nobody waiting.
        backlog: (n_waiting,) probability to come in a service of b that left 0, 1, … waiting;
            its first entry is the last of ``fresh``.
        idle: probability to find the server idle.
    """
    largest = len(service)
    busy = np.flatnonzero(fresh[:-1] > _TAIL / largest)
    share, weight = _moments(cv)
    # (services, nodes): ages at the arrival, and what is left of the service then
    age = (service[busy, None] * share[0]).ravel()
    rest = (service[busy, None] * share[1]).ravel()
    mass = (fresh[busy, None] * weight).ravel()
    ahead = _poisson_table(rate * age) * mass

    # the same for services of the largest batch, behind whom some may be waiting on
    full_age, full_rest = service[-1] * share[0], service[-1] * share[1]
    came = _poisson_table(rate * full_age) * weight
    cut = max(1, len(backlog) - int(np.searchsorted(np.cumsum(backlog[::-1]), _TAIL)))
    behind = np.zeros((cut + len(came) - 1, came.shape[1]))
    for offset, chance in enumerate(backlog[:cut]):
        if chance > 0:
            behind[offset : offset + len(came)] += chance * came

    # the last node has a negligible weight: the range must hold what follows it
    rounds = (max(len(behind), len(ahead)) - 1) // largest
    top = _upper(service, cv).max()
    longest = 2.0 * top + rounds * service[-1] + 5.0 * cv * service[-1] * np.sqrt(rounds)
    step = longest / (_BINS - 1)

    rows = max(len(behind), len(ahead))
    waits = np.zeros((rows, _BINS))
    for table, times in ((ahead, rest), (behind, full_rest)):
        _deposit(waits, table, times, step)
    chosen = np.fft.rfft(waits, axis=1)
    one_full = np.fft.rfft(_service_pmf(float(service[-1]), cv, step))
    place, full = np.arange(rows) % largest, np.arange(rows) // largest
    positions = np.zeros((largest, chosen.shape[1]), dtype=np.complex128)
    power = np.ones_like(one_full)
    for number in range(int(full[-1]) + 1):
        here = np.flatnonzero(full == number)
        positions[place[here]] += chosen[here] * power
        power = power * one_full
    # (b, bins): place within the batch, and the time until it starts
    until = np.maximum(np.fft.irfft(positions, _BINS, axis=1), 0.0)

    # who comes until then joins the batch
    joining = _poisson_table(rate * step * np.arange(_BINS), largest)
    batches = np.zeros((largest, _BINS))
    for position in range(largest):
        room = largest - 1 - position
        batches[position : largest - 1] += until[position] * joining[:room]
        batches[-1] += until[position] * np.maximum(1.0 - joining[:room].sum(axis=0), 0.0)
    batches[0, 0] += idle

    total = np.zeros(_BINS // 2 + 1, dtype=np.complex128)
    for size in np.flatnonzero(batches.sum(axis=1) > _TAIL / largest):
        pmf = _service_pmf(float(service[size]), cv, step)
        total += np.fft.rfft(batches[size]) * np.fft.rfft(pmf)
    pmf = np.maximum(np.fft.irfft(total, _BINS), 0.0)
    return pmf / pmf.sum(), step


def _moments(cv: float) -> tuple[tuple[FloatArray, FloatArray], FloatArray]:
    """Nodes of the age and the rest of the service that an arrival finds, over its mean; weights.

    The service that an arrival falls into is length-biased (a gamma of shape k becomes one of
    k + 1), and the arrival is uniform in it.
    """
    from scipy.special import gammaincinv

    if cv < _DETERMINISTIC:
        lengths, chances, ages = np.ones(1), np.ones(1), 128
    else:
        edges = np.array([*np.linspace(0.0, 0.9, 10), 0.95, 0.98, 0.99, 0.997, 0.999, 1.0])
        middle = (edges[1:] + edges[:-1]) / 2.0
        shape = cv**-2
        lengths = gammaincinv(shape + 1.0, middle) / shape
        chances = np.diff(edges)
        lengths *= (1.0 + cv**2) / (lengths @ chances)
        ages = 12
    # each length has its own offset, so that the rests of all lie densely
    offset = (np.arange(len(lengths)) * 0.6180339887 + 0.5) % 1.0
    part = (np.arange(ages)[None, :] + offset[:, None]) / ages
    age = (lengths[:, None] * part).ravel()
    rest = (lengths[:, None] * (1.0 - part)).ravel()
    return (age, rest), np.repeat(chances / ages, ages)


def _poisson_table(mean: FloatArray, most: int | None = None) -> FloatArray:
    """Poisson probabilities of 0, 1, … (rows) for each mean (columns); all that matter."""
    from scipy.special import gammaln

    highest = float(mean.max()) if len(mean) else 0.0
    rows = int(highest + 6.0 * np.sqrt(highest) + 8.0) if most is None else most
    count = np.arange(rows)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.where(count > 0, count * np.log(mean[None, :]), 0.0)
    return np.asarray(np.exp(log - mean[None, :] - gammaln(count + 1.0)))


def _upper(service: FloatArray, cv: float) -> FloatArray:
    """Service times that are next to never exceeded, ms."""
    from scipy.special import gammaincinv

    if cv < _DETERMINISTIC:
        return service * 1.01
    return np.asarray(service * gammaincinv(cv**-2 + 1.0, 1.0 - _TAIL) * cv**2)


def _deposit(grid: FloatArray, table: FloatArray, times: FloatArray, step: float) -> None:
    """Add masses (n_rows, n_times) to a grid (rows, bins), split so that their means stay."""
    from scipy.sparse import csr_array

    if not len(times):
        return
    place = np.minimum(times / step, _BINS - 1.001)
    low = place.astype(np.int64)
    part = place - low
    spread = csr_array(
        (
            np.concatenate([1.0 - part, part]),
            (np.tile(np.arange(len(times)), 2), np.concatenate([low, low + 1])),
        ),
        shape=(len(times), _BINS),
    )
    grid[: len(table)] += table @ spread


def _service_pmf(mean: float, cv: float, step: float) -> FloatArray:
    """A service time on the grid, shape (bins,), with its mean kept."""
    from scipy.special import gammainc

    pmf = np.zeros(_BINS)
    if cv * mean < 0.5 * step or cv < _DETERMINISTIC:
        low = int(mean / step)
        part = mean / step - low
        pmf[low], pmf[low + 1] = 1.0 - part, part
        return pmf
    reach = mean * (1.0 + cv * (9.0 + 14.0 * cv)) / step
    first = max(0, int(mean * (1.0 - 9.0 * cv) / step))
    last = min(_BINS, int(reach) + 2)
    # each moment is split between its neighbours on the grid: second differences of E[(x - S)+]
    time = np.maximum(np.arange(first - 1, last + 1) * step, 0.0)
    shape = cv**-2
    scaled = time * shape / mean
    early = time * gammainc(shape, scaled) - mean * gammainc(shape + 1.0, scaled)
    pmf[first:last] = np.maximum(np.diff(early, 2), 0.0)
    return np.asarray(pmf / pmf.sum())


def _summary(
    pmf: FloatArray, step: float, percentiles: FloatArray, decay: float
) -> tuple[FloatArray, float]:
    """Percentiles and mean of a distribution on a grid, ms: mass lies evenly around its point.

    What the grid lacks of 1 follows its end, and falls off exponentially with ``decay``, 1/ms.
    """
    cdf = np.concatenate([[0.0], np.cumsum(pmf)])
    # the least that is ever met, not the rounding before it
    wanted = np.maximum(percentiles / 100.0, 1e-9)
    bin_ = np.clip(np.searchsorted(cdf, wanted), 1, len(pmf))
    part = np.clip((wanted - cdf[bin_ - 1]) / np.maximum(pmf[bin_ - 1], 1e-300), 0.0, 1.0)
    end = (len(pmf) - 0.5) * step
    rest = max(1.0 - float(cdf[-1]), 0.0)
    quantiles = np.maximum((bin_ - 1.5 + part) * step, 0.0)
    mean = float(pmf @ np.arange(len(pmf))) * step
    if rest > _TAIL:
        beyond = wanted > cdf[-1]
        quantiles[beyond] = end + np.log(rest / (1.0 - wanted[beyond])) / decay
        mean += rest * (end + 1.0 / decay)
    return np.asarray(quantiles), mean
