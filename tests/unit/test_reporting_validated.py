"""What a report shows of a fit's validation."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from igniter_prof.records import Coefficients, FitError, IntervalCheck, LearningPoint
from igniter_prof.reporting import write_report
from igniter_prof.reporting.blocks import Plot, Section, Table
from igniter_prof.reporting.coefficients_section import coefficients_section
from tests import reporting_samples as samples


@pytest.fixture(scope="module")
def coefficients() -> Coefficients:
    return samples.coefficients(samples.measurements()[:20])


def changed(coefficients: Coefficients, **fields: object) -> Section:
    assert coefficients.report is not None
    report = coefficients.report.model_copy(update=fields)
    return coefficients_section(coefficients.model_copy(update={"report": report}), "C", "c")


def named(section: Section) -> dict[str, Plot | Table]:
    return {block.name: block for block in section.blocks}


def test_validation_is_drawn_and_tabled(coefficients: Coefficients) -> None:
    blocks = named(changed(coefficients))
    drawn = blocks["c-validation"]
    assert isinstance(drawn, Plot)
    for text in ("Learning curve", "co-located cells that were fitted to", "never", "only"):
        assert text in drawn.svg
    learned, checked = blocks["c-learning"], blocks["c-intervals"]
    assert isinstance(learned, Table)
    assert isinstance(checked, Table)
    assert [row["cells"] for row in learned.rows] == [4, 10, 20, 30, 40]
    assert {row["cells"]: row["coverage_pct"] for row in checked.rows}["co-located"] == 91.7


@pytest.mark.parametrize("kept", ["learning_curve", "cross_validated"])
def test_each_half_is_drawn_without_the_other(coefficients: Coefficients, kept: str) -> None:
    other = {"learning_curve": {"cross_validated": {}}, "cross_validated": {"learning_curve": ()}}
    assert "c-validation" in named(changed(coefficients, **other[kept]))


def test_without_validation_nothing_of_it_is_there(coefficients: Coefficients) -> None:
    section = changed(coefficients, learning_curve=(), cross_validated={}, intervals={})
    assert not {"c-validation", "c-learning", "c-intervals"} & set(named(section))


def test_errors_that_are_not_known_are_left_out(coefficients: Coefficients) -> None:
    section = changed(
        coefficients,
        learning_curve=(LearningPoint(cells=3, fraction_pct=100, error=FitError(cells=0)),),
        cross_validated={"pairs": FitError(cells=2, mean_pct=1.0)},
        intervals={"all": IntervalCheck(tenants=0)},
    )
    assert "c-validation" in named(section)


def residuals(errors_pct: list[float]) -> tuple[dict[str, object], ...]:
    return tuple(
        {
            "measured_ms": 10.0,
            "predicted_ms": 10.0 + e / 10,
            "low_ms": 9.95,
            "high_ms": 10.05 + (e > 0) / 10,
            "holdout": True,
        }
        for e in errors_pct
    )


@pytest.mark.parametrize(("error_pct", "band"), [(0.5, "±1%"), (1.8, "±2%"), (7.0, "±10%")])
def test_the_band_is_the_narrowest_that_holds_nine_of_ten(
    coefficients: Coefficients, error_pct: float, band: str
) -> None:
    section = changed(coefficients, residuals=residuals([error_pct] * 19 + [40.0]))
    assert any(f"19 of 20 hold-out predictions are within {band}" in r for r in section.remarks)
    plot = named(section)["c-fit"]
    assert isinstance(plot, Plot)
    assert f"band: {band}" in plot.caption


def test_measurements_in_their_intervals_are_counted(coefficients: Coefficients) -> None:
    rows = [*residuals([1.0] * 9), {**residuals([1.0])[0], "low_ms": 10.5, "high_ms": 11.0}]
    section = changed(coefficients, residuals=tuple(rows))
    assert "9 of 10 hold-out measurements lie in their 90% interval." in section.remarks
    none = changed(coefficients, residuals=tuple({**r, "low_ms": None} for r in rows))
    assert not any("90% interval" in remark for remark in none.remarks)


def test_the_csv_holds_the_intervals(coefficients: Coefficients, tmp_path: Path) -> None:
    path = tmp_path / "C.json"
    path.write_text(coefficients.model_dump_json())
    write_report([path], tmp_path / "R.html")
    with (tmp_path / "R-tables" / "coefficients-residuals.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    assert all(float(row["low_ms"]) < float(row["high_ms"]) for row in rows)
