"""Samples of a model's inputs: random values, or those of a file, at an input scale."""

from __future__ import annotations

import base64
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.files import read_json

SAMPLES = 8
"""Different requests that are sent in turn, so that a cache of answers would be noticed."""
MOST_VALUES = 2**28
"""Of one input of one request without the batch: 1 GiB of FP32."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_SPREAD = np.array([0.229, 0.224, 0.225], np.float32)
WORDS = ("a", "model", "server", "answers", "each", "request", "for", "one", "of", "many", "texts")
"""What random texts are made of."""

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
    normalise: bool | None = None
    """By ImageNet's mean and spread; None: real images are, random values are not."""


def scaled_shape(
    spec: InputSpec, scale: float, given: dict[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """The shape of one sample of an input at an input scale.

    Scaled are the model's ``scaled_axes`` (all dynamic ones if it names none); a side of n becomes
    max(1, round(scale * n)).

    Raises:
        BadInput: a dynamic dimension is not fixed by anybody, or nothing is there to scale.
        CannotTake: it is too large for a request.
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
        return _affordable(spec.name, native)
    dynamic = tuple(axis for axis, side in enumerate(spec.shape) if side == -1)
    axes = spec.scaled_axes if spec.scaled_axes is not None else dynamic
    return _affordable(
        spec.name,
        tuple(
            max(1, round(side * scale)) if axis in axes else side
            for axis, side in enumerate(native)
        ),
    )


def _affordable(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape. Raises CannotTake where no request could hold an input of it."""
    values = math.prod(shape)
    if values > MOST_VALUES:
        raise CannotTake(
            f"shape {list(shape)} is {values:.3g} values, a request has at most {MOST_VALUES:.3g}",
            where=f"input '{name}'",
            hint="smaller shapes or input scales",
        )
    return shape


Sample = dict[str, np.ndarray[Any, Any]]
"""One request: an array for each input, its first axis the batch."""


def random_samples(
    specs: Sequence[InputSpec], batch_size: int, input_scale: float, source: InputSource
) -> Iterator[Sample]:
    """``SAMPLES`` samples of random values with the source's seed.

    Raises:
        BadInput: as ``scaled_shape``.
    """
    draw = np.random.default_rng(source.seed)
    shapes = {
        spec.name: (batch_size, *scaled_shape(spec, input_scale, source.shapes)) for spec in specs
    }
    for _ in range(SAMPLES):
        yield {spec.name: random_array(draw, spec, shapes[spec.name]) for spec in specs}


def random_array(
    draw: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Random values of an input's type, in its range. Integers stay below the range's end."""
    if spec.datatype == "TEXT":
        return draw.choice(np.array(WORDS, np.object_), shape)
    dtype = DTYPES[spec.datatype]
    if spec.datatype == "BYTES":
        return np.full(shape, b"igprof", dtype=np.object_)
    if np.issubdtype(dtype, np.floating):
        low, high = spec.value_range or (0.0, 1.0)
        values: np.ndarray[Any, Any]
        if spec.datatype == "FP64":
            values = draw.uniform(low, high, shape)
        else:
            values = draw.random(shape, dtype=np.float32)
            values *= np.float32(high - low)
            values += np.float32(low)
        if spec.normalise:
            values = (values - IMAGENET_MEAN[:, None, None]) / IMAGENET_SPREAD[:, None, None]
        return values.astype(dtype, copy=False)
    # up to but not including; without a stated range 0 and 1 are valid for flags, masks and any
    # embedding table
    low, high = spec.value_range or (0, 2)
    return draw.integers(int(low), int(high), shape).astype(dtype)


def is_image(path: Path) -> bool:
    """Whether a path is that of an image, or of a folder of images."""
    return path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES


def read_samples(
    specs: Sequence[InputSpec], batch_size: int, input_scale: float, source: InputSource
) -> Iterator[Sample]:
    """Samples of the source's file, at most ``SAMPLES``; images are resized to the input scale.

    Raises:
        BadInput: the file is unreadable, or does not fit the inputs.
        MissingCapability: reading images needs Pillow.
    """
    path = source.path
    assert path is not None
    if not path.exists():
        raise BadInput("no such file", where=str(path), hint="check 'inputs' in the sweep")
    if path.suffix == ".npz":
        columns = _read_npz(path)
    elif path.suffix == ".json":
        columns = _read_perf_analyzer_json(path, specs)
    elif is_image(path):
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
    """Images as the one image input of a model, resized (cubic), normalised as it wants them."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingCapability(
            "reading images needs Pillow", hint="pip install 'igniter-prof[images]'"
        ) from error
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
    kind = np.dtype(DTYPES[spec.datatype])
    if kind != np.uint8 and kind.kind != "f":
        raise BadInput(
            f"'{spec.name}' is of type {spec.datatype}; images are UINT8 or floats",
            where=str(path),
        )
    shape = scaled_shape(spec, input_scale, source.shapes)
    channels_first = shape[0] in (1, 3)
    height, width = (shape[1], shape[2]) if channels_first else (shape[0], shape[1])
    mode = "L" if (shape[0] if channels_first else shape[2]) == 1 else "RGB"
    rows = []
    for file in files[: SAMPLES * 64]:
        try:
            with Image.open(file) as image:
                resized = image.convert(mode).resize((width, height), Image.Resampling.BICUBIC)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # SyntaxError: Pillow's word for a broken PNG
            raise BadInput(f"is no readable image ({error})", where=str(file)) from error
        array = _image_values(np.asarray(resized).reshape(height, width, -1), spec)
        rows.append(np.moveaxis(array, 2, 0) if channels_first else array)
    return {spec.name: rows}


def _image_values(pixels: np.ndarray[Any, Any], spec: InputSpec) -> np.ndarray[Any, Any]:
    """Pixels (height, width, channels) of 0 to 255 as the values that an input takes."""
    if spec.datatype == "UINT8":
        return pixels
    unit = pixels.astype(np.float32) / 255
    if spec.normalise is False or pixels.shape[2] == 1:
        low, high = spec.value_range or (0.0, 1.0)
        return unit * np.float32(high - low) + np.float32(low)
    return (unit - IMAGENET_MEAN) / IMAGENET_SPREAD
