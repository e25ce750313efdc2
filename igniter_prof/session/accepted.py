"""Whether what a monitor says it saw can be stored: a plug-in may say anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from igniter_prof.monitors import Seen
from igniter_prof.records import Measurement, MonitorReport, Record, TenantMeasurement

OF_TENANTS = ("network", "container", "metrics", "energy", "extra")
"""The fields of TenantMeasurement that are monitors' to give."""
OF_CELLS = ("power_w", "energy_j", "power", "host_power", "extra")
"""Those of Measurement."""
_TRACE = re.compile(r"\w[\w.-]{0,99}")


def checked(seen: Seen, tenants: int) -> Seen:
    """What a monitor saw, if it can be stored.

    Args:
        seen: what it said.
        tenants: how many the cell has.

    Raises:
        ValueError: it says what there is no place for, or cannot be written; says what.
    """
    if not isinstance(seen, Seen):
        raise ValueError(f"it gave no Seen but {type(seen).__name__}")
    MonitorReport(name="", complete=seen.complete, notes=seen.notes)
    if seen.tenants and len(seen.tenants) != tenants:
        raise ValueError(f"it told of {len(seen.tenants)} tenants, the cell has {tenants}")
    for fields in seen.tenants:
        _check_fields(fields, TenantMeasurement, OF_TENANTS)
    _check_fields(seen.fields, Measurement, OF_CELLS)
    for name, samples in seen.traces.items():
        if not _TRACE.fullmatch(name):
            raise ValueError(f"the name of its trace is none: {name!r}")
        if not isinstance(samples, np.ndarray) or samples.dtype.hasobject:
            raise ValueError(f"its trace {name} is no array of plain values")
    return seen


def _check_fields(
    fields: Mapping[str, Any], record: type[Record], allowed: tuple[str, ...]
) -> None:
    for name, value in fields.items():
        if name not in allowed:
            raise ValueError(f"it gave '{name}'; monitors give {', '.join(allowed)}")
        annotation: Any = record.model_fields[name].annotation
        kind: TypeAdapter[Any] = TypeAdapter(annotation)
        # and back: of JSON's values NaN is none, and what is in extra may be of any type
        kind.validate_json(kind.dump_json(kind.validate_python(value)))
