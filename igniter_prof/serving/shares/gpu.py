"""What the mechanisms of a GPU have in common: names, what NVML knows of it, what CUDA sees."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from igniter_prof.config.devices import nvml
from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.records import Device, Tenant

WITHOUT_MPS = {"CUDA_MPS_PIPE_DIRECTORY": "/dev/null"}
"""CUDA joins a daemon at /tmp/nvidia-mps by itself; where none answers it runs without."""
PROBE = Path(__file__).with_name("sm_probe.py")
PROBE_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class GpuFacts:
    """What NVML knows of a GPU, or of the GPU of a MIG slice."""

    compute_capability: tuple[int, int]
    cuda_version: int
    """The newest CUDA that the driver knows: 12040 is 12.4."""
    mig: bool
    """Whether it is cut into MIG slices."""


def facts(uuid: str) -> GpuFacts:
    """What NVML knows of a GPU or of a slice's GPU. Raises MissingCapability."""
    with nvml() as library:
        try:
            handle = library.nvmlDeviceGetHandleByUUID(uuid)
            if uuid.startswith("MIG-"):
                handle = library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            capability = library.nvmlDeviceGetCudaComputeCapability(handle)
            version = library.nvmlSystemGetCudaDriverVersion_v2()
        except library.NVMLError as error:
            raise MissingCapability(
                f"the driver tells nothing of it: {error}", where=uuid, hint="nvidia-smi -L"
            ) from error
        try:
            mig = library.nvmlDeviceGetMigMode(handle)[0] == 1
        except library.NVMLError:
            mig = False  # most GPUs know no such mode
    major, minor = capability
    return GpuFacts((major, minor), version, mig)


def compute_pids(uuid: str) -> set[int]:
    """Processes that compute on a GPU by NVML's account, MPS clients or not; empty if unknown."""
    with contextlib.suppress(MissingCapability), nvml() as library:
        try:
            handle = library.nvmlDeviceGetHandleByUUID(uuid)
            return {each.pid for each in library.nvmlDeviceGetComputeRunningProcesses(handle)}
        except library.NVMLError:
            return set()
    return set()


def expect_gpu(device: Device, name: str) -> None:
    """Raise BadInput for a device that is no GPU."""
    if device.kind != "cuda":
        raise BadInput(
            f"'{name}' shares a GPU",
            where=device.id,
            hint="a CPU is shared by cfs-quota or cpuset",
        )


def expect_whole(device: Device, known: GpuFacts) -> None:
    """Raise MissingCapability for a GPU in slices: CUDA would take the first of them silently."""
    if known.mig and not is_slice(device):
        raise MissingCapability(
            "this GPU is cut into MIG slices",
            where=device.id,
            hint="name a slice (nvidia-smi -L lists them: --device cuda:MIG-...), or share the"
            " slices by share_mechanism: mig",
        )


def uuid_of(device: Device) -> str:
    """The UUID of a GPU or a MIG slice: ``GPU-...`` or ``MIG-...``."""
    return device.id.removeprefix("cuda:")


def is_slice(device: Device) -> bool:
    """Whether the device is a MIG slice."""
    return uuid_of(device).startswith("MIG-")


def on_gpu(tenant: Tenant) -> bool:
    """Whether a tenant on a GPU device is given the GPU. Raises BadInput for a share of none."""
    if tenant.gpu is False and tenant.share_pct is not None:
        raise BadInput(
            f"has a share of {tenant.share_pct:g}% of a GPU that it is not given",
            where=f"tenant {tenant.model}",
            hint="leave share_pct out, or gpu: false",
        )
    return tenant.gpu is not False


def sm_counts(
    environments: Iterable[Mapping[str, str]],
    *,
    user: int | None = None,
    library: str | None = None,
) -> list[int | None]:
    """How many SMs a CUDA process sees in each of some environments; None where it cannot start.

    The processes run at once, one for each environment, and are gone on return.

    Args:
        environments: what is set beside PATH and the library path.
        user: the user id that they run as; None: ours.
        library: the driver's library, for tests.
    """
    command = [sys.executable, "-I", str(PROBE), *([library] if library else [])]
    started = [_started(command, environment, user) for environment in environments]
    return [None if process is None else _answer(process) for process in started]


def _started(
    command: list[str], environment: Mapping[str, str], user: int | None
) -> subprocess.Popen[str] | None:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    try:
        return subprocess.Popen(
            command,
            env={**kept, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            user=user,
        )
    except (OSError, ValueError):
        return None  # no right to run as that user


def _answer(process: subprocess.Popen[str]) -> int | None:
    with process:
        try:
            output, _ = process.communicate(timeout=PROBE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
    with contextlib.suppress(ValueError):
        return int(output)
    return None
