"""Every network against its publication, on a real ONNX Runtime. Weights go to the user's cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from igniter_prof import zoo

onnxruntime = pytest.importorskip("onnxruntime")

NETWORKS = pytest.mark.parametrize("network", zoo.networks(), ids=lambda network: network.name)
NOT_TRAINED = ("running_", "constant")


def feed(network: zoo.Network, batch: int, scale: float = 1.0, least: bool = False) -> Any:
    """Random inputs at a scale, or of the least size."""
    random = np.random.default_rng(0)
    arrays = {}
    for port in network.inputs:
        shape = [
            (port.minimum[axis] if port.minimum else 1)
            if least and axis in port.scaled_axes
            else round(size * scale)
            if axis in port.scaled_axes
            else size
            for axis, size in enumerate(port.shape)
        ]
        arrays[port.name] = (
            random.integers(*port.values, (batch, *shape))
            if port.values
            else random.standard_normal((batch, *shape), dtype=np.float32)
        )
    return arrays


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@NETWORKS
def test_parameters_are_the_published_number(network: zoo.Network) -> None:
    tensors = onnx.load(str(zoo.build(network.name))).graph.initializer
    trained = [tensor for tensor in tensors if not tensor.name.startswith(NOT_TRAINED)]
    assert sum(int(np.prod(tensor.dims)) for tensor in trained) == network.parameters


@NETWORKS
def test_work_is_the_published_number(network: zoo.Network) -> None:
    """Multiply-adds depend on strides and padding, which the parameters do not."""
    assert multiply_adds(network) / 1e9 == pytest.approx(network.gmacs, rel=0.01)


@NETWORKS
def test_outputs_have_the_published_shape_and_a_sane_size(network: zoo.Network) -> None:
    run = session(zoo.build(network.name))
    arrays = feed(network, batch=2)
    outputs = run.run([port.name for port in network.outputs], arrays)
    for port, output in zip(network.outputs, outputs, strict=True):
        assert output.shape == (2, *port.shape)
        assert np.isfinite(output).all()
        assert 0.01 < output.std() < 100
        # different inputs, different outputs: the signal gets through
        assert not np.allclose(output[0], output[1], atol=1e-3)
    alone = run.run(None, {name: array[1:] for name, array in arrays.items()})
    for output, one in zip(outputs, alone, strict=True):
        np.testing.assert_allclose(output[1:], one, rtol=1e-2, atol=1e-2)


@NETWORKS
def test_scaled_inputs_work_down_to_the_least(network: zoo.Network) -> None:
    if not any(port.scaled_axes for port in network.inputs):
        pytest.skip("its input has one size")
    run = session(zoo.build(network.name))
    for arrays in (feed(network, 1, least=True), feed(network, 1, scale=2.0)):
        for port, output in zip(network.outputs, run.run(None, arrays), strict=True):
            assert np.isfinite(output).all()
            for axis, size in enumerate(port.dims, start=1):
                assert size in (-1, output.shape[axis])


def test_fcn_resnet50_is_torchvisions_at_its_size() -> None:
    """torchvision publishes 152.717 GMACs at 520x520 and 35,322,218 parameters, both with the
    auxiliary head (a 3x3 convolution of 1024 to 256 channels and one of 256 to 21, on 65x65)."""
    network = zoo.find("fcn_resnet50")
    (image,) = network.inputs
    at_520 = replace(network, inputs=(replace(image, shape=(3, 520, 520)),))
    auxiliary = 1024 * 256 * 9 + 256 * 21
    gmacs = (multiply_adds(at_520) + auxiliary * 65 * 65) / 1e9
    assert gmacs == pytest.approx(152.717, abs=0.001)
    batch_norm_and_bias = 2 * 256 + 21
    assert network.parameters + auxiliary + batch_norm_and_bias == 35_322_218


def multiply_adds(network: zoo.Network) -> int:
    """Of one inference at the native scale, by ONNX' own shape inference."""
    model = onnx.load(str(zoo.build(network.name)))
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 1:
            tensor.ClearField("raw_data")  # shapes do not depend on it, and it is large
    for value, port in zip(model.graph.input, network.inputs, strict=True):
        sizes = (1, *port.shape)
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
            dim.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    total = 0
    for node in inferred.node:
        made = shapes.get(node.output[0], [])
        if node.op_type == "Conv":
            total += int(np.prod(made)) * int(np.prod(weights[node.input[1]][1:]))
        elif node.op_type == "Gemm":
            total += int(np.prod(weights[node.input[1]]))
        elif node.op_type == "MatMul":
            inner = (weights.get(node.input[0]) or shapes[node.input[0]])[-1]
            assert all(made), node.name
            total += int(np.prod(made)) * inner
    return total
