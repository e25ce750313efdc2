"""AC-Prof's files into a profile: every row is taken or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from igniter_prof.cli import igprof
from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.acprof import formats, import_acprof
from igniter_prof.dataset.checking import check_profile
from igniter_prof.errors import BadInput
from igniter_prof.records import MEASURED, WARMUP, Measurement
from tests import acprof_files


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("acprof")
    data = acprof_files.write_all(folder / "data")
    report = import_acprof([data], folder / "profile")
    return folder / "profile", report.as_dict()


def _of(profile: Path, model: str, *, gpu: bool) -> list[Measurement]:
    return [
        one
        for one in ProfileStore.open(profile).measurements()
        if one.cell.tenants[0].model == model and one.cell.tenants[0].gpu is gpu
    ]


def test_every_row_is_told_of(imported: tuple[Path, dict[str, object]]) -> None:
    _, report = imported
    files = {Path(name).name + Path(name).parent.name: n for name, n in report["files"].items()}  # type: ignore[attr-defined]
    taken = {"failed": 0, "refused": 0}
    assert files["cpu.csvtext"] == {"in": 180, "counted": 108, "warmup": 72, **taken}
    assert files["gpu.csvtext"] == {"in": 36, "counted": 36, "warmup": 0, **taken}
    assert files["gpu.csvseries"] == {"in": 16, "counted": 16, "warmup": 0, **taken}
    assert files["fcn50.csvdata"] == {"in": 24, "counted": 24, "warmup": 0, **taken}
    assert [one["model_name"] for one in report["static_only"]] == ["vgg16"]  # type: ignore[attr-defined]
    assert report["refused"] == []
    assert [Path(name).name for name in report["ignored"]] == ["LICENSE"]  # type: ignore[attr-defined]


def test_the_profile_is_clean(imported: tuple[Path, dict[str, object]]) -> None:
    assert check_profile(imported[0]) == []
    manifest = ProfileStore.open(imported[0]).manifest
    assert manifest.source == "import:acprof"
    assert (manifest.device.kind, manifest.device.name) == ("cuda", "GeForce RTX 3080")


def test_requests_with_instants_are_kept_as_requests(
    imported: tuple[Path, dict[str, object]],
) -> None:
    store = ProfileStore.open(imported[0])
    cell = next(
        one
        for one in _of(imported[0], "text-model", gpu=False)
        if one.cell.tenants[0].input_size == 64 and one.cell.tenants[0].cpu_cores == 2
    )
    rows = store.requests(cell.cell_id)[0]
    assert rows["phase"].tolist() == [WARMUP] * 2 + [MEASURED] * 3
    latency_ns = round(acprof_files.latency_s(64, 2) * 1e9)
    assert set((rows["done_ns"] - rows["sent_ns"]).tolist()) == {latency_ns}
    tenant = cell.tenants[0]
    assert tenant.latency is not None
    assert tenant.latency.count == 3
    assert tenant.latency.mean_ms == pytest.approx(latency_ns / 1e6)
    assert tenant.cold_start is not None
    assert tenant.cold_start.ready_s == 6.5
    assert tenant.weight_bytes == 91601385
    assert tenant.image is not None
    assert tenant.image.disk_bytes == 4415918499
    assert tenant.energy is None  # nan is no zero
    assert cell.power is None


def test_statistics_of_requests_are_no_requests(
    imported: tuple[Path, dict[str, object]],
) -> None:
    store = ProfileStore.open(imported[0])
    for cell in _of(imported[0], "text-model", gpu=True):
        assert len(store.requests(cell.cell_id)[0]) == 0
        tenant, power = cell.tenants[0], cell.power
        assert tenant.latency is not None
        assert tenant.latency.count == 3
        assert power is not None
        assert power.samples == 21
        assert power.power_field == formats.NET_POWER
        assert power.name == "GeForce RTX 3080"
        joules = [row["energy_j"] for row in tenant.extra["acprof"]["rows"]]
        assert tenant.energy is not None
        assert tenant.energy.per_inference_j == pytest.approx(np.mean(joules) / 16)
        assert "idle baseline" in tenant.energy.method


def test_a_count_of_warm_ups_is_no_flag(imported: tuple[Path, dict[str, object]]) -> None:
    cells = _of(imported[0], "series", gpu=True)
    assert len(cells) == 8
    assert {cell.tenants[0].tenant.input_unit for cell in cells} == {"context length"}
    assert all(cell.tenants[0].extra["acprof"]["other"] for cell in cells)
    assert all(cell.started_at == "not known" for cell in cells)


def test_the_wide_form_has_one_latency_a_container(
    imported: tuple[Path, dict[str, object]],
) -> None:
    cells = _of(imported[0], "fcn_resnet50", gpu=False)
    assert len(cells) == 18
    assert {(c.cell.tenants[0].cpu_cores, c.cell.tenants[0].memory_mib) for c in cells} == {
        (4, 8192),
        (2, 4096),
        (1, 2048),
    }
    for cell in cells:
        latency = cell.tenants[0].latency
        assert latency is not None
        assert (latency.count, latency.mean_ci_ms) == (1, None)
        assert cell.tenants[0].weight_bytes == 156 * 1024**2


def test_power_tells_what_was_subtracted(imported: tuple[Path, dict[str, object]]) -> None:
    edges = imported[1]["raw_power_w"]
    assert isinstance(edges, dict)
    assert {Path(name).parent.name: value for name, value in edges.items()} == {"text": [64, 128]}


@pytest.mark.parametrize(("low", "base"), [(32.0, 33.5), (64.0, 90.0), (128.0, 200.0)])
def test_the_finest_bit_gives_the_magnitude(low: float, base: float) -> None:
    rng = np.random.default_rng(0)
    readings = [round(base + float(rng.uniform(0, 20)), 3) for _ in range(200)]
    values = [one - round(base - 0.4, 3) for one in readings]
    assert formats.raw_power_range_w(values) == (low, 2 * low)
    assert formats.raw_power_range_w([round(value, 1) for value in values]) != (low, 2 * low)
    assert formats.raw_power_range_w(values[:5]) is None


def _row(changes: dict[str, str]) -> str:
    good = "1771572153669,org/m,1,off,2,1,16,0,0,0.02,nan,nan,nan,6.5,ok,"
    header = acprof_files.CPU_HEADER
    values = dict(zip(header.split(","), good.split(","), strict=True))
    return ",".join({**values, **changes}.values())


@pytest.mark.parametrize(
    ("bad", "column", "reason"),
    [
        ({"latency_s": "nan"}, "latency_s", "no latency"),
        ({"latency_s": "-0.1"}, "latency_s", "a latency of -0.1 s"),
        ({"latency_s": "fast"}, "latency_s", "could not convert"),
        ({"latency_s": "inf"}, "latency_s", "not finite"),
        ({"latency_s": "1e300"}, "latency_s", "too large to be true"),
        ({"latency_s": "1e9"}, "latency_s", "a latency of 1e+09 s"),
        ({"timestamp_ms": "1e15"}, "timestamp_ms", "no instant"),
        ({"energy_j": "1e308"}, "energy_j", "too large to be true"),
        ({"gpu_mode": "maybe"}, "gpu_mode", "neither on nor off"),
        ({"cpu_cores": "0"}, "cpu_cores", "a cap of 0"),
        ({"batch_size": "1.5"}, "batch_size", "no whole number"),
        ({"repeat_idx": "-1"}, "repeat_idx", "no whole number"),
        ({"token_len": "-16"}, "token_len", "a size of -16"),
        ({"model_name": ""}, "model_name", "is empty"),
        ({"error": "a,b"}, None, "has 17 fields, the header 16"),
        ({"model_name": "other/m"}, None, "short name is that of org/m"),
        ({"model_name": "org/.hidden"}, None, "model: "),
        ({"batch_size": "5000"}, None, "batch_size: "),
        ({"repeat_idx": "0"}, None, "the same row is in"),
        ({"repeat_idx": "0", "latency_s": "0.9"}, None, "another value of this configuration"),
    ],
)
def test_what_is_refused_has_line_and_reason(
    tmp_path: Path, bad: dict[str, str], column: str | None, reason: str
) -> None:
    file = tmp_path / "cpu.csv"
    lines = [acprof_files.CPU_HEADER, _row({}), "", _row({"repeat_idx": "1", **bad})]
    file.write_text("\n".join(lines))
    report = import_acprof([file], tmp_path / "profile")
    (refused,) = report.refused
    assert (refused.file, refused.line, refused.column) == (str(file), 4, column)
    assert reason in refused.reason
    assert report.files[str(file)] == {
        "in": 2, "counted": 1, "warmup": 0, "failed": 0, "refused": 1,
    }  # fmt: skip


def test_failed_rows_are_results(tmp_path: Path) -> None:
    file = tmp_path / "cpu.csv"
    failed = {"latency_s": "nan", "status": "error"}
    lines = [
        acprof_files.CPU_HEADER,
        _row({}),
        _row({"repeat_idx": "1", **failed, "error": "connection reset"}),
        _row({"token_len": "32", **failed, "error": "OOM killed"}),
        _row({"token_len": "64", **failed, "error": "timed out"}),
        _row({"token_len": "128", "warmup": "1"}),
    ]
    file.write_text("\n".join(lines))
    report = import_acprof([file], tmp_path / "profile")
    assert report.files[str(file)]["failed"] == 3
    found = {
        one.cell.tenants[0].input_size: one.tenants[0]
        for one in ProfileStore.open(tmp_path / "profile").measurements()
    }
    assert {size: one.status for size, one in found.items()} == {
        16: "ok", 32: "oom", 64: "timeout", 128: "invalid",
    }  # fmt: skip
    assert found[16].failed_requests == 1
    assert found[32].detail == "error OOM killed"
    assert check_profile(tmp_path / "profile") == []


def test_blank_values_of_the_wide_form_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "silero.csv"
    file.write_text("text_chars,CPU8,CPU1\n105,0.7,\n210,nan,4.9\n0,1,2\n315,1\n")
    report = import_acprof([file], tmp_path / "profile")
    assert [(one.line, one.column) for one in report.refused] == [
        (2, "CPU1"), (3, "CPU8"), (4, "CPU8"), (4, "CPU1"), (5, "CPU8"), (5, "CPU1"),
    ]  # fmt: skip
    assert report.files[str(file)] == {
        "in": 8, "counted": 2, "warmup": 0, "failed": 0, "refused": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("x.csv", "", "none of AC-Prof's tables"),
        ("x.csv", "a,b\n1,2\n", "none of AC-Prof's tables"),
        ("x.csv", "scale,width,height,time\n1,2,3,4\n", "names no model"),
        ("x.csv", "Pixels,CPU1,CPU1\n1,2,3\n", "two columns"),
        ("x.json", "{", "not valid JSON"),
        ("x.json", '{"a": {"download volume": "much"}}', "download volume"),
        ("x.json", '{"..": {"download volume": "1 MB"}}', "no name of a model"),
        ("x.csv", "model_name,model_weight_bytes\nx/..,1\n", "no name of a model"),
        ("x.csv", "Pixels,CPU1.2.3\n1,2\n", "none of AC-Prof's tables"),
    ],
)
def test_files_of_another_kind_are_refused(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match="no latency in AC-Prof's form") as caught:
        import_acprof([tmp_path], tmp_path / "profile")
    assert reason in str(caught.value)
    assert not (tmp_path / "profile").exists()


def test_several_gpus_are_several_profiles(tmp_path: Path) -> None:
    acprof_files.write_chronos(tmp_path / "a" / "gpu.csv")
    text = (tmp_path / "a" / "gpu.csv").read_text()
    (tmp_path / "b.csv").write_text(text.replace("3080", "3090").replace("series", "other"))
    with pytest.raises(BadInput, match="several GPUs: GeForce RTX 3080, GeForce RTX 3090"):
        import_acprof([tmp_path], tmp_path / "profile")


@pytest.mark.parametrize(
    ("text", "size"),
    [("113.81 MB", 119338435), ("11 GB", 11 * 1024**3), ("528mb", 528 * 1024**2), ("7 B", 7)],
)
def test_volumes_are_binary(text: str, size: int) -> None:
    assert formats.volume_bytes(text) == size


def test_the_verb_tells_on_standard_error_and_as_json(tmp_path: Path) -> None:
    file = tmp_path / "fcn50.csv"
    acprof_files.write_wide(file)
    file.write_text(file.read_text().replace("0.0300", "nan"))
    arguments = ["import", "acprof", str(file), "--out", str(tmp_path / "p"), "--json"]
    done = CliRunner().invoke(igprof, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["cells"] == 23
    assert [(one["line"], one["column"]) for one in document["refused"]] == [(3, "CPU2+Mem4")]
    assert document["format"] == "acprof"
    assert f"refused: {file}, line 3, column CPU2+Mem4: no latency" in done.stderr
    again = CliRunner().invoke(igprof, arguments)
    assert isinstance(again.exception, BadInput)
    assert "holds a profile already" in str(again.exception)


def test_a_path_that_can_be_none_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file or folder"):
        import_acprof([tmp_path / ("a" * 5000)], tmp_path / "p")
