"""Planning again: by hand, and properties on any change of any small set of workloads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igniter_prof.errors import Infeasible
from igniter_prof.provisioning.layout import Ground
from igniter_prof.provisioning.problem import DeviceKind
from igniter_prof.provisioning.replan import Change, Replanned, change, replan
from igniter_prof.records import Objective, Plan, Workload
from tests.replan_ground import ground, kind, planned, workload

SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def again(
    plan: Plan,
    workloads: Sequence[Workload],
    kinds: Sequence[DeviceKind] = (kind(),),
    *,
    move_cost: float = 0.1,
    lost: Sequence[str] = (),
    objective: Objective | None = None,
) -> tuple[Ground, Replanned, Change]:
    on = ground(workloads, kinds, objective or Objective())
    done = replan(plan, on, move_cost=move_cost, lost=lost)
    return on, done, change(plan, on, done, move_cost=move_cost)


def where(done: Replanned) -> dict[str, str]:
    return {name: device.name for device in done.layout.values() for name in device.tenants}


A_B_C = [workload("a", 40), workload("b", 40), workload("c", 60)]


def test_without_a_change_nothing_moves() -> None:
    plan = planned(A_B_C)
    _, done, said = again(plan, A_B_C)

    assert (said.moved, said.changed, said.added, said.removed) == ((), (), (), ())
    assert said.devices_before == said.devices_after == len(plan.devices)
    assert where(done) == {t.workload: d.name for d in plan.devices for t in d.tenants}


def test_what_is_added_goes_where_there_is_room() -> None:
    plan = planned(A_B_C)
    _, _, said = again(plan, [*A_B_C, workload("d", 30)])

    (addition,) = said.added
    assert (addition.workload, said.moved, said.devices_after) == ("d", (), 2)
    assert said.opened == ()
    # the neighbour on that device has to give
    assert {each.device for each in said.changed} <= {addition.device}


def test_what_is_removed_leaves_the_others_as_they_were() -> None:
    plan = planned(A_B_C)
    _, _, said = again(plan, [A_B_C[0], A_B_C[2]], move_cost=10)

    assert said.removed == ("b",)
    assert (said.moved, said.changed, said.added) == ((), (), ())


def test_a_device_that_is_empty_is_closed() -> None:
    plan = planned([workload("a", 90), workload("b", 90)])
    _, _, said = again(plan, [workload("a", 90)])

    assert (said.devices_before, said.devices_after, len(said.closed)) == (2, 1, 1)


def test_whoever_grows_evicts_the_fewest() -> None:
    plan = planned([workload("a", 30), workload("b", 30), workload("c", 30)])
    assert len(plan.devices) == 1
    _, _, said = again(plan, [workload("a", 60), workload("b", 30), workload("c", 30)])

    assert len(said.moved) == 1
    assert said.opened == ("device-2",)
    assert said.devices_after == 2


def test_a_move_is_made_only_if_it_saves_more_than_it_costs() -> None:
    two = [workload("a", 60), workload("b", 60)]
    plan = planned(two)
    smaller = [workload("a", 40), workload("b", 40)]

    _, _, cheap = again(plan, smaller, move_cost=0.9)
    assert (len(cheap.moved), cheap.devices_after) == (1, 1)
    assert (cheap.cost_before, cheap.cost_after, cheap.bound) == (2, 1, 1)
    _, _, dear = again(plan, smaller, move_cost=1.1)
    assert (dear.moved, dear.devices_after) == ((), 2)
    assert (dear.cost_after, dear.bound) == (2, 1)


def test_the_tenants_of_a_lost_device_go_elsewhere() -> None:
    plan = planned(A_B_C)
    lost = next(d for d in plan.devices if any(t.workload == "c" for t in d.tenants))
    _, done, said = again(plan, A_B_C, lost=[lost.name])

    assert [(each.workload, each.before) for each in said.moved] == [("c", lost.name)]
    assert lost.name not in done.layout
    assert lost.name in said.closed


def test_a_lost_device_that_nothing_replaces_is_infeasible() -> None:
    one = (kind(count=1),)
    with pytest.raises(Infeasible):
        again(planned(A_B_C), A_B_C, one)


def test_a_type_that_is_gone_takes_its_devices_along() -> None:
    plan = planned(A_B_C, (kind("old"),))
    _, done, said = again(plan, A_B_C, (kind("new"),))

    assert len(said.moved) == 3
    assert not {device.name for device in plan.devices} & done.layout.keys()


def test_fewer_of_a_type_than_the_plan_uses() -> None:
    plan = planned(A_B_C)
    _, _, said = again(plan, A_B_C, (kind(count=1), kind("fast")), move_cost=0.6)

    # the device with more tenants stays
    assert [each.workload for each in said.moved] == ["c"]
    assert said.opened == ("device-3",)


def test_a_cheaper_type_takes_a_device_over_where_it_pays() -> None:
    price = Objective(devices=0, price=1)
    plan = planned([workload("a", 50)], (kind(price_per_hour=3),))
    both = (kind(price_per_hour=3), kind("small", price_per_hour=1))

    _, _, said = again(plan, [workload("a", 50)], both, objective=price, move_cost=1.9)
    assert (len(said.moved), said.cost_after) == (1, 1)
    _, _, said = again(plan, [workload("a", 50)], both, objective=price, move_cost=2.1)
    assert (len(said.moved), said.cost_after) == (0, 3)


def test_replicas_never_meet() -> None:
    plan = planned([workload("w", 60, replicas=2)])
    assert len(plan.devices) == 2
    _, done, said = again(plan, [workload("w", 20, replicas=2), workload("x", 10)], move_cost=0)

    homes = where(done)
    assert homes["w.1"] != homes["w.2"]
    assert said.moved == ()


def test_more_replicas_keep_those_that_are_there() -> None:
    plan = planned([workload("w", 60)])
    _, _, said = again(plan, [workload("w", 120, replicas=2)])

    # what was w is its first replica now
    assert [each.workload for each in said.added] == ["w.2"]
    assert (said.moved, said.removed) == ((), ())
    back = planned([workload("w", 120, replicas=2)])
    _, _, said = again(back, [workload("w", 60)])
    assert (said.moved, said.added, said.removed) == ((), (), ("w.2",))


def test_anti_affinity_that_is_new_parts_them() -> None:
    plan = planned([workload("a", 30), workload("b", 30)])
    assert len(plan.devices) == 1
    apart = [workload("a", 30, anti_affinity="x"), workload("b", 30, anti_affinity="x")]
    _, _, said = again(plan, apart)

    assert (len(said.moved), said.devices_after) == (1, 2)


def test_alike_workloads_are_not_swapped() -> None:
    # from scratch, names are dealt out in order; here they lie crosswise
    alike = [workload(name, 60) for name in ("a", "b", "c")]
    plan = planned(alike)
    crossed = plan.model_copy(update={"devices": tuple(reversed(plan.devices))})
    renamed = tuple(
        device.model_copy(update={"name": f"device-{number}"})
        for number, device in enumerate(crossed.devices, start=1)
    )
    assert [t.workload for device in renamed for t in device.tenants] == ["c", "b", "a"]
    _, _, said = again(crossed.model_copy(update={"devices": renamed}), alike, move_cost=0)
    assert said.moved == ()


def test_priorities_decide_who_is_left_out() -> None:
    few = (kind(count=1),)
    plan = planned([workload("a", 60), workload("b", 30, priority=1)], few)
    asked = [workload("a", 60), workload("b", 30, priority=1), workload("c", 30, priority=2)]
    _, done, said = again(plan, asked, few)

    # more than b is worth staying put
    assert said.left_out == ("b",)
    assert sorted(where(done)) == ["a", "c"]
    assert said.bound == 1


def test_who_has_no_place_is_left_out_without_any_move() -> None:
    few = (kind(count=1),)
    plan = planned([workload("a", 60)], few)
    _, done, said = again(plan, [workload("a", 60), workload("b", 60, priority=1)], few)

    assert (said.left_out, said.moved, said.added) == (("b",), (), ())
    assert list(done.layout) == ["device-1"]


# --- properties -----------------------------------------------------------------------------------


@st.composite
def changes(draw: st.DrawFn) -> tuple[list[Workload], list[Workload]]:
    """Workloads before and after: some gone, some new, some with another rate."""
    rates = st.sampled_from([10, 25, 30, 33, 45, 60, 90])
    old = [workload(f"w{i}", draw(rates)) for i in range(draw(st.integers(1, 6)))]
    new = []
    for each in old:
        fate = draw(st.sampled_from(["same", "same", "same", "rate", "gone"]))
        if fate != "gone":
            new.append(each if fate == "same" else workload(each.name, draw(rates)))
    new += [workload(f"n{i}", draw(rates)) for i in range(draw(st.integers(not new, 2)))]
    return old, new


@SLOW
@given(changes(), st.sampled_from([0, 0.1, 0.5, 2.0]))
def test_everybody_is_placed_once_on_devices_that_hold(
    pair: tuple[list[Workload], list[Workload]], move_cost: float
) -> None:
    old, new = pair
    on, done, said = again(planned(old), new, move_cost=move_cost)

    placed = Counter(name for device in done.layout.values() for name in device.tenants)
    assert placed == Counter(each.name for each in new)
    assert all(on.holds(device.configuration) for device in done.layout.values())
    assert all(name == device.name for name, device in done.layout.items())
    names = {each.name for each in new}
    assert set(said.removed) == {each.name for each in old} - names
    assert {each.workload for each in said.added} == names - {each.name for each in old}
    assert said.bound is None or said.bound <= said.cost_after


@SLOW
@given(changes())
def test_free_moves_give_the_cost_of_a_plan_from_scratch(
    pair: tuple[list[Workload], list[Workload]],
) -> None:
    old, new = pair
    _, _, said = again(planned(old), new, move_cost=0)
    assert said.cost_after <= (planned(new).cost or 0)


@SLOW
@given(changes())
def test_dear_moves_move_only_who_must(pair: tuple[list[Workload], list[Workload]]) -> None:
    old, new = pair
    plan = planned(old)
    on, _, said = again(plan, new, move_cost=1e6)

    must = 0
    present = {each.name for each in new}
    for device in plan.devices:
        here = [t.workload for t in device.tenants if t.workload in present]
        most = max(
            (
                len(group)
                for number in range(1 << len(here))
                if (group := [n for i, n in enumerate(here) if number >> i & 1])
                and on.configured(group, 0) is not None
            ),
            default=0,
        )
        must += len(here) - most
    assert len(said.moved) <= must


@SLOW
@given(changes(), st.sampled_from([0, 0.1, 0.5, 2.0]))
def test_never_dearer_than_staying_or_starting_anew(
    pair: tuple[list[Workload], list[Workload]], move_cost: float
) -> None:
    old, new = pair
    plan = planned(old)
    _, _, said = again(plan, new, move_cost=move_cost)
    _, _, least = again(plan, new, move_cost=1e6)
    _, _, most = again(plan, new, move_cost=0)

    mine = said.cost_after + move_cost * len(said.moved)
    assert mine <= least.cost_after + move_cost * len(least.moved) + 1e-9
    assert mine <= most.cost_after + move_cost * len(most.moved) + 1e-9


@SLOW
@given(changes(), st.randoms(use_true_random=False))
def test_the_order_of_workloads_does_not_matter(
    pair: tuple[list[Workload], list[Workload]], random: object
) -> None:
    old, new = pair
    plan = planned(old)
    shuffled = list(new)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    _, _, one = again(plan, new)
    _, _, other = again(plan, shuffled)
    assert one.cost_after + 0.1 * len(one.moved) == pytest.approx(
        other.cost_after + 0.1 * len(other.moved)
    )
