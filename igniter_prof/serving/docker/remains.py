"""What igprof left on an engine: found by our own label, removed if its owner is dead."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import docker.errors

from igniter_prof.serving import marks
from igniter_prof.serving.docker.engine import Engine, asking
from igniter_prof.serving.docker.spec import HOST_LABEL, MARK_LABEL
from igniter_prof.serving.marks import Mark

MACHINE_ID = Path("/etc/machine-id")


def this_host() -> str:
    """This machine, as told apart from others that use the same engine."""
    text = MACHINE_ID.read_text().strip() if MACHINE_ID.exists() else ""
    return f"{marks.host_id()}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def remove(engine: Engine, mark: Mark) -> None:
    """Remove every container and volume that carries a mark. Raises OutsideFailure."""
    wanted = {"label": f"{MARK_LABEL}={mark.name}"}
    with asking(engine, "containers cannot be removed"):
        for found in engine.client.containers(all=True, filters=wanted):
            with unless_gone():
                engine.client.remove_container(found["Id"], v=True, force=True)
        for volume in engine.client.volumes(filters=wanted).get("Volumes") or ():
            with unless_gone():
                engine.client.remove_volume(volume["Name"], force=True)


def reap(engine: Engine) -> list[str]:
    """Remove what is transient, of this machine, and whose owner is dead; the marks removed.

    A launch that was killed before it was complete counts as transient. What others started, and
    what this machine's launches left running, stays.
    """
    found = {mark.name: mark for mark in (*_marks(engine), *_launches(engine))}
    dead = [mark for mark in found.values() if _may_go(mark)]
    for mark in dead:
        remove(engine, mark)
        marks.sweep_up(mark)
    return sorted(mark.name for mark in dead)


def _marks(engine: Engine) -> list[Mark]:
    """The marks of this machine on the engine."""
    wanted = {"label": [MARK_LABEL, f"{HOST_LABEL}={this_host()}"]}
    with asking(engine, "containers cannot be listed"):
        labels = [each.get("Labels") for each in engine.client.containers(all=True, filters=wanted)]
        volumes = engine.client.volumes(filters=wanted).get("Volumes") or ()
        labels += [each.get("Labels") for each in volumes]
    found = {}
    for each in labels:
        mark = marks.parse((each or {}).get(MARK_LABEL, ""))
        if mark is not None:
            found[mark.name] = mark
    return list(found.values())


def _launches(engine: Engine) -> Iterator[Mark]:
    """Launches of this machine on the engine by their folders: one may have had no container."""
    for folder in marks.runs().iterdir():
        mark, state = marks.parse(folder.name), marks.read_state(folder) or {}
        here = state.get("host") == marks.host_id()
        if mark is not None and here and state.get("engine") == engine.address.url:
            yield mark


def _may_go(mark: Mark) -> bool:
    if marks.owner_alive(mark):
        return False
    if mark.kind == "t":
        return True
    state = marks.read_state(mark.folder)
    return state is not None and state.get("complete") is False


@contextlib.contextmanager
def unless_gone() -> Iterator[None]:
    """Somebody else may remove it first, or be at it."""
    try:
        yield
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if error.status_code != 409:  # its removal is in progress
            raise
