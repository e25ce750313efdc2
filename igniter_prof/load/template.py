"""Templates of request bodies: JSON in which ``${name}`` stands for an input. Pure.

A reference is a whole string: ``${x}``, or ``${x.form}`` with one of ``FORMS``. A string that
begins with ``$${`` is meant literally, without its first character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

VALUES = "values"
FORMS = ("size", "native_size", "png", "jpeg", "raw")
"""What may stand behind the dot; without one an input is its values, as nested lists."""
_REFERENCE = re.compile(r"\$\{([^${}.]*)(?:\.([^${}]*))?\}")


@dataclass(frozen=True)
class Reference:
    """An input that a template names, and the form in which it is wanted."""

    name: str
    form: str = VALUES


class BadTemplate(ValueError):
    """A string that is neither a literal nor a reference; ``at`` is its place in the template."""

    def __init__(self, what: str, at: str) -> None:
        super().__init__(what)
        self.at = at


def references(template: Any) -> Iterator[tuple[str, Reference]]:
    """All references of a template, each with its place, such as ``body.instances[0].x``.

    Raises:
        BadTemplate: a string or a key holds a ``${`` that is no reference.
    """
    yield from _references(template, "body")


def fill(template: Any, value: Callable[[Reference], Any]) -> Any:
    """A copy of a template with each reference replaced by ``value`` of it.

    Raises:
        BadTemplate: as ``references``.
    """
    if isinstance(template, str):
        found = parse(template, "body")
        return value(found) if isinstance(found, Reference) else found
    if isinstance(template, dict):
        return {key: fill(part, value) for key, part in template.items()}
    if isinstance(template, (list, tuple)):
        return [fill(part, value) for part in template]
    return template


def parse(text: str, at: str) -> Reference | str:
    """What a string of a template stands for: a reference, or a literal text.

    Raises:
        BadTemplate: it holds a ``${`` and is no reference, or has an unknown form.
    """
    if text.startswith("$${"):
        return text[1:]
    if "${" not in text:
        return text
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise BadTemplate(f"a reference is a whole string, this is '{text}'", at)
    name, form = match[1], match[2]
    if form is not None and form not in FORMS:
        raise BadTemplate(f"'{text}' asks for the unknown form '{form}'", at)
    return Reference(name, form or VALUES)


def _references(part: Any, at: str) -> Iterator[tuple[str, Reference]]:
    if isinstance(part, str):
        found = parse(part, at)
        if isinstance(found, Reference):
            yield at, found
    elif isinstance(part, dict):
        for key, each in part.items():
            if "${" in str(key):
                raise BadTemplate(f"a key is no reference: '{key}'", at)
            yield from _references(each, f"{at}.{key}")
    elif isinstance(part, (list, tuple)):
        for index, each in enumerate(part):
            yield from _references(each, f"{at}[{index}]")
