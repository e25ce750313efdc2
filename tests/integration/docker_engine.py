"""A container engine of the tests' own: its own data, socket, bridge; never the user's.

``engine`` is one ``dockerd`` for the whole session, with igprof's images in it. It is killed and
cleaned up whatever happens; what a killed test run left is cleaned up by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BRIDGE = "igprofbr0"
SUBNET = "172.31.213.1/24"
PREFIX = "igprof-dockerd-"
START_S = 60.0
FLASK = ("blinker", "click", "flask", "itsdangerous", "jinja2", "markupsafe", "werkzeug")
WEIGHT_BYTES = 123_456
FLASK_IMAGE = "igprof-test-flask:latest"
FLASK_DOCKERFILE = """\
FROM igprof-base:bookworm
COPY packages/ /usr/lib/python3/dist-packages/
COPY server.py weights.bin /opt/
ENTRYPOINT ["python3", "/opt/server.py"]
"""


def lacking() -> str | None:
    """Why no engine can be started here; None if it can."""
    if os.geteuid() != 0:
        return "a private dockerd needs root"
    for program in ("dockerd", "docker", "ip"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "igprof/images"
    if shutil.which("debootstrap") is None and not list(folder.glob("base-*.tar")):
        return "the base image needs debootstrap"
    return None


needs_docker = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))


class PrivateEngine:
    """One dockerd, started and stopped at will; its images and containers outlive a restart."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/docker.sock"
        self.tcp_url = f"tcp://127.0.0.1:{port}"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Of a program that is to use this engine."""
        cleared = {key: value for key, value in os.environ.items() if key != "DOCKER_CONTEXT"}
        return {**cleared, "DOCKER_HOST": self.url}

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    f"--data-root={self.folder}/data",
                    f"--exec-root={self.folder}/exec",
                    f"--pidfile={self.folder}/pid",
                    f"--config-file={self.folder}/daemon.json",
                    f"--host={self.url}",
                    f"--host={self.tcp_url}",
                    "--tls=false",
                    f"--bridge={BRIDGE}",
                    "--iptables=false",
                    "--ip6tables=false",
                    "--ip-masq=false",
                    # what is published is reached through docker-proxy: there are no rules for it
                    "--userland-proxy=true",
                    "--shutdown-timeout=5",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while self.docker("version", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "log").read_text(errors="replace")
                raise RuntimeError(f"dockerd does not start:\n{text[-2000:]}")
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it as ``systemctl stop`` would: its containers are stopped with it."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)
        # its containerd dies with it; as a zombie that nobody collects it would pass for alive
        for left in (self.folder / "exec" / "containerd").glob("containerd.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(left.read_text()), signal.SIGKILL)
            left.unlink()

    def restart(self) -> None:
        self.stop()
        self.start()

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Docker's own command line on this engine."""
        return subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )

    def containers(self) -> list[str]:
        """Names of all containers, those that ended included."""
        return self.docker("ps", "--all", "--format", "{{.Names}}").stdout.split()

    def build_images(self) -> None:
        """Triton as igprof's script builds it, and a small Flask server."""
        subprocess.run(
            [ROOT / "scripts/images/build", "triton"],
            env=self.environment,
            check=True,
            capture_output=True,
            timeout=280,
        )
        with tempfile.TemporaryDirectory(prefix="igprof-build-") as name:
            context = Path(name)
            for package in FLASK:
                found = Path(str(importlib.import_module(package).__file__)).parent
                notes = (
                    path
                    for path in found.parent.glob("*.dist-info")
                    if path.name.lower().startswith(f"{package}-")
                )
                for path in (found, *notes):
                    shutil.copytree(path, context / "packages" / path.name)
            shutil.copy(Path(__file__).with_name("docker_server.py"), context / "server.py")
            (context / "weights.bin").write_bytes(b"w" * WEIGHT_BYTES)
            (context / "Dockerfile").write_text(FLASK_DOCKERFILE)
            subprocess.run(
                ["docker", "build", "--quiet", "--tag", FLASK_IMAGE, name],
                env={**self.environment, "DOCKER_BUILDKIT": "0"},
                check=True,
                capture_output=True,
                timeout=120,
            )

    def close(self) -> None:
        """Kill it and all that it started."""
        with contextlib.suppress(Exception):
            names = self.containers()
            if names:
                self.docker("rm", "--force", "--volumes", *names, check=False)
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        clean(self.folder)


def clean(folder: Path) -> None:
    """Kill what still runs from a folder of ours, unmount what is in it, remove it."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            # dockerd, its containerd and their shims all name it
            if f"{folder}/".encode() in command and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    inside = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{folder}/")]
    for mount in sorted(inside, reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def private_engine() -> Iterator[PrivateEngine]:
    """An engine with igprof's images; only one at a time, since it has one bridge."""
    with Path("/tmp/igprof-dockerd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in Path("/tmp").glob(f"{PREFIX}*"):
            clean(leftover)
        _remove_bridge()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
        (folder / "daemon.json").write_text("{}")  # not the system's
        engine = PrivateEngine(folder, _free_port())
        try:
            for command in (
                ["ip", "link", "add", BRIDGE, "type", "bridge"],
                ["ip", "address", "add", SUBNET, "dev", BRIDGE],
                ["ip", "link", "set", BRIDGE, "up"],
            ):
                subprocess.run(command, check=True, capture_output=True)
            engine.start()
            engine.build_images()
            yield engine
        finally:
            engine.close()
            _remove_bridge()


def _remove_bridge() -> None:
    subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[PrivateEngine]:
    """The session's private engine."""
    reason = lacking()
    if reason is not None:
        pytest.skip(reason)
    with private_engine() as engine:
        yield engine


@pytest.fixture
def on_engine(
    docker_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PrivateEngine]:
    """This process and those that it starts use the private engine; nothing may stay on it."""
    for name in ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    yield docker_engine
    left = docker_engine.containers()
    volumes = docker_engine.docker("volume", "ls", "--quiet").stdout.split()
    for name in left:
        docker_engine.docker("rm", "--force", name, check=False)
    assert (left, volumes) == ([], [])
