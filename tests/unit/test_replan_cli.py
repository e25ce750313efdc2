"""replan, whatif and cheapest with real coefficients and the project's own queueing estimate."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.cli import main
from igniter_prof.provisioning import read_plan
from tests.replan_files import WORKLOADS, coefficients, fill

CHANGED = WORKLOADS.replace("rate_rps: 60", "rate_rps: 90").replace(
    "workloads:", "workloads:\n  - {name: c, model: small, rate_rps: 30, slo_ms: 60}"
)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill(tmp_path_factory.mktemp("planned"))
    one = (folder / "quick.json", folder / "workloads.yaml")
    # half-mean is quickly planned, as it needs no queue
    rule = ("--latency-rule", "half-mean", "--max-tenants", "2", "--share-step", "10")
    assert igprof("plan", *one, "--out", folder / "plan.json", *rule) == 0
    two = (*one, "--devices", folder / "devices.yaml", "--objective", "price")
    assert igprof("plan", *two, "--out", folder / "two.json", *rule) == 0
    return folder


@pytest.fixture
def folder(planned: Path, tmp_path: Path) -> Path:
    for file in planned.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    # plans name the files that they were made from as they were given
    for name in ("plan.json", "two.json"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace(f"{planned}/", ""))
    return tmp_path


def igprof(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def replan(folder: Path, *options: object, plan: str = "plan.json") -> int:
    files = (folder / plan, folder / "workloads.yaml")
    return igprof("replan", *files, "--out", folder / "new.json", *options)


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


# --- replan ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["plan.json", "two.json"])
def test_nothing_moves_without_a_change(
    folder: Path, capsys: pytest.CaptureFixture[str], plan: str
) -> None:
    assert replan(folder, "--json", plan=plan) == 0
    said = shown(capsys)
    assert said["written"] == str(folder / "new.json")
    assert (said["moved"], said["changed"], said["added"], said["removed"]) == ([], [], [], [])

    old, new = read_plan(folder / plan), read_plan(folder / "new.json")
    assert new.strategy == "replan"
    assert [d.model_dump() for d in new.devices] == [d.model_dump() for d in old.devices]
    assert (new.cost, new.bound, new.optimal) == (old.cost, old.bound, old.optimal)
    assert (new.latency_rule, new.objective) == (old.latency_rule, old.objective)
    assert new.workloads_hash == old.workloads_hash


def test_nothing_to_change_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replan(folder) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("devices 2 -> 2")
    assert "0 moved, 0 changed in place, 0 added, 0 removed" in line


@pytest.mark.parametrize("plan", ["plan.json", "two.json"])
def test_a_new_plan_passes_the_check(
    folder: Path, capsys: pytest.CaptureFixture[str], plan: str
) -> None:
    (folder / "workloads.yaml").write_text(CHANGED)
    assert replan(folder, plan=plan) == 0
    assert "1 added" in capsys.readouterr().out

    files = (folder / "new.json", folder / "quick.json", "--devices", folder / "devices.yaml")
    assert igprof("check", *files, "--workloads", folder / "workloads.yaml") == 0
    placed = Counter(t.workload for d in read_plan(folder / "new.json").devices for t in d.tenants)
    assert placed == {"a-1": 1, "a-2": 1, "b": 1, "c": 1}


def test_other_coefficients_are_refused_unless_given(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "quick.json").write_text(coefficients(1.2).model_dump_json())
    assert replan(folder) == 2
    assert "not the coefficients" in capsys.readouterr().err
    assert not (folder / "new.json").exists()

    assert replan(folder, "--coefficients", folder / "quick.json") == 0
    assert "note: " in capsys.readouterr().err
    assert any("not the coefficients" in each for each in read_plan(folder / "new.json").notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--coefficients", "none.json"), "none.json"),
        (("--lose", "device-99"), "no device 'device-99'"),
        (("--move-cost", "-1"), "move-cost"),
    ],
)
def test_bad_input_exits_with_2(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    assert replan(folder, *options) == 2
    assert message in capsys.readouterr().err


def test_one_file_is_not_enough_for_two_types(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replan(folder, "--coefficients", folder / "quick.json", plan="two.json") == 2
    assert "2 device types" in capsys.readouterr().err


def test_coefficients_that_are_gone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "quick.json").unlink()
    assert replan(folder) == 2
    assert "say where they are" in capsys.readouterr().err


def test_what_no_plan_can_do_exits_with_6(folder: Path) -> None:
    (folder / "workloads.yaml").write_text(CHANGED.replace("slo_ms: 60", "slo_ms: 1"))
    assert replan(folder) == 6
    assert not (folder / "new.json").exists()


def test_other_device_types(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = read_plan(folder / "plan.json").device_types[0].name
    types = f"devices: [{{name: {name}}}, {{name: slow, coefficients: slow.json}}]\n"
    (folder / "types.yaml").write_text(types)
    options = ("--devices", folder / "types.yaml", "--move-cost", 1, "--json")
    assert replan(folder, *options) == 0
    assert shown(capsys)["moved"] == []
    first, second = read_plan(folder / "new.json").device_types
    # what the file does not say of a type is as in the plan
    assert (first.share_step_pct, first.max_tenants, second.name) == (10, 2, "slow")


# --- whatif ---------------------------------------------------------------------------------------


def test_without_a_question_there_is_headroom(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert igprof("whatif", folder / "plan.json", "--json") == 0
    said = shown(capsys)
    assert (said["misses"], said["replanned"]) == (0, None)
    assert said["headroom"]["all_rates"] > 1
    assert set(said["headroom"]["by_workload"]) == {"a-1", "a-2", "b"}

    # that much it takes, and not a tenth more
    factor = said["headroom"]["all_rates"]
    for more, misses in ((0.999 * factor, False), (1.1 * factor, True)):
        assert igprof("whatif", folder / "plan.json", "--rate", f"x{more}", "--json") == 0
        assert (shown(capsys)["misses"] > 0) == misses


def test_a_lost_device_and_a_new_workload(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = read_plan(folder / "plan.json").devices[0]
    options = ("--lose", device.name, "--add", "small:30:60:new", "--json")
    assert igprof("whatif", folder / "plan.json", *options) == 0
    said = shown(capsys)

    nowhere = {each["workload"] for each in said["as_it_stands"] if each["device"] is None}
    assert nowhere == {*(tenant.workload for tenant in device.tenants), "new"}
    assert {each["before"] for each in said["replanned"]["moved"]} == {device.name}
    assert device.name in said["replanned"]["closed"]
    assert [each["workload"] for each in said["replanned"]["added"]] == ["new"]


def test_a_question_without_an_answer_exits_with_6(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert igprof("whatif", folder / "plan.json", "--slo", "b=0.1", "--json") == 6
    said = shown(capsys)
    assert said["misses"] == 1
    assert said["replanned"] is None
    assert "'b'" in said["infeasible"]


def test_the_loss_of_the_last_device_exits_with_6(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = read_plan(folder / "plan.json")
    only = old.device_types[0].model_copy(update={"count": len(old.devices)})
    limited = old.model_copy(update={"device_types": (only,)})
    (folder / "plan.json").write_text(limited.model_dump_json())
    lost = [word for device in old.devices for word in ("--lose", device.name)]
    assert igprof("whatif", folder / "plan.json", *lost) == 6
    assert "no device is left" in capsys.readouterr().err


def test_a_type_that_is_gone_is_a_change_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "types.yaml").write_text("devices: [{name: slow, coefficients: slow.json}]\n")
    options = ("--devices", folder / "types.yaml", "--json")
    assert igprof("whatif", folder / "plan.json", *options) == 0
    said = shown(capsys)
    assert (said["misses"], len(said["replanned"]["moved"])) == (3, 3)


def test_whatif_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert igprof("whatif", folder / "plan.json") == 0
    assert "all rates can be x" in capsys.readouterr().out
    assert igprof("whatif", folder / "plan.json", "--remove", "a", "--rate", "b=x3") == 0
    out = capsys.readouterr().out
    assert "tenants would miss" in out
    assert "2 removed" in out


@pytest.mark.parametrize(
    "options",
    [
        ("--rate", "1.5"),
        ("--rate", "nobody=x2"),
        ("--add", "small:1"),
        ("--add", "smal:1:50"),
        ("--remove", "z"),
    ],
)
def test_questions_that_are_none_exit_with_2(folder: Path, options: tuple[str, ...]) -> None:
    assert igprof("whatif", folder / "plan.json", *options) == 2


# --- cheapest -------------------------------------------------------------------------------------


def cheapest(folder: Path, *options: object) -> int:
    rule = ("--latency-rule", "half-mean")
    return igprof("cheapest", folder / "workloads.yaml", *rule, *options)


def test_the_cheapest_type_for_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cheapest(folder, "--devices", folder / "devices.yaml", "--totals", "--json") == 0
    said = shown(capsys)
    assert said["unit"] == "price per hour"
    assert {each["workload"]: each["alike"] for each in said["workloads"]} == {"a-1": 2, "b": 1}
    for each in said["workloads"]:
        prices = {on["device_type"]: on["share_price"] for on in each["on"]}
        assert each["cheapest_by_share"] == min(prices, key=lambda name: prices[name])
    totals = {each["device_type"]: each["cost"] for each in said["totals"]}
    assert set(totals) == {"quick", "slow", None}
    assert totals[None] <= min(totals["quick"], totals["slow"])


def test_cheapest_of_one_type(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cheapest(folder, folder / "quick.json") == 0
    assert "the only type" in capsys.readouterr().out


def test_cheapest_needs_coefficients(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cheapest(folder) == 2
    (folder / "devices.yaml").write_text("devices: [{name: quick}]\n")
    assert cheapest(folder, "--devices", folder / "devices.yaml") == 2
    assert "has no coefficients" in capsys.readouterr().err
