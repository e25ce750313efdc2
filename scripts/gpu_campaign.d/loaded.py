"""Processes that use a GPU while a part of the probe looks: a kernel's load, a mere context."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("load.py")
READY_S = 60.0


class Load:
    """``load.py`` as a process; a context."""

    def __init__(self, device: str, environment: Mapping[str, str], kind: str = "single") -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("CUDA_MPS_")}
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), device, kind],
            env={**kept, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Load:
        """Wait until it is ready. Raises RuntimeError with the last line that it said."""
        try:
            self.seen = self.end()
        except BaseException:
            self.__exit__()
            raise
        self.pid: int = self._process.pid
        return self

    def __exit__(self, *_: object) -> None:
        """Let it end."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def run(self, seconds: float) -> dict[str, Any]:
        """Run for some time; ``rate`` in kernels a second, ``begin_ns`` and ``end_ns``."""
        self.begin(seconds)
        return self.end()

    def begin(self, seconds: float) -> None:
        """Let it run, and do not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """What it says next. Raises RuntimeError: it ended."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if not select.select([self._process.stdout], [], [], READY_S)[0]:
            raise RuntimeError(f"the load says nothing for {READY_S:g} s")
        line = self._process.stdout.readline()
        if not line:
            said = self._process.stderr.read().strip().splitlines()
            raise RuntimeError(f"the load ended: {said[-1] if said else 'it says nothing'}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def holder(device: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a CUDA context by the driver alone, without a framework."""
    code = (
        "import ctypes, sys\n"
        "cuda = ctypes.CDLL('libcuda.so.1')\n"
        "device, context = ctypes.c_int(), ctypes.c_void_p()\n"
        "for name, *given in (('cuInit', 0), ('cuDeviceGet', ctypes.byref(device), 0),\n"
        "                     ('cuCtxCreate_v2', ctypes.byref(context), 0, device)):\n"
        "    status = getattr(cuda, name)(*given)\n"
        "    if status: sys.exit(f'{name} gives error {status}')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("no CUDA context could be made as a client of MPS")
        yield process
        process.stdin.close()
