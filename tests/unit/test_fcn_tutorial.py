"""The ready sweeps, and what the tutorial makes of their cells; nothing is started here."""

from __future__ import annotations

import argparse
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from igniter_prof.config import cells, load_sweep
from igniter_prof.errors import BadInput
from igniter_prof.records import Device, Tenant, TenantMeasurement
from igniter_prof.serving import exceeds
from tests.reporting_samples import measurement, tenant_measurement
from tests.scripts import SCRIPTS, load

tutorial = load(SCRIPTS / "fcn_tutorial.d" / "tutorial.py")
table = load(SCRIPTS / "fcn_tutorial.d" / "table.py")
picture = load(SCRIPTS / "fcn_tutorial.d" / "picture.py")
SWEEPS = SCRIPTS / "sweeps"
HOST = Device(id="cpu:0-1", kind="cpu", name="two cores", cores=(0, 1), memory_mib=24_000.0)


def skipped(sweep: Any, device: Device) -> dict[str, int]:
    found: dict[str, int] = {}
    for cell in cells(sweep, device.id):
        reason = exceeds(cell.tenants, device)
        if reason is not None and not cell.baseline:
            found[reason] = found.get(reason, 0) + 1
    return found


def test_the_matrix_is_acprofs() -> None:
    sweep = load_sweep(SWEEPS / "acprof_matrix.yaml", {"baseline_every": 0})
    assert sweep.runtime == "docker"
    found = {
        (tenant.cpu_cores, tenant.memory_mib, tenant.gpu)
        for cell in cells(sweep, "cpu")
        for tenant in cell.tenants
    }
    assert found == set(
        product((1.0, 2.0, 4.0, 8.0), (2048.0, 4096.0, 8192.0, 16384.0), (True, False))
    )
    assert (min(sweep.input_scales), max(sweep.input_scales)) == (0.1, 2.0)
    scales = len(sweep.input_scales)
    assert skipped(sweep, HOST) == {
        "fcn_resnet50 wants a GPU, and cpu:0-1 is none": 16 * scales,
        "fcn_resnet50 wants 4 cores, there are 2": 4 * scales,
        "fcn_resnet50 wants 8 cores, there are 2": 4 * scales,
    }


def test_the_tutorials_sweep_has_its_sizes_scales_and_requests() -> None:
    sweep = load_sweep(SWEEPS / "fcn_resnet50.yaml", {})
    assert sweep.input_scales == tuple(round(0.1 * step, 1) for step in range(1, 21))
    assert sweep.sizes is not None
    assert [(size.cpu_cores, size.memory_mib, size.gpu) for size in sweep.sizes] == [
        (8, 16 * 1024, True),
        *((cores, 2 * cores * 1024, False) for cores in (6, 4, 3, 2, 1)),
    ]
    assert set(skipped(sweep, HOST)) == {
        "fcn_resnet50 wants a GPU, and cpu:0-1 is none",
        *(f"fcn_resnet50 wants {cores} cores, there are 2" for cores in (3, 4, 6)),
    }
    (model,) = sweep.models
    assert model.http is not None
    assert model.http.fresh_connection
    assert sweep.stopping.request_timeout_s == 60
    build = load(SCRIPTS / "images" / "build.py")
    assert model.http.image == build.IMAGES["fcn_resnet50"].tag
    dockerfile = (SCRIPTS / "images" / "fcn_resnet50" / "Dockerfile").read_text()
    assert f"EXPOSE {model.http.port}\n" in dockerfile
    assert model.http.weights is not None
    folder, name = model.http.weights.rsplit("/", 1)
    assert re.search(rf"^COPY {name} .* {folder}/$", dockerfile, re.MULTILINE)


@pytest.mark.parametrize(
    ("flags", "scales", "sizes"),
    [
        ({}, 20, 6),
        ({"quick": True}, 5, 2),
        ({"scales": [0.3]}, 1, 6),
        ({"quick": True, "sizes": 1}, 5, 1),
    ],
)
def test_as_much_of_the_sweep_as_was_asked_for(
    tmp_path: Path, flags: dict[str, Any], scales: int, sizes: int
) -> None:
    asked = {"device": "cpu", "quick": False, "scales": None, "sizes": None, **flags}
    path = tutorial.write_sweep(tmp_path, Path("image.png"), argparse.Namespace(**asked))
    sweep = load_sweep(path, {})
    assert (len(sweep.input_scales), len(sweep.sizes or ())) == (scales, sizes)
    assert sweep.models[0].inputs == "image.png"
    assert (sweep.sizes or ())[-1].cpu_cores == 1  # the small ones are what is left


def cell(scale: float, cores: float, mean_ms: float | None, **more: Any) -> Any:
    tenant = Tenant(
        model="fcn_resnet50",
        share_pct=None,
        input_scale=scale,
        cpu_cores=cores,
        memory_mib=2048 * cores,
        gpu=False,
    )
    if mean_ms is None:
        return measurement((TenantMeasurement(tenant=tenant, status="skipped", detail="why"),))
    side = round(224 * scale)
    made = tenant_measurement(tenant, mean_ms).model_copy(
        update={"input_shapes": {"image": (1, 3, side, side)}}
    )
    return measurement((made,), **more)


def test_tables_are_the_tutorials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        cell(2.0, 1, 2345.67891),
        cell(0.1, 1, 12.34567),
        cell(0.1, 1, 99.0, baseline=True),
        cell(0.1, 2, 7.0),
        cell(0.1, 6, None),
        cell(0.2, 6, None),
    ]
    written = tutorial.tables(found, tmp_path)
    assert [path.name for path in written] == [
        "cpu2_4gib.csv",
        "cpu1_2gib.csv",
        "latency.png",
        "latency.svg",
    ]
    assert (tmp_path / "cpu1_2gib.csv").read_text().splitlines() == [
        "scale,width,height,time",
        "0.1000,22,22,0.0123",
        "2.0000,448,448,2.3457",
    ]
    assert capsys.readouterr().err.count("cpu6_12gib: skipped, why") == 1
    with Image.open(tmp_path / "latency.png") as image:
        assert image.size == (1200, 750)
    assert "2 CPU, 4 GiB" in (tmp_path / "latency.svg").read_text()


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    with pytest.raises(tutorial.OutsideFailure, match="no cell was measured"):
        tutorial.tables([cell(0.1, 6, None)], tmp_path)


def test_the_image_is_normalised_as_imagenet_is(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2), (255, 0, 128)).save(tmp_path / "plain.png")
    tensor = picture.tensor_of(tmp_path / "plain.png", 0.5)
    assert tensor.shape == (1, 3, 1, 2)
    assert tensor.dtype == np.float32
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225]
    np.testing.assert_allclose(tensor[0, :, 0, 0], expected, rtol=1e-5)


def test_a_picture_in_the_tutorials_colours(tmp_path: Path) -> None:
    image = picture.paint(tmp_path / "image.png", None)
    classes = np.zeros((224, 224), dtype=np.uint8)
    classes[:10] = 15
    picture.show(image, classes, tmp_path / "seg.png")
    with Image.open(tmp_path / "seg.png") as shown:
        assert (shown.mode, shown.size) == ("P", (224, 224))
        colours = shown.convert("RGB")
        # i x (2^25 - 1, 2^15 - 1, 2^21 - 1) mod 255
        assert colours.getpixel((0, 0)) == (15, 15 * 127 % 255, 15 * 31 % 255)
        assert colours.getpixel((0, 100)) == (0, 0, 0)
    with Image.open(tmp_path / "seg_beside.png") as beside:
        assert beside.width > 1000


def test_a_photo_is_made_small_and_a_broken_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGBA", (2000, 1000)).save(tmp_path / "photo.png")
    with Image.open(picture.paint(tmp_path / "image.png", tmp_path / "photo.png")) as image:
        assert (image.mode, image.size) == ("RGB", (448, 224))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(BadInput, match="no readable image"):
        picture.paint(tmp_path / "image.png", tmp_path / "broken.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)  # a small file may hold a huge image
    with pytest.raises(BadInput, match="no readable image"):
        picture.paint(tmp_path / "image.png", tmp_path / "photo.png")
