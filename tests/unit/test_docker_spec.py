"""What a container is created with, and what a sweep may not name; no engine is needed."""

from __future__ import annotations

import pytest

from igniter_prof.errors import BadInput
from igniter_prof.records import Device, HttpServer, Tenant
from igniter_prof.serving import ServeOptions, check_tenants, marks
from igniter_prof.serving.docker import naming, spec
from igniter_prof.serving.docker.images import _parts
from igniter_prof.serving.docker.recipes import user_of
from igniter_prof.serving.docker.spec import Recipe, creation, triton_command
from igniter_prof.serving.shares import SHARE_PERIOD_US, Caps, Grant

DEVICE = Device(id="cpu:0-3", kind="cpu", name="x", cores=(0, 1, 2, 3))
GPU = Device(id="cuda:GPU-1", kind="cuda", name="x")
IMAGE = f"sha256:{'0' * 64}"


def created(grant: Grant, device: Device = DEVICE, **more: object) -> tuple[dict, dict]:  # type: ignore[type-arg]
    arguments = {
        "indices": (0,),
        "image": IMAGE,
        "command": ("tritonserver", "--id=x"),
        "ports": (8000,),
        "environment": {"OMP_NUM_THREADS": "2"},
        "threads": 2,
        "models": {"/run/tenant-0": "/models"},
        **more,
    }
    recipe = Recipe(grant=grant, **arguments)  # type: ignore[arg-type]
    mark = marks.mint()
    return creation(recipe, f"{mark.name}-0", mark, "here", device, publish=False)


def test_limits_of_a_container() -> None:
    arguments, limits = created(Grant(caps=Caps(cpu_cores=0.5, memory_mib=100)))
    assert (limits["cpu_period"], limits["cpu_quota"]) == (SHARE_PERIOD_US, SHARE_PERIOD_US // 2)
    assert "nano_cpus" not in limits
    assert limits["cpuset_cpus"] == "0-3"
    assert limits["mem_limit"] == limits["memswap_limit"] == 100 << 20
    assert limits["cap_drop"] == ["ALL"]
    assert limits["security_opt"] == ["no-new-privileges:true"]
    assert limits["read_only"] is True
    assert limits["shm_size"] == 256 << 20
    assert "privileged" not in limits
    assert "cap_add" not in limits
    assert "device_requests" not in limits
    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in limits["mounts"]] == [
        ("/run/tenant-0", "/models", True)
    ]
    assert arguments["entrypoint"] == ["tritonserver"]
    assert arguments["user"] == "65534:65534"
    assert arguments["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert arguments["labels"][spec.MARK_LABEL] in arguments["name"]
    assert arguments["ports"] is None


def test_no_limit_where_none_is_asked_for() -> None:
    _, limits = created(Grant())
    assert not {"cpu_quota", "mem_limit", "memswap_limit"} & set(limits)
    _, limits = created(Grant(caps=Caps(cpuset=(2,))))
    assert limits["cpuset_cpus"] == "2"
    _, limits = created(Grant(), GPU)
    assert "cpuset_cpus" not in limits


def test_what_a_share_of_a_gpu_needs() -> None:
    grant = Grant(
        environment={"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"},
        mounts={"/run/mps": "/tmp/nvidia-mps"},
        host_ipc=True,
        gpus=("GPU-1",),
        user=1234,
    )
    arguments, limits = created(grant, GPU)
    assert limits["ipc_mode"] == "host"
    assert "shm_size" not in limits  # it is the host's own
    (request,) = limits["device_requests"]
    assert (request["DeviceIDs"], request["Capabilities"]) == (["GPU-1"], [["gpu"]])
    assert arguments["environment"]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"
    assert "NVIDIA_VISIBLE_DEVICES" not in arguments["environment"]
    assert arguments["environment"]["CUDA_VISIBLE_DEVICES"] == "GPU-1"  # an image's index is not
    assert arguments["user"] == "1234:1234"
    assert [mount["ReadOnly"] for mount in limits["mounts"]] == [True, False]


def test_a_memory_cap_that_docker_does_not_take() -> None:
    tenants = [Tenant(model="m", memory_mib=5)]
    check_tenants(tenants, DEVICE, "own", ServeOptions())
    with pytest.raises(BadInput, match="6 MiB at least"):  # in preflight, not amid a sweep
        check_tenants(tenants, DEVICE, "own", ServeOptions(runtime="docker"))


def test_servers_that_share_memory_have_regions_of_their_own() -> None:
    mark = marks.mint()
    command = triton_command("name", mark, ["/models"], gpu=False)
    assert f"--backend-config=python,shm-region-prefix-name={mark.name}-" in command
    assert "--id=name" in command
    assert "--http-address=0.0.0.0" in command
    assert command[-1] == "--model-repository=/models"
    assert "--allow-gpu-metrics=false" in command
    assert "--allow-gpu-metrics=false" not in triton_command("name", mark, [], gpu=True)


@pytest.mark.parametrize(
    "name",
    [
        "igprof-triton:2.51.0-cpu",
        "nvcr.io/nvidia/tritonserver:25.01-py3",
        "localhost:5000/a/b_c",
        f"debian@sha256:{'a' * 64}",
        f"x.y-z/debian:1@sha256:{'a' * 64}",
        IMAGE,
        "a__b/c--d",
    ],
)
def test_names_of_images(name: str) -> None:
    assert naming.check_image(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-v",
        "--privileged",
        "a b",
        "a\n",
        "/a",
        "a/",
        "../a",
        "A",
        "a:-x",
        "a@sha256:1",
        "a;b",
        "$(x)",
        "é",
        "a" * 600,
    ],
)
def test_what_is_no_name_of_an_image(name: str) -> None:
    with pytest.raises(BadInput, match="no name of a container image"):
        naming.check_image(name)


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "PYTHONSTARTUP", "MODEL_PATH"),
        *("CUDA_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY", "NVIDIA_VISIBLE_DEVICES"),
        *("NVIDIA_DRIVER_CAPABILITIES", "IGPROF_MARK", "DOCKER_HOST", "BASH_ENV", "ld_preload"),
        *("", "A=B", "1A", "A B", "A\0", "-e"),
    ],
)
def test_variables_that_are_not_a_sweeps(name: str) -> None:
    with pytest.raises(BadInput):
        naming.environment_of(HttpServer(image="x", environment={name: "1"}), 1)


def test_threads_are_filled_in() -> None:
    server = HttpServer(image="x", environment={"THREADS": "${threads}", "KEEP": "${other}"})
    assert naming.environment_of(server, 3) == {"THREADS": "3", "KEEP": "${other}"}
    assert naming.wants_threads(server)
    assert not naming.wants_threads(HttpServer(image="x"))


def test_a_server_without_an_image_cannot_be_a_container() -> None:
    with pytest.raises(BadInput, match="needs the image"):
        naming.check_options(ServeOptions(http={"x": HttpServer()}))


def test_no_image_is_run_as_root() -> None:
    for root in ("", "0", "0:0", "00", "+0", "-0:5", "root", "root:users"):
        assert user_of(root) == "65534:65534", root
    assert user_of("1000:1000") == "1000:1000"
    assert user_of("triton-server") == "triton-server"


def test_an_image_is_pulled_by_one_tag() -> None:
    assert _parts("a/b") == ("a/b", "latest")
    assert _parts("a/b:1") == ("a/b", "1")
    assert _parts("localhost:5000/b") == ("localhost:5000/b", "latest")
    assert _parts("a@sha256:12") == ("a", "sha256:12")
