"""From the description of an HTTP model server to ready request bodies."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.load.http_check import IMAGE_FORMS, axes_of
from igniter_prof.load.job import Call
from igniter_prof.load.payloads import Payloads
from igniter_prof.load.samples import (
    CannotTake,
    InputSource,
    InputSpec,
    Sample,
    is_image,
    random_samples,
    read_samples,
)
from igniter_prof.load.template import Reference, fill, parse, references
from igniter_prof.records import HttpInput, HttpServer

LIMIT_BYTES = 64 * 1024 * 1024
"""Of the bodies together; beyond it no further sample is made, but there are at least two."""
JPEG_QUALITY = 90
_BYTES_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "raw": "application/octet-stream"}
"""Content types of forms that are bytes: the whole body, or base64 within JSON."""


def prepare_http(
    server: HttpServer, *, model: str, batch_size: int, input_scale: float, source: InputSource
) -> Payloads:
    """Make the request bodies of one tenant of an HTTP model server.

    A batch goes along the first axis of each input whose length there is 1 (and not scaled) and
    that has further axes; the other inputs stay as they are.

    Args:
        server: how it is asked, as ``check_http`` found it good.
        model: its name, for messages.
        batch_size: inferences that one request carries.
        input_scale: factor on the scaled axes.
        source: random values, or real inputs.

    Raises:
        CannotTake: it takes no batches, nothing is there to scale, or a file cannot be scaled.
        BadInput: an input source does not fit.
        MissingCapability: images need Pillow.
    """
    where = f"model '{model}'"
    used = [reference for _, reference in references(server.body)]
    batched = {name for name, spec in server.inputs.items() if _takes_batches(spec)}
    if batch_size > 1 and not batched:
        raise CannotTake(f"takes no batches, batch size {batch_size} was asked for", where=where)
    if batch_size > 1 and any(reference.form in IMAGE_FORMS for reference in used):
        raise CannotTake(f"an image file holds no batch of {batch_size}", where=where)
    if input_scale != 1.0 and not any(spec.scaled_axes for spec in server.inputs.values()):
        raise CannotTake(f"has no axis to scale by {input_scale}", where=where)
    specs = [
        _sample_spec(name, spec, input_scale, name in batched)
        for name, spec in server.inputs.items()
    ]
    if source.path is None:
        samples = random_samples(specs, batch_size, 1.0, InputSource(seed=source.seed))
    else:
        if any(spec.datatype == "TEXT" for spec in specs):
            raise BadInput("texts are random words; files are for tensors", where=where)
        if input_scale != 1.0 and not is_image(source.path):
            raise CannotTake(
                f"what {source.path.name} holds cannot be scaled by {input_scale}", where=where
            )
        samples = read_samples(specs, batch_size, 1.0, InputSource(path=source.path))
    shapes: dict[str, tuple[int, ...]] = {}
    bodies: list[tuple[bytes, int]] = []
    size = 0
    for sample in samples:
        if size > LIMIT_BYTES and len(bodies) > 1:
            break
        arrays = {name: array if name in batched else array[0] for name, array in sample.items()}
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        bodies.append((_encode(server, arrays, where), 0))
        size += len(bodies[-1][0])
    return Payloads(
        bodies=tuple(bodies),
        shapes=shapes,
        call=Call(
            path=server.path,
            method=server.method,
            statuses=server.success.status,
            json_field=server.success.json_field,
            fresh_connection=server.fresh_connection,
        ),
        headers=(*_content_type(server), *server.headers.items()),
    )


def scaled(spec: HttpInput, scale: float) -> tuple[int, ...]:
    """The shape of an input at a scale: a scaled length n becomes max(least, round(scale * n))."""
    axes = axes_of(spec)
    return tuple(
        max(spec.least, round(side * scale)) if axis in axes else side
        for axis, side in enumerate(spec.shape)
    )


def _takes_batches(spec: HttpInput) -> bool:
    return len(spec.shape) > 1 and spec.shape[0] == 1 and 0 not in axes_of(spec)


def _sample_spec(name: str, spec: HttpInput, scale: float, batched: bool) -> InputSpec:
    shape = scaled(spec, scale)
    whole = spec.datatype in ("FP32", "FP64")
    return InputSpec(
        name=name,
        datatype=spec.datatype,
        shape=shape[1:] if batched else shape,
        native_shape=None,
        scaled_axes=None,
        # integers are drawn from below the upper end
        value_range=(spec.low, spec.high)
        if whole
        else (math.ceil(spec.low), math.floor(spec.high) + 1),
        normalise=spec.normalise is not None,
    )


def _content_type(server: HttpServer) -> tuple[tuple[str, str], ...]:
    if server.body is None:
        return ()
    whole = parse(server.body, "body") if isinstance(server.body, str) else None
    kind = _BYTES_TYPES.get(whole.form) if isinstance(whole, Reference) else None
    if kind is not None and server.inputs[whole.name].datatype == "TEXT":  # type: ignore[union-attr]
        kind = "text/plain; charset=utf-8"
    return (("Content-Type", kind or "application/json"),)


def _encode(server: HttpServer, arrays: Sample, where: str) -> bytes:
    """One request's body, so that nothing is left to encode while the clock runs."""
    if server.body is None:
        return b""
    whole = parse(server.body, "body") if isinstance(server.body, str) else None
    if isinstance(whole, Reference) and whole.form in _BYTES_TYPES:
        return _bytes(arrays[whole.name], whole.form)

    def value(reference: Reference) -> Any:
        array, given = arrays[reference.name], server.inputs[reference.name]
        if reference.form == "size":
            return [array.shape[axis] for axis in axes_of(given)]
        if reference.form == "native_size":
            return [given.shape[axis] for axis in axes_of(given)]
        if reference.form in _BYTES_TYPES:
            return base64.b64encode(_bytes(array, reference.form)).decode()
        return _texts(array) if array.dtype == np.object_ else array.tolist()

    try:
        return json.dumps(fill(server.body, value), allow_nan=False).encode()
    except ValueError as error:
        raise BadInput(
            "an input holds NaN or an infinity, and JSON has neither",
            where=where,
            hint="check the file of inputs, or low and high: they must be within the datatype",
        ) from error


def _texts(words: np.ndarray[Any, Any]) -> Any:
    """Texts of words along the last axis: (n,) one text, (b, n) a list of b texts, and so on."""
    return " ".join(words) if words.ndim == 1 else [_texts(part) for part in words]


def _bytes(array: np.ndarray[Any, Any], form: str) -> bytes:
    if form == "raw":
        if array.dtype == np.object_:
            return "\n".join(
                " ".join(words) for words in array.reshape(-1, array.shape[-1])
            ).encode()
        return np.ascontiguousarray(array).tobytes()
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingCapability(
            f"requests in {form.upper()} need Pillow", hint="pip install 'igniter-prof[images]'"
        ) from error
    pixels = array[0] if array.ndim == 4 else array
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3):
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    options: Mapping[str, Any] = {"quality": JPEG_QUALITY} if form == "jpeg" else {}
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, form.upper(), **options)
    return out.getvalue()
