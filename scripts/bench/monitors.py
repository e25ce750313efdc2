"""What each monitor costs: latency with it over latency without it, on the same running server.

A round measures without, with the first monitor, without, with the second, ..., without: A B1 A B2
A. Each monitor is compared with the mean of the two A beside it, so that a drift of the machine
cancels; the order of the monitors is turned by one each round. Shown is the median of the rounds
with the lowest and the highest (six rounds: a distribution-free 97% interval of the median), and
as its own row ``none``: an A against the two A around it, which is what a monitor that costs
nothing would show here.

CPU is that of igprof's own process and of the processes that the monitor started, while the window
is open, less what a window without it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from common import describe_setting, markdown, run, setting, warn_if_busy

from igniter_prof import monitors
from igniter_prof.cli.common import note, print_json
from igniter_prof.config.devices import client_cores, resolve_device
from igniter_prof.errors import OutsideFailure
from igniter_prof.files import atomic_write
from igniter_prof.load import InputSource, generators
from igniter_prof.records import Device, Load, Stopping, Tenant
from igniter_prof.serving import Deployment, ServeOptions, deploy
from igniter_prof.session import measure
from igniter_prof.session.watch import Watch
from igniter_prof.statistics import latencies_ms
from igniter_prof.units import NS_PER_S

ALL = "container,triton,sniffer,nvml,rapl"
NONE = "none"
METRICS = ("mean_ms", "p50_ms", "p99_ms")
MIN_FOR_P99 = 200
MEMORY_MIB = 4096.0
"""A cap that is never reached: it gives the server a control group for ``container`` to read."""


@dataclass(frozen=True)
class Sample:
    """One window, with a monitor or without."""

    mean_ms: float
    p50_ms: float
    p99_ms: float | None
    requests: int
    cpu_pct: float
    """Of one core, of igprof and of what its monitors started, while the window was open."""
    look_s: float = 0.0
    """How long the monitor took afterwards to tell what it saw."""
    complete: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compared:
    """One monitor on one model: its windows, and for each the two without it."""

    model: str
    monitor: str
    pairs: list[tuple[Sample, Sample, Sample]] = field(default_factory=list)
    """Before, with, after."""

    def ratios(self, metric: str) -> list[float]:
        """With over the mean of the two without, for each round that has the metric."""
        values = [[getattr(sample, metric) for sample in three] for three in self.pairs]
        return [2 * b / (a + c) for a, b, c in values if None not in (a, b, c)]

    def cpu_pct(self) -> float:
        """Median CPU of the monitor alone."""
        return float(np.median([b.cpu_pct - (a.cpu_pct + c.cpu_pct) / 2 for a, b, c in self.pairs]))


def sample(
    deployment: Deployment, device: Device, spec: str | None, seconds: float, seed: int
) -> Sample:
    """One window with a monitor, or without any. Raises OutsideFailure: the tenant failed."""
    cores = client_cores(device)[0]
    with generators(1) as clients:
        others = children()
        with Watch([spec] if spec else [], device) as watch:
            watch.attach(deployment, "http", cores)
            with cpu_s(others) as used:
                window = measure(
                    deployment,
                    clients,
                    loads=[Load()],
                    sources=[InputSource(seed=seed)],
                    protocol="http",
                    stopping=Stopping(warmup_s=0.3),
                    cores=cores,
                    seed=seed,
                    duration_s=seconds,
                )
            began_s = time.monotonic()
            watch.look(window, [endpoint.tenant for endpoint in deployment.endpoints])
            look_s = time.monotonic() - began_s
    (seen,) = window.tenants
    if seen.status != "ok" or window.start_ns is None or window.end_ns is None:
        raise OutsideFailure(f"the tenant ended: {seen.status} ({seen.detail})")
    latency_ms = latencies_ms(seen.rows)
    reports = watch.fields()["monitors"]
    return Sample(
        mean_ms=float(latency_ms.mean()),
        p50_ms=float(np.quantile(latency_ms, 0.5)),
        p99_ms=float(np.quantile(latency_ms, 0.99)) if len(latency_ms) >= MIN_FOR_P99 else None,
        requests=len(latency_ms),
        cpu_pct=100 * used[0] / ((window.end_ns - window.start_ns) / NS_PER_S),
        look_s=look_s,
        complete=all(report.complete for report in reports),
        notes=tuple(text for report in reports for text in report.notes),
    )


@contextlib.contextmanager
def cpu_s(others: set[int]) -> Iterator[list[float]]:
    """CPU time of this process and of its children but ``others``, as the list's one item."""
    used = [0.0]
    before = time.process_time() + sum(map(_child_cpu_s, children() - others))
    yield used
    used[0] = time.process_time() + sum(map(_child_cpu_s, children() - others)) - before


def children() -> set[int]:
    """The processes that this one started and that still run, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(_fields(stat)[1])
    found: set[int] = set()
    newest = {pid for pid, parent in parents.items() if parent == os.getpid()}
    while newest:
        found |= newest
        newest = {pid for pid, parent in parents.items() if parent in newest} - found
    return found


def _child_cpu_s(pid: int) -> float:
    try:
        fields = _fields(Path(f"/proc/{pid}/stat"))
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _fields(stat: Path) -> list[str]:
    """The fields of a stat file from the third (state) on: the second may hold blanks."""
    return stat.read_text().rpartition(")")[2].split()


def compare(
    deployment: Deployment,
    device: Device,
    model: str,
    specs: Sequence[str],
    *,
    rounds: int,
    seconds: float,
) -> list[Compared]:
    """Every monitor in every round, each between two windows without any."""
    found = {spec: Compared(model, spec) for spec in (*specs, NONE)}
    for number in range(rounds):
        turn = number % len(found)
        order = [*found][turn:] + [*found][:turn]
        before = sample(deployment, device, None, seconds, number)
        for spec in order:
            own = sample(deployment, device, None if spec == NONE else spec, seconds, number)
            after = sample(deployment, device, None, seconds, number)
            found[spec].pairs.append((before, own, after))
            before = after
            ratio = found[spec].ratios("mean_ms")[-1]
            note(f"round {number + 1}/{rounds}: {model}, {spec}: {own.mean_ms:.3f} ms, {ratio:.3f}")
    return list(found.values())


COLUMNS = ("model, monitor", "without, mean", "mean", "p50", "p99", "CPU", "after the cell", "lost")


def table_rows(compared: Sequence[Compared], lacking: Mapping[str, str]) -> list[list[str | None]]:
    """One row a monitor and model; ratios are with over without."""
    rows: list[list[str | None]] = []
    for each in compared:
        without_ms = np.median([s.mean_ms for a, _, c in each.pairs for s in (a, c)])
        own = [b for _, b, _ in each.pairs]
        rows.append(
            [
                f"{each.model}, {each.monitor}",
                f"{without_ms:.3g} ms",
                *(spread(each.ratios(metric)) for metric in METRICS),
                f"{each.cpu_pct():.1f}%",
                f"{np.median([s.look_s for s in own]):.2f} s",
                "-" if each.monitor == NONE else f"{sum(not s.complete for s in own)}/{len(own)}",
            ]
        )
    for spec, reason in lacking.items():
        rows.append([f"{spec}: not here ({reason})", *[None] * (len(COLUMNS) - 1)])
    return rows


def spread(ratios: Sequence[float]) -> str | None:
    """``median (lowest-highest)``; None without ratios."""
    if not ratios:
        return None
    return f"{np.median(ratios):.3f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench/monitors", description=__doc__)
    parser.add_argument("--monitors", default=ALL, help=f"usual: {ALL}; replay:FILE too")
    parser.add_argument("--models", default="mlp,mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each window")
    parser.add_argument("--device", default="cpu:0")
    parser.add_argument(
        "--quick", action="store_true", help="2 rounds of 1 s: only whether it runs"
    )
    parser.add_argument("--json", action="store_true", help="every sample, on standard output")
    parser.add_argument("--out", type=Path, help="write the table there too")
    arguments = parser.parse_args()
    rounds, seconds = (2, 1.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    options = ServeOptions()
    device = resolve_device(arguments.device)
    wanted = arguments.monitors.split(",")
    lacking = monitors.check(wanted, device)
    specs = [spec for spec in wanted if spec not in lacking]
    where = setting()
    warn_if_busy()
    compared: list[Compared] = []
    for model in arguments.models.split(","):
        tenant = Tenant(model=model, memory_mib=MEMORY_MIB)
        with deploy(device, [tenant], options=options) as deployment:
            sample(deployment, device, None, seconds, 0)  # warm
            compared += compare(deployment, device, model, specs, rounds=rounds, seconds=seconds)
    table = markdown(COLUMNS, table_rows(compared, lacking))
    text = f"{table}\n{describe_setting(where)}, {rounds} rounds of {seconds:g} s.\n"
    if arguments.out is not None:
        with atomic_write(arguments.out) as stream:
            stream.write(text.encode())
    if arguments.json:
        print_json(
            {"setting": where, "lacking": lacking, "compared": [asdict(each) for each in compared]}
        )
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    run(main)
