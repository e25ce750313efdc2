"""What a file or folder of ours is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from igniter_prof.dataset.store import is_profile
from igniter_prof.errors import BadInput
from igniter_prof.files import read_json

Kind = Literal["profile", "coefficients", "plan", "result"]

# the fields that only this format has
_MARKS: tuple[tuple[Kind, frozenset[str]], ...] = (
    ("coefficients", frozenset({"profile_hash", "models"})),
    ("result", frozenset({"plan_hash", "workloads"})),
    ("plan", frozenset({"strategy", "devices"})),
)


_HINT = "name a profile's folder, or a file that 'igprof fit', 'plan' or 'evaluate' wrote"


def identify(path: Path) -> Kind:
    """Which of our formats a file or folder is of, by its content and whatever its name.

    Raises:
        BadInput: it is not there, or is none of them.
    """
    path = Path(path)
    if is_profile(path):
        return "profile"
    if path.is_dir():
        raise BadInput("is a folder that holds no profile", where=str(path), hint=_HINT)
    kind = kind_of(read_json(path))
    if kind is None:
        raise BadInput("is none of our files", where=str(path), hint=_HINT)
    return kind


def kind_of(document: Any) -> Kind | None:
    """Which of our formats a JSON document is of, by the fields that only it has; None: none."""
    fields = set(document) if isinstance(document, dict) else set()
    return next((kind for kind, marks in _MARKS if marks <= fields), None)
