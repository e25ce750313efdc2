"""AC-Prof's tutorial as one command; scripts/fcn_tutorial calls this."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import yaml
from picture import paint, segment, show
from table import plot, rows_of, write_csv

from igniter_prof.config import load_sweep
from igniter_prof.dataset.store import ProfileStore
from igniter_prof.errors import INTERRUPTED, BadInput, IgprofError, OutsideFailure
from igniter_prof.records import Measurement

SCRIPTS = Path(__file__).resolve().parents[1]
SWEEP = SCRIPTS / "sweeps" / "fcn_resnet50.yaml"
QUICK_SCALES = [0.1, 0.5, 1.0, 1.5, 2.0]
QUICK_SIZES = 2
QUICK_STOPPING = {
    "precision_pct": 10,
    "min_s": 1,
    "max_s": 20,
    "warmup_requests": 2,
    "cooldown_s": 1,
}


def say(message: str) -> None:
    """Progress, on standard error."""
    print(message, file=sys.stderr, flush=True)


def write_sweep(out: Path, image: Path, chosen: argparse.Namespace) -> Path:
    """The tutorial's sweep with the picture as its input; as much of it as was asked for."""
    document = yaml.safe_load(SWEEP.read_text())
    document["device"] = chosen.device
    document["models"][0]["inputs"] = image.name
    if chosen.quick:
        document["stopping"] |= QUICK_STOPPING
        document["baseline_every"] = 0
    scales = chosen.scales or (QUICK_SCALES if chosen.quick else None)
    sizes = chosen.sizes or (QUICK_SIZES if chosen.quick else len(document["sizes"]))
    document["input_scales"] = scales or document["input_scales"]
    document["sizes"] = document["sizes"][-sizes:]
    path = out / "sweep.yaml"
    path.write_text(f"# by scripts/fcn_tutorial, from {SWEEP.name}\n" + yaml.safe_dump(document))
    return path


def scales_of(text: str) -> list[float]:
    """Comma-separated numbers."""
    return [float(part) for part in text.split(",")]


def run(command: list[str]) -> None:
    """Run a command whose output is for the user, too."""
    say("+ " + " ".join(command))
    status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if status:
        raise SystemExit(status)  # it has said why


def tables(measurements: list[Measurement], out: Path) -> list[Path]:
    """Write a CSV for each container size that was measured, and say what was not."""
    skipped: dict[str, str] = {}
    for measurement in measurements:
        (tenant,) = measurement.tenants
        if tenant.status == "skipped":
            skipped.setdefault(name_of(measurement), tenant.detail or "")
        elif tenant.latency is None:
            scale, why = tenant.tenant.input_scale, tenant.detail or tenant.verdict
            say(f"{name_of(measurement)}, scale {scale:g}: no time, {tenant.status} ({why})")
    for name, reason in skipped.items():
        say(f"{name}: skipped, {reason}")
    by_size: dict[str, list[Measurement]] = {}
    for measurement in sorted(measurements, key=_largest_first):
        if measurement.tenants[0].latency is not None and not measurement.cell.baseline:
            by_size.setdefault(name_of(measurement), []).append(measurement)
    if not by_size:
        raise OutsideFailure("no cell was measured", where=str(out), hint="see the messages above")
    rows = {name: rows_of(members) for name, members in by_size.items()}
    written = [write_csv(out / f"{name}.csv", table) for name, table in rows.items()]
    return written + plot(rows, out / "latency")


def name_of(measurement: Measurement) -> str:
    """A container size as a file's name: ``cpu2_4gib``."""
    (tenant,) = measurement.tenants
    cores, memory_mib = tenant.tenant.cpu_cores or 0, tenant.tenant.memory_mib or 0
    return f"cpu{cores:g}_{memory_mib / 1024:g}gib" + ("_gpu" if tenant.tenant.gpu else "")


def _largest_first(measurement: Measurement) -> float:
    return -(measurement.tenants[0].tenant.cpu_cores or 0)


def main() -> int:
    """Do all of it; what was written, on standard output."""
    parser = argparse.ArgumentParser(prog="scripts/fcn_tutorial", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 scales, the two smallest sizes")
    parser.add_argument("--scales", type=scales_of, metavar="S,S,…", help="of the image")
    parser.add_argument(
        "--sizes", type=int, choices=range(1, 7), help="that many sizes of container, small first"
    )
    parser.add_argument("--out", type=Path, default=Path("out/fcn_tutorial"), metavar="DIR")
    parser.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="a photo, of which at most 448 pixels a side are used; else one is painted",
    )
    parser.add_argument("--device", default="cpu", help="cuda:0 for the size with a GPU")
    chosen = parser.parse_args()
    try:
        out = chosen.out.resolve()
        out.mkdir(parents=True, exist_ok=True)
        picture = paint(out / "image.png", chosen.image)
        run([str(SCRIPTS / "images" / "build"), "fcn_resnet50"])
        sweep_file = write_sweep(out, picture, chosen)
        profile = out / "profile"
        igprof = [sys.executable, "-m", "igniter_prof"]
        run([*igprof, "profile", str(sweep_file), "--out", str(profile)])
        with ProfileStore.open(profile) as store:
            measurements = store.measurements()
        written = tables(measurements, out)
        say("one picture through a container, for its palette picture")
        classes = segment(load_sweep(sweep_file, {}), picture)
        written += show(picture, classes, out / "segmentation.png")
    except OSError as error:
        say(f"fcn_tutorial: {error}")
        return BadInput.exit_status
    except IgprofError as error:
        say(f"fcn_tutorial: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
