"""A tenant's repository: what is written, what is linked, what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from igniter_prof import zoo
from igniter_prof.errors import BadInput
from igniter_prof.records import Tenant


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config_of(rendered: zoo.Rendered) -> Any:
    return zoo.read_config(rendered.repository / rendered.model_name / "config.pbtxt")


def test_a_tenant_without_a_queue_delay_gets_whole_batches(tmp_path: Path) -> None:
    tenant = Tenant(model="mlp", batch_size=4, instances=2)
    rendered = zoo.render(tenant, tmp_path / "out", threads=3)
    config = config_of(rendered)
    assert config.max_batch_size == 4
    assert not config.HasField("dynamic_batching")
    assert [(group.count, group.kind) for group in config.instance_group] == [(2, 2)]  # KIND_CPU
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert config.parameters["native_shape:x"].string_value == "784"
    assert rendered.threads == 3


def test_a_queue_delay_turns_dynamic_batching_on(tmp_path: Path) -> None:
    tenant = Tenant(model="mlp", batch_size=4, queue_delay_us=500)
    config = config_of(zoo.render(tenant, tmp_path / "out", threads=1))
    assert config.max_batch_size == 4
    assert config.dynamic_batching.max_queue_delay_microseconds == 500


def test_the_weights_are_not_copied(tmp_path: Path) -> None:
    rendered = zoo.render(Tenant(model="mlp"), tmp_path / "out", threads=1)
    assert (rendered.repository / "mlp/1/model.onnx").samefile(zoo.build("mlp"))


def test_the_model_is_named_as_the_tenant_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # stand-in weights: the real ones are 244 MB
    monkeypatch.setattr("igniter_prof.zoo.repository.build", lambda name: zoo.build("mlp"))
    rendered = zoo.render(Tenant(model="alexnet_dynamic"), tmp_path / "alias", threads=1)
    plain = zoo.render(Tenant(model="alexnet"), tmp_path / "plain", threads=1)
    assert rendered.model_name == config_of(rendered).name == "alexnet_dynamic"
    assert rendered.model_hash == plain.model_hash


def test_hashes_change_with_what_they_are_of(tmp_path: Path) -> None:
    one = zoo.render(Tenant(model="mlp"), tmp_path / "1", threads=1)
    same = zoo.render(Tenant(model="mlp"), tmp_path / "2", threads=1)
    other = zoo.render(Tenant(model="mlp", batch_size=2), tmp_path / "3", threads=1)
    assert (one.model_hash, one.config_hash) == (same.model_hash, same.config_hash)
    assert one.model_hash == other.model_hash
    assert one.config_hash != other.config_hash


def test_rendering_again_to_the_same_place_works(tmp_path: Path) -> None:
    first = zoo.render(Tenant(model="mlp"), tmp_path / "out", threads=1)
    assert zoo.render(Tenant(model="mlp"), tmp_path / "out", threads=1) == first
    assert sorted(path.name for path in (tmp_path / "out/mlp/1").iterdir()) == [
        "model.onnx",
        "model.py",
    ]


def test_the_onnxruntime_backend_needs_no_python(tmp_path: Path) -> None:
    rendered = zoo.render(
        Tenant(model="mlp"), tmp_path / "out", threads=2, backend="onnxruntime", device="cuda"
    )
    config = config_of(rendered)
    assert (config.backend, config.platform) == ("onnxruntime", "onnxruntime_onnx")
    assert config.default_model_filename == "model.onnx"
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert config.instance_group[0].kind == 1  # KIND_GPU
    assert [path.name for path in (tmp_path / "out/mlp/1").iterdir()] == ["model.onnx"]


def test_tensorrt_takes_a_plan(tmp_path: Path) -> None:
    tenant = Tenant(model="resnet50")
    with pytest.raises(BadInput, match="needs a plan"):
        zoo.render(tenant, tmp_path / "no", threads=1, backend="tensorrt")
    plan = tmp_path / "resnet50.plan"
    plan.write_bytes(b"engine")
    rendered = zoo.render(tenant, tmp_path / "out", threads=1, backend="tensorrt", plan=plan)
    config = config_of(rendered)
    assert (config.platform, config.instance_group[0].kind) == ("tensorrt_plan", 1)
    assert (tmp_path / "out/resnet50/1/model.plan").read_bytes() == b"engine"


# --- a user's own repository ----------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's repository: a model of theirs, one named as the zoo's, and an ensemble."""
    repository = tmp_path / "models"
    for name, config in {
        "theirs": 'backend: "python"  # as they wrote it\nmax_batch_size: 8\n',
        "mlp": 'name: "mlp" backend: "python" max_batch_size: 3\n',
        "chain": 'platform: "ensemble"\nensemble_scheduling {'
        ' step { model_name: "theirs" model_version: -1 } }\n',
    }.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config)
    for name in ("theirs", "mlp"):
        (repository / name / "1" / "model.py").write_text(f"# {name}\n")
    (repository / "theirs/1/big.bin").write_bytes(bytes(2 << 20))
    (repository / "theirs/1/__pycache__").mkdir()
    (repository / "theirs/1/__pycache__/model.pyc").write_bytes(b"")
    return repository


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_user_s_model_is_served_unchanged(tmp_path: Path, own: Path) -> None:
    before = snapshot(own)
    tenant = Tenant(model="theirs", batch_size=64)
    rendered = zoo.render(tenant, tmp_path / "out", threads=2, repository=own)
    copy = tmp_path / "out/theirs"
    assert (copy / "config.pbtxt").read_bytes() == (own / "theirs/config.pbtxt").read_bytes()
    assert (copy / "1/model.py").read_text() == "# theirs\n"
    assert (copy / "1/big.bin").samefile(own / "theirs/1/big.bin")
    assert not (copy / "1/__pycache__").exists()
    assert rendered.threads is None
    assert snapshot(own) == before


def test_what_a_tenant_says_outright_is_set_in_the_copy_only(tmp_path: Path, own: Path) -> None:
    before = snapshot(own)
    tenant = Tenant(model="theirs", batch_size=4, instances=3, queue_delay_us=100)
    config = config_of(zoo.render(tenant, tmp_path / "out", threads=2, repository=own))
    assert config.instance_group[0].count == 3
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert config.max_batch_size == 4
    assert snapshot(own) == before


def test_a_user_s_model_goes_before_the_zoo_s_of_the_same_name(tmp_path: Path, own: Path) -> None:
    zoo.render(Tenant(model="mlp"), tmp_path / "out", threads=1, repository=own)
    assert (tmp_path / "out/mlp/1/model.py").read_text() == "# mlp\n"


def test_the_zoo_s_own_repository_is_no_user_s(tmp_path: Path) -> None:
    root = zoo.repository_root()
    zoo.render(Tenant(model="mlp"), tmp_path / "out", threads=1, repository=root)
    assert (tmp_path / "out/mlp/1/model.onnx").exists()


def test_the_zoo_is_there_beside_a_user_s_repository(tmp_path: Path, own: Path) -> None:
    (own / "mlp/config.pbtxt").unlink()
    for path in (own / "mlp/1/model.py",):
        path.unlink()
    (own / "mlp/1").rmdir()
    rendered = zoo.render(Tenant(model="mlp"), tmp_path / "out", threads=1, repository=own)
    assert rendered.threads == 1


def test_an_ensemble_brings_its_steps(tmp_path: Path, own: Path) -> None:
    zoo.render(Tenant(model="chain"), tmp_path / "out", threads=1, repository=own)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["chain", "theirs"]


def test_an_unknown_model_gets_the_nearest_of_both(tmp_path: Path, own: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'theirs'"):
        zoo.render(Tenant(model="their"), tmp_path / "out", threads=1, repository=own)
    with pytest.raises(BadInput, match="did you mean 'resnet50'"):
        zoo.render(Tenant(model="resnet-50"), tmp_path / "out", threads=1, repository=own)
    assert not (tmp_path / "out").exists()


def test_a_repository_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such model repository"):
        zoo.render(Tenant(model="x"), tmp_path / "o", threads=1, repository=tmp_path / "none")


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, own: Path) -> None:
    (own / "theirs/config.pbtxt").write_text("max_batch_size: many\n")
    with pytest.raises(BadInput, match=r"(?s)theirs/config.pbtxt.*1:17"):
        zoo.render(Tenant(model="theirs"), tmp_path / "out", threads=1, repository=own)


# --- a plain Triton -------------------------------------------------------------------------------


def test_install_adds_what_is_missing_only(tmp_path: Path) -> None:
    folder = zoo.install("mlp", tmp_path / "repository")
    assert (folder / "1/model.onnx").samefile(zoo.build("mlp"))
    assert (folder / "labels.txt").exists()
    (folder / "config.pbtxt").write_text("# mine\n")
    zoo.install("mlp", tmp_path / "repository")
    assert (folder / "config.pbtxt").read_text() == "# mine\n"


def test_install_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file"):
        zoo.install("mlp", tmp_path / "file")
