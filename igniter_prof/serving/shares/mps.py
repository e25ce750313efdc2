"""MPS: processes use a GPU at once, each on a part of its SMs.

The part is a cap and no reservation, rounded by the driver, and read when a process makes its first
CUDA context. So it is set in each tenant's own environment, and what came of it is asked: of the
daemon, whether the tenant is its client at all (CUDA runs without MPS, and says nothing, where no
daemon answers), and of a CUDA process with the same environment, how many SMs it sees.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import TracebackType

from typing_extensions import Self

from igniter_prof import files
from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.records import Device, Tenant
from igniter_prof.serving import marks
from igniter_prof.serving.contract import ServeOptions
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares import mps_daemon
from igniter_prof.serving.shares.caps import caps_of
from igniter_prof.serving.shares.contract import Grant, Plain
from igniter_prof.serving.shares.gpu import (
    GpuFacts,
    compute_pids,
    expect_gpu,
    expect_whole,
    facts,
    is_slice,
    on_gpu,
    sm_counts,
    uuid_of,
)
from igniter_prof.serving.shares.mps_clients import is_client
from igniter_prof.serving.shares.mps_daemon import PIPES, Daemon

PERCENTAGE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
VOLTA = (7, 0)
DOCUMENTED_CLIENTS = ((13_010, 60), (0, 48))
"""CUDA version and how many clients of a GPU are documented from it on. Often fewer are possible
(memory, MIG), and those that did not get in are found by ``verify``."""
CLIENTS_BEFORE_VOLTA = 16
VERIFY_TIMEOUT_S = 15.0
FAULT_EVERY_S = 2.0


class DaemonWatch:
    """Asks a daemon now and then whether its clients can be relied on."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._servers: set[int] = set()
        self._trouble: str | None = None
        self._ask_at_s = 0.0

    def settle(self) -> None:
        """Remember the servers that there are now: they live as long as their clients."""
        self._servers = set(self.daemon.servers())

    def trouble(self, *, fresh: bool = False) -> str | None:
        """Why no client can be relied on any more; None while all is well.

        Asked every FAULT_EVERY_S, or at once if ``fresh``; once found, it stays.
        """
        now_s = time.monotonic()
        if self._trouble is None and (fresh or now_s >= self._ask_at_s):
            self._ask_at_s = now_s + FAULT_EVERY_S
            self._trouble = self._asked()
        return self._trouble

    def _asked(self) -> str | None:
        try:
            fault = self.daemon.fault()
            ended = self._servers - set(self.daemon.servers())
        except OutsideFailure as error:
            return f"the MPS daemon is gone: {error}"
        if fault is not None:
            return f"the fault of a client ended all on this GPU: {fault}"
        # after a fault it ends when its clients have, which may be sooner than the next question
        return f"the MPS server {min(ended)} ended under its clients" if ended else None


class Mps(Plain):
    """Shares by MPS, with a daemon of our own or one that is there."""

    name = "mps"

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
        self._watch: DaemonWatch | None = None
        self._own_mark: Mark | None = None
        self._sm_counts: list[int | None] = [None] * len(tenants)

    @property
    def daemon(self) -> Daemon:
        """The daemon; there is one from entry to exit."""
        assert self._watch is not None, "the mechanism was not entered"
        return self._watch.daemon

    def __enter__(self) -> Self:
        """Find or start the daemon, and see what its clients are given.

        Raises:
            MissingCapability: the GPU has no shares, or a daemon of others cannot be used.
            BadInput: more clients than MPS takes.
            OutsideFailure: the daemon does not start.
        """
        if not any(self._on_gpu):
            return self
        uuid = uuid_of(self.device)
        known = facts(uuid)
        self._expect_shares(known)
        expect_whole(self.device, known)
        self._expect_room(known)
        try:
            daemon = mps_daemon.existing(uuid) or self._start(uuid)
            self._watch = DaemonWatch(daemon)
            if not daemon.own:
                self._expect_usable(daemon)
            self._count_sms()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the daemon if it is our own."""
        watch, self._watch = self._watch, None
        if watch is not None and watch.daemon.own:
            watch.daemon.quit()
        if self._own_mark is not None:
            marks.sweep_up(self._own_mark)

    def grant(self, index: int) -> Grant:
        """The daemon's pipes and the percentage, for the one tenant only."""
        if not self._on_gpu[index]:
            return Grant(caps=self._caps[index])
        pipes = str(self.daemon.pipes)
        owner = self.daemon.user()
        return Grant(
            caps=self._caps[index],
            environment=self._environment(self.tenants[index].share_pct),
            mounts={pipes: pipes},
            host_ipc=True,
            gpus=(uuid_of(self.device),),
            user=owner or None,  # a daemon of root serves any user, one at a time
        )

    def verify(self, index: int, pids: Sequence[int]) -> None:
        """Ask the daemon whether the tenant's processes are its clients.

        They become clients with their first CUDA context, so the question is repeated for a while.
        Those that NVML sees on the GPU must all be clients; at least one must be.
        """
        if not self._on_gpu[index]:
            return
        assert self._watch is not None, "the mechanism was not entered"
        uuid, where = uuid_of(self.device), f"tenant {self.tenants[index].model}"
        deadline = time.monotonic() + VERIFY_TIMEOUT_S
        while True:
            clients = self.daemon.clients()
            inside = {pid for pid in pids if is_client(pid, clients, uuid)}
            beside = (compute_pids(uuid) & set(pids)) - inside
            if inside and not beside:
                self._watch.settle()
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(0.25)
        if inside:
            raise OutsideFailure(
                f"process {min(beside)} of its server uses the GPU without MPS",
                where=where,
                hint="fewer tenants or instances: the daemon may be full",
            )
        raise OutsideFailure(
            f"runs without MPS: none of its processes {sorted(pids)} is among the daemon's clients"
            f" {sorted(client.pid for client in clients)}",
            where=where,
            hint="its model must use the GPU; a full daemon, another user id or pipes that it"
            f" cannot reach ({self.daemon.pipes}) also keep it out",
        )

    def sm_count(self, index: int) -> int | None:
        """SMs that a process with the tenant's environment sees; None: it could not be asked."""
        return self._sm_counts[index]

    def trouble(self, *, fresh: bool = False) -> str | None:
        """What befell the daemon: the fault of one client ends all of them."""
        return None if self._watch is None else self._watch.trouble(fresh=fresh)

    def _environment(self, share_pct: float | None) -> dict[str, str]:
        pipes = {PIPES: str(self.daemon.pipes)}
        return pipes if share_pct is None else {**pipes, PERCENTAGE: f"{share_pct:g}"}

    def _start(self, uuid: str) -> Daemon:
        mark = self.mark
        if mark is None:
            mark = self._own_mark = marks.mint()
            files.make_cached(mark.folder)
        return mps_daemon.start(uuid, mark)

    def _expect_shares(self, known: GpuFacts) -> None:
        shared = any(tenant.share_pct not in (None, 100) for tenant in self.tenants)
        if shared and known.compute_capability < VOLTA:
            version = ".".join(map(str, known.compute_capability))
            raise MissingCapability(
                f"MPS has no shares on a GPU of compute capability {version}",
                where=self.device.id,
                hint="they need Volta (7.0) or newer; leave the shares out",
            )

    def _expect_room(self, known: GpuFacts) -> None:
        # instances of the Python backend are processes; other backends' share Triton's
        each = [
            tenant.instances if self.options.backend == "python" else 1
            for tenant, inside in zip(self.tenants, self._on_gpu, strict=True)
            if inside
        ]
        limit = next(limit for since, limit in DOCUMENTED_CLIENTS if known.cuda_version >= since)
        if known.compute_capability < VOLTA:
            limit = CLIENTS_BEFORE_VOLTA
        if sum(each) > limit and not is_slice(self.device):
            raise BadInput(
                f"{sum(each)} processes would use the GPU, and MPS takes {limit} clients",
                where=self.device.id,
                hint="fewer tenants or instances",
            )

    def _expect_usable(self, daemon: Daemon) -> None:
        """Raise MissingCapability where a daemon of others would not give what is asked for."""
        where, owner, us = str(daemon.pipes), daemon.user(), os.geteuid()
        if owner not in (0, us) and self.options.runtime == "local":
            raise MissingCapability(
                f"the MPS daemon that is there belongs to user {owner}, we are user {us}",
                where=where,
                hint=f"run igprof as that user, or have it stopped (echo quit | {PIPES}={where}"
                f" {mps_daemon.PROGRAM})",
            )
        others = daemon.server_users() - {us}
        if others and self.options.runtime == "local":
            raise MissingCapability(
                f"the MPS daemon that is there serves user {min(others)} now, and one at a time",
                where=where,
                hint="wait until that user's programs have ended",
            )
        fault = daemon.fault()
        if fault is not None:
            raise MissingCapability(
                f"the MPS daemon that is there is of no use: {fault}",
                where=where,
                hint="it recovers when all of its clients have ended; see its server.log",
            )
        limit = daemon.default_pct()
        most = max((tenant.share_pct or 100 for tenant in self.tenants), default=100)
        if limit is not None and limit < most:
            raise MissingCapability(
                f"the MPS daemon that is there caps every client at {limit:g}%, and {most:g}% is"
                " asked for",
                where=where,
                hint="igprof does not change it: set_default_active_thread_percentage 100 does",
            )

    def _count_sms(self) -> None:
        """What each share comes to, and what the whole GPU has, by CUDA itself."""
        shares = sorted({tenant.share_pct or 100 for tenant in self.tenants} | {100})
        uuid, us = uuid_of(self.device), os.geteuid()
        # one user at a time: the one that is served, else a daemon's own; root's serves any
        user = min(self.daemon.server_users(), default=self.daemon.user() or us)
        seen = sm_counts(
            [{**self._environment(share), "CUDA_VISIBLE_DEVICES": uuid} for share in shares],
            user=user if user != us else None,
        )
        by_share = dict(zip(shares, seen, strict=True))
        self._sm_counts = [
            by_share[tenant.share_pct or 100] if inside else None
            for tenant, inside in zip(self.tenants, self._on_gpu, strict=True)
        ]
        whole = by_share[100]
        # one SM; the driver may round coarser, which is why each tenant's count is kept, too
        self.step_pct = None if not whole else 100 / whole
