"""The certificate of a bound: written into a plan, and verified without any solver.

Prices of tenants prove a bound if no device can hold tenants that are worth more than it costs:
then every plan costs at least what all tenants are worth. Verifying is to search all patterns once
more for one that is worth more.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from igniter_prof.fitting.points import FloatArray, IntArray
from igniter_prof.provisioning.engine import Engine
from igniter_prof.provisioning.generation import Bound
from igniter_prof.provisioning.groups import Groups, alike, merged, needs_beside_light, singles
from igniter_prof.provisioning.optimal import MOST_CLASSES, adds, least_cost, rounded_up
from igniter_prof.provisioning.problem import Problem
from igniter_prof.provisioning.search import Found
from igniter_prof.records import Certificate, Plan, Workload, WorkloadPrice

_TOLERANCE = 1e-6
"""Numbers of neighbours by which classes of one price are told apart; as fine as planning does."""


def certificate_of(problem: Problem, bound: Bound) -> Certificate:
    """A bound as a plan states it.

    Classes that differ only in what a plan does not say, such as their priority, get their mean
    price: it proves as much, as any of them may stand in the place of another.
    """
    alike: dict[Workload, list[int]] = {}
    for index, each in enumerate(problem.classes):
        unsaid = {"name": "", "priority": None, "max_replicas": None}
        same = each.sample.model_copy(update=unsaid)
        alike.setdefault(same, []).append(index)
    prices = bound.prices.copy()
    for members in alike.values():
        counts = [problem.classes[index].count for index in members]
        prices[members] = np.average(bound.prices[members], weights=counts)
    return Certificate(
        prices=tuple(
            WorkloadPrice(workload=each.names[0], price=float(price))
            for each, price in zip(problem.classes, prices, strict=True)
        ),
        type_prices={
            kind.record.name: float(price)
            for kind, price in zip(problem.kinds, bound.kind_prices, strict=True)
            if kind.record.count is not None
        },
        value=bound.value,
    )


def refute(plan: Plan, problem: Problem) -> list[str]:
    """What is wrong with a plan's bound, in words; empty if its certificate proves it.

    ``problem``: that of the plan, derived again from what it says.
    """
    certificate = plan.certificate
    if plan.bound is None:
        return []
    if certificate is None:
        return [f"the bound of {plan.bound:g} has no certificate"]
    given = {each.workload: each.price for each in certificate.prices}
    prices = np.zeros(len(problem.classes))
    for index, each in enumerate(problem.classes):
        known = [given[name] for name in each.names if name in given]
        if not known:
            return [f"the certificate has no price for '{each.names[0]}' or one alike"]
        prices[index] = max(known)
    # of a type without a limit one more device is worth nothing, whatever is claimed
    kind_prices = np.array(
        [
            0.0 if kind.record.count is None else certificate.type_prices.get(kind.record.name, 0.0)
            for kind in problem.kinds
        ]
    )
    counts = np.array([each.count for each in problem.classes])
    value = float(counts @ prices)
    for kind, price in zip(problem.kinds, kind_prices.tolist(), strict=True):
        value -= price * (kind.record.count or 0)
    findings = []
    if value < certificate.value - _TOLERANCE * max(1.0, abs(value)):
        findings.append(
            f"the certificate's prices add up to {value:g}, not to {certificate.value:g}"
        )
    if rounded_up(problem, value) < plan.bound - _TOLERANCE * max(1.0, abs(plan.bound)):
        findings.append(f"the certificate proves {value:g}, not the bound of {plan.bound:g}")
    return findings + _worth_more(Engine(problem), prices, kind_prices)


def _worth_more(engine: Engine, prices: FloatArray, kind_prices: FloatArray) -> list[str]:
    """Patterns that are worth more than their device costs, in words; one of each kind."""
    if len(prices) <= MOST_CLASSES:
        return _worth_more_of(engine, singles(engine), prices, kind_prices)
    findings: list[str] = []
    equal = _of_equal_price(engine, prices)
    # those of one price may differ in what they need: then finer groups, but more of them
    finer = np.stack([equal, alike(engine, needs_beside_light(engine))], axis=1)
    for of in (equal, np.unique(finer, axis=0, return_inverse=True)[1].reshape(-1)):
        groups = merged(engine, of)
        findings = _worth_more_of(engine, groups, prices, kind_prices)
        if not findings:
            break
    return findings


def _worth_more_of(
    engine: Engine, groups: Groups, prices: FloatArray, kind_prices: FloatArray
) -> list[str]:
    """Such patterns of groups."""
    worth = np.zeros(int(groups.of.max()) + 1)
    np.maximum.at(worth, groups.of, prices)
    more = adds(engine, groups)
    findings = []
    for kind, search in enumerate(groups.searches):
        over = (least_cost(engine, kind) + float(kind_prices[kind])) * (1.0 + _TOLERANCE)
        found, _ = search.valuable(worth - more[kind], over)
        for each in found:
            fully = search.arrange_fully(each.classes, each.units)
            holds = np.flatnonzero(fully.works | ~fully.decided)
            if len(holds):
                findings.append(_told(engine, groups.of, kind, each, int(holds[0])))
                break
    return findings


def _of_equal_price(engine: Engine, prices: FloatArray) -> IntArray:
    """(C,): groups of classes of one model, price, and place in the problem's constraints."""
    keys = [
        (
            each.sample.model,
            float(price),
            each.sample.anti_affinity,
            each.sample.devices,
            each.sample.memory_mib,
            each.sample.replicas,
        )
        for each, price in zip(engine.problem.classes, prices, strict=True)
    ]
    known = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([known[key] for key in keys])


def _told(engine: Engine, of: IntArray, kind: int, found: Found, row: int) -> str:
    names = _names(engine, of, found.classes[row].tolist())
    return (
        f"the bound is not proven: a device of type '{engine.problem.kinds[kind].record.name}' may"
        f" hold {', '.join(names)}, which are priced at more than it costs"
    )


def _names(engine: Engine, of: IntArray, groups: Iterable[int]) -> list[str]:
    return [
        f"'{engine.problem.classes[int(np.flatnonzero(of == group)[0])].names[0]}'"
        for group in groups
    ]
