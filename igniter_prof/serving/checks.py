"""What this machine can do: each ability is tried, not guessed, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from igniter_prof import files, probe
from igniter_prof.errors import IgprofError, MissingCapability, OutsideFailure
from igniter_prof.records import Record
from igniter_prof.serving import cgroup, interpreter, marks, scope, triton
from igniter_prof.serving.shares import Caps, mps_daemon

CheckStatus = Literal["ok", "limited", "missing"]
RAPL = Path("/sys/class/powercap")
MIN_FREE_MIB = 2048
PYPI = "https://pypi.org"


class Check(Record):
    """One ability of this machine."""

    name: str
    status: CheckStatus
    detail: str
    fix: str | None = None
    runtimes: tuple[str, ...] = ()
    """The runtimes that cannot work where it is missing."""


def run_checks() -> list[Check]:
    """Try every ability. Takes a few seconds at most; starts no server."""
    return [check() for check in CHECKS]


def lacking(checks: list[Check], runtime: str) -> list[Check]:
    """The checks for want of which a runtime cannot work."""
    return [check for check in checks if check.status == "missing" and runtime in check.runtimes]


def check_python() -> Check:
    """The Python that runs igprof, and whether it is one that Triton can embed."""
    version = ".".join(map(str, sys.version_info[:3]))
    if f"{sys.version_info[0]}.{sys.version_info[1]}" in interpreter.SUPPORTED:
        return Check(name="python", status="ok", detail=version)
    return Check(
        name="python",
        status="limited",
        detail=f"{version}; Triton embeds 3.10 to 3.13, so another Python must be on PATH",
        fix="sudo apt-get install python3 python3-venv",
    )


def check_triton() -> Check:
    """A Triton on PATH, in the cache, or to be downloaded."""
    name, runtimes = "triton", ("local",)
    own = triton.locate(None)
    if own is not None:
        return Check(name=name, status="ok", detail=f"{own} (on PATH)", runtimes=runtimes)
    reason = triton.unsupported()
    if reason is not None:
        return Check(
            name=name,
            status="missing",
            detail=f"nvidia-pytriton cannot run here: {reason}",
            fix="put a tritonserver on PATH, or name one with --triton PATH",
            runtimes=runtimes,
        )
    if triton.cached():
        detail = f"nvidia-pytriton {triton.WHEEL_VERSION} in {triton.root()}"
        return Check(name=name, status="ok", detail=detail, runtimes=runtimes)
    if (triton.root() / triton.WHEEL).exists() or _reaches_pypi():
        return Check(
            name=name,
            status="ok",
            detail="not downloaded yet; the first use does it (120 MB)",
            runtimes=runtimes,
        )
    return Check(
        name=name,
        status="missing",
        detail=f"not in {triton.root()}, and {PYPI} does not answer",
        fix=f"connect to a network once, set PIP_INDEX_URL, or put {triton.WHEEL} into"
        f" {triton.root()}",
        runtimes=runtimes,
    )


def check_libpython() -> Check:
    """The shared library of Python that Triton's stub loads."""
    if triton.locate(None) is not None:
        return Check(name="libpython", status="ok", detail="left to the tritonserver on PATH")
    try:
        found = interpreter.find(triton.root() / "lib")
    except MissingCapability as error:
        return Check(
            name="libpython",
            status="missing",
            detail=error.what,
            fix=error.hint,
            runtimes=("local",),
        )
    detail = f"{found.library} in {found.library_folder}"
    return Check(name="libpython", status="ok", detail=detail)


def check_docker() -> Check:
    """A container engine that answers where the docker command would ask, and Triton's image."""
    from igniter_prof.serving.docker import engine, images

    name, runtimes = "docker", ("docker",)
    try:
        found = engine.connect()
    except IgprofError as error:
        detail, fix = str(error).partition("\n")[0], error.hint
        return Check(name=name, status="missing", detail=detail, fix=fix, runtimes=runtimes)
    with contextlib.closing(found):
        where = "here" if found.local else f"at {found.address.host}, not of this system"
        detail = (
            f"{found.version} {where} ({found.address.source}), control groups version"
            f" {found.info.get('CgroupVersion', '?')} by {found.info.get('CgroupDriver')}"
        )
        usual = (images.NVIDIA_IMAGE, images.OWN_IMAGE)
        try:
            there = next((each for each in usual if images.look_up(found, each)), None)
        except OutsideFailure as error:
            return Check(name=name, status="missing", detail=error.what, runtimes=runtimes)
    if there is not None:
        return Check(name=name, status="ok", detail=f"{detail}; {there}")
    return Check(
        name=name,
        status="limited",
        detail=f"{detail}; no image with Triton",
        fix="scripts/images/build triton, or give --pull once",
    )


def check_cgroups() -> Check:
    """Whether shares and caps can be set: a control group with both limits is really made."""
    found = cgroup.version()
    mark = marks.mint()
    try:
        group = cgroup.create(f"{mark.name}-{secrets.token_hex(2)}", Caps(1.0, 64.0))
    except MissingCapability as error:
        if scope.available():
            detail = f"version {found}, by systemd-run --user"
            return Check(name="cgroups", status="ok", detail=detail)
        # without shares and caps the local runtime works still
        return Check(name="cgroups", status="limited", detail=error.what, fix=error.hint)
    group.remove()
    return Check(name="cgroups", status="ok", detail=f"version {found}, {group.cpu.parent}")


def check_nvml() -> Check:
    """The NVIDIA driver, asked through NVML."""
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return Check(
            name="nvml",
            status="missing",
            detail="nvidia-ml-py is not installed; without a GPU it is not needed",
            fix="pip install nvidia-ml-py",
        )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        fix = "install the NVIDIA driver; without a GPU it is not needed"
        return Check(name="nvml", status="missing", detail=str(error), fix=fix)
    try:
        driver, count = pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlDeviceGetCount()
        return Check(name="nvml", status="ok", detail=f"driver {driver}, {count} GPUs")
    finally:
        pynvml.nvmlShutdown()


def check_mps() -> Check:
    """MPS, which gives shares of a GPU: its program, and a daemon if one is there (it is asked)."""
    program = mps_daemon.find()
    if program is None:
        return Check(
            name="mps",
            status="missing",
            detail=f"no {mps_daemon.PROGRAM} on PATH; without a GPU it is not needed",
            fix=mps_daemon.FIX,
        )
    daemon = mps_daemon.listening()
    if daemon is None:
        return Check(name="mps", status="ok", detail=f"{program}; no daemon is there")
    try:
        user, fault, limit = daemon.user(), daemon.fault(), daemon.default_pct()
    except OutsideFailure as error:
        return Check(name="mps", status="limited", detail=str(error))
    detail = f"{program}; a daemon of user {user} at {daemon.pipes}, used and left alone"
    fix = f"echo quit | {mps_daemon.PIPES}={daemon.pipes} {mps_daemon.PROGRAM}"
    if fault is not None:
        return Check(name="mps", status="limited", detail=f"{detail}; {fault}", fix=fix)
    if user not in (0, os.geteuid()):
        detail += "; the local runtime cannot use it"
        return Check(name="mps", status="limited", detail=detail, fix=fix)
    if limit is not None and limit < 100:
        detail += f"; it caps every client at {limit:g}%"
        return Check(name="mps", status="limited", detail=detail, fix=fix)
    return Check(name="mps", status="ok", detail=detail)


def check_capture() -> Check:
    """Packet capture: a packet socket is really opened, and libpcap is there for its filter."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0).close()
    except (OSError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "this is no Linux"
        return Check(
            name="capture",
            status="missing",
            detail=f"no packet socket: {reason}",
            fix=f"sudo setcap cap_net_raw,cap_sys_nice+ep {Path(sys.executable).resolve()}",
        )
    if ctypes.util.find_library("pcap") is None:
        return Check(
            name="capture",
            status="missing",
            detail="packet sockets can be opened, but there is no libpcap to compile the filter",
            fix="sudo apt-get install libpcap0.8",
        )
    return Check(name="capture", status="ok", detail="packet sockets can be opened")


def check_rapl(folder: Path = RAPL) -> Check:
    """The CPU's energy counters."""
    counters = sorted(folder.glob("*rapl*/energy_uj"))
    if not counters:
        return Check(name="rapl", status="missing", detail="this machine shows no energy counters")
    hidden = next((path for path in counters if not os.access(path, os.R_OK)), None)
    if hidden is not None:
        detail, fix = f"{hidden} may not be read", f"sudo chmod a+r {folder}/*/energy_uj"
        return Check(name="rapl", status="missing", detail=detail, fix=fix)
    return Check(name="rapl", status="ok", detail=f"{len(counters)} counters")


def check_disk() -> Check:
    """Disk space where the cache is."""
    folder = files.cache_dir()
    free_mib = shutil.disk_usage(folder).free / (1 << 20)
    detail = f"{free_mib / 1024:.1f} GiB free in {folder}"
    if free_mib >= MIN_FREE_MIB:
        return Check(name="disk", status="ok", detail=detail)
    fix = "free some, or set XDG_CACHE_HOME to a larger disk"
    enough = triton.cached() or free_mib >= triton.NEEDED_MIB
    status: CheckStatus = "limited" if enough else "missing"
    return Check(name="disk", status=status, detail=detail, fix=fix, runtimes=("local",))


def check_cores() -> Check:
    """Whether the client can have cores of its own."""
    count = len(os.sched_getaffinity(0))
    if count > 2:
        return Check(name="cores", status="ok", detail=f"{count} usable")
    detail = f"{count} usable: with --device cpu the client shares them with the servers"
    fix = "--device cpu:0 leaves the other core to the client" if count == 2 else None
    return Check(name="cores", status="limited", detail=detail, fix=fix)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_triton,
    check_libpython,
    check_docker,
    check_cgroups,
    check_nvml,
    check_mps,
    check_capture,
    check_rapl,
    check_disk,
    check_cores,
)


def _reaches_pypi() -> bool:
    # pip may go another way (a proxy, an index of one's own): then we cannot know, and do not deny
    if any(os.environ.get(name) for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "HTTPS_PROXY")):
        return True
    if Path("/etc/pip.conf").exists() or (Path.home() / ".config/pip/pip.conf").exists():
        return True
    try:
        status, _ = probe.get("pypi.org", "/simple/nvidia-pytriton/", tls=True)
    except probe.Unreachable:
        return False
    return status < 500
