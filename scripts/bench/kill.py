"""kill -9 at random moments of a real sweep, then the same command again: is anything amiss?

A third of the kills fall at any time, a third while servers start, a third while a cell is stored;
all are drawn with the seed. Acknowledged is a cell whose file was there when igprof was dead. Then
the sweep runs to its end, and these hold, or the exit status is 1:

- every cell of the sweep is there exactly once, and passes ``igprof dataset check``;
- what was acknowledged at any kill is unchanged, byte for byte, in the very same file;
- nothing acknowledged was measured again: the last run measured exactly the rest;
- no temporary file, and of all igprofs killed no process, control group, run folder or
  shared-memory region is left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from common import describe_setting, markdown, run, setting

from igniter_prof.cli.common import note, print_json, print_table
from igniter_prof.errors import OutsideFailure
from igniter_prof.serving import cgroup, marks

Moment = Literal["any time", "servers starting", "storing"]
MOMENTS: tuple[Moment, ...] = ("any time", "servers starting", "storing")
ANY_TIME_S = (0.1, 7.0)
STARTING_S = (0.0, 1.5)
"""After the run folder of a deployment appeared."""
STORING_S = (0.0, 0.002)
"""After the temporary file of a cell appeared."""
POLL_S = 0.0003
PATIENCE_S = 60.0
"""Longest wait for a moment to come."""
FINISH_S = 600.0
TOKEN = "IGPROF_KILL_TEST"
"""In the environment of every igprof of this test, which its own children inherit."""

SWEEP = """\
device: cpu:0
models: [mlp]
shares: [40]
colocate: [[mlp, mlp]]
stopping: {{precision_pct: 50, min_s: 0.1, max_s: 0.2, min_requests: 10, warmup_s: 0.05,
  warmup_requests: 2, cooldown_s: 0}}
baseline_every: 0
repeats: {repeats}
"""
CELLS_A_REPEAT = 2


@dataclass(frozen=True)
class Stored:
    """What identifies a stored cell: content, and the file itself (a rename makes another)."""

    sha256: str
    inode: int
    changed_ns: int


@dataclass(frozen=True)
class Kill:
    """One kill and what was there right after it."""

    moment: Moment
    planned_s: float
    """Delay after the moment came, as drawn."""
    lived_s: float
    hit: bool
    """False if the moment did not come and it was killed anyway."""
    acknowledged: int
    temporary_files: int
    leftovers: int
    """Processes, control groups, folders and regions that the dead igprof left behind."""


@dataclass(frozen=True)
class Verdict:
    """What the test found."""

    cells: int
    kills: tuple[Kill, ...]
    stored: int
    measured_by_last_run: int
    broken: tuple[str, ...]
    """Everything that does not hold; empty is what we want."""


# --- looking ---------------------------------------------------------------------------------


def stored_cells(profile: Path) -> dict[str, Stored]:
    """The cells in a profile by id, with their identities."""
    found = {}
    for path in sorted((profile / "cells").glob("*.zip")):
        status = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.stem] = Stored(digest, status.st_ino, status.st_mtime_ns)
    return found


def temporary_files(profile: Path) -> list[Path]:
    """Files that an interrupted write left behind."""
    return list(profile.rglob(".*.tmp"))


def leftovers(owners: set[int], token: str) -> list[str]:
    """What is there that igprofs with these process ids started, or that inherited the token."""
    found = []
    for pid, mark in marks.marked_processes("igprof-"):
        if mark.pid in owners:
            found.append(f"process {pid} of {mark.name}")
    wanted = f"{TOKEN}={token}".encode()
    for entry in Path("/proc").iterdir():
        try:
            environ = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if wanted in environ.split(b"\0"):
            found.append(f"process {entry.name}")
    names = [(str(group.cpu), group.name) for group in cgroup.named("igprof-")]
    folders = [*marks.runs().iterdir(), *marks.SHARED_MEMORY.glob("igprof-*")]
    names += [(str(path), path.name) for path in folders]
    for place, name in names:
        owner = marks.parse(name)
        if owner is not None and owner.pid in owners:
            found.append(place)
    return found


def audit(
    profile: Path,
    planned: set[str],
    acknowledged: dict[str, Stored],
    measured_by_last_run: int,
) -> Iterator[str]:
    """Everything about the finished profile that does not hold.

    Args:
        profile: its folder.
        planned: ids of all cells of the sweep.
        acknowledged: the cells that were there at a kill, as they were then.
        measured_by_last_run: how many cells the run to the end says it measured.
    """
    now = stored_cells(profile)
    if missing := planned - now.keys():
        yield f"{len(missing)} cells are missing: {sorted(missing)}"
    if foreign := now.keys() - planned:
        yield f"{len(foreign)} cells are not of the sweep: {sorted(foreign)}"
    for cell_id, then in acknowledged.items():
        if cell_id not in now:
            yield f"cell {cell_id} was acknowledged and is gone"
        elif now[cell_id].sha256 != then.sha256:
            yield f"cell {cell_id} was acknowledged and has other content now"
        elif now[cell_id] != then:
            yield f"cell {cell_id} was acknowledged and written again"
    rest = len(planned - acknowledged.keys())
    if measured_by_last_run != rest:
        yield f"the last run measured {measured_by_last_run} cells, {rest} were left to measure"
    files = {path.name for path in (profile / "cells").iterdir()}
    if strange := files - {f"{cell_id}.zip" for cell_id in planned}:
        yield f"files that are no cells: {sorted(strange)}"
    if half := temporary_files(profile):
        yield f"temporary files are left: {sorted(map(str, half))}"


# --- killing ---------------------------------------------------------------------------------


class Sweep:
    """The sweep under test: its file, its profile, and the command, always the same."""

    def __init__(self, folder: Path, repeats: int) -> None:
        self.profile = folder / "profile"
        self.token = folder.name
        self.pids: set[int] = set()
        self._file = folder / "sweep.yaml"
        self._file.write_text(SWEEP.format(repeats=repeats))
        self._log = folder / "log.txt"

    def planned(self) -> set[str]:
        """Ids of all cells."""
        done = subprocess.run(
            [*self._command(), "--dry-run"], stdout=subprocess.PIPE, check=True, timeout=60
        )
        return {cell["cell_id"] for cell in json.loads(done.stdout)["cells"]}

    def start(self) -> subprocess.Popen[str]:
        """Run the command; its messages are appended to a log."""
        with self._log.open("a") as log:
            process = subprocess.Popen(
                self._command(),
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, TOKEN: self.token},
                text=True,
            )
        self.pids.add(process.pid)
        return process

    def finish(self) -> dict[str, Any]:
        """Run the command to its end; its summary. Raises OutsideFailure."""
        process = self.start()
        try:
            said, _ = process.communicate(timeout=FINISH_S)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            log = self._log.read_text()[-1500:]
            raise OutsideFailure(f"the sweep ended with {process.returncode}: {log}")
        summary: dict[str, Any] = json.loads(said)
        return summary

    def check(self) -> dict[str, Any]:
        """What ``igprof dataset check`` says of the profile."""
        done = subprocess.run(
            [*IGPROF, "dataset", "check", str(self.profile), "--json"],
            stdout=subprocess.PIPE,
            check=False,
            timeout=120,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def _command(self) -> list[str]:
        return [*IGPROF, "profile", str(self._file), "--out", str(self.profile), "--json"]


IGPROF = (sys.executable, "-c", "from igniter_prof.cli import main; main()")


def kill_once(sweep: Sweep, moment: Moment, delay_s: float) -> Kill | None:
    """Start the sweep, wait for the moment, kill -9; None if the sweep ended before."""
    began = time.monotonic()
    process = sweep.start()
    try:
        hit = _await(process, sweep, moment)
        time.sleep(delay_s)
        ended = process.poll() is not None
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    if ended:
        return None
    return Kill(
        moment=moment,
        planned_s=round(delay_s, 4),
        lived_s=round(time.monotonic() - began, 3),
        hit=hit,
        acknowledged=len(stored_cells(sweep.profile)),
        temporary_files=len(temporary_files(sweep.profile)),
        leftovers=len(leftovers({process.pid}, sweep.token)),
    )


def _await(process: subprocess.Popen[str], sweep: Sweep, moment: Moment) -> bool:
    """Wait until a moment has come; False if the process ended or it never came."""
    if moment == "any time":
        return True
    cells = sweep.profile / "cells"
    stale = set(temporary_files(sweep.profile))  # of a kill before; removed by the next igprof
    mark = f"igprof-t-{process.pid}-"
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        if moment == "servers starting":
            if any(path.name.startswith(mark) for path in marks.runs().iterdir()):
                return True
        elif cells.is_dir() and any(
            path.suffix == ".tmp" and path not in stale for path in cells.iterdir()
        ):
            return True
        time.sleep(POLL_S)
    return False


def schedule(kills: int, seed: int) -> list[tuple[Moment, float]]:
    """When to kill: moments in equal parts, in random order, with random delays."""
    draw = random.Random(seed)
    moments = [MOMENTS[index % len(MOMENTS)] for index in range(kills)]
    draw.shuffle(moments)
    ranges = {"any time": ANY_TIME_S, "servers starting": STARTING_S, "storing": STORING_S}
    return [(moment, draw.uniform(*ranges[moment])) for moment in moments]


def kill_test(folder: Path, kills: int, seed: int, *, later: int = 3) -> Verdict:
    """Kill the sweep that often, finish it, and look.

    Args:
        folder: empty; where the sweep is stored.
        kills: how often.
        seed: of the moments.
        later: cells that are surely left for the run to the end.
    """
    # killed at any time a run gets up to three cells done, while storing one, else none
    repeats = math.ceil((1.2 * kills + later) / CELLS_A_REPEAT)
    sweep = Sweep(folder, repeats)
    planned = sweep.planned()
    broken: list[str] = []
    acknowledged: dict[str, Stored] = {}
    taken: list[Kill] = []
    for number, (moment, delay_s) in enumerate(schedule(kills, seed), 1):
        kill = kill_once(sweep, moment, delay_s)
        if kill is None:
            broken.append(f"kill {number}: the sweep ended before it could be killed")
            break
        taken.append(kill)
        for cell_id, now in stored_cells(sweep.profile).items():
            if acknowledged.setdefault(cell_id, now) != now:
                broken.append(f"cell {cell_id} had changed at kill {number}")
        note(
            f"kill {number}/{kills} ({moment}): {kill.acknowledged} of {len(planned)} cells stored"
        )
    summary = sweep.finish()
    broken += audit(sweep.profile, planned, acknowledged, int(summary["measured_now"]))
    checked = sweep.check()
    broken += [
        f"dataset check: {finding['where']}: {finding['what']}"
        for finding in checked["findings"]
        if finding["level"] == "error"
    ]
    broken += [f"left behind: {each}" for each in leftovers(sweep.pids, sweep.token)]
    return Verdict(
        cells=len(planned),
        kills=tuple(taken),
        stored=len(stored_cells(sweep.profile)),
        measured_by_last_run=int(summary["measured_now"]),
        broken=tuple(broken),
    )


COLUMNS = (
    "kill",
    "moment",
    "after s",
    "cells stored",
    "half-written files",
    "things left for the next igprof to remove",
)


def table_rows(kills: Sequence[Kill]) -> list[list[Any]]:
    """One row a kill."""
    return [
        [
            number,
            kill.moment if kill.hit else f"{kill.moment} (did not come)",
            f"{kill.lived_s:.2f}",
            kill.acknowledged,
            kill.temporary_files,
            kill.leftovers,
        ]
        for number, kill in enumerate(kills, 1)
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    return parser.parse_args()


def main() -> int:
    """Run the test; 1 if anything is amiss."""
    given = arguments()
    where = setting()
    with tempfile.TemporaryDirectory(prefix="igprof-kill-") as folder:
        verdict = kill_test(Path(folder), given.kills, given.seed)
    if given.json:
        print_json({"setting": where, "seed": given.seed, **asdict(verdict)})
    else:
        rows = table_rows(verdict.kills)
        if given.markdown:
            print(f"{describe_setting(where)}\n\n{markdown(COLUMNS, rows)}")
        else:
            print_table(f"kill -9, seed {given.seed}", COLUMNS, rows)
        print(
            f"{verdict.stored} of {verdict.cells} cells stored,"
            f" {verdict.measured_by_last_run} of them by the run to the end;"
            f" {len(verdict.broken)} things amiss"
        )
        for each in verdict.broken:
            print(f"  {each}")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    run(main)
