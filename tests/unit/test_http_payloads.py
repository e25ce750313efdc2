"""Requests to HTTP model servers: what is checked beforehand, and what is sent."""

from __future__ import annotations

import base64
import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter_prof.config.sweep import load_sweep
from igniter_prof.errors import BadInput
from igniter_prof.load import CannotTake, InputSource, Payloads, check_http, prepare_http
from igniter_prof.records import HttpInput, HttpServer

IMAGE = {"shape": [1, 3, 20, 30], "scaled_axes": [2, 3], "normalise": "imagenet"}
FCN: dict[str, Any] = {
    "inputs": {"image": IMAGE},
    "body": {"tensor": "${image}", "orig_size": "${image.native_size}"},
}


def _prepare(spec: dict[str, Any], **changes: Any) -> Payloads:
    arguments: dict[str, Any] = {
        "model": "fcn",
        "batch_size": 1,
        "input_scale": 1.0,
        "source": InputSource(seed=3),
    }
    server = HttpServer.model_validate(spec)
    check_http(server, "sweep.yaml")
    return prepare_http(server, **{**arguments, **changes})


def _documents(payloads: Payloads) -> list[Any]:
    return [json.loads(body) for body, _ in payloads.bodies]


def test_a_template_is_filled_with_the_scaled_input() -> None:
    payloads = _prepare(FCN, input_scale=0.5)
    assert payloads.shapes == {"image": (1, 3, 10, 15)}
    first = _documents(payloads)[0]
    assert np.shape(first["tensor"]) == (1, 3, 10, 15)
    assert first["orig_size"] == [20, 30]
    assert payloads.headers == (("Content-Type", "application/json"),)
    assert payloads.call.path == "/predict"
    # normalised: values of 0 to 1 less the mean, over the spread, of each channel
    red = np.asarray(first["tensor"])[0, 0]
    assert -0.485 / 0.229 <= red.min() < -1.5
    assert 1.5 < red.max() <= (1 - 0.485) / 0.229


def test_samples_differ_and_depend_on_the_seed() -> None:
    bodies = [body for body, _ in _prepare(FCN).bodies]
    assert len(set(bodies)) == len(bodies) == 8
    assert bodies == [body for body, _ in _prepare(FCN).bodies]
    assert bodies != [body for body, _ in _prepare(FCN, source=InputSource(seed=4)).bodies]


def test_sizes_are_those_of_the_scaled_axes() -> None:
    spec = {**FCN, "body": {"x": "${image}", "now": "${image.size}", "price": "$${5}"}}
    assert _documents(_prepare(spec, input_scale=2.0))[0]["now"] == [40, 60]
    assert _documents(_prepare(spec))[0]["price"] == "${5}"


def test_a_scaled_side_keeps_its_least_length() -> None:
    image = {**IMAGE, "least": 8}
    assert _prepare({**FCN, "inputs": {"image": image}}, input_scale=0.1).shapes == {
        "image": (1, 3, 8, 8)
    }


@pytest.mark.parametrize(
    ("low", "high", "drawn"),
    [(1.5, 3, {2, 3}), (-2.5, -1.5, {-2}), (2**53, 2**53, {2**53}), (0, 0.5, {0})],
)
def test_integers_lie_between_low_and_high(low: float, high: float, drawn: set[int]) -> None:
    spec = {"shape": [64], "datatype": "INT64", "low": low, "high": high}
    documents = _documents(_prepare({"inputs": {"x": spec}, "body": "${x}"}))
    assert {value for one in documents for value in one} == drawn


def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.full((2, 3, 20, 30), np.nan, np.float32))
    spec = {"inputs": {"image": {"shape": [1, 3, 20, 30]}}, "body": "${image}"}
    with pytest.raises(BadInput, match="JSON has neither"):
        _prepare(spec, source=InputSource(path=tmp_path / "x.npz"))
    spec["inputs"] = {"image": {"shape": [1, 3, 20, 30], "low": -3e38, "high": 3e38}}
    with pytest.raises(BadInput, match="out of the range of FP32"):
        _prepare(spec)
    spec["inputs"] = {"image": {"shape": [1, 3, 10**6, 10**6]}}
    with pytest.raises(CannotTake, match="a request has at most"):
        _prepare(spec)


def test_batches_go_along_a_leading_axis_of_one() -> None:
    spec = {
        "inputs": {"x": {"shape": [1, 4]}, "flags": {"shape": [2], "datatype": "INT32"}},
        "body": {"x": "${x}", "flags": "${flags}"},
    }
    payloads = _prepare(spec, batch_size=3)
    assert payloads.shapes == {"x": (3, 4), "flags": (2,)}
    assert set(np.ravel(_documents(payloads)[0]["flags"])) <= {0, 1}


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        ({"inputs": {"x": {"shape": [4]}}, "body": "${x}"}, {"batch_size": 2}, "no batches"),
        (
            {"inputs": {"x": {"shape": [1, 4], "scaled_axes": [0]}}, "body": "${x}"},
            {"batch_size": 2},
            "no batches",
        ),
        ({"inputs": {"x": {"shape": [1, 4]}}, "body": "${x}"}, {"input_scale": 0.5}, "no axis"),
        (
            {
                "inputs": {"x": {"shape": [1, 8, 8, 3], "datatype": "UINT8", "high": 255}},
                "body": "${x.png}",
            },
            {"batch_size": 2},
            "no batch of 2",
        ),
    ],
)
def test_what_a_server_cannot_take_refuses_the_tenant(
    spec: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CannotTake, match=message):
        _prepare(spec, **changes)


def test_texts_have_as_many_words_as_the_scale_says() -> None:
    text = {"shape": [1, 10], "scaled_axes": [-1], "datatype": "TEXT"}
    spec = {"inputs": {"text": text}, "body": {"inputs": "${text}"}}
    document = _documents(_prepare(spec, input_scale=0.5, batch_size=2))[0]
    assert [len(each.split()) for each in document["inputs"]] == [5, 5]
    spec = {"inputs": {"text": {**text, "shape": [10]}}, "body": "${text.raw}"}
    payloads = _prepare(spec)
    assert payloads.headers == (("Content-Type", "text/plain; charset=utf-8"),)
    assert len(payloads.bodies[0][0].split()) == 10


PIXELS = {"shape": [16, 24, 3], "scaled_axes": [0, 1], "datatype": "UINT8", "high": 255}


@pytest.mark.parametrize(("form", "magic"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff")])
def test_an_image_is_the_whole_body_or_base64_in_json(form: str, magic: bytes) -> None:
    image = pytest.importorskip("PIL.Image")
    spec: dict[str, Any] = {"inputs": {"x": PIXELS}, "body": f"${{x.{form}}}"}
    payloads = _prepare(spec, input_scale=2.0)
    body = payloads.bodies[0][0]
    assert body.startswith(magic)
    assert image.open(io.BytesIO(body)).size == (48, 32)
    assert payloads.headers == (("Content-Type", f"image/{form}"),)
    encoded = _documents(_prepare({**spec, "body": {"b64": f"${{x.{form}}}"}}, input_scale=2.0))
    assert base64.b64decode(encoded[0]["b64"]) == body


def test_channels_first_and_one_channel_are_images_too() -> None:
    image = pytest.importorskip("PIL.Image")
    for shape, mode in (([3, 9, 12], "RGB"), ([1, 3, 9, 12], "RGB"), ([9, 12, 1], "L")):
        spec = {"inputs": {"x": {**PIXELS, "shape": shape, "scaled_axes": []}}, "body": "${x.png}"}
        with image.open(io.BytesIO(_prepare(spec).bodies[0][0])) as opened:
            assert (opened.size, opened.mode) == ((12, 9), mode)


def test_raw_bytes_are_the_arrays() -> None:
    spec = {"inputs": {"x": {"shape": [2, 3], "low": 5, "high": 6}}, "body": "${x.raw}"}
    payloads = _prepare(spec)
    values = np.frombuffer(payloads.bodies[0][0], np.float32)
    assert values.shape == (6,)
    assert (values >= 5).all()
    assert payloads.headers == (("Content-Type", "application/octet-stream"),)


def test_real_images_are_resized_and_normalised(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (50, 40), (255, 0, 51)).save(tmp_path / "a.png")
    source = InputSource(path=tmp_path)
    tensor = np.asarray(_documents(_prepare(FCN, source=source, input_scale=0.5))[0]["tensor"])
    assert tensor.shape == (1, 3, 10, 15)
    expected = (np.array([1, 0, 0.2]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert tensor[0, :, 4, 4] == pytest.approx(expected, abs=1e-3)
    plain = {**FCN, "inputs": {"image": {**IMAGE, "normalise": None, "low": -1, "high": 1}}}
    tensor = np.asarray(_documents(_prepare(plain, source=source))[0]["tensor"])
    assert tensor[0, :, 4, 4] == pytest.approx([1, -1, -0.6], abs=1e-3)


def test_real_images_keep_their_pixels(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    image.fromarray(pixels).save(tmp_path / "a.png")
    spec = {"inputs": {"x": PIXELS}, "body": "${x.raw}"}
    body = _prepare(spec, source=InputSource(path=tmp_path / "a.png")).bodies[0][0]
    assert body == pixels.tobytes()


def test_arrays_of_a_file_are_sent_and_not_scaled(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, image=np.ones((2, 3, 20, 30), np.float32))
    source = InputSource(path=path)
    assert np.asarray(_documents(_prepare(FCN, source=source))[0]["tensor"]).min() == 1
    with pytest.raises(CannotTake, match=r"in\.npz holds cannot be scaled"):
        _prepare(FCN, source=source, input_scale=0.5)


def test_bodies_end_at_the_limit_with_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igniter_prof.load.http_payloads.LIMIT_BYTES", 1)
    assert len(_prepare(FCN).bodies) == 2


def test_what_is_there_already_can_be_sent_as_it_is() -> None:
    payloads = _prepare({"body": {"prompt": "hello"}, "headers": {"X-Trace": "1"}})
    assert set(payloads.bodies) == {(b'{"prompt": "hello"}', 0)}
    assert ("X-Trace", "1") in payloads.headers
    assert set(_prepare({}).bodies) == {(b"", 0)}


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"body": {"a": ["${imgae}"]}}, "body.a[0]", "no input 'imgae'.*\n.*mean 'image'"),
        ({"body": {"a": "x ${image}"}}, "body.a", "a reference is a whole string"),
        ({"body": {"${image}": 1}}, "body", "a key is no reference"),
        ({"body": {"a": "${image.webp}"}}, "body.a", "unknown form 'webp'"),
        ({"body": {"a": 1}}, "body", "'image' is not in the body"),
        ({"body": {"a": "${image}", "b": float("nan")}}, "body", "is no JSON"),
        ({"body": {"a": "${image}", "b": date(2026, 1, 1)}}, "body", "is no JSON"),
        ({"body": "${image.png}"}, "body", "is no image: FP32"),
        ({"inputs": {"image": {"shape": [3], "scaled_axes": [1]}}}, "inputs.image", "among its 1"),
        ({"inputs": {"image": {"shape": [3, 3], "scaled_axes": [1, -1]}}}, "inputs", "twice"),
        ({"inputs": {"image": {"shape": [0]}}}, "inputs.image", "below 1"),
        ({"inputs": {"image": {"shape": [3], "low": 2}}}, "inputs.image", "above high"),
        (
            {"inputs": {"image": {"shape": [3], "datatype": "UINT8", "high": 256}}},
            "inputs.image",
            "out of its range",
        ),
        (
            {"inputs": {"image": {"shape": [3], "normalise": "imagenet"}}},
            "inputs.image",
            "no image to normalise",
        ),
        ({"inputs": {"a b": {"shape": [3]}}}, "inputs.a b", "cannot be named"),
        ({"headers": {"Authorization": "Bearer hunter2"}}, "headers", "is a secret"),
        ({"headers": {"Content-Length": "3"}}, "headers", "made by the client itself"),
        ({"headers": {"X": "a\r\nb: hunter2"}}, "headers", "holds what a header may not"),
        ({"path": "/prädiktion"}, "path", "no path of a URL"),
        ({"ready_path": "health"}, "ready_path", "no path of a URL"),
        ({"success": {"status": []}}, "success.status", "no status"),
        ({"success": {"status": [101]}}, "success.status", "101"),
        (
            {"inputs": {"image": {"shape": [3]}}, "body": ["${image}", "${image.size}"]},
            "body[1]",
            "no scaled axes",
        ),
    ],
)
def test_what_is_wrong_is_said_before_the_sweep(
    changes: dict[str, Any], where: str, message: str
) -> None:
    with pytest.raises(BadInput, match=message) as refusal:
        check_http(HttpServer.model_validate({**FCN, **changes}), "sweep.yaml")
    assert where in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": "local"}, "starts Tritons only"),
        ({"protocol": "grpc"}, "served over HTTP"),
        ({"instances": [1, 2]}, "instances are Triton's"),
        ({"models": [{"name": "fcn", "http": FCN, "shapes": {"image": [3]}}]}, "for Triton's"),
    ],
)
def test_a_sweep_is_checked(changes: dict[str, Any], message: str) -> None:
    sweep = {
        "runtime": "remote",
        "address": "127.0.0.1:9",
        "models": [{"name": "fcn", "http": FCN}],
    }
    assert load_sweep(None, sweep).models[0].http is not None
    with pytest.raises(BadInput, match=message):
        load_sweep(None, {**sweep, **changes})


def test_negative_axes_count_from_the_end() -> None:
    spec = {"inputs": {"x": {"shape": [4, 6], "scaled_axes": [-1]}}, "body": ["${x.size}", "${x}"]}
    assert _documents(_prepare(spec, input_scale=0.5))[0][0] == [3]
    assert HttpInput(shape=(4, 6), scaled_axes=(-1,)).scaled_axes == (-1,)
