"""AC-Prof's files as rows: what can be read, and what is refused, with file, line and reason."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from igniter_prof.dataset.acprof import formats
from igniter_prof.dataset.acprof.formats import Refusal, Row, Static
from igniter_prof.errors import BadInput
from igniter_prof.files import read_json, read_text

_GPU_MODES = {"on": True, "gpu_on": True, "1": True, "true": True}
_GPU_MODES |= {"off": False, "gpu_off": False, "0": False, "false": False}


@dataclass
class Content:
    """What was read of some files."""

    rows: list[Row] = field(default_factory=list)
    statics: list[Static] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    rows_in: dict[str, int] = field(default_factory=dict)
    """Latencies that each result file holds, the refused ones too."""
    ignored: list[str] = field(default_factory=list)
    """Files of a folder that are no tables."""

    def refuse(self, file: str, line: int | None, column: str | None, reason: str) -> None:
        """Note what is not taken."""
        self.refused.append(Refusal(file, line, column, reason))


def read_all(sources: Sequence[Path]) -> Content:
    """Read files, and the CSV and JSON files below folders.

    Raises:
        BadInput: a source is not there. What is inside is refused, not raised.
    """
    content = Content()
    for source in sources:
        source = Path(source)
        if not os.path.exists(source):  # noqa: PTH110 - Path.exists raises for a long name
            raise BadInput("no such file or folder", where=str(source), hint="check the path")
        if source.is_file():
            _read_file(source, content)
            continue
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            if file.suffix.lower() in (".csv", ".json"):
                _read_file(file, content)
            else:
                content.ignored.append(str(file))
    return content


def _read_file(path: Path, content: Content) -> None:
    try:
        if path.suffix.lower() == ".json":
            _read_static_json(path, content)
        else:
            _read_table(path, content)
    except BadInput as error:
        content.refuse(str(path), None, None, error.what)
    except csv.Error as error:
        content.refuse(str(path), None, None, f"is not valid CSV ({error})")


def _read_static_json(path: Path, content: Content) -> None:
    document = read_json(path)
    if not isinstance(document, dict):
        raise BadInput("is no table of models")
    for name, entry in document.items():
        text = entry.get("download volume") if isinstance(entry, dict) else None
        size = formats.volume_bytes(text) if isinstance(text, str) else None
        if not formats.is_model_name(formats.short_name(name)):
            content.refuse(str(path), None, name, "is no name of a model")
        elif size is None:
            content.refuse(str(path), None, name, "has no 'download volume' such as '113.81 MB'")
        else:
            content.statics.append(Static(str(path), None, name.strip(), download_bytes=size))


def _read_table(path: Path, content: Content) -> None:
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    header = [name.strip().removeprefix("\ufeff") for name in next(reader, [])]
    kind = formats.kind_of(header)
    if kind is None:
        raise BadInput("is none of AC-Prof's tables, by its header")
    if kind == "tutorial":
        raise BadInput("the tutorial's table names no model and no container")
    if len(set(header)) < len(header):
        raise BadInput("two columns have the same name")
    read: Callable[[str, int, Mapping[str, str], Content], None]
    read = {"long": _read_long, "wide": _read_wide, "static": _read_static}[kind]
    if kind != "static":
        content.rows_in.setdefault(str(path), 0)
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(header):
            reason = f"has {len(values)} fields, the header {len(header)}"
            columns: list[str | None] = [None]
            if kind == "wide":
                columns = [name for name in header[1:] if formats.container_of(name)]
            if kind != "static":
                content.rows_in[str(path)] += len(columns)
            for column in columns:
                content.refuse(str(path), reader.line_num, column, reason)
            continue
        fields = {name: value.strip() for name, value in zip(header, values, strict=True)}
        read(str(path), reader.line_num, fields, content)


def _read_static(file: str, line: int, fields: Mapping[str, str], content: Content) -> None:
    try:
        weight, image = (
            _bytes(fields.get(name, "")) for name in ("model_weight_bytes", "docker_image_bytes")
        )
    except ValueError as error:
        content.refuse(file, line, None, str(error))
        return
    if not formats.is_model_name(formats.short_name(fields["model_name"])):
        content.refuse(file, line, "model_name", "is no name of a model")
        return
    content.statics.append(
        Static(
            file,
            line,
            fields["model_name"],
            gpu_name=fields.get("gpu") or None,
            weight_bytes=weight,
            image_bytes=image,
            download_url=fields.get("model_download_url") or None,
        )
    )


def _bytes(text: str) -> int | None:
    value = formats.number(text)
    if value is not None and value < 0:
        raise ValueError(f"'{text}' bytes")
    return None if value is None else round(value)


def _read_wide(file: str, line: int, fields: Mapping[str, str], content: Content) -> None:
    """One row of the wide form: a latency a container, seconds."""
    size_name, *names = fields
    containers = {name: found for name in names if (found := formats.container_of(name))}
    content.rows_in[file] += len(containers)
    stem = Path(file).stem
    try:
        size = formats.number(fields[size_name])
        if not formats.positive(size):
            raise ValueError(f"the size '{fields[size_name]}' is not positive")
    except ValueError as error:
        for name in containers:
            content.refuse(file, line, name, f"{size_name}: {error}")
        return
    other = {name: fields[name] for name in names if name not in containers}
    for name, container in containers.items():
        try:
            latency = formats.number(fields[name])
            _require_latency(latency)
        except ValueError as error:
            content.refuse(file, line, name, str(error))
            continue
        content.rows.append(
            Row(
                file,
                line,
                formats.MODEL_NAMES.get(stem, stem),
                container.gpu,
                latency,
                column=name,
                cpu_cores=container.cpu_cores,
                memory_gb=container.memory_gb,
                size_column=size_name,
                size=size,
                other=other,
            )
        )


def _read_long(file: str, line: int, fields: Mapping[str, str], content: Content) -> None:
    content.rows_in[file] += 1
    column = ""

    def get(name: str, default: str = "") -> str:
        nonlocal column
        column = name
        return fields.get(name, default)

    try:
        mode = get("gpu_mode", "off").lower()
        if mode not in _GPU_MODES:
            raise ValueError(f"'{mode}' is neither on nor off")
        status, error = get("status", "ok").lower() or "ok", fields.get("error", "")
        latency = formats.number(get("latency_s"))
        if status == "ok":
            _require_latency(latency)
        size_name = formats.size_column(list(fields))
        size = formats.number(get(size_name)) if size_name else None
        if size is not None and size <= 0:
            raise ValueError(f"a size of {size:g}")
        row = Row(
            file,
            line,
            _required(get("model_name")),
            _GPU_MODES[mode],
            latency if _is_latency(latency) else None,
            cpu_cores=_cap(get("cpu_cores")),
            memory_gb=_cap(get("mem_cap_gb")),
            batch_size=_whole(get("batch_size", "1") or "1", least=1),
            size_column=size_name if size is not None else None,
            size=size,
            repeat=_whole(get("repeat_idx", "0") or "0"),
            warmup=_whole(get("warmup", "0") or "0"),
            timestamp_ms=_instant(get("timestamp_ms")),
            gpu_name=fields.get("gpu_name") or None,
            status=status,
            error=error,
            numbers={
                name: value
                for name in formats.NUMBERS
                if (value := formats.number(get(name))) is not None
            },
            other={name: fields[name] for name in formats.other_columns(list(fields), size_name)},
        )
    except ValueError as error_:
        content.refuse(file, line, column, str(error_))
        return
    content.rows.append(row)


def _is_latency(latency_s: float | None) -> bool:
    return latency_s is not None and 0 < latency_s <= formats.LONGEST_S


def _require_latency(latency_s: float | None) -> None:
    if not _is_latency(latency_s):
        raise ValueError("no latency" if latency_s is None else f"a latency of {latency_s:g} s")


def _instant(text: str) -> int | None:
    value = formats.number(text)
    if value is not None and not 0 < value <= formats.LAST_MS:
        raise ValueError(f"'{text}' is no instant")
    return None if value is None else int(value)


def _required(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def _cap(text: str) -> float | None:
    value = formats.number(text)
    if value is not None and value <= 0:
        raise ValueError(f"a cap of {value:g}")
    return value


def _whole(text: str, least: int = 0) -> int:
    value = formats.number(text)
    if value is None or value != int(value) or value < least:
        raise ValueError(f"'{text}' is no whole number of {least} or more")
    return int(value)
