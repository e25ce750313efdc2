"""The text format in which Prometheus and Triton expose metrics, read strictly.

Format 0.0.4: prometheus.io/docs/instrumenting/exposition_formats ("Text-based format"). It is
small enough that a client library, whose own registry comes along, would be the larger thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SAMPLE: Final = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*(?:\{(?P<labels>.*)\})?[ \t]*"
    r"(?P<value>[^ \t{}]+)(?:[ \t]+(?P<at_ms>-?\d+))?"
)
_LABEL: Final = re.compile(
    r'[ \t]*(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"(?P<value>(?:[^"\\]|\\[\\"n])*)"[ \t]*'
)
# what float() takes and Go's parser does not: 1_000 is fine there only in literals
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?Inf|NaN")
_ESCAPES: Final = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


@dataclass(frozen=True)
class Sample:
    """One metric's value."""

    name: str
    labels: tuple[tuple[str, str], ...]
    """Names and values, in their order."""
    value: float

    def label(self, name: str) -> str | None:
        """The value of a label; None: it has none of that name."""
        return dict(self.labels).get(name)


def samples(text: str) -> Iterator[Sample]:
    """The samples of a page of metrics; comments, HELP and TYPE are passed over.

    Raises:
        ValueError: a line is none of the format; says which.
    """
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip(" \t\r")
        if stripped and not stripped.startswith("#"):
            try:
                yield _sample(stripped)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None


def _sample(line: str) -> Sample:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(f"no sample: {line[:80]!r}")
    value = match["value"]
    if not _NUMBER.fullmatch(value):
        raise ValueError(f"no number: {value[:80]!r}")
    return Sample(match["name"], tuple(_labels(match["labels"] or "")), float(value))


def _labels(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    seen = set()
    while text[place:].strip(" \t"):
        match = _LABEL.match(text, place)
        if match is None or match["name"] in seen:
            raise ValueError(f"wrong labels: {text[:80]!r}")
        seen.add(match["name"])
        yield match["name"], re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], match["value"])
        place = match.end()
        if place < len(text):
            if text[place] != ",":  # one after the last label is allowed
                raise ValueError(f"wrong labels: {text[:80]!r}")
            place += 1
