"""The cache of ONNX files: built once, whole or not at all, by however many processes at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from igniter_prof.errors import BadInput, IgprofError
from igniter_prof.files import atomic_write, cache_dir, make_cached, read_record, write_json
from igniter_prof.records import Record
from igniter_prof.zoo.catalog import Network, Port, find
from igniter_prof.zoo.graph import Graph

SEED: Final = 0


class Installed(Record):
    """A user's own weights for a network, as recorded beside them."""

    network: str
    file: str
    sha256: str
    source: str


class _KnownHash(Record):
    size: int
    mtime_ns: int
    sha256: str


def models_dir() -> Path:
    """The folder of the cache that holds ONNX files."""
    return make_cached(cache_dir() / "models")


def build(name: str, weights: Path | None = None) -> Path:
    """The ONNX file of a network, in the cache; built on first use.

    Args:
        name: a network's name or alias.
        weights: an ONNX file with real weights, to be served in place of the random ones from now
            on (until ``forget``). It must have the network's inputs and outputs.

    Returns:
        The user's own weights if there are any, else the seeded random ones.

    Raises:
        BadInput: no such network, or ``weights`` is no ONNX file of this network.
        MissingCapability: no disk space.
    """
    network = find(name)
    if weights is not None:
        return _install(network, weights)
    own = installed(name)
    if own is not None:
        return models_dir() / own.file
    path = random_path(network)
    with _lock(path):
        if not path.exists():
            _write_random(network, path)
    return path


def built(name: str) -> Path | None:
    """The file that ``build`` would return, if it is there already."""
    own = installed(name)
    path = models_dir() / own.file if own else random_path(find(name))
    return path if path.exists() else None


def installed(name: str) -> Installed | None:
    """The user's own weights for a network, if some are installed (and still there)."""
    record = _record_path(find(name))
    if not record.exists():
        return None
    own = read_record(record, Installed)
    return own if (models_dir() / own.file).exists() else None


def forget(name: str) -> bool:
    """Serve the random weights again; True if there were others. The user's file is not touched."""
    own = installed(name)
    _record_path(find(name)).unlink(missing_ok=True)
    if own is not None:
        (models_dir() / own.file).unlink(missing_ok=True)
    return own is not None


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal; remembered in the cache for as long as it is unchanged."""
    status = path.stat()
    # by identity, not by name: the same weights have a name in every rendered repository
    fresh = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    folder = make_cached(cache_dir() / "hashes")
    memory = folder / f"{status.st_dev}-{status.st_ino}.json"
    # what cannot be read is made again
    with contextlib.suppress(BadInput):
        known = read_record(memory, _KnownHash)
        if known.model_dump(exclude={"sha256"}) == fresh:
            return known.sha256
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
    write_json(memory, _KnownHash(**fresh, sha256=digest.hexdigest()))
    return digest.hexdigest()


def random_path(network: Network) -> Path:
    """Where the random weights of a network are, or will be.

    The name carries the hash of the definitions and the seed: a changed network is another file.
    """
    digest = hashlib.sha256(f"seed {SEED}".encode())
    for module in ("graph.py", "networks.py"):
        digest.update(Path(__file__).with_name(module).read_bytes())
    return models_dir() / f"{network.name}-{digest.hexdigest()[:12]}.onnx"


def _write_random(network: Network, path: Path) -> None:
    drawing = Graph(network.name, SEED)
    network.define(drawing)
    if drawing.parameters != network.parameters:
        raise IgprofError(
            f"{network.name} has {drawing.parameters} parameters, not {network.parameters}"
        )
    with atomic_write(path) as out:
        drawing.write(out)


def _install(network: Network, source: Path) -> Path:
    check_weights(network, source)
    digest = file_hash(source)
    path = models_dir() / f"{network.name}-own-{digest[:12]}.onnx"
    with _lock(path):
        if not path.exists():
            with source.open("rb") as reader, atomic_write(path) as out:
                shutil.copyfileobj(reader, out, 1 << 20)
    record = Installed(
        network=network.name, file=path.name, sha256=digest, source=str(source.resolve())
    )
    write_json(_record_path(network), record)
    return path


def check_weights(network: Network, path: Path) -> None:
    """See that an ONNX file can stand in for a network.

    Raises:
        BadInput: it is not there, is no ONNX file, keeps weights in other files, or its inputs or
            outputs differ in name, type or rank, or it takes one batch size only.
    """
    import onnx

    if not path.is_file():
        raise BadInput("no such file", where=str(path), hint="check the path")
    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        # the parser of protobuf, the checker and the C++ below it raise what they like
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise BadInput(f"is not a valid ONNX file ({reason})", where=str(path)) from error
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise BadInput(
            "keeps its weights in other files",
            where=str(path),
            hint="save it as one: onnx.save(onnx.load('IN.onnx'), 'OUT.onnx')",
        )
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    _compare("inputs", network.inputs, inputs, network, path)
    _compare("outputs", network.outputs, list(model.graph.output), network, path)


def _compare(
    kind: str, wanted: tuple[Port, ...], found: list[Any], network: Network, path: Path
) -> None:
    from onnx import TensorProto

    types = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}
    want = {port.name: (types[port.dtype], len(port.shape) + 1) for port in wanted}
    have = {
        value.name: (value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim))
        for value in found
    }
    if want != have:
        raise BadInput(
            f"its {kind} are {_describe(have)}; {network.name} has {_describe(want)}",
            where=str(path),
            hint="export it again with these names, or serve it from your own --repository",
        )
    for value in found:
        batch = value.type.tensor_type.shape.dim[0]
        if batch.HasField("dim_value") and batch.dim_value > 0:
            raise BadInput(
                f"'{value.name}' takes batches of {batch.dim_value} only",
                where=str(path),
                hint="export it again with a dynamic first axis",
            )


def _describe(ports: dict[str, tuple[int, int]]) -> str:
    from onnx import TensorProto

    return ", ".join(
        f"{name} ({TensorProto.DataType.Name(kind)}, {rank} axes)"
        for name, (kind, rank) in sorted(ports.items())
    )


def _record_path(network: Network) -> Path:
    return models_dir() / f"{network.name}-own.json"


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Be the only one, of all processes and threads, that makes ``path``."""
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
