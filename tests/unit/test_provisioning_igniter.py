import json
from pathlib import Path
from typing import Any

import pytest

from igniter_prof.errors import BadInput
from igniter_prof.provisioning import read_plan
from igniter_prof.provisioning.igniter import export_plan, import_plan
from igniter_prof.records import Plan, PlanDevice

PLANS = Path(__file__).parents[2] / "plans"
PUBLISHED = PLANS / "igniter-published.json"
OURS = PLANS / "igniter-published.plan.json"


def same(first: Plan, second: Plan) -> bool:
    when = {"created_at": "", "igprof": ""}
    return first.model_copy(update=when) == second.model_copy(update=when)


def test_the_published_plan_is_as_the_user_means_it() -> None:
    (device,) = import_plan(PUBLISHED).devices

    assert [(t.model, t.rate_rps, t.slo_ms, t.share_pct, t.batch_size) for t in device.tenants] == [
        ("alexnet", 1200, 10, 30, 6),
        ("resnet50", 600, 30, 45, 9),
        ("ssd", 50, 40, 15, 1),
    ]


def test_the_plan_in_the_folder_is_the_import() -> None:
    assert same(read_plan(OURS), import_plan(PUBLISHED))


def test_the_published_plan_round_trips(tmp_path: Path) -> None:
    (written,) = export_plan(read_plan(OURS), tmp_path / "back.json")

    assert json.loads(written.read_text()) == json.loads(PUBLISHED.read_text())
    assert same(import_plan(written), import_plan(PUBLISHED))


def test_a_plan_of_several_devices_is_a_folder_with_a_file_each(tmp_path: Path) -> None:
    one = read_plan(OURS)
    tenants = one.devices[0].tenants
    plan = one.model_copy(
        update={
            "devices": (
                PlanDevice(name="device-1", tenants=tenants[:2]),
                PlanDevice(name="device-2", tenants=tenants[2:]),
            )
        }
    )

    written = export_plan(plan, tmp_path / "folder")

    assert [path.name for path in written] == ["device-1.json", "device-2.json"]
    assert [t for path in written for t in import_plan(path).devices[0].tenants] == list(tenants)


def test_our_names_of_its_networks_get_its_suffix(tmp_path: Path) -> None:
    plan = read_plan(OURS)
    tenants = tuple(
        tenant.model_copy(update={"model": name})
        for tenant, name in zip(
            plan.devices[0].tenants, ("alexnet", "mlp", "ssd_dynamic"), strict=True
        )
    )
    changed = plan.model_copy(update={"devices": (PlanDevice(name="d", tenants=tenants),)})

    (written,) = export_plan(changed, tmp_path / "x.json")

    assert json.loads(written.read_text())["models"] == ["alexnet_dynamic", "mlp", "ssd_dynamic"]


def test_two_workloads_of_one_model_get_numbered_names(tmp_path: Path) -> None:
    lists = {"models": ["a", "b", "a"], "rates": [1, 1, 1], "slos": [1.5, 1, 1]}
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**lists, "resources": [10, 2.5, 10], "batches": [1, 1, 1]}))

    plan = import_plan(path)

    assert [t.workload for t in plan.devices[0].tenants] == ["a-1", "b", "a-2"]
    assert plan.devices[0].tenants[0].slo_ms == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rates": [1, 2]}, "differ in length"),
        ({"slos": None}, "slos"),
        ({"resources": [50, 45, 15]}, "add up to 110"),
        ({"batches": [0, 1, 1]}, "batches"),
        ({"rates": [1, "x", 3]}, "rates.1"),
        ({"model": []}, "unknown key 'model'"),
    ],
)
def test_files_that_are_not_five_equal_lists_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**json.loads(PUBLISHED.read_text()), **change}))

    with pytest.raises(BadInput, match=message):
        import_plan(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(PUBLISHED.read_text()[:80])

    with pytest.raises(BadInput, match="not valid JSON"):
        import_plan(path)


def test_what_the_format_cannot_say_is_refused(tmp_path: Path) -> None:
    plan = read_plan(OURS)
    tenant = plan.devices[0].tenants[0]
    twice = PlanDevice(name="d", tenants=(tenant.model_copy(update={"instances": 2}),))

    with pytest.raises(BadInput, match="2 instances"):
        export_plan(plan.model_copy(update={"devices": (twice,)}), tmp_path / "x.json")

    climbing = PlanDevice(name="../d", tenants=(tenant,))
    with pytest.raises(BadInput, match="can be no file name"):
        export_plan(plan.model_copy(update={"devices": (climbing,)}), tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []
