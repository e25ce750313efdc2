"""A profile in AC-Prof's columns, and back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from igniter_prof.cli import igprof
from igniter_prof.dataset import ProfileStore
from igniter_prof.dataset.acprof import export_acprof, import_acprof
from igniter_prof.errors import BadInput
from igniter_prof.records import (
    MEASURED,
    Cell,
    ColdStart,
    Device,
    DevicePower,
    ImageInfo,
    Measurement,
    Tenant,
)
from tests import acprof_files, dataset_samples


def _told(profile: Path) -> dict[str, dict[str, Any]]:
    """Everything of a profile's cells but which file and line it came from."""
    found = {}
    for one in ProfileStore.open(profile).measurements():
        document = one.model_dump(mode="json")
        extra = document["tenants"][0]["extra"]["acprof"]
        del extra["file"]
        for row in extra["rows"]:
            del row["line"]
        for static in extra["static"]:
            del static["file"]
            static.pop("line", None)
        found[one.cell_id] = document
    return found


def test_the_way_back_gives_the_same_rows(tmp_path: Path) -> None:
    data = acprof_files.write_all(tmp_path / "data")
    first = import_acprof([data], tmp_path / "first")
    done = export_acprof(tmp_path / "first", tmp_path / "out")
    second = import_acprof([tmp_path / "out"], tmp_path / "second")
    assert not done.left_out.total()
    assert second.refused == ()
    assert sum(n["in"] for n in second.files.values()) == sum(n["in"] for n in first.files.values())
    assert _told(tmp_path / "second") == _told(tmp_path / "first")
    told = {one.model_name: one.download_bytes for one in second.static_only}
    assert told == {"vgg16": 528 * 1024**2}
    store = [ProfileStore.open(tmp_path / name) for name in ("first", "second")]
    for cell_id in _told(tmp_path / "first"):
        assert np.array_equal(store[0].requests(cell_id)[0], store[1].requests(cell_id)[0])


def test_the_long_form_is_written_as_it_was(tmp_path: Path) -> None:
    acprof_files.write_cpu(tmp_path / "cpu.csv")
    import_acprof([tmp_path / "cpu.csv"], tmp_path / "p")
    export_acprof(tmp_path / "p", tmp_path / "out")
    written = (tmp_path / "out" / "text-model" / "cpu.csv").read_text()
    assert written == (tmp_path / "cpu.csv").read_text().replace("\r\n", "\n")


GPU = Device(id="cuda:GPU-1", kind="cuda", name="A GPU")
POWER = DevicePower(
    uuid="GPU-1",
    name="A GPU",
    power_mean_w=120.0,
    power_peak_w=150.0,
    context_idle_w=70.0,
    energy_counter_j=1000.0,
)


def _own(tmp_path: Path, *, device: Device = GPU, **changes: Any) -> tuple[Path, Measurement]:
    """A profile of ours with one image cell."""
    tenant = Tenant(model="fcn", input_scale=0.5, cpu_cores=2.0, memory_mib=4096.0, gpu=True)
    cell = Cell(device=device.id, tenants=(changes.pop("tenant", tenant),))
    measured, requests = dataset_samples.sample(cell, 20.0, count=40)
    one = measured.tenants[0].model_copy(
        update={
            "input_shapes": {"tensor": (1, 3, 30, 40)},
            "cold_start": ColdStart(ready_s=3.5),
            "weight_bytes": 1000,
            "image": ImageInfo(name="i", id="sha256:0", disk_bytes=2000),
        }
    )
    measured = measured.model_copy(update={"tenants": (one,), **changes})
    head = dataset_samples.manifest("fcn", device=device)
    return dataset_samples.write(tmp_path / "own", [(measured, requests)], head), measured


def _read(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_our_own_requests_become_rows(tmp_path: Path) -> None:
    profile, measured = _own(tmp_path, power=POWER)
    done = export_acprof(profile, tmp_path / "out")
    rows = _read(tmp_path / "out" / "fcn" / "gpu.csv")
    requests = ProfileStore.open(profile).requests(measured.cell_id)[0]
    assert len(rows) == 42  # 2 warm-ups and 40 counted; the drain is left out, and told of
    assert done.left_out == {"requests after the counted window": 1}
    assert [row["warmup"] for row in rows] == ["1"] * 2 + ["0"] * 40
    counted = requests[requests["phase"] == MEASURED]
    assert [round(float(row["latency_s"]) * 1e9) for row in rows[2:]] == (
        counted["done_ns"] - counted["sent_ns"]
    ).tolist()
    first = rows[2]
    assert (first["Pixels"], first["mem_cap_gb"], first["cold_start_s"]) == ("1200", "4", "3.5")
    assert (float(first["avg_power_w"]), float(first["peak_power_w"])) == (50.0, 80.0)
    assert measured.window_end_ns is not None
    assert measured.window_start_ns is not None
    seconds = (measured.window_end_ns - measured.window_start_ns) / 1e9
    assert float(first["energy_j"]) == pytest.approx((1000 - 70 * seconds) / 40)
    static = _read(tmp_path / "out" / "fcn" / "static_meta.csv")
    assert static == [
        {
            "model_name": "fcn",
            "model_download_url": "",
            "gpu": "A GPU",
            "model_weight_bytes": "1000",
            "docker_image_bytes": "2000",
        }
    ]


def test_power_without_a_baseline_is_none_of_theirs(tmp_path: Path) -> None:
    profile, _ = _own(tmp_path, power=POWER.model_copy(update={"context_idle_w": None}))
    export_acprof(profile, tmp_path / "out")
    row = _read(tmp_path / "out" / "fcn" / "gpu.csv")[0]
    assert (row["avg_power_w"], row["energy_j"]) == ("nan", "nan")


def test_the_tutorials_table(tmp_path: Path) -> None:
    profile, measured = _own(tmp_path)
    export_acprof(profile, tmp_path / "out")
    latency = measured.tenants[0].latency
    assert latency is not None
    text = (tmp_path / "out" / "fcn" / "inference_time_GPU+CPU2+Mem4.csv").read_text()
    assert text == f"scale,width,height,time\n0.5000,40,30,{latency.mean_ms / 1000:.4f}\n"


def test_a_baseline_is_no_further_line_of_the_tutorials_table(tmp_path: Path) -> None:
    tenant = Tenant(model="fcn", input_scale=0.5, cpu_cores=2.0, memory_mib=4096.0, gpu=True)
    found = []
    for baseline in (True, False):
        cell = Cell(device=GPU.id, tenants=(tenant,), baseline=baseline)
        one, requests = dataset_samples.sample(cell, 20.0 + baseline, count=40)
        made = one.tenants[0].model_copy(update={"input_shapes": {"tensor": (1, 3, 30, 40)}})
        found.append((one.model_copy(update={"tenants": (made,)}), requests))
    head = dataset_samples.manifest("fcn", device=GPU)
    export_acprof(dataset_samples.write(tmp_path / "own", found, head), tmp_path / "out")
    (row,) = _read(tmp_path / "out" / "fcn" / "inference_time_GPU+CPU2+Mem4.csv")
    assert float(row["time"]) == pytest.approx(0.020, rel=0.02)


def test_what_we_export_can_be_imported(tmp_path: Path) -> None:
    profile, measured = _own(tmp_path, power=POWER)
    export_acprof(profile, tmp_path / "out")
    report = import_acprof([tmp_path / "out"], tmp_path / "again")
    assert [one.reason for one in report.refused] == [
        "the tutorial's table names no model and no container"
    ]
    (again,) = ProfileStore.open(tmp_path / "again").measurements()
    tenant = again.tenants[0]
    assert tenant.latency is not None
    assert measured.tenants[0].latency is not None
    assert tenant.latency.mean_ms == pytest.approx(measured.tenants[0].latency.mean_ms)
    assert tenant.latency.count == 40
    assert (tenant.tenant.input_size, tenant.tenant.input_unit) == (1200, "pixels")


@pytest.mark.parametrize(
    ("tenant", "reason"),
    [
        (Tenant(model="m", share_pct=50), "a share of the GPU"),
        (Tenant(model="m", instances=2), "several instances"),
    ],
)
def test_what_has_no_column_is_told(tmp_path: Path, tenant: Tenant, reason: str) -> None:
    profile, _ = _own(tmp_path, tenant=tenant)
    with pytest.raises(BadInput, match=f"1 cells: {reason}"):
        export_acprof(profile, tmp_path / "out")


def test_a_share_of_a_cpu_is_cores(tmp_path: Path) -> None:
    cpu = Device(id="cpu:0-3", kind="cpu", name="A CPU", cores=(0, 1, 2, 3))
    profile, _ = _own(tmp_path, device=cpu, tenant=Tenant(model="m", share_pct=50))
    export_acprof(profile, tmp_path / "out")
    row = _read(tmp_path / "out" / "m" / "cpu.csv")[0]
    assert (row["cpu_cores"], row["mem_cap_gb"], row["gpu_mode"]) == ("2", "", "off")


def test_the_verb(tmp_path: Path) -> None:
    profile, _ = _own(tmp_path)
    arguments = ["export", str(profile), "--to", "acprof", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(igprof, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["written"]) == 3
    assert "left out: 1 requests after the counted window" in done.stderr
    done = CliRunner().invoke(igprof, [*arguments, "--requests", str(tmp_path / "r")])
    assert isinstance(done.exception, BadInput)


def test_names_from_elsewhere_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    header = acprof_files.CHRONOS_HEADER
    row = "m,1,off,,2,1,5,1,0,0,0.5,2,nan,nan,nan,ok,"
    data.write_text(f"{header.replace('context_length', '../../../up')}\n{row}\n")
    (tmp_path / "other.csv").write_text(f"{header}\n{row.replace(',0.5,2', ',0.6,2')}\n")
    import_acprof([data, tmp_path / "other.csv"], tmp_path / "p")
    report = json.loads((tmp_path / "p" / "import.json").read_text())
    report["static_only"] = [
        {"model_name": "x/..", "weight_bytes": 1},
        {"model_name": 7, "weight_bytes": 1},
    ]
    (tmp_path / "p" / "import.json").write_text(json.dumps(report))
    done = export_acprof(tmp_path / "p", tmp_path / "a" / "b" / "out")
    out = (tmp_path / "a" / "b" / "out").resolve()
    assert sorted(path.name for path in done.written) == ["cpu.csv", "cpu_2.csv"]
    assert all(out in path.resolve().parents for path in done.written)
