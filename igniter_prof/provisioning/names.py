"""Models under several names: the zoo's own, and the aliases that other tools call them by."""

from __future__ import annotations

from collections.abc import Iterable

from igniter_prof.errors import BadInput


def canonical(model: str) -> str:
    """The zoo's own name of a model; a model that the zoo does not have keeps its name."""
    from igniter_prof import zoo

    try:
        return zoo.resolve(model)
    except BadInput:
        return model


def known_as(model: str, known: Iterable[str]) -> str | None:
    """The name among ``known`` that means this model; None if there is none."""
    names = sorted(known)
    if model in names:
        return model
    wanted = canonical(model)
    return next((name for name in names if canonical(name) == wanted), None)
