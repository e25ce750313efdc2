"""What each workload needs alone on each type of device, and where that is cheapest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from igniter_prof.config.workloads import expand
from igniter_prof.errors import BadInput, Infeasible, did_you_mean
from igniter_prof.provisioning.engine import Engine
from igniter_prof.provisioning.infeasible import explain
from igniter_prof.provisioning.names import known_as
from igniter_prof.provisioning.operating import Judgement, Setting
from igniter_prof.provisioning.problem import (
    DEVICE_PCT,
    DeviceKind,
    Problem,
    WorkloadClass,
    classes_of,
)
from igniter_prof.provisioning.rules import Rule
from igniter_prof.records import Objective, Plan, Record, Workload
from igniter_prof.units import format_ms


class OnType(Record):
    """A workload alone on a type of device: the least that keeps the rule, or why nothing does.

    The price is what the share costs of a device's price per hour; of a whole device where it is
    planned as such. Without prices, a device is the unit.
    """

    device_type: str
    holds: bool
    replicas: int | None = None
    batch_size: int | None = None
    share_pct: float | None = None
    latency_ms: float | None = None
    limit_ms: float | None = None
    utilisation: float | None = None
    share_price: float | None = None
    device_price: float | None = None
    why: str


class Alone(Record):
    """A workload, or several that are alike, on every type of device."""

    workload: str
    alike: int
    model: str
    rate_rps: float
    slo_ms: float
    on: tuple[OnType, ...]
    cheapest_by_share: str | None
    cheapest_by_device: str | None


class OneType(Record):
    """All workloads on devices of one type only (None: of all types)."""

    device_type: str | None
    devices: int | None = None
    cost: float | None = None
    bound: float | None = None
    why: str | None = None


def alone(
    kinds: Sequence[DeviceKind], workloads: Sequence[Workload], rule: Rule
) -> tuple[Alone, ...]:
    """The least share and batch size of each workload alone on each type, and what it costs.

    A workload whose rate may be split gets the fewest replicas with which it can be there.

    Raises:
        BadInput: a model that no type knows; or of several types some have a price, some not.
    """
    priced = [kind.record.price_per_hour is not None for kind in kinds]
    if any(priced) and not all(priced):
        without = kinds[priced.index(False)].record.name
        raise BadInput(
            f"device type '{without}' has no price_per_hour, others have",
            hint="give all types a price, or none: then a device is the unit",
        )
    named = expand(_known(workloads, kinds))
    found: dict[tuple[str, int], tuple[WorkloadClass, Setting, Judgement]] = {}
    classes = classes_of(named)
    for number, kind in enumerate(kinds):
        missing, more = list(named), 0
        while missing:
            parts = [_parts(each, more) for each in missing]
            split = {each.name: part for each, part in zip(missing, parts, strict=True)}
            problem = Problem(
                classes=classes_of(missing, lambda each, split=split: split[each.name]),  # type: ignore[misc]
                kinds=(kind,),
                rule=rule,
            )
            here = _least(problem)
            found |= {(name, number): least for name, least in here.items()}
            more += 1
            missing = [
                each
                for each in missing
                if each.name not in here and _parts(each, more) > split[each.name]
            ]
    return tuple(_alone(each, kinds, rule, found) for each in classes)


def _known(workloads: Sequence[Workload], kinds: Sequence[DeviceKind]) -> list[Workload]:
    """The workloads, with the names that the types have for their models."""
    known = {model for kind in kinds for model in kind.choices}
    names = {each.model: known_as(each.model, known) for each in workloads}
    for each in workloads:
        if names[each.model] is None:
            raise BadInput(
                f"workload '{each.name}': the coefficients know no model '{each.model}'",
                hint=did_you_mean(each.model, known),
            )
    return [each.model_copy(update={"model": names[each.model]}) for each in workloads]


def _parts(workload: Workload, more: int) -> int:
    most = max(workload.replicas, workload.max_replicas or 0)
    return min(workload.replicas + more, most)


def _base(each: WorkloadClass, name: str) -> str:
    return name.rpartition(".")[0] if each.sample.replicas > 1 else name


def _least(problem: Problem) -> dict[str, tuple[WorkloadClass, Setting, Judgement]]:
    """The least share, and at it the smallest batch size, by workload; not those that miss."""
    (kind,) = problem.kinds
    found: dict[str, tuple[WorkloadClass, Setting, Judgement]] = {}
    if not any(problem.allows(each, 0) for each in problem.classes):
        return found
    engine = Engine(problem)
    demand, grid = engine.demands[0], engine.grids[0]
    for index, each in enumerate(problem.classes):
        for units in (demand.alone[index].any(axis=0).nonzero()[0] + 1).tolist():
            options = demand.alone[index, :, units - 1].nonzero()[0].tolist()
            settings = [
                Setting(grid.batches[demand.batch[index, option]], grid.share_pct(units))
                for option in options
            ]
            holding = [
                (setting, judgement)
                for setting in settings
                if engine.settled(0, (index,), (setting,)) == (setting,)
                for judgement in kind.evaluator.judge([each.sample], [setting])
            ]
            if holding:
                setting, judgement = min(holding, key=lambda pair: pair[0])
                found |= {_base(each, name): (each, setting, judgement) for name in each.names}
                break
    return found


def _alone(
    each: WorkloadClass,
    kinds: Sequence[DeviceKind],
    rule: Rule,
    found: dict[tuple[str, int], tuple[WorkloadClass, Setting, Judgement]],
) -> Alone:
    name = _base(each, each.names[0])
    here = {number: found[name, number] for number in range(len(kinds)) if (name, number) in found}
    by_share = {
        number: round(_price(kinds[number]) * _needed(least) / DEVICE_PCT, 9)
        for number, least in here.items()
    }
    by_device = {
        number: _price(kinds[number]) * least[0].sample.replicas for number, least in here.items()
    }
    cheapest = min(by_share, key=lambda number: (by_share[number], number), default=None)
    whole = min(by_device, key=lambda number: (by_device[number], number), default=None)
    on = []
    for number, kind in enumerate(kinds):
        if number not in here:
            why = _why_not(each, kind, rule)
            on.append(OnType(device_type=kind.record.name, holds=False, why=why))
            continue
        placed, setting, judgement = here[number]
        assert cheapest is not None
        on.append(
            OnType(
                device_type=kind.record.name,
                holds=True,
                replicas=placed.sample.replicas,
                batch_size=setting.batch_size,
                share_pct=setting.share_pct,
                latency_ms=judgement.latency_ms,
                limit_ms=judgement.limit_ms,
                utilisation=judgement.utilisation,
                share_price=by_share[number],
                device_price=by_device[number],
                why=_compared(kinds, by_share, here, number, cheapest),
            )
        )
    return Alone(
        workload=name,
        alike=each.count // each.sample.replicas,
        model=each.sample.model,
        rate_rps=each.sample.rate_rps * each.sample.replicas,
        slo_ms=each.sample.slo_ms,
        on=tuple(on),
        cheapest_by_share=None if cheapest is None else kinds[cheapest].record.name,
        cheapest_by_device=None if whole is None else kinds[whole].record.name,
    )


def _price(kind: DeviceKind) -> float:
    return kind.record.price_per_hour or 1.0


def _why_not(each: WorkloadClass, kind: DeviceKind, rule: Rule) -> str:
    """Why a type cannot hold a workload."""
    sample, name = each.sample, kind.record.name
    if sample.devices and name not in sample.devices:
        return f"it may only be on {', '.join(sample.devices)}"
    if sample.model not in kind.choices:
        return f"its coefficients do not know {sample.model}"
    said = explain(Problem(classes=(each,), kinds=(kind,), rule=rule), each)
    return said.partition(f"({sample.model}): ")[2]


def _compared(
    kinds: Sequence[DeviceKind],
    prices: dict[int, float],
    here: dict[int, tuple[WorkloadClass, Setting, Judgement]],
    number: int,
    cheapest: int,
) -> str:
    """Why a type is the cheapest by share, or is not: how much it needs, how much a device costs.

    What a share costs is a device's price times what is needed of it, so one of the two decides.
    """
    if number == cheapest:
        return "cheapest" if len(here) > 1 else "the only type that can hold it"
    best = kinds[cheapest].record.name
    needs = _needed(here[number]) / _needed(here[cheapest])
    price = _price(kinds[number]) / _price(kinds[cheapest])
    dearer = prices[number] / prices[cheapest]
    if dearer < 1 + 1e-9:
        return f"costs as much as {best}"
    parts = []
    if needs > 1 + 1e-9:
        parts.append(f"slower: it needs {needs:.3g} times the share")
    elif needs < 1 - 1e-9:
        parts.append(f"faster: it needs {needs:.3g} of the share")
    if abs(price - 1) > 1e-9:
        parts.append(f"a device costs {price:.3g} times as much")
    joined = " and " if (needs > 1) == (price > 1) else ", but "
    return f"{dearer:.3g} times the price of {best}: " + joined.join(parts)


def _needed(least: tuple[WorkloadClass, Setting, Judgement]) -> float:
    return least[0].sample.replicas * least[1].share_pct


# --- all workloads together -----------------------------------------------------------------------


def priced(kinds: Iterable[DeviceKind]) -> Objective:
    """What all workloads together are compared by: the price per hour; devices where none is."""
    has_price = all(kind.record.price_per_hour is not None for kind in kinds)
    return Objective(devices=0, price=1) if has_price else Objective()


def one_type_for_all(
    kinds: Sequence[DeviceKind], planned: Callable[[Sequence[DeviceKind]], Plan]
) -> tuple[OneType, ...]:
    """What a plan costs with devices of one type only, for each type, and with all types.

    ``planned`` makes a plan with some of the kinds, and raises Infeasible. The cheapest of one type
    is iGniter's choice of a GPU type.
    """
    choices = [*((kind,) for kind in kinds), tuple(kinds)] if len(kinds) > 1 else [tuple(kinds)]
    totals = []
    for some in choices:
        name = some[0].record.name if len(some) == 1 else None
        # what there is of one type now does not limit a choice between types
        enough = [
            replace(kind, record=kind.record.model_copy(update={"count": None})) for kind in some
        ]
        try:
            made = planned(enough)
        except Infeasible as error:
            totals.append(OneType(device_type=name, why=error.what))
            continue
        totals.append(
            OneType(device_type=name, devices=len(made.devices), cost=made.cost, bound=made.bound)
        )
    return tuple(totals)


def shown(on: OnType) -> str:
    """What a workload has of its SLO on a type, for people."""
    return f"{format_ms(on.latency_ms)} of {format_ms(on.limit_ms)}"
