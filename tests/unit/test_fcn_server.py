"""The Flask server of FCN-ResNet50, its network aside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.scripts import SCRIPTS, load

pytest.importorskip("flask")
pytest.importorskip("onnxruntime")
server = load(SCRIPTS / "images" / "fcn_resnet50" / "server.py")


class Answers:
    """In the network's place: the brightest channel is a pixel's class."""

    provider = "CPUExecutionProvider"

    def segment(self, tensor: Any, size: tuple[int, int]) -> Any:
        return server.nearest(tensor[0].argmax(axis=0), size)


@pytest.fixture
def client() -> Any:
    return server.make_app(Answers()).test_client()


def test_a_map_of_classes_is_resized_to_the_nearest() -> None:
    classes = np.array([[1, 2], [3, 4]])
    assert server.nearest(classes, (4, 2)).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert server.nearest(classes, (1, 1)).tolist() == [[4]]
    large = np.arange(12).reshape(3, 4)
    assert server.nearest(large, (3, 4)).tolist() == large.tolist()


def test_the_server_answers_as_the_tutorials_does(client: Any) -> None:
    assert client.get("/health").json["status"] == "ok"
    tensor = np.zeros((1, 3, 2, 4), dtype=np.float32)
    tensor[0, 2, :, 2:] = 1
    answer = client.post("/predict", json={"tensor": tensor.tolist(), "orig_size": [3, 8]})
    assert answer.status_code == 200
    assert answer.json == {"segmentation": [[0, 0, 0, 0, 2, 2, 2, 2]] * 3}
    answer = client.post("/predict", json={"tensor": tensor.tolist()})
    assert np.shape(answer.json["segmentation"]) == (2, 4)


IMAGE = np.zeros((1, 3, 2, 2)).tolist()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "JSON with 'tensor'"),
        ({}, "JSON with 'tensor'"),
        ({"tensor": [[1], [2, 3]]}, "nested lists"),
        ({"tensor": "x"}, "nested lists"),
        ({"tensor": {"0": 1}}, "nested lists"),
        ({"tensor": [[[[1.0]]]]}, "[1, 1, 1, 1]"),
        ({"tensor": np.zeros((1, 3, 0, 2)).tolist()}, "shape"),
        ({"tensor": np.zeros((1, 3, 1, server.LONGEST_SIDE + 1)).tolist()}, "side of more"),
        ({"tensor": [[[[None]], [[1]], [[2]]]]}, "not finite"),
        ({"tensor": IMAGE, "orig_size": [10**6, 1]}, "orig_size"),
        ({"tensor": IMAGE, "orig_size": [True, 1]}, "orig_size"),
        ({"tensor": IMAGE, "orig_size": [2]}, "orig_size"),
        ({"tensor": IMAGE, "orig_size": "2x2"}, "orig_size"),
    ],
)
def test_bad_requests_are_refused_in_words(client: Any, document: Any, message: str) -> None:
    answer = client.post("/predict", json=document)
    assert answer.status_code == 400
    assert message in answer.json["error"]


def test_what_is_no_json_is_refused(client: Any) -> None:
    assert client.post("/predict", data=b"\xff{").status_code == 400
