"""The monitor ``nvml``: power, energy, clocks and memory of a GPU or MIG slice, by its UUID.

::

    __enter__      attach            window opens      window closes   seen
    │ bare idle    │ idle with       │                 │               │
    │ (first cell) │ contexts        │ warm-up ...     │ drain         │
    ├──────────────┼────────┬────────┼─────────────────┼───────────────┤
    └ samples, 50 a second, in a thread of its own ────────────────────┘

``python -m igniter_prof.monitors.nvml --record FILE --seconds N`` records a trace without a sweep.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final

from igniter_prof.errors import MissingCapability, OutsideFailure
from igniter_prof.monitors.contract import Counted, Scene, Seen
from igniter_prof.monitors.power import TraceInfo, analyse
from igniter_prof.monitors.power.analysis import AVERAGED_S, mean_power_w
from igniter_prof.monitors.power.buffer import Buffer
from igniter_prof.monitors.power.card import Card, nvml_library, start
from igniter_prof.monitors.sampling import Sampler, rate_of
from igniter_prof.records import Device, Tenant
from igniter_prof.units import NS_PER_MS, NS_PER_S

RATE_HZ: Final = 50.0
LEAST_HZ, MOST_HZ = 20.0, 200.0
BARE_IDLE_S: Final = 1.5
CONTEXT_IDLE_S: Final = 1.0
SETTLE_S: Final = 0.3
"""After the window, for the counter's and the sensor's next update."""
LONGEST_REST_S: Final = 0.5
OLD_S: Final = 600.0
"""A bare idle power older than that is told with its age."""


@dataclass(frozen=True)
class BareIdle:
    """What a card used before any tenant ran, and when that was measured."""

    power_w: float
    at_ns: int


_BARE_IDLE: dict[str, BareIdle] = {}
"""By the card's UUID, once a process."""


def nvml(device: Device, argument: str | None) -> NvmlMonitor:
    """The monitor of a GPU; ``nvml:HZ`` samples at another rate than 50 a second.

    Raises:
        MissingCapability: the device is no GPU, there is no driver, or it tells no power.
        BadInput: the rate is no number from 20 to 200.
    """
    rate_hz = rate_of(argument, RATE_HZ, MOST_HZ, "nvml", LEAST_HZ)
    if device.kind != "cuda":
        raise MissingCapability(
            f"the monitor 'nvml' needs a GPU, and the device is {device.id}",
            hint="--device cuda:0; for CPU power there is the monitor rapl",
        )
    library = nvml_library()
    uuid = device.id.partition(":")[2]
    start(library)
    try:
        Card(library, uuid)
    except OutsideFailure as error:
        raise MissingCapability(error.what, hint="nvidia-smi; it may need a reboot") from error
    finally:
        library.nvmlShutdown()
    return NvmlMonitor(library, uuid, rate_hz)


@dataclass(frozen=True)
class ContextIdle:
    """What a card used with some servers ready and no load."""

    servers: tuple[int, ...]
    """Their processes."""
    power_w: float


_CONTEXT_IDLE: dict[str, ContextIdle] = {}
"""By the card's UUID: of the last cell. Servers that go on to the next are not waited for again."""


class NvmlMonitor:
    """Samples one GPU during one cell."""

    def __init__(
        self,
        library: Any,
        uuid: str,
        rate_hz: float = RATE_HZ,
        known_idle: dict[str, BareIdle] | None = None,
        *,
        bare_idle_s: float = BARE_IDLE_S,
        context_idle_s: float = CONTEXT_IDLE_S,
    ) -> None:
        self._library = library
        self._uuid = uuid
        self._rate_hz = rate_hz
        self._known_idle = _BARE_IDLE if known_idle is None else known_idle
        self._idle_s = (bare_idle_s, context_idle_s)
        self._stack = contextlib.ExitStack()
        self._buffer = Buffer()
        self._sampler = Sampler(self._take, rate_hz)
        self._read_s = 0.0
        self._cores: Sequence[int] = ()
        self._info = TraceInfo()
        self._tenants: list[Tenant] = []
        self._notes: list[str] = []

    def __enter__(self) -> NvmlMonitor:
        """Begin to sample, and take the bare idle power if it is not known yet."""
        with contextlib.ExitStack() as stack:
            start(self._library)
            stack.callback(self._library.nvmlShutdown)
            self._card = Card(self._library, self._uuid)
            self._info = self._card.info
            stack.callback(self._sampler.stop)  # before the shutdown
            self._sampler.start("igprof-nvml")
            self._bare_idle()
            self._stack = stack.pop_all()
        return self

    def attach(self, scene: Scene) -> None:
        """Take the idle power with the tenants' contexts; keep to the monitors' cores."""
        self._cores = scene.cores
        self._tenants = [endpoint.tenant for endpoint in scene.endpoints]
        idle_w = self._context_idle_w([endpoint.pid for endpoint in scene.endpoints])
        self._info = self._info.model_copy(update={"context_idle_w": idle_w})

    def seen(self, window: Counted) -> Seen:
        """Power, energy and state in the window, and each tenant's estimated part."""
        self._wait_until(window.end_ns + int(SETTLE_S * NS_PER_S))
        trace = self._buffer.trace()
        seen = analyse(trace, self._info, window, self._tenants)
        notes = [*self._notes, *self._rate_notes(seen), *seen.notes]
        trouble = self._sampler.trouble
        if trouble is not None:
            notes.insert(0, trouble)
        return replace(
            seen,
            traces={"nvml": trace},
            complete=seen.complete and trouble is None,
            notes=tuple(notes),
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop sampling and let go of the driver."""
        self._stack.close()

    def _take(self) -> None:
        if self._cores:
            with contextlib.suppress(OSError):  # cores that went away since
                os.sched_setaffinity(0, self._cores)  # 0: of this thread alone
            self._cores = ()
        began = time.monotonic()
        self._buffer.append(self._card.read())
        self._read_s = time.monotonic() - began
        # a driver that is slow to answer is not asked all the time: at most half of it
        if self._read_s > 0.5 / self._rate_hz:
            time.sleep(min(self._read_s, LONGEST_REST_S))

    def _bare_idle(self) -> None:
        """The card's power before any tenant; with others' processes on it, there is none."""
        board = self._card.board_uuid
        idle = self._known_idle.get(board)
        processes = self._card.processes()
        if idle is None and processes == 0:
            power_w = self._mean_w(self._idle_s[0])
            if power_w is not None:
                idle = self._known_idle[board] = BareIdle(power_w, time.monotonic_ns())
        if idle is None:
            held = "it is not told whether" if processes is None else str(processes)
            self._notes.append(f"no bare idle power: {held} processes hold the card")
            return
        self._info = self._info.model_copy(update={"bare_idle_w": idle.power_w})
        age_s = (time.monotonic_ns() - idle.at_ns) / NS_PER_S
        if age_s > OLD_S:
            self._notes.append(f"the bare idle power was measured {age_s / 60:.0f} min before")

    def _context_idle_w(self, pids: Sequence[int | None]) -> float | None:
        """The power with the tenants ready; of servers of the cell before, what it was then."""
        servers = tuple(pid for pid in pids if pid is not None)
        known = _CONTEXT_IDLE.get(self._card.board_uuid)
        if known is not None and known.servers == servers and len(servers) == len(pids):
            return known.power_w
        power_w = self._mean_w(self._idle_s[1])
        if power_w is not None:
            _CONTEXT_IDLE[self._card.board_uuid] = ContextIdle(servers, power_w)
        return power_w

    def _mean_w(self, seconds: float) -> float | None:
        """The mean power of the next seconds; where readings lag, of those after what they show."""
        lag_s = AVERAGED_S if self._info.averaged else 0.0
        begin_ns = time.monotonic_ns() + int(lag_s * NS_PER_S)
        end_ns = begin_ns + int(seconds * NS_PER_S)
        self._wait_until(end_ns)
        return mean_power_w(self._buffer.trace(), begin_ns, end_ns)

    def _wait_until(self, instant_ns: int) -> None:
        """Until a sample was taken after that instant, or it cannot come any more."""
        limit_ns = instant_ns + NS_PER_S
        while self._buffer.last_ns < instant_ns and self._sampler.trouble is None:
            now_ns = time.monotonic_ns()
            if now_ns > limit_ns:
                return
            time.sleep(max(0.005, min(0.1, (instant_ns - now_ns) / NS_PER_S)))

    def _rate_notes(self, seen: Seen) -> list[str]:
        power = seen.fields.get("power")
        if power is None or power.interval_ms is None:
            return []
        rate_hz = NS_PER_S / NS_PER_MS / power.interval_ms
        if rate_hz > 0.8 * self._rate_hz:
            return []
        return [
            f"the driver answers slowly ({1000 * self._read_s:.0f} ms a sample): {rate_hz:.0f}"
            f" samples/s, not {self._rate_hz:g}"
        ]


if __name__ == "__main__":
    from igniter_prof.monitors.power.recording import main

    raise SystemExit(main())
