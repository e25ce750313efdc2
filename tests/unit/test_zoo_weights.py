"""The cache of weights: seeded, whole or absent, the user's own if they fit."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from igniter_prof import zoo
from igniter_prof.errors import BadInput
from igniter_prof.zoo import weights
from igniter_prof.zoo.catalog import find
from igniter_prof.zoo.graph import Graph, _field


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "igprof" / "models"


def perceptron(
    path: Path, *, input_name: str = "x", batch: str | int = "n", middle: tuple[int, ...] = ()
) -> Path:
    """A one-layer network with the ports of ``mlp``, or nearly so."""
    weight = np.full((784, 10), 0.5, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", [input_name, "w"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [batch, *middle, 784])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, *middle, 10])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, str(path))
    return path


def test_a_built_file_is_valid_onnx_with_the_published_parameters() -> None:
    path = zoo.build("mlp")
    onnx.checker.check_model(str(path), full_check=True)
    tensors = onnx.load(str(path)).graph.initializer
    # Keras prints 669,706 for its mnist_mlp example
    assert sum(np.prod(tensor.dims) for tensor in tensors) == 669_706


def test_building_again_builds_nothing() -> None:
    path = zoo.build("mlp")
    before = path.stat()
    assert zoo.build("mlp") == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_same_definition_gives_the_same_bytes() -> None:
    path = zoo.build("mlp")
    first = path.read_bytes()
    path.unlink()
    assert zoo.build("mlp").read_bytes() == first


def test_another_seed_is_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = zoo.build("mlp")
    monkeypatch.setattr(weights, "SEED", 1)
    other = zoo.build("mlp")
    assert other != path
    assert other.read_bytes() != path.read_bytes()


def test_a_build_that_breaks_off_leaves_no_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(self: Graph, out: object) -> None:
        out.write(b"half a file")  # type: ignore[attr-defined]
        raise RuntimeError("killed")

    monkeypatch.setattr(Graph, "write", half)
    with pytest.raises(RuntimeError, match="killed"):
        zoo.build("mlp")
    assert zoo.built("mlp") is None
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def _build_and_say(where: str, answers: multiprocessing.Queue[tuple[int, str]]) -> None:
    os.environ["XDG_CACHE_HOME"] = where
    writes = 0
    original = weights._write_random

    def counted(network: zoo.Network, path: Path) -> None:
        nonlocal writes
        writes += 1
        original(network, path)

    weights._write_random = counted
    path = zoo.build("mlp")
    answers.put((writes, weights.file_hash(path)))


def test_builders_at_the_same_time_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    builders = [
        context.Process(target=_build_and_say, args=(str(tmp_path / "cache"), answers))
        for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    said = [answers.get(timeout=60) for _ in builders]
    for builder in builders:
        builder.join()
    assert sum(writes for writes, _ in said) == 1
    assert len({digest for _, digest in said}) == 1


def test_own_weights_are_served_until_they_are_forgotten(tmp_path: Path) -> None:
    random = zoo.build("mlp")
    source = perceptron(tmp_path / "trained.onnx")
    own = zoo.build("mlp", source)
    assert own != random
    assert own.read_bytes() == source.read_bytes()
    assert zoo.build("mlp") == own
    record = zoo.installed("mlp")
    assert record is not None
    assert record.sha256 == zoo.file_hash(source)

    source.unlink()
    assert zoo.build("mlp") == own, "the cache has its own copy"
    assert zoo.forget("mlp")
    assert zoo.build("mlp") == random
    assert not zoo.forget("mlp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_name": "pixels"}, "its inputs are pixels"),
        ({"middle": (1,)}, "3 axes"),
        ({"batch": 1}, "batches of 1 only"),
    ],
)
def test_weights_of_another_network_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    source = perceptron(tmp_path / "other.onnx", **change)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=message):
        zoo.build("mlp", source)
    assert zoo.installed("mlp") is None


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    whole = perceptron(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="not a valid ONNX file"):
        zoo.build("mlp", tmp_path / "half.onnx")


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    model = onnx.load(str(perceptron(tmp_path / "one.onnx")))
    path = tmp_path / "two.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="two.bin")
    with pytest.raises(BadInput, match="in other files"):
        zoo.build("mlp", path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        zoo.build("mlp", tmp_path / "none.onnx")


def test_a_hash_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = zoo.file_hash(path)
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert zoo.file_hash(path) == first
    path.write_bytes(b"two!")
    assert zoo.file_hash(path) != first


def test_a_spoilt_memory_of_hashes_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = zoo.file_hash(path)
    for memory in (tmp_path / "cache" / "igprof" / "hashes").iterdir():
        memory.write_text("{")
    assert zoo.file_hash(path) == first


def test_fields_are_framed_as_protobuf_frames_them() -> None:
    for size in (1, 127, 128, 300, 16_383, 16_384, 3_000_000):
        data = bytes(size)
        assert _field(9, size) + data == onnx.TensorProto(raw_data=data).SerializeToString()


def test_a_wrong_definition_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(find("mlp"), parameters=1)
    with pytest.raises(Exception, match="669706 parameters, not 1"):
        weights._write_random(wrong, weights.random_path(wrong))
    assert not weights.random_path(wrong).exists()
