"""``scripts/gpu_campaign``: bundle, run, keep, report (docs/gpu.md)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import machine
import steps


def main(arguments: list[str]) -> int:
    """Run one verb; its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_campaign", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("bundle", help="here: fill .gpu/ with all that the machine lacks")
    run = verbs.add_parser("run", help="there: measure, step by step, until the time is up")
    run.add_argument("--device", default="cuda:0", help="cuda:0, or cpu:0 to rehearse")
    run.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="default: $OUT")
    run.add_argument("--minutes", type=float, default=8.5, help="after which everything is packed")
    run.add_argument("--only", type=_names, help=f"of {','.join(steps.ORDER)}")
    run.add_argument("--quick", action="store_true", help="a few cells of each step")
    keep = verbs.add_parser("keep", help="here: what came back goes along with the next piece")
    keep.add_argument("state", type=Path, nargs="+", metavar="STATE.tar.xz")
    report = verbs.add_parser("report", help="the dataset, the figures and the report")
    report.add_argument("state", type=Path, nargs="+", help="a state folder, or its archives")
    report.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    if given.verb == "bundle":
        import bundle

        return bundle.main()
    if given.verb == "run":
        if given.out is None:
            parser.error("--out is needed where $OUT is not set")
        until = time.monotonic() + 60 * given.minutes
        return steps.run(given.device, given.out, until, only=given.only, quick=given.quick)
    if given.verb == "keep":
        return _keep(given.state)
    return _report(given.state, given.out)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = sorted(set(names) - set(steps.ORDER))
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"no step {unknown}; steps: {', '.join(steps.ORDER)}")
    return names


def _keep(parts: list[Path]) -> int:
    """Put what came back where the next piece finds it; a new state takes the old one's place."""
    others = [part for part in parts if not part.match(machine.ARCHIVES)]
    for broken in others or machine.broken_archives(parts):
        return _refuse(
            f"{broken}: is no archive of a state",
            "name every state*.tar.xz that the piece brought back",
        )
    machine.BUNDLE.mkdir(exist_ok=True)
    before, after = machine.cells_in(machine.kept()), machine.cells_in(parts)
    if after < before:
        return _refuse(
            f"{parts[0]}: holds {after} cells, and the state that is kept holds {before}",
            f"if it is the one to go on with, first remove {machine.BUNDLE}/state*.tar.xz",
        )
    # copied before anything is removed: it may be what is kept already
    fresh = [machine.BUNDLE / f".{part.name}.new" for part in parts]
    for part, copy in zip(parts, fresh, strict=True):
        shutil.copyfile(part, copy)
    for old in machine.kept():
        old.unlink()
    for part, copy in zip(parts, fresh, strict=True):
        copy.rename(machine.BUNDLE / part.name)
    print(f"{after} cells in {', '.join(str(path) for path in machine.kept())}")
    return 0


def _report(state: list[Path], out: Path) -> int:
    site = machine.UNPACKED / "site"  # on the machine that measured; here igprof is installed
    sys.path += [str(machine.ROOT), *([str(site)] if sys.version_info[:2] == (3, 12) else [])]
    import dataset
    import report

    from igniter_prof.errors import IgprofError

    try:
        dataset.expect_place(out)
        folder = state[0]
        if len(state) > 1 or not folder.is_dir():
            for broken in machine.broken_archives(state):
                return _refuse(
                    f"{broken}: is neither the folder of a state nor one of its archives",
                    "name one folder, or all state*.tar.xz of a piece",
                )
            folder = out / "state"
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier report
            machine.unpack_state(state, folder)
        report.make(folder, out)
        dataset.make(folder, out)
    except IgprofError as error:
        print(f"gpu_campaign: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _refuse(what: str, hint: str) -> int:
    """Say what is wrong, as igprof does; the exit status of bad input."""
    print(f"gpu_campaign: {what}\n  {hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
