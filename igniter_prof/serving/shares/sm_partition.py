"""A part of a GPU's SMs for a model's own process, by a CUDA green context. Needs no igprof.

The process of a model loads this file by its path, which the mechanism ``green-context`` gives it,
and works on the stream that it gets::

    path = os.environ.get("IGPROF_SM_PARTITION")
    if path:
        spec = importlib.util.spec_from_file_location("sm_partition", path)
        partition = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(partition)
        torch.cuda.set_stream(torch.cuda.ExternalStream(partition.granted_stream()))

What runs on a stream of a green context uses its SMs only; memory, modules and the libraries'
handles stay those of the primary context, so that the framework needs to know of nothing else
(CUDA driver API, "Green Contexts"). A framework's current stream is a thread's: where requests come
on other threads than the model was loaded on, the stream must be set there, too.

As a program it prints how the SMs of the only visible device can be divided, as JSON::

    python -I sm_partition.py [LIBCUDA]
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

GRANT = "IGPROF_SM_GRANT"
"""``FIRST:COUNT``: groups of SMs, from 0; a count of 0 is all SMs of the device."""
REPORTS = "IGPROF_SM_REPORTS"
"""The beginning of the names of the files in which a process says what it got."""
LIBRARY = "libcuda.so.1"

_SM = 1  # CU_DEV_RESOURCE_TYPE_SM
_DEFAULT_STREAM = 1  # CU_GREEN_CTX_DEFAULT_STREAM
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which streams of green contexts must be
_KEPT: list[object] = []


class Resource(ctypes.Structure):
    """CUdevResource of cuda.h, 144 bytes in CUDA 12.4 and later; of its union the SM count."""

    _fields_ = (
        ("type", ctypes.c_uint),
        ("internal", ctypes.c_ubyte * 92),
        ("sm_count", ctypes.c_uint),
        ("others", ctypes.c_ubyte * 36),
        ("next", ctypes.c_void_p),
    )


class Device:
    """The only visible device, with its primary context current in this thread."""

    def __init__(self, library: str = LIBRARY) -> None:
        """Raises OSError, RuntimeError: no driver, no device, or one without green contexts."""
        self._cuda = ctypes.CDLL(library)
        self._device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(self._device), 0)
        # the framework's own: contexts of the same device then share memory and modules
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self.call("cuCtxSetCurrent", context)
        self.whole = Resource()
        self.call("cuDeviceGetDevResource", self._device, ctypes.byref(self.whole), _SM)

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the driver. Raises RuntimeError."""
        function = getattr(self._cuda, name, None)
        if function is None:
            raise RuntimeError(f"this driver has no {name}: green contexts need CUDA 12.4")
        status = function(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} gives error {status}")

    def groups(self) -> ctypes.Array[Resource]:
        """The smallest groups into which its SMs can be divided; a rest may be in none."""
        count = ctypes.c_uint(0)
        least = ctypes.c_uint(1)  # rounded up by the driver: 8 SMs on compute capability 9.0
        whole = ctypes.byref(self.whole)
        self.call("cuDevSmResourceSplitByCount", None, ctypes.byref(count), whole, None, 0, least)
        found = (Resource * count.value)()
        rest = Resource()
        self.call(
            "cuDevSmResourceSplitByCount",
            found,
            ctypes.byref(count),
            whole,
            ctypes.byref(rest),
            0,
            least,
        )
        return found

    def stream(self, first: int, count: int) -> tuple[int, int]:
        """A stream on some groups of SMs, or on all with a count of 0, and how many SMs it has."""
        chosen = (Resource * 1)(self.whole)
        if count:
            groups = self.groups()
            if first + count > len(groups):
                raise RuntimeError(f"{first + count} groups of SMs wanted, {len(groups)} are there")
            chosen = (Resource * count)(*groups[first : first + count])
        described, context = ctypes.c_void_p(), ctypes.c_void_p()
        stream, got = ctypes.c_void_p(), Resource()
        self.call("cuDevResourceGenerateDesc", ctypes.byref(described), chosen, len(chosen))
        self.call(
            "cuGreenCtxCreate", ctypes.byref(context), described, self._device, _DEFAULT_STREAM
        )
        self.call("cuGreenCtxGetDevResource", context, ctypes.byref(got), _SM)
        self.call("cuGreenCtxStreamCreate", ctypes.byref(stream), context, _NON_BLOCKING, 0)
        _KEPT.append((self, context, stream))
        return stream.value or 0, got.sm_count


def granted_stream(library: str = LIBRARY) -> int:
    """The stream on the SMs that this process was granted; says so to who granted them.

    Raises:
        KeyError: nothing was granted.
        OSError, RuntimeError: the driver does not do it.
    """
    first, _, count = os.environ[GRANT].partition(":")
    stream, sm_count = Device(library).stream(int(first), int(count))
    report = Path(f"{os.environ[REPORTS]}{os.getpid()}.json")
    unfinished = report.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"sm_count": sm_count}))
    unfinished.replace(report)
    return stream


def layout(library: str = LIBRARY) -> dict[str, object]:
    """``sms`` of the device, and how many are in each of its ``groups``. Raises as Device."""
    device = Device(library)
    return {"sms": device.whole.sm_count, "groups": [each.sm_count for each in device.groups()]}


if __name__ == "__main__":
    print(json.dumps(layout(*sys.argv[1:2])))
