"""Whatever a metric's labels hold, reading undoes writing; nothing else is taken for a metric."""

from __future__ import annotations

import contextlib
import math

from hypothesis import given
from hypothesis import strategies as st

from igniter_prof.monitors.exposition import Sample, samples

NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def written(sample: Sample) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

    labels = ",".join(f'{name}="{escaped(value)}"' for name, value in sample.labels)
    number = repr(sample.value).replace("inf", "Inf").replace("nan", "NaN")
    return f"{sample.name}{{{labels}}} {number}\n"


@given(
    st.lists(
        st.builds(
            Sample,
            NAMES,
            st.dictionaries(NAMES, TEXTS, max_size=3).map(lambda d: tuple(d.items())),
            st.floats(),
        ),
        max_size=4,
    )
)
def test_reading_undoes_writing(wanted: list[Sample]) -> None:
    found = list(samples("".join(map(written, wanted))))
    assert [(each.name, each.labels) for each in found] == [
        (each.name, each.labels) for each in wanted
    ]
    for one, other in zip(found, wanted, strict=True):
        assert one.value == other.value or (math.isnan(one.value) and math.isnan(other.value))


@given(st.text(max_size=60))
def test_anything_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        for sample in samples(text):
            assert sample.name
