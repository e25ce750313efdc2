"""Green contexts: each model's process confines its own work to a part of the GPU's SMs.

The parts are disjoint, and whole groups of SMs (8 on compute capability 9.0). A model must take
part: it loads ``sm_partition.py`` and works on the stream that it gets; one that does not is no
row. Processes on a GPU take turns, however their SMs are divided, unless they are clients of one
MPS daemon: so there are two mechanisms, with such a daemon and without.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from igniter_prof import files
from igniter_prof.errors import BadInput, MissingCapability, OutsideFailure
from igniter_prof.records import Device, Tenant
from igniter_prof.serving import marks
from igniter_prof.serving.contract import ServeOptions
from igniter_prof.serving.marks import Mark
from igniter_prof.serving.shares import sm_partition
from igniter_prof.serving.shares.caps import caps_of
from igniter_prof.serving.shares.contract import Grant, Plain
from igniter_prof.serving.shares.gpu import (
    PROBE_TIMEOUT_S,
    WITHOUT_MPS,
    compute_pids,
    expect_gpu,
    expect_whole,
    facts,
    on_gpu,
    uuid_of,
)
from igniter_prof.serving.shares.mps import Mps

PROGRAM = "IGPROF_SM_PARTITION"
"""Tells a model's process the path of ``sm_partition.py``."""
CODE = Path(sm_partition.__file__)
VERIFY_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Layout:
    """How the SMs of a GPU can be divided."""

    sms: int
    group: int
    """SMs of the smallest part."""
    groups: int

    def count(self, share_pct: float) -> int:
        """Whole groups in a share, rounded down, so that shares of 100% in all always fit."""
        return min(int(share_pct / 100 * self.sms / self.group + 1e-9), self.groups)


class GreenContext(Plain):
    """Disjoint groups of SMs; the processes take turns."""

    name = "green-context"

    def __init__(
        self,
        device: Device,
        tenants: Sequence[Tenant],
        options: ServeOptions,
        mark: Mark | None = None,
    ) -> None:
        super().__init__(device, tenants, options, mark)
        expect_gpu(device, self.name)
        if options.runtime != "local":
            raise BadInput(
                f"'{self.name}' is given to local processes only, not by {options.runtime}",
                hint="--runtime local, or share_mechanism: mps",
            )
        self._on_gpu = [on_gpu(tenant) for tenant in tenants]
        self._caps = [caps_of(tenant, device) for tenant in tenants]
        self._ranges: list[tuple[int, int]] = []
        self._layout = Layout(0, 0, 0)
        self._own_mark: Mark | None = None
        self._reports = Path()

    def __enter__(self) -> Self:
        """See how the SMs can be divided, and divide them.

        Raises:
            MissingCapability: the driver has no green contexts, or the GPU is in slices.
            BadInput: a share is less than the smallest part, or they do not fit.
        """
        if not any(self._on_gpu):
            return self
        expect_whole(self.device, facts(uuid_of(self.device)))
        self._layout = layout_of({**self._surroundings(), "CUDA_VISIBLE_DEVICES": self._uuid})
        self._ranges = ranges(self._layout, self.tenants, self._on_gpu)
        self.step_pct = 100 * self._layout.group / self._layout.sms
        mark = self.mark
        if mark is None:
            mark = self._own_mark = marks.mint()
        self._reports = mark.folder / "green"
        files.make_cached(self._reports)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the reports that nobody else does."""
        if self._own_mark is not None:
            marks.sweep_up(self._own_mark)

    def grant(self, index: int) -> Grant:
        """Where the code is, which groups of SMs, and where to say that they were taken."""
        if not self._on_gpu[index]:
            return Grant(caps=self._caps[index])
        first, count = self._ranges[index]
        return Grant(
            caps=self._caps[index],
            environment={
                **self._surroundings(),
                PROGRAM: str(CODE),
                sm_partition.GRANT: f"{first}:{count}",
                sm_partition.REPORTS: f"{self._reports}/{index}-",
            },
            gpus=(self._uuid,),
        )

    def verify(self, index: int, pids: Sequence[int]) -> None:
        """Read what the tenant's processes say that they got.

        Those that NVML sees on the GPU must all have said it; at least one must have.
        """
        if not self._on_gpu[index]:
            return
        where = f"tenant {self.tenants[index].model}"
        deadline = time.monotonic() + VERIFY_TIMEOUT_S
        while True:
            told = {pid: count for pid in pids if (count := self._told(index, pid)) is not None}
            beside = (compute_pids(self._uuid) & set(pids)) - told.keys()
            if (told and not beside) or time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        if beside or not told:
            raise OutsideFailure(
                f"its model does not work in its part of the SMs: of its processes {sorted(pids)}"
                f" none but {sorted(told)} took it",
                where=where,
                hint=f"the model must load the file that {PROGRAM} names and use its stream, see"
                " docs/gpu-shares.md",
            )
        wrong = sorted(set(told.values()) - {self.sm_count(index)})
        if wrong:
            raise OutsideFailure(
                f"has {wrong[0]} SMs, and {self.sm_count(index)} were to be given", where=where
            )

    def sm_count(self, index: int) -> int | None:
        """SMs of its part; what it says itself must agree, see ``verify``."""
        if not self._on_gpu[index]:
            return None
        _, count = self._ranges[index]
        return count * self._layout.group if count else self._layout.sms

    @property
    def _uuid(self) -> str:
        return uuid_of(self.device)

    def _surroundings(self) -> Mapping[str, str]:
        """What decides whether the processes are clients of MPS."""
        return WITHOUT_MPS

    def _told(self, index: int, pid: int) -> int | None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return int(json.loads((self._reports / f"{index}-{pid}.json").read_text())["sm_count"])
        return None


class GreenContextMps(GreenContext):
    """Disjoint groups of SMs in clients of one MPS daemon, without percentages: all at once."""

    name = "green-context-mps"

    def __init__(
        self,
        device: Device,
        tenants: Sequence[Tenant],
        options: ServeOptions,
        mark: Mark | None = None,
    ) -> None:
        super().__init__(device, tenants, options, mark)
        whole = [tenant.model_copy(update={"share_pct": None}) for tenant in tenants]
        self._mps = Mps(device, whole, options, mark)

    def __enter__(self) -> Self:
        """The daemon first, then as without. Raises as both."""
        self._mps.__enter__()
        try:
            return super().__enter__()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the daemon if it is our own."""
        try:
            self._mps.__exit__(kind, error, trace)
        finally:
            super().__exit__(kind, error, trace)

    def verify(self, index: int, pids: Sequence[int]) -> None:
        """A client of the daemon, and in its part."""
        self._mps.verify(index, pids)
        super().verify(index, pids)

    def trouble(self, *, fresh: bool = False) -> str | None:
        """What befell the daemon."""
        return self._mps.trouble(fresh=fresh)

    def _surroundings(self) -> Mapping[str, str]:
        index = self._on_gpu.index(True)
        return self._mps.grant(index).environment


def ranges(
    layout: Layout, tenants: Sequence[Tenant], inside: Sequence[bool]
) -> list[tuple[int, int]]:
    """First group and number of groups of each tenant; a number of 0 is the whole GPU.

    Raises:
        BadInput: a share is less than the smallest part, or together they are more than there is.
    """
    first, found = 0, []
    for tenant, on in zip(tenants, inside, strict=True):
        share = tenant.share_pct
        if not on or share is None or share >= 100:
            found.append((0, 0))
            continue
        count = layout.count(share)
        if count == 0 or first + count > layout.groups:
            raise BadInput(
                f"a share of {share:g}% is less than the smallest part, {layout.group} of"
                f" {layout.sms} SMs"
                if count == 0
                else f"the shares need more than the {layout.groups} parts that there are",
                where=f"tenant {tenant.model}",
                hint=f"shares from {100 * layout.group / layout.sms:.4g}% on, at most 100% in all",
            )
        found.append((first, count))
        first += count
    return found


def layout_of(environment: Mapping[str, str], library: str | None = None) -> Layout:
    """How the SMs of the visible GPU can be divided, by a process that ends. MissingCapability."""
    command = [sys.executable, "-I", str(CODE), *([library] if library else [])]
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    try:
        done = subprocess.run(
            command,
            env={**kept, **environment},
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else {}
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        answer, why = {}, str(error)
    groups = answer.get("groups") or []
    if not groups:
        raise MissingCapability(
            f"its SMs cannot be divided by green contexts: {why}",
            where=environment.get("CUDA_VISIBLE_DEVICES"),
            hint="they need a driver of CUDA 12.4 or later; share_mechanism: mps or time-slicing",
        )
    return Layout(int(answer["sms"]), min(groups), len(groups))
