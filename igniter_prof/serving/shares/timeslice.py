"""A GPU that several processes use in turns: the driver's own way, without any share."""

from __future__ import annotations

from collections.abc import Sequence

from igniter_prof.errors import BadInput
from igniter_prof.records import Device, Tenant
from igniter_prof.serving.contract import ServeOptions
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares.caps import caps_of
from igniter_prof.serving.shares.contract import Grant, Plain
from igniter_prof.serving.shares.gpu import expect_gpu, on_gpu, uuid_of

WITHOUT_MPS = {"CUDA_MPS_PIPE_DIRECTORY": "/dev/null"}
"""CUDA joins a daemon at /tmp/nvidia-mps by itself, and where none answers it runs without."""


class TimeSlicing(Plain):
    """Each process has the whole GPU for its slice of time; how long is the driver's matter."""

    name = "time-slicing"

    def __init__(
        self,
        device: Device,
        tenants: Sequence[Tenant],
        options: ServeOptions,
        mark: Mark | None = None,
    ) -> None:
        super().__init__(device, tenants, options, mark)
        expect_gpu(device, self.name)
        for tenant in tenants:
            if tenant.share_pct is not None and (tenant.share_pct < 100 or len(tenants) > 1):
                raise BadInput(
                    f"a share of {tenant.share_pct:g}% cannot be given by time slicing",
                    where=f"tenant {tenant.model}",
                    hint="leave the share out, or use mps (needs nvidia-cuda-mps-control)",
                )

    def grant(self, index: int) -> Grant:
        """The GPU, and no share of it."""
        tenant = self.tenants[index]
        caps = caps_of(tenant, self.device)
        if not on_gpu(tenant):
            return Grant(caps=caps)
        return Grant(caps=caps, environment=WITHOUT_MPS, gpus=(uuid_of(self.device),))
