"""Who is a client of MPS: what the daemon lists, and which process of this host that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from igniter_prof.serving import marks


@dataclass(frozen=True)
class Client:
    """A process that the daemon calls a client."""

    pid: int
    namespace: int | None = None
    """The inode of the PID namespace in which ``pid`` means something; None: not told."""
    device: str | None = None
    """The GPU's UUID, or its beginning; None: not told."""


def parse_clients(table: str) -> list[Client] | None:
    """The rows of the command ``ps``; None if that is no such table (an older daemon).

    Columns are found by their names: ``PID ID SERVER DEVICE NAMESPACE COMMAND``.
    """
    lines = [line.split() for line in table.splitlines() if line.strip()]
    header = next((number for number, line in enumerate(lines) if "PID" in line), None)
    if header is None or "SERVER" not in lines[header]:
        return None
    names = lines[header]
    found = []
    for line in lines[header + 1 :]:
        row = dict(zip(names, line, strict=False))
        if not row.get("PID", "").isdigit():
            continue
        namespace = row.get("NAMESPACE", "")
        found.append(
            Client(
                pid=int(row["PID"]),
                namespace=int(namespace) if namespace.isdigit() else None,
                device=row.get("DEVICE"),
            )
        )
    return found


def is_client(pid: int, clients: Sequence[Client], uuid: str) -> bool:
    """Whether a process of this host is among a daemon's clients on a GPU.

    A client in a container may be listed by its id there: then the listed namespace must be its.
    """
    inner, space = _inside(pid)
    own = marks.namespace()
    identities = {(pid, None), (pid, own)}
    if space is not None:
        identities |= {(pid, space), (inner, space)}
    return any(
        (client.pid, client.namespace) in identities and _same_gpu(client.device, uuid)
        for client in clients
    )


def _same_gpu(listed: str | None, uuid: str) -> bool:
    # a slice's clients may be listed by the GPU's name
    if listed is None or not listed.startswith("GPU-") or not uuid.startswith("GPU-"):
        return True
    return uuid.startswith(listed) or listed.startswith(uuid)


def _inside(pid: int) -> tuple[int, int | None]:
    """A process's id in its own PID namespace, and that namespace's inode; None: not known."""
    folder = marks.PROC / str(pid)
    try:
        lines = (folder / "status").read_text().splitlines()
        space = (folder / "ns" / "pid").stat().st_ino
    except OSError:
        return pid, None
    listed = next((line for line in lines if line.startswith("NSpid:")), "").split()
    return (int(listed[-1]) if len(listed) > 1 else pid), space
