"""The monitors of one cell: entered, attached, asked, left; none of them can fail the cell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy.typing as npt

from igniter_prof import monitors
from igniter_prof.errors import IgprofError
from igniter_prof.monitors import Counted, Monitor, Scene, Seen
from igniter_prof.records import MEASURED, Device, MonitorReport, Tenant
from igniter_prof.serving import Deployment
from igniter_prof.session.accepted import checked
from igniter_prof.session.measuring import Window


@dataclass
class _Watcher:
    """One monitor, and what became of it."""

    name: str
    monitor: Monitor | None
    seen: Seen | None = None
    trouble: str | None = None


class Watch:
    """The monitors of one cell. A context; enter it before the tenants start."""

    def __init__(self, specs: Sequence[str], device: Device) -> None:
        self._specs = specs
        self._device = device
        self._stack = contextlib.ExitStack()
        self._watchers: list[_Watcher] = []
        self.traces: dict[str, npt.NDArray[Any]] = {}

    def __enter__(self) -> Watch:
        with contextlib.ExitStack() as stack:  # an interrupt leaves those that were entered
            for spec in self._specs:
                watcher = _Watcher(spec.partition(":")[0], None)
                self._watchers.append(watcher)
                with _noted(watcher):
                    monitor = monitors.make(spec, self._device)
                    if monitor is not None:
                        watcher.monitor = monitor.__enter__()
                        stack.callback(_leave, watcher)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def attach(self, deployment: Deployment, protocol: str, cores: tuple[int, ...]) -> None:
        """Let all monitors watch the endpoints; the load may start when this returns."""
        scene = Scene(
            device=self._device,
            endpoints=deployment.endpoints,
            protocol=protocol,
            cores=cores,
            usage=deployment.usage,
            headers=deployment.headers,
            ca_file=deployment.ca_file,
        )
        for watcher in self._watching():
            with _noted(watcher):
                assert watcher.monitor is not None
                watcher.monitor.attach(scene)

    def look(self, window: Window, tenants: Sequence[Tenant]) -> None:
        """Ask all monitors what they saw; call it while the tenants still run."""
        if window.start_ns is None or window.end_ns is None:
            return
        rows = [seen.rows for seen in window.tenants]
        counted = Counted(
            start_ns=window.start_ns,
            end_ns=window.end_ns,
            inferences=tuple(
                int(((part["phase"] == MEASURED) & (part["ok"] == 1)).sum()) * tenant.batch_size
                for part, tenant in zip(rows, tenants, strict=True)
            ),
            requests=tuple(rows),
        )
        for watcher in self._watching():
            with _noted(watcher):
                assert watcher.monitor is not None
                seen = checked(watcher.monitor.seen(counted), len(tenants))
                _expect_new(seen, self._all_seen(), self.traces)
                self.traces.update(seen.traces)
                watcher.seen = seen

    def tenant_fields(self, index: int) -> dict[str, Any]:
        """Fields of TenantMeasurement, of all monitors together."""
        return _merged(seen.tenants[index] for seen in self._all_seen() if seen.tenants)

    def fields(self) -> dict[str, Any]:
        """Fields of Measurement, of all monitors together, with a report on each."""
        found = _merged(seen.fields for seen in self._all_seen())
        return {**found, "monitors": tuple(_report(watcher) for watcher in self._watchers)}

    def _watching(self) -> list[_Watcher]:
        return [each for each in self._watchers if each.monitor is not None and not each.trouble]

    def _all_seen(self) -> list[Seen]:
        return [each.seen for each in self._watchers if each.seen is not None]


@contextlib.contextmanager
def _noted(watcher: _Watcher) -> Iterator[None]:
    """What goes wrong with a monitor is a note of its cell: the client's clock goes on."""
    try:
        yield
    except IgprofError as error:
        watcher.trouble = watcher.trouble or error.note
    except Exception as error:  # a plug-in may raise anything: that costs what it saw, no more
        watcher.trouble = watcher.trouble or f"{type(error).__name__}: {error}"


def _leave(watcher: _Watcher) -> None:
    with _noted(watcher):
        assert watcher.monitor is not None
        watcher.monitor.__exit__(None, None, None)


def _report(watcher: _Watcher) -> MonitorReport:
    if watcher.trouble is not None:
        notes = watcher.seen.notes if watcher.seen is not None else ()
        return MonitorReport(name=watcher.name, complete=False, notes=(*notes, watcher.trouble))
    if watcher.monitor is None:  # the client's clock
        return MonitorReport(name=watcher.name, complete=True)
    if watcher.seen is None:  # a tenant ended: that is no loss of the monitor
        return MonitorReport(name=watcher.name, complete=True, notes=("there was no window",))
    return MonitorReport(
        name=watcher.name, complete=watcher.seen.complete, notes=watcher.seen.notes
    )


def _expect_new(seen: Seen, others: Sequence[Seen], traces: Mapping[str, Any]) -> None:
    """Raise ValueError if a monitor tells what another has told: neither overwrites the other."""
    told = {name for other in others for part in (other.fields, *other.tenants) for name in part}
    mine = {name for part in (seen.fields, *seen.tenants) for name in part}
    twice = sorted((mine & told) - {"extra"}) or sorted(seen.traces.keys() & traces.keys())
    if twice:
        raise ValueError(f"another monitor of this cell has told '{twice[0]}' already")


def _merged(parts: Any) -> dict[str, Any]:
    """Fields of several monitors; those of plug-ins, in ``extra``, are laid side by side."""
    found: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            found[name] = {**found.get(name, {}), **value} if name == "extra" else value
    return found
