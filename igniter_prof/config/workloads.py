"""Reads workloads: a YAML file with defaults, or a CSV with the same columns."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from igniter_prof.config.device_types import DeviceTypeName
from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.files import parse, read_text, read_yaml_node
from igniter_prof.records import SCHEMA_VERSION, Arrival, Positive, Record, Workload, digest_of

LatencyRule = Literal["percentile", "half-mean"]
Replicas = Annotated[int, Field(ge=1, le=64)]


def _split(value: Any) -> Any:
    """Names separated by ``;`` or blanks as a list: a field of a CSV file has no other way."""
    return re.split(r"[;\s]+", value.strip(" ;")) if isinstance(value, str) else value


DeviceTypeNames = Annotated[
    tuple[DeviceTypeName, ...],
    BeforeValidator(_split),
    AfterValidator(lambda names: tuple(sorted(set(names)))),
]


class WorkloadFields(Record):
    """What a file may say of a workload, in its entry or in the defaults; None: nothing."""

    model: str | None = None
    rate_rps: Positive | None = None
    slo_ms: Positive | None = None
    percentile: Annotated[float, Field(ge=0, lt=100, allow_inf_nan=False)] | None = None
    arrival: Arrival | None = None
    burstiness: Positive | None = Field(
        default=None,
        description="arrival bursty: squared coefficient of variation of the gaps between requests",
    )
    replicas: Replicas | None = None
    max_replicas: Replicas | None = None
    memory_mib: Positive | None = Field(default=None, description="device memory of one tenant")
    anti_affinity: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="no two workloads with the same label share a device"
    )
    devices: DeviceTypeNames | None = Field(
        default=None, description="allowed device types; empty: all"
    )
    priority: int | None = Field(
        default=None, description="may be left out where devices do not suffice, the lowest first"
    )

    def said(self) -> dict[str, Any]:
        """What was given, an explicit null included."""
        return {field: getattr(self, field) for field in self.model_fields_set}


class WorkloadDefaults(WorkloadFields):
    """What holds for every workload of a file that does not say otherwise, and for all of them."""

    latency_rule: LatencyRule = Field(
        default="percentile",
        description="percentile: the SLO's percentile of a request, queueing included;"
        " half-mean: iGniter's rule, the mean of a batch within half of the SLO",
    )
    confidence: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="SLOs hold at the upper end of an interval of that confidence; None: at the"
        " prediction itself",
    )


class WorkloadEntry(WorkloadFields):
    """One workload as it stands in a file; what it lacks comes from the defaults.

    An explicit null takes a default back.
    """

    name: str = Field(min_length=1)
    count: int = Field(default=1, ge=1, le=100_000, description="that many alike")


class WorkloadsFile(Record):
    """``WORKLOADS.yaml``: the workloads of a plan."""

    schema_version: Literal[1] = SCHEMA_VERSION
    defaults: WorkloadDefaults = WorkloadDefaults()
    workloads: tuple[WorkloadEntry, ...] = Field(min_length=1)

    def merged(self) -> tuple[Workload, ...]:
        """The workloads with the defaults filled in, in the order of the file.

        Raises:
            BadInput: a workload has no model, rate or SLO, or contradicts itself, or two have one
                name.
        """
        merged = tuple(_merge(entry, self.defaults) for entry in self.workloads)
        _refuse_twins(merged)
        if self.defaults.burstiness is not None and all(w.burstiness is None for w in merged):
            raise BadInput(
                "defaults.burstiness is for workloads with arrival bursty, there is none",
                hint="add 'arrival: bursty' to the defaults, or to those that are",
            )
        return merged


def load_workloads(path: Path) -> WorkloadsFile:
    """Read a workloads file: YAML, or CSV by its suffix.

    Raises:
        BadInput: with the file, the line and the field; unknown keys get a "did you mean".
    """
    path = Path(path)
    document, lines = _read_csv(path) if path.suffix.lower() == ".csv" else _read_yaml(path)
    entries, places = [], []
    for index, (entry, line) in enumerate(zip(document.get("workloads", []), lines, strict=False)):
        where = f"{path}, line {line}"
        if not isinstance(entry, dict):
            what = f"workload {index + 1} is no mapping but {type(entry).__name__}"
            raise BadInput(what, where=where, hint="write '- name: …'")
        name = entry.get("name")
        places.append(f"{where}, workload '{name}'" if name is not None else where)
        entries.append(parse(entry, WorkloadEntry, places[-1]))
    file = parse(
        {**document, "workloads": entries} if entries else document, WorkloadsFile, str(path)
    )
    for read, where in zip(file.workloads, places, strict=True):
        _merge(read, file.defaults, where)
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


def expand(workloads: Sequence[Workload]) -> tuple[Workload, ...]:
    """One workload each: ``count: n`` becomes ``name-1`` to ``name-n``, each of count 1.

    Raises:
        BadInput: two have one name.
    """
    _refuse_twins(workloads)
    return tuple(
        workload if workload.count == 1 else workload.model_copy(update={"name": name, "count": 1})
        for workload in workloads
        for name in names_of(workload)
    )


def workloads_digest(workloads: Sequence[Workload]) -> str:
    """SHA-256 of what is asked for: the same for any order of the file, with or without count.

    It is of the names of each kind of workload, so that a hundred thousand alike are quickly done,
    and of fields that are not left to their default, so that one added later changes nothing.

    Raises:
        BadInput: two have one name.
    """
    _refuse_twins(workloads)
    kinds: dict[str, list[str]] = {}
    for workload in workloads:
        kind = workload.model_dump(mode="json", exclude_defaults=True, exclude={"name", "count"})
        kinds.setdefault(json.dumps(kind, sort_keys=True), []).extend(names_of(workload))
    return digest_of({kind: sorted(names) for kind, names in kinds.items()})


def names_of(workload: Workload) -> list[str]:
    """The names of what a workload's ``count`` stands for: ``name-1`` to ``name-n``."""
    if workload.count == 1:
        return [workload.name]
    return [f"{workload.name}-{number}" for number in range(1, workload.count + 1)]


def _refuse_twins(workloads: Sequence[Workload]) -> None:
    names = [name for workload in workloads for name in names_of(workload)]
    if len(set(names)) == len(names):
        return
    twin = next(name for name, times in Counter(names).items() if times > 1)
    raise BadInput(
        f"two workloads are named '{twin}'",
        hint="give each its own name; 'count: n' makes NAME-1 to NAME-n",
    )


def _merge(entry: WorkloadEntry, defaults: WorkloadDefaults, where: str | None = None) -> Workload:
    said = entry.said()
    values = {
        field: value
        for field, value in {**defaults.said(), **said}.items()
        if value is not None and field in Workload.model_fields
    }
    for field in ("model", "rate_rps", "slo_ms"):
        if field not in values:
            raise BadInput(
                f"workload '{entry.name}' has no {field}",
                where=where,
                hint=f"add '{field}:' to it, or to the file's 'defaults:'",
            )
    if values.get("arrival") != "bursty" and said.get("burstiness") is None:
        values.pop("burstiness", None)  # a default for those that are bursty
    workload = Workload(**values)
    _refuse_contradictions(workload, where)
    return workload


def _refuse_contradictions(workload: Workload, where: str | None) -> None:
    name, most = f"workload '{workload.name}'", workload.max_replicas
    if workload.arrival == "bursty" and workload.burstiness is None:
        raise BadInput(
            f"{name}: arrival bursty needs burstiness",
            where=where,
            hint="the squared coefficient of variation of the gaps between its requests, such as 4;"
            " docs/workloads.md says how to take it from a trace",
        )
    if workload.arrival != "bursty" and workload.burstiness is not None:
        raise BadInput(
            f"{name}: burstiness is for arrival bursty, this one is {workload.arrival}",
            where=where,
            hint="add 'arrival: bursty', or leave burstiness out",
        )
    if most is not None and most < workload.replicas:
        raise BadInput(
            f"{name}: max_replicas {most} is less than replicas {workload.replicas}",
            where=where,
            hint=f"make max_replicas {workload.replicas} or more, or replicas {most} or fewer",
        )


def _read_yaml(path: Path) -> tuple[dict[str, Any], list[int]]:
    """The document and the line at which each workload starts."""
    document, root = read_yaml_node(path)
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
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    for key, node in pairs:
        if key.value == "workloads" and isinstance(node, yaml.SequenceNode):
            return document, [item.start_mark.line + 1 for item in node.value]
    return document, []


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
