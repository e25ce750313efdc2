"""A model of Triton's Python backend that runs an ONNX file on ONNX Runtime.

This file runs inside the server, never inside igprof. It is copied to ``NAME/1/model.py``; change
it in ``igniter_prof/zoo/onnx_model.py`` only. Parameters that it reads from ``config.pbtxt``:

``model_file``                 the ONNX file, beside this one (``model.onnx``)
``intra_op_thread_count``      threads that one inference may use (all CPUs of the process)
``allow_spinning``             1: idle threads poll for work (0: they sleep, and use up no quota)
``minimum_shape:<input>``      the least shape without the batch, as in ``3,63,63``

All requests that Triton hands over at once and whose shapes agree are run as one batch.

With NumPy 2, tensors come and go by DLPack: the Python stubs of Triton 2.51 were built for NumPy 1,
and their ``Tensor(name, array)`` then answers with empty tensors and no error. With NumPy 1 it is
the other way round: there an output by DLPack ends the stub's process.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

BY_DLPACK = int(np.__version__.split(".")[0]) >= 2


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the ONNX file."""
        config = json.loads(args["model_config"])
        self.parameters = {
            key: value["string_value"] for key, value in config.get("parameters", {}).items()
        }
        self.inputs = [port["name"] for port in config["input"]]
        self.outputs = [port["name"] for port in config["output"]]
        self.minimum = {
            name: tuple(int(size) for size in text.split(","))
            for name, text in ((n, self.parameters.get("minimum_shape:" + n)) for n in self.inputs)
            if text
        }
        folder = Path(args["model_repository"]) / args["model_version"]
        path = folder / self.parameters.get("model_file", "model.onnx")
        if not path.exists():
            raise pb_utils.TritonModelException(
                f"{path} is not there; put it there with:"
                f" igprof zoo build {args['model_name']} --into MODEL_REPOSITORY"
            )
        providers = _providers(args)
        self.session = onnxruntime.InferenceSession(str(path), self._options(), providers=providers)
        used = self.session.get_providers()[0]
        if used not in str(providers[0]):
            # else it would go on, far slower, and be taken for a GPU
            raise pb_utils.TritonModelException(f"ONNX Runtime fell back to {used}")

    def _options(self) -> onnxruntime.SessionOptions:
        threads = int(self.parameters.get("intra_op_thread_count", 0))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # under a CPU quota a thread that spins takes the time that the next inference needs
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", self.parameters.get("allow_spinning", "0")
        )
        return options

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, in their order; those that cannot be answered get an error each."""
        responses = [None] * len(requests)
        groups: dict[Any, list[Any]] = {}
        for index, request in enumerate(requests):
            arrays = [
                _array(pb_utils.get_input_tensor_by_name(request, name)) for name in self.inputs
            ]
            problem = self._problem(arrays)
            if problem:
                responses[index] = _failure(problem)
            else:
                # the first axis is the batch: it alone may differ within a run
                shapes = tuple(array.shape[1:] for array in arrays)
                groups.setdefault(shapes, []).append((index, arrays))
        for members in groups.values():
            answers = self._run([arrays for _, arrays in members])
            for (index, _), answer in zip(members, answers):  # noqa: B905 - Python 3.8
                responses[index] = answer
        return responses

    def _problem(self, arrays: list[Any]) -> str | None:
        for name, array in zip(self.inputs, arrays):  # noqa: B905
            least = self.minimum.get(name, ())
            if any(size < low for size, low in zip(array.shape[1:], least)):  # noqa: B905
                return (
                    f"input '{name}' of shape {_shape(array.shape[1:])} is smaller than"
                    f" {_shape(least)}, the least that this network takes"
                )
        return None

    def _run(self, batches: list[Any]) -> list[Any]:
        """Run requests of equal shape as one batch; a response for each."""
        sizes = [len(arrays[0]) for arrays in batches]
        if len(batches) == 1:
            joined = batches[0]
        else:
            joined = [np.concatenate(parts) for parts in zip(*batches)]  # noqa: B905
        try:
            results = self.session.run(self.outputs, dict(zip(self.inputs, joined)))  # noqa: B905
        except Exception as error:  # what ONNX Runtime raises has no common class
            return [_failure(str(error)) for _ in batches]
        ends = np.cumsum(sizes)
        return [
            pb_utils.InferenceResponse(
                [
                    _tensor(name, result[end - size : end])
                    for name, result in zip(self.outputs, results)  # noqa: B905
                ]
            )
            for size, end in zip(sizes, ends)  # noqa: B905
        ]


def _array(tensor: Any) -> Any:
    return np.from_dlpack(tensor) if BY_DLPACK else tensor.as_numpy()


def _tensor(name: str, array: Any) -> Any:
    if BY_DLPACK:
        return pb_utils.Tensor.from_dlpack(name, array)
    return pb_utils.Tensor(name, array)


def _failure(message: str) -> Any:
    return pb_utils.InferenceResponse([], error=pb_utils.TritonError(message))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _providers(args: dict[str, str]) -> list[Any]:
    if args["model_instance_kind"] != "GPU":
        return ["CPUExecutionProvider"]
    device = {"device_id": args["model_instance_device_id"]}
    return [("CUDAExecutionProvider", device), "CPUExecutionProvider"]
