"""A model of Triton's Python backend that runs a network on PyTorch, on a GPU or on a CPU.

This file runs inside the server, never inside igprof. ``igprof zoo build --torch`` copies it to
``NAME/1/model.py``. It needs PyTorch and torchvision in the server's Python. Parameters that it
reads from ``config.pbtxt``:

``network``                    which network: one of ``NETWORKS``
``precision``                  ``fp32`` or ``fp16``: of weights and of all that is computed
``seed``                       of the random weights
``minimum_shape:<input>``      the least shape without the batch, as in ``3,63,63``

It runs on the GPU that CUDA_VISIBLE_DEVICES leaves, and on the CPU where that variable is empty or
there is no GPU. Inputs and outputs are in the CPU's memory, so their copies are in the latency;
therefore images come as bytes, and detection and segmentation answer what they found, not logits.
``IGPROF_SM_PARTITION`` (set by the share mechanism ``green-context``) is a file that gives it a
stream of its own, on which it has its part of the SMs.

All requests that Triton hands over at once and whose shapes agree are run as one batch. Tensors
come and go by DLPack, which does not depend on the stub's NumPy.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

try:
    import torch
    import torchvision
except ImportError as error:  # Triton tells it as the reason why the model did not load
    raise pb_utils.TritonModelException(
        f"this model needs PyTorch and torchvision in the server's Python: {error}"
    ) from error

PARTITION = "IGPROF_SM_PARTITION"
DETECTIONS = 100
MEAN, SPREAD = 116.0, 58.0
"""Of the bytes of ImageNet's pictures, over its colours, rounded."""


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Make the network on its device, with random weights."""
        config = json.loads(args["model_config"])
        parameters = {
            key: value["string_value"] for key, value in config.get("parameters", {}).items()
        }
        self.inputs = [port["name"] for port in config["input"]]
        self.outputs = [port["name"] for port in config["output"]]
        least = {name: parameters.get(f"minimum_shape:{name}") for name in self.inputs}
        self.minimum = {
            name: tuple(int(size) for size in text.split(","))
            for name, text in least.items()
            if text
        }
        self.device = _device(args)
        self.precision = {"fp32": torch.float32, "fp16": torch.float16}[parameters["precision"]]
        self.stream = _granted_stream(self.device)
        make, self.forward = NETWORKS[parameters["network"]]
        torch.manual_seed(int(parameters.get("seed", 0)))
        with torch.device(self.device):  # weights that are made on a GPU are there at once
            network = make()
            _scale(network)
        self.network = network.to(self.precision).eval().requires_grad_(False)
        if self.device.type == "cuda":
            # the weights come by the usual stream, for which a granted one does not wait
            torch.cuda.synchronize(self.device)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, in their order; those that cannot be answered get an error each."""
        if self.stream is not None:
            torch.cuda.set_stream(self.stream)  # it is a thread's, and this may be another
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[Any]] = {}
        for index, request in enumerate(requests):
            tensors = [
                torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, name).to_dlpack())
                for name in self.inputs
            ]
            problem = self._problem(tensors)
            if problem:
                responses[index] = _failure(problem)
            else:
                # the first axis is the batch: it alone may differ within a run
                shapes = tuple(tensor.shape[1:] for tensor in tensors)
                groups.setdefault(shapes, []).append((index, tensors))
        for members in groups.values():
            answers = self._run([tensors for _, tensors in members])
            for (index, _), answer in zip(members, answers, strict=True):
                responses[index] = answer
        return responses

    def _problem(self, tensors: list[Any]) -> str | None:
        for name, tensor in zip(self.inputs, tensors, strict=True):
            least = self.minimum.get(name, ())
            if any(size < low for size, low in zip(tensor.shape[1:], least, strict=False)):
                return (
                    f"input '{name}' of shape {_shape(tensor.shape[1:])} is smaller than"
                    f" {_shape(least)}, the least that this network takes"
                )
        return None

    def _run(self, batches: list[Any]) -> list[Any]:
        """Run requests of equal shape as one batch; a response for each."""
        sizes = [len(tensors[0]) for tensors in batches]
        try:
            with torch.inference_mode():
                joined = [
                    self._moved(parts[0] if len(parts) == 1 else torch.cat(parts))
                    for parts in zip(*batches, strict=True)
                ]
                results = [_answer(found) for found in self.forward(self.network, *joined)]
        except RuntimeError as error:  # out of memory, too
            return [_failure(str(error)) for _ in batches]
        parts = [result.split(sizes) for result in results]
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor.from_dlpack(name, torch.to_dlpack(part.contiguous()))
                    for name, part in zip(self.outputs, answer, strict=True)
                ]
            )
            for answer in zip(*parts, strict=True)
        ]

    def _moved(self, tensor: Any) -> Any:
        """An input on the device; an image, which comes as bytes, as numbers around 0."""
        moved = tensor.to(self.device)
        if moved.dtype == torch.uint8:
            return moved.to(self.precision).sub_(MEAN).div_(SPREAD)
        return moved


def _answer(found: Any) -> Any:
    """An output in the CPU's memory, in fp32 where it is no integer."""
    return (found.float() if found.is_floating_point() else found).cpu()


def _device(args: dict[str, str]) -> Any:
    """The one GPU that is visible, else the CPU."""
    if torch.cuda.is_available():
        index = args["model_instance_device_id"] if args["model_instance_kind"] == "GPU" else 0
        return torch.device(f"cuda:{index}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        # else it would go on, far slower, and be taken for a GPU
        raise pb_utils.TritonModelException(f"PyTorch cannot use the GPU {visible}")
    return torch.device("cpu")


def _granted_stream(device: Any) -> Any:
    """The stream to work on where igprof grants a part of the SMs; None: the usual one."""
    path = os.environ.get(PARTITION)
    if not path or device.type != "cuda":
        return None
    spec = importlib.util.spec_from_file_location("sm_partition", path)
    assert spec is not None
    assert spec.loader is not None
    partition = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(partition)
    return torch.cuda.ExternalStream(partition.granted_stream(), device=device)


def _failure(message: str) -> Any:
    return pb_utils.InferenceResponse([], error=pb_utils.TritonError(message))


def _shape(shape: Any) -> str:
    return "x".join(str(size) for size in shape)


# --- the networks ---------------------------------------------------------------------------------


def _scale(network: Any) -> None:
    """He initialisation of convolutions and of what follows them (arXiv 1502.01852, equation 10).

    With torchvision's own, activations of some networks vanish; in fp16 they would all be zero,
    and a GPU takes less power for zeros.
    """
    modules = list(network.modules())
    if any(isinstance(module, torch.nn.Conv2d) for module in modules):
        for module in modules:
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def _logits(network: Any, image: Any) -> tuple[Any, ...]:
    """Shape (n, 3, height, width) to (n, 1000)."""
    return (network(image),)


def _make_ssd() -> Any:
    return torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None)


def _ssd(network: Any, image: Any) -> tuple[Any, ...]:
    """Shape (n, 3, height, width) to the best 100 boxes: (n, 100, 4), scores and classes (n, 100).

    The network up to the offsets from its default boxes, on the image as it comes. Boxes that
    overlap stay: how long it takes to remove them depends on what was found.
    """
    found = network.head(list(network.backbone(image).values()))
    scores, classes = found["cls_logits"].softmax(-1)[..., 1:].max(-1)
    best = scores.topk(DETECTIONS).indices
    boxes = found["bbox_regression"].gather(1, best.unsqueeze(-1).expand(-1, -1, 4))
    return boxes, scores.gather(1, best), classes.gather(1, best) + 1


def _make_fcn() -> Any:
    return torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, aux_loss=False
    )


def _fcn(network: Any, image: Any) -> tuple[Any, ...]:
    """Shape (n, 3, height, width) to each pixel's class, (n, height, width) of bytes."""
    return (network(image)["out"].argmax(1).to(torch.uint8),)


def _make_encoder(vocabulary: int = 30522, positions: int = 512, width: int = 256) -> Any:
    """BERT-mini: 4 layers of width 256 with 4 heads."""
    nn = torch.nn
    layer = nn.TransformerEncoderLayer(
        width, nhead=4, dim_feedforward=4 * width, activation="gelu", batch_first=True
    )
    return nn.ModuleDict(
        {
            "words": nn.Embedding(vocabulary, width),
            "positions": nn.Embedding(positions, width),
            "types": nn.Embedding(2, width),
            "norm": nn.LayerNorm(width),
            "layers": nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False),
            "pooler": nn.Linear(width, width),
        }
    )


def _encoder(network: Any, input_ids: Any) -> tuple[Any, ...]:
    """Shape (n, length) to (n, length, 256) and (n, 256)."""
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    embedded = network["words"](input_ids) + network["positions"](places)
    hidden = network["layers"](network["norm"](embedded + network["types"].weight[0]))
    return hidden, torch.tanh(network["pooler"](hidden[:, 0]))


NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], tuple[Any, ...]]]] = {
    "mobilenet_v2": (torchvision.models.mobilenet_v2, _logits),
    "alexnet": (torchvision.models.alexnet, _logits),
    "resnet50": (torchvision.models.resnet50, _logits),
    "vgg19": (torchvision.models.vgg19, _logits),
    "ssd": (_make_ssd, _ssd),
    "fcn_resnet50": (_make_fcn, _fcn),
    "encoder": (_make_encoder, _encoder),
}
"""Of each network how it is made, with random weights, and how its input becomes its outputs."""
