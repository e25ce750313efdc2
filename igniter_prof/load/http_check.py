"""What can be known to be wrong with a description of an HTTP model server before it is used."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Mapping

from igniter_prof.errors import BadInput, MissingCapability, did_you_mean
from igniter_prof.load.template import FORMS, BadTemplate, Reference, references
from igniter_prof.records import HttpInput, HttpServer

_NAME = re.compile(r"[A-Za-z_][\w-]*")
_PATH = re.compile(r"/[\x21-\x22\x24-\x7e]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_OURS = {"content-length", "transfer-encoding", "connection", "expect", "upgrade"}
_SECRET = {"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"}
_INTEGERS = {"UINT8": (0, 2**8 - 1), "INT32": (-(2**31), 2**31 - 1), "INT64": (-(2**53), 2**53)}
_LARGEST_FP32 = 1.7e38
"""Half of the largest: the difference of two must be one, too."""
IMAGE_FORMS = ("png", "jpeg")


def check_http(spec: HttpServer, where: str) -> None:
    """Check what a user says of an HTTP model server: template, inputs, headers, success test.

    Raises:
        BadInput: with the place in the sweep and what to do.
        MissingCapability: its requests are images, and Pillow is not installed.
    """
    for field, path in (("path", spec.path), ("ready_path", spec.ready_path)):
        if path is not None and not _PATH.fullmatch(path):
            raise BadInput(
                f"'{path}' is no path of a URL",
                where=f"{where}, {field}",
                hint="it begins with a slash; write characters other than ASCII as %XX",
            )
    _check_headers(spec.headers, where)
    for status in spec.success.status:
        if not 200 <= status <= 599:
            raise BadInput(f"{status} is no status of an answer", where=f"{where}, success.status")
    if not spec.success.status:
        raise BadInput("no status is a success", where=f"{where}, success.status")
    for name, each in spec.inputs.items():
        _check_input(name, each, f"{where}, inputs.{name}")
    used = _check_body(spec, where)
    unused = sorted(set(spec.inputs) - used)
    if unused:
        raise BadInput(
            f"the input '{unused[0]}' is not in the body",
            where=f"{where}, body",
            hint=f"put '${{{unused[0]}}}' where it belongs, or remove the input",
        )


def axes_of(spec: HttpInput) -> tuple[int, ...]:
    """The scaled axes, counted from the front, ascending."""
    return tuple(sorted(axis % len(spec.shape) for axis in spec.scaled_axes))


def _check_headers(headers: Mapping[str, str], where: str) -> None:
    for name, value in headers.items():
        place = f"{where}, headers"
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            # the value may be a secret: do not repeat it
            raise BadInput(f"the header '{name}' holds what a header may not", where=place)
        if name.lower() in _OURS:
            raise BadInput(
                f"the header '{name}' is made by the client itself",
                where=place,
                hint="remove it; see fresh_connection for 'Connection: close'",
            )
        if name.lower() in _SECRET:
            raise BadInput(
                f"the header '{name}' is a secret, and a sweep is stored with its profile",
                where=place,
                hint=f"pass it on the command line: --header '{name}: …'",
            )


def _check_input(name: str, spec: HttpInput, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"'{name}' cannot be named in a template",
            where=where,
            hint="a name has letters, digits, _ and -, and begins with a letter",
        )
    if any(side < 1 for side in spec.shape):
        raise BadInput(
            f"shape {list(spec.shape)} has a length below 1",
            where=where,
            hint="give the lengths at scale 1, and in scaled_axes those that the scale changes",
        )
    dimensions = len(spec.shape)
    if any(not -dimensions <= axis < dimensions for axis in spec.scaled_axes):
        raise BadInput(
            f"scaled_axes {list(spec.scaled_axes)} are not all among its {dimensions} axes",
            where=where,
            hint=f"axes are 0 to {dimensions - 1}, or -1 for the last" if dimensions else None,
        )
    if len(set(axes_of(spec))) < len(spec.scaled_axes):
        raise BadInput("an axis is scaled twice", where=where)
    if spec.low > spec.high:
        raise BadInput(f"low ({spec.low:g}) is above high ({spec.high:g})", where=where)
    if spec.datatype == "FP32" and max(abs(spec.low), abs(spec.high)) > _LARGEST_FP32:
        raise BadInput(
            f"low ({spec.low:g}) or high ({spec.high:g}) is out of the range of FP32",
            where=where,
            hint="datatype: FP64",
        )
    if spec.datatype in _INTEGERS:
        least, most = _INTEGERS[spec.datatype]
        if math.ceil(spec.low) > math.floor(spec.high) or spec.low < least or spec.high > most:
            raise BadInput(
                f"low and high hold no {spec.datatype} between them, or are out of its range",
                where=where,
                hint=f"{least} to {most}",
            )
    if spec.datatype == "TEXT" and not spec.shape:
        raise BadInput("a text has a length in words", where=where, hint="shape: [16]")
    if spec.normalise is not None and not (
        spec.datatype in ("FP32", "FP64") and dimensions >= 3 and spec.shape[-3] == 3
    ):
        raise BadInput(
            f"is no image to normalise: {spec.datatype} {list(spec.shape)}",
            where=where,
            hint="an image is FP32 or FP64 with the last three axes 3, height, width",
        )


def _check_body(spec: HttpServer, where: str) -> set[str]:
    """The names of the inputs that the body uses."""
    used = set()
    try:
        json.dumps(spec.body, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"is no JSON ({error})", where=f"{where}, body", hint="quote dates, .nan and .inf"
        ) from error
    try:
        for at, reference in references(spec.body):
            used.add(reference.name)
            _check_reference(spec, reference, f"{where}, {at}")
    except BadTemplate as error:
        raise BadInput(
            str(error),
            where=f"{where}, {error.at}",
            hint=f"forms: ${{name}}, ${{name.{'}, ${name.'.join(FORMS)}}};"
            " $${ begins a text that is meant literally",
        ) from error
    return used


def _check_reference(spec: HttpServer, reference: Reference, where: str) -> None:
    given = spec.inputs.get(reference.name)
    if given is None:
        raise BadInput(
            f"there is no input '{reference.name}'",
            where=where,
            hint=did_you_mean(reference.name, spec.inputs) or "describe it under 'inputs:'",
        )
    form = reference.form
    if form in ("size", "native_size") and not given.scaled_axes:
        raise BadInput(
            f"'{reference.name}' has no scaled axes, so no {form}",
            where=where,
            hint=f"inputs.{reference.name}.scaled_axes: […]",
        )
    if form not in IMAGE_FORMS:
        return
    image = given.shape[1:] if len(given.shape) == 4 and given.shape[0] == 1 else given.shape
    if (
        given.datatype != "UINT8"
        or len(image) not in (2, 3)
        or (len(image) == 3 and 3 not in (image[0], image[2]) and 1 not in (image[0], image[2]))
    ):
        raise BadInput(
            f"'{reference.name}' is no image: {given.datatype} {list(given.shape)}",
            where=where,
            hint="an image is UINT8 (with high: 255) of height, width, 3, or 3, height, width",
        )
    if importlib.util.find_spec("PIL") is None:
        raise MissingCapability(
            f"requests in {form.upper()} need Pillow",
            where=where,
            hint="pip install 'igniter-prof[images]'",
        )
