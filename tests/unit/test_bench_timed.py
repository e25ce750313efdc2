"""``scripts/bench/timed.py``: what a process takes, whatever its parent does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import SCRIPTS, load

timed = load(SCRIPTS / "bench" / "timed.py")

CHILD = "import sys; x = bytearray(b'x') * (64 << 20); print('told'); sys.exit(7)"


def run_python(monkeypatch: pytest.MonkeyPatch, work: Path, code: str, limit_s: float) -> Any:
    monkeypatch.setattr(timed, "IGPROF", (sys.executable, "-S", "-c", code))
    return timed.timed(out=work / "stdout", limit_s=limit_s)


def test_a_process_is_told_by_its_own_memory_and_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    large = bytearray(b"x") * (300 << 20)  # must not count as the child's
    status, seconds, peak_mib = run_python(monkeypatch, tmp_path, CHILD, 60)
    assert status == 7
    assert seconds > 0
    assert 64 < peak_mib < len(large) / 2**20
    assert (tmp_path / "stdout").read_text() == "told\n"


def test_a_process_is_ended_when_its_time_is_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, _, _ = run_python(monkeypatch, tmp_path, "import time; time.sleep(60)", 1)
    assert status == timed.KILLED
