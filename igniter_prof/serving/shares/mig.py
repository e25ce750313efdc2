"""MIG: slices of a GPU that exist are used by their UUID; none is ever made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import Self

from igniter_prof.config.devices import nvml
from igniter_prof.errors import BadInput, MissingCapability
from igniter_prof.records import Device, Tenant
from igniter_prof.serving.contract import ServeOptions
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares.caps import caps_of
from igniter_prof.serving.shares.contract import Grant, Plain
from igniter_prof.serving.shares.gpu import (
    WITHOUT_MPS,
    expect_gpu,
    is_slice,
    on_gpu,
    sm_counts,
    uuid_of,
)

EXACT_PCT = 0.1
"""How far a share may be from a slice's: 14.3 stands for a seventh."""


@dataclass(frozen=True)
class Slice:
    """A MIG slice that exists."""

    uuid: str
    share_pct: float
    """Its compute slices, of as many as the GPU can be cut into."""


class Mig(Plain):
    """Each tenant has a slice to itself.

    The device is a slice (``cuda:MIG-...``), which is one tenant's, whole; or a GPU that is cut
    into slices, where each tenant gets a slice that exists and is exactly its share.
    """

    name = "mig"

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
        self._uuids: list[str | None]
        self._sm_counts: list[int | None] = [None] * len(tenants)
        if is_slice(device):
            self._expect_one()
            self._uuids = [uuid_of(device) if inside else None for inside in self._on_gpu]
            self.step_pct = 100.0
        else:
            found, self.step_pct = slices_of(device)
            self._uuids = assign(tenants, found, device)

    def __enter__(self) -> Self:
        """See how many SMs each slice has."""
        given = [uuid for uuid in self._uuids if uuid is not None]
        counts = sm_counts([{**WITHOUT_MPS, "CUDA_VISIBLE_DEVICES": uuid} for uuid in given])
        by_uuid = dict(zip(given, counts, strict=True))
        self._sm_counts = [None if uuid is None else by_uuid[uuid] for uuid in self._uuids]
        return self

    def grant(self, index: int) -> Grant:
        """The slice, and no share of it."""
        uuid = self._uuids[index]
        if uuid is None:
            return Grant(caps=self._caps[index])
        return Grant(caps=self._caps[index], environment=WITHOUT_MPS, gpus=(uuid,))

    def sm_count(self, index: int) -> int | None:
        """SMs of the tenant's slice, by CUDA itself; None: it could not be asked."""
        return self._sm_counts[index]

    def _expect_one(self) -> None:
        hint = "share_mechanism: mps or time-slicing shares a slice"
        if sum(self._on_gpu) > 1:
            raise BadInput("a MIG slice is one tenant's", where=self.device.id, hint=hint)
        for tenant in self.tenants:
            if tenant.share_pct not in (None, 100):
                raise BadInput(
                    f"a share of {tenant.share_pct:g}% of a MIG slice is no whole slice",
                    where=f"tenant {tenant.model}",
                    hint=hint,
                )


def slices_of(device: Device) -> tuple[list[Slice], float]:
    """The slices of a GPU, and the smallest share that one can have, in percent.

    Raises:
        MissingCapability: it has none.
    """
    uuid = uuid_of(device)
    found = []
    with nvml() as library:
        try:
            handle = library.nvmlDeviceGetHandleByUUID(uuid)
            most = library.nvmlDeviceGetMaxMigDeviceCount(handle)
        except library.NVMLError:
            most = 0
        for index in range(most):
            try:
                each = library.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                name = library.nvmlDeviceGetUUID(each)
                compute = library.nvmlDeviceGetAttributes(each).gpuInstanceSliceCount
            except library.NVMLError:
                continue  # no slice of that number
            text = name.decode() if isinstance(name, bytes) else name
            found.append(Slice(text, 100 * compute / most))
    if not found:
        raise MissingCapability(
            "has no MIG slices",
            where=device.id,
            hint="igprof makes none. By hand: sudo nvidia-smi -i UUID -mig 1, then"
            " sudo nvidia-smi mig -i UUID -cgi 3g.20gb,3g.20gb -C",
        )
    return found, 100 / most


def assign(tenants: Sequence[Tenant], slices: Sequence[Slice], device: Device) -> list[str | None]:
    """The UUID of a slice for each tenant, none twice; None for a tenant without the GPU.

    Raises:
        BadInput: a tenant has no share, or no slice that is left is exactly its share.
    """
    left = list(slices)
    found: list[str | None] = []
    for tenant in tenants:
        if not on_gpu(tenant):
            found.append(None)
            continue
        where = f"tenant {tenant.model}"
        there = ", ".join(f"{each.share_pct:.1f}%" for each in left) or "none"
        if tenant.share_pct is None:
            raise BadInput(
                "needs a share, which says the slice that it gets",
                where=where,
                hint=f"slices of {device.id} that are left: {there}",
            )
        fit = next((s for s in left if abs(s.share_pct - tenant.share_pct) <= EXACT_PCT), None)
        if fit is None:
            raise BadInput(
                f"no MIG slice that is left is exactly {tenant.share_pct:g}% of the GPU",
                where=where,
                hint=f"left: {there}; igprof makes none",
            )
        left.remove(fit)
        found.append(fit.uuid)
    return found
