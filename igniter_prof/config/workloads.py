"""Reads workloads: a YAML file with defaults, or a CSV with the same columns."""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.files import parse, read_text, read_yaml
from igniter_prof.records import SCHEMA_VERSION, Positive, Record, Workload, digest_of

Percentile = Annotated[float, Field(ge=0, lt=100, allow_inf_nan=False)]
Arrival = Literal["constant", "poisson"]
LatencyRule = Literal["percentile", "half-mean"]


class WorkloadDefaults(Record):
    """What holds for every workload of a file that does not say otherwise."""

    model: str | None = None
    rate_rps: Positive | None = None
    slo_ms: Positive | None = None
    percentile: Percentile = 99.0
    arrival: Arrival = "poisson"
    latency_rule: LatencyRule = Field(
        default="percentile",
        description="percentile: the SLO's percentile of a request, queueing included;"
        " half-mean: iGniter's rule, the mean of a batch within half of the SLO",
    )


class WorkloadEntry(Record):
    """One workload as it stands in a file; what it lacks comes from the defaults."""

    name: str = Field(min_length=1)
    model: str | None = None
    rate_rps: Positive | None = None
    slo_ms: Positive | None = None
    percentile: Percentile | None = None
    arrival: Arrival | None = None
    count: int = Field(default=1, ge=1, le=100_000, description="that many alike")


class WorkloadsFile(Record):
    """``WORKLOADS.yaml``: the workloads of a plan."""

    schema_version: Literal[1] = SCHEMA_VERSION
    defaults: WorkloadDefaults = WorkloadDefaults()
    workloads: tuple[WorkloadEntry, ...] = Field(min_length=1)

    def merged(self) -> tuple[Workload, ...]:
        """The workloads with the defaults filled in, in the order of the file.

        Raises:
            BadInput: a workload has no model, rate or SLO, or two have one name.
        """
        merged = tuple(_merge(entry, self.defaults) for entry in self.workloads)
        _refuse_twins(merged)
        return merged


def load_workloads(path: Path) -> WorkloadsFile:
    """Read a workloads file: YAML, or CSV by its suffix.

    Raises:
        BadInput: with the file, the line and the field; unknown keys get a "did you mean".
    """
    path = Path(path)
    document, lines = _read_csv(path) if path.suffix.lower() == ".csv" else _read_yaml(path)
    entries = []
    for index, (entry, line) in enumerate(zip(document.get("workloads", []), lines, strict=False)):
        where = f"{path}, line {line}"
        if not isinstance(entry, dict):
            what = f"workload {index + 1} is no mapping but {type(entry).__name__}"
            raise BadInput(what, where=where, hint="write '- name: …'")
        name = entry.get("name")
        where = f"{where}, workload '{name}'" if name is not None else where
        entries.append((parse(entry, WorkloadEntry, where), where))
    file = parse(document, WorkloadsFile, str(path))
    for entry_record, where in entries:
        _merge(entry_record, file.defaults, where)
    try:
        file.merged()
    except BadInput as error:
        raise BadInput(error.what, where=str(path), hint=error.hint) from error
    return file


def read_workloads(path: Path) -> tuple[Workload, ...]:
    """The workloads of a file, the defaults filled in, ``count`` not yet expanded.

    Raises:
        BadInput: as :func:`load_workloads`.
    """
    return load_workloads(path).merged()


def expand(workloads: tuple[Workload, ...]) -> tuple[Workload, ...]:
    """One workload each: ``count: n`` becomes ``name-1`` to ``name-n``, each of count 1.

    Raises:
        BadInput: two have one name.
    """
    _refuse_twins(workloads)
    return tuple(
        workload.model_copy(update={"name": name, "count": 1})
        for workload in workloads
        for name in _names(workload)
    )


def workloads_digest(workloads: tuple[Workload, ...]) -> str:
    """SHA-256 of what is asked for: the same for any order of the file, with or without count.

    Raises:
        BadInput: two have one name.
    """
    _refuse_twins(workloads)
    expanded = [
        {**alike, "name": name}
        for workload in workloads
        for alike in [workload.model_dump(mode="json") | {"count": 1}]
        for name in _names(workload)
    ]
    return digest_of(sorted(expanded, key=lambda each: str(each["name"])))


def _names(workload: Workload) -> list[str]:
    """The names of what a workload's ``count`` stands for."""
    if workload.count == 1:
        return [workload.name]
    return [f"{workload.name}-{number}" for number in range(1, workload.count + 1)]


def _refuse_twins(workloads: tuple[Workload, ...]) -> None:
    seen: set[str] = set()
    for name in itertools.chain.from_iterable(map(_names, workloads)):
        if name in seen:
            raise BadInput(
                f"two workloads are named '{name}'",
                hint="give each its own name; 'count: n' makes NAME-1 to NAME-n",
            )
        seen.add(name)


def _merge(entry: WorkloadEntry, defaults: WorkloadDefaults, where: str | None = None) -> Workload:
    values: dict[str, Any] = {"name": entry.name, "count": entry.count}
    for field in ("model", "rate_rps", "slo_ms", "percentile", "arrival"):
        given = getattr(entry, field)
        values[field] = getattr(defaults, field) if given is None else given
        if values[field] is None:
            raise BadInput(
                f"workload '{entry.name}' has no {field}",
                where=where,
                hint=f"add '{field}:' to it, or to the file's 'defaults:'",
            )
    return Workload(**values)


def _read_yaml(path: Path) -> tuple[dict[str, Any], list[int]]:
    """The document and the line at which each workload starts."""
    document = read_yaml(path)
    if not isinstance(document, dict):
        found = "nothing" if document is None else type(document).__name__
        raise BadInput(
            f"a mapping with 'workloads:' was expected, not {found}",
            where=str(path),
            hint="see docs/workloads.md",
        )
    if "workloads" in document and not isinstance(document["workloads"], list):
        found = type(document["workloads"]).__name__
        raise BadInput(f"'workloads' must be a list, not {found}", where=str(path))
    for key, node in _top_level(read_text(path)):
        if key == "workloads" and isinstance(node, yaml.SequenceNode):
            return document, [item.start_mark.line + 1 for item in node.value]
    return document, []


def _top_level(text: str) -> list[tuple[str, yaml.Node]]:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return [(str(key.value), value) for key, value in pairs]


def _read_csv(path: Path) -> tuple[dict[str, Any], list[int]]:
    """The rows as the document that a YAML file would hold, and the line of each."""
    text = read_text(path).removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text), skipinitialspace=True)
    header = [column.strip() for column in next(reader, [])]
    known = set(WorkloadEntry.model_fields)
    for position, column in enumerate(header):
        if column not in known:
            raise BadInput(
                f"unknown column '{column}'",
                where=f"{path}, line 1",
                hint=did_you_mean(column, known),
            )
        if column in header[:position]:
            raise BadInput(f"column '{column}' stands there twice", where=f"{path}, line 1")
    rows, lines = [], []
    for fields in reader:
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            raise BadInput(
                f"has {len(fields)} fields, the header has {len(header)}",
                where=f"{path}, line {reader.line_num}",
                hint="the file may be truncated",
            )
        pairs = zip(header, fields, strict=True)
        rows.append({column: field.strip() for column, field in pairs if field.strip()})
        lines.append(reader.line_num)
    if not rows:
        raise BadInput("holds no workloads", where=str(path), hint="see docs/workloads.md")
    return {"workloads": rows}, lines
