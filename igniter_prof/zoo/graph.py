"""A small builder of ONNX graphs with seeded random weights: the words that the networks are in.

Weights are He-scaled (variance ``gain / fan_in``; He et al., ICCV 2015), so that activations keep
their size from layer to layer and outputs are finite; biases are zero. What is counted as a
parameter is what a framework would train: weights, biases, and a batch normalization's scale and
shift, but not its running statistics nor the constants of shape arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

OPSET: Final = 17
"""The first with LayerNormalization; read by every ONNX Runtime since 1.12."""
IR_VERSION: Final = 8

AXES: Final = ("batch", "axis1", "axis2", "axis3", "axis4")


@dataclass(frozen=True)
class Value:
    """A tensor in a graph, with the size of its feature axis (1 for images, last otherwise)."""

    name: str
    channels: int


class Graph:
    """A graph that grows; every method adds nodes and returns what they produce."""

    def __init__(self, name: str, seed: int) -> None:
        import onnx

        self.parameters = 0
        self._model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="igniter_prof")
        self._model.opset_import.add(domain="", version=OPSET)
        self._graph = onnx.GraphProto(name=name)
        self._tensors: list[tuple[Any, NDArray[Any]]] = []  # each without, and its data
        self._random = np.random.default_rng(seed)

    # --- the border ---------------------------------------------------------------------------

    def input(self, name: str, dtype: str, shape: Sequence[int]) -> Value:
        """An input; ``shape`` has no batch axis, and -1 where a size is free."""
        self._graph.input.append(_value_info(name, dtype, shape))
        return Value(name, shape[0])

    def output(self, value: Value, name: str, dtype: str, shape: Sequence[int]) -> None:
        """Name a value as an output; ``shape`` as for an input."""
        self._graph.node.append(_node("Identity", [value.name], name, {}))
        self._graph.output.append(_value_info(name, dtype, shape))

    def write(self, out: IO[bytes]) -> None:
        """Write the graph as an ONNX file.

        The serializer of protobuf would hold VGG-19 four times over, so the three nested messages
        (model, graph, tensors) are framed here and the weights go straight from their arrays.
        """
        raw_data, initializer, graph = 9, 5, 7  # field numbers in onnx.proto
        heads = []
        size = 0
        for tensor, array in self._tensors:
            data = _field(raw_data, array.nbytes)
            body = tensor.SerializeToString() + data
            heads.append(_field(initializer, len(body) + array.nbytes) + body)
            size += len(heads[-1]) + array.nbytes
        drawn = self._graph.SerializeToString()
        out.write(self._model.SerializeToString() + _field(graph, size + len(drawn)) + drawn)
        for head, (_, array) in zip(heads, self._tensors, strict=True):
            out.write(head)
            out.write(np.ascontiguousarray(array).data)

    # --- the atoms ----------------------------------------------------------------------------

    def op(self, kind: str, *inputs: Value | str, channels: int, **attributes: Any) -> Value:
        """One node with one output; an empty string stands for an optional input left out."""
        names = [value.name if isinstance(value, Value) else value for value in inputs]
        name = f"{kind.lower()}_{len(self._graph.node)}"
        self._graph.node.append(_node(kind, names, name, attributes))
        return Value(name, channels)

    def constant(self, array: NDArray[Any], name: str = "constant") -> str:
        """A tensor that is not trained."""
        from onnx import TensorProto, helper

        tensor = TensorProto(
            name=f"{name}_{len(self._tensors)}",
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
        )
        self._tensors.append((tensor, array))
        return str(tensor.name)

    def integers(self, *values: int) -> str:
        """A vector of int64, as shape arithmetic wants it."""
        return self.constant(np.array(values, dtype=np.int64))

    def weight(self, shape: Sequence[int], std: float, name: str = "weight") -> str:
        """A trained tensor, normal around 0."""
        values = self._random.standard_normal(tuple(shape), dtype=np.float32)
        values *= np.float32(std)
        self.parameters += values.size
        return self.constant(values, name)

    def filled(self, size: int, value: float, name: str) -> str:
        """A trained vector that starts at one value (a bias at 0, a scale at 1)."""
        self.parameters += size
        return self.constant(np.full(size, value, dtype=np.float32), name)

    # --- layers -------------------------------------------------------------------------------

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        pad: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        gain: float = 2.0,
    ) -> Value:
        """A 2-d convolution; ``gain`` is 2 before a ReLU and 1 before none."""
        shape = (channels, x.channels // groups, kernel, kernel)
        inputs: list[Value | str] = [x, self.weight(shape, math.sqrt(gain / math.prod(shape[1:])))]
        if bias:
            inputs.append(self.filled(channels, 0.0, "bias"))
        return self.op(
            "Conv",
            *inputs,
            channels=channels,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            dilations=[dilation] * 2,
            group=groups,
        )

    def batch_norm(self, x: Value, scale: float = 1.0) -> Value:
        """Batch normalization with running statistics of 0 and 1; ONNX Runtime folds it."""
        size = x.channels
        return self.op(
            "BatchNormalization",
            x,
            self.filled(size, scale, "scale"),
            self.filled(size, 0.0, "shift"),
            self.constant(np.zeros(size, dtype=np.float32), "running_mean"),
            self.constant(np.ones(size, dtype=np.float32), "running_var"),
            channels=size,
        )

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""
        return self.op("Relu", x, channels=x.channels)

    def relu6(self, x: Value) -> Value:
        """min(max(x, 0), 6)."""
        low, high = (self.constant(np.array(bound, dtype=np.float32)) for bound in (0, 6))
        return self.op("Clip", x, low, high, channels=x.channels)

    def add(self, a: Value, b: Value | str) -> Value:
        """a + b, broadcast."""
        return self.op("Add", a, b, channels=a.channels)

    def max_pool(
        self, x: Value, kernel: int, stride: int, *, pad: int = 0, ceil: bool = False
    ) -> Value:
        """Maximum over windows; ``ceil`` lets the last window reach over the border."""
        return self.op(
            "MaxPool",
            x,
            channels=x.channels,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            ceil_mode=int(ceil),
        )

    def global_pool(self, x: Value) -> Value:
        """Mean over the whole image, flattened."""
        pooled = self.op("GlobalAveragePool", x, channels=x.channels)
        return self.op("Flatten", pooled, channels=x.channels, axis=1)

    def pool_to(self, x: Value, side: int) -> Value:
        """Bring an image to ``side`` x ``side``, flattened: adaptive average pooling's stand-in.

        ONNX has no adaptive pooling for free sizes. A linear Resize (half-pixel) is the identity
        where the image has this size (the native scale), equals adaptive average pooling at twice
        the size, and comes near it in between. It is a tiny part of the work at any scale.
        """
        shape = self.op("Shape", x, channels=4)
        ends = self.integers(0), self.integers(2)
        kept = self.op("Slice", shape, *ends, channels=2)
        sizes = self.op("Concat", kept, self.integers(side, side), channels=4, axis=0)
        resized = self.op("Resize", x, "", "", sizes, channels=x.channels, mode="linear")
        return self.op("Flatten", resized, channels=x.channels * side * side, axis=1)

    def resize_to(self, x: Value, like: Value) -> Value:
        """Bring an image to the size of another: PyTorch's bilinear, corners not aligned."""
        shapes = [self.op("Shape", value, channels=4) for value in (x, like)]
        ends = (self.integers(0), self.integers(2)), (self.integers(2), self.integers(4))
        parts = [
            self.op("Slice", shape, *span, channels=2)
            for shape, span in zip(shapes, ends, strict=True)
        ]
        sizes = self.op("Concat", *parts, channels=4, axis=0)
        return self.op(
            "Resize",
            *(x, "", "", sizes),
            channels=x.channels,
            mode="linear",
            coordinate_transformation_mode="pytorch_half_pixel",
        )

    def linear(self, x: Value, channels: int, *, gain: float = 2.0) -> Value:
        """A dense layer over the last axis of a matrix."""
        weight = self.weight((channels, x.channels), math.sqrt(gain / x.channels))
        bias = self.filled(channels, 0.0, "bias")
        return self.op("Gemm", x, weight, bias, channels=channels, transB=1)

    def project(self, x: Value, channels: int, *, gain: float = 1.0) -> Value:
        """A dense layer over the last axis of a tensor of any rank."""
        weight = self.weight((x.channels, channels), math.sqrt(gain / x.channels))
        product = self.op("MatMul", x, weight, channels=channels)
        return self.add(product, self.filled(channels, 0.0, "bias"))

    def layer_norm(self, x: Value) -> Value:
        """Layer normalization over the last axis, with BERT's epsilon."""
        scale = self.filled(x.channels, 1.0, "scale")
        shift = self.filled(x.channels, 0.0, "shift")
        return self.op(
            "LayerNormalization", x, scale, shift, channels=x.channels, axis=-1, epsilon=1e-12
        )

    def gelu(self, x: Value) -> Value:
        """x · Φ(x), by the error function (Hendrycks and Gimpel, 2016)."""

        def number(value: float) -> str:
            return self.constant(np.array(value, dtype=np.float32))

        inner = self.op("Div", x, number(math.sqrt(2.0)), channels=x.channels)
        erf = self.op("Erf", inner, channels=x.channels)
        grown = self.op("Mul", x, self.add(erf, number(1.0)), channels=x.channels)
        return self.op("Mul", grown, number(0.5), channels=x.channels)


def _field(number: int, size: int) -> bytes:
    """The head of a length-delimited protobuf field: its tag and length as varints."""
    head = bytearray([number << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*head, size])


def _value_info(name: str, dtype: str, shape: Sequence[int]) -> Any:
    from onnx import TensorProto, helper

    kinds = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}
    sizes = [AXES[axis] if size < 0 else size for axis, size in enumerate(shape, start=1)]
    return helper.make_tensor_value_info(name, kinds[dtype], [AXES[0], *sizes])


def _node(kind: str, inputs: Sequence[str], output: str, attributes: dict[str, Any]) -> Any:
    from onnx import helper

    return helper.make_node(kind, list(inputs), [output], name=f"node_{output}", **attributes)
