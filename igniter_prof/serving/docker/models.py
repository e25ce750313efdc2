"""What goes into a tenant's container: its model, checked, readable, and nothing that leads out."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from igniter_prof.errors import BadInput

if TYPE_CHECKING:
    from igniter_prof.zoo import Rendered

_NAME = re.compile(r"[^-./\\\x00-\x1f][^/\\\x00-\x1f]*")
_NO_WEIGHTS = {".py", ".pbtxt", ".txt", ".json", ".md", ".yaml", ".yml"}


def check_own(repository: Path, model: str) -> None:
    """Check a model of a user's own repository before a byte of it is copied.

    Links that lead out of the repository would carry files of this host into a container; so would
    the name of an ensemble's step that is no name. What is no file and no folder is refused too.

    Raises:
        BadInput: names the file and where it leads.
    """
    waiting, done = [model], set[str]()
    while waiting:
        name = waiting.pop()
        done.add(name)
        if not _NAME.fullmatch(name):
            raise BadInput(f"{name!r} is no name of a model", where=str(repository))
        if not (repository / name).is_dir():
            continue  # of the zoo, or missing: rendering tells
        _check_folder(repository, repository / name)
        config = repository / name / "config.pbtxt"
        if config.exists():
            from igniter_prof.zoo.repository import read_config

            steps = read_config(config).ensemble_scheduling.step
            waiting += [step.model_name for step in steps if step.model_name not in done]


def _check_folder(repository: Path, folder: Path) -> None:
    root = repository.resolve()
    _check_entry(root, folder)
    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        if real in seen:
            raise BadInput("is a link that leads in a circle", where=place)
        seen.add(real)
        for name in (*folders, *names):
            _check_entry(root, Path(place) / name)


def _check_entry(root: Path, path: Path) -> None:
    target = path.resolve()
    if target != root and root not in target.parents:
        raise BadInput(
            f"leads out of the model repository, to {target}",
            where=str(path),
            hint="put the file itself there; the docker runtime follows no link out of it",
        )
    if not path.exists():
        raise BadInput("is a link that leads nowhere", where=str(path))
    if not (path.is_file() or path.is_dir()):
        raise BadInput("is neither a file nor a folder", where=str(path))


def make_readable(folder: Path) -> None:
    """Let any user read a rendered repository: the server runs as nobody.

    A large file has the mode of what it was linked to, which is not ours to change: one that not
    everybody may read is copied. So is one behind a symbolic link, which would hang in the air.

    Raises:
        BadInput: a file cannot be read.
    """
    folder.chmod(0o755)
    for place, folders, names in os.walk(folder):
        for name in folders:
            (Path(place) / name).chmod(0o755)
        for path in (Path(place) / name for name in names):
            found = path.stat()
            if not path.is_symlink() and found.st_mode & stat.S_IROTH:
                continue
            try:
                copied = path.with_name(f".{path.name}.copy")
                shutil.copyfile(path, copied)
                copied.chmod(0o644)
                copied.replace(path)
            except OSError as error:
                raise BadInput(f"cannot be read: {error.strerror}", where=str(path)) from error


def weight_bytes(rendered: Rendered) -> int | None:
    """Size of the model's weights: what lies in its version folders and is no text."""
    folder = rendered.repository / rendered.model_name
    sizes = [
        path.stat().st_size
        for version in folder.glob("[0-9]*")
        for path in version.rglob("*")
        if path.is_file() and path.suffix not in _NO_WEIGHTS
    ]
    return sum(sizes) if sizes else None


def pack(folders: dict[str, Path], archive: Path) -> None:
    """Write folders into a tar for an engine elsewhere: plain files, of nobody in particular.

    Args:
        folders: the name of each in the archive (empty: its top), and the folder.
        archive: the tar to write.
    """

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (member.isfile() or member.isdir()):
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(archive, "w", dereference=True) as out:
        for name, folder in folders.items():
            out.add(folder, arcname=name or ".", filter=plain)
