"""A systemd scope: the control group of those who may not make one themselves (version 2)."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from igniter_prof.errors import MissingCapability
from igniter_prof.serving.cgroup import ROOT, Group
from igniter_prof.serving.shares import SHARE_PERIOD_US, Caps
from igniter_prof.units import BYTES_PER_MIB

ENTER_TIMEOUT_S = 10.0


@functools.cache
def available() -> bool:
    """Whether the user's systemd makes scopes here (really makes one)."""
    program = shutil.which("systemd-run")
    if program is None or not (ROOT / "cgroup.controllers").exists():
        return False
    try:
        done = subprocess.run(
            [program, "--user", "--scope", "--quiet", "true"],
            capture_output=True,
            timeout=ENTER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def command(name: str, caps: Caps, arguments: Sequence[str]) -> list[str]:
    """``arguments`` wrapped so that they run in a scope of that name with these limits.

    systemd-run executes them in its own place, so that the process id stays.
    """
    properties = []
    if caps.cpu_cores is not None:
        properties += [f"CPUQuota={100 * caps.cpu_cores:.2f}%"]
        properties += [f"CPUQuotaPeriodSec={SHARE_PERIOD_US}us"]
    if caps.memory_mib is not None:
        size = int(caps.memory_mib * BYTES_PER_MIB)
        properties += [f"MemoryMax={size}", "MemorySwapMax=0"]
    flags = [flag for entry in properties for flag in ("-p", entry)]
    unit = f"--unit={name}.scope"
    return [
        *("systemd-run", "--user", "--scope", "--quiet", "--collect", unit),
        *flags,
        "--",
        *arguments,
    ]


def enter(
    pid: int, name: str, caps: Caps, *, root: Path = ROOT, proc: Path = Path("/proc")
) -> Group:
    """Wait until a process is in its scope, and check that the limits hold there.

    Raises:
        MissingCapability: the user's systemd was not given the controllers, or made no scope.
    """
    deadline = time.monotonic() + ENTER_TIMEOUT_S
    while True:
        try:
            line = (proc / str(pid) / "cgroup").read_text().strip().splitlines()[-1]
        except (OSError, IndexError):
            line = ""
        if line.endswith(f"/{name}.scope"):
            break
        if not line or time.monotonic() > deadline:
            raise MissingCapability(
                "systemd-run --user made no scope for the server",
                hint="loginctl enable-linger $USER, then log in again; or run igprof as root",
            )
        time.sleep(0.01)
    folder = root / line.split(":", 2)[2].lstrip("/")
    group = Group(version=2, cpu=folder, cpuacct=folder, memory=folder)
    wanted = {
        "cpu.max": caps.cpu_cores is not None,
        "memory.max": caps.memory_mib is not None,
    }
    for file, needed in wanted.items():
        text = (folder / file).read_text() if (folder / file).exists() else "max"
        # systemd ignores a property whose controller it was not given
        if needed and text.startswith("max"):
            raise MissingCapability(
                f"the user's systemd may not set {file.partition('.')[0]} limits",
                where=str(folder),
                hint="sudo mkdir -p /etc/systemd/system/user@.service.d && printf"
                " '[Service]\\nDelegate=cpu memory pids\\n' | sudo tee"
                " /etc/systemd/system/user@.service.d/igprof.conf &&"
                " sudo systemctl daemon-reload, then log in again",
            )
    with contextlib.suppress(OSError):
        # a stub killed alone would leave a server that answers only errors; as a property
        # (OOMPolicy) scopes have it only since systemd 253
        (folder / "memory.oom.group").write_text("1")
    return group
