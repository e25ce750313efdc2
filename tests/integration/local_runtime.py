"""Whether the local runtime can work on this machine."""

from __future__ import annotations

import pytest

from igniter_prof.serving import triton

needs_local_runtime = pytest.mark.skipif(
    triton.locate(None) is None and triton.unsupported() is not None,
    reason="no Triton runs on this machine",
)
