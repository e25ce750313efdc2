from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from igniter_prof.cli import igprof
from igniter_prof.errors import BadInput
from igniter_prof.schemas import FOLDER, FORMATS, render, schema, stored_path
from tests.dataset_samples import manifest, sample


@pytest.mark.parametrize("name", FORMATS)
def test_the_stored_schemas_are_those_of_the_records(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    stored = stored_path(name).read_text(encoding="utf-8")
    assert stored == render(name), "run: python -m igniter_prof.schemas"


def test_there_is_no_schema_of_a_format_that_is_gone() -> None:
    stored = {path.name for path in FOLDER.glob("*.json")}
    assert stored == {stored_path(name).name for name in FORMATS}


def test_what_is_written_is_valid_and_what_is_wrong_is_not() -> None:
    validator = Draft202012Validator(schema("measurement"))
    document = json.loads(sample()[0].model_dump_json())
    validator.validate(document)
    assert not validator.is_valid({**document, "latency": 3})
    assert not validator.is_valid({**document, "schema_version": 2})
    Draft202012Validator(schema("profile")).validate(json.loads(manifest().model_dump_json()))


def test_the_verb_prints_one_schema_or_all_names() -> None:
    run = CliRunner().invoke(igprof, ["schema", "plan"])
    assert json.loads(run.stdout) == schema("plan")
    assert CliRunner().invoke(igprof, ["schema"]).stdout.split() == list(FORMATS)
    wrong = CliRunner().invoke(igprof, ["schema", "plam"])
    assert isinstance(wrong.exception, BadInput)
    assert "did you mean 'plan'" in str(wrong.exception)


def test_the_schemas_travel_with_the_package() -> None:
    import igniter_prof

    assert Path(igniter_prof.__file__).parent in stored_path("plan").parents
