"""``scripts/bench/planner.py``: goals, agreement with published plans, the tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from igniter_prof.errors import BadInput
from igniter_prof.records import Certificate, Plan, PlanDevice, PlanTenant
from tests.scripts import SCRIPTS, load

planner = load(SCRIPTS / "bench" / "planner.py")

FIGURES = {
    "devices": 16,
    "tenants": 50,
    "bound": 16.0,
    "proven": 15.42,
    "gap": 0.0,
    "solve_s": 1.5,
}


def made(**more: Any) -> Any:
    check = planner.Check(holds=True, seconds=1.0, peak_mib=100.0)
    usual = {"wall_s": 3.0, "peak_mib": 200.0, "plan": FIGURES, "check": check}
    return planner.Made("mix-50", "optimal", "half-mean", **{**usual, **more})


def tenant(name: str, **more: Any) -> PlanTenant:
    usual = {"model": "m", "batch_size": 2, "share_pct": 50, "rate_rps": 20, "slo_ms": 30}
    return PlanTenant.model_validate({"workload": name, **usual, **more})


def plan(*devices: tuple[PlanTenant, ...], **more: Any) -> Plan:
    return Plan(
        strategy="igniter",
        igprof="0",
        created_at="now",
        devices=tuple(
            PlanDevice(name=f"device-{k}", tenants=tenants) for k, tenants in enumerate(devices)
        ),
        **more,
    )


# --- goals ------------------------------------------------------------------------------------


def test_a_plan_that_has_everything_reaches_its_goal() -> None:
    assert planner.GOALS["mix-50"].misses(made()) == []


@pytest.mark.parametrize(
    ("goal", "changed", "missed"),
    [
        ({"devices": 15}, {}, ["devices"]),
        ({"proven": True}, {"plan": {**FIGURES, "gap": 0.01}}, ["proof"]),
        ({"proven": True}, {"plan": {**FIGURES, "gap": None}}, ["proof"]),
        ({"gap": 0.01}, {"plan": {**FIGURES, "gap": 0.02}}, ["gap"]),
        ({"gap": 0.01}, {"plan": {**FIGURES, "gap": None}}, ["gap"]),
        ({"seconds": 3.0}, {}, ["time"]),
        ({"memory_gib": 0.1}, {}, ["memory"]),
        ({}, {"check": planner.Check(holds=False, seconds=1.0, peak_mib=1.0)}, ["check"]),
        ({}, {"plan": None, "failure": "over 60 s"}, ["over 60 s"]),
        ({"devices": 1, "seconds": 1.0}, {}, ["devices", "time"]),
    ],
)
def test_each_part_of_a_goal_can_be_missed(
    goal: dict[str, Any], changed: dict[str, Any], missed: list[str]
) -> None:
    assert planner.Goal(**goal).misses(made(**changed)) == missed


def test_goals_are_told_in_words() -> None:
    assert str(planner.GOALS["mix-50"]) == "16, proven, < 30 s"
    assert str(planner.GOALS["continuous-10000"]) == "gap <= 2%, < 600 s, < 4 GiB"


# --- agreement --------------------------------------------------------------------------------


def theirs(*devices: tuple[PlanTenant, ...]) -> list[list[dict[str, Any]]]:
    keys = ("workload", "model", "batch_size", "share_pct")
    return [[{key: getattr(each, key) for key in keys} for each in device] for device in devices]


def test_equal_plans_agree_in_any_order() -> None:
    a, b, c = tenant("a"), tenant("b", rate_rps=10), tenant("c", slo_ms=50)
    assert planner.agree(plan((a, b), (c,)), theirs((c,), (b, a))) == ["2 / 2", "2 of 2", "2 of 2"]


def test_workloads_alike_may_be_exchanged_but_for_their_names() -> None:
    a, b, c = tenant("a"), tenant("b"), tenant("c", slo_ms=50)
    assert planner.agree(plan((a, c), (b,)), theirs((b, c), (a,))) == ["2 / 2", "2 of 2", "0 of 2"]


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"share_pct": 47.5}])
def test_another_batch_or_share_is_no_agreement(change: dict[str, Any]) -> None:
    a, b = tenant("a"), tenant("b")
    other = a.model_copy(update=change)
    assert planner.agree(plan((a,), (b,)), theirs((other,), (b,))) == ["2 / 2", "1 of 2", "1 of 2"]


def test_a_device_counts_as_often_as_it_is_there() -> None:
    a, b, c = tenant("a"), tenant("b"), tenant("c")
    assert planner.agree(plan((a,), (b, c)), theirs((a,), (b,), (c,)))[:2] == ["2 / 3", "1 of 3"]


def test_a_workload_that_only_they_have_is_an_error() -> None:
    with pytest.raises(BadInput, match="lacks b"):
        planner.agree(plan((tenant("a"),)), theirs((tenant("a"),), (tenant("b"),)))


# --- tables -----------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_the_table_of_sizes_says_what_is_reached() -> None:
    other = replace(made(check=None), strategy="igniter")
    failed = made(plan=None, failure="exit status 6", check=None)
    *_, first, second, third = planner.sizes([made(), other, failed]).splitlines()
    assert cells(first)[2:] == [
        *("16", "16", "0.00%", "1.50", "3.0", "200", "holds, 1.0 s"),
        *("16, proven, < 30 s", "yes"),
    ]
    assert cells(second)[-3:] == ["-", "(own code: 17 in 0.02 s)", "-"]
    assert cells(third)[2] == "exit status 6"
    assert cells(third)[-1] == "no: exit status 6"


def test_figures_of_a_plan() -> None:
    proof = Certificate(prices=(), value=0.75)
    two = plan((tenant("a"), tenant("b")), cost=1, bound=1, certificate=proof, solve_s=0.5)
    wanted = {"devices": 1, "tenants": 2, "bound": 1.0, "proven": 0.75, "gap": 0.0, "solve_s": 0.5}
    assert planner.figures(two) == wanted


def test_the_table_of_promises() -> None:
    found = planner.Kept("mix-50", "half-mean", "ffd", 9, 50, 48, 1, 99.5, 49, 47, 3)
    *_, line = planner.promises_section([found]).splitlines()
    assert cells(line) == [
        *("mix-50", "half-mean", "ffd", "9", "48 of 50", "1", "99.50%", "49", "47", "3")
    ]


def test_unknown_mixes_name_the_known_ones() -> None:
    with pytest.raises(BadInput, match="mix-51") as caught:
        planner._chosen("mix-50,mix-51", planner.GOALS, "mix of workloads")
    assert "mix-50" in (caught.value.hint or "")
    assert planner._chosen("all", planner.STRATEGIES, "strategy") == list(planner.STRATEGIES)
