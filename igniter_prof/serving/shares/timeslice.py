"""A GPU that several processes use in turns: the driver's own way, without any share."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import Self

from igniter_prof.errors import BadInput
from igniter_prof.records import Device, Tenant
from igniter_prof.serving.contract import ServeOptions
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares.caps import caps_of
from igniter_prof.serving.shares.contract import Grant, Plain
from igniter_prof.serving.shares.gpu import (
    WITHOUT_MPS,
    expect_gpu,
    expect_whole,
    facts,
    on_gpu,
    sm_counts,
    uuid_of,
)


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
        self._on_gpu = [on_gpu(tenant) for tenant in tenants]
        self._caps = [caps_of(tenant, device) for tenant in tenants]
        self._sm_count: int | None = None
        for tenant in tenants:
            if tenant.share_pct is not None and (tenant.share_pct < 100 or len(tenants) > 1):
                raise BadInput(
                    f"a share of {tenant.share_pct:g}% cannot be given by time slicing",
                    where=f"tenant {tenant.model}",
                    hint="leave the share out, or use mps",
                )

    def __enter__(self) -> Self:
        """See how many SMs there are. Raises MissingCapability for a GPU in slices."""
        if not any(self._on_gpu):
            return self
        uuid = uuid_of(self.device)
        expect_whole(self.device, facts(uuid))
        (self._sm_count,) = sm_counts([{**WITHOUT_MPS, "CUDA_VISIBLE_DEVICES": uuid}])
        return self

    def grant(self, index: int) -> Grant:
        """The GPU, and no share of it."""
        if not self._on_gpu[index]:
            return Grant(caps=self._caps[index])
        return Grant(caps=self._caps[index], environment=WITHOUT_MPS, gpus=(uuid_of(self.device),))

    def sm_count(self, index: int) -> int | None:
        """All SMs of the GPU, by CUDA itself; None: it could not be asked."""
        return self._sm_count if self._on_gpu[index] else None
