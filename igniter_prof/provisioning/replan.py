"""``replan``: a plan for changed workloads that moves few tenants, weighed against its cost."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from igniter_prof.errors import Infeasible
from igniter_prof.provisioning.layout import (
    FITS,
    Before,
    Ground,
    Layout,
    Placed,
    as_it_was,
    at_home,
    before,
    free_names,
    identities,
    relabelled,
    setting_of,
    settled,
)
from igniter_prof.provisioning.operating import Setting
from igniter_prof.provisioning.problem import Configuration, Pattern, natural
from igniter_prof.records import Plan, PlanDevice, Record, Workload

DEFAULT_MOVE_COST = 0.1
MAX_SUBSETS = 12
"""Tenants of a device up to which every subset is tried to evict the fewest."""


class Move(Record):
    """A tenant that is on another device than before."""

    workload: str
    before: str
    after: str


class Restart(Record):
    """A tenant whose batch size or share is another on the same device."""

    workload: str
    device: str
    batch_size_before: int
    share_pct_before: float
    batch_size: int
    share_pct: float


class Addition(Record):
    """A tenant that was not there before."""

    workload: str
    device: str


class Change(Record):
    """What a new plan changes of an old one. A replica counts as a tenant of its own."""

    moved: tuple[Move, ...] = ()
    changed: tuple[Restart, ...] = ()
    added: tuple[Addition, ...] = ()
    removed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    devices_before: int
    devices_after: int
    opened: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    cost_before: float | None = None
    cost_after: float
    bound: float | None = None
    move_cost: float


@dataclass(frozen=True)
class Replanned:
    """Where everything is to be, and who is left out.

    ``scratch`` is the plan made anew, None if the planner found none.
    """

    layout: Layout
    left_out: tuple[str, ...]
    scratch: Plan | None


@dataclass
class _Work:
    """What a search for a layout needs throughout."""

    ground: Ground
    old: tuple[Before, ...]
    homes: Mapping[str, str]
    taken: frozenset[str]
    move_cost: float
    deadline: float
    floor: float = -math.inf
    """What no layout costs less than."""
    was: dict[str, Before] = field(init=False)

    def __post_init__(self) -> None:
        self.was = {each.name: each for each in self.old}

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def cheapest(self, layout: Layout) -> bool:
        """Whether no layout costs less."""
        costs = (self.ground.cost(device.configuration) for device in layout.values())
        return math.fsum(costs) <= self.floor * FITS

    def counts_left(self, layout: Layout) -> list[int | None]:
        """How many devices of each kind may still be opened."""
        used = [0] * len(self.ground.problem.kinds)
        for device in layout.values():
            used[device.kind] += 1
        return [
            None if kind.record.count is None else max(kind.record.count - used[index], 0)
            for index, kind in enumerate(self.ground.problem.kinds)
        ]

    def weigh(self, devices: Iterable[Placed]) -> tuple[float, int, int]:
        """Cost with moves, moves, and changes in place of some devices."""
        cost, moved, changed = 0.0, 0, 0
        for device in devices:
            cost += self.ground.cost(device.configuration)
            was = self.was.get(device.name)
            for name, setting in zip(device.tenants, device.configuration.settings, strict=True):
                home = self.homes.get(name)
                moved += home is not None and home != device.name
                there = was.settings.get(name) if was is not None else None
                changed += there is not None and there != setting
        return round(cost + self.move_cost * moved, 9), moved, changed

    def rank(self, layout: Layout) -> tuple[tuple[int, ...], float, int, int]:
        """The less the better: workloads left out by falling priority, then what it costs."""
        placed = {self.ground.base(name) for device in layout.values() for name in device.tenants}
        missing: dict[int, int] = defaultdict(int)
        for each in self.ground.problem.classes:
            if each.sample.priority is not None:
                bases = {self.ground.base(name) for name in each.names}
                missing[each.sample.priority] += len(bases - placed)
        by_priority = tuple(missing[priority] for priority in sorted(missing, reverse=True))
        return (by_priority, *self.weigh(layout.values()))


def replan(
    plan: Plan,
    ground: Ground,
    *,
    move_cost: float = DEFAULT_MOVE_COST,
    lost: Iterable[str] = (),
    time_limit_s: float = 60.0,
) -> Replanned:
    """Place the problem's tenants so that cost + ``move_cost`` x moved tenants is small.

    From the old plan: who no longer fits is evicted, as few as can be, and placed with those that
    are added where there is room, else on new devices; then devices are emptied, and their tenants
    planned anew in groups up to the whole plan, as long as that gains. ``time_limit_s`` limits the
    search for something better, not each plan that is made anew on the way. The devices ``lost``
    are gone with their names.

    Raises:
        Infeasible: there is no such plan.
    """
    old = before(plan, ground, lost)
    names = identities(plan, ground)
    homes = {
        names[tenant.workload]: device.name
        for device in plan.devices
        for tenant in device.tenants
        if tenant.workload in names
    }
    taken = frozenset(device.name for device in plan.devices)
    deadline = time.monotonic() + time_limit_s
    work = _Work(ground, old, homes, taken, move_cost, deadline)
    everybody = [name for each in ground.problem.classes for name in each.names]
    limits = [kind.record.count for kind in ground.problem.kinds]
    found: list[Layout] = []
    anew, why = None, None
    try:
        anew = ground.scratch(_workloads(ground, everybody, whole=True), limits)
        found.append(_anew(work, {}, anew))
        if anew.bound is not None and not anew.left_out:
            work.floor = anew.bound
    except Infeasible as error:
        why = error
    kept = _stay(work, everybody)
    if kept is not None:
        found.append(_named_again(work, _improve(work, kept)))
    if not found:
        raise why or Infeasible("no plan holds these workloads")
    best = min(found, key=work.rank)
    placed = {ground.base(name) for device in best.values() for name in device.tenants}
    left_out = tuple(sorted({ground.base(name) for name in everybody} - placed, key=natural))
    return Replanned(best, left_out, anew)


# --- staying where one is -----------------------------------------------------------------------


def _stay(work: _Work, everybody: Sequence[str]) -> Layout | None:
    """The old plan with as few moves as can be; None if devices do not suffice for that."""
    layout: Layout = {}
    for device in _within_counts(work):
        kept = _least_evicted(work, device)
        if kept is not None:
            layout[device.name] = kept
    placed = {name for device in layout.values() for name in device.tenants}
    return _filled(work, layout, [name for name in everybody if name not in placed])


def _within_counts(work: _Work) -> Iterator[Before]:
    """The old devices; of a kind of which there are fewer now, those with the most tenants."""
    for kind, each in enumerate(work.ground.problem.kinds):
        of_kind = [device for device in work.old if device.kind == kind and device.settings]
        if each.record.count is not None:
            of_kind = sorted(of_kind, key=lambda device: -len(device.settings))[: each.record.count]
        yield from of_kind


def _least_evicted(work: _Work, device: Before) -> Placed | None:
    """An old device with the most of its tenants that it holds; of equal ones, the fullest."""
    ground, names = work.ground, tuple(device.settings)
    for staying in range(len(names), 0, -1):
        if len(names) > MAX_SUBSETS:
            groups: list[tuple[str, ...]] = [names]
            names = tuple(sorted(names, key=lambda name: _size(ground, name, device.kind))[:-1])
        else:
            groups = list(itertools.combinations(names, staying))
        held = [
            placed
            for group in groups
            if (placed := settled(ground, device.name, device.kind, group, device)) is not None
        ]
        if held:
            return max(held, key=lambda p: ground.fullness(p.tenants, device.kind) or 0.0)
    return None


def _size(ground: Ground, name: str, kind: int) -> float:
    size = ground.size(ground.class_of[name], kind)
    return math.inf if size is None else size


def _filled(work: _Work, layout: Layout, pool: Iterable[str]) -> Layout | None:
    """A layout with these tenants too: where there is room, else on new devices."""
    room = _Room(work, layout)
    kinds = range(len(work.ground.problem.kinds))

    def largest_first(name: str) -> tuple[object, ...]:
        sizes = [_size(work.ground, name, kind) for kind in kinds]
        return (-min(sizes), work.ground.class_of[name], natural(name))

    rest = [name for name in sorted(pool, key=largest_first) if not room.take_in(name)]
    if not rest:
        return room.layout
    workloads = _workloads(work.ground, rest)
    try:
        anew = work.ground.scratch(workloads, work.counts_left(room.layout))
    except Infeasible:
        # none of them has a place: all may be left out, or it takes other moves
        may_go = all(each.priority is not None for each in workloads)
        return room.layout if may_go and room.layout else None
    return _anew(work, room.layout, anew)


class _Room:
    """A layout that takes tenants in; devices that hold the same are looked at once."""

    def __init__(self, work: _Work, layout: Mapping[str, Placed]) -> None:
        self._work = work
        self.layout = dict(layout)
        self._alike: dict[tuple[Pattern, int], dict[str, None]] = defaultdict(dict)
        for device in self.layout.values():
            self._alike[device.configuration.pattern, device.kind][device.name] = None
        self._fullness: dict[tuple[Pattern, int], float] = {}

    def take_in(self, name: str) -> Placed | None:
        """Put a tenant where the least is left free, and home where it can; None: nowhere."""
        home = self._work.homes.get(name)
        if home in self.layout and (grown := self._grown(self.layout[home], name)) is not None:
            return self._put(grown)
        for key in sorted(
            (key for key, devices in self._alike.items() if devices), key=self._fullest
        ):
            for device in self._alike[key]:
                grown = self._grown(self.layout[device], name)
                if grown is not None:
                    return self._put(grown)
                if isinstance(self._work.ground.key(name), int):
                    break  # the others with the same tenants do not hold it either
        return None

    def _fullest(self, key: tuple[Pattern, int]) -> tuple[float, Pattern, int]:
        if key not in self._fullness:
            pattern, kind = key
            sizes = (self._work.ground.size(index, kind) or 0.0 for index in pattern)
            self._fullness[key] = -sum(sizes)
        return (self._fullness[key], *key)

    def _grown(self, device: Placed, name: str) -> Placed | None:
        was = self._work.was.get(device.name)
        names = (*device.tenants, name)
        return settled(self._work.ground, device.name, device.kind, names, was)

    def _put(self, device: Placed) -> Placed:
        was = self.layout[device.name]
        del self._alike[was.configuration.pattern, was.kind][device.name]
        self._alike[device.configuration.pattern, device.kind][device.name] = None
        self.layout[device.name] = device
        return device


# --- planned anew ---------------------------------------------------------------------------------


def _workloads(ground: Ground, names: Sequence[str], *, whole: bool = False) -> list[Workload]:
    """Tenants as workloads to plan: the whole ones, or each replica by itself.

    Replicas that are planned by themselves must not meet; they are not left out one by one.
    """
    if whole:
        merged = {}
        for name in names:
            each = ground.workload(name)
            merged[ground.base(name)] = each.model_copy(
                update={"name": ground.base(name), "rate_rps": each.rate_rps * each.replicas}
            )
        return list(merged.values())
    alone = []
    for name in names:
        each = ground.workload(name)
        update: dict[str, object] = {"name": name, "replicas": 1, "max_replicas": None}
        if each.replicas > 1:
            apart = each.anti_affinity or f"replicas of {ground.base(name)}"
            update |= {"anti_affinity": apart, "priority": None}
        alone.append(each.model_copy(update=update))
    return alone


def _anew(work: _Work, layout: Layout, made: Plan) -> Layout:
    """A layout with the devices of a plan made anew, called as those of the old that are free."""
    ground = work.ground
    free = [each for each in work.old if each.name not in layout]
    fresh = []
    for device in made.devices:
        kind = ground.kind_of[device.type] if device.type is not None else 0
        fresh.append(_placed(ground, device, kind))
    named = []
    for each in relabelled(ground, free, fresh, {*work.taken, *layout}):
        was = work.was.get(each.name)
        kept = as_it_was(ground, was, each.tenants) if was is not None else None
        cheap = kept is not None and (
            ground.cost(kept.configuration) <= ground.cost(each.configuration) * FITS
        )
        named.append(kept if kept is not None and cheap else each)
    return {**layout, **{each.name: each for each in named}}


def _placed(ground: Ground, device: PlanDevice, kind: int) -> Placed:
    tenants = sorted(
        device.tenants, key=lambda t: (ground.class_of[t.workload], natural(t.workload))
    )
    pattern = tuple(ground.class_of[tenant.workload] for tenant in tenants)
    settings = tuple(setting_of(tenant) for tenant in tenants)
    names = tuple(tenant.workload for tenant in tenants)
    return Placed(device.name, names, Configuration(pattern, settings, kind))


def _named_again(work: _Work, layout: Layout) -> Layout:
    """The same devices, with alike tenants dealt so that most are at home."""
    dealt = {}
    for each in at_home(work.ground, work.old, list(layout.values())):
        was = work.was.get(each.name)
        kept = as_it_was(work.ground, was, each.tenants) if was is not None else None
        dealt[each.name] = each
        if kept is not None and work.weigh([kept]) < work.weigh([each]):
            dealt[each.name] = kept
    return dealt


# --- something better -----------------------------------------------------------------------------


def _improve(work: _Work, layout: Layout) -> Layout:
    """Empty devices into others, move them to cheaper types, plan the emptiest ones anew."""
    if work.cheapest(layout):
        return layout
    layout = _emptied(work, _retyped(work, layout))
    number = 2
    while number < len(layout) and not work.late and not work.cheapest(layout):
        better = _together(work, layout, number)
        if better is None:
            number *= 2
        else:
            layout = better
    return layout


def _emptiest(work: _Work, layout: Layout) -> list[Placed]:
    """Devices by how much of them is needed, the least first."""
    return sorted(
        layout.values(),
        key=lambda d: (work.ground.fullness(d.tenants, d.kind) or 0.0, natural(d.name)),
    )


def _emptied(work: _Work, layout: Layout) -> Layout:
    """Close devices whose tenants fit on others, where that saves more than the moves cost."""
    for name in [device.name for device in _emptiest(work, layout)]:
        if work.late:
            break
        device = layout[name]
        going = work.weigh([device])
        least = work.move_cost * sum(work.homes.get(t) == name for t in device.tenants)
        if work.ground.cost(device.configuration) <= least:
            continue
        room = _Room(work, {other: each for other, each in layout.items() if other != name})
        touched: dict[str, Placed] = {}
        for tenant in device.tenants:
            taken_in = room.take_in(tenant)
            if taken_in is None:
                break
            touched[taken_in.name] = taken_in
        else:
            earlier = work.weigh(layout[other] for other in touched)
            if work.weigh(touched.values()) < _sum(earlier, going):
                layout = room.layout
    return layout


def _sum(one: tuple[float, int, int], other: tuple[float, int, int]) -> tuple[float, int, int]:
    return (round(one[0] + other[0], 9), one[1] + other[1], one[2] + other[2])


def _retyped(work: _Work, layout: Layout) -> Layout:
    """Move whole devices to a type that costs so much less that it pays."""
    ground, done = work.ground, dict(layout)
    if len(ground.problem.kinds) == 1:
        return done
    names = free_names({*work.taken, *done})
    for device in _emptiest(work, layout):
        for kind in range(len(ground.problem.kinds)):
            left = work.counts_left(done)[kind]
            if kind == device.kind or left == 0 or device.name not in done or work.late:
                continue
            idle = [each for each in work.old if each.kind == kind and each.name not in done]
            found = ground.configured(device.tenants, kind)
            if found is None:
                continue
            name = idle[0].name if idle else next(iter(names))
            other = Placed(name, *found)
            if work.weigh([other]) < work.weigh([device]):
                del done[device.name]
                done[name] = other
    return done


def _together(work: _Work, layout: Layout, number: int) -> Layout | None:
    """Plan the tenants of the emptiest devices anew; None if that gains nothing."""
    some = _emptiest(work, layout)[:number]
    rest = {name: each for name, each in layout.items() if name not in {d.name for d in some}}
    tenants = [name for device in some for name in device.tenants]
    try:
        anew = work.ground.scratch(_workloads(work.ground, tenants), work.counts_left(rest))
    except Infeasible:
        return None
    if sum(len(device.tenants) for device in anew.devices) < len(tenants):
        return None
    trial = _anew(work, rest, anew)
    return trial if work.weigh(trial.values()) < work.weigh(layout.values()) else None


# --- what it comes to -----------------------------------------------------------------------------


def change(plan: Plan, ground: Ground, done: Replanned, *, move_cost: float) -> Change:
    """What a new layout changes of the old plan."""
    names = identities(plan, ground)
    home: dict[str, tuple[str, Setting]] = {}
    for device in plan.devices:
        for tenant in device.tenants:
            if tenant.workload in names:
                home[names[tenant.workload]] = (device.name, setting_of(tenant))
    moved, changed, added = [], [], []
    for place, now in done.layout.items():
        for name, setting in now.settings.items():
            if name not in home:
                added.append(Addition(workload=name, device=place))
                continue
            was, earlier = home[name]
            if was != place:
                moved.append(Move(workload=name, before=was, after=place))
            elif earlier != setting:
                changed.append(
                    Restart(
                        workload=name,
                        device=place,
                        batch_size_before=earlier.batch_size,
                        share_pct_before=earlier.share_pct,
                        batch_size=setting.batch_size,
                        share_pct=setting.share_pct,
                    )
                )
    there = {device.name for device in plan.devices}
    gone = [t.workload for d in plan.devices for t in d.tenants if t.workload not in names]
    cost = sum(ground.cost(device.configuration) for device in done.layout.values())
    return Change(
        moved=tuple(sorted(moved, key=lambda each: natural(each.workload))),
        changed=tuple(sorted(changed, key=lambda each: natural(each.workload))),
        added=tuple(sorted(added, key=lambda each: natural(each.workload))),
        removed=tuple(sorted(gone, key=natural)),
        left_out=done.left_out,
        devices_before=len(there),
        devices_after=len(done.layout),
        opened=tuple(sorted(done.layout.keys() - there, key=natural)),
        closed=tuple(sorted(there - done.layout.keys(), key=natural)),
        cost_before=plan.cost,
        cost_after=round(cost, 9),
        bound=bound_of(done),
        move_cost=move_cost,
    )


def bound_of(done: Replanned) -> float | None:
    """What no plan of these workloads costs less than: the bound of the plan made anew.

    None where that one leaves out others.
    """
    placed = {name for device in done.layout.values() for name in device.tenants}
    anew = {t.workload for d in done.scratch.devices for t in d.tenants} if done.scratch else None
    return done.scratch.bound if done.scratch is not None and anew == placed else None
