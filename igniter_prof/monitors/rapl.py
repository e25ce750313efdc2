"""The monitor ``rapl``: energy of the host's processors, from the kernel's powercap files.

Intel's and AMD's counters are both under ``intel-rapl`` there (kernel.org,
Documentation/power/powercap/powercap.rst). They count microjoules and start again from zero after
``max_energy_range_uj``: minutes at full load, so they are read ten times a second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.monitors.contract import Counted, Scene, Seen
from igniter_prof.monitors.power.energy import longest_gap_ns
from igniter_prof.monitors.sampling import Sampler
from igniter_prof.records import Device, HostPower
from igniter_prof.units import NS_PER_S, UJ_PER_J

POWERCAP: Final = Path("/sys/class/powercap")
RATE_HZ: Final = 10.0
LONGEST_GAP_NS: Final = NS_PER_S


@dataclass(frozen=True)
class Domain:
    """One energy counter."""

    name: str
    """Such as ``package-0`` or ``dram``; with several packages ``package-1/dram``."""
    counter: Path
    range_uj: int | None
    """Where it starts again from zero; None: it is not told."""


def rapl(device: Device, argument: str | None) -> RaplMonitor:
    """The monitor of the host's processors.

    Raises:
        MissingCapability: there are no counters here, they may not be read, or the device is on
            another host.
        BadInput: it takes no argument.
    """
    if argument is not None:
        raise BadInput("the monitor 'rapl' takes no argument", where=f"'rapl:{argument}'")
    if device.elsewhere:
        raise MissingCapability(
            f"the processors of {device.elsewhere} cannot be read from here",
            hint="run igprof on that host",
        )
    return RaplMonitor(domains())


def domains(folder: Path = POWERCAP) -> tuple[Domain, ...]:
    """The counters of this host.

    The same package may be there twice, by machine registers and by memory (``intel-rapl-mmio``):
    then the first counts.

    Raises:
        MissingCapability: there are none, or they may not be read.
    """
    zones = sorted(path.parent for path in folder.glob("intel-rapl*:*/energy_uj"))
    by_register = [zone for zone in zones if zone.name.startswith("intel-rapl:")]
    zones = by_register or zones
    if not zones:
        raise MissingCapability(
            "this machine shows no energy counters of its processors",
            where=str(folder),
            hint="virtual machines have none; elsewhere: sudo modprobe intel_rapl_msr",
        )
    try:
        plain = {zone.name: (zone / "name").read_text().strip() for zone in zones}
        found = []
        for zone in zones:
            counter = zone / "energy_uj"
            _read_uj(counter)
            name = plain[zone.name]
            if list(plain.values()).count(name) > 1:
                parent = zone.name.rpartition(":")[0]
                name = f"{plain.get(parent, zone.name)}/{name}"
            limit = zone / "max_energy_range_uj"
            range_uj = _read_uj(limit) if limit.exists() else None
            found.append(Domain(name, counter, range_uj))
    except PermissionError as error:
        raise MissingCapability(
            "the energy counters of the processors may not be read",
            where=str(error.filename),
            hint=f"sudo chmod a+r {folder}/*/energy_uj",
        ) from error
    except (OSError, ValueError) as error:
        raise MissingCapability(
            f"the energy counters of the processors cannot be read ({error})", where=str(folder)
        ) from error
    return tuple(found)


class RaplMonitor:
    """Samples the counters during one cell."""

    def __init__(self, found: tuple[Domain, ...], rate_hz: float = RATE_HZ) -> None:
        self._domains = found
        self._rows: list[tuple[int, ...]] = []
        self._sampler = Sampler(self._take, rate_hz)

    def __enter__(self) -> RaplMonitor:
        """Nothing to begin: a counter needs no baseline."""
        return self

    def attach(self, scene: Scene) -> None:
        """Begin to sample, on the monitors' cores."""
        self._sampler.start("igprof-rapl", scene.cores)

    def seen(self, window: Counted) -> Seen:
        """Energy and mean power of each domain in the window."""
        self._sampler.look()
        trace = np.array(list(self._rows), dtype=self._dtype())
        seen = host_power(trace, self._domains, window)
        if (trouble := self._sampler.trouble) is not None:
            return Seen(seen.tenants, seen.fields, seen.traces, False, (trouble, *seen.notes))
        return seen

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop sampling."""
        self._sampler.stop()

    def _take(self) -> None:
        at_ns = time.monotonic_ns()
        try:
            row = (at_ns, *(_read_uj(domain.counter) for domain in self._domains))
        except (OSError, ValueError) as error:
            raise OutsideFailure(f"an energy counter went away ({error})") from error
        self._rows.append(row)

    def _dtype(self) -> np.dtype[np.void]:
        return np.dtype([("at_ns", "<i8"), *((domain.name, "<i8") for domain in self._domains)])


def host_power(trace: NDArray[np.void], found: tuple[Domain, ...], window: Counted) -> Seen:
    """Energy and mean power of each domain in a window; between samples it is interpolated.

    Args:
        trace: (n,) ``at_ns`` and, by the domain's name, its counter in microjoules as it was read.
        found: the domains.
        window: the counted window.
    """
    window_s = (window.end_ns - window.start_ns) / NS_PER_S
    energy_j: dict[str, float] = {}
    notes = []
    covers = (
        len(trace) > 1
        and trace["at_ns"][0] <= window.start_ns
        and trace["at_ns"][-1] >= window.end_ns
        and longest_gap_ns(trace["at_ns"], window.start_ns, window.end_ns) <= LONGEST_GAP_NS
    )
    if not covers:
        notes.append("the samples of the energy counters do not cover the window")
        found = ()
    for domain in found:
        total_uj = unwrapped_uj(trace[domain.name], domain.range_uj)
        if total_uj is None:
            notes.append(f"the counter {domain.name} started again, at a value that is not told")
            continue
        low, high = np.interp([window.start_ns, window.end_ns], trace["at_ns"], total_uj)
        energy_j[domain.name] = float(high - low) / UJ_PER_J
    power_w = {name: joules / window_s for name, joules in energy_j.items()}
    fields = {"host_power": HostPower(energy_j=energy_j, power_mean_w=power_w)}
    return Seen(
        fields=fields if energy_j else {},
        traces={"rapl": trace},
        complete=not notes,
        notes=tuple(notes),
    )


def unwrapped_uj(counts: NDArray[np.int64], range_uj: int | None) -> NDArray[np.int64] | None:
    """A counter that starts again from zero as one that only rises, from its first value on.

    Args:
        counts: (n,) as read, at most one turn apart.
        range_uj: where it starts again; None: not known.

    Returns:
        (n,), microjoules since the first; None where it fell and the range is not known.
    """
    steps = np.diff(counts)
    if (steps < 0).any():
        if range_uj is None:
            return None
        steps = np.where(steps < 0, steps + range_uj, steps)
    return np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)


def _read_uj(path: Path) -> int:
    return int(path.read_text())
