"""Networks of the zoo as PyTorch models, for a Triton whose Python has PyTorch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final, Literal, get_args

from igniter_prof.errors import BadInput
from igniter_prof.files import write_error
from igniter_prof.zoo.catalog import find
from igniter_prof.zoo.repository import CONFIG, read_config, repository_root, write_config

Precision = Literal["fp32", "fp16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
TORCH_NETWORKS: Final = (
    *("mobilenet_v2", "alexnet", "resnet50", "vgg19", "ssd", "fcn_resnet50", "encoder"),
)
"""The networks that PyTorch models are there for."""
OUTPUTS: Final = {
    "ssd": (("boxes", "FP32", (100, 4)), ("scores", "FP32", (100,)), ("classes", "INT64", (100,))),
    "fcn_resnet50": (("classes", "UINT8", (-1, -1)),),
}
"""Name, type and shape of outputs that are not those of the ONNX model."""
MODEL: Final = Path(__file__).with_name("torch_model.py")


def install_torch(name: str, precision: Precision, repository: Path) -> Path:
    """Put a network into a model repository as a PyTorch model; its folder there.

    It is named ``<network>_<precision>``. Its shapes are those of the network's ONNX model, but
    images come as bytes, and large outputs are made small where the GPU is (``OUTPUTS``). Requests
    carry whole batches: there is no dynamic batching unless a tenant has a queue delay. Weights
    are random: they are made when the model is loaded.

    Raises:
        BadInput: there is no such network on PyTorch, or ``repository`` cannot be written.
    """
    network = find(name).name
    if network not in TORCH_NETWORKS:
        raise BadInput(
            f"'{name}' is not there as a PyTorch model",
            hint=f"there are {', '.join(TORCH_NETWORKS)}",
        )
    from tritonclient.grpc import model_config_pb2 as triton

    source = repository_root() / network
    config = read_config(source / CONFIG)
    config.name = f"{network}_{precision}"
    config.ClearField("dynamic_batching")
    config.ClearField("instance_group")
    # the model itself chooses: the GPU that it may see, else the CPU
    config.instance_group.add(count=1, kind=triton.ModelInstanceGroup.KIND_MODEL)
    for port in config.input:
        if port.data_type == triton.TYPE_FP32:
            port.data_type = triton.TYPE_UINT8
            config.parameters[f"value_range:{port.name}"].string_value = "0,256"
    if network in OUTPUTS:
        config.ClearField("output")
        for name, dtype, dims in OUTPUTS[network]:
            config.output.add(
                name=name, data_type=triton.DataType.Value(f"TYPE_{dtype}"), dims=dims
            )
    config.parameters["network"].string_value = network
    config.parameters["precision"].string_value = precision
    folder = repository / f"{network}_{precision}"
    try:
        (folder / "1").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(MODEL, folder / "1" / "model.py")
        for labels in source.glob("*.txt"):
            shutil.copyfile(labels, folder / labels.name)
    except OSError as error:
        raise write_error(folder, error) from error
    write_config(folder / CONFIG, config)
    return folder
