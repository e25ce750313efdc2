"""A Flask model server for the tests of the Docker runtime; it runs in their container.

``LEAK_MIB`` of memory are lost with every request, ``STARTUP_S`` pass before it is ready.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from flask import Flask, request

app = Flask(__name__)
leaked: list[bytes] = []
WEIGHTS = Path("/opt/weights.bin")
ready_at = time.monotonic() + float(os.environ.get("STARTUP_S", "0"))


@app.get("/health")
def health() -> Any:
    return ("ok", 200) if time.monotonic() >= ready_at else ("loading", 503)


@app.post("/predict")
def predict() -> Any:
    leaked.append(b"x" * (int(os.environ.get("LEAK_MIB", "0")) << 20))
    values = request.get_json()["tensor"]
    return {"sum": sum(map(sum, values)), "threads": os.environ.get("THREADS")}


def can_write(folder: Path) -> bool:
    try:
        (folder / "written").write_text("x")
        (folder / "written").unlink()
    except OSError:
        return False
    return True


@app.get("/environment")
def environment() -> Any:
    status = Path("/proc/self/status").read_text()
    shm = os.statvfs("/dev/shm")
    return {
        "uid": os.getuid(),
        "capabilities": [line.split()[1] for line in status.splitlines() if line[:3] == "Cap"],
        "no_new_privileges": "NoNewPrivs:\t1" in status,
        "writable": {
            folder: can_write(Path(folder))
            for folder in ("/", "/opt", "/tmp", "/models", "/dev/shm")
        },
        "environment": dict(os.environ),
        "mounts": [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()],
        "shm_bytes": shm.f_frsize * shm.f_blocks,
        "devices": sorted(path.name for path in Path("/dev").iterdir()),
        "cores": sorted(os.sched_getaffinity(0)),
    }


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=8080)
