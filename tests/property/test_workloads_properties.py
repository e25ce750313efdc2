"""What a workloads file asks for does not depend on how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from igniter_prof.config.workloads import (
    WorkloadsFile,
    expand,
    names_of,
    read_workloads,
    workloads_digest,
)
from igniter_prof.records import Workload

numbers = st.floats(1e-3, 1e6)
labels = st.text("abc-_.7", min_size=1, max_size=5)


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    """Keys of a workload that contradict each other nowhere; some of them not given."""
    replicas = draw(st.integers(1, 64))
    arrival = draw(
        st.sampled_from([{}, {"arrival": "constant"}, {"arrival": "bursty", "burstiness": 4.5}])
    )
    optional = {
        "percentile": draw(st.floats(0, 99.99)),
        "replicas": replicas,
        "max_replicas": draw(st.integers(replicas, 64)),
        "memory_mib": draw(numbers),
        "anti_affinity": draw(labels),
        "devices": sorted(draw(st.sets(labels, min_size=1))),
        "priority": draw(st.integers()),
    }
    left = draw(st.sets(st.sampled_from(sorted(optional))))
    if "replicas" not in left:
        left -= {"max_replicas"}
    given_ = {key: value for key, value in optional.items() if key in left}
    return {"model": draw(labels), "rate_rps": draw(numbers), "slo_ms": draw(numbers)} | (
        arrival | given_
    )


@st.composite
def entries(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [
        {"name": f"w{number}", **draw(fields()), "count": draw(st.integers(1, 4))}
        for number in range(draw(st.integers(1, 4)))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workloads")


@given(entries())
def test_csv_and_yaml_say_the_same(folder: Path, asked: list[dict[str, Any]]) -> None:
    columns = sorted({key for entry in asked for key in entry})
    rows = [
        ",".join(
            ";".join(value) if isinstance(value, list) else str(value)
            for value in (entry.get(column, "") for column in columns)
        )
        for entry in asked
    ]
    (folder / "w.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    (folder / "w.yaml").write_text(yaml.safe_dump({"workloads": asked}))

    read = read_workloads(folder / "w.yaml")

    assert read == read_workloads(folder / "w.csv")
    assert read == tuple(Workload(**entry) for entry in asked)


@given(entries())
def test_expanding_and_order_change_no_digest(asked: list[dict[str, Any]]) -> None:
    workloads = WorkloadsFile.model_validate({"workloads": asked}).merged()
    alone = expand(workloads)

    assert [each.name for each in alone] == [name for w in workloads for name in names_of(w)]
    assert workloads_digest(workloads) == workloads_digest(alone[::-1])


@given(fields(), st.lists(labels, min_size=1, unique=True))
def test_defaults_are_what_each_would_have_said(said: dict[str, Any], names: list[str]) -> None:
    by_default = {"defaults": said, "workloads": [{"name": name} for name in names]}
    each = {"workloads": [{"name": name, **said} for name in names]}

    merged = [WorkloadsFile.model_validate(file).merged() for file in (by_default, each)]

    assert merged[0] == merged[1]
