"""What a page consists of: plain data, that the template lays out and the CSV files repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import groupby
from typing import Any, Literal

Tone = Literal["good", "bad", "warn", "plain"]

SYMBOLS: Mapping[Tone, str] = {"good": "✓", "bad": "✗", "warn": "!", "plain": ""}
"""A verdict is never told by its colour alone."""


@dataclass(frozen=True)
class Badge:
    """A short verdict."""

    text: str
    tone: Tone = "plain"

    @property
    def symbol(self) -> str:
        """The sign in front of the text."""
        return SYMBOLS[self.tone]


@dataclass(frozen=True)
class Column:
    """One column of a table: its key in the rows and in the CSV, and how people see it."""

    key: str
    title: str
    numeric: bool = True
    shown: bool = True  # False: in the CSV only
    group: str = ""  # a heading above neighbouring columns


@dataclass(frozen=True)
class Table:
    """Rows for the page and, whole, for a CSV file. A cell is a number, a text, a Badge or None."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    caption: str = ""
    folded: bool = False
    limit: int = 400

    kind = "table"

    @property
    def shown_columns(self) -> tuple[Column, ...]:
        """The columns that the page shows."""
        return tuple(column for column in self.columns if column.shown)

    @property
    def header(self) -> list[tuple[str, tuple[Column, ...]]]:
        """The shown columns by their common headings."""
        grouped = groupby(self.shown_columns, key=lambda column: column.group)
        return [(heading, tuple(columns)) for heading, columns in grouped]

    @property
    def shown_rows(self) -> tuple[Mapping[str, Any], ...]:
        """The rows that the page shows; a browser is slow with more."""
        return self.rows[: self.limit]

    def csv_rows(self) -> list[dict[str, Any]]:
        """The rows as plain values, with every column."""
        return [{c.key: _plain(row.get(c.key)) for c in self.columns} for row in self.rows]


@dataclass(frozen=True)
class Plot:
    """A drawing (SVG markup, safe to embed) with what one sees in it."""

    name: str
    title: str
    svg: str
    caption: str

    kind = "plot"


@dataclass(frozen=True)
class Section:
    """One input's part of the page; badges, facts and remarks stand in the summary."""

    anchor: str
    title: str
    source: str
    badges: tuple[Badge, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    blocks: tuple[Plot | Table, ...] = field(default=())

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables among the blocks."""
        return tuple(block for block in self.blocks if isinstance(block, Table))


def _plain(value: Any) -> Any:
    return value.text if isinstance(value, Badge) else value


def shown(value: Any) -> str:
    """A table cell for people: three significant digits, ``–`` where there is nothing."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return str(value)


def number(value: float) -> str:
    """Three significant digits, without an exponent where that is readable.

    >>> number(0.0123), number(12345.6), number(42.0)
    ('0.0123', '12346', '42')
    """
    if abs(value) >= 100:
        return f"{value:.0f}" if abs(value) < 1e7 else f"{value:.3g}"
    return f"{value:.3g}"


def plural(count: int, noun: str) -> str:
    """``1 cell``, ``3 cells``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def some(items: Sequence[str], limit: int) -> tuple[str, ...]:
    """The first items, and how many there are besides."""
    rest = len(items) - limit
    return (*items[:limit], f"and {rest} more, in the tables") if rest > 0 else tuple(items)


def when(instant: str) -> str:
    """An ISO 8601 instant for people, in UTC and to the minute; what is none stays as it is."""
    try:
        parsed = datetime.fromisoformat(instant)
    except ValueError:
        return instant
    if parsed.tzinfo is None:
        return instant
    return f"{parsed.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
