from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from igniter_prof.config.workloads import (
    WorkloadsFile,
    expand,
    load_workloads,
    read_workloads,
    workloads_digest,
)
from igniter_prof.errors import BadInput
from igniter_prof.records import Workload

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str, name: str = "workloads.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_defaults_hold_where_a_workload_does_not_differ(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "defaults: {percentile: 95, slo_ms: 40, latency_rule: half-mean}\n"
        "workloads:\n"
        "  - {name: a, model: m, rate_rps: 10}\n"
        "  - {name: b, model: m, rate_rps: 20, slo_ms: 5, percentile: 50, arrival: constant}\n",
    )

    assert read_workloads(path) == (
        Workload(name="a", model="m", rate_rps=10, slo_ms=40, percentile=95),
        Workload(name="b", model="m", rate_rps=20, slo_ms=5, percentile=50, arrival="constant"),
    )
    assert load_workloads(path).defaults.latency_rule == "half-mean"


def test_percentile_and_arrival_have_the_documented_defaults(tmp_path: Path) -> None:
    text = "workloads: [{name: a, model: m, rate_rps: 1, slo_ms: 9}]"
    (workload,) = read_workloads(write(tmp_path, text))

    assert (workload.percentile, workload.arrival, workload.count) == (99, "poisson", 1)
    assert load_workloads(write(tmp_path, text)).defaults.latency_rule == "percentile"


def test_what_a_placement_must_respect(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "defaults: {model: m, rate_rps: 10, slo_ms: 40, replicas: 2, devices: [v100],\n"
        "  anti_affinity: zone, priority: 1, memory_mib: 500, confidence: 0.9}\n"
        "workloads:\n"
        "  - {name: a}\n"
        "  - {name: b, replicas: 1, max_replicas: 3, devices: [t4, a100, t4], priority: -1}\n"
        "  - {name: c, devices: [], anti_affinity: null, priority: null, memory_mib: 9}\n",
    )
    shared = {"model": "m", "rate_rps": 10.0, "slo_ms": 40.0}
    zone = {"anti_affinity": "zone", "memory_mib": 500.0}

    assert [each.model_dump(exclude_defaults=True) for each in read_workloads(path)] == [
        {"name": "a", **shared, **zone, "replicas": 2, "devices": ("v100",), "priority": 1},
        {"name": "b", **shared, **zone, "max_replicas": 3, "devices": ("a100", "t4")}
        | {"priority": -1},
        {"name": "c", **shared, "replicas": 2, "memory_mib": 9.0},
    ]
    assert load_workloads(path).defaults.confidence == 0.9


def test_a_default_burstiness_is_for_those_that_are_bursty(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "defaults: {model: m, rate_rps: 10, slo_ms: 40, arrival: bursty, burstiness: 4}\n"
        "workloads: [{name: a}, {name: b, burstiness: 9}, {name: c, arrival: constant}]\n",
    )

    read = [(each.arrival, each.burstiness) for each in read_workloads(path)]
    assert read == [("bursty", 4), ("bursty", 9), ("constant", None)]


@pytest.mark.parametrize(
    ("defaults", "entry", "what", "hint"),
    [
        ("", "arrival: bursty", "needs burstiness", "squared coefficient of variation"),
        ("", "burstiness: 4", "this one is poisson", "arrival: bursty"),
        (
            "arrival: bursty, burstiness: 4",
            "arrival: poisson, burstiness: 2",
            "is poisson",
            "leave",
        ),
        ("replicas: 3", "max_replicas: 2", "max_replicas 2 is less than replicas 3", "3 or more"),
    ],
)
def test_contradictions_are_refused_with_what_would_do(
    tmp_path: Path, defaults: str, entry: str, what: str, hint: str
) -> None:
    text = (
        f"defaults: {{{defaults}}}\n"
        "workloads:\n"
        "  - {name: a, model: m, rate_rps: 1, slo_ms: 5}\n"
        f"  - {{name: b, model: m, rate_rps: 1, slo_ms: 5, {entry}}}\n"
    )
    if "bursty" in defaults:
        text = text.replace("name: a,", "name: a, arrival: bursty,")

    with pytest.raises(BadInput) as caught:
        read_workloads(write(tmp_path, text))

    assert "line 4, workload 'b'" in str(caught.value.where)
    assert what in caught.value.what
    assert hint in str(caught.value.hint)


def test_a_default_burstiness_that_nothing_uses_is_refused(tmp_path: Path) -> None:
    text = "defaults: {burstiness: 4}\nworkloads: [{name: a, model: m, rate_rps: 1, slo_ms: 5}]\n"

    with pytest.raises(BadInput, match="there is none"):
        read_workloads(write(tmp_path, text))


def test_csv_says_the_same_as_yaml(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        "\ufeffname, model,rate_rps,slo_ms,count,percentile\na,m,10,20,3,\n\nb,m,1.5,8,,90\n",
        "w.CSV",
    )
    text = write(
        tmp_path,
        "workloads:\n"
        "  - {name: a, model: m, rate_rps: 10, slo_ms: 20, count: 3}\n"
        "  - {name: b, model: m, rate_rps: 1.5, slo_ms: 8, percentile: 90}\n",
    )

    assert read_workloads(table) == read_workloads(text)


def test_csv_has_every_field(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        "name,model,rate_rps,slo_ms,arrival,burstiness,replicas,max_replicas,memory_mib,"
        "anti_affinity,devices,priority\n"
        "a,m,10,20,bursty,4,2,3,800,zone,v100;t4,-1\n"
        "b,m,10,20,,,,,,,a100 t4 ;v100,\n",
        "w.csv",
    )
    first, second = read_workloads(table)

    assert first == Workload(
        **{"name": "a", "model": "m", "rate_rps": 10, "slo_ms": 20, "arrival": "bursty"},
        **{"burstiness": 4, "replicas": 2, "max_replicas": 3, "memory_mib": 800},
        **{"anti_affinity": "zone", "devices": ("t4", "v100"), "priority": -1},
    )
    assert second.devices == ("a100", "t4", "v100")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (
            "workloads:\n  - name: a\n    model: m\n    rate_rps: 1\n    slo: 5\n",
            "line 2, workload 'a'",
            "slo_ms",
        ),
        (
            "workloads:\n"
            "  - {name: a, model: m, rate_rps: 1, slo_ms: 5}\n"
            "\n"
            "  - {name: b, model: m, rate_rps: fast, slo_ms: 5}\n",
            "line 4, workload 'b'",
            "rate_rps",
        ),
        ("workloads:\n  - {name: a, model: m, rate_rps: 0, slo_ms: 5}\n", "line 2", "rate_rps"),
        ("workloads:\n  - {name: a, model: m, rate_rps: .inf, slo_ms: 5}\n", "line 2", "rate_rps"),
        ("workloads:\n  - {name: a, model: m, rate_rps: .nan, slo_ms: 5}\n", "line 2", "rate_rps"),
        ("workloads:\n  - {name: a, rate_rps: 1, slo_ms: 5}\n", "line 2, workload 'a'", "no model"),
        ("workloads:\n  - {name: a, model: m, rate_rps: 1, slo_ms: 5, count: 0}\n", "2", "count"),
        (
            "workloads:\n  - {name: a, model: m, rate_rps: 1, slo_ms: 5, count: 100001}\n",
            "2",
            "count",
        ),
        (
            "workloads:\n  - {name: a, model: m, rate_rps: 1, slo_ms: 5, percentile: 100}\n",
            "line 2",
            "percentile",
        ),
        *(
            (
                f"workloads:\n  - {{name: a, model: m, rate_rps: 1, slo_ms: 5, {field}}}\n",
                "line 2, workload 'a'",
                field.partition(":")[0],
            )
            for field in (
                *("arrival: bursts", "burstiness: 0", "replicas: 0", "max_replicas: 65"),
                *("memory_mib: -1", "anti_affinity: ''", "devices: ['a b']", "priority: high"),
            )
        ),
        *(
            (f"defaults: {{confidence: {value}}}\nworkloads: [{{name: a}}]\n", "", "confidence")
            for value in ("0", "1", "90")
        ),
        ("workloads:\n  - {model: m, rate_rps: 1, slo_ms: 5}\n", "line 2", "name"),
        ("workloads:\n  - just a word\n", "line 2", "str"),
        ("workloads: []\n", "workloads.yaml", "workloads"),
        ("workloads: m\n", "workloads.yaml", "must be a list"),
        ("[a, b]\n", "workloads.yaml", "list"),
        ("", "workloads.yaml", "nothing"),
        ("workload: []\n", "workloads.yaml", "'workloads'"),
        ("workloads: [{name: a\n", "line 2", "YAML"),
        ("defaults: {arrivals: poisson}\nworkloads: [{name: a}]\n", "workloads.yaml", "'arrival'"),
        ("schema_version: 9\nworkloads: [{name: a}]\n", "workloads.yaml", "schema_version 9"),
    ],
)
def test_bad_yaml_is_refused_with_place_and_field(
    tmp_path: Path, text: str, where: str, what: str
) -> None:
    with pytest.raises(BadInput) as caught:
        read_workloads(write(tmp_path, text))

    assert where in str(caught.value.where)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("name,model,rate,slo_ms\na,m,1,5\n", "line 1", "did you mean 'rate_rps'?"),
        ("name,name\na,b\n", "line 1", "twice"),
        ("name,model,rate_rps,slo_ms\na,m,1,5\nb,m,1\n", "line 3", "truncated"),
        ("name,model,rate_rps,slo_ms\na,m,1,5\nb,m,x,5\n", "line 3, workload 'b'", "rate_rps"),
        ("name,model,rate_rps,slo_ms\na,m,,5\n", "line 2, workload 'a'", "no rate_rps"),
        ("name,model,rate_rps,slo_ms\n", "w.csv", "no workloads"),
        ("", "w.csv", "no workloads"),
    ],
)
def test_bad_csv_is_refused_with_line_and_column(
    tmp_path: Path, text: str, where: str, what: str
) -> None:
    with pytest.raises(BadInput) as caught:
        read_workloads(write(tmp_path, text, "w.csv"))

    assert where in str(caught.value.where)
    assert what in str(caught.value)


def test_unknown_keys_are_answered_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path, "workloads:\n  - {name: a, model: m, rate_rsp: 1, slo_ms: 5}\n")

    with pytest.raises(BadInput) as caught:
        read_workloads(path)

    assert caught.value.hint == "did you mean 'rate_rps'?"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_workloads(tmp_path / "none.yaml")


def workload(name: str, count: int = 1) -> Workload:
    return Workload(name=name, model="m", rate_rps=1, slo_ms=1, count=count)


def test_count_makes_numbered_workloads() -> None:
    names = [each.name for each in expand((workload("a", 3), workload("b")))]

    assert names == ["a-1", "a-2", "a-3", "b"]
    assert {each.count for each in expand((workload("a", 3),))} == {1}


@pytest.mark.parametrize("names", [("a", "a"), ("a-2", "a*3")])
def test_two_workloads_of_one_name_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    rows = []
    for name in names:
        name, _, count = name.partition("*")
        rows.append(
            f"  - {{name: {name}, model: m, rate_rps: 1, slo_ms: 1, count: {count or 1}}}\n"
        )

    with pytest.raises(BadInput, match="two workloads are named") as caught:
        read_workloads(write(tmp_path, "workloads:\n" + "".join(rows)))

    assert "workloads.yaml" in str(caught.value.where)


def test_a_large_count_is_not_expanded_to_be_read_and_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "workloads: [{name: w, model: m, rate_rps: 1, slo_ms: 1, count: 100000}]"

    def no_copies(*arguments: object, **options: object) -> Workload:
        raise AssertionError("a workload was copied")

    monkeypatch.setattr(Workload, "model_copy", no_copies)
    (many,) = read_workloads(write(tmp_path, line))
    digest = workloads_digest((many,))
    monkeypatch.undo()
    assert digest == workloads_digest(expand((many,)))


def test_the_digest_is_of_what_is_asked_for() -> None:
    both = (workload("a"), workload("b"))

    assert workloads_digest(both) == workloads_digest(both[::-1])
    assert workloads_digest((workload("w", 2),)) == workloads_digest(
        (workload("w-1"), workload("w-2"))
    )
    assert workloads_digest(both) != workloads_digest(both[:1])


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 2},
        {"max_replicas": 2},
        {"memory_mib": 1.0},
        {"anti_affinity": "zone"},
        {"devices": ("t4",)},
        {"priority": 0},
        {"arrival": "bursty", "burstiness": 4.0},
        {"percentile": 50.0},
    ],
)
def test_the_digest_and_expansion_hold_every_field(changes: dict[str, Any]) -> None:
    plain, changed = workload("w", 2), workload("w", 2).model_copy(update=changes)

    assert workloads_digest((changed,)) != workloads_digest((plain,))
    for each in expand((changed,)):
        assert each.model_dump(include=set(changes)) == changes


def test_the_digest_says_who_asks_for_what() -> None:
    a, b = workload("a"), workload("b").model_copy(update={"slo_ms": 2.0})
    swapped = (a.model_copy(update={"name": "b"}), b.model_copy(update={"name": "a"}))

    assert workloads_digest((a, b)) != workloads_digest(swapped)


def test_the_example_fits_the_schema_and_the_reader() -> None:
    path = ROOT / "plans" / "workloads.yaml"

    jsonschema.validate(yaml.safe_load(path.read_text()), WorkloadsFile.model_json_schema())
    assert len(expand(read_workloads(path))) == 6
