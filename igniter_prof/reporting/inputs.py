"""What a report is made from: each input is recognised by its content, not by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igniter_prof.errors import BadInput
from igniter_prof.files import parse, read_json
from igniter_prof.records import Coefficients, Measurement, Plan, ProfileManifest, Result

MANIFEST = "profile.json"

_HINT = "give a profile folder, or the JSON that fit, plan or evaluate wrote"


@dataclass(frozen=True)
class Profile:
    """A profile folder, read whole: its manifest and its measurements in the order of time."""

    manifest: ProfileManifest
    measurements: tuple[Measurement, ...]


Content = Profile | Coefficients | Plan | Result


@dataclass(frozen=True)
class Source:
    """One input of a report and where it came from."""

    path: Path
    content: Content


def read_inputs(paths: Sequence[Path]) -> tuple[Source, ...]:
    """Read every input of a report.

    Raises:
        BadInput: names the file that is not there, is broken, or is of no known kind.
    """
    if not paths:
        raise BadInput("nothing to report on", hint=_HINT)
    return tuple(Source(path, _read(path)) for path in map(Path, paths))


def _read(path: Path) -> Content:
    from igniter_prof.dataset.identify import kind_of

    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise BadInput(f"holds no {MANIFEST}, so it is no profile", where=str(path), hint=_HINT)
        return read_profile(path)
    document: Any = read_json(path)
    kind = kind_of(document)
    if kind == "coefficients":
        return parse(document, Coefficients, str(path))
    if kind == "plan":
        return parse(document, Plan, str(path))
    if kind == "result":
        return parse(document, Result, str(path))
    if path.name == MANIFEST and isinstance(document, dict) and "sweep" in document:
        return read_profile(path.parent)
    raise BadInput("is no coefficients, plan or result", where=str(path), hint=_HINT)


def read_profile(path: Path) -> Profile:
    """Read a profile folder; the only place here that knows how profiles are stored.

    Raises:
        BadInput: the folder is no profile, or a row of it is broken.
    """
    from igniter_prof.dataset import ProfileStore

    store = ProfileStore.open(path)
    by_time = sorted(store.measurements(), key=lambda m: (m.anchor_wall_ns, m.cell_id))
    return Profile(store.manifest, tuple(by_time))
