"""A fixed kernel, again and again, on a device: the load under which the probe looks at a GPU.

``python load.py cuda:0|cpu:0 [half]`` makes its context, says ``ready`` with what it sees, and then
runs for as many seconds as each line of its standard input says; each time it prints one JSON line.
It ends with its input. Work goes to the stream of the SMs that it was granted, if it was.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

SIZE = 4096
"""Of square matrices on a GPU: one product is 137 GFLOP, 1024 blocks of 128 by 128."""
ROUND_S = 0.02
"""How long is computed between two looks at the clock, about."""


def main(device: str, kind: str = "single") -> None:
    """Serve standard input."""
    step, wait, seen = _on_gpu(kind) if device.startswith("cuda") else _on_cpu()
    step(2)
    wait()
    count = 1
    while (spent := _timed(step, wait, count)) < ROUND_S:
        count = max(count + 1, int(count * min(8.0, 1.2 * ROUND_S / max(spent, 1e-6))))
    print(json.dumps({"ready": True, "pid": os.getpid(), **seen}), flush=True)
    for line in sys.stdin:
        seconds = float(line)
        begin_ns, done = time.monotonic_ns(), 0
        while (now_ns := time.monotonic_ns()) - begin_ns < seconds * 1e9:
            _timed(step, wait, count)
            done += count
        now_ns = time.monotonic_ns()
        rate = done / ((now_ns - begin_ns) / 1e9)
        told = {"rate": rate, "begin_ns": begin_ns, "end_ns": now_ns}
        print(json.dumps(told), flush=True)


def _timed(step: Callable[[int], None], wait: Callable[[], None], count: int) -> float:
    began = time.monotonic()
    step(count)
    wait()
    return time.monotonic() - began


def _on_gpu(kind: str) -> tuple[Callable[[int], None], Callable[[], None], dict[str, Any]]:
    import torch  # type: ignore[import-not-found,unused-ignore]

    torch.cuda.init()
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    granted = os.environ.get("IGPROF_SM_PARTITION")
    if granted:
        torch.cuda.set_stream(torch.cuda.ExternalStream(_partition(granted).granted_stream()))
    # single precision without tensor cores: all of the SMs work, and the power limit stays away
    torch.backends.cuda.matmul.allow_tf32 = False
    form = torch.float16 if kind == "half" else torch.float32
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=form) for _ in range(2))
    out = torch.empty_like(a)

    def step(count: int) -> None:
        for _ in range(count):
            torch.mm(a, b, out=out)

    def wait() -> None:
        torch.cuda.current_stream().synchronize()

    return step, wait, {"sm_count": sms, "torch": torch.__version__, "granted": bool(granted)}


def _on_cpu() -> tuple[Callable[[int], None], Callable[[], None], dict[str, Any]]:
    import numpy as np

    a = np.ones((64, 64), np.float32)

    def step(count: int) -> None:
        for _ in range(count):
            a @ a

    return step, lambda: None, {"numpy": np.__version__}


def _partition(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("sm_partition", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:3])
