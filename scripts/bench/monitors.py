"""What each monitor costs: latency with it over latency without it, under one and the same load.

While one client keeps one request in flight, monitors come and go: A B1 A B2 ... A, where A is
without and B with a monitor. After each change a moment is left out, in which processes start and
end. Each B is compared with the mean of the two A beside it, so that a drift of the machine
cancels; the order of the monitors is turned by one each round. Shown is the median over the rounds
with its 95% interval (order statistics, from six rounds on), and as a row of its own ``none``: an A
against the two A around it, which is what a monitor that costs nothing would show here.

CPU is that of igprof's own process and of the processes that the monitor started, in the counted
part, less what it is without.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from common import describe_setting, markdown, run, setting, warn_if_busy
from numpy.typing import NDArray

from igniter_prof import monitors
from igniter_prof.cli.common import note, print_json
from igniter_prof.config.devices import client_cores, resolve_device
from igniter_prof.errors import OutsideFailure
from igniter_prof.files import atomic_write
from igniter_prof.load import InputSource, generators
from igniter_prof.monitors import Counted, Scene, Seen
from igniter_prof.monitors.power import POWER_DTYPE, TraceInfo
from igniter_prof.monitors.power.recording import Recording, write_recording
from igniter_prof.records import Device, Load, Stopping, Tenant
from igniter_prof.serving import Deployment, ServeOptions, deploy
from igniter_prof.session import measure
from igniter_prof.statistics import quantile
from igniter_prof.units import NS_PER_MS, NS_PER_S

ALL = "container,triton,sniffer,replay,nvml,rapl"
NONE = "none"
METRICS = ("mean_ms", "p50_ms", "p99_ms")
MIN_FOR_P99 = 200
MIN_REQUESTS = 20
BEGIN_S = 1.5
"""Until the load is well on its way."""
SETTLE_S = 0.3
"""Left out after a monitor came or went."""
SLOW_START_S = 1.0
MEMORY_MIB = 4096.0
"""A cap that is never reached: it gives the server a control group for ``container`` to read."""


@dataclass(frozen=True)
class Stretch:
    """A counted stretch of time, with a monitor or without."""

    start_ns: int
    end_ns: int
    cpu_s: float
    """Of igprof and of what its monitor started."""
    look_s: float = 0.0
    """How long the monitor took afterwards to tell what it saw."""
    complete: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """What a stretch of time was like."""

    mean_ms: float
    p50_ms: float
    p99_ms: float | None
    requests: int
    cpu_pct: float
    """Of one core."""
    look_s: float
    complete: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """One monitor on one model: its stretches, and for each the two without it."""

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


class Turns(threading.Thread):
    """Lets monitors come and go while the load runs."""

    def __init__(self, scene: Scene, order: Sequence[str], seconds: float) -> None:
        super().__init__(name="turns")
        self.scene, self.order, self.seconds = scene, order, seconds
        self.found: list[tuple[str, Stretch, Stretch, Stretch]] = []
        """Monitor, before, with, after."""
        self.error: BaseException | None = None

    def run(self) -> None:
        """Take all turns once."""
        try:
            others = children()
            time.sleep(BEGIN_S)
            before = self.stretch(None, others)
            for spec in self.order:
                own = self.stretch(None if spec == NONE else spec, others)
                after = self.stretch(None, others)
                self.found.append((spec, before, own, after))
                before = after
        except BaseException as error:
            self.error = error

    def stretch(self, spec: str | None, others: set[int]) -> Stretch:
        """One stretch of time, with a monitor or without any."""
        monitor = None if spec is None else monitors.make(spec, self.scene.device)
        seen = Seen(complete=False)
        with monitor or contextlib.nullcontext():
            if monitor is not None:
                monitor.attach(self.scene)
            time.sleep(SETTLE_S)
            start_ns = time.monotonic_ns()
            with cpu_s(others) as used:
                time.sleep(self.seconds)
            end_ns = time.monotonic_ns()
            if monitor is None:
                return Stretch(start_ns, end_ns, used[0])
            try:
                seen = monitor.seen(Counted(start_ns, end_ns, (1,)))
            except Exception as error:  # its cost was measured all the same
                note(f"{spec}: {error}")
            look_s = (time.monotonic_ns() - end_ns) / NS_PER_S
        return Stretch(start_ns, end_ns, used[0], look_s, seen.complete, seen.notes)

    def expected_s(self) -> float:
        """How long it will take at most, were the monitors slow to start."""
        without = SETTLE_S + self.seconds
        return BEGIN_S + (2 * len(self.order) + 1) * without + SLOW_START_S * len(self.order)


def sample(rows: NDArray[np.void], stretch: Stretch) -> Sample | None:
    """What the requests within a stretch say; None: there are too few."""
    inside = (rows["sent_ns"] >= stretch.start_ns) & (rows["done_ns"] < stretch.end_ns)
    good = rows[inside & (rows["ok"] == 1)]
    if len(good) < MIN_REQUESTS:
        return None
    latency_ms = (good["done_ns"] - good["sent_ns"]) / NS_PER_MS
    return Sample(
        mean_ms=float(latency_ms.mean()),
        p50_ms=float(np.quantile(latency_ms, 0.5)),
        p99_ms=float(np.quantile(latency_ms, 0.99)) if len(good) >= MIN_FOR_P99 else None,
        requests=len(good),
        cpu_pct=100 * stretch.cpu_s / ((stretch.end_ns - stretch.start_ns) / NS_PER_S),
        look_s=stretch.look_s,
        complete=stretch.complete,
        notes=stretch.notes,
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


def made_up_trace(path: Path) -> None:
    """A trace for ``replay``, of which only the cost counts here: 100 W at 50 Hz for a minute."""
    trace = np.zeros(3000, POWER_DTYPE)
    for name in POWER_DTYPE.names or ():
        trace[name] = 100
    trace["at_ns"] = np.arange(len(trace)) * NS_PER_S // 50
    trace["throttle"] = 0
    trace["energy_j"] = trace["at_ns"] / NS_PER_S * 100
    write_recording(path, Recording(trace, TraceInfo(window_start_ns=0)))


def compare(
    deployment: Deployment,
    device: Device,
    model: str,
    specs: Sequence[str],
    *,
    rounds: int,
    seconds: float,
) -> list[Compared]:
    """Every monitor in every round, each between two stretches without any."""
    found = {spec: Compared(model, spec) for spec in (*specs, NONE)}
    cores = client_cores(device)[0]
    scene = Scene(device, deployment.endpoints, "http", cores, deployment.usage)
    for number in range(rounds):
        place = number % len(found)
        turns = Turns(scene, [*found][place:] + [*found][:place], seconds)
        with generators(1) as clients:
            turns.start()
            window = measure(
                deployment,
                clients,
                loads=[Load()],
                sources=[InputSource(seed=number)],
                protocol="http",
                stopping=Stopping(warmup_s=0.3),
                cores=cores,
                seed=number,
                duration_s=turns.expected_s(),
            )
            turns.join()
        if turns.error is not None:
            raise turns.error
        (seen,) = window.tenants
        if seen.status != "ok":
            raise OutsideFailure(f"the tenant ended: {seen.status} ({seen.detail})", where=model)
        for spec, *stretches in turns.found:
            before, own, after = (sample(seen.rows, each) for each in stretches)
            if before is not None and own is not None and after is not None:
                found[spec].pairs.append((before, own, after))
        note(f"round {number + 1}/{rounds}: {model}")
    return list(found.values())


COLUMNS = ("model, monitor", "without, mean", "mean", "p50", "p99", "CPU", "after the cell", "lost")


def table_rows(compared: Sequence[Compared], lacking: Mapping[str, str]) -> list[list[str | None]]:
    """One row a monitor and model; ratios are with over without."""
    rows: list[list[str | None]] = []
    for each in compared:
        if not each.pairs:
            rows.append([f"{each.model}, {each.monitor}: too few requests", *[None] * 7])
            continue
        without_ms = np.median([s.mean_ms for a, _, c in each.pairs for s in (a, c)])
        own = [b for _, b, _ in each.pairs]
        rows.append(
            [
                f"{each.model}, {each.monitor.partition(':')[0]}",
                f"{without_ms:.3g} ms",
                *(spread(each.ratios(metric)) for metric in METRICS),
                f"{each.cpu_pct():.1f}%",
                f"{np.median([s.look_s for s in own]):.2f} s",
                "-" if each.monitor == NONE else f"{sum(not s.complete for s in own)}/{len(own)}",
            ]
        )
    for spec, reason in lacking.items():
        rows.append(
            [f"{spec}: not here ({reason.partition(' (')[0]})", *[None] * (len(COLUMNS) - 1)]
        )
    return rows


def spread(ratios: Sequence[float]) -> str | None:
    """``median (95% interval)``, the interval where there are enough; None without ratios."""
    if not ratios:
        return None
    median = quantile(np.sort(ratios), 0.5)
    if median is None or median.low_ms is None:
        return f"{np.median(ratios):.3f}"
    return f"{median.value_ms:.3f} ({median.low_ms:.3f}-{median.high_ms:.3f})"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench/monitors", description=__doc__)
    parser.add_argument("--monitors", default=ALL, help=f"usual: {ALL}; replay:FILE too")
    parser.add_argument("--models", default="mlp,mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each stretch")
    parser.add_argument("--device", default="cpu:0")
    parser.add_argument(
        "--quick", action="store_true", help="2 rounds of 0.5 s: only whether it runs"
    )
    parser.add_argument("--json", action="store_true", help="every sample, on standard output")
    parser.add_argument("--out", type=Path, help="write the table there too")
    arguments = parser.parse_args()
    rounds, seconds = (2, 0.5) if arguments.quick else (arguments.rounds, arguments.seconds)
    device = resolve_device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        return bench(arguments, device, rounds, seconds, Path(folder) / "made-up.npz")


def bench(
    arguments: argparse.Namespace, device: Device, rounds: int, seconds: float, trace: Path
) -> int:
    """Measure and print what was asked for."""
    made_up_trace(trace)
    wanted = [
        f"replay:{trace}" if spec == "replay" else spec for spec in arguments.monitors.split(",")
    ]
    lacking = monitors.check(wanted, device)
    specs = [spec for spec in wanted if spec not in lacking]
    where = setting()
    warn_if_busy()
    compared: list[Compared] = []
    for model in arguments.models.split(","):
        tenant = Tenant(model=model, memory_mib=MEMORY_MIB)
        with deploy(device, [tenant], options=ServeOptions()) as deployment:
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
