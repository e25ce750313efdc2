"""A discrete-event simulation of a plan: requests arrive, batches form, neighbours come and go.

Each tenant has a queue and a dynamic batcher: when it is free it takes up to its batch size of
waiting requests at once (after its queue delay, if it has one). A batch of n takes the time that
the latency model predicts beside the neighbours that are busy just then, with the batches that
they are executing; whenever a neighbour starts or ends one, the rest of the batch goes on at its
new speed. docs/simulation.md says why so, and what is left out.

Devices do not know of each other. Times are ms.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Literal

import numpy as np
import numpy.typing as npt

from igniter_prof.errors import BadInput
from igniter_prof.provisioning.interface import Predictor
from igniter_prof.provisioning.names import known_as
from igniter_prof.records import Arrival, Plan, PlanDevice, Tenant
from igniter_prof.statistics import student_t
from igniter_prof.units import MS_PER_S, US_PER_MS

Floats = npt.NDArray[np.float64]
Neighbours = Literal["busy", "always"]
Loading = Literal["serial", "overlapped"]
Verdict = Literal["kept", "missed", "open"]

BLOCKS = 10
"""A window is cut into that many parts, whose shares of late requests tell the sampling error."""

CONFIDENCE = 0.999
"""Of the interval that a verdict rests on: many workloads are judged at once."""


@dataclass(frozen=True)
class Served:
    """One tenant of a device and the traffic that it was planned for."""

    workload: str
    tenant: Tenant
    rate_rps: float
    slo_ms: float
    percentile: float
    arrival: Arrival = "poisson"
    burstiness: float | None = None
    queue_delay_us: int = 0
    cv: float = 0.0
    """Standard deviation over mean of single batches, gamma distributed."""


@dataclass(frozen=True)
class Room:
    """A device: its tenants, and the latency model of its type."""

    name: str
    tenants: tuple[Served, ...]
    predictor: Predictor


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How long to simulate, and what a batch meets.

    ``neighbours``: ``busy`` counts those that execute a batch just then, ``always`` takes all of
    them to execute full batches all the time (what a planner assumes). ``loading``: ``serial``
    starts a batch when the one before has ended; ``overlapped`` loads its inputs while that one
    computes, as the predicted throughput has it. Each seed is one run of ``warmup_s`` that do not
    count and ``window_s`` that do; a device gets ``least_seeds`` runs, and further ones up to
    ``most_seeds`` while a verdict on it is open.
    """

    neighbours: Neighbours = "busy"
    loading: Loading = "serial"
    window_s: float = 30.0
    warmup_s: float = 3.0
    least_seeds: int = 2
    most_seeds: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What one tenant's requests met. Intervals are of ``CONFIDENCE``; times are ms."""

    workload: str
    device: str
    requests: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    percentile_ms: float
    """At the SLO's percentile."""
    percentile_low_ms: float
    percentile_high_ms: float
    over_pct: float
    """Requests over the SLO, in percent of all."""
    over_low_pct: float
    over_high_pct: float
    mean_batch: float
    verdict: Verdict
    """``kept`` or ``missed`` if the whole interval of ``over_pct`` says so, else ``open``."""


@dataclass(frozen=True)
class Batches:
    """The batches of one tenant in the order of their ends: how many requests, and when."""

    sizes: list[int]
    ends_ms: list[float]


# --- from a plan ------------------------------------------------------------------------------


def rooms(
    plan: Plan, predictors: Mapping[str | None, Predictor], *, arrival: Arrival | None = None
) -> list[Room]:
    """A plan's devices, ready to be simulated.

    Args:
        plan: with or without device types.
        predictors: by the name of the device type; None: of devices that name none.
        arrival: of all requests; None: as each workload was planned for.

    Raises:
        BadInput: a device of another type, a model that its coefficients do not know, or a tenant
            with several instances, whose batches would share one queue.
    """
    return [_room(device, predictors, arrival) for device in plan.devices]


def _room(
    device: PlanDevice, predictors: Mapping[str | None, Predictor], arrival: Arrival | None
) -> Room:
    if device.type not in predictors:
        raise BadInput(f"no coefficients for the type '{device.type}'", where=device.name)
    predictor = predictors[device.type]
    known = set(predictor.models)
    tenants = []
    for planned in device.tenants:
        model = known_as(planned.model, known)
        if model is None:
            raise BadInput(f"the coefficients know no model '{planned.model}'", where=device.name)
        if planned.instances != 1:
            raise BadInput(
                f"'{planned.workload}' has {planned.instances} instances; one can be simulated",
                where=device.name,
            )
        tenants.append(
            Tenant(model=model, batch_size=planned.batch_size, share_pct=planned.share_pct)
        )
    (predicted,) = predictor.predict([tenants])
    return Room(
        device.name,
        tuple(
            Served(
                workload=planned.workload,
                tenant=tenant,
                rate_rps=planned.rate_rps,
                slo_ms=planned.slo_ms,
                percentile=planned.percentile,
                arrival=arrival or planned.arrival,
                burstiness=planned.burstiness,
                queue_delay_us=planned.queue_delay_us,
                cv=prediction.cv,
            )
            for planned, tenant, prediction in zip(device.tenants, tenants, predicted, strict=True)
        ),
        predictor,
    )


# --- arrivals and service times ---------------------------------------------------------------


def arrivals_ms(
    served: Served, until_ms: float, draw: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Instants at which requests arrive, ascending, (n,), ms, up to ``until_ms``.

    ``constant`` starts at a random phase; ``bursty`` is a renewal process with gamma gaps, whose
    squared coefficient of variation is ``burstiness``.

    Raises:
        BadInput: bursty arrivals without a burstiness.
    """
    gap = MS_PER_S / served.rate_rps
    if served.arrival == "constant":
        return np.asarray(np.arange(draw.random() * gap, until_ms, gap))
    if served.arrival == "poisson":
        shape = 1.0
    elif served.burstiness is not None:
        shape = 1.0 / served.burstiness
    else:
        raise BadInput("bursty arrivals need a burstiness", where=served.workload)
    expected = until_ms / gap
    chunk = int(expected + 5.0 * math.sqrt(expected / shape)) + 16
    found = np.zeros(0)
    last = 0.0
    while last < until_ms:
        more = last + np.cumsum(draw.gamma(shape, gap / shape, chunk))
        found = np.concatenate([found, more])
        last = float(more[-1])
    return found[: np.searchsorted(found, until_ms)]


Executing = tuple[int, ...]
"""The sizes of the batches that a device's tenants execute, in their order; 0: idle."""

Durations = Callable[[Executing], Sequence[float]]
"""How long whole batches take if all goes on as it is, ms, by tenant; of idle ones anything."""


class ServiceTimes:
    """Batch latencies by what a device executes; what was asked once is remembered."""

    def __init__(self, predictor: Predictor, conduct: Conduct) -> None:
        self._predictor = predictor
        self._always = conduct.neighbours == "always"
        self._overlapped = conduct.loading == "overlapped"
        self._known: dict[object, list[float]] = {}
        self._loading: dict[object, list[float]] = {}

    def on(self, tenants: Sequence[Tenant]) -> Durations:
        """Those of one device's tenants, without what ``overlapped_ms`` says."""
        answered: dict[Executing, list[float]] = {}

        def durations(executing: Executing) -> list[float]:
            found = answered.get(executing)
            if found is None:
                found = answered[executing] = self._durations(tenants, executing)
            return found

        return durations

    def _durations(self, tenants: Sequence[Tenant], executing: Executing) -> list[float]:
        beside = [
            tenant if self._always or size == tenant.batch_size else _resized(tenant, size)
            for tenant, size in zip(tenants, executing, strict=True)
        ]
        busy = [k for k, size in enumerate(executing) if self._always or size]
        return [
            self._of(tenants[k], [beside[j] for j in busy if j != k])[size - 1] if size else 0.0
            for k, size in enumerate(executing)
        ]

    def _of(self, own: Tenant, beside: Sequence[Tenant]) -> list[float]:
        """How long a batch of 1, 2, … the batch size beside others takes: (batch_size,), ms."""
        key = (_key(own), tuple(sorted(map(_key, beside))))
        if key not in self._known:
            takes = self._predictor.service_ms(own, beside) - np.array(self.overlapped_ms(own))
            self._known[key] = takes.tolist()
        return self._known[key]

    def overlapped_ms(self, own: Tenant) -> list[float]:
        """The part of a batch's latency in which the one before still computes: (batch_size,), ms.

        It is what the predicted latency has over the time that the throughput leaves to a batch,
        and none with serial loading.
        """
        if not self._overlapped:
            return [0.0] * own.batch_size
        key = _key(own)
        if key not in self._loading:
            sizes = range(1, own.batch_size + 1)
            predicted = self._predictor.predict([[_resized(own, size)] for size in sizes])
            self._loading[key] = [
                of.latency_ms - MS_PER_S * size / of.throughput_rps
                for size, (of,) in zip(sizes, predicted, strict=True)
            ]
        return self._loading[key]


def _key(tenant: Tenant) -> tuple[str, int, float]:
    return tenant.model, tenant.batch_size, tenant.share_pct or 0.0


def _resized(tenant: Tenant, size: int) -> Tenant:
    # what executes nothing is asked for by nobody
    return tenant.model_copy(update={"batch_size": max(size, 1)})


# --- the events of one device -----------------------------------------------------------------


def serve(
    arrivals: Sequence[list[float]],
    largest: Sequence[int],
    factors: Sequence[list[float]],
    durations: Durations,
    delays_ms: Sequence[float] | None = None,
) -> list[Batches]:
    """Serve every request of one device's tenants; ends when the last one is answered.

    Args:
        arrivals: by tenant, ascending, ms.
        largest: batch, by tenant.
        factors: by tenant, of the duration of its first, second, … batch; as many as arrivals do.
        durations: see there.
        delays_ms: how long each batcher may hold a request back for more to come; None: not at all.
    """
    everyone = range(len(arrivals))
    delays = [0.0] * len(arrivals) if delays_ms is None else delays_ms
    done = [Batches([], []) for _ in everyone]
    head = [0] * len(arrivals)  # its first request that no batch has taken
    running = [0] * len(arrivals)
    left = [0.0] * len(arrivals)  # of the running batch's duration, as a part of it
    since = [0.0] * len(arrivals)  # when that was so
    takes = [1.0] * len(arrivals)
    # the next thing that happens to each: its batch ends, or it starts one
    due = [_ready(arrivals[k], 0, largest[k], delays[k]) for k in everyone]
    while True:
        now = min(due)
        if now == math.inf:
            return done
        k = due.index(now)
        before = running[k]
        if before:
            done[k].sizes.append(before)
            done[k].ends_ms.append(now)
        own, first = arrivals[k], head[k]
        ready = _ready(own, first, largest[k], delays[k])
        if ready <= now:
            size = bisect_right(own, now, first, min(first + largest[k], len(own))) - first
            left[k] = factors[k][len(done[k].sizes)]
            since[k] = now
            head[k] = first + size
        else:
            size = 0
            due[k] = ready
        running[k] = size
        if size != before:
            anew = durations(tuple(running))
            for j in everyone:
                if running[j]:
                    if j != k:
                        left[j] = max(left[j] - (now - since[j]) / takes[j], 0.0)
                        since[j] = now
                    takes[j] = anew[j]
                    due[j] = now + left[j] * anew[j]
        else:
            due[k] = now + left[k] * takes[k]


def _ready(own: list[float], first: int, largest: int, delay_ms: float) -> float:
    """When a free tenant may start its next batch; never (inf) if no request is left."""
    if first >= len(own):
        return math.inf
    if not delay_ms:
        return own[first]
    full = first + largest - 1
    return min(own[first] + delay_ms, own[full] if full < len(own) else math.inf)


# --- what the requests met --------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """The counted requests of one tenant: latencies and the part of the window that they are of."""

    latency_ms: Floats
    block: npt.NDArray[np.int64]
    mean_batch: float

    @staticmethod
    def joined(runs: Sequence[Seen]) -> Seen:
        """Of several runs."""
        blocks = [run.block + BLOCKS * number for number, run in enumerate(runs)]
        return Seen(
            np.concatenate([run.latency_ms for run in runs]),
            np.concatenate(blocks),
            float(np.mean([run.mean_batch for run in runs])),
        )


def latencies_ms(arrivals: Floats, batches: Batches, after_ms: Sequence[float]) -> Floats:
    """Of each request, in the order of arrival: (n,), ms.

    ``after_ms``: (batch_size,) what follows the end of a batch of 1, 2, …
    """
    sizes = np.array(batches.sizes, dtype=int)
    ends = np.array(batches.ends_ms) + np.array(after_ms)[sizes - 1]
    return np.repeat(ends, sizes) - arrivals


def run_once(room: Room, times: ServiceTimes, conduct: Conduct, number: int) -> list[Seen]:
    """One run of a device.

    A workload's arrivals depend on the seed, the run and its name only: plans that place the same
    workloads differently meet the same requests.
    """
    begin = conduct.warmup_s * MS_PER_S
    end = begin + conduct.window_s * MS_PER_S
    # requests go on after the window, so that its last ones meet what the others met
    until = end + 2.0 * max(served.slo_ms for served in room.tenants)
    arrivals, factors = [], []
    for served in room.tenants:
        draw = np.random.default_rng([conduct.seed, number, zlib.crc32(served.workload.encode())])
        instants = arrivals_ms(served, until, draw)
        arrivals.append(instants)
        factors.append(_factors(served.cv, len(instants), draw))
    batches = serve(
        [instants.tolist() for instants in arrivals],
        [served.tenant.batch_size for served in room.tenants],
        factors,
        times.on([served.tenant for served in room.tenants]),
        [served.queue_delay_us / US_PER_MS for served in room.tenants],
    )
    seen = []
    for served, instants, taken in zip(room.tenants, arrivals, batches, strict=True):
        counted = (instants >= begin) & (instants < end)
        part = (instants[counted] - begin) / (end - begin) * BLOCKS
        seen.append(
            Seen(
                latencies_ms(instants, taken, times.overlapped_ms(served.tenant))[counted],
                np.minimum(part.astype(np.int64), BLOCKS - 1),
                len(instants) / len(taken.sizes) if taken.sizes else 0.0,
            )
        )
    return seen


def _factors(cv: float, count: int, draw: np.random.Generator) -> list[float]:
    if cv <= 0:
        return [1.0] * count
    factors: list[float] = draw.gamma(cv**-2, cv**2, count).tolist()
    return factors


def share_interval(hit: npt.NDArray[np.bool_], block: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Interval of the share of requests that something holds for, in 0 to 1.

    Wilson's score interval (it does not vanish where nothing was hit), for as many independent
    requests as scatter between blocks like these do: neighbouring requests are alike (the design
    effect of cluster sampling; Kish 1965, "Survey Sampling", chapter 5).

    Args:
        hit: (n,) of each request.
        block: (n,) its part of the run.
    """
    total, share = len(hit), float(hit.mean())
    counts = np.bincount(block)
    scatter = np.bincount(block, weights=hit) - share * counts
    number = max(int(np.count_nonzero(counts)), 2)
    plain = share * (1.0 - share) * total
    effect = float(scatter @ scatter) * number / (number - 1) / plain if plain > 0 else 1.0
    square = student_t(number - 1, CONFIDENCE) ** 2 / total * max(effect, 1.0)
    middle = (share + square / 2.0) / (1.0 + square)
    half = math.sqrt(square * share * (1.0 - share) + square**2 / 4.0) / (1.0 + square)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def outcome(served: Served, device: str, seen: Seen) -> Outcome:
    """From the requests of one tenant to its verdict.

    The percentile's interval follows from that of the share of requests above it.

    Raises:
        BadInput: no request fell into the window.
    """
    latency = seen.latency_ms
    if not len(latency):
        raise BadInput(
            f"no request of '{served.workload}' ({served.rate_rps:g}/s) fell into the window",
            hint="simulate longer",
        )
    late = latency > served.slo_ms * (1.0 + 1e-9)
    low, high = share_interval(late, seen.block)
    allowed = 1.0 - served.percentile / 100.0 + 1e-12
    value = float(np.percentile(latency, served.percentile))
    above_low, above_high = share_interval(latency > value, seen.block)
    ends = np.quantile(latency, [1.0 - above_high, 1.0 - above_low])
    return Outcome(
        workload=served.workload,
        device=device,
        requests=len(latency),
        mean_ms=float(latency.mean()),
        p50_ms=float(np.median(latency)),
        p99_ms=float(np.percentile(latency, 99.0)),
        percentile_ms=value,
        percentile_low_ms=float(ends[0]),
        percentile_high_ms=float(ends[1]),
        over_pct=100.0 * float(late.mean()),
        over_low_pct=100.0 * low,
        over_high_pct=100.0 * high,
        mean_batch=seen.mean_batch,
        verdict="kept" if high <= allowed else "missed" if low > allowed else "open",
    )


# --- plans ------------------------------------------------------------------------------------


def simulate_device(room: Room, times: ServiceTimes, conduct: Conduct) -> list[Outcome]:
    """Run a device until each verdict on it is clear, or its seeds are used up."""
    runs: list[list[Seen]] = []
    while True:
        runs.append(run_once(room, times, conduct, len(runs)))
        if len(runs) < conduct.least_seeds:
            continue
        found = [
            outcome(served, room.name, Seen.joined([run[k] for run in runs]))
            for k, served in enumerate(room.tenants)
        ]
        if len(runs) >= conduct.most_seeds or all(each.verdict != "open" for each in found):
            return found


def simulate(devices: Sequence[Room], conduct: Conduct, *, processes: int = 1) -> list[Outcome]:
    """What each tenant's requests meet, in the order of the devices and their tenants."""
    if processes <= 1 or len(devices) < 2:
        return _simulate_some(devices, conduct)
    # a fork inherits them, as predictors cannot be sent
    with ProcessPoolExecutor(
        processes, get_context("fork"), initializer=_inherited.extend, initargs=(devices,)
    ) as pool:
        # dealt out like cards: devices alike often stand side by side
        work = partial(_simulate_hand, processes=processes, conduct=conduct)
        hands = list(pool.map(work, range(processes)))
    place = {room.name: number for number, room in enumerate(devices)}
    return sorted((each for hand in hands for each in hand), key=lambda each: place[each.device])


_inherited: list[Room] = []
"""In a process that simulates a part of a plan: all of its devices."""


def _simulate_hand(start: int, processes: int, conduct: Conduct) -> list[Outcome]:
    return _simulate_some(_inherited[start::processes], conduct)


def _simulate_some(devices: Iterable[Room], conduct: Conduct) -> list[Outcome]:
    times: dict[int, ServiceTimes] = {}
    found = []
    for room in devices:
        service = times.setdefault(id(room.predictor), ServiceTimes(room.predictor, conduct))
        found += simulate_device(room, service, conduct)
    return found
