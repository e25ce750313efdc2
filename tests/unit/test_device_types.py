from pathlib import Path

import jsonschema
import pytest
import yaml

from igniter_prof.config.device_types import DevicesFile, DeviceType, load_device_types
from igniter_prof.errors import BadInput

MIXED = """\
schema_version: 1
devices:
  - name: v100
    count: 8
    share_step_pct: 2.5
    price_per_hour: 2.5
    power_limit_w: 250
  - name: a100-1g.5gb
    coefficients: slices/a100-1g.json
    max_tenants: 2
    memory_mib: 4864
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "devices.yaml"
    path.write_text(text)
    return path


def test_several_types_in_their_order(tmp_path: Path) -> None:
    assert load_device_types(write(tmp_path, MIXED)) == (
        DeviceType(name="v100", count=8, share_step_pct=2.5, price_per_hour=2.5, power_limit_w=250),
        DeviceType(
            name="a100-1g.5gb", coefficients="slices/a100-1g.json", max_tenants=2, memory_mib=4864
        ),
    )


def test_the_example_fits_the_schema() -> None:
    jsonschema.validate(yaml.safe_load(MIXED), DevicesFile.model_json_schema())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("devices: []\n", "devices"),
        ("devices: [{count: 1}]\n", "devices.0.name"),
        ("devices: [{name: 'a b'}]\n", "devices.0.name"),
        ("devices: [{name: 'a;b'}]\n", "devices.0.name"),
        ("devices: [{name: a, count: 0}]\n", "devices.0.count"),
        ("devices: [{name: a, share_step_pct: 101}]\n", "devices.0.share_step_pct"),
        ("devices: [{name: a, max_tenants: 0}]\n", "devices.0.max_tenants"),
        ("devices: [{name: a, price_per_hour: 0}]\n", "devices.0.price_per_hour"),
        ("devices: [{name: a, memory_mib: .inf}]\n", "devices.0.memory_mib"),
        ("devices: [{name: a, power_limit_w: -1}]\n", "devices.0.power_limit_w"),
        ("devices: [{name: a, price_per_our: 1}]\n", "did you mean 'price_per_hour'"),
        ("devices: [{name: a}, {name: b}, {name: a}]\n", "2 device types are named 'a'"),
        ("schema_version: 2\ndevices: [{name: a}]\n", "schema_version 2"),
    ],
)
def test_bad_files_are_refused_with_file_and_field(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_device_types(write(tmp_path, text))

    assert "devices.yaml" in str(caught.value.where)
    assert what in str(caught.value)
