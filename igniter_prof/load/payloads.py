"""From a server's metadata and an input source to ready request bodies.

Inputs, types and dynamic dimensions are read from the server, so any Triton model works. What a
dynamic dimension should be is said, in this order, by the input data, by the sweep (``shapes``), or
by the model's own configuration (parameters ``native_shape:<input>``, ``scaled_axes:<input>``,
``value_range:<input>``, as the zoo's models have).
"""

from __future__ import annotations

import base64
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igniter_prof.errors import BadInput
from igniter_prof.files import read_json
from igniter_prof.load.worker import Body

SAMPLES = 8
"""Different requests that are sent in turn, so that a cache of answers would be noticed."""
PAYLOAD_LIMIT_BYTES = 256 * 1024 * 1024
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")

DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}


class CannotTake(BadInput):
    """A model cannot take the batch or the input scale of a cell: its tenant is refused."""


@dataclass(frozen=True)
class InputSource:
    """Where a tenant's inputs come from.

    ``path`` is an ``.npz`` (one array an input, its first axis the samples), a JSON file in
    perf_analyzer's input format, or a folder of images or a single one; None draws random values
    with the seed. ``shapes`` fixes dynamic dimensions (without the batch).
    """

    path: Path | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class InputSpec:
    """One input of a model, without the batch dimension; -1 is a dynamic one."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    native_shape: tuple[int, ...] | None
    scaled_axes: tuple[int, ...] | None
    value_range: tuple[float, float] | None


@dataclass(frozen=True)
class Payloads:
    """Ready request bodies of one tenant, and the shapes of a request's inputs (with batch)."""

    bodies: tuple[Body, ...]
    shapes: dict[str, tuple[int, ...]]


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


def scaled_shape(
    spec: InputSpec, scale: float, given: dict[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """The shape of one sample of an input at an input scale.

    Scaled are the model's ``scaled_axes`` (all dynamic ones if it names none); a side of n becomes
    max(1, round(scale * n)).

    Raises:
        BadInput: a dynamic dimension is not fixed by anybody, or nothing is there to scale.
    """
    native = given.get(spec.name) or spec.native_shape or spec.shape
    if len(native) != len(spec.shape) or any(
        side != fixed and fixed != -1 for side, fixed in zip(native, spec.shape, strict=True)
    ):
        raise BadInput(
            f"shape {list(native)} does not fit the server's {list(spec.shape)}",
            where=f"input '{spec.name}'",
        )
    if any(side < 0 for side in native):
        raise BadInput(
            f"has dynamic dimensions {list(spec.shape)} and nothing says how large they are",
            where=f"input '{spec.name}'",
            hint=f"give them in the sweep: models: [{{name: …, shapes: {{{spec.name}: […]}}}}]",
        )
    if scale == 1.0:
        return native
    dynamic = tuple(axis for axis, side in enumerate(spec.shape) if side == -1)
    axes = spec.scaled_axes if spec.scaled_axes is not None else dynamic
    return tuple(
        max(1, round(side * scale)) if axis in axes else side for axis, side in enumerate(native)
    )


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
        samples = _random_samples(specs, batch_size, input_scale, source)
    else:
        samples = _read_samples(specs, batch_size, input_scale, source)
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
    return Payloads(bodies=tuple(bodies), shapes=shapes)


Sample = dict[str, np.ndarray[Any, Any]]
"""One request: an array for each input, its first axis the batch."""


def _random_samples(
    specs: Sequence[InputSpec], batch_size: int, input_scale: float, source: InputSource
) -> Iterator[Sample]:
    draw = np.random.default_rng(source.seed)
    shapes = {
        spec.name: (batch_size, *scaled_shape(spec, input_scale, source.shapes)) for spec in specs
    }
    for _ in range(SAMPLES):
        yield {spec.name: _random_array(draw, spec, shapes[spec.name]) for spec in specs}


def _random_array(
    draw: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    dtype = DTYPES[spec.datatype]
    if spec.datatype == "BYTES":
        return np.full(shape, b"igprof", dtype=np.object_)
    if np.issubdtype(dtype, np.floating):
        low, high = spec.value_range or (0.0, 1.0)
        if spec.datatype == "FP64":
            return draw.uniform(low, high, shape)
        values = draw.random(shape, dtype=np.float32)
        values *= np.float32(high - low)
        values += np.float32(low)
        return values.astype(dtype, copy=False)
    # up to but not including; without a stated range 0 and 1 are valid for flags, masks and any
    # embedding table
    low, high = spec.value_range or (0, 2)
    return draw.integers(int(low), int(high), shape).astype(dtype)


def _read_samples(
    specs: Sequence[InputSpec], batch_size: int, input_scale: float, source: InputSource
) -> Iterator[Sample]:
    path = source.path
    assert path is not None
    if not path.exists():
        raise BadInput("no such file", where=str(path), hint="check 'inputs' in the sweep")
    if path.suffix == ".npz":
        columns = _read_npz(path)
    elif path.suffix == ".json":
        columns = _read_perf_analyzer_json(path, specs)
    elif path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        columns = _read_images(path, specs, input_scale, source)
    else:
        raise BadInput(
            f"'{path.suffix}' is no input format",
            where=str(path),
            hint="known: .npz, .json, images",
        )
    missing = [spec.name for spec in specs if spec.name not in columns]
    if missing:
        raise BadInput(
            f"has no '{missing[0]}'", where=str(path), hint=f"it has: {', '.join(sorted(columns))}"
        )
    for spec in specs:
        _check_column(path, spec, columns[spec.name])
    count = min(len(columns[spec.name]) for spec in specs)
    for start in range(0, min(SAMPLES, max(1, count // batch_size)) * batch_size, batch_size):
        rows = [(start + offset) % count for offset in range(batch_size)]
        yield {spec.name: _batch(path, spec, columns[spec.name], rows) for spec in specs}


def _batch(
    path: Path, spec: InputSpec, column: Sequence[np.ndarray[Any, Any]], rows: Sequence[int]
) -> np.ndarray[Any, Any]:
    try:
        return np.stack([column[row] for row in rows]).astype(DTYPES[spec.datatype], copy=False)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"'{spec.name}' holds what is no {spec.datatype} ({error})", where=str(path)
        ) from error


def _check_column(path: Path, spec: InputSpec, rows: Sequence[np.ndarray[Any, Any]]) -> None:
    if len(rows) == 0:
        raise BadInput(f"'{spec.name}' holds no samples", where=str(path))
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) > 1:
        raise BadInput(
            f"samples of '{spec.name}' differ in shape: {sorted(shapes)[:3]}", where=str(path)
        )
    shape = shapes.pop()
    if len(shape) != len(spec.shape) or any(
        fixed not in (-1, side) for side, fixed in zip(shape, spec.shape, strict=True)
    ):
        raise BadInput(
            f"'{spec.name}' has shape {list(shape)}, the server wants {list(spec.shape)}",
            where=str(path),
            hint="the first axis is that of the samples",
        )


Columns = dict[str, list[np.ndarray[Any, Any]]]


def _read_npz(path: Path) -> Columns:
    try:
        arrays = np.load(path, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise BadInput(
                "is a .npy by its content",
                where=str(path),
                hint="a .npz holds an array for each input: np.savez(path, INPUT=array)",
            )
        with arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(
            f"is not a readable .npz ({error})",
            where=str(path),
            hint="the file may be truncated; make it again",
        ) from error
    for name, array in columns.items():
        if array.ndim == 0:
            raise BadInput(
                f"'{name}' is a single value",
                where=str(path),
                hint="the first axis is that of the samples",
            )
    return {name: list(array) for name, array in columns.items()}


def _read_perf_analyzer_json(path: Path, specs: Sequence[InputSpec]) -> Columns:
    """perf_analyzer's input data: a list ``data`` of samples; content plain, shaped or base64."""
    document = read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise BadInput("has no list 'data'", where=str(path), hint="see docs/profile.md, inputs")
    columns: Columns = {spec.name: [] for spec in specs}
    for index, step in enumerate(document["data"]):
        # a stream of steps (for sequence models) is taken as its single steps
        for sample in step if isinstance(step, list) else [step]:
            if not isinstance(sample, dict):
                raise BadInput(
                    "a sample is a mapping of inputs to values", where=f"{path}, data[{index}]"
                )
            for spec in specs:
                if spec.name not in sample:
                    raise BadInput(f"has no '{spec.name}'", where=f"{path}, data[{index}]")
                columns[spec.name].append(
                    _json_tensor(sample[spec.name], spec, f"{path}, data[{index}].{spec.name}")
                )
    return columns


def _json_tensor(value: Any, spec: InputSpec, where: str) -> np.ndarray[Any, Any]:
    dtype = DTYPES[spec.datatype]
    shape = None
    if isinstance(value, dict) and "content" in value:
        shape = value.get("shape")
        value = value["content"]
    try:
        if isinstance(value, dict) and "b64" in value:
            raw = base64.b64decode(value["b64"])
            array = (
                np.array([raw], dtype=np.object_)
                if spec.datatype == "BYTES"
                else np.frombuffer(raw, dtype)
            )
        elif spec.datatype == "BYTES":
            texts = value if isinstance(value, list) else [value]
            array = np.array([str(text).encode() for text in texts], dtype=np.object_)
        else:
            array = np.asarray(value, dtype)
        if shape is not None:
            return array.reshape(shape)
        if -1 not in spec.shape:
            return array.reshape(spec.shape)
        if list(spec.shape).count(-1) == 1:
            return array.reshape(spec.shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"is no {spec.datatype} tensor ({error})", where=where) from error
    return array


def _read_images(
    path: Path, specs: Sequence[InputSpec], input_scale: float, source: InputSource
) -> Columns:
    """Images as the one image input of a model, resized, scaled to 0..1, ImageNet-normalised."""
    try:
        from PIL import Image
    except ImportError as error:
        from igniter_prof.errors import MissingCapability

        raise MissingCapability("reading images needs Pillow", hint="pip install pillow") from error
    files = sorted(
        entry
        for entry in (path.iterdir() if path.is_dir() else [path])
        if entry.suffix.lower() in IMAGE_SUFFIXES
    )
    if not files:
        raise BadInput("holds no images", where=str(path), hint=f"known: {IMAGE_SUFFIXES}")
    if len(specs) != 1 or len(specs[0].shape) != 3:
        raise BadInput("images need a model with one input of three dimensions", where=str(path))
    spec = specs[0]
    shape = scaled_shape(spec, input_scale, source.shapes)
    channels_first = shape[0] in (1, 3)
    height, width = (shape[1], shape[2]) if channels_first else (shape[0], shape[1])
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    deviation = np.array([0.229, 0.224, 0.225], np.float32)
    rows = []
    for file in files[: SAMPLES * 64]:
        try:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB").resize((width, height)), np.float32) / 255
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # SyntaxError: Pillow's word for a broken PNG
            raise BadInput(f"is no readable image ({error})", where=str(file)) from error
        raw_bytes = DTYPES[spec.datatype] is np.uint8
        array: np.ndarray[Any, Any] = (
            (pixels * 255).astype(np.uint8) if raw_bytes else (pixels - mean) / deviation
        )
        rows.append(np.moveaxis(array, 2, 0) if channels_first else array)
    return {spec.name: rows}


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
