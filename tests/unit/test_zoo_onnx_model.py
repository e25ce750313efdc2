"""The model that runs in the server: batches across requests, splits again, fails clearly."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("onnxruntime")


class FakeTensor:
    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    @staticmethod
    def from_dlpack(name: str, array: Any) -> FakeTensor:
        return FakeTensor(name, np.from_dlpack(array))

    def as_numpy(self) -> Any:
        return self.array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class FakeResponse:
    def __init__(self, tensors: list[FakeTensor], error: str | None = None) -> None:
        self.tensors, self.error = tensors, error


@pytest.fixture
def model_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class under test, on a stand-in for the module that only a server has."""
    fake = types.ModuleType("triton_python_backend_utils")
    fake.Tensor = FakeTensor  # type: ignore[attr-defined]
    fake.InferenceResponse = FakeResponse  # type: ignore[attr-defined]
    fake.TritonError = str  # type: ignore[attr-defined]
    fake.TritonModelException = RuntimeError  # type: ignore[attr-defined]
    fake.get_input_tensor_by_name = lambda request, name: request[name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    monkeypatch.delitem(sys.modules, "igniter_prof.zoo.onnx_model", raising=False)
    from igniter_prof.zoo.onnx_model import TritonPythonModel

    return TritonPythonModel


def load(model_class: Any, folder: Path, **parameters: str) -> Any:
    """An instance that serves y = 2·x for x of any length, and counts its runs."""
    (folder / "1").mkdir(exist_ok=True)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "k"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "k"])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(graph, ir_version=8, opset_imports=opset), str(folder / "1/model.onnx")
    )
    return start(model_class, folder, **parameters)


def start(model_class: Any, folder: Path, **parameters: str) -> Any:
    config = {
        "input": [{"name": "x"}],
        "output": [{"name": "y"}],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }
    model = model_class()
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(folder),
            "model_version": "1",
            "model_name": "double",
            "model_instance_kind": "CPU",
        }
    )
    session, model.batches = model.session, []

    class Counted:
        def run(self, outputs: list[str], feed: dict[str, Any]) -> Any:
            model.batches.append(len(feed["x"]))
            return session.run(outputs, feed)

    model.session = Counted()
    return model


def request(batch: int, length: int, first: float) -> dict[str, FakeTensor]:
    values = np.arange(first, first + batch * length, dtype=np.float32).reshape(batch, length)
    return {"x": FakeTensor("x", values)}


def test_requests_of_one_shape_are_one_batch(model_class: Any, tmp_path: Path) -> None:
    model = load(model_class, tmp_path)
    requests = [request(1, 4, 0), request(3, 4, 100), request(2, 4, 200)]
    responses = model.execute(requests)
    assert model.batches == [6]
    for asked, response in zip(requests, responses, strict=True):
        assert response.error is None
        np.testing.assert_array_equal(response.tensors[0].array, 2 * asked["x"].array)


def test_other_shapes_run_apart_and_answers_keep_their_order(
    model_class: Any, tmp_path: Path
) -> None:
    model = load(model_class, tmp_path)
    requests = [request(1, 4, 0), request(1, 7, 10), request(2, 4, 20)]
    responses = model.execute(requests)
    assert sorted(model.batches) == [1, 3]
    for asked, response in zip(requests, responses, strict=True):
        np.testing.assert_array_equal(response.tensors[0].array, 2 * asked["x"].array)


def test_a_request_that_is_too_small_fails_alone(model_class: Any, tmp_path: Path) -> None:
    model = load(model_class, tmp_path, **{"minimum_shape:x": "4"})
    good, bad = model.execute([request(1, 4, 0), request(1, 3, 0)])
    assert good.error is None
    assert "of shape 3 is smaller than 4" in bad.error


def test_a_run_that_fails_is_the_answer_of_its_requests(model_class: Any, tmp_path: Path) -> None:
    model = load(model_class, tmp_path)
    wrong = {"x": FakeTensor("x", np.zeros((1, 2, 2), dtype=np.float32))}
    good, bad = model.execute([request(1, 4, 0), wrong])
    assert good.error is None
    assert "rank" in bad.error.lower()


def test_missing_weights_name_the_command(model_class: Any, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    with pytest.raises(RuntimeError, match="igprof zoo build double --into"):
        start(model_class, tmp_path)


def test_threads_are_the_configured_ones(model_class: Any, tmp_path: Path) -> None:
    model = load(model_class, tmp_path, intra_op_thread_count="3")
    assert model._options().intra_op_num_threads == 3
    assert model._options().get_session_config_entry("session.intra_op.allow_spinning") == "0"
