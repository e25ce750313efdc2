"""Renders Triton model repositories: one tenant's, or a whole network for a plain Triton."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.files import atomic_write, write_error
from igniter_prof.records import Tenant, digest_of
from igniter_prof.zoo.catalog import Network, find, known_names
from igniter_prof.zoo.weights import build, file_hash

Backend = Literal["python", "onnxruntime", "tensorrt"]
CONFIG: Final = "config.pbtxt"
SMALL_BYTES: Final = 1 << 20
"""Files up to this size are copied, larger ones linked."""


@dataclass(frozen=True)
class Rendered:
    """A model repository that holds one tenant."""

    model_name: str
    """The model's name on its server."""
    repository: Path
    """The folder to hand to Triton."""
    model_hash: str
    """SHA-256 over the files that Triton runs (weights, model.py, labels)."""
    config_hash: str | None
    """SHA-256 of config.pbtxt; None where a user's model has none."""
    threads: int | None
    """Threads of one inference, as configured; None where a user's model decides on its own."""


def repository_root() -> Path:
    """The committed ``model_repository/``: the packaged one, else the checkout's."""
    packaged = Path(__file__).with_name("model_repository")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "model_repository"


def render(
    tenant: Tenant,
    destination: Path,
    *,
    threads: int,
    repository: Path | None = None,
    backend: Backend = "python",
    device: Literal["cpu", "cuda"] = "cpu",
    plan: Path | None = None,
) -> Rendered:
    """Write a Triton model repository with this one tenant.

    A model that the user's ``repository`` holds is taken from there, unchanged but for what the
    tenant says outright (several instances, a queue delay); everything else is from the zoo. The
    model is named as the tenant names it, aliases included.

    Args:
        tenant: its batch size, instances and queue delay are written into the configuration.
            Without a queue delay there is no dynamic batching: requests carry whole batches.
        destination: an empty or new folder.
        threads: of one inference (ONNX Runtime's intra-op pool).
        repository: a user's own Triton model repository; nothing is written there.
        backend: ``python`` runs ONNX Runtime in Triton's Python backend; ``onnxruntime`` and
            ``tensorrt`` are in NVIDIA's image.
        device: where the instances are.
        plan: the TensorRT engine, for ``tensorrt`` only.

    Raises:
        BadInput: no such model, or ``tensorrt`` without a plan.
    """
    name = tenant.model
    own = _own_folder(name, repository)
    folder = destination / name
    if own is not None and repository is not None:
        _mirror_with_steps(name, repository, destination)
        _apply_to_own(tenant, folder)
        return _rendered(destination, name, threads=None)
    network = find_model(name, repository)
    source = repository_root() / network.name
    version = folder / "1"
    version.mkdir(parents=True, exist_ok=True)
    for labels in source.glob("*.txt"):
        shutil.copyfile(labels, folder / labels.name)
    if backend == "tensorrt":
        _link(_plan_file(name, plan), version / "model.plan")
    else:
        _link(build(network.name), version / "model.onnx")
    if backend == "python":
        shutil.copyfile(source / "1" / "model.py", version / "model.py")
    config = read_config(source / CONFIG)
    config.name = name
    _set_backend(config, backend, threads)
    _set_tenant(config, tenant)
    _set_instances(config, tenant.instances, "cuda" if backend == "tensorrt" else device)
    write_config(folder / CONFIG, config)
    return _rendered(destination, name, threads=threads)


def install(name: str, repository: Path) -> Path:
    """Put a network into a model repository that a plain Triton loads; its folder there.

    Only what is missing is written, except that the weights become the current ones.

    Raises:
        BadInput: no such network, or ``repository`` cannot be written.
    """
    network = find(name)
    source = repository_root() / network.name
    folder = repository / network.name
    weights = build(network.name)
    try:
        (folder / "1").mkdir(parents=True, exist_ok=True)
        for path in source.rglob("*"):
            target = folder / path.relative_to(source)
            if path.suffix in (".pbtxt", ".py", ".txt") and not target.exists():
                shutil.copyfile(path, target)
        _link(weights, folder / "1" / "model.onnx")
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def find_model(name: str, repository: Path | None) -> Network:
    """The zoo's network; an error names what both the zoo and the repository hold."""
    own = _models_in(repository) if repository is not None else []
    known = [*known_names(), *own]
    if name not in known:
        place = "in the zoo" if repository is None else f"in the zoo or in {repository}"
        raise BadInput(f"no model '{name}' {place}", hint=did_you_mean(name, known))
    return find(name)


def read_config(path: Path) -> Any:
    """A ``config.pbtxt`` as Triton's ``ModelConfig`` message. Raises BadInput with its line."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise BadInput(f"is not a Triton configuration: {error}", where=str(path)) from error
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(path)) from error


# --- the configuration of a tenant ----------------------------------------------------------------


def _set_backend(config: Any, backend: Backend, threads: int) -> None:
    platforms = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
    files = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
    config.backend = backend
    config.platform = platforms.get(backend, "")
    config.default_model_filename = files.get(backend, "")
    if backend != "tensorrt":
        # the name that Triton's own ONNX Runtime backend knows; ours reads the same
        config.parameters["intra_op_thread_count"].string_value = str(threads)


def _set_tenant(config: Any, tenant: Tenant) -> None:
    config.max_batch_size = tenant.batch_size
    config.ClearField("dynamic_batching")
    if tenant.queue_delay_us is not None:
        config.dynamic_batching.max_queue_delay_microseconds = tenant.queue_delay_us


def _set_instances(config: Any, count: int, device: Literal["cpu", "cuda"]) -> None:
    from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

    kind = ModelInstanceGroup.KIND_GPU if device == "cuda" else ModelInstanceGroup.KIND_CPU
    config.ClearField("instance_group")
    config.instance_group.add(count=count, kind=kind)


def write_config(path: Path, config: Any) -> None:
    """Write Triton's ``ModelConfig`` message as a ``config.pbtxt``."""
    from google.protobuf import text_format

    with atomic_write(path) as out:
        out.write(text_format.MessageToString(config, as_utf8=True).encode())


def _plan_file(name: str, plan: Path | None) -> Path:
    if plan is None:
        raise BadInput(
            f"the tensorrt backend needs a plan for '{name}'",
            hint="make one on the GPU that it will run on: trtexec --onnx=... --saveEngine=...",
        )
    if not plan.is_file():
        raise BadInput("no such TensorRT plan", where=str(plan), hint="check the path")
    return plan


# --- a user's own repository ----------------------------------------------------------------------


def _models_in(repository: Path) -> list[str]:
    if not repository.is_dir():
        raise BadInput("no such model repository", where=str(repository), hint="check the path")
    return sorted(
        path.name
        for path in repository.iterdir()
        if (path / CONFIG).exists() or any(child.name.isdigit() for child in _children(path))
    )


def _children(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


def _own_folder(name: str, repository: Path | None) -> Path | None:
    """The model's folder in a user's repository; the zoo's own, which has no weights, is none."""
    if repository is None or repository.resolve() == repository_root().resolve():
        return None
    return repository / name if name in _models_in(repository) else None


def _mirror_with_steps(name: str, repository: Path, destination: Path) -> None:
    """Mirror a model and, of an ensemble, the models that it is composed of."""
    waiting, done = [name], set[str]()
    while waiting:
        model = waiting.pop()
        done.add(model)
        folder = repository / model
        if not folder.is_dir():
            raise BadInput(
                f"no model '{model}', which an ensemble is composed of", where=str(repository)
            )
        _mirror(folder, destination / model)
        if (folder / CONFIG).exists():
            steps = read_config(folder / CONFIG).ensemble_scheduling.step
            waiting += [step.model_name for step in steps if step.model_name not in done]


def _mirror(source: Path, target: Path) -> None:
    """Make a folder with the same files: real folders, so that what a server writes stays there."""
    for folder, folders, files in os.walk(source, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        copied = target / Path(folder).relative_to(source)
        copied.mkdir(parents=True, exist_ok=True)
        for path in (Path(folder) / name for name in files):
            if path.stat().st_size <= SMALL_BYTES:
                shutil.copy(path, copied / path.name)
            else:
                _link(path, copied / path.name)


def _apply_to_own(tenant: Tenant, folder: Path) -> None:
    """Write what the tenant says outright into our copy of a user's configuration."""
    if tenant.instances == 1 and tenant.queue_delay_us is None:
        return
    path = folder / CONFIG
    if not path.exists():
        raise BadInput(
            f"'{tenant.model}' has no {CONFIG}, so its instances and queue delay cannot be set",
            hint=f"add a {CONFIG}, or leave out instances and queue_delay_us",
        )
    config = read_config(path)
    if tenant.queue_delay_us is not None:
        config.dynamic_batching.max_queue_delay_microseconds = tenant.queue_delay_us
        config.max_batch_size = min(config.max_batch_size, tenant.batch_size)
    if tenant.instances > 1:
        if not config.instance_group:
            config.instance_group.add()
        for group in config.instance_group:
            group.count = tenant.instances
    path.unlink()
    write_config(path, config)


# --- files ----------------------------------------------------------------------------------------


def _rendered(destination: Path, name: str, *, threads: int | None) -> Rendered:
    config = destination / name / CONFIG
    files = {
        os.path.relpath(path, destination / name): file_hash(path)
        if path.stat().st_size > SMALL_BYTES
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(destination.rglob("*"))
        if path.is_file() and path.name != CONFIG and "__pycache__" not in path.parts
    }
    return Rendered(
        model_name=name,
        repository=destination,
        model_hash=digest_of(files),
        config_hash=hashlib.sha256(config.read_bytes()).hexdigest() if config.exists() else None,
        threads=threads,
    )


def _link(source: Path, target: Path) -> None:
    """Give a big file a second name, at once and whole.

    A hard link where the file system allows it: it holds in a container that sees the target's
    folder only, and outlives the cache. Else a symbolic link.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    source = source.resolve()
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        os.link(source, temporary)
    except OSError:
        temporary.symlink_to(source)
    temporary.replace(target)
    # rename() leaves both names where they are one file already
    temporary.unlink(missing_ok=True)
