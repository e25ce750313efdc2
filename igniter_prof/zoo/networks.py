"""The networks, as their authors published them; layer for layer torchvision's, where it has them.

Each function draws one network into a graph, from its inputs to its outputs. Weights are random, so
a residual branch ends in a small scale (0.2): sums of many branches would otherwise grow without
bound, which training prevents in the real ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from igniter_prof.zoo.graph import Graph, Value

CLASSES = 1000
SEGMENTS = 21
"""Pascal VOC's classes, the background among them."""
BRANCH_SCALE = 0.2

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512)
"""The convolutions of SSD's backbone; M is a pooling, C one that rounds up."""
VGG19 = (
    *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M"),
    *(512, 512, 512, 512, "M", 512, 512, 512, 512, "M"),
)


def mlp(g: Graph) -> None:
    """784-512-512-10: the multi-layer perceptron of Keras' mnist_mlp example."""
    x = g.input("x", "FP32", (784,))
    for width in (512, 512):
        x = g.relu(g.linear(x, width))
    g.output(g.linear(x, 10, gain=1.0), "logits", "FP32", (10,))


def alexnet(g: Graph) -> None:
    """AlexNet in its one-tower form (Krizhevsky, arXiv 1404.5997)."""
    x = _image(g)
    x = g.max_pool(g.relu(g.conv(x, 64, 11, stride=4, pad=2)), 3, 2)
    x = g.max_pool(g.relu(g.conv(x, 192, 5, pad=2)), 3, 2)
    for channels in (384, 256, 256):
        x = g.relu(g.conv(x, channels, 3, pad=1))
    x = g.pool_to(g.max_pool(x, 3, 2), 6)
    _classify(g, g.relu(g.linear(g.relu(g.linear(x, 4096)), 4096)))


def vgg19(g: Graph) -> None:
    """VGG-19 without batch normalization (Simonyan and Zisserman, arXiv 1409.1556)."""
    x = g.pool_to(_vgg(g, _image(g), VGG19), 7)
    _classify(g, g.relu(g.linear(g.relu(g.linear(x, 4096)), 4096)))


def resnet50(g: Graph) -> None:
    """ResNet-50 with the stride in the 3x3 convolution, "v1.5" (He et al., arXiv 1512.03385)."""
    _classify(g, g.global_pool(_resnet50(g, _image(g), dilated_stages=0)))


def fcn_resnet50(g: Graph) -> None:
    """FCN on a dilated ResNet-50 (Long et al., arXiv 1411.4038), as torchvision's fcn_resnet50.

    The auxiliary head is left out: it is there for training. A class's logit for each pixel, at the
    input's size.
    """
    image = _image(g)
    x = _resnet50(g, image, dilated_stages=2)
    x = g.relu(g.batch_norm(g.conv(x, 512, 3, pad=1, bias=False)))
    x = g.conv(x, SEGMENTS, 1, gain=1.0)
    g.output(g.resize_to(x, image), "out", "FP32", (SEGMENTS, -1, -1))


def _resnet50(g: Graph, x: Value, dilated_stages: int) -> Value:
    """ResNet-50's features; its last stages may keep their size and dilate instead of striding."""

    def normed(
        x: Value, channels: int, kernel: int, stride: int = 1, dilation: int = 1, scale: float = 1.0
    ) -> Value:
        pad = dilation * (kernel // 2)
        x = g.conv(x, channels, kernel, stride=stride, pad=pad, dilation=dilation, bias=False)
        return g.batch_norm(x, scale)

    x = g.max_pool(g.relu(normed(x, 64, 7, stride=2)), 3, 2, pad=1)
    dilation = 1
    stages = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
    for stage, (width, blocks, first_stride) in enumerate(stages):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            own = dilation  # a first block keeps that of the stage before
            if stride > 1 and stage >= len(stages) - dilated_stages:
                dilation, stride = dilation * stride, 1
            y = g.relu(normed(x, width, 1))
            y = g.relu(normed(y, width, 3, stride=stride, dilation=own))
            y = normed(y, 4 * width, 1, scale=BRANCH_SCALE)
            shortcut = normed(x, 4 * width, 1, stride=stride) if block == 0 else x
            x = g.relu(g.add(y, shortcut))
    return x


def mobilenet_v2(g: Graph) -> None:
    """MobileNetV2 of width 1.0 (Sandler et al., arXiv 1801.04381)."""

    def normed(x: Value, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> Value:
        pad = kernel // 2
        x = g.conv(x, channels, kernel, stride=stride, pad=pad, groups=groups, bias=False)
        return g.relu6(g.batch_norm(x))

    x = normed(_image(g), 32, 3, stride=2)
    settings = (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    )
    for expansion, channels, blocks, first_stride in settings:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            hidden = x.channels * expansion
            y = normed(x, hidden, 1) if expansion > 1 else x
            y = normed(y, hidden, 3, stride=stride, groups=hidden)
            residual = stride == 1 and x.channels == channels
            y = g.conv(y, channels, 1, bias=False)
            y = g.batch_norm(y, BRANCH_SCALE if residual else 1.0)
            x = g.add(y, x) if residual else y
    _classify(g, g.global_pool(normed(x, 1280, 1)))


def ssd(g: Graph) -> None:
    """SSD300 on VGG-16 for COCO (Liu et al., arXiv 1512.02325), as torchvision's ssd300_vgg16.

    What comes out is raw, before decoding and non-maximum suppression: offsets from the default
    boxes, and class logits.
    """
    x = _vgg(g, _image(g), VGG16[:13])
    norm = g.op("ReduceL2", x, channels=1, axes=[1], keepdims=1)
    # where a pixel is all zero there is nothing to normalize
    floor = g.constant(np.array(1e-12, dtype=np.float32))
    unit = g.op("Div", x, g.op("Max", norm, floor, channels=1), channels=x.channels)
    scale = g.op("Reshape", g.filled(512, 20.0, "scale"), g.integers(1, 512, 1, 1), channels=512)
    maps = [g.op("Mul", unit, scale, channels=x.channels)]

    x = g.max_pool(_vgg(g, x, VGG16[13:]), 3, 1, pad=1)
    x = g.relu(g.conv(x, 1024, 3, pad=6, dilation=6))
    x = g.relu(g.conv(x, 1024, 1))
    maps.append(x)
    for squeezed, channels, stride, pad in (
        *((256, 512, 2, 1), (128, 256, 2, 1)),
        *((128, 256, 1, 0), (128, 256, 1, 0)),
    ):
        x = g.relu(g.conv(x, squeezed, 1))
        x = g.relu(g.conv(x, channels, 3, stride=stride, pad=pad))
        maps.append(x)

    def head(size: int) -> Value:
        parts = []
        for features, boxes in zip(maps, (4, 6, 6, 6, 4, 4), strict=True):
            y = g.conv(features, boxes * size, 3, pad=1, gain=1.0)
            y = g.op("Transpose", y, channels=y.channels, perm=[0, 2, 3, 1])
            parts.append(g.op("Reshape", y, g.integers(0, -1, size), channels=size))
        return g.op("Concat", *parts, channels=size, axis=1)

    g.output(head(4), "boxes", "FP32", (-1, 4))
    g.output(head(91), "scores", "FP32", (-1, 91))


def encoder(g: Graph) -> None:
    """BERT-mini: 4 layers of width 256 (Turc et al., arXiv 1908.08962), with its pooler.

    A text comes alone or with others of the same length, so there is no padding and no mask.
    """
    layers, width, heads, vocabulary, positions = 4, 256, 4, 30522, 512
    ids = g.input("input_ids", "INT64", (-1,))

    def table(rows: int) -> str:
        # BERT's own initial size; the normalization that follows brings it to 1
        return g.weight((rows, width), 0.02, "embedding")

    x = g.op("Gather", table(vocabulary), ids, channels=width)
    length = g.op("Slice", g.op("Shape", ids, channels=2), *_span(g, 1, 2), channels=1)
    places = g.op("Slice", table(positions), g.integers(0), length, channels=width)
    first_segment = g.op("Slice", table(2), *_span(g, 0, 1), channels=width)
    x = g.layer_norm(g.add(g.add(x, places), first_segment))

    def split(y: Value, perm: Sequence[int]) -> Value:
        shape = g.integers(0, 0, heads, width // heads)
        y = g.op("Reshape", y, shape, channels=width // heads)
        return g.op("Transpose", y, channels=y.channels, perm=list(perm))

    for _ in range(layers):
        query = split(g.project(x, width), (0, 2, 1, 3))
        key = split(g.project(x, width), (0, 2, 3, 1))
        value = split(g.project(x, width), (0, 2, 1, 3))
        root = g.constant(np.array(math.sqrt(width // heads), dtype=np.float32))
        scores = g.op("Div", g.op("MatMul", query, key, channels=0), root, channels=0)
        attention = g.op("Softmax", scores, channels=0, axis=-1)
        mixed = g.op("MatMul", attention, value, channels=width // heads)
        mixed = g.op("Transpose", mixed, channels=width, perm=[0, 2, 1, 3])
        mixed = g.op("Reshape", mixed, g.integers(0, 0, width), channels=width)
        x = g.layer_norm(g.add(x, g.project(mixed, width)))
        hidden = g.gelu(g.project(x, 4 * width))
        x = g.layer_norm(g.add(x, g.project(hidden, width)))

    first = g.op("Gather", x, g.constant(np.array(0, dtype=np.int64)), channels=width, axis=1)
    pooled = g.op("Tanh", g.project(first, width), channels=width)
    g.output(x, "hidden", "FP32", (-1, width))
    g.output(pooled, "pooled", "FP32", (width,))


def _image(g: Graph) -> Value:
    return g.input("image", "FP32", (3, -1, -1))


def _classify(g: Graph, x: Value) -> None:
    g.output(g.linear(x, CLASSES, gain=1.0), "logits", "FP32", (CLASSES,))


def _vgg(g: Graph, x: Value, layers: Sequence[int | str]) -> Value:
    for layer in layers:
        if isinstance(layer, int):
            x = g.relu(g.conv(x, layer, 3, pad=1))
        else:
            x = g.max_pool(x, 2, 2, ceil=layer == "C")
    return x


def _span(g: Graph, start: int, end: int) -> tuple[str, str]:
    return g.integers(start), g.integers(end)
