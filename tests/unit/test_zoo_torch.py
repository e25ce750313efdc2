"""Networks of the zoo on PyTorch: their repository, and, where PyTorch is, what they answer."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf import json_format

from igniter_prof import zoo
from igniter_prof.cli.zoo_verb import command
from igniter_prof.errors import BadInput
from igniter_prof.records import Tenant
from igniter_prof.zoo.torch_repository import MODEL


def build(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(command, ["build", *arguments, "--into", str(folder)])


def test_a_network_becomes_a_model_of_each_precision(tmp_path: Path) -> None:
    assert build(tmp_path, "resnet50", "--torch", "both").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resnet50_fp16", "resnet50_fp32"]
    folder = tmp_path / "resnet50_fp16"
    assert (folder / "1" / "model.py").read_text() == MODEL.read_text()
    assert (folder / "labels.txt").exists()
    config = json_format.MessageToDict(zoo.read_config(folder / "config.pbtxt"))
    assert config["name"] == "resnet50_fp16"
    assert config["backend"] == "python"
    assert config["parameters"]["precision"] == {"stringValue": "fp16"}
    assert config["parameters"]["network"] == {"stringValue": "resnet50"}
    assert config["parameters"]["native_shape:image"] == {"stringValue": "3,224,224"}
    assert config["input"][0]["dataType"] == "TYPE_UINT8"
    assert "dynamicBatching" not in config


def test_all_networks_are_there(tmp_path: Path) -> None:
    assert build(tmp_path, "--all", "--torch", "fp32").exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}_fp32" for n in zoo.TORCH_NETWORKS}
    config = zoo.read_config(tmp_path / "encoder_fp32" / "config.pbtxt")
    assert config.parameters["value_range:input_ids"].string_value == "0,30522"
    ssd = zoo.read_config(tmp_path / "ssd_fp32" / "config.pbtxt")
    assert [port.name for port in ssd.output] == ["boxes", "scores", "classes"]
    assert ssd.parameters["minimum_shape:image"].string_value == "3,268,268"


def test_a_tenant_is_rendered_from_it_as_from_anybodys_repository(tmp_path: Path) -> None:
    zoo.install_torch("encoder", "fp16", tmp_path / "models")
    tenant = Tenant(model="encoder_fp16", batch_size=4, queue_delay_us=100)
    rendered = zoo.render(tenant, tmp_path / "one", threads=1, repository=tmp_path / "models")
    config = zoo.read_config(rendered.repository / "encoder_fp16" / "config.pbtxt")
    assert config.max_batch_size == 4
    assert config.dynamic_batching.max_queue_delay_microseconds == 100


@pytest.mark.parametrize("name", ["mlp", "nothing"])
def test_what_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=name):
        zoo.install_torch(name, "fp32", tmp_path)


def test_torch_needs_a_repository() -> None:
    result = CliRunner().invoke(command, ["build", "resnet50", "--torch", "fp16"])
    assert isinstance(result.exception, BadInput)
    assert "--into" in str(result.exception)


# --- the model in the server ---


class Tensor:
    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def to_dlpack(self) -> Any:
        return sys.modules["torch"].to_dlpack(self.value)

    @staticmethod
    def from_dlpack(name: str, capsule: Any) -> Tensor:
        return Tensor(name, sys.modules["torch"].from_dlpack(capsule))


class Response:
    def __init__(self, tensors: list[Tensor], error: str | None = None) -> None:
        self.tensors, self.error = tensors, error


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the module that only a server has."""
    fake = types.SimpleNamespace(
        Tensor=Tensor,
        InferenceResponse=Response,
        TritonError=str,
        TritonModelException=RuntimeError,
        get_input_tensor_by_name=lambda request, name: request[name],
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    monkeypatch.delitem(sys.modules, "igniter_prof.zoo.torch_model", raising=False)


def start(network: str, precision: Any, folder: Path) -> Any:
    module = importlib.import_module("igniter_prof.zoo.torch_model")
    config = zoo.read_config(zoo.install_torch(network, precision, folder) / "config.pbtxt")
    document = json_format.MessageToDict(config, preserving_proto_field_name=True)
    model = module.TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(document),
            "model_instance_kind": "MODEL",
            "model_instance_device_id": "0",
        }
    )
    return model


def test_without_pytorch_the_reason_is_told(backend: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeError, match="needs PyTorch and torchvision"):
        importlib.import_module("igniter_prof.zoo.torch_model")


def test_a_gpu_that_pytorch_cannot_use_is_no_cpu(
    backend: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0")
    with pytest.raises(RuntimeError, match="cannot use the GPU GPU-0"):
        start("encoder", "fp32", tmp_path)


@pytest.mark.parametrize("network", zoo.TORCH_NETWORKS)
def test_networks_have_the_published_size_and_answer(
    network: str, backend: None, tmp_path: Path
) -> None:
    pytest.importorskip("torchvision")
    import torch

    model = start(network, "fp32", tmp_path)
    published = zoo.find(network)
    assert sum(each.numel() for each in model.network.parameters()) == published.parameters
    (port,) = published.inputs
    low, high = port.values or (0, 256)
    kind = torch.int64 if port.values else torch.uint8
    requests = [
        {port.name: Tensor(port.name, torch.randint(low, high, (n, *port.shape), dtype=kind))}
        for n in (1, 2)
    ]
    answers = model.execute(requests)
    assert [answer.error for answer in answers] == [None, None]
    config = zoo.read_config(tmp_path / f"{network}_fp32" / "config.pbtxt")
    for n, answer in zip((1, 2), answers, strict=True):
        assert [tensor.name for tensor in answer.tensors] == [port.name for port in config.output]
        for tensor, output in zip(answer.tensors, config.output, strict=True):
            shape = tuple(tensor.value.shape)
            assert len(shape) == 1 + len(output.dims)
            assert shape[0] == n
            assert all(
                wanted in (-1, size) for size, wanted in zip(shape[1:], output.dims, strict=True)
            )
            values = tensor.value.float()
            assert bool(torch.isfinite(values).all())
            assert float(values.std()) > 0
    together, alone = answers[1], model.execute(requests[1:])[0]
    assert torch.allclose(
        together.tensors[0].value.float(), alone.tensors[0].value.float(), rtol=1e-2, atol=1e-2
    )


def test_an_image_that_is_too_small_gets_an_error_of_its_own(backend: None, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    import torch

    model = start("alexnet", "fp32", tmp_path)
    small, right = (
        {"image": Tensor("image", torch.zeros((1, 3, side, side), dtype=torch.uint8))}
        for side in (32, 64)
    )
    first, second = model.execute([small, right])
    assert "3x63x63" in first.error
    assert second.error is None
