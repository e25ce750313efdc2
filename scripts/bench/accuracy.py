"""How far predicted latencies are from measured ones, beside baselines: the goals of accuracy.

With ``--data DIR`` (iGniter's published V100 measurements, or a folder that holds them) on cells of
profiled pairs, on pairs never measured together, after a few cells chosen by ``igprof suggest``,
from the lightweight profile only, against the published predictor, and without each term of the
model. With PROFILE_DIRs on their pairs, and on their triples predicted from less. Everything goes
through the functions of ``igprof import``, ``fit``, ``predict`` and ``suggest``.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accuracy_trials as trials
import numpy as np
from accuracy_speed import speed
from accuracy_trials import Cells, Profile, Trial, judge
from common import describe_setting, markdown, run, setting

from igniter_prof.cli.common import note, print_json
from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.igniter import Sources, import_igniter
from igniter_prof.errors import BadInput
from igniter_prof.files import atomic_write
from igniter_prof.fitting import fit, predictor
from igniter_prof.fitting.model import LatencyModel
from igniter_prof.fitting.points import Observations, observe
from igniter_prof.records import Tenant

OURS = "igprof"
_ERRORS = ("mean", "p99")
PEERS = ("none", "igniter", "gpulets")
CHOSEN = 8
"""Cells of a pair that are measured after all, in protocol c."""

COLUMNS = [
    "model",
    "tenants",
    "mean error %",
    "p99 %",
    "in 90% interval %",
    "half-width, median %",
]


@dataclass(frozen=True)
class Published:
    """The published data: one profile of all of it, and its parts."""

    profile: Profile
    alone: Cells
    """config and solo.csv"""
    pairs: Cells
    """pairs.csv"""
    config: Cells | None
    folder: Path


@dataclass(frozen=True)
class Asked:
    """What the user wants."""

    model: str
    seeds: int
    folds: int
    cells: int
    many: int


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("profiles", type=Path, nargs="*", metavar="PROFILE_DIR")
    parser.add_argument("--data", type=Path, help="folder of the published V100 measurements")
    parser.add_argument("--model", default=OURS, help="ours; the others stand beside it")
    parser.add_argument("--seeds", type=int, default=1, help="how often random parts are drawn")
    parser.add_argument("--folds", type=int, default=10, help="of protocol a")
    parser.add_argument("--only", default="abcdefgh", help="letters of the parts to run")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the tables there too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    if given.data is None and not given.profiles:
        parser.error("give --data DIR, PROFILE_DIRs, or both")
    asked = Asked(given.model, given.seeds, given.folds, cells=1500, many=1_000_000)
    if not trials.models([asked.model]):
        raise BadInput(f"no latency model is called '{asked.model}'")
    where = setting()
    sections = []
    with tempfile.TemporaryDirectory() as folder:
        data = None if given.data is None else _published(given.data, Path(folder))
        for section in _sections(data, given.profiles, asked, given.only):
            sections.append(section)
            if not given.json:
                print(_markdown(section), flush=True)
    footer = f"Model `{asked.model}`, {asked.seeds} seed(s) from 0. {describe_setting(where)}."
    if given.out is not None:
        with atomic_write(given.out) as out:
            out.write("\n".join([*map(_markdown, sections), footer, ""]).encode())
    if given.json:
        print_json({"setting": where, "seeds": asked.seeds, "sections": sections})
    else:
        print(footer)
    return 0


Section = dict[str, Any]


def _sections(
    data: Published | None, profiles: Sequence[Path], asked: Asked, only: str
) -> Iterator[Section]:
    if data is not None:
        parts: dict[str, Callable[[Published, Asked], Section | None]] = {
            "a": _profiled_pairs,
            "b": _unseen_pairs,
            "c": _after_some_cells,
            "d": _lightweight,
            "e": _agreement,
            "f": _ablation,
        }
        for letter, part in parts.items():
            if letter in only:
                section = _taken(part, data, asked)
                if section is not None:
                    yield section
    for path in profiles:
        if "g" in only:
            note(f"{path} ...")
            yield from _own_profile(path, asked)
    if "h" in only:
        of = data.profile if data is not None else _open(profiles[0])
        note("speed ...")
        rows = speed(of, asked.model, asked.cells, asked.many)
        yield {
            "title": "h. Speed",
            "about": f"Filled up to {asked.cells} cells with what the model predicts for random"
            " pairs, with 1% noise. Each verb is a process of its own.",
            "columns": ["what", "seconds", "peak memory, MiB"],
            "rows": [
                [row["what"], f"{row['seconds']:.2f}", _text(row["peak_mib"], 0)] for row in rows
            ],
            "figures": rows,
        }


def _taken(
    part: Callable[[Published, Asked], Section | None], data: Published, asked: Asked
) -> Section | None:
    began = time.monotonic()
    section = part(data, asked)
    if section is not None:
        note(f"{section['title']}: {time.monotonic() - began:.0f} s")
    return section


def _judge(
    figures: dict[str, dict[str, Any]],
    label: str,
    profile: Profile,
    drawn: Sequence[Trial],
    model: LatencyModel,
    intervals: bool,
) -> None:
    """Add a row of figures, or say why there is none."""
    if not drawn or not all(trial.train and trial.test for trial in drawn):
        return
    try:
        figures[label] = judge(profile, drawn, model, 0, intervals=intervals).figures()
    except BadInput as error:
        note(f"no row '{label}': {error.what}")


# --- the published data -----------------------------------------------------------------------


def _published(folder: Path, work: Path) -> Published:
    found = sorted(folder.rglob("pairs.csv"))
    if not found:
        raise BadInput("holds no pairs.csv of iGniter's measurements", where=str(folder))
    home = found[0].parent
    config, solo, pairs = (home / n for n in ("igniter_config.jsonl", "solo.csv", "pairs.csv"))
    known = {p: p if p.exists() else None for p in (config, solo)}
    alone = _imported(Sources(config=known[config], solo=known[solo]), work / "alone")
    both = _imported(Sources(pairs=pairs), work / "pairs")
    only = None
    if known[config] is not None:
        only = _imported(Sources(config=config), work / "config").cells
    return Published(
        Profile([*alone.cells, *both.cells], alone.device, alone.igniter),
        alone.cells,
        both.cells,
        only,
        home,
    )


def _imported(sources: Sources, out: Path) -> Profile:
    import_igniter(sources, out)
    return _open(out)


def _open(path: Path) -> Profile:
    store = ProfileStore.open(path)
    return Profile(
        trials.usable(store.measurements()), store.manifest.device, store.manifest.igniter
    )


def _profiled_pairs(data: Published, asked: Asked) -> Section:
    figures: dict[str, dict[str, Any]] = {}
    for share, folds in ((90, asked.folds), (50, 2)):
        drawn = [
            trial
            for seed in range(asked.seeds)
            for trial in trials.folds(data.pairs, data.alone, folds, seed)
        ]
        for model in trials.models([*PEERS, asked.model]):
            label = f"{model.name}, {share}% fitted"
            _judge(figures, label, data.profile, drawn, model, model.name == asked.model)
    return _section(
        "a. Cells of profiled pairs",
        f"{len(data.pairs)} cells of pairs.csv, cross-validated: fitted to all cells alone and to"
        " 90% (50%) of each pair's. Goal: mean 0.5%, p99 2%, 87-93% in the interval, half-width"
        " under 1.5%.",
        figures,
    )


def _unseen_pairs(data: Published, asked: Asked) -> Section:
    figures: dict[str, dict[str, Any]] = {}
    for label, drawn in (
        ("one left out", list(trials.one_pair_out(data.pairs, data.alone))),
        ("two left out", list(trials.two_disjoint(data.pairs, data.alone))),
    ):
        for model in trials.models([*PEERS, asked.model]):
            ours = model.name == asked.model
            _judge(figures, f"{model.name}, {label}", data.profile, drawn, model, ours)
            if ours:
                for trial in drawn:
                    names = sorted({"+".join(trials.mix(m)) for m in trial.test})
                    row = f"- {' and '.join(names)}"
                    _judge(figures, row, data.profile, [trial], model, intervals=False)
    return _section(
        "b. Pairs never measured together",
        "Each pair left out in turn; and fitted to two pairs without a common model, the other two"
        " predicted (harder than the goal's protocol, which gives four pairs). Goal: mean 2%,"
        " p99 9%.",
        figures,
    )


def _after_some_cells(data: Published, asked: Asked) -> Section | None:
    (model,) = trials.models([asked.model])
    if not hasattr(model.fit(_observed(data.profile), 0), "covariance"):
        note(f"c: the model '{asked.model}' cannot suggest cells")
        return None
    figures: dict[str, dict[str, Any]] = {}
    for label, drawn in (
        ("one pair left out", list(trials.one_pair_out(data.pairs, data.alone))),
        ("two left out", list(trials.two_disjoint(data.pairs, data.alone))),
    ):
        for how, chooser in (("suggest", asked.model), ("random", None)):
            # a choice at random needs more draws to be told
            seeds = asked.seeds if chooser else max(3, asked.seeds)
            after = [
                trial
                for seed in range(seeds)
                for trial in trials.with_some_of_the_pair(
                    data.profile, drawn, CHOSEN, seed, chooser
                )
            ]
            row = f"{model.name}, {CHOSEN} by {how}, {label}"
            _judge(figures, row, data.profile, after, model, intervals=bool(chooser))
    return _section(
        f"c. The same, after {CHOSEN} cells of each such pair",
        "Chosen one after the other from the pair's cells by `igprof suggest`, or at random; judged"
        " on the pair's other cells. Goal: mean 0.8%.",
        figures,
    )


def _lightweight(data: Published, asked: Asked) -> Section | None:
    if data.config is None:
        return None
    figures: dict[str, dict[str, Any]] = {}
    drawn = [Trial(data.config, data.pairs)]
    for model in trials.models([*PEERS, asked.model]):
        _judge(figures, model.name, data.profile, drawn, model, model.name == asked.model)
    return _section(
        "d. From igniter_config.jsonl only",
        f"{len(data.config)} cells of the lightweight profile, all {len(data.pairs)} cells of"
        " pairs.csv predicted. Goal: mean 3%.",
        figures,
    )


def _agreement(data: Published, asked: Asked) -> Section | None:
    path = data.folder / "igniter_predictions.csv"
    if data.config is None or not path.exists():
        return None
    cells: dict[str, list[dict[str, str]]] = {}
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            cells.setdefault(row["cell"], []).append(row)
    coefficients = fit(
        data.config,
        data.profile.device,
        profile_hash="",
        model="igniter",
        holdout=0.0,
        igniter=data.profile.igniter,
    )
    told = predictor(coefficients).predict(
        [
            [
                Tenant(
                    model=row["model"],
                    batch_size=int(row["batch_size"]),
                    share_pct=float(row["share_pct"]),
                )
                for row in rows
            ]
            for rows in cells.values()
        ]
    )
    pairs = [(row, p) for rows, cell in zip(cells.values(), told, strict=True)
             for row, p in zip(rows, cell, strict=True)]  # fmt: skip
    latency = max(abs(p.latency_ms / float(row["latency_ms"]) - 1) for row, p in pairs)
    rate = max(abs(p.throughput_rps / float(row["throughput_rps"]) - 1) for row, p in pairs)
    return {
        "title": "e. Agreement of the model igniter with the published predictor",
        "about": f"{len(cells)} cells of one to five tenants; largest relative difference. Goal:"
        " 1e-6.",
        "columns": ["of", "largest relative difference"],
        "rows": [["latency", f"{latency:.2g}"], ["throughput", f"{rate:.2g}"]],
        "figures": {"latency": latency, "throughput": rate},
    }


def _ablation(data: Published, asked: Asked) -> Section | None:
    (model,) = trials.models([asked.model])
    parts = trials.ablations(model)
    if not parts:
        note(f"f: the model '{asked.model}' has no terms that can be left out")
        return None
    seen = list(trials.folds(data.pairs, data.alone, asked.folds, 0))
    unseen = list(trials.one_pair_out(data.pairs, data.alone))
    drawn_from = {"a": seen, "b": unseen}
    if data.config is not None:
        drawn_from["d"] = [Trial(data.config, data.pairs)]
    found = {}
    rows = []
    for label, one in {"all terms": model, **{f"without {n}": m for n, m in parts.items()}}.items():
        note(f"ablation: {label} ...")
        found[label] = {
            part: judge(data.profile, drawn, one, 0, intervals=False).figures()
            for part, drawn in drawn_from.items()
        }
        errors = (each[k] for each in found[label].values() for k in ("mean_pct", "p99_pct"))
        rows.append([label, *(_text(value, 2) for value in errors)])
    return {
        "title": "f. Each term left out",
        "about": "Errors as in a (90% fitted), b (one pair left out) and d (lightweight profile).",
        "columns": ["model", *(f"{part}: {what} %" for part in drawn_from for what in _ERRORS)],
        "rows": rows,
        "figures": found,
    }


def _observed(profile: Profile) -> Observations:
    return observe(profile.cells, profile.device, profile.igniter)[0]


# --- a profile of one's own -----------------------------------------------------------------------


def _own_profile(path: Path, asked: Asked) -> Iterator[Section]:
    profile = _open(path)
    by_size = {size: [m for m in profile.cells if len(m.tenants) == size] for size in (1, 2, 3)}
    figures: dict[str, dict[str, Any]] = {}
    for model in trials.models([*PEERS, asked.model]):
        ours = model.name == asked.model
        kinds = [
            (
                "pairs, cross-validated",
                [
                    trial
                    for seed in range(asked.seeds)
                    for trial in trials.folds(by_size[2], by_size[1], asked.folds, seed)
                ],
            ),
            ("pairs never measured together", list(trials.one_pair_out(by_size[2], by_size[1]))),
            ("triples, from solo and pairs", [Trial([*by_size[1], *by_size[2]], by_size[3])]),
            ("triples, from solo only", [Trial(by_size[1], by_size[3])]),
        ]
        for label, drawn in kinds:
            _judge(figures, f"{model.name}: {label}", profile, drawn, model, ours)
    floors = ", ".join(
        f"{name} {_text(floor, 2) or '-'}% ({source})"
        for name, cells in (("alone", by_size[1]), ("pairs", by_size[2]), ("triples", by_size[3]))
        for floor, source in [trials.noise_floor(cells)]
        if cells
    )
    sizes = ", ".join(f"{len(cells)} of {size}" for size, cells in by_size.items() if cells)
    names = sorted({t.tenant.model for m in profile.cells for t in m.tenants})
    yield _section(
        f"g. {path.name}: {', '.join(names)}",
        f"Cells by their tenants: {sizes}. Error that a perfect model would show, for noise alone:"
        f" {floors}. An interval within one run knows nothing of how far runs differ.",
        figures,
    )


# --- tables ---------------------------------------------------------------------------------------


def _section(title: str, about: str, figures: dict[str, dict[str, Any]]) -> Section:
    rows = [
        [
            label,
            found["tenants"],
            _text(found["mean_pct"], 2),
            _text(found["p99_pct"], 2),
            _text(found["coverage_pct"], 1),
            _text(found["half_width_pct"], 2),
        ]
        for label, found in figures.items()
    ]
    return {"title": title, "about": about, "columns": COLUMNS, "rows": rows, "figures": figures}


def _markdown(section: Section) -> str:
    table = markdown(section["columns"], section["rows"])
    return f"### {section['title']}\n\n{section['about']}\n\n{table}"


def _text(value: float | None, digits: int) -> str | None:
    return None if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


if __name__ == "__main__":
    run(main)
