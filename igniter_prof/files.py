"""Reading and writing files: atomically, and with errors that say what, where and what next."""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import io
import json
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from igniter_prof.errors import BadInput, MissingCapability, did_you_mean
from igniter_prof.records import SCHEMA_VERSION, Record

if TYPE_CHECKING:
    import yaml

R = TypeVar("R", bound=BaseModel)

ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
)
"""What reading a damaged zip of arrays may raise."""

CACHE_HINT = "set XDG_CACHE_HOME to a folder that can be written"


def now_utc() -> str:
    """The wall clock as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def cache_dir() -> Path:
    """The user's cache of igprof (``$XDG_CACHE_HOME/igprof``), made if it is not there.

    Raises:
        MissingCapability: it cannot be made.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        path = (Path(base) if base else Path.home() / ".cache") / "igprof"
    except RuntimeError as error:
        raise MissingCapability("there is no home folder", hint=CACHE_HINT) from error
    return make_cached(path)


def make_cached(folder: Path) -> Path:
    """Make a folder of the cache, with those above it, if it is not there.

    Raises:
        MissingCapability: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MissingCapability(
            f"the cache cannot be used: {error.strerror}", where=str(folder), hint=CACHE_HINT
        ) from error
    return folder


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that takes its place, synced, at a clean exit.

    Raises:
        MissingCapability: no space is left, or the place is read-only.
        BadInput: the folder does not exist or may not be written.
    """
    path = Path(path).resolve()  # a link stays; what it names is replaced
    if path.exists() and not path.is_file():
        raise BadInput("is no regular file", where=str(path), hint="choose another path")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # the kernel sets the mode by the umask, which no thread could ask for without changing it
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError) -> BadInput | MissingCapability:
    """What to raise when ``path`` could not be written: status 3 for a full or read-only disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MissingCapability(
            "no disk space is left to write it",
            where=str(path),
            hint="free some space and run the same command again; what was stored is kept",
        )
    if error.errno == errno.EROFS:
        return MissingCapability(
            "the file system is read-only", where=str(path), hint="choose another --out"
        )
    return BadInput(
        f"cannot be written: {error.strerror}",
        where=str(path),
        hint="choose a path whose folder exists and is writable",
    )


def write_json(path: Path, record: BaseModel) -> None:
    """Write a record as indented JSON, atomically."""
    with atomic_write(path) as out:
        out.write(record.model_dump_json(indent=2).encode())
        out.write(b"\n")


def write_csv(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Write rows as CSV with a header, atomically; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as out:
        out.write(text.getvalue().encode())


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        BadInput: it is not there, is no text, or may not be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadInput("no such file", where=str(path), hint="check the path") from error
    except IsADirectoryError as error:
        raise BadInput("is a folder, a file was expected", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise BadInput("is not a text file", where=str(path)) from error
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(path)) from error


def read_json(path: Path) -> Any:
    """A JSON document. Raises BadInput with the line where it breaks off."""
    text = read_text(path)
    try:
        document = json.loads(text)
        # a lone surrogate ("\\ud800") is valid JSON, but no text that could be written again
        json.dumps(document, ensure_ascii=False).encode()
        return document
    except json.JSONDecodeError as error:
        raise BadInput(
            f"is not valid JSON ({error.msg})",
            where=f"{path}, line {error.lineno}",
            hint="the file may be truncated; make it again",
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"is not valid JSON ({error})", where=str(path)) from error


def read_yaml(path: Path) -> Any:
    """A YAML document. Raises BadInput with the line where it breaks off."""
    return read_yaml_node(path)[0]


def read_yaml_node(path: Path) -> tuple[Any, yaml.Node | None]:
    """A YAML document, and the node that it was made of, which knows lines; None: it is empty.

    Raises:
        BadInput: with the line where it breaks off.
    """
    text = read_text(path)
    import yaml

    quick = _quick_loader()
    # libyaml takes tabs that PyYAML refuses: a file means the same with and without libyaml
    if quick is not None and "\t" not in text:
        with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
            return _loaded(quick, text)
        # PyYAML's own words and positions for what is wrong
    try:
        return _loaded(yaml.SafeLoader, text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date that is none
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        raise BadInput(
            f"is not valid YAML ({getattr(error, 'problem', error)})", where=where
        ) from error


def _loaded(loader: Callable[[str], Any], text: str) -> tuple[Any, yaml.Node | None]:
    reading = loader(text)
    try:
        node = reading.get_single_node()
        return None if node is None else reading.construct_document(node), node
    finally:
        reading.dispose()


@functools.cache
def _quick_loader() -> Callable[[str], Any] | None:
    """A safe loader whose scanner is libyaml's, some four times as quick; None: it is not there.

    The nodes are put together by PyYAML: ``yaml.CSafeLoader`` overruns the stack of the process
    where a document is nested deeply.
    """
    import yaml
    from yaml.composer import Composer
    from yaml.constructor import SafeConstructor
    from yaml.resolver import Resolver

    if not yaml.__with_libyaml__:
        return None
    from yaml._yaml import CParser

    class QuickLoader(Composer, CParser, SafeConstructor, Resolver):
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

    return QuickLoader


def parse(document: Any, record: type[R], where: str) -> R:
    """Validate a document as a record.

    Raises:
        BadInput: names the field, and for an unknown key the nearest known one. ``where`` is the
            file (and line, if known) that the document came from.
    """
    if not isinstance(document, dict):
        raise BadInput(f"a mapping was expected, not {type(document).__name__}", where=where)
    version = document.get("schema_version", SCHEMA_VERSION)
    if "schema_version" in record.model_fields and version != SCHEMA_VERSION:
        raise BadInput(
            f"has schema_version {version!r}, this igprof reads {SCHEMA_VERSION}",
            where=where,
            hint="make it again with this igprof, or read it with the igprof that wrote it",
        )
    try:
        # strict=False would turn "8" into 8, which a YAML author may well mean
        return record.model_validate(document)
    except ValidationError as error:
        raise _explain(error, record, where) from error


def read_record(path: Path, record: type[R]) -> R:
    """Read and validate a JSON or YAML file (by its suffix) as a record. Raises BadInput."""
    document = read_yaml(path) if path.suffix in (".yaml", ".yml") else read_json(path)
    return parse(document, record, str(path))


def _explain(error: ValidationError, record: type[BaseModel], where: str) -> BadInput:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    more = len(error.errors()) - 1
    suffix = f" (and {more} more)" if more else ""
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        return BadInput(
            f"unknown key '{path}'{suffix}",
            where=where,
            hint=did_you_mean(key, _fields_at(record, first["loc"][:-1])),
        )
    if first["type"] == "missing":
        return BadInput(f"'{path}' is missing{suffix}", where=where)
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = "" if isinstance(given, (dict, list)) else f", got {given!r}"
    field = f"'{path}': " if path else ""
    return BadInput(f"{field}{message}{shown}{suffix}", where=where)


def _fields_at(record: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the (nested) record at a location of a validation error."""
    fields: set[str] = set(record.model_fields)
    current: type[BaseModel] = record
    for part in location:
        if not isinstance(part, str) or part not in current.model_fields:
            continue
        for candidate in _records_in(current.model_fields[part].annotation):
            current = candidate
            fields = set(candidate.model_fields)
    return sorted(fields)


def _records_in(annotation: Any) -> list[type[Record]]:
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return [annotation]
    found: list[type[Record]] = []
    for argument in getattr(annotation, "__args__", ()):
        found += _records_in(argument)
    return found
