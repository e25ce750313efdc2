"""How many SMs a CUDA process sees: a program of its own, which prints the number.

It runs with the environment of a tenant (MPS percentage, pipe directory, visible device), so that
it is given what the tenant is given. A context is made, since shares are read only then.

::

    python -I sm_probe.py [LIBCUDA]
"""

from __future__ import annotations

import ctypes
import sys

MULTIPROCESSOR_COUNT = 16
"""CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT of cuda.h."""
EXEC_AFFINITY_SM_COUNT = 0
"""CU_EXEC_AFFINITY_TYPE_SM_COUNT of cuda.h."""


class ExecAffinity(ctypes.Structure):
    """CUexecAffinityParam of cuda.h: a type and a union of which only the SM count exists."""

    _fields_ = (("type", ctypes.c_int), ("sm_count", ctypes.c_uint))


def sm_count(library: str) -> int:
    """SMs that a context of the only visible device may use. Raises OSError, RuntimeError."""
    cuda = ctypes.CDLL(library)

    def call(name: str, *arguments: object) -> None:
        status = getattr(cuda, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} gives error {status}")

    device, context, count = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
    call("cuDeviceGetAttribute", ctypes.byref(count), MULTIPROCESSOR_COUNT, device)
    seen = count.value
    # CUDA 11.4 and later; what the context may use cannot be more than the device has
    if hasattr(cuda, "cuCtxGetExecAffinity"):
        affinity = ExecAffinity()
        status = cuda.cuCtxGetExecAffinity(ctypes.byref(affinity), EXEC_AFFINITY_SM_COUNT)
        if status == 0 and 0 < affinity.sm_count < seen:
            seen = affinity.sm_count
    call("cuCtxDestroy_v2", context)
    return seen


if __name__ == "__main__":
    print(sm_count(sys.argv[1] if len(sys.argv) > 1 else "libcuda.so.1"))
