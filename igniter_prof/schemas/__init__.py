"""JSON Schemas of the public file formats, derived from the records.

The files beside this module are made by ``python -m igniter_prof.schemas`` and are checked by a
test to be those that the records give.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from igniter_prof import records
from igniter_prof.config.device_types import DevicesFile
from igniter_prof.config.workloads import WorkloadsFile
from igniter_prof.errors import BadInput, did_you_mean

FORMATS: dict[str, type[records.Record]] = {
    "sweep": records.Sweep,
    "profile": records.ProfileManifest,
    "measurement": records.Measurement,
    "workloads": WorkloadsFile,
    "devices": DevicesFile,
    "coefficients": records.Coefficients,
    "plan": records.Plan,
    "result": records.Result,
}
"""Each format with the record that it is derived from."""

FOLDER = Path(__file__).parent


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a file format.

    Raises:
        BadInput: there is no such format.
    """
    if name not in FORMATS:
        raise BadInput(f"no file format '{name}'", hint=did_you_mean(name, FORMATS))
    derived = FORMATS[name].model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:igniter-prof:{name}:{records.SCHEMA_VERSION}",
        **derived,
    }


def stored_path(name: str) -> Path:
    """Where a format's schema lies in the package."""
    return FOLDER / f"{name}.schema.json"


def render(name: str) -> str:
    """The text of a format's schema file."""
    return json.dumps(schema(name), indent=2) + "\n"
