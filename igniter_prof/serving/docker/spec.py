"""What a tenant's container is created with. Pure: nothing is asked and nothing is started here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from docker.types import DeviceRequest, LogConfig, Mount

from igniter_prof.config.devices import format_cores
from igniter_prof.records import Device
from igniter_prof.serving.docker.naming import check_image
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares import SHARE_PERIOD_US, Grant
from igniter_prof.units import BYTES_PER_MIB

MARK_LABEL = "igprof.mark"
HOST_LABEL = "igprof.host"
SHM_MIB = 256
"""Size of /dev/shm: the engine's 64 MiB are too few for Triton's Python backend. It counts to the
memory cap as far as it is used."""
TMPFS_MIB = 256
PIDS_LIMIT = 4096
NOBODY = 65534
LOG_FILES, LOG_SIZE = 2, "16m"
HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002
MODELS = "/models"


@dataclass(frozen=True)
class Recipe:
    """One container: whose it is, what runs in it, within which limits."""

    indices: tuple[int, ...]
    """The tenants that it serves."""
    image: str
    """Id of the image, so that it is the very one that was looked at."""
    command: tuple[str, ...] | None
    """Program and arguments; None: the image's own."""
    ports: tuple[int, ...]
    """Where its server listens in it."""
    environment: Mapping[str, str]
    grant: Grant
    threads: int
    models: Mapping[str, str] = field(default_factory=dict)
    """Folders of this host (or the name of a volume) to where they are in it, read-only."""
    user: str = f"{NOBODY}:{NOBODY}"


def triton_command(name: str, mark: Mark, folders: Sequence[str], *, gpu: bool) -> tuple[str, ...]:
    """Triton's command line, the same in NVIDIA's image and ours."""
    options = {
        "id": name,
        "http-address": "0.0.0.0",
        "http-port": HTTP_PORT,
        "grpc-address": "0.0.0.0",
        "grpc-port": GRPC_PORT,
        "metrics-address": "0.0.0.0",
        "metrics-port": METRICS_PORT,
        # with the host's IPC namespace (MPS) servers share /dev/shm
        "backend-config": f"python,shm-region-prefix-name={mark.name}-",
    }
    if not gpu:
        options["allow-gpu-metrics"] = "false"
    return (
        "tritonserver",
        *(f"--{key}={value}" for key, value in options.items()),
        *(f"--model-repository={folder}" for folder in folders),
    )


def triton_environment(threads: int) -> dict[str, str]:
    """Pools are sized from the host's cores unless they are told of the quota."""
    return {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}


def creation(
    recipe: Recipe, name: str, mark: Mark, host: str, device: Device, *, publish: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the SDK's ``create_container`` and ``create_host_config``.

    No field of a sweep becomes anything but the value of one of these: paths of mounts are igprof's
    own, there is no privilege, no capability, no device but the GPU that was granted.

    Args:
        recipe: what to create.
        name: of the container; begins with the mark.
        mark: whose it is.
        host: this machine, as told apart from others that use the engine.
        device: whose cores it is bound to.
        publish: whether its ports are to be reached through the engine's host.

    Raises:
        BadInput: the image's name is none.
    """
    grant, caps = recipe.grant, recipe.grant.caps
    check_image(recipe.image)
    environment = {
        # what a runtime for GPUs would show by default is every GPU
        "NVIDIA_VISIBLE_DEVICES": "void",
        "HOME": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        **recipe.environment,
        **grant.environment,
        "IGPROF_MARK": name,
    }
    if grant.gpus:
        del environment["NVIDIA_VISIBLE_DEVICES"]  # the request below names them
        # an image may choose by index, and a daemon of MPS renumbers
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(grant.gpus)
    mounts = [
        # in the host's own mounts only the files of this very model are seen
        Mount(target, source, type="volume" if "/" not in source else "bind", read_only=True)
        for source, target in recipe.models.items()
    ]
    mounts += [
        Mount(target, source, type="bind", read_only=False)
        for source, target in grant.mounts.items()
    ]
    limits: dict[str, Any] = {
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "read_only": True,
        # exec: Triton unpacks the Python environment that a model may bring along
        "tmpfs": {"/tmp": f"rw,nosuid,nodev,exec,size={TMPFS_MIB}m,mode=1777"},
        "pids_limit": PIDS_LIMIT,
        "mounts": mounts,
        "network_mode": "bridge",
        "restart_policy": {"Name": "no"},
        "log_config": LogConfig(
            type=LogConfig.types.JSON,
            config={"max-size": LOG_SIZE, "max-file": str(LOG_FILES)},
        ),
    }
    if grant.host_ipc:
        limits["ipc_mode"] = "host"
    else:
        limits["ipc_mode"] = "private"
        limits["shm_size"] = SHM_MIB * BYTES_PER_MIB
    if caps.quota_us is not None:
        # as --cpus, but in our period: --cpus (nano_cpus) would use 100 ms
        limits["cpu_period"], limits["cpu_quota"] = SHARE_PERIOD_US, caps.quota_us
    if cores := caps.cpuset or device.cores:
        limits["cpuset_cpus"] = format_cores(cores)
    if caps.memory_mib is not None:
        # equal: without it a container gets as much swap as memory
        limits["mem_limit"] = limits["memswap_limit"] = int(caps.memory_mib * BYTES_PER_MIB)
    if grant.gpus:
        limits["device_requests"] = [
            DeviceRequest(driver="", device_ids=list(grant.gpus), capabilities=[["gpu"]])
        ]
    if publish:
        limits["port_bindings"] = dict.fromkeys(recipe.ports)
    user = recipe.user if grant.user is None else f"{grant.user}:{grant.user}"
    return {
        "image": recipe.image,
        "name": name,
        "entrypoint": None if recipe.command is None else list(recipe.command[:1]),
        "command": None if recipe.command is None else list(recipe.command[1:]),
        "environment": environment,
        "labels": {MARK_LABEL: mark.name, HOST_LABEL: host},
        "ports": list(recipe.ports) if publish else None,
        "user": user,
        "hostname": "igprof",
        "detach": True,
    }, limits
