"""The catalogue, and the committed repository that must agree with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from igniter_prof import zoo
from igniter_prof.errors import BadInput

NETWORKS = pytest.mark.parametrize("network", zoo.networks(), ids=lambda network: network.name)


def test_the_networks_of_igniter_have_their_names() -> None:
    assert [zoo.resolve(f"{name}_dynamic") for name in ("alexnet", "resnet50", "vgg19", "ssd")] == [
        "alexnet",
        "resnet50",
        "vgg19",
        "ssd",
    ]


def test_names_are_unique() -> None:
    assert len(set(zoo.known_names())) == len(zoo.known_names())


def test_an_unknown_network_gets_the_nearest_name() -> None:
    with pytest.raises(BadInput, match="did you mean 'resnet50'"):
        zoo.resolve("resnet5")


@NETWORKS
def test_the_committed_configuration_says_what_the_catalogue_says(network: zoo.Network) -> None:
    config = zoo.read_config(zoo.repository_root() / network.name / "config.pbtxt")
    assert config.name == network.name
    assert config.backend == "python"
    assert config.HasField("dynamic_batching")
    assert config.max_batch_size >= 16
    types = {"FP32": 11, "INT64": 9}  # of model_config.proto
    for ports, found in ((network.inputs, config.input), (network.outputs, config.output)):
        assert [(port.name, types[port.dtype], port.dims) for port in ports] == [
            (item.name, item.data_type, tuple(item.dims)) for item in found
        ]
    expected = {}
    for port in network.inputs:
        facts = {
            "native_shape": port.shape,
            "scaled_axes": port.scaled_axes,
            "minimum_shape": port.minimum,
            "value_range": port.values,
        }
        for key, numbers in facts.items():
            if numbers:
                expected[f"{key}:{port.name}"] = ",".join(map(str, numbers))
    assert {key: value.string_value for key, value in config.parameters.items()} == expected


@NETWORKS
def test_the_committed_model_is_the_one_source(network: zoo.Network) -> None:
    source = Path(zoo.__file__).with_name("onnx_model.py").read_text()
    copy = zoo.repository_root() / network.name / "1" / "model.py"
    assert copy.read_text() == source, f"cp igniter_prof/zoo/onnx_model.py {copy}"


@NETWORKS
def test_there_is_a_label_for_each_class(network: zoo.Network) -> None:
    config = zoo.read_config(zoo.repository_root() / network.name / "config.pbtxt")
    for port, output in zip(network.outputs, config.output, strict=True):
        if output.label_filename:
            labels = zoo.repository_root() / network.name / output.label_filename
            assert len(labels.read_text().splitlines()) == port.shape[-1]


def test_no_folder_without_a_network() -> None:
    folders = {path.name for path in zoo.repository_root().iterdir() if path.is_dir()}
    assert folders == {network.name for network in zoo.networks()}
