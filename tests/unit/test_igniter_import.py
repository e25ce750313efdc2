"""iGniter's files into a profile and back: nothing is lost, invented, or taken half."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.cli import igprof
from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.checking import check_profile
from igniter_prof.dataset.igniter import Sources, export_igniter, find_sources, import_igniter
from igniter_prof.dataset.igniter.config import config_text, read_config
from igniter_prof.dataset.merging import merge_profiles
from igniter_prof.errors import BadInput
from igniter_prof.fitting.points import observe
from igniter_prof.records import Cell, Device, Load, Measurement, Tenant, TenantMeasurement
from tests.dataset_samples import manifest, sample, write

GPU = Device(id="cuda:GPU-1", kind="cuda", name="a GPU")
HARDWARE: dict[str, Any] = {
    "idlepower": 40.5,
    "power": [100.0, 150.0, 200.25, 220.0, 230.0, 231.0],
    "frequency": [1400, 1400, 1390.5, 1380.0, 1300.0],
    "idletime": [0.001, 0.002, 0.004, 0.007, 0.011],
    "maxGPUfrequency": 1400,
    "maxGPUpower": 250,
    "unit": 5,
    "bandwidth": 1000000,
    "driver": "450.1",
}
TINY: dict[str, Any] = {
    "transferdata": 6000,
    "inputdata": 5000,
    "outputdata": 1000,
    "gpulatency": [[4.0, 1.5, 1.25], [40.0, 9.0, 5.5], [80.0, 17.5, 10.125]],
    "power": [[50.0, 70.5, 90.0], [60.0, 120.0, 180.0], [61.0, 125.0, 190.0]],
    "frequency": [[1400, 1400, 1400], [1400, 1400, 1390], [1400, 1399.5, 1350]],
    "l2caches": [2.5, 11.0, 20.25],
    "l2cache": 11.5,
    "idletime_1": 0.25,
    "activetime_1": 8.75,
    "activetime_2": 9.5,
    "power_2": 190.5,
    "frequency_2": 1380.5,
    "kernel": 12,
}
SOLO = """model,batch_size,share_pct,latency_ms,throughput_rps,l2_util_pct,dram_util_pct
tiny,1,10,4.01,248.5,,
tiny,16,50,9.2,1700.0,11.25,30.5
tiny,16,50,9.3,1690.0,,31.0
tiny,16,50,9.4,1680.0,11.5,
other,3,33.3,7.0,,,
"""
PAIRS = """model_1,model_2,batch_size_1,batch_size_2,share_pct_1,share_pct_2,latency_ms_1,\
latency_ms_2,latency_std_ms_1,latency_std_ms_2
tiny,other,16,3,60,40,9.1,6.5,0.25,0.125
tiny,tiny,16,16,50,50,9.9,9.8,,0
tiny,tiny,16,16,50,50,9.7,9.6,0.5,0.5
"""


def config_lines(**models: dict[str, Any]) -> str:
    """A config as iGniter's tools append to it: the keys of all entries in any order."""
    entries = {"hardware": HARDWARE} | models
    lines = [{name: {key: v}} for name, given in entries.items() for key, v in given.items()]
    return "".join(json.dumps(line) + "\n" for line in reversed(lines))


def write_files(folder: Path) -> Path:
    """A folder with all three files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "igniter_config.jsonl").write_text(
        config_lines(tiny=TINY, wide=TINY | {"htddur": [32, 1.5]})
    )
    (folder / "solo.csv").write_text(SOLO)
    (folder / "pairs.csv").write_text(PAIRS)
    (folder / "notes.txt").write_text("not read")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("igniter") / "data")


@pytest.fixture(scope="module")
def profile(data: Path) -> Path:
    out = data.parent / "profile"
    import_igniter(find_sources([data], Sources()), out, device_name="a GPU")
    return out


def _cells(profile: Path, file: str) -> list[Measurement]:
    found = ProfileStore.open(profile).measurements()
    return [one for one in found if one.extra["igniter"]["file"] == file]


def _mean_ms(tenant: TenantMeasurement) -> float:
    assert tenant.latency is not None
    return tenant.latency.mean_ms


def test_a_profile_of_all_three(profile: Path) -> None:
    assert check_profile(profile) == []
    store = ProfileStore.open(profile)
    assert store.manifest.source == "import:igniter"
    assert (store.manifest.device.kind, store.manifest.device.name) == ("cuda", "a GPU")
    assert len(_cells(profile, "solo.csv")) == 5
    assert len(_cells(profile, "pairs.csv")) == 3
    assert len(_cells(profile, "igniter_config.jsonl")) == 2 * 10
    for one in store.measurements():
        assert one.conditions.share_mechanism == "mps"
        assert one.conditions.share_step_pct == 5
        assert all(tenant.stable is None and tenant.verdict for tenant in one.tenants)


def test_what_is_not_told_is_not_known(profile: Path) -> None:
    store = ProfileStore.open(profile)
    for one in store.measurements():
        for tenant in one.tenants:
            assert tenant.latency is not None
            assert tenant.latency.count is None
            assert tenant.latency.mean_ci_ms is None
            assert tenant.latency.min_ms is None
    seen, notes = observe(store.measurements(), store.manifest.device)
    assert notes == ()
    assert set(seen.weight) == {1.0}
    known = sorted(float(cv) for cv in seen.cv if cv == cv)
    assert known == pytest.approx(sorted([0.25 / 9.1, 0.125 / 6.5, 0, 0.5 / 9.7, 0.5 / 9.6]))


def test_rows_of_the_same_point_are_repeats_apart_from_the_config(profile: Path) -> None:
    by_repeat = {
        one.cell.repeat: one
        for one in ProfileStore.open(profile).measurements()
        if one.cell.tenants == (Tenant(model="tiny", batch_size=16, share_pct=50),)
    }
    assert {number: _mean_ms(one.tenants[0]) for number, one in by_repeat.items()} == {
        0: 9.2,
        1: pytest.approx(9.0 + 6000 * 16 / 1e6),
        2: 9.3,
        3: 9.4,
    }
    counters = by_repeat[0].tenants[0].counters
    assert counters is not None
    assert (counters.l2_util_pct, counters.dram_util_pct) == (11.25, 30.5)
    assert by_repeat[0].tenants[0].throughput_rps == 1700
    pairs = [
        one
        for one in ProfileStore.open(profile).measurements()
        if [tenant.model for tenant in one.cell.tenants] == ["tiny", "tiny"]
    ]
    assert sorted(one.cell.repeat for one in pairs) == [0, 1, 2]


def test_cells_do_not_depend_on_what_they_are_imported_with(data: Path, profile: Path) -> None:
    alone = data.parent / "alone"
    import_igniter(Sources(solo=data / "solo.csv"), alone)
    ids = {one.cell_id for one in _cells(profile, "solo.csv")}
    assert {one.cell_id for one in ProfileStore.open(alone).measurements()} == ids


def test_cells_of_the_config(profile: Path) -> None:
    cells = [
        one
        for one in _cells(profile, "igniter_config.jsonl")
        if one.cell.tenants[0].model == "tiny"
    ]
    alone = {
        (one.cell.tenants[0].batch_size, one.cell.tenants[0].share_pct): one
        for one in cells
        if len(one.tenants) == 1
    }
    assert set(alone) == {(b, s) for b in (1, 16, 32) for s in (10, 50, 100)}
    for row, batch in enumerate((1, 16, 32)):
        for column, share in enumerate((10, 50, 100)):
            one = alone[batch, share]
            (tenant,) = one.tenants
            assert tenant.counters is not None
            assert one.power is not None
            gpu_ms = TINY["gpulatency"][row][column]
            assert tenant.counters.gpu_ms == gpu_ms
            assert _mean_ms(tenant) == pytest.approx(gpu_ms + 6000 * batch / 1e6)
            assert one.power_w == one.power.power_mean_w == TINY["power"][row][column]
            assert one.power.sm_clock_mean_mhz == TINY["frequency"][row][column]
            assert (one.power.power_limit_w, one.power.bare_idle_w) == (250, 40.5)
            l2_pct = TINY["l2caches"][row] if row == column else None
            assert tenant.counters.l2_util_pct == l2_pct
            split = (8.75, 0.25) if (batch, share) == (16, 50) else (None, None)
            assert (tenant.counters.active_ms, tenant.counters.idle_ms) == split
            assert (tenant.counters.kernels, tenant.counters.input_bytes) == (12, 5000)
            assert "derived" in str(tenant.verdict)
            assert "derived" in one.extra["igniter"]["latency"]
    (pair,) = [one for one in cells if len(one.tenants) == 2]
    assert pair.cell.tenants == (Tenant(model="tiny", batch_size=16, share_pct=50),) * 2
    assert pair.power is not None
    assert (pair.power_w, pair.power.sm_clock_mean_mhz) == (190.5, 1380.5)
    for tenant in pair.tenants:
        assert tenant.counters is not None
        assert (tenant.counters.active_ms, tenant.counters.idle_ms) == (9.5, 0.25)
        assert _mean_ms(tenant) == pytest.approx(9.5 + 0.25 + 6000 * 16 / 1e6)


def test_the_lightweight_profile_is_kept_with_what_is_not_known_of_it(profile: Path) -> None:
    igniter = ProfileStore.open(profile).manifest.igniter
    assert igniter is not None
    assert igniter.models["tiny"].extra == {"transferdata": 6000}
    assert igniter.models["wide"].extra == {"transferdata": 6000, "htddur": [32, 1.5]}
    assert igniter.hardware.extra == {"driver": "450.1"}
    assert igniter.hardware.kernel_idle_ms == tuple(HARDWARE["idletime"])
    assert igniter.models["tiny"].gpu_ms[1] == (40.0, 9.0, 5.5)
    assert igniter.models["tiny"].l2_util_1_pct == 11.5


def _merged(text: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        for name, values in json.loads(line).items():
            found.setdefault(name, {}).update(values)
    return found


def _rows(path: Path) -> list[tuple[Any, ...]]:
    """A table's rows in any order, numbers as numbers."""

    def read(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text or None

    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    return sorted((tuple((k, read(v)) for k, v in row.items()) for row in table), key=repr)


def test_the_export_says_what_the_files_said(data: Path, profile: Path, tmp_path: Path) -> None:
    done = export_igniter(profile, tmp_path / "theirs")
    assert {path.name for path in done.written} == {
        "igniter_config.jsonl",
        "solo.csv",
        "pairs.csv",
    }
    assert not done.left_out
    for name in ("solo.csv", "pairs.csv"):
        assert _rows(tmp_path / "theirs" / name) == _rows(data / name)
    name = "igniter_config.jsonl"
    assert _merged((tmp_path / "theirs" / name).read_text()) == _merged((data / name).read_text())


def _same(first: Path, second: Path) -> None:
    one, two = ProfileStore.open(first), ProfileStore.open(second)
    assert one.measurements() == two.measurements()
    assert one.manifest.igniter == two.manifest.igniter


numbers = st.floats(0.001, 1e6).filter(lambda value: value > 0)
percents = st.floats(0.001, 100)
names = st.sampled_from(["a", "b model", 'c,"d"', "\u00e9t\u00e9", "hardware2"])
optional = st.one_of(st.none(), percents)
solo_rows = st.lists(
    st.tuples(names, st.integers(1, 1024), percents, numbers, optional, optional, optional),
    max_size=8,
)
pair_rows = st.lists(
    st.tuples(
        names,
        names,
        st.integers(1, 64),
        st.integers(1, 64),
        st.integers(1, 60),
        st.integers(1, 40),
        numbers,
        numbers,
        optional,
        optional,
    ),
    max_size=5,
)


def _list(length: int) -> st.SearchStrategy[list[float]]:
    return st.lists(numbers, min_size=length, max_size=length)


model_entries = st.fixed_dictionaries(
    {
        key: {
            "gpulatency": st.lists(_list(3), min_size=3, max_size=3),
            "power": st.lists(_list(3), min_size=3, max_size=3),
            "frequency": st.lists(_list(3), min_size=3, max_size=3),
            "l2caches": st.lists(percents, min_size=3, max_size=3),
            "l2cache": percents,
            "kernel": st.integers(0, 10**6),
        }.get(key, numbers)
        for key in TINY
    },
    optional={"htddur": st.lists(numbers, max_size=3), "note": st.text(max_size=5)},
)


@settings(max_examples=25, deadline=None)
@given(solo=solo_rows, pairs=pair_rows, models=st.dictionaries(names, model_entries, max_size=2))
def test_importing_an_export_gives_the_same_profile(
    solo: list[tuple[Any, ...]],
    pairs: list[tuple[Any, ...]],
    models: dict[str, dict[str, Any]],
) -> None:
    if not (solo or pairs or models):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for table, header, file in (
            (solo, SOLO.split("\n")[0], "solo.csv"),
            (pairs, PAIRS.split("\n")[0], "pairs.csv"),
        ):
            with (folder / file).open("w", newline="") as out:
                writer = csv.writer(out)
                writer.writerow(header.split(","))
                writer.writerows(table)
        if models:
            (folder / "igniter_config.jsonl").write_text(config_lines(**models))
        import_igniter(find_sources([folder], Sources()), folder / "first")
        export_igniter(folder / "first", folder / "theirs")
        import_igniter(find_sources([folder / "theirs"], Sources()), folder / "second")
        _same(folder / "first", folder / "second")


# --- input that is refused -------------------------------------------------------------------


def _edit_solo(old: str, new: str) -> Callable[[Path], None]:
    return lambda data: (data / "solo.csv").write_text(_replaced(SOLO, old, new)) and None


def _edit_pairs(old: str, new: str) -> Callable[[Path], None]:
    return lambda data: (data / "pairs.csv").write_text(_replaced(PAIRS, old, new)) and None


def _replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


def _config(**changes: Any) -> Callable[[Path], None]:
    """Other values of the model tiny; None leaves the key out."""
    model = {key: value for key, value in (TINY | changes).items() if value is not None}

    def write(data: Path) -> None:
        (data / "igniter_config.jsonl").write_text(config_lines(tiny=model))

    return write


def _config_text(text: str) -> Callable[[Path], None]:
    return lambda data: (data / "igniter_config.jsonl").write_text(text) and None


@pytest.mark.parametrize(
    ("damage", "where", "what"),
    [
        (_edit_solo("latency_ms", "latency"), "solo.csv, line 1", "no column 'latency_ms'"),
        (_edit_solo("dram_util_pct", "l2_util_pct"), "line 1, column l2_util_pct", "two columns"),
        (_edit_solo("4.01", "fast"), "solo.csv, line 2, column latency_ms", "'fast' is no number"),
        (_edit_solo("4.01", "nan"), "solo.csv, line 2, column latency_ms", "no number"),
        (_edit_solo("4.01", "1e999"), "solo.csv, line 2, column latency_ms", "not finite"),
        (_edit_solo("4.01", "4_0"), "solo.csv, line 2, column latency_ms", "no number"),
        (_edit_solo("4.01", ""), "solo.csv, line 2, column latency_ms", "is empty"),
        (_edit_solo("4.01", "-4.01"), "solo.csv, line 2, column latency_ms", "not more than 0"),
        (_edit_solo("4.01", "0"), "solo.csv, line 2, column latency_ms", "not more than 0"),
        (_edit_solo("33.3", "133.3"), "solo.csv, line 6, column share_pct", "at most 100"),
        (_edit_solo("33.3", ""), "solo.csv, line 6, column share_pct", "is empty"),
        (_edit_solo("30.5", "130"), "solo.csv, line 3, column dram_util_pct", "at most 100"),
        (_edit_solo("other,3", "other,3.5"), "solo.csv, line 6, column batch_size", "whole"),
        (_edit_solo("other,3", "other,3000"), "solo.csv, line 6, column batch_size", "1024"),
        (_edit_solo("other", "../x"), "solo.csv, line 6, column model", "pattern"),
        (_edit_solo("248.5,,", "248.5,"), "solo.csv, line 2", "6 fields, the header 7"),
        (_edit_solo(SOLO, ""), "solo.csv", "is empty"),
        (_edit_solo("tiny,1", '"tiny'), "solo.csv, line", "not valid CSV"),
        (_edit_pairs("60,40", "60,41"), "pairs.csv, line 2, columns share_pct_1", "to 101"),
        (_edit_pairs("0.125", "-1"), "pairs.csv, line 2, column latency_std_ms_2", "at least 0"),
        (_edit_pairs("6.5", "x"), "pairs.csv, line 2, column latency_ms_2", "no number"),
        (_config(kernel=None), "igniter_config.jsonl", "'tiny' has no 'kernel'"),
        (_config(kernel=1.5), "line 1", "'tiny': 'kernel': 1.5 is no whole number"),
        (_config(power_2="hot"), "line 3", "'tiny': 'power_2': a number was expected"),
        (_config(power_2=True), "line 3", "a number was expected"),
        (_config(activetime_1=-1), "line 5", "'tiny': 'activetime_1': -1 is not more than 0"),
        (_config(power_2=10**400), "line 3", "too large"),
        (_config(l2caches=[1, 2]), "line", "a list of 3 was expected, not of 2"),
        (_config(gpulatency=[1, 2, 3]), "line", "a list of 3 was expected, not 1"),
        (_config(idletime_1=float("nan")), "line", "not valid JSON (NaN is no number)"),
        (_config_text(""), "igniter_config.jsonl", "is empty"),
        (_config_text('{"tiny": {"kernel": 20}}\nkernel: 20\n'), "line 2", "not valid JSON"),
        (_config_text("[1]\n"), "line 1", "no JSON object"),
        (_config_text('{"tiny": 20}\n'), "line 1", "'tiny' is not an object"),
        (_config_text('{"../x": {"kernel": 20}}\n'), "line 1", "no name of a model"),
        (_config_text('{"hardware": {"unit": 2.5}}\n'), "jsonl", "'hardware' has no 'idlepower'"),
        (_config_text(config_lines()), "jsonl", "holds no model"),
        (_config_text('{"tiny": {"unit": 1e999}}\n'), "line 1", "too large"),
        (_config_text('{"tiny": {"note": "\\ud800"}}\n'), "line 1", "not valid JSON"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tmp_path: Path, damage: Callable[[Path], None], where: str, what: str
) -> None:
    data = write_files(tmp_path / "data")
    damage(data)
    with pytest.raises(BadInput) as caught:
        import_igniter(find_sources([data], Sources()), tmp_path / "profile")
    assert where in str(caught.value.where)
    assert what in caught.value.what
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_a_failed_write_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended = ProfileStore.append

    def fail(store: ProfileStore, measurement: Measurement, requests: Any) -> None:
        if measurement.cell.tenants[0].model == "other":
            raise OSError(28, "No space left on device")
        appended(store, measurement, requests)

    monkeypatch.setattr(ProfileStore, "append", fail)
    with pytest.raises(Exception, match="no disk space"):
        import_igniter(Sources(solo=data / "solo.csv"), tmp_path / "profile")
    assert list(tmp_path.iterdir()) == []


def test_rows_are_needed_somewhere(data: Path, tmp_path: Path) -> None:
    empty = tmp_path / "pairs.csv"
    empty.write_text(PAIRS.split("\n")[0] + "\n")
    with pytest.raises(BadInput, match="holds no row"):
        import_igniter(Sources(pairs=empty), tmp_path / "profile")
    report = import_igniter(Sources(solo=data / "solo.csv", pairs=empty), tmp_path / "profile")
    assert report.cells == {"solo.csv": 5, "pairs.csv": 0}


def test_later_lines_of_a_config_hold(tmp_path: Path) -> None:
    path = tmp_path / "again.jsonl"
    path.write_text(config_lines(tiny=TINY) + '\n{"tiny": {"kernel": 99, "x": [1]}}')
    model = read_config(path).models["tiny"]
    assert (model.kernels, model.extra["x"]) == (99, [1])
    path.write_text(config_text(read_config(path)))
    assert read_config(path).models["tiny"] == model


def test_other_columns_are_told_of(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    header, *rows = SOLO.strip().split("\n")
    path.write_text("\n".join([f"\ufeff{header},who", *(f"{row},me" for row in rows), ""]))
    report = import_igniter(find_sources([path], Sources()), tmp_path / "profile")
    assert report.ignored == [f"{path}: column who"]
    assert report.cells == {"solo.csv": 5}


# --- the verbs -------------------------------------------------------------------------------


def _run(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(igprof, [str(word) for word in words], catch_exceptions=True)
    assert (result.exit_code, result.exception if status == 0 else None) == (status, None)
    return result.stderr


def test_import_and_export_verbs(data: Path, profile: Path, tmp_path: Path) -> None:
    named = ["--config", data / "igniter_config.jsonl", "--solo", data / "solo.csv"]
    named += ["--pairs", data / "pairs.csv", "--device-name", "a GPU"]
    _run("import", "igniter", *named, "--out", tmp_path / "named")
    _same(profile, tmp_path / "named")
    given = [data / name for name in ("pairs.csv", "solo.csv", "igniter_config.jsonl")]
    told = _run("import", "igniter", *given, "--out", tmp_path / "given")
    _same(profile, tmp_path / "given")
    assert "pairs.csv: 3 cells" in told
    _run("export", profile, "--to", "igniter", "--out", tmp_path / "theirs")
    _run("import", "igniter", tmp_path / "theirs", "--out", tmp_path / "again")
    _same(profile, tmp_path / "again")
    _run("export", profile, "--to", "csv", "--out", tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 5 + 3 * 2 + 2 * (9 + 2)
    assert {row["latency_count"] for row in table} == {""}
    _run("report", profile, "--out", tmp_path / "report.html")
    assert "import:igniter" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["igniter"],
        ["igniter", "--device-name", "a GPU"],
        ["igniter", "{data}/notes.txt"],
        ["igniter", "{data}", "--solo", "{data}/solo.csv"],
        ["igniter", "--solo", "{data}/nothing.csv"],
        ["acprof", "{data}", "--solo", "{data}/solo.csv"],
        ["acprof"],
    ],
)
def test_bad_usage(data: Path, tmp_path: Path, words: list[str]) -> None:
    given = [word.format(data=data) for word in words]
    with pytest.raises(BadInput):
        CliRunner().invoke(
            igprof,
            ["import", *given, "--out", str(tmp_path / "out")],
            catch_exceptions=False,
            standalone_mode=False,
        )
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_is_there_is_replaced(data: Path, profile: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is there already"):
        import_igniter(Sources(solo=data / "solo.csv"), profile)
    import_igniter(Sources(solo=data / "solo.csv"), tmp_path / "alone")
    export_igniter(profile, tmp_path / "theirs")
    with pytest.raises(BadInput, match=r"holds a pairs\.csv"):
        export_igniter(tmp_path / "alone", tmp_path / "theirs")


def test_a_merge_keeps_the_lightweight_profile(data: Path, tmp_path: Path) -> None:
    import_igniter(Sources(config=data / "igniter_config.jsonl"), tmp_path / "config")
    import_igniter(Sources(solo=data / "solo.csv"), tmp_path / "solo")
    merge_profiles([tmp_path / "solo", tmp_path / "config"], tmp_path / "both")
    written = export_igniter(tmp_path / "both", tmp_path / "theirs").written
    assert [path.name for path in written] == ["solo.csv", "igniter_config.jsonl"]
    (tmp_path / "other.jsonl").write_text(config_lines(tiny=TINY | {"kernel": 5}))
    import_igniter(Sources(config=tmp_path / "other.jsonl"), tmp_path / "other")
    with pytest.raises(BadInput, match="different lightweight profiles"):
        merge_profiles([tmp_path / "config", tmp_path / "other"], tmp_path / "none")


# --- profiles of our own ---------------------------------------------------------------------


def _own(path: Path, cells: list[Cell]) -> Path:
    made = [sample(cell, seed=number) for number, cell in enumerate(cells)]
    return write(path, made, manifest(device=GPU))


def test_cells_of_our_own_in_their_columns(tmp_path: Path) -> None:
    half = Tenant(model="m", batch_size=2, share_pct=50)
    odd = [
        Cell(device=GPU.id, tenants=(half,) * 3),
        Cell(device=GPU.id, tenants=(half.model_copy(update={"instances": 2}),)),
        Cell(device=GPU.id, tenants=(half.model_copy(update={"input_scale": 2.0}),)),
        Cell(device=GPU.id, tenants=(half,), load=Load(concurrency=2)),
        Cell(device=GPU.id, tenants=(half, Tenant(model="m", share_pct=60))),
        Cell(device=GPU.id, tenants=(half, Tenant(model="m"))),
    ]
    kept = [
        Cell(device=GPU.id, tenants=(half,)),
        Cell(device=GPU.id, tenants=(half,), repeat=1),
        Cell(device=GPU.id, tenants=(Tenant(model="m"),)),
        Cell(device=GPU.id, tenants=(half, Tenant(model="n", share_pct=50))),
    ]
    own = _own(tmp_path / "own", kept + odd)
    done = export_igniter(own, tmp_path / "theirs")
    assert [path.name for path in done.written] == ["solo.csv", "pairs.csv"]
    assert sorted(done.left_out.values()) == [1] * len(odd)
    import_igniter(find_sources([tmp_path / "theirs"], Sources()), tmp_path / "back")
    back = ProfileStore.open(tmp_path / "back").measurements()
    assert sorted(one.cell.repeat for one in back) == [0, 0, 0, 2]
    assert {t.share_pct for one in back for t in one.cell.tenants} == {50, 100}
    stored = ProfileStore.open(own).measurements()
    means = {_mean_ms(t) for one in stored for t in one.tenants if one.cell in kept}
    assert {_mean_ms(t) for one in back for t in one.tenants} == means
    with pytest.raises(BadInput, match="nothing of it has a place"):
        export_igniter(_own(tmp_path / "odd", odd), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
