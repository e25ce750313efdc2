"""Rendered tenants on a real Triton: right answers, real batches, clear refusals."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from igniter_prof import zoo
from igniter_prof.config.devices import resolve_device
from igniter_prof.records import Tenant
from igniter_prof.serving import deploy, triton

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(
    triton.locate(None) is None and triton.unsupported() is not None,
    reason="no Triton runs on this machine",
)


def client(endpoint: Any) -> Any:
    import tritonclient.grpc

    return tritonclient.grpc.InferenceServerClient(endpoint.grpc_address)


def infer(endpoint: Any, **arrays: Any) -> Any:
    import tritonclient.grpc
    from tritonclient.utils import np_to_triton_dtype

    inputs = []
    for name, array in arrays.items():
        kind = np_to_triton_dtype(array.dtype)
        tensor = tritonclient.grpc.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return client(endpoint).infer(endpoint.model_name, inputs, client_timeout=60)


@pytest.fixture(scope="module")
def endpoints() -> Iterator[dict[str, Any]]:
    tenants = (
        Tenant(model="mlp", batch_size=8, queue_delay_us=100_000),
        Tenant(model="encoder", batch_size=2),
        Tenant(model="alexnet_dynamic"),
    )
    with deploy(resolve_device("cpu"), tenants) as deployment:
        yield {endpoint.tenant.model: endpoint for endpoint in deployment.endpoints}


def test_answers_are_onnx_runtime_s_own(endpoints: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    for name, arrays in {
        "mlp": {"x": random.standard_normal((3, 784), dtype=np.float32)},
        "encoder": {"input_ids": random.integers(0, 30522, (2, 50))},
        "alexnet_dynamic": {"image": random.standard_normal((1, 3, 100, 90), dtype=np.float32)},
    }.items():
        network = zoo.find(name)
        run = onnxruntime.InferenceSession(str(zoo.build(name)))
        answer = infer(endpoints[name], **arrays)
        for port, expected in zip(network.outputs, run.run(None, arrays), strict=True):
            np.testing.assert_allclose(answer.as_numpy(port.name), expected, rtol=1e-3, atol=1e-3)


def test_requests_that_wait_are_run_as_one(endpoints: dict[str, Any]) -> None:
    endpoint = endpoints["mlp"]
    arrays = [np.full((1, 784), index, dtype=np.float32) for index in range(8)]
    alone = [infer(endpoint, x=array).as_numpy("logits") for array in arrays]

    def counts() -> tuple[int, int]:
        (stats,) = client(endpoint).get_inference_statistics("mlp").model_stats
        return stats.inference_count, stats.execution_count

    inferences, executions = counts()
    together: list[Any] = [None] * len(arrays)

    def ask(index: int) -> None:
        together[index] = infer(endpoint, x=arrays[index]).as_numpy("logits")

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(arrays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = counts()
    assert after[0] - inferences == 8
    assert after[1] - executions <= 4
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_served_is_refused_clearly(endpoints: dict[str, Any]) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="batch-size must be <= 2"):
        infer(endpoints["encoder"], input_ids=np.zeros((3, 8), dtype=np.int64))
    with pytest.raises(InferenceServerException, match="smaller than 3x63x63"):
        infer(endpoints["alexnet_dynamic"], image=np.zeros((1, 3, 22, 22), dtype=np.float32))
