"""From a server's metadata and an input source to ready request bodies.

Inputs, types and dynamic dimensions are read from the server, so any Triton model works. What a
dynamic dimension should be is said, in this order, by the input data, by the sweep (``shapes``), or
by the model's own configuration (parameters ``native_shape:<input>``, ``scaled_axes:<input>``,
``value_range:<input>``, as the zoo's models have).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from igniter_prof.errors import BadInput
from igniter_prof.load.job import Body, Call
from igniter_prof.load.samples import (
    DTYPES,
    CannotTake,
    InputSource,
    InputSpec,
    Sample,
    random_samples,
    read_samples,
)

PAYLOAD_LIMIT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Payloads:
    """Ready request bodies of one tenant, and the shapes of a request's inputs (with batch)."""

    bodies: tuple[Body, ...]
    shapes: dict[str, tuple[int, ...]]
    call: Call
    headers: tuple[tuple[str, str], ...] = ()
    """That belong to the bodies, such as Content-Type."""


def input_specs(metadata: dict[str, Any], config: dict[str, Any]) -> tuple[InputSpec, ...]:
    """Read a model's inputs from Triton's metadata and configuration (their JSON forms).

    Raises:
        BadInput: they are not as Triton's are, or an input has a type that we cannot send.
    """
    where = f"model '{metadata.get('name', 'without a name')}'"
    try:
        specs = _input_specs(metadata, config)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise BadInput(
            f"the server's description of its inputs is not understood ({error!r})",
            where=where,
            hint="is it a Triton? see GET v2/models/NAME and v2/models/NAME/config",
        ) from error
    for spec in specs:
        if spec.datatype not in DTYPES:
            raise BadInput(
                f"input '{spec.name}' is of type {spec.datatype}, which igprof cannot send",
                where=where,
                hint=f"known: {', '.join(DTYPES)}",
            )
    return specs


def _input_specs(metadata: dict[str, Any], config: dict[str, Any]) -> tuple[InputSpec, ...]:
    parameters = {
        name: value.get("string_value", "") for name, value in config.get("parameters", {}).items()
    }
    batched = int(config.get("max_batch_size", 0)) > 0
    specs = []
    for entry in metadata["inputs"]:
        name = entry["name"]
        shape = tuple(int(side) for side in entry["shape"])
        limits = _numbers(parameters.get(f"value_range:{name}"))
        native = _numbers(parameters.get(f"native_shape:{name}"))
        axes = _numbers(parameters.get(f"scaled_axes:{name}"))
        specs.append(
            InputSpec(
                name=name,
                datatype=entry["datatype"],
                shape=shape[1:] if batched else shape,
                native_shape=None if native is None else tuple(int(side) for side in native),
                scaled_axes=None if axes is None else tuple(int(axis) for axis in axes),
                value_range=None if limits is None else (limits[0], limits[1]),
            )
        )
    return tuple(specs)


def _numbers(text: str | None) -> tuple[float, ...] | None:
    return None if not text else tuple(float(part) for part in text.split(","))


def prepare(
    metadata: dict[str, Any],
    config: dict[str, Any],
    *,
    batch_size: int,
    input_scale: float,
    source: InputSource,
    protocol: str,
) -> Payloads:
    """Make the request bodies of one tenant.

    Args:
        metadata: Triton's model metadata (``GET v2/models/NAME``).
        config: Triton's model configuration (``GET v2/models/NAME/config``).
        batch_size: inferences that one request carries.
        input_scale: factor on the scaled axes.
        source: random values, or real inputs.
        protocol: ``http`` or ``grpc``.

    Raises:
        CannotTake: the model takes no such batch or no such scale.
        BadInput: an input source does not fit the model.
    """
    specs = input_specs(metadata, config)
    batched = int(config.get("max_batch_size", 0)) > 0
    if not batched and batch_size > 1:
        raise CannotTake(
            f"takes no batches, batch size {batch_size} was asked for",
            where=f"model '{metadata['name']}'",
        )
    if input_scale != 1.0 and not any(-1 in spec.shape for spec in specs):
        raise CannotTake(
            f"has no dynamic dimension to scale by {input_scale}",
            where=f"model '{metadata['name']}'",
        )
    if source.path is None:
        samples = random_samples(specs, batch_size, input_scale, source)
    else:
        samples = read_samples(specs, batch_size, input_scale, source)
    shapes: dict[str, tuple[int, ...]] = {}
    bodies = []
    size = 0
    # the samples are made one by one, so that the limit bounds what is in memory, too
    for sample in samples:
        if not batched:
            sample = {name: array[0] for name, array in sample.items()}
        shapes = {name: tuple(array.shape) for name, array in sample.items()}
        body = _encode(metadata["name"], specs, sample, protocol)
        size += len(body[0])
        bodies.append(body)
        if size > PAYLOAD_LIMIT_BYTES:
            break
    return Payloads(
        bodies=tuple(bodies),
        shapes=shapes,
        call=Call(path=f"/v2/models/{quote(metadata['name'])}/infer"),
    )


def _encode(model: str, specs: Sequence[InputSpec], sample: Sample, protocol: str) -> Body:
    """One request in its wire form, so that nothing is left to encode while the clock runs."""
    if protocol == "grpc":
        from tritonclient.grpc import service_pb2

        request = service_pb2.ModelInferRequest(model_name=model)
        for spec in specs:
            array = sample[spec.name]
            request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
            request.raw_input_contents.append(_raw(array, spec.datatype))
        return request.SerializeToString(), 0
    inputs = []
    chunks = []
    for spec in specs:
        array = sample[spec.name]
        chunks.append(_raw(array, spec.datatype))
        inputs.append(
            {
                "name": spec.name,
                "shape": list(array.shape),
                "datatype": spec.datatype,
                "parameters": {"binary_data_size": len(chunks[-1])},
            }
        )
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return header + b"".join(chunks), len(header)


def _raw(array: np.ndarray[Any, Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        from tritonclient.utils import serialize_byte_tensor

        return bytes(serialize_byte_tensor(array).item())
    return np.ascontiguousarray(array).tobytes()
