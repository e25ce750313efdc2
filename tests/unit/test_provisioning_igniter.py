import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igniter_prof.errors import BadInput
from igniter_prof.provisioning import read_plan
from igniter_prof.provisioning.igniter import export_plan, import_plan
from igniter_prof.records import Plan, PlanDevice, PlanDeviceType, PlanTenant

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


def test_devices_of_several_types_get_a_folder_each(tmp_path: Path) -> None:
    one = read_plan(OURS)
    tenants = one.devices[0].tenants
    plan = one.model_copy(
        update={
            "device_types": (PlanDeviceType(name="v100"), PlanDeviceType(name="t4")),
            "devices": (
                PlanDevice(name="device-1", tenants=tenants[:1]),
                PlanDevice(name="device-2", type="t4", tenants=tenants[1:]),
            ),
        }
    )

    written = export_plan(plan, tmp_path)

    assert [str(path.relative_to(tmp_path)) for path in written] == [
        "v100/device-1.json",
        "t4/device-2.json",
    ]


def test_replicas_are_workloads_there_with_their_part_of_the_rate(tmp_path: Path) -> None:
    plan = read_plan(OURS)
    tenants = tuple(
        tenant.model_copy(update={"replica_of": "w", "workload": f"w.{number}", "model": "mlp"})
        for number, tenant in enumerate(plan.devices[0].tenants[:2], start=1)
    )
    changed = plan.model_copy(update={"devices": (PlanDevice(name="d", tenants=tenants),)})

    (written,) = export_plan(changed, tmp_path / "x.json")

    document = json.loads(written.read_text())
    assert document["rates"] == [1200, 600]
    assert document["slos"] == [5, 15]
    (back,) = import_plan(written).devices
    assert [(t.workload, t.slo_ms) for t in back.tenants] == [("mlp-1", 10), ("mlp-2", 30)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["alexnet", "vgg19", "mlp"]),
            st.floats(1e-3, 1e6),
            st.floats(1e-3, 1e6),
            st.floats(0.1, 20),
            st.integers(1, 1024),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_plan_keeps_the_slo_that_the_user_said(
    rows: list[tuple[str, float, float, float, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tenants = tuple(
            PlanTenant(
                workload=f"w{number}",
                model=model,
                rate_rps=rate,
                slo_ms=slo,
                share_pct=share,
                batch_size=batch,
            )
            for number, (model, rate, slo, share, batch) in enumerate(rows)
        )
        plan = Plan(
            strategy="optimal",
            igprof="0",
            created_at="",
            devices=(PlanDevice(name="d", tenants=tenants),),
        )
        (written,) = export_plan(plan, Path(folder) / "x.json")
        assert json.loads(written.read_text())["slos"] == [t.slo_ms / 2 for t in tenants]
        (back,) = import_plan(written).devices

    fields = ("model", "rate_rps", "slo_ms", "share_pct", "batch_size")
    for before, after in zip(tenants, back.tenants, strict=True):
        assert [getattr(after, f) for f in fields] == [getattr(before, f) for f in fields]


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

    climbing_type = PlanDevice(name="d", type="../t", tenants=(tenant,))
    with pytest.raises(BadInput, match="can be no file name"):
        export_plan(plan.model_copy(update={"devices": (climbing_type,)}), tmp_path / "x.json")
    climbing = PlanDevice(name="../d", tenants=(tenant,))
    with pytest.raises(BadInput, match="can be no file name"):
        export_plan(plan.model_copy(update={"devices": (climbing,)}), tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []
