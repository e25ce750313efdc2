"""Templates of request bodies: filling replaces references, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from igniter_prof.errors import BadInput
from igniter_prof.load import InputSource, check_http, prepare_http
from igniter_prof.load.template import FORMS, VALUES, Reference, fill, references
from igniter_prof.records import HttpInput, HttpServer

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
REFERENCES = st.builds(Reference, NAMES, st.sampled_from([VALUES, *FORMS]))
PLAIN = st.text(max_size=20).filter(lambda text: "${" not in text)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), PLAIN)


def _written(reference: Reference) -> str:
    form = "" if reference.form == VALUES else f".{reference.form}"
    return f"${{{reference.name}{form}}}"


def _nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda part: st.lists(part, max_size=4) | st.dictionaries(PLAIN, part, max_size=4),
        max_leaves=12,
    )


@given(_nested(LEAVES))
def test_a_template_without_references_stays_as_it_is(template: Any) -> None:
    assert list(references(template)) == []
    assert fill(template, lambda _: None) == template


@given(_nested(LEAVES | REFERENCES.map(_written)))
def test_every_reference_is_found_and_filled_once(template: Any) -> None:
    before = json.dumps(template)
    asked: list[Reference] = []

    def value(reference: Reference) -> str:
        asked.append(reference)
        return _written(reference)

    assert fill(template, value) == template  # filled with themselves
    assert asked == [reference for _, reference in references(template)]
    assert json.dumps(template) == before  # the template itself is left alone


@given(_nested(LEAVES), st.text(max_size=10))
def test_an_escaped_text_is_literal(template: Any, text: str) -> None:
    written = ["$${" + text, template]
    assert list(references(written)) == []
    assert fill(written, lambda _: None) == ["${" + text, template]


ODD = st.text(alphabet="${}x.png ", max_size=12)


@given(_nested(LEAVES | ODD))
def test_a_body_is_either_taken_or_explained(body: Any) -> None:
    server = HttpServer(inputs={"x": HttpInput(shape=(1, 4), scaled_axes=(1,))}, body=body)
    refused = None
    try:
        check_http(server, "sweep.yaml")
    except BadInput as error:
        refused = error
    if refused is not None:
        assert "sweep.yaml, body" in str(refused)
        return
    payloads = prepare_http(
        server, model="m", batch_size=2, input_scale=0.5, source=InputSource(seed=1)
    )
    for sent, _ in payloads.bodies:
        assert b"${x" not in sent or "$${x" in json.dumps(body)
