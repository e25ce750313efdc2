"""``igniter_config.jsonl``, iGniter's lightweight profile, as a record of ours and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from igniter_prof.dataset.igniter import formats
from igniter_prof.dataset.igniter.formats import HARDWARE, HARDWARE_KEYS, MODEL_KEYS, Key
from igniter_prof.errors import BadInput
from igniter_prof.files import read_text
from igniter_prof.records import IgniterHardware, IgniterModel, IgniterProfile, ModelName

Entries = dict[str, dict[str, tuple[int, Any]]]
"""What a file says of the hardware and of each model: key, its line and value."""

_NAME: TypeAdapter[str] = TypeAdapter(ModelName)


def read_config(path: Path) -> IgniterProfile:
    """Read a lightweight profile; where a key comes twice, the later line holds.

    Raises:
        BadInput: the file is not there or empty, a line is no JSON object of objects, a key is
            missing, a value is not what it should be (names line, model and key).
    """
    entries = _entries(path)
    if not entries:
        raise BadInput("is empty", where=str(path))
    hardware = _fields(path, HARDWARE, entries.pop(HARDWARE, {}), HARDWARE_KEYS)
    if not entries:
        raise BadInput("holds no model", where=str(path))
    models = {}
    for name, given in entries.items():
        models[name] = IgniterModel(**_fields(path, name, given, MODEL_KEYS))
    return IgniterProfile(hardware=IgniterHardware(**hardware), models=models)


def config_text(profile: IgniterProfile) -> str:
    """A lightweight profile as iGniter's tools write it: one key of one object a line."""
    lines = _lines(HARDWARE, profile.hardware, HARDWARE_KEYS)
    for name, model in profile.models.items():
        lines += _lines(name, model, MODEL_KEYS)
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)


def _lines(
    name: str, record: IgniterHardware | IgniterModel, keys: Mapping[str, Key]
) -> list[dict[str, Any]]:
    known = {key: _plain(getattr(record, one.field)) for key, one in keys.items()}
    return [{name: {key: value}} for key, value in (known | record.extra).items()]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return formats.plain(value)


def _entries(path: Path) -> Entries:
    found: Entries = {}
    for line, text in enumerate(read_text(path).removeprefix("\ufeff").split("\n"), 1):
        if not text.strip():
            continue
        document = _line(text, f"{path}, line {line}")
        for name, values in document.items():
            if not isinstance(values, dict):
                raise BadInput(
                    f"'{name}' is not an object of keys and values", where=f"{path}, line {line}"
                )
            if name != HARDWARE:
                _require_name(name, f"{path}, line {line}")
            entry = found.setdefault(name, {})
            entry.update({key: (line, value) for key, value in values.items()})
    return found


def _line(text: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        # a lone surrogate ("\\ud800") is valid JSON, but no text that could be written again
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"is not valid JSON ({error})", where=where, hint="each line is one JSON object"
        ) from error
    if not isinstance(document, dict):
        raise BadInput("is no JSON object", where=where, hint='such as {"MODEL": {"kernel": 20}}')
    return document


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _require_name(name: str, where: str) -> None:
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        raise BadInput(f"'{name}' is no name of a model", where=where) from error


def _fields(
    path: Path, name: str, given: Mapping[str, tuple[int, Any]], keys: Mapping[str, Key]
) -> dict[str, Any]:
    """The fields of a record; keys that are not known become its ``extra``."""
    fields: dict[str, Any] = {}
    for key, one in keys.items():
        if key not in given:
            raise BadInput(
                f"'{name}' has no '{key}'",
                where=str(path),
                hint=f"needed are: {', '.join(keys)} (docs/igniter.md)",
            )
        line, value = given[key]
        try:
            fields[one.field] = _value(value, one)
        except ValueError as error:
            raise BadInput(f"'{name}': '{key}': {error}", where=f"{path}, line {line}") from error
    fields["extra"] = {key: value for key, (_, value) in given.items() if key not in keys}
    return fields


def _value(value: Any, key: Key) -> Any:
    read = _shaped(value, key.shape, key.limits)
    if key.field == "kernels":
        if read != int(read):
            raise ValueError(f"{read:g} is no whole number")
        return int(read)
    return read


def _shaped(value: Any, shape: formats.Shape, limits: formats.Limits) -> Any:
    """A number, or (nested) tuples of them. Raises ValueError."""
    if not shape:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"a number was expected, not {json.dumps(value)[:40]}")
        try:
            return limits.require(float(value))
        except OverflowError as error:
            raise ValueError("is too large") from error
    size, *inner = shape
    if not isinstance(value, list):
        raise ValueError(f"a list of {abs(size)} was expected, not {json.dumps(value)[:40]}")
    if len(value) != size if size > 0 else len(value) < -size:
        least = "" if size > 0 else "or more "
        raise ValueError(f"a list of {abs(size)} {least}was expected, not of {len(value)}")
    return tuple(_shaped(one, tuple(inner), limits) for one in value)
