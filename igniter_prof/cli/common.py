"""What the verbs share: the --json option, tables, progress on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO, TypeVar

import click
from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])

MAX_SHOWN = 40
"""Rows of a table whose --json has all."""
MAX_WARNINGS = 10


def json_option(function: F) -> F:
    """Add ``--json``: one JSON document on standard output, nothing else there."""
    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    return option(function)


def print_json(document: Any) -> None:
    """Print a record or a plain document as the one JSON document of this run."""
    if isinstance(document, BaseModel):
        document = document.model_dump(mode="json")
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table to standard output; None shows as ``-``."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not _there(sys.stdout):
        return
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*[Text("-" if value is None else str(value)) for value in row])
    # a pipe has no width: do not fold what a script will read
    width = None if sys.stdout.isatty() else 160
    # names and log lines are text, not markup
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def print_most(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table of the first ``MAX_SHOWN`` rows, and how many more there are."""
    if rows:
        print_table(title, columns, rows[:MAX_SHOWN])
    if len(rows) > MAX_SHOWN:
        note(f"… and {len(rows) - MAX_SHOWN} more (--json has all)")


def print_notes(notes: Iterable[str]) -> None:
    """What a reader of the answer should know, a line each, on standard error."""
    for each in notes:
        note(f"note: {each}")


def warn_of_outside(warnings: Sequence[str]) -> None:
    """What cells lie outside of what was profiled: the first kinds of them, on standard error."""
    for warning in warnings[:MAX_WARNINGS]:
        note(f"warning: {warning}")
    if len(warnings) > MAX_WARNINGS:
        more = len(warnings) - MAX_WARNINGS
        note(f"warning: and {more} more kinds of cells outside the profile")


def note(message: str) -> None:
    """A line for people, on standard error."""
    tell(message + "\n")


def tell(text: str) -> None:
    """Text for people, on standard error; that nobody reads it any more ends no work."""
    try:
        click.echo(text, err=True, nl=False)
    except OSError:
        # what is left in the buffer would fail once more when Python ends
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stderr.fileno())
        os.close(null)


def told_to_terminal() -> bool:
    """Whether standard error is a terminal."""
    return _there(sys.stderr) and sys.stderr.isatty()


def _there(stream: TextIO | None) -> bool:
    # a process that was started with the descriptor closed (2>&-) has None
    return stream is not None
