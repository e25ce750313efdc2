"""The report's part on a plan: what it tells, what it draws, and how it stays small."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter_prof.cli import igprof
from igniter_prof.errors import BadInput
from igniter_prof.files import write_json
from igniter_prof.records import (
    Certificate,
    Objective,
    Plan,
    PlanDevice,
    PlanDeviceType,
    PlanTenant,
    WorkloadPrice,
)
from igniter_prof.reporting import drawing
from igniter_prof.reporting.blocks import Section, Table
from igniter_prof.reporting.inputs import Source
from igniter_prof.reporting.page import build_sections, render
from igniter_prof.reporting.plan_kinds import (
    MOST_BARS,
    broken,
    kinds_of,
    late,
    load_pct,
    overloaded,
    shown_of,
    unpredicted,
)
from igniter_prof.reporting.plan_picture import plan_svg, write_picture
from igniter_prof.reporting.plan_section import plan_section
from tests import reporting_samples as samples

SVG = "{http://www.w3.org/2000/svg}"


def tenant(name: str, model: str = "mlp", used: float = 0.8, share_pct: float = 40) -> PlanTenant:
    return samples.plan_tenant(name, model, 4, share_pct, 100, 20, used)


def of_devices(*devices: PlanDevice, **fields: object) -> Plan:
    return samples.plan().model_copy(update={"devices": devices, "notes": (), **fields})


def many(count: int, *, used: float = 0.8) -> Plan:
    """Devices of two kinds, in turn, whose tenants have names of their own."""
    return of_devices(
        *(
            PlanDevice(
                name=f"gpu-{i}",
                tenants=(tenant(f"w{i}", ("mlp", "ssd")[i % 2], used), tenant(f"v{i}", "resnet50")),
            )
            for i in range(count)
        )
    )


def section_of(plan: Plan) -> Section:
    return plan_section(plan, "PLAN.json", "plan")


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def table(section: Section, name: str) -> Table:
    return next(each for each in section.tables if each.name == name)


# --- kinds of devices --------------------------------------------------------------------------


def test_few_devices_are_drawn_one_by_one_even_if_alike() -> None:
    shown = shown_of(many(MOST_BARS))
    assert not shown.merged
    assert [kind.device.name for kind in shown.kinds] == [f"gpu-{i}" for i in range(MOST_BARS)]


def test_many_devices_are_merged_by_kind_the_largest_first() -> None:
    shown = shown_of(many(101))
    assert shown.merged
    assert [kind.count for kind in shown.kinds] == [51, 50]
    assert not shown.hidden


def test_alike_tenants_of_a_merged_device_are_one_lane() -> None:
    device = PlanDevice(name="d", tenants=tuple(tenant(f"w{i}", share_pct=20) for i in range(4)))
    (kind,) = kinds_of(of_devices(device))
    assert [lane.count for lane in kind.lanes] == [4]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "ssd"},
        {"batch_size": 8},
        {"share_pct": 39.0},
        {"rate_rps": 99.0},
        {"slo_ms": 19.0},
        {"percentile": 95.0},
        {"arrival": "constant"},
        {"predicted": None},
    ],
)
def test_devices_that_differ_are_not_merged(change: dict[str, object]) -> None:
    one = tenant("a")
    devices = (
        PlanDevice(name="d1", tenants=(one,)),
        PlanDevice(name="d2", tenants=(one.model_copy(update=change),)),
    )
    assert len(kinds_of(of_devices(*devices))) == 2


def test_devices_of_different_types_are_not_merged() -> None:
    types = (PlanDeviceType(name="big"), PlanDeviceType(name="small"))
    devices = [
        PlanDevice(name=f"d{i}", type=name, tenants=(tenant("a"),))
        for i, name in enumerate(("big", "small", None))
    ]
    kinds = kinds_of(of_devices(*devices, device_types=types))
    # no type means the first one
    assert [kind.count for kind in kinds] == [2, 1]


@settings(max_examples=60, deadline=None)
@given(
    patterns=st.lists(
        st.lists(st.sampled_from(("mlp", "ssd", "resnet50")), min_size=1, max_size=3),
        min_size=1,
        max_size=30,
    ),
    data=st.data(),
)
def test_merging_loses_no_device_and_heeds_no_order(
    patterns: list[list[str]], data: st.DataObject
) -> None:
    def plan(of: list[list[str]]) -> Plan:
        return of_devices(
            *(
                PlanDevice(
                    name=f"d{i}",
                    tenants=tuple(
                        tenant(f"w{i}.{j}", model, share_pct=30) for j, model in enumerate(models)
                    ),
                )
                for i, models in enumerate(of)
            )
        )

    first = plan(patterns)
    shuffled = [data.draw(st.permutations(p)) for p in data.draw(st.permutations(patterns))]
    again = plan(shuffled)
    counts = [sorted(kind.count for kind in kinds_of(each)) for each in (first, again)]
    assert counts[0] == counts[1]
    assert sum(counts[0]) == len(patterns)
    assert len(counts[0]) == len({tuple(sorted(p)) for p in patterns})
    shown = shown_of(first, most_bars=3, most_lanes=6)
    if shown.merged:
        assert sum(kind.count for kind in shown.kinds) + shown.hidden_devices == len(patterns)
        assert 1 <= len(shown.kinds) <= 3
        assert len(shown.kinds) == 1 or sum(len(kind.lanes) for kind in shown.kinds) <= 6


def test_a_broken_promise_is_the_last_to_be_left_out() -> None:
    rare = PlanDevice(name="late", tenants=(tenant("late", used=1.3),))
    plan = of_devices(*many(6).devices, rare)
    shown = shown_of(plan, most_bars=2)
    assert [kind.count for kind in shown.kinds] == [3, 1]
    assert shown.kinds[1].device.name == "late"
    assert shown.hidden_devices == 3


def test_what_counts_as_broken() -> None:
    assert not broken(tenant("exactly", used=1.0))
    assert broken(tenant("late", used=1.0001))
    good = tenant("full")
    assert good.predicted is not None
    endless = {"slo_percentile_ms": None, "utilisation": None, "throughput_rps": 99.0}
    full = good.model_copy(update={"predicted": good.predicted.model_copy(update=endless)})
    assert overloaded(full)
    assert broken(full)
    assert not unpredicted(full)
    assert unpredicted(good.model_copy(update={"predicted": None}))


@given(
    latency_ms=st.floats(1e-3, 1e6),
    slo_ms=st.floats(1e-3, 1e6),
)
def test_the_percentage_agrees_with_the_verdict(latency_ms: float, slo_ms: float) -> None:
    for at_percentile in (latency_ms, slo_ms):
        base = tenant("w")
        assert base.predicted is not None
        predicted = base.predicted.model_copy(update={"slo_percentile_ms": at_percentile})
        one = base.model_copy(update={"slo_ms": slo_ms, "predicted": predicted})
        percent = load_pct(one)
        assert percent is not None
        assert (percent > 100) == late(one)


# --- what it tells -----------------------------------------------------------------------------


def test_the_summary_has_types_cost_bound_gap_and_what_was_left_out() -> None:
    types = (
        PlanDeviceType(name="V100", price_per_hour=3, count=4, coefficients_hash="ef" * 32),
        PlanDeviceType(name="T4", price_per_hour=0.5),
    )
    plan = of_devices(
        PlanDevice(name="a", type="V100", tenants=(tenant("a"),), power_w=200),
        PlanDevice(name="b", type="T4", tenants=(tenant("b.1"),), power_w=50),
        PlanDevice(name="c", type="T4", tenants=(tenant("b.2"),), power_w=50),
        device_types=types,
        objective=Objective(devices=0, price=1),
        cost=4.0,
        bound=3.2,
        optimal=False,
        certificate=Certificate(prices=(WorkloadPrice(workload="a", price=1.5),), value=3.2),
        left_out=tuple(f"night-{i}" for i in range(14)),
    )
    replicas = tuple(
        device.model_copy(
            update={
                "tenants": tuple(
                    t.model_copy(update={"replica_of": "b" if "." in t.workload else None})
                    for t in device.tenants
                )
            }
        )
        for device in plan.devices
    )
    section = section_of(plan.model_copy(update={"devices": replicas}))
    facts = dict(section.facts)
    assert facts["devices, V100"].startswith("1 of at most 4; 3 per hour each")
    assert facts["devices, V100"].endswith("from coefficients efefefefefefefef")
    assert facts["devices, T4"] == "2; 0.5 per hour each"
    assert facts["workloads"] == "2, as 3 tenants"
    assert facts["cost"] == "4 per hour"
    assert facts["no plan costs less than"] == "3.2 per hour"
    assert facts["gap"] == "25%"
    assert facts["mean power, predicted"] == "300 W"
    assert facts["bound proven by"].startswith("1 dual price, 3.2;")
    assert facts["left out"].startswith("night-0, night-1,")
    assert facts["left out"].endswith("night-11 and 2 more, in the JSON")
    badges = [badge.text for badge in section.badges]
    assert "not proven to be the cheapest, gap at most 25%" in badges
    assert "14 workloads left out" in badges


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Objective(), "2 devices"),
        (Objective(devices=0, power=1), "2 W"),
        (Objective(devices=1, price=0.5), "2 (1 × devices + 0.5 × price)"),
        (Objective(devices=0, price=2), "2 (2 × price)"),
    ],
)
def test_a_cost_has_its_unit(objective: Objective, expected: str) -> None:
    plan = samples.plan().model_copy(update={"objective": objective})
    assert dict(section_of(plan).facts)["cost"] == expected


def test_the_fewest_devices_are_told_where_devices_are_the_objective() -> None:
    badges = [badge.text for badge in section_of(samples.plan()).badges]
    assert badges == ["2 devices", "proven to be the fewest"]


def test_columns_that_tell_nothing_are_in_the_csv_only() -> None:
    plain = table(section_of(samples.plan()), "plan-tenants")
    shown = {column.key for column in plain.shown_columns}
    assert shown.isdisjoint({"burstiness", "arrival", "replica_of", "device_type", "instances"})
    assert {"burstiness", "replica_of", "device_power_w"} <= set(plain.csv_rows()[0])
    bursty = tenant("b.1").model_copy(
        update={"arrival": "bursty", "burstiness": 4.0, "replica_of": "b", "instances": 2}
    )
    told = table(section_of(of_devices(PlanDevice(name="d", tenants=(bursty,)))), "plan-tenants")
    shown = {column.key for column in told.shown_columns}
    assert {"burstiness", "arrival", "replica_of", "instances"} <= shown
    assert told.rows[0]["utilisation_pct"] == pytest.approx(100 / 1.4)
    assert told.rows[0]["slo_percentile_high_ms"] == pytest.approx(20 * 0.8 * 1.12)


def test_a_large_plan_has_a_table_of_kinds_and_a_short_one_of_tenants() -> None:
    section = section_of(many(400))
    kinds = table(section, "plan-kinds")
    assert [(row["devices"], row["model"]) for row in kinds.rows] == [
        (200, "mlp"),
        (200, "resnet50"),
        (200, "ssd"),
        (200, "resnet50"),
    ]
    tenants = table(section, "plan-tenants")
    assert len(tenants.rows) == 800
    assert len(tenants.shown_rows) == 100
    assert "PLAN.json has them too" in tenants.caption
    text = render((section,), tables_at="t")
    assert "The first 100 of 800 rows; the CSV has all." in text
    assert len(text) < 300_000


# --- the picture -------------------------------------------------------------------------------


def test_the_picture_is_whole_and_its_text_is_text() -> None:
    svg = plan_svg(samples.plan())
    found = texts(svg)
    for text in ("search-embeddings", "device-2", "mobilenet_v2", "batch 4 · share 35%"):
        assert text in found
    assert "5.6 of 8 ms, p99" in found
    assert "free 25%" in found
    assert "Plan: 2 devices, strategy exact, proven optimal" in found
    # no page gives it colours or a font
    assert "var(" not in svg
    assert 'font-family="DejaVu Sans' in svg
    assert "<dc:date" not in svg


def test_the_same_plan_gives_the_same_bytes() -> None:
    assert plan_svg(samples.plan()) == plan_svg(samples.plan())


def test_what_is_over_the_slo_is_told_by_a_sign_and_a_hatch() -> None:
    def drawn(used: float) -> str:
        return plan_svg(of_devices(PlanDevice(name="d", tenants=(tenant("w", used=used),))))

    good, bad = drawn(0.9), drawn(1.5)
    assert "18 of 20 ms, p99" in texts(good)
    assert "✗ 30 of 20 ms, p99" in texts(bad)
    assert "<pattern" in bad
    assert "<pattern" not in good


def test_a_rate_above_the_throughput_is_marked() -> None:
    one = tenant("w")
    assert one.predicted is not None
    full = one.predicted.model_copy(update={"utilisation": 1.2, "slo_percentile_ms": None})
    plan = of_devices(
        PlanDevice(name="d", tenants=(one.model_copy(update={"predicted": full}),)),
    )
    assert "✗ 120%" in texts(plan_svg(plan))
    assert "? of 20 ms, p99" in texts(plan_svg(plan))
    badges = [badge.text for badge in section_of(plan).badges]
    assert "1 workload above the predicted throughput" in badges


def test_a_large_picture_says_how_many_a_bar_stands_for_and_what_is_missing() -> None:
    devices = [
        PlanDevice(name=f"d{i}", tenants=(tenant(f"w{i}", share_pct=1 + i % 70),))
        for i in range(150)
    ]
    plan = of_devices(*devices)
    found = texts(plan_svg(plan))
    assert found.count("× 3") == 10
    assert found.count("× 2") == 50
    assert "… and 20 more devices of 10 kinds" in found
    captions = [block.caption for block in section_of(plan).blocks if block.name == "plan-devices"]
    assert "Not drawn: 20 more devices of 10 kinds." in captions[0]


def test_a_model_has_one_colour_in_all_plots_of_a_plan() -> None:
    section = section_of(samples.plan())
    looks = drawing.colour_of(t.model for d in samples.plan().devices for t in d.tenants)
    for name in ("plan-devices", "plan-promises"):
        (plot,) = (block for block in section.blocks if block.name == name)
        svg = plot.svg  # type: ignore[union-attr]
        for colour, _ in looks.values():
            assert (colour in svg) or (colour == drawing.BLUE and "var(--blue)" in svg)


def test_long_names_are_cut_in_the_middle() -> None:
    names = [f"team-photos/production/thumbnails-of-all-{i}" for i in (1, 2)]
    device = PlanDevice(name="d", tenants=tuple(tenant(name) for name in names))
    found = texts(plan_svg(of_devices(device)))
    cut = [text for text in found if re.fullmatch(r"team-photo\S*…\S*-all-[12]", text)]
    assert {text[-1] for text in cut} == {"1", "2"}


@pytest.mark.parametrize("name", ["<b>&\x07", "_x", "a$b$", "模型", " "])
def test_odd_names_break_no_picture(name: str) -> None:
    plan = of_devices(PlanDevice(name=name, tenants=(tenant(name),)))
    ET.fromstring(plan_svg(plan))


# --- the verb ----------------------------------------------------------------------------------


def _stored(folder: Path) -> tuple[Path, Path]:
    plan, result = folder / "plan.json", folder / "result.json"
    write_json(plan, samples.plan())
    write_json(result, samples.result(samples.plan()))
    return plan, result


def test_an_out_that_ends_in_svg_gets_the_picture(tmp_path: Path) -> None:
    plan, _ = _stored(tmp_path)
    out = tmp_path / "PLAN.SVG"
    done = CliRunner().invoke(igprof, ["report", str(plan), "--out", str(out), "--json"])
    assert json.loads(done.stdout) == {"report": str(out), "tables": []}
    assert ET.fromstring(out.read_text()).tag == f"{SVG}svg"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "PLAN.SVG",
        "plan.json",
        "result.json",
    ]


def test_a_picture_is_of_one_plan_only(tmp_path: Path) -> None:
    plan, result = _stored(tmp_path)
    out = tmp_path / "p.svg"
    for inputs in ([plan, plan], [result], [plan, result]):
        with pytest.raises(BadInput, match="picture of one plan") as caught:
            write_picture(inputs, out)
        assert ".html" in str(caught.value)
    assert not out.exists()
    done = CliRunner().invoke(igprof, ["report", str(result), "--out", str(out)])
    assert isinstance(done.exception, BadInput)


def test_the_page_and_the_picture_show_the_same(tmp_path: Path) -> None:
    (section,) = build_sections([Source(tmp_path / "PLAN.json", samples.plan())])
    (plot,) = (block for block in section.blocks if block.name == "plan-devices")
    of_page = set(texts(plot.svg))  # type: ignore[union-attr]
    assert set(texts(plan_svg(samples.plan()))) - of_page == {
        "Plan: 2 devices, strategy exact, proven optimal"
    }
