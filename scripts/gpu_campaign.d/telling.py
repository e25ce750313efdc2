"""What all parts of the probe share: how they tell what they found, how a field of NVML is read."""

from __future__ import annotations

import json
from typing import Any


def tell(**found: Any) -> None:
    """Print what a part found, so far."""
    print(json.dumps(found, default=str), flush=True)


def field_value(library: Any, handle: Any, number: int) -> Any:
    """A field of NVML in its own unit. Raises NVMLError."""
    from igniter_prof.monitors.power.card import VALUE_TYPES

    (value,) = library.nvmlDeviceGetFieldValues(handle, [number])
    if value.nvmlReturn != 0:
        raise library.NVMLError(value.nvmlReturn)
    for name, member in VALUE_TYPES.items():
        if getattr(library, name) == value.valueType:
            return getattr(value.value, member)
    return f"value type {value.valueType}"
