"""Control groups of this machine, whichever version it has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from igniter_prof.errors import MissingCapability
from igniter_prof.serving import cgroup, marks
from igniter_prof.serving.cgroup import Group
from igniter_prof.serving.shares import Caps


@pytest.fixture
def group() -> Iterator[Group]:
    name = f"{marks.mint().name}-test"
    try:
        made = cgroup.create(name, Caps(cpu_cores=0.3, memory_mib=64))
    except MissingCapability as error:
        pytest.skip(error.what)
    yield made
    made.remove()
    assert cgroup.named(name) == []


def test_a_quota_is_kept_and_counted(group: Group) -> None:
    spin = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    command = group.command([sys.executable, "-I", "-S", "-c", spin])
    start = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - start
    usage = group.usage()
    assert usage is not None
    assert usage.cpu_s is not None
    assert 0.15 < usage.cpu_s / seconds < 0.36
    assert usage.periods is not None
    assert usage.throttled_periods is not None
    assert usage.throttled_periods > usage.periods / 4
    assert usage.oom_kills == 0


def test_a_memory_cap_kills_and_counts(group: Group) -> None:
    hog = "x = bytearray(200 << 20)"
    done = subprocess.run(group.command([sys.executable, "-I", "-S", "-c", hog]), check=False)
    assert done.returncode == -9
    usage = group.usage()
    assert usage is not None
    assert usage.oom_kills is not None
    assert usage.oom_kills >= 1
    if usage.memory_peak_mib is not None:
        assert usage.memory_peak_mib <= 64


def test_a_group_is_removed_with_what_runs_in_it(group: Group) -> None:
    with subprocess.Popen(group.command(["sleep", "60"])) as process:
        deadline = time.monotonic() + 5
        while process.pid not in group.pids() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert group.pids() == [process.pid]
        assert os.getpid() not in group.pids()
        group.remove()
        assert process.wait(5) == -9
    assert not group.cpu.exists()
