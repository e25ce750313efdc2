"""Which networks there are, and what is known of each from its publication."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.zoo import networks as define
from igniter_prof.zoo.graph import Graph


@dataclass(frozen=True)
class Port:
    """An input or output. Shapes have no batch axis."""

    name: str
    dtype: str
    """Triton's name of the type: FP32, INT64."""
    shape: tuple[int, ...]
    """At the native scale."""
    scaled_axes: tuple[int, ...] = ()
    """Axes of ``shape`` that an input scale multiplies."""
    free_axes: tuple[int, ...] = ()
    """Axes of an output whose size follows from the input's."""
    minimum: tuple[int, ...] | None = None
    """The least shape that the network takes, where that is not 1."""
    values: tuple[int, int] | None = None
    """Integers: the range that makes sense, the end left out."""

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape as a Triton configuration says it: -1 where a size is free."""
        free = {*self.scaled_axes, *self.free_axes}
        return tuple(-1 if axis in free else size for axis, size in enumerate(self.shape))


@dataclass(frozen=True)
class Network:
    """A network of the zoo."""

    name: str
    summary: str
    source: str
    parameters: int
    """Trained parameters, as published."""
    gmacs: float
    """Multiply-adds of one inference at the native scale, in 10^9."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    define: Callable[[Graph], None]
    aliases: tuple[str, ...] = ()


def _image(side: int, least: int | None = None) -> tuple[Port, ...]:
    minimum = None if least is None else (3, least, least)
    return (Port("image", "FP32", (3, side, side), scaled_axes=(1, 2), minimum=minimum),)


_LOGITS = (Port("logits", "FP32", (1000,)),)

_NETWORKS = (
    Network(
        name="mlp",
        summary="784-512-512-10 perceptron for MNIST",
        source="Keras example mnist_mlp",
        parameters=669_706,
        gmacs=0.000669,
        inputs=(Port("x", "FP32", (784,)),),
        outputs=(Port("logits", "FP32", (10,)),),
        define=define.mlp,
    ),
    Network(
        name="mobilenet_v2",
        summary="MobileNetV2 1.0 for ImageNet",
        source="arXiv 1801.04381; torchvision mobilenet_v2",
        parameters=3_504_872,
        gmacs=0.301,
        inputs=_image(224),
        outputs=_LOGITS,
        define=define.mobilenet_v2,
    ),
    Network(
        name="alexnet",
        summary="AlexNet (one tower) for ImageNet",
        source="arXiv 1404.5997; torchvision alexnet",
        parameters=61_100_840,
        gmacs=0.714,
        inputs=_image(224, least=63),
        outputs=_LOGITS,
        define=define.alexnet,
        aliases=("alexnet_dynamic",),
    ),
    Network(
        name="resnet50",
        summary="ResNet-50 v1.5 for ImageNet",
        source="arXiv 1512.03385; torchvision resnet50",
        parameters=25_557_032,
        gmacs=4.089,
        inputs=_image(224),
        outputs=_LOGITS,
        define=define.resnet50,
        aliases=("resnet50_dynamic",),
    ),
    Network(
        name="vgg19",
        summary="VGG-19 for ImageNet",
        source="arXiv 1409.1556; torchvision vgg19",
        parameters=143_667_240,
        gmacs=19.632,
        inputs=_image(224, least=32),
        outputs=_LOGITS,
        define=define.vgg19,
        aliases=("vgg19_dynamic",),
    ),
    Network(
        name="ssd",
        summary="SSD300 on VGG-16 for COCO, raw boxes and class logits",
        source="arXiv 1512.02325; torchvision ssd300_vgg16",
        parameters=35_641_826,
        gmacs=34.856,
        # the last feature map vanishes below this
        inputs=_image(300, least=268),
        outputs=(
            Port("boxes", "FP32", (8732, 4), free_axes=(0,)),
            Port("scores", "FP32", (8732, 91), free_axes=(0,)),
        ),
        define=define.ssd,
        aliases=("ssd_dynamic",),
    ),
    Network(
        name="fcn_resnet50",
        summary="FCN on a dilated ResNet-50 for Pascal VOC, a class's logit for each pixel",
        source="arXiv 1411.4038; torchvision fcn_resnet50 without the auxiliary head",
        parameters=32_957_013,
        gmacs=26.484,
        # torchvision's 520 takes five times the work: scale 2.3 here
        inputs=_image(224),
        outputs=(Port("out", "FP32", (21, 224, 224), free_axes=(1, 2)),),
        define=define.fcn_resnet50,
    ),
    Network(
        name="encoder",
        summary="BERT-mini (4 layers, width 256), a text encoder over token ids",
        source="arXiv 1908.08962; google/bert_uncased_L-4_H-256_A-4",
        parameters=11_170_560,
        gmacs=0.436,
        inputs=(Port("input_ids", "INT64", (128,), scaled_axes=(0,), values=(0, 30522)),),
        outputs=(
            Port("hidden", "FP32", (128, 256), free_axes=(0,)),
            Port("pooled", "FP32", (256,)),
        ),
        define=define.encoder,
    ),
)


def networks() -> tuple[Network, ...]:
    """All networks of the zoo, small ones first."""
    return _NETWORKS


def known_names() -> tuple[str, ...]:
    """Names and aliases of all networks."""
    return tuple(name for network in _NETWORKS for name in (network.name, *network.aliases))


def resolve(name: str) -> str:
    """The network that a name or alias stands for.

    Raises:
        BadInput: there is none; the hint names the nearest.
    """
    return find(name).name


def find(name: str) -> Network:
    """The network of a name or alias. Raises BadInput as ``resolve`` does."""
    for network in _NETWORKS:
        if name == network.name or name in network.aliases:
            return network
    raise BadInput(f"no network '{name}' in the zoo", hint=did_you_mean(name, known_names()))
