"""kill -9 of a real sweep: a short ``scripts/bench/kill``, and proof that it would notice."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from igniter_prof.serving import marks, scope
from tests.integration.local_runtime import needs_local_runtime

BENCH = Path(__file__).parents[2] / "scripts" / "bench"

needs_shares = pytest.mark.skipif(
    os.geteuid() != 0 and not scope.available(), reason="needs the right to make control groups"
)


@pytest.fixture(scope="module")
def kill() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCH))
    try:
        yield importlib.import_module("kill")
    finally:
        sys.path.remove(str(BENCH))
        for name in ("kill", "common"):
            sys.modules.pop(name, None)


@needs_local_runtime
@needs_shares
def test_a_killed_sweep_loses_nothing_and_leaves_nothing(kill: ModuleType, tmp_path: Path) -> None:
    # on a busy machine all kills may come before a first cell is stored: then others are drawn
    for seed in (1, 2, 3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        verdict = kill.kill_test(folder, kills=3, seed=seed, later=2)

        assert verdict.broken == ()
        assert len(verdict.kills) == 3
        assert verdict.stored == verdict.cells
        # a kill while servers started found some: else the test has tested nothing
        assert max(each.leftovers for each in verdict.kills) > 0
        if verdict.measured_by_last_run < verdict.cells:
            break
    assert 0 < verdict.measured_by_last_run < verdict.cells


def store(profile: Path, **cells: str) -> None:
    (profile / "cells").mkdir(parents=True, exist_ok=True)
    for cell_id, text in cells.items():
        (profile / "cells" / f"{cell_id}.zip").write_text(text)


def test_the_audit_passes_what_is_whole(kill: ModuleType, tmp_path: Path) -> None:
    store(tmp_path, a="1", b="2")
    before = kill.stored_cells(tmp_path)
    store(tmp_path, c="3")
    assert list(kill.audit(tmp_path, {"a", "b", "c"}, before, 1)) == []


def test_the_audit_sees_what_was_lost_changed_or_measured_again(
    kill: ModuleType, tmp_path: Path
) -> None:
    store(tmp_path, lost="1", changed="2", again="3", kept="4")
    before = kill.stored_cells(tmp_path)
    (tmp_path / "cells" / "lost.zip").unlink()
    store(tmp_path, changed="other")
    copy = tmp_path / "cells" / "copy"
    copy.write_text("3")
    copy.replace(tmp_path / "cells" / "again.zip")
    (tmp_path / "cells" / ".half.zip.x.tmp").write_text("")

    found = "\n".join(kill.audit(tmp_path, set(before), before, 1))

    assert "cell lost was acknowledged and is gone" in found
    assert "cell changed was acknowledged and has other content" in found
    assert "cell again was acknowledged and written again" in found
    assert "cell kept" not in found
    assert "measured 1 cells, 0 were left" in found
    assert "files that are no cells: ['.half.zip.x.tmp']" in found
    assert "temporary files are left" in found


def test_leftovers_of_a_dead_igprof_are_seen_and_of_others_not(kill: ModuleType) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    mark = marks.Mark("t", dead.pid, 1, marks.boot_id(), marks.namespace(), "0" * 8)
    region = marks.SHARED_MEMORY / f"{mark.name}-x"
    heir = subprocess.Popen(["sleep", "60"], env={kill.TOKEN: "heir"})
    try:
        region.write_text("")
        assert str(region) in kill.leftovers({dead.pid}, "nobody")
        assert str(region) not in kill.leftovers({dead.pid + 1}, "nobody")
        assert kill.leftovers({dead.pid + 1}, "heir") == [f"process {heir.pid}"]
    finally:
        heir.kill()
        heir.wait()
        region.unlink(missing_ok=True)
