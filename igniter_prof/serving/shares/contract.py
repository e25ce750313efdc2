"""How a tenant gets its share of a device: what every share mechanism offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from igniter_prof.records import Device, Tenant
from igniter_prof.serving.shares.caps import Caps

if TYPE_CHECKING:
    from typing_extensions import Self

    from igniter_prof.serving.contract import ServeOptions
    from igniter_prof.serving.marks import Mark


@dataclass(frozen=True)
class Grant:
    """What one tenant's server is started with, so that it has its share; container or process."""

    caps: Caps = field(default_factory=Caps)
    """CPU quota or cores, and memory."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of its process, such as CUDA_MPS_ACTIVE_THREAD_PERCENTAGE."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Folders of the host that a container needs, writable, to where in it (MPS's pipes)."""
    host_ipc: bool = False
    """Whether a container needs the host's IPC namespace (MPS does)."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPU or MIG slice that it may see; empty: none."""
    user: int | None = None
    """The user id that it must run as (MPS: that of the daemon); None: any."""


class Mechanism(Protocol):
    """One way of sharing a device. A context: what it starts (a daemon) ends with it."""

    @property
    def name(self) -> str:
        """As in ``choice.MECHANISMS``: ``cfs-quota``, ``mps``, …; stored with each cell."""

    @property
    def step_pct(self) -> float | None:
        """Granularity of shares, in percent of the device; None: not known, or none."""

    @property
    def period_us(self) -> int | None:
        """The period in which a share is given; None where there is none."""

    def __enter__(self) -> Mechanism:
        """Start what it needs. Raises MissingCapability, OutsideFailure."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End what it started, and only that."""

    def grant(self, index: int) -> Grant:
        """What the tenant of that index is started with. Raises BadInput."""

    def verify(self, index: int, pids: Sequence[int]) -> None:
        """Check that a tenant which is ready really has its share.

        Args:
            index: of the tenant.
            pids: the processes of its server, as this host numbers them.

        Raises:
            OutsideFailure: it runs without (MPS: its process is none of the daemon's clients), so
                that its numbers would be of something else.
        """

    def sm_count(self, index: int) -> int | None:
        """How many SMs the tenant sees of the GPU; None where that is not known."""

    def trouble(self, *, fresh: bool = False) -> str | None:
        """Why no tenant's numbers mean anything any more; None while all is well.

        May be called often: what is costly to ask is asked every few seconds only, or at once with
        ``fresh``.
        """


class MechanismFactory(Protocol):
    """Makes a mechanism for the tenants of one deployment; starts nothing yet."""

    def __call__(
        self,
        device: Device,
        tenants: Sequence[Tenant],
        options: ServeOptions,
        mark: Mark | None,
    ) -> Mechanism:
        """Raises BadInput where these tenants cannot share that device in this way.

        And MissingCapability where the device cannot be shared so (MIG: it has no slices).

        Args:
            device: what is shared.
            tenants: of one cell or plan's device.
            options: how they are served.
            mark: what is started carries it; None: a mark of its own.
        """


class Plain:
    """What most mechanisms have in common: nothing is started, and nothing can go wrong later."""

    name = ""
    step_pct: float | None = None
    period_us: int | None = None

    def __init__(
        self,
        device: Device,
        tenants: Sequence[Tenant],
        options: ServeOptions,
        mark: Mark | None = None,
    ) -> None:
        self.device = device
        self.tenants = tuple(tenants)
        self.options = options
        self.mark = mark

    def __enter__(self) -> Self:
        """Start nothing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End nothing."""

    def verify(self, index: int, pids: Sequence[int]) -> None:
        """The limits hold by themselves."""

    def sm_count(self, index: int) -> int | None:
        """None: no GPU."""
        return None

    def trouble(self, *, fresh: bool = False) -> str | None:
        """None: tenants end each for themselves."""
        return None
