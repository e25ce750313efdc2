"""Where tenants are: named devices of a plan, kept, relabelled, and compared with what was."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from igniter_prof.provisioning.assignment_check import type_name
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import (
    DEVICE_PCT,
    Configuration,
    Pattern,
    Problem,
    natural,
)
from igniter_prof.records import Plan, PlanTenant, Workload

MAX_ASSIGNED = 2000
"""Devices that are relabelled at once: the assignment takes a matrix of their square."""

FITS = 1 + 1e-9


@dataclass(frozen=True)
class Placed:
    """A device and its tenants, by name, in the order of the configuration's pattern."""

    name: str
    tenants: tuple[str, ...]
    configuration: Configuration

    @property
    def kind(self) -> int:
        """Index of its type."""
        return self.configuration.kind

    @property
    def settings(self) -> dict[str, Setting]:
        """Of each tenant."""
        return dict(zip(self.tenants, self.configuration.settings, strict=True))


@dataclass(frozen=True)
class Before:
    """A device as it was: those of its tenants that are still asked for, with their settings."""

    name: str
    kind: int
    settings: Mapping[str, Setting]


Layout = dict[str, Placed]
"""Devices by name."""


@dataclass(frozen=True)
class Ground:
    """What is known while tenants are moved about: the problem, and how a device is judged.

    ``configure`` gives the best settings of a pattern on a kind of device, None if it holds none;
    ``holds`` tells whether a device with given settings keeps every rule; ``cost`` is a device's in
    the objective's unit; ``size`` the least share of a class alone on a kind of device, in percent
    (None: it cannot be there). ``scratch`` plans workloads anew, with so many devices of each kind
    (None: any number), and raises Infeasible.
    """

    problem: Problem
    configure: Callable[[Pattern, int], Configuration | None]
    holds: Callable[[Configuration], bool]
    cost: Callable[[Configuration], float]
    size: Callable[[int, int], float | None]
    scratch: Callable[[Sequence[Workload], Sequence[int | None]], Plan]
    _configured: dict[tuple[Pattern, int], Configuration | None] = field(default_factory=dict)

    @cached_property
    def class_of(self) -> dict[str, int]:
        """Index of a tenant's class, by name."""
        return {
            name: index for index, each in enumerate(self.problem.classes) for name in each.names
        }

    @cached_property
    def kind_of(self) -> dict[str, int]:
        """Index of a device type, by name."""
        return {kind.record.name: index for index, kind in enumerate(self.problem.kinds)}

    def workload(self, name: str) -> Workload:
        """A tenant, as its class has it."""
        return self.problem.classes[self.class_of[name]].sample

    def base(self, name: str) -> str:
        """The workload that a tenant is, or is a replica of."""
        return name.rpartition(".")[0] if self.workload(name).replicas > 1 else name

    def label(self, name: str) -> str:
        """What no two tenants of one device may have in common."""
        apart = self.workload(name).anti_affinity
        return f"apart {apart}" if apart is not None else f"workload {self.base(name)}"

    def key(self, name: str) -> int | str:
        """What tenants have in common that may change places: their class; a replica only itself.

        Two replicas of one workload may not meet, and whom a replica meets depends on its name.
        """
        return name if self.workload(name).replicas > 1 else self.class_of[name]

    def configured(
        self, names: Iterable[str], kind: int
    ) -> tuple[tuple[str, ...], Configuration] | None:
        """Tenants in the order of their pattern, with the best settings on a kind of device."""
        ordered = tuple(sorted(names, key=lambda name: (self.class_of[name], natural(name))))
        if not self._may_meet(ordered, kind):
            return None
        pattern = tuple(self.class_of[name] for name in ordered)
        if (pattern, kind) not in self._configured:
            self._configured[pattern, kind] = self.configure(pattern, kind)
        found = self._configured[pattern, kind]
        return None if found is None else (ordered, found)

    def _may_meet(self, names: Sequence[str], kind: int) -> bool:
        """What is cheap to tell before a device is judged."""
        if not names or len(names) > self.problem.kinds[kind].max_tenants:
            return False
        if len({self.label(name) for name in names}) < len(names):
            return False
        needed = self.fullness(names, kind)
        return needed is not None and needed <= DEVICE_PCT * FITS

    def fullness(self, names: Iterable[str], kind: int) -> float | None:
        """The sum of the least shares alone, in percent; None if one cannot be there at all."""
        total = 0.0
        for name in names:
            index = self.class_of[name]
            allowed = self.problem.allows(self.problem.classes[index], kind)
            size = self.size(index, kind) if allowed else None
            if size is None:
                return None
            total += size
        return total


def identities(plan: Plan, ground: Ground) -> dict[str, str]:
    """The present name of each of a plan's tenants that is still asked for.

    A workload that is split into replicas now, or no longer, goes on as its first replica.
    """
    known, tenants = ground.class_of, [t for device in plan.devices for t in device.tenants]
    there = {tenant.workload for tenant in tenants}
    found: dict[str, str] = {}
    for tenant in tenants:
        name = tenant.workload
        if name in known:
            found[name] = name
        elif f"{name}.1" in known and f"{name}.1" not in there:
            found[name] = f"{name}.1"
        elif tenant.replica_of in known and name == f"{tenant.replica_of}.1":
            found[name] = tenant.replica_of
    return found


def before(plan: Plan, ground: Ground, lost: Iterable[str] = ()) -> tuple[Before, ...]:
    """A plan's devices that are still there, in its order, with those tenants that are too.

    Not there are those that are ``lost``, and those of a type that is no longer given.
    """
    lost, names = set(lost), identities(plan, ground)
    devices = []
    for device in plan.devices:
        kind = ground.kind_of.get(type_name(plan, device))
        if device.name in lost or kind is None:
            continue
        kept = {names[t.workload]: setting_of(t) for t in device.tenants if t.workload in names}
        devices.append(Before(device.name, kind, kept))
    return tuple(devices)


def setting_of(tenant: PlanTenant) -> Setting:
    """What a plan chose for a tenant."""
    return Setting(tenant.batch_size, tenant.share_pct, tenant.queue_delay_us)


def as_it_was(ground: Ground, device: Before, names: Iterable[str]) -> Placed | None:
    """Some of a device's tenants with the settings that they had, if these still hold."""
    ordered = tuple(sorted(names, key=lambda name: (ground.class_of[name], natural(name))))
    settings = [device.settings.get(name) for name in ordered]
    if None in settings or not ordered:
        return None
    if len({ground.label(name) for name in ordered}) < len(ordered):
        return None
    if any(
        not ground.problem.allows(ground.problem.classes[ground.class_of[name]], device.kind)
        for name in ordered
    ):
        return None
    pattern = tuple(ground.class_of[name] for name in ordered)
    kept = Configuration(pattern, tuple(each for each in settings if each), device.kind)
    return Placed(device.name, ordered, kept) if ground.holds(kept) else None


def settled(
    ground: Ground, name: str, kind: int, tenants: Iterable[str], was: Before | None
) -> Placed | None:
    """A device with these tenants, as little changed as can be; None if it does not hold them."""
    tenants = tuple(tenants)
    if was is not None and (kept := as_it_was(ground, was, tenants)) is not None:
        return kept
    found = ground.configured(tenants, kind)
    if found is None:
        return None
    ordered, configuration = found
    return seated(ground, Placed(name, ordered, configuration), was)


def seated(ground: Ground, device: Placed, was: Before | None) -> Placed:
    """Tenants that are alike, dealt to their places so that most keep their settings."""
    if was is None:
        return device
    names: list[str] = [""] * len(device.tenants)
    places: dict[int, list[int]] = defaultdict(list)
    for position, index in enumerate(device.configuration.pattern):
        places[index].append(position)
    late = []
    for name in device.tenants:
        mine = places[ground.class_of[name]]
        wanted = was.settings.get(name)
        same = [p for p in mine if device.configuration.settings[p] == wanted]
        if same:
            names[same[0]] = name
            mine.remove(same[0])
        else:
            late.append(name)
    for name in late:
        names[places[ground.class_of[name]].pop(0)] = name
    return replace(device, tenants=tuple(names))


# --- the names of devices that were planned anew -----------------------------------------------


def relabelled(
    ground: Ground, old: Sequence[Before], fresh: Sequence[Placed], taken: Iterable[str]
) -> list[Placed]:
    """Devices that were planned anew, with old names so that most tenants stay where they were.

    Which fresh device becomes which old one of its kind: first those that hold the same tenants,
    which never costs any other pair more than it gains, then the assignment with the most tenants
    in common. What is left of the fresh ones gets names that nobody has (``taken`` neither).
    Tenants that are alike change places, so that most of them are at home.
    """
    labels: dict[int, str] = {}
    keys_of_fresh = [Counter(map(ground.key, each.tenants)) for each in fresh]
    keys_of_old = [Counter(map(ground.key, each.settings)) for each in old]
    for kind in range(len(ground.problem.kinds)):
        rows = [row for row, each in enumerate(fresh) if each.kind == kind]
        columns = [column for column, each in enumerate(old) if each.kind == kind]
        waiting: dict[frozenset[tuple[int | str, int]], list[int]] = defaultdict(list)
        for column in columns:
            waiting[frozenset(keys_of_old[column].items())].append(column)
        for row in rows:
            alike = waiting[frozenset(keys_of_fresh[row].items())]
            if alike:
                labels[row] = old[alike.pop(0)].name
        used = set(labels.values())
        rows = [row for row in rows if row not in labels]
        columns = [column for column in columns if old[column].name not in used]
        for row, column in _most_common(
            [(row, keys_of_fresh[row]) for row in rows],
            [(column, keys_of_old[column]) for column in columns],
        ):
            labels[row] = old[column].name
    free = free_names({*taken, *(each.name for each in old)})
    named = [
        replace(each, name=labels[row] if row in labels else next(free))
        for row, each in enumerate(fresh)
    ]
    return at_home(ground, old, named)


def free_names(taken: Iterable[str]) -> Iterator[str]:
    """``device-1``, ``device-2``, … as far as nobody has them."""
    taken, number = set(taken), 0
    while True:
        number += 1
        if f"device-{number}" not in taken:
            yield f"device-{number}"


def _most_common(
    rows: Sequence[tuple[int, Counter[int | str]]],
    columns: Sequence[tuple[int, Counter[int | str]]],
) -> list[tuple[int, int]]:
    """Pairs of a row and a column with the most in common in all; part by part if too many."""
    from scipy.optimize import linear_sum_assignment

    pairs = []
    for start in range(0, max(len(rows), len(columns)), MAX_ASSIGNED):
        some = rows[start : start + MAX_ASSIGNED]
        others = columns[start : start + MAX_ASSIGNED]
        if not some or not others:
            break
        holders: dict[int | str, list[tuple[int, int]]] = defaultdict(list)
        for position, (_, keys) in enumerate(others):
            for key, number in keys.items():
                holders[key].append((position, number))
        common = np.zeros((len(some), len(others)))
        for position, (_, keys) in enumerate(some):
            for key, number in keys.items():
                for other, held in holders[key]:
                    common[position, other] += min(number, held)
        chosen, partners = linear_sum_assignment(common, maximize=True)
        pairs += [
            (some[row][0], others[column][0])
            for row, column in zip(chosen.tolist(), partners.tolist(), strict=True)
        ]
    return pairs


def at_home(ground: Ground, old: Sequence[Before], devices: Sequence[Placed]) -> list[Placed]:
    """The same devices with alike tenants dealt anew, so that most are where they were."""
    was = {each.name: each for each in old}
    pool: dict[int | str, list[str]] = defaultdict(list)
    for name in sorted((t for each in devices for t in each.tenants), key=natural):
        pool[ground.key(name)].append(name)
    here = {name for names in pool.values() for name in names}
    places = [[ground.key(name) for name in each.tenants] for each in devices]
    given: list[list[str | None]] = [[None] * len(each) for each in places]
    used: set[str] = set()
    for position, device in enumerate(devices):
        staying: dict[int | str, list[str]] = defaultdict(list)
        if device.name in was:
            for name in was[device.name].settings:
                if name in here:
                    staying[ground.key(name)].append(name)
        for place, key in enumerate(places[position]):
            if staying[key]:
                given[position][place] = staying[key].pop(0)
                used.add(given[position][place] or "")
    others = {key: iter([n for n in names if n not in used]) for key, names in pool.items()}
    dealt = []
    for position, device in enumerate(devices):
        names = tuple(
            name if name is not None else next(others[key])
            for name, key in zip(given[position], places[position], strict=True)
        )
        dealt.append(seated(ground, replace(device, tenants=names), was.get(device.name)))
    return dealt
