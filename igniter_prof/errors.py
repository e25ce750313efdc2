"""Every way in which igprof can fail, each with its exit status.

::

    IgprofError (1)          a defect of igprof
    ├── BadInput (2)         bad usage or bad input
    ├── MissingCapability (3) this machine lacks something
    ├── OutsideFailure (4)   something outside failed on the way
    ├── Unstable (5)         measured, but unstable or with failed tenants (--strict)
    ├── Infeasible (6)       no plan meets the workloads
    └── BrokenPromise (7)    an SLO was violated, or a plan breaks a promise

An interrupted run exits with 130. ``TenantFailure`` is no exit: it ends one tenant of a cell, which
is a result.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

INTERRUPTED = 130


class IgprofError(Exception):
    """A failure with a message for people: what was wrong, where, and what to do next."""

    exit_status = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self._placed}\n  {self.hint}" if self.hint else self._placed

    @property
    def note(self) -> str:
        """All of it in one line, for where it is no failure but a remark."""
        return f"{self._placed} ({self.hint})" if self.hint else self._placed

    @property
    def _placed(self) -> str:
        return self.what if self.where is None else f"{self.where}: {self.what}"


class BadInput(IgprofError):
    """Bad usage or bad input."""

    exit_status = 2


class MissingCapability(IgprofError):
    """This machine lacks something: Docker, a GPU, a right, Triton, a free port, disk space."""

    exit_status = 3


class OutsideFailure(IgprofError):
    """Something outside igprof failed on the way and the verb could not finish."""

    exit_status = 4


class Unstable(IgprofError):
    """Measured, but unstable or with failed tenants (raised with ``--strict`` only)."""

    exit_status = 5


class Infeasible(IgprofError):
    """No plan meets the workloads."""

    exit_status = 6


class BrokenPromise(IgprofError):
    """An SLO was violated, or ``check`` found a broken promise."""

    exit_status = 7


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the nearest known word, else all known words (None if there are none)."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(choices)}" if choices else None
