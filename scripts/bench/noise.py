"""The same sweep twice by ``igprof profile``: how far repeated cells differ (the noise floor).

A profile's own precision says how well a mean is known *within* one run of a server; the noise
floor says how far two runs of it differ, which no single run can tell. What is fitted to a profile
cannot be more exact than that, and a change below it is none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import describe_setting, markdown, run, setting, warn_if_busy

from igniter_prof.cli.common import note, print_json
from igniter_prof.errors import IgprofError, OutsideFailure
from igniter_prof.files import atomic_write
from igniter_prof.units import format_duration

IGPROF = (sys.executable, "-c", "from igniter_prof.cli import main; main()")
SWEEP = Path(__file__).parent / "noise.sweep.yaml"
QUICK = """\
device: cpu:0
models: [mlp]
shares: [50, 100]
stopping: {precision_pct: 5, min_s: 0.3, max_s: 0.6, min_requests: 10, cooldown_s: 0}
baseline_every: 0
"""


def igprof(*arguments: str | Path) -> Any:
    """Run igprof with ``--json``; what it printed. Its progress goes to our standard error.

    Raises:
        OutsideFailure: it failed.
    """
    command = [*IGPROF, *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        shown = " ".join(map(str, arguments))
        raise OutsideFailure(f"igprof {shown} ended with {done.returncode}")
    return json.loads(done.stdout)


def measure_twice(sweep: Path, folder: Path) -> dict[str, Any]:
    """Profile a sweep into two folders, one after the other, and compare them."""
    first, second = folder / "first", folder / "second"
    runs = []
    for out in (first, second):
        began = time.monotonic()
        summary = igprof("profile", sweep, "--out", out)
        runs.append({**summary, "took_s": round(time.monotonic() - began, 1)})
        checked = igprof("dataset", "check", out)
        if checked["errors"]:
            raise IgprofError(f"{checked['errors']} errors in what was just measured: {checked}")
    comparison = igprof("dataset", "compare", first, second)
    return {
        "runs": runs,
        **igprof("dataset", "noise", first, second),
        "ratio": {
            key: comparison[key]
            for key in ("ratio", "ratio_low", "ratio_high", "between_repeats_pct")
        },
        "tenants": len(comparison["changes"]),
        "significant": sum(change["significant"] is True for change in comparison["changes"]),
    }


COLUMNS = ("cells", "latency", "tenants", "mean", "median", "p90", "largest")


def table(found: dict[str, Any]) -> str:
    """The noise floor as markdown: differences of repeats in percent of their mean."""
    rows = [
        [
            each["group"],
            each["statistic"],
            each["points"],
            *(f"{each[f'{name}_pct']:.1f}%" for name in ("mean", "median", "p90", "max")),
        ]
        for each in found["noise"]
    ]
    return markdown(COLUMNS, rows)


def conclusion(found: dict[str, Any]) -> str:
    """What the two runs come to, in a few sentences."""
    ratio = found["ratio"]
    lines = [
        f"{run_['stored']} cells in {format_duration(run_['took_s'])},"
        f" {run_['failed_tenants']} failed and {run_['unstable_tenants']} unstable tenants."
        for run_ in found["runs"]
    ]
    if ratio["ratio"] is not None:
        interval = ""
        if ratio["ratio_low"] is not None:
            interval = f" (95% interval {ratio['ratio_low']:.3f} to {ratio['ratio_high']:.3f})"
        lines.append(
            f"The second run is {ratio['ratio']:.3f} times the first{interval};"
            f" {found['significant']} of {found['tenants']} tenants differ by more than noise."
        )
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--sweep", type=Path, default=SWEEP, help=f"default: {SWEEP.name}")
    parser.add_argument("--keep", type=Path, help="folder to keep the two profiles in")
    parser.add_argument("--quick", action="store_true", help="two cells only, to try the script")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=Path, help="write the markdown to a file, too")
    return parser.parse_args()


def main() -> int:
    """Measure twice, print."""
    given = arguments()
    warn_if_busy()
    where = setting()
    with tempfile.TemporaryDirectory(prefix="igprof-noise-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sweep = given.sweep
        if given.quick:
            sweep = Path(temporary) / "quick.yaml"
            sweep.write_text(QUICK)
        found = measure_twice(sweep, folder)
    text = f"{describe_setting(where)}\n\n{table(found)}\n{conclusion(found)}"
    if given.json:
        print_json({"setting": where, **found})
    else:
        print(text)
    if given.out is not None:
        with atomic_write(given.out) as out:
            out.write(text.encode())
        note(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    run(main)
