"""The report: what it derives, what it shows, and that nothing in its inputs can break it."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from igniter_prof.cli import igprof
from igniter_prof.errors import BadInput
from igniter_prof.files import write_json
from igniter_prof.records import Load, Measurement, PlanDevice, ProfileManifest, Tenant
from igniter_prof.reporting import derived, drawing, write_report
from igniter_prof.reporting.blocks import Table, number, shown, when
from igniter_prof.reporting.inputs import Profile, Source, read_inputs
from igniter_prof.reporting.page import build_sections, render, tables_folder
from tests import reporting_samples as samples


class _Page(HTMLParser):
    """Collects the ids, tags, texts and attribute values of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("report")
    inputs = samples.write_all(folder)
    # the order of the inputs does not matter
    return write_report(inputs[::-1], folder / "REPORT.html")


@pytest.fixture(scope="module")
def page(written: list[Path]) -> _Page:
    return _Page(written[0].read_text())


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


# --- the page ----------------------------------------------------------------------------------


def test_sections_stand_in_the_order_of_the_stages(page: _Page) -> None:
    order = [page.ids.index(name) for name in ("profile", "coefficients", "plan", "result")]
    assert order == sorted(order)


@pytest.mark.parametrize(
    "block",
    [
        "profile-latency-batch",
        "profile-latency-share",
        "profile-slowdown-map",
        "profile-slowdown",
        "profile-drift",
        "profile-verdicts",
        "coefficients-fit",
        "coefficients-errors",
        "plan-devices",
        "plan-promises",
        "result-workloads",
        "result-percentiles",
    ],
)
def test_every_block_is_there(page: _Page, block: str) -> None:
    assert block in page.ids


def test_ids_are_unique_and_references_meet_one(page: _Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    targets = {
        value[1:]
        for _, name, value in page.attributes
        if name in ("href", "xlink:href") and value.startswith("#")
    }
    for _, _, value in page.attributes:
        targets.update(re.findall(r"url\(#([^)]+)\)", value))
    assert len(targets) > 10
    assert targets <= set(page.ids)


def test_nothing_is_loaded_from_elsewhere(written: list[Path], page: _Page) -> None:
    assert page.tags.isdisjoint({"script", "img", "iframe", "image", "object", "embed", "base"})
    for tag, name, value in page.attributes:
        if name in ("href", "src", "xlink:href", "srcset", "action"):
            assert value.startswith(("#", "data:,", "REPORT-tables/")), (tag, name, value)
        if name == "style":
            assert "url(http" not in value
    assert "@import" not in written[0].read_text()


def test_links_lead_to_the_tables_that_were_written(written: list[Path], page: _Page) -> None:
    linked = {value for _, name, value in page.attributes if value.endswith(".csv")}
    assert linked == {f"REPORT-tables/{path.name}" for path in written[1:]}
    assert len(linked) >= 7


def test_the_summary_tells_status_verdicts_and_what_is_missing(page: _Page) -> None:
    text = " ".join(page.texts)
    assert "unstable (drift of 7.2% between the halves)" in text
    assert re.search(r"\d+ oom", text)
    assert "Power and energy were not measured." in text
    assert "cfs-quota, period 10 ms" in text
    assert "2 of 6 SLOs not met" in text
    assert "tiny: crashed (the server ended with signal 9)" in text


def test_verdicts_are_told_by_text_and_sign(page: _Page) -> None:
    for word in ("met", "violated", "crashed"):
        assert word in page.texts
    assert "✗" in page.texts
    assert "✓" in page.texts


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    plan = samples.plan()
    sources = [
        Source(tmp_path, _profile(samples.measurements()[:30])),
        Source(tmp_path, plan),
        Source(tmp_path, samples.result(plan)),
    ]
    first, second = (render(build_sections(sources), tables_at="t") for _ in range(2))
    assert first == second


HOSTILE = (
    (
        "<script>alert(1)</script>",
        "</svg></text><img src=x onerror=alert(1)>",
        "{{ 7 * 7 }}",
        "a$\\frac{$b$",
    ),
    ("_underscore", 'x" onload="alert(1)', "bell\x07 and \x00 nul", "模型"),
    ("a" * 200, "", " ", "-->"),
)


def _model_name(name: str) -> str:
    """The nearest name that a model may have: it is that of a folder."""
    return re.sub(r"[/\\\x00-\x1f]", "_", name).lstrip("-.") or "x"


@pytest.mark.parametrize("names", HOSTILE)
def test_names_from_files_stay_text(tmp_path: Path, names: tuple[str, ...]) -> None:
    renamed = dict(zip(samples.SPEED, map(_model_name, names), strict=True))
    plan = samples.plan(renamed)
    tenants = [
        tenant.model_copy(update={"workload": name})
        for tenant, name in zip(plan.devices[0].tenants, names, strict=False)
    ]
    device = PlanDevice(name=names[0], tenants=tuple(tenants))
    hostile = plan.model_copy(update={"devices": (device, plan.devices[1]), "notes": names})
    found = samples.measurements(renamed)
    sources = [
        Source(Path(names[0]), _profile(found)),
        Source(tmp_path, samples.coefficients(found)),
        Source(tmp_path, hostile),
        Source(tmp_path, samples.result(hostile)),
    ]
    text = render(build_sections(sources), tables_at="tables")
    page = _Page(text)
    assert page.tags.isdisjoint({"script", "img"})
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert "49" not in page.texts
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 9
    for drawn in drawings:
        ET.fromstring(drawn)


def _profile(cells: Sequence[Measurement]) -> Profile:
    manifest = ProfileManifest(
        sweep=None, device=samples.DEVICE, created_at=samples.CREATED, igprof="0.1.0"
    )
    return Profile(manifest, tuple(cells))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([], "empty: no cell has been measured"),
        (
            [
                samples.measurement(
                    (
                        samples.tenant_measurement(
                            Tenant(model="m"), 0, status="crashed", detail="signal 11"
                        ),
                    )
                )
            ],
            "1 crashed",
        ),
    ],
)
def test_a_profile_without_any_latency(tmp_path: Path, cells: list, expected: str) -> None:  # type: ignore[type-arg]
    profile = samples.write_profile(tmp_path / "p", cells)
    written = write_report([profile], tmp_path / "r.html")
    page = _Page(written[0].read_text())
    assert expected in page.texts
    assert "svg" not in page.tags


def test_an_imported_plan_without_predictions(tmp_path: Path) -> None:
    plan = samples.plan()
    bare = tuple(
        device.model_copy(
            update={
                "tenants": tuple(t.model_copy(update={"predicted": None}) for t in device.tenants)
            }
        )
        for device in plan.devices
    )
    imported = plan.model_copy(update={"devices": bare, "optimal": None, "device_types": ()})
    sections = build_sections([Source(tmp_path, imported), Source(tmp_path, samples.result(plan))])
    names = [block.name for block in sections[0].blocks]
    assert names == ["plan-devices", "plan-tenants"]
    assert "no prediction for 6 workloads" in [badge.text for badge in sections[0].badges]


def test_coefficients_without_a_report(tmp_path: Path) -> None:
    bare = samples.coefficients(samples.measurements()[:20]).model_copy(update={"report": None})
    (section,) = build_sections([Source(tmp_path, bare)])
    assert [block.name for block in section.blocks] == ["coefficients-parameters"]


def test_residuals_that_cannot_be_drawn_are_counted(tmp_path: Path) -> None:
    good = samples.coefficients(samples.measurements()[:20])
    assert good.report is not None
    odd = ({"measured_ms": None, "predicted_ms": 3.0}, {"measured_ms": 1.0}, {"measured_ms": "x"})
    report = good.report.model_copy(update={"residuals": (*good.report.residuals, *odd)})
    (section,) = build_sections([Source(tmp_path, good.model_copy(update={"report": report}))])
    assert any(remark.startswith("3 residuals without both") for remark in section.remarks)


def test_two_profiles_in_one_report(tmp_path: Path) -> None:
    found = samples.measurements()
    paths = [samples.write_profile(tmp_path / name, found[:8]) for name in ("one", "two")]
    written = write_report(paths, tmp_path / "r.html")
    page = _Page(written[0].read_text())
    assert {"profile-1", "profile-2"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "Profile 2" in page.texts


def test_conditions_that_weaken_the_numbers_are_said(tmp_path: Path) -> None:
    shared = samples.CONDITIONS.model_copy(update={"client_apart": False, "runtime": "remote"})
    bare = samples.tenant_measurement(Tenant(model="m"), 10).model_copy(
        update={"usage": None, "server_times": None, "ready_s": None, "lagged_pct": 12.0}
    )
    cell = samples.measurement((bare,), conditions=shared)
    (section,) = build_sections([Source(tmp_path, _profile([cell]))])
    text = " ".join(section.remarks)
    assert "The client ran on the device's own cores" in text
    assert "Cold starts were not measured" in text
    assert "The server's own times were not available" in text
    assert "memory of the servers were not measured" in text
    assert "sent over 1% of the requests late" in text


# --- tables ------------------------------------------------------------------------------------


def test_the_cells_table_has_a_row_a_tenant(written: list[Path]) -> None:
    rows = _rows(written[0].with_name("REPORT-tables") / "profile-cells.csv")
    found = samples.measurements()
    assert len(rows) == sum(len(one.tenants) for one in found)
    oom = [row for row in rows if row["state"] == "oom"]
    assert oom
    # missing is empty, never zero
    assert all(row["latency_mean_ms"] == "" for row in oom)
    first = next(row for row in rows if row["cell_id"] == found[0].cell_id)
    latency = found[0].tenants[0].latency
    assert latency is not None
    assert float(first["latency_mean_ms"]) == latency.mean_ms


def test_the_result_table_has_measured_and_predicted(written: list[Path]) -> None:
    rows = {
        r["workload"]: r
        for r in _rows(written[0].with_name("REPORT-tables") / "result-workloads.csv")
    }
    result = samples.result(samples.plan())
    for workload in result.workloads:
        row = rows[workload.workload]
        assert workload.predicted is not None
        assert float(row["p99_predicted_ms"]) == workload.predicted.p99_ms
        if workload.latency is None:
            assert row["p99_ms"] == ""
            assert row["verdict"] == "crashed"
        else:
            assert workload.latency.p99 is not None
            assert float(row["p99_ms"]) == workload.latency.p99.value_ms
            assert row["verdict"] == ("met" if workload.slo_met else "violated")


def test_long_tables_are_cut_on_the_page_only(tmp_path: Path) -> None:
    table = Table("t", "T", (), tuple({} for _ in range(500)))
    assert len(table.shown_rows) == 400
    assert len(table.csv_rows()) == 500


# --- what is derived ---------------------------------------------------------------------------


def _tenant(model: str, mean_ms: float, batch_size: int = 1, **options):  # type: ignore[no-untyped-def]
    tenant = Tenant(model=model, batch_size=batch_size, share_pct=50)
    return samples.tenant_measurement(tenant, mean_ms, **options)


def test_slowdown_is_colocated_over_solo_at_the_same_point() -> None:
    cells = [
        samples.measurement((_tenant("a", 10),)),
        samples.measurement((_tenant("a", 100, batch_size=8),)),
        samples.measurement((_tenant("b", 4),)),
        samples.measurement((_tenant("a", 12), _tenant("b", 5))),
        samples.measurement((_tenant("a", 150, batch_size=8), _tenant("b", 6))),
    ]
    found = {(s.model, s.neighbours): s for s in derived.slowdowns(cells)}
    assert found["a", ("b",)].factor == pytest.approx((1.2 + 1.5) / 2)
    assert found["a", ("b",)].cells == 2
    assert found["b", ("a",)].factor == pytest.approx((1.25 + 1.5) / 2)
    assert found["a", ("b",)].low == pytest.approx(1.2)


def test_slowdown_needs_a_solo_twin_and_neighbours_that_ran() -> None:
    cells = [
        samples.measurement((_tenant("a", 10),)),
        # another load is no twin
        samples.measurement((_tenant("b", 4),), load=Load(concurrency=4)),
        samples.measurement((_tenant("a", 12), _tenant("b", 5))),
        samples.measurement((_tenant("a", 99), _tenant("c", 0, status="oom"))),
    ]
    (only,) = derived.slowdowns(cells)
    assert (only.model, only.neighbours, only.cells) == ("a", ("b",), 1)


def test_solo_points_span_their_repetitions() -> None:
    cells = [
        samples.measurement((_tenant("a", 10),)),
        samples.measurement((_tenant("a", 12),), repeat=1),
        samples.measurement((_tenant("a", 0, status="timeout"),), repeat=2),
    ]
    (point,) = derived.solo_points(cells)
    assert point.cells == 2
    assert point.latency_ms == pytest.approx(11)
    assert point.low_ms == pytest.approx(10 * 0.985)
    assert point.high_ms == pytest.approx(12 * 1.015)


def test_drift_counts_from_the_first_baseline_of_its_kind() -> None:
    cells = [
        samples.measurement((_tenant("a", 11),), at_s=60, baseline=True, repeat=1),
        samples.measurement((_tenant("a", 10),), at_s=10, baseline=True),
        samples.measurement((_tenant("a", 77),), at_s=30),
        samples.measurement((_tenant("b", 5),), at_s=70, baseline=True),
    ]
    points = derived.drift(cells)
    assert [(p.elapsed_s, round(p.change_pct, 6)) for p in points] == [(0, 0), (50, 10), (60, 0)]
    assert points[1].ci_pct == pytest.approx(1.65)


# --- drawing and text --------------------------------------------------------------------------


def test_two_drawings_share_no_id() -> None:
    def paint(figure) -> None:  # type: ignore[no-untyped-def]
        axes = figure.subplots()
        axes.plot([1, 2], [3, 4])

    one, two = (drawing.draw(name, 2, 2, paint, "about") for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert all(ids)
    assert ids[0].isdisjoint(ids[1])
    assert "<style" not in one
    assert "var(--muted)" in one
    assert "DOCTYPE" not in one


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        ("", "–"),
        (0.0, "0"),
        (0.01234, "0.0123"),
        (123.456, "123"),
        (True, "yes"),
        (7, "7"),
    ],
)
def test_cells_for_people(value: object, text: str) -> None:
    assert shown(value) == text


def test_numbers_and_instants_for_people() -> None:
    assert number(12345.6) == "12346"
    assert number(1.5e9) == "1.5e+09"
    assert when("2026-01-02T05:04:05+02:00") == "2026-01-02 03:04 UTC"
    assert when("yesterday") == "yesterday"


def test_text_stays_readable_on_every_colour() -> None:
    assert drawing.text_on("#ffffff") == "#000000"
    assert drawing.text_on("#000000") == "#ffffff"
    assert drawing.text_on(drawing.YELLOW) == "#000000"


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.json", None, "no such file"),
        ("other.json", '{"hello": 1}', "is no coefficients, plan or result"),
        ("list.json", "[1, 2]", "is no coefficients, plan or result"),
        ("cut.json", '{"strategy": "exact", "devi', "is not valid JSON"),
        ("plan.json", '{"strategy": "exact", "devices": 3}', "is missing"),
        (
            "new.json",
            '{"schema_version": 99, "strategy": "exact", "devices": []}',
            "has schema_version 99",
        ),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    out = tmp_path / "r.html"
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        write_report([path], out)
    assert str(path) in str(caught.value)
    assert not out.exists()
    assert not tables_folder(out).exists()


def test_a_folder_that_is_no_profile(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(BadInput, match=r"profile\.json"):
        write_report([tmp_path / "d"], tmp_path / "r.html")


def test_out_that_cannot_be_written(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    write_json(plan, samples.plan())
    with pytest.raises(BadInput, match="is a folder"):
        write_report([plan], tmp_path)
    with pytest.raises(BadInput, match="cannot be made"):
        write_report([plan], tmp_path / "nowhere" / "r.html")
    with pytest.raises(BadInput, match="nothing to report"):
        write_report([], tmp_path / "r.html")


def test_a_manifest_stands_for_its_folder(tmp_path: Path) -> None:
    profile = samples.write_profile(tmp_path / "p", [])
    (source,) = read_inputs([profile / "profile.json"])
    assert isinstance(source.content, Profile)


# --- the verb ----------------------------------------------------------------------------------


def test_the_verb_prints_the_path(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    write_json(plan, samples.plan())
    out = tmp_path / "my report.html"
    plain = CliRunner().invoke(igprof, ["report", str(plan), "--out", str(out)])
    assert plain.stdout == f"{out}\n"
    as_json = CliRunner().invoke(igprof, ["report", str(plan), "--out", str(out), "--json"])
    document = json.loads(as_json.stdout)
    assert document["report"] == str(out)
    assert document["tables"]
    assert all(Path(path).is_file() for path in document["tables"])
    assert "my%20report-tables/plan-tenants.csv" in out.read_text()
