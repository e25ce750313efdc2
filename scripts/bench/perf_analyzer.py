"""Agreement with NVIDIA's perf_analyzer on the same server: mean, p50, p99, throughput as ratios.

Both clients get the same cores, the same server, the same window, and take turns: ours first in
even rounds, theirs first in odd ones, so that a drift of the machine favours neither. A ratio is
made within each round; shown is the median of the rounds with the lowest and the highest, which for
six rounds or more is a distribution-free 95% interval of the median (1 - 2 * 0.5**6 = 97%).

perf_analyzer times from the *actual* send, so our ``latency`` stands beside it, not
``latency_intended``. Poisson arrivals are drawn once a round and given to both: its own are the
same few in every run, and their number is off by a fifth in a short one.

perf_analyzer comes from the wheel of tritonclient 2.51.0, which still has the binary in it and is
of the server's own version; two libraries that it needs come with the cached Triton.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import describe_setting, markdown, run, setting, warn_if_busy

from igniter_prof.cli.common import note, print_json, print_table
from igniter_prof.config.devices import client_cores, format_cores, resolve_device
from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.files import atomic_write, cache_dir
from igniter_prof.load import InputSource, generators
from igniter_prof.records import Load, Stopping, Tenant
from igniter_prof.serving import Deployment, deploy, triton
from igniter_prof.session import lagged_pct, measure
from igniter_prof.statistics import counted, latencies_ms
from igniter_prof.units import MS_PER_S, US_PER_MS

US_PER_S = US_PER_MS * MS_PER_S
WHEEL_VERSION = "2.51.0"
WHEEL_SHA256 = "c485bb0123bdf310f90bc8b03d3489b28df2ffed55b30c7eee0b795b48113d52"
PROGRAM_IN_WHEEL = f"tritonclient-{WHEEL_VERSION}.data/data/bin/perf_analyzer"
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""What it is linked with, and the file of the cached Triton that is the same."""

WINDOWS = 3
"""perf_analyzer reports over three windows; ours lasts as long as the three."""
STRETCH = 1.2
"""perf_analyzer's windows are that much longer than the interval that it is told."""
MIN_FOR_P99 = 200
"""With fewer requests the p99 rests on less than two of them."""
LOW, HIGH = 0.2, 0.5
"""The open loops' rates, as parts of the throughput of one request in flight."""
METRICS = ("mean_ms", "p50_ms", "p99_ms", "throughput_rps")


@dataclass(frozen=True)
class Case:
    """One comparison: a model, a protocol, a load."""

    model: str
    protocol: str
    load: Load
    seconds: float
    """How long each of the two measures, each time."""

    @property
    def load_name(self) -> str:
        """The load for people."""
        if self.load.kind == "closed":
            return f"closed, {self.load.concurrency} in flight"
        return f"{self.load.kind}, {self.load.rate_rps:g}/s"


@dataclass(frozen=True)
class Sample:
    """What one client measured once. Latencies from the actual send to the answer."""

    mean_ms: float
    p50_ms: float
    p99_ms: float | None
    throughput_rps: float
    late_pct: float | None = None
    """Share of requests that the client sent late (by its own definition), open loops."""


# --- the two clients -------------------------------------------------------------------------


def ours(deployment: Deployment, case: Case, cores: tuple[int, ...], seed: int) -> Sample:
    """Measure with igprof's load generator.

    Raises:
        OutsideFailure: the tenant failed.
    """
    with generators(1) as clients:
        window = measure(
            deployment,
            clients,
            loads=[paired(case, seed)],
            sources=[InputSource()],
            protocol=case.protocol,
            stopping=Stopping(),
            cores=cores,
            seed=seed,
            duration_s=case.seconds,
        )
    seen = window.tenants[0]
    if seen.status != "ok" or window.duration_s is None:
        raise OutsideFailure(f"the tenant ended: {seen.status} ({seen.detail})", where=case.model)
    latency_ms = latencies_ms(seen.rows)
    enough = len(latency_ms) >= MIN_FOR_P99
    return Sample(
        mean_ms=float(latency_ms.mean()),
        p50_ms=float(np.quantile(latency_ms, 0.5)),
        p99_ms=float(np.quantile(latency_ms, 0.99)) if enough else None,
        throughput_rps=len(latency_ms) / window.duration_s,
        late_pct=None if case.load.kind == "closed" else lagged_pct(seen.rows[counted(seen.rows)]),
    )


def theirs(
    program: Path, deployment: Deployment, case: Case, cores: tuple[int, ...], seed: int
) -> Sample:
    """Measure with perf_analyzer.

    Raises:
        OutsideFailure: it failed, or said something that cannot be read.
    """
    endpoint = deployment.endpoints[0]
    address = endpoint.grpc_address if case.protocol == "grpc" else endpoint.http_address
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "latency.csv"
        command = [
            *("taskset", "--cpu-list", format_cores(cores), str(program)),
            *("-m", endpoint.model_name, "-u", str(address), "-i", case.protocol, "-b", "1"),
            *("--measurement-interval", str(round(MS_PER_S * case.seconds / WINDOWS / STRETCH))),
            # no window is refused, so that the time is as long as ours
            *("--stability-percentage", "999", "--max-trials", str(WINDOWS)),
            *("-f", str(table), "--verbose-csv"),
            *_load_flags(paired(case, seed), Path(folder) / "intervals"),
            *_shape_flags(case.model),
        ]
        try:
            done = subprocess.run(
                command,
                env=environment(program),
                capture_output=True,
                text=True,
                timeout=60 + 10 * case.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OutsideFailure("perf_analyzer did not end", where=" ".join(command)) from error
        if done.returncode != 0 or not table.exists():
            said = (done.stderr or done.stdout).strip()[-600:]
            raise OutsideFailure(f"perf_analyzer failed: {said}", where=" ".join(command))
        return read_sample(table.read_text(), done.stdout + done.stderr)


def paired(case: Case, seed: int) -> Load:
    """The load of one round; Poisson arrivals as a trace that is as long as the window.

    A trace goes round, so any window of its length holds each of its arrivals once, wherever it
    begins: both clients count the same arrivals.
    """
    if case.load.kind != "poisson" or case.load.rate_rps is None:
        return case.load
    count = max(2, round(case.load.rate_rps * case.seconds))
    gaps = np.random.default_rng(seed).exponential(size=count)
    gaps[-1] = gaps[:-1].mean()  # as the gap between two rounds of a trace is
    instants = np.cumsum(gaps) * case.seconds / gaps.sum()
    return Load(kind="trace", trace_s=tuple(instants.tolist()))


def _load_flags(load: Load, intervals: Path) -> list[str]:
    if load.kind == "closed":
        return ["--concurrency-range", str(load.concurrency)]
    # without --async at most --max-threads requests are in flight, and the rest go out late
    if load.trace_s is None:
        rate = ["--request-rate-range", f"{load.rate_rps:g}"]
        return [*rate, "--request-distribution", load.kind, "--async"]
    gaps_us = np.diff(load.trace_s, prepend=0.0) * US_PER_S
    intervals.write_text("".join(f"{gap:.0f}\n" for gap in gaps_us))
    return ["--request-intervals", str(intervals), "--async"]


def _shape_flags(model: str) -> list[str]:
    return ["--shape", "image:3,224,224"] if model == "mobilenet_v2" else []


def read_sample(table: str, said: str) -> Sample:
    """The first row of perf_analyzer's CSV (µs, inferences per second) and what it printed.

    Raises:
        OutsideFailure: there is no such row, or it lacks a column.
    """
    row = next(csv.DictReader(line for line in table.splitlines() if line.strip()), None)
    count = re.search(r"Request count: (\d+)", said)
    late = re.search(r"([\d.]+)% of the requests were delayed", said)
    try:
        if row is None or count is None:
            raise KeyError("no row, or no request count")
        enough = int(count[1]) >= MIN_FOR_P99
        return Sample(
            mean_ms=float(row["Avg latency"]) / US_PER_MS,
            p50_ms=float(row["p50 latency"]) / US_PER_MS,
            p99_ms=float(row["p99 latency"]) / US_PER_MS if enough else None,
            throughput_rps=float(row["Inferences/Second"]),
            late_pct=float(late[1]) if late else None,
        )
    except (KeyError, ValueError) as error:
        raise OutsideFailure(f"perf_analyzer's CSV cannot be read: {error!r}") from error


# --- the program -----------------------------------------------------------------------------


def ensure_program() -> Path:
    """perf_analyzer from its wheel, verified by its hash, downloaded once into the cache.

    Raises:
        MissingCapability: it cannot be downloaded, or does not run on this machine.
    """
    folder = cache_dir() / "perf_analyzer"
    program = folder / f"perf_analyzer-{WHEEL_VERSION}"
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    if not program.exists():
        note(f"downloading perf_analyzer (tritonclient {WHEEL_VERSION}, 14 MB) into {folder}")
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            wheel = _download(Path(temporary))
            with zipfile.ZipFile(wheel) as archive, atomic_write(program) as out:
                out.write(archive.read(PROGRAM_IN_WHEEL))
        program.chmod(0o755)
    for name, pattern in LIBRARIES.items():
        found = next(triton.root().glob(f"pytriton-*/nvidia_pytriton.libs/{pattern}"), None)
        link = folder / "lib" / name
        if found is not None and not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(found)
    check_program(program)
    return program


def _download(destination: Path) -> Path:
    requirements = destination / "wheel.txt"
    requirements.write_text(f"tritonclient=={WHEEL_VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"),
            *("--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"),
            *("-d", str(destination), "-r", str(requirements)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    wheel = next(destination.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        raise MissingCapability(
            f"perf_analyzer could not be downloaded: {done.stderr.strip()[-300:]}",
            where=f"tritonclient {WHEEL_VERSION} from PyPI",
            hint="connect to a network once, or name one with --perf-analyzer PATH",
        )
    return wheel


def environment(program: Path) -> dict[str, str]:
    """The variables that perf_analyzer runs with: it finds its libraries beside itself."""
    paths = [str(program.parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, paths))}


def check_program(program: Path) -> str:
    """What perf_analyzer says its version is. Raises MissingCapability if it does not run."""
    try:
        done = subprocess.run(
            [str(program), "--version"],
            env=environment(program),
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise BadInput(f"cannot be run: {error.strerror}", where=str(program)) from error
    if done.returncode != 0 and "Version" not in done.stdout + done.stderr:
        raise MissingCapability(
            f"perf_analyzer does not run: {(done.stderr or done.stdout).strip()[-300:]}",
            where=str(program),
            hint="sudo apt-get install libb64-0d; libcudart.so.12 comes with CUDA 12",
        )
    return (done.stdout + done.stderr).strip()


# --- the comparison --------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """All samples of one case, round by round."""

    case: Case
    ours: tuple[Sample, ...]
    theirs: tuple[Sample, ...]

    def ratios(self, metric: str) -> list[float]:
        """Ours over theirs in each round in which both have the metric."""
        pairs = zip(self.ours, self.theirs, strict=True)
        values = [(getattr(a, metric), getattr(b, metric)) for a, b in pairs]
        return [a / b for a, b in values if a is not None and b is not None]

    def scatter_pct(self) -> tuple[float, float]:
        """How far each client's means lie apart over the rounds, (max - min) / median."""

        def scatter(samples: Sequence[Sample]) -> float:
            means = [sample.mean_ms for sample in samples]
            return 100 * (max(means) - min(means)) / float(np.median(means))

        return scatter(self.ours), scatter(self.theirs)


def rates(capacity_rps: float) -> tuple[float, float]:
    """The two rates of the open loops, to two digits."""
    low, high = (float(f"{part * capacity_rps:.2g}") for part in (LOW, HIGH))
    return low, high


def cases_of(model: str, protocol: str, capacity_rps: float, seconds: float) -> list[Case]:
    """The four loads of one model and protocol."""
    low, high = rates(capacity_rps)
    loads = [
        Load(kind="closed", concurrency=1),
        Load(kind="closed", concurrency=4),
        Load(kind="constant", rate_rps=low),
        Load(kind="poisson", rate_rps=high),
    ]
    return [Case(model, protocol, load, seconds) for load in loads]


def compare(
    deployment: Deployment,
    cases: Sequence[Case],
    rounds: int,
    measure_ours: Callable[[Deployment, Case, int], Sample],
    measure_theirs: Callable[[Deployment, Case, int], Sample],
) -> list[Compared]:
    """Measure every case in every round by both clients in turn."""
    taken: dict[Case, tuple[list[Sample], list[Sample]]] = {case: ([], []) for case in cases}
    for number in range(rounds):
        for case in cases:
            mine, other = taken[case]
            turns = [(mine, measure_ours), (other, measure_theirs)]
            for samples, client in turns if number % 2 == 0 else reversed(turns):
                samples.append(client(deployment, case, number))
            note(
                f"round {number + 1}/{rounds}: {case.model} {case.protocol} {case.load_name}:"
                f" ours {mine[-1].mean_ms:.3f} ms, theirs {other[-1].mean_ms:.3f} ms"
            )
    return [Compared(case, tuple(a), tuple(b)) for case, (a, b) in taken.items()]


def spread(ratios: Sequence[float]) -> str | None:
    """``median (lowest-highest)``; None without ratios."""
    if not ratios:
        return None
    return f"{np.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


COLUMNS = (
    "model, load",
    "theirs, mean",
    "mean",
    "p50",
    "p99",
    "throughput",
    "scatter ours / theirs",
)


def table_rows(compared: Sequence[Compared]) -> list[list[str | None]]:
    """One row a case: ratios are ours over theirs."""
    rows: list[list[str | None]] = []
    for each in compared:
        mean_ms = float(np.median([sample.mean_ms for sample in each.theirs]))
        rows.append(
            [
                f"{each.case.model}, {each.case.protocol}, {each.case.load_name}",
                f"{mean_ms:.3g} ms",
                *(spread(each.ratios(metric)) for metric in METRICS),
                "{:.0f}% / {:.0f}%".format(*each.scatter_pct()),
            ]
        )
    return rows


def document(compared: Sequence[Compared], where: Mapping[str, Any]) -> dict[str, Any]:
    """All samples and ratios as one JSON document."""
    return {
        "setting": dict(where),
        "cases": [
            {
                "model": each.case.model,
                "protocol": each.case.protocol,
                "load": each.case.load.model_dump(mode="json", exclude_none=True),
                "seconds": each.case.seconds,
                "ours": [asdict(sample) for sample in each.ours],
                "theirs": [asdict(sample) for sample in each.theirs],
                "ratios": {metric: each.ratios(metric) for metric in METRICS},
            }
            for each in compared
        ],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", default="cpu:0", help="default cpu:0: the client gets the rest")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--models", default="mlp:http,mlp:grpc,mobilenet_v2:http")
    parser.add_argument("--quick", action="store_true", help="two rounds of one second")
    parser.add_argument("--perf-analyzer", type=Path, help="use this one")
    parser.add_argument("--json", action="store_true", help="print all samples as JSON")
    parser.add_argument("--out", type=Path, help="write the table as markdown, too")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.seconds = 2, 1.0
    return given


def main() -> int:
    """Deploy, alternate, print."""
    given = arguments()
    warn_if_busy()
    where = setting()
    device = resolve_device(given.device)
    cores, apart = client_cores(device)
    if not apart:
        note("no core is left for the clients: they share the device's")
    triton.ensure(progress=note)
    program = given.perf_analyzer or ensure_program()
    where["perf_analyzer"] = check_program(program)

    def by_us(deployment: Deployment, case: Case, seed: int) -> Sample:
        return ours(deployment, case, cores, seed)

    def by_them(deployment: Deployment, case: Case, seed: int) -> Sample:
        return theirs(program, deployment, case, cores, seed)

    protocols: dict[str, list[str]] = {}
    for word in given.models.split(","):
        model, _, protocol = word.partition(":")
        protocols.setdefault(model, []).append(protocol or "http")
    compared: list[Compared] = []
    for model, wanted in protocols.items():
        with deploy(device, [Tenant(model=model)], progress=note) as deployment:
            cases = []
            for protocol in wanted:
                alone = Case(model, protocol, Load(), 1.0)
                capacity_rps = by_us(deployment, alone, 0).throughput_rps
                cases += cases_of(model, protocol, capacity_rps, given.seconds)
            compared += compare(deployment, cases, given.rounds, by_us, by_them)
    title = "ours / perf_analyzer's: median (lowest-highest) of the rounds"
    if given.json:
        print_json(json.loads(json.dumps(document(compared, where))))
    else:
        print_table(title, COLUMNS, table_rows(compared))
    if given.out is not None:
        with atomic_write(given.out) as out:
            text = f"{describe_setting(where)}; {where['perf_analyzer']};"
            text += f" {given.rounds} rounds of {given.seconds:g} s\n\n"
            out.write((text + markdown(COLUMNS, table_rows(compared))).encode())
    return 0


if __name__ == "__main__":
    run(main)
