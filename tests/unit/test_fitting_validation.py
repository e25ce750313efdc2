"""Cross-validation, intervals and the learning curve: on data from known equations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from igniter_prof.cli import igprof
from igniter_prof.dataset import ProfileStore
from igniter_prof.errors import BadInput
from igniter_prof.fitting import conformal, fit, load_coefficients, validation
from igniter_prof.fitting.holdout import NEVER, hold_out, point_folds
from igniter_prof.fitting.latency_models import MODELS
from igniter_prof.fitting.model import Fitted
from igniter_prof.fitting.physics.model import PhysicsModel
from igniter_prof.fitting.points import FloatArray, IntArray, Observations, observe
from igniter_prof.records import (
    REQUEST_DTYPE,
    Coefficients,
    FitError,
    Measurement,
    ProfileManifest,
    Tenant,
)
from tests.unit.fitting_cells import (
    CPU,
    measure_truth,
    measured,
    pair_cells,
    solo_cells,
    true_latencies,
)
from tests.unit.fitting_cells import (
    MODELS as NAMES,
)

EQUATIONS = PhysicsModel("equations", interference=True)


@pytest.fixture(scope="module")
def profile() -> list[Measurement]:
    return measure_truth([*solo_cells(), *pair_cells()])


@pytest.fixture(scope="module")
def data(profile: list[Measurement]) -> Observations:
    return observe(profile, CPU)[0]


def triples() -> list[tuple[Tenant, ...]]:
    return [
        tuple(
            Tenant(model=m, batch_size=b, share_pct=r) for m, r in zip(NAMES, shares, strict=True)
        )
        for b in (1, 4)
        for shares in ((20, 30, 50), (50, 30, 20))
    ]


# --- folds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [3, 5, 10])
def test_folds_never_split_a_point_and_leave_what_only_it_tells(folds: int) -> None:
    cells = [*solo_cells(batches=(1, 2, 4), shares=(25, 50, 100)), *pair_cells(batches=(1, 2))]
    twice = [measured(c, true_latencies(c), repeat=again) for c in cells for again in (0, 1, 2)]
    observed, _ = observe(twice, CPU)
    fold = point_folds(observed, folds, seed=1)
    assert np.array_equal(fold, point_folds(observed, folds, seed=1))
    assert not np.array_equal(fold, point_folds(observed, folds, seed=2))
    for group in np.unique(observed.group):
        assert len(set(fold[observed.group == group])) == 1
    x = observed.points
    together = x.tenants > 1
    # every co-located point is held out once, in folds of one size
    sizes = [len(np.unique(observed.group[together & (fold == k)])) for k in range(folds)]
    assert sum(sizes) == len(pair_cells(batches=(1, 2)))
    assert max(sizes) - min(sizes) <= 1
    for k in range(folds):
        left = fold != k
        for model in range(len(observed.models)):
            mine = (x.tenants == 1) & (x.model == model)
            for values in (x.batch, x.share):
                assert set(values[mine & left]) == set(values[mine])
    assert (fold[~together] != NEVER).mean() > 0.5


def test_nothing_is_held_out_where_every_point_is_needed() -> None:
    observed, _ = observe(measure_truth([(Tenant(model="small", share_pct=50),)]), CPU)
    assert validation.parts_by_point(observed, seed=0) == []


def test_a_holdout_of_nothing_holds_out_nothing(data: Observations) -> None:
    assert not hold_out(data, 0.0, seed=0).any()


# --- what is left out -----------------------------------------------------------------------------


def mixes(observed: Observations, rows: np.ndarray) -> set[tuple[str, ...]]:
    x = observed.points
    names = np.array(observed.models)[x.model]
    return {tuple(sorted(names[x.cell == cell])) for cell in np.unique(x.cell[rows])}


def test_a_set_left_out_is_nowhere_in_what_is_fitted() -> None:
    cells = [*solo_cells(), *pair_cells(batches=(1, 4)), *triples()]
    observed, _ = observe(measure_truth(cells), CPU)
    parts = {part.label: part for part in validation.parts_by_mix(observed)}
    assert set(parts) == {"large+middle", "large+small", "middle+small", "large+middle+small"}
    pair = parts["large+small"]
    assert mixes(observed, pair.test) == {("large", "small")}
    # the triple holds both models: it was measured together with them
    assert mixes(observed, pair.train) == {
        ("large",),
        ("middle",),
        ("small",),
        ("large", "middle"),
        ("middle", "small"),
    }
    triple = parts["large+middle+small"]
    assert mixes(observed, triple.test) == {("large", "middle", "small")}
    assert ("large", "small") in mixes(observed, triple.train)
    tested = np.stack([part.test for part in parts.values()]).sum(axis=0)
    assert np.array_equal(tested, observed.points.tenants > 1)


def test_a_model_beside_itself_is_a_set_of_its_own() -> None:
    twins = [tuple(Tenant(model="small", batch_size=b, share_pct=50) for _ in range(2))
             for b in (1, 2)]  # fmt: skip
    observed, _ = observe(measure_truth([*solo_cells(), *twins]), CPU)
    (part,) = validation.parts_by_mix(observed)
    assert part.label == "small+small"
    assert mixes(observed, part.train) == {("large",), ("middle",), ("small",)}


def test_a_model_left_out_is_fitted_alone_only(data: Observations) -> None:
    parts = {part.label: part for part in validation.parts_by_model(data)}
    assert set(parts) == set(NAMES)
    part = parts["small"]
    assert mixes(data, part.train) == {("large",), ("middle",), ("small",), ("large", "middle")}
    x = data.points
    assert np.array_equal(part.test, (x.tenants > 1) & (x.model == data.models.index("small")))


def test_devices_are_left_out_where_there_are_several(
    profile: list[Measurement], data: Observations
) -> None:
    one = {m.cell_id: "a" for m in profile}
    assert validation.parts_by_device(data, one) == []
    two = {m.cell_id: "ab"[i % 2] for i, m in enumerate(profile)}
    first, second = validation.parts_by_device(data, two)
    assert (first.label, second.label) == ("a", "b")
    assert np.array_equal(first.train, second.test)
    assert not (first.train & first.test).any()


# --- refits ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeanFitted:
    """The mean latency of what it was fitted to, for every row."""

    mean_ms: float

    def latency_ms(self, x: object) -> FloatArray:
        return np.full(len(x), self.mean_ms)  # type: ignore[arg-type]

    def log_scale(self, x: object) -> FloatArray:
        return np.ones(len(x))  # type: ignore[arg-type]


class MeanModel:
    """Remembers what it was given to fit."""

    name, knows_strangers = "mean", False

    def __init__(self) -> None:
        self.fitted: list[Observations] = []
        self.starts: list[Fitted | None] = []

    def fit(self, data: Observations, seed: int, start: Fitted | None = None) -> MeanFitted:
        if "large" not in set(np.array(data.models)[data.points.model]):
            raise BadInput("nothing of 'large'")
        self.fitted.append(data)
        self.starts.append(start)
        return MeanFitted(float(data.latency_ms.mean()))


def test_each_refit_sees_its_part_only(data: Observations) -> None:
    model = MeanModel()
    parts = validation.parts_by_point(data, seed=0)
    unseen, notes = validation.refit(data, model, parts, 0)  # type: ignore[arg-type]
    assert notes == ()
    assert len(model.fitted) == len(parts) == 10
    for number, (part, fitted) in enumerate(zip(parts, model.fitted, strict=True)):
        rows = unseen.fold == number
        assert np.array_equal(rows, part.test)
        assert not set(data.group[rows]) & set(fitted.group)
        assert unseen.predicted_ms[rows] == pytest.approx(fitted.latency_ms.mean())
    assert np.isnan(unseen.predicted_ms[~unseen.tested]).all()


def test_a_refit_that_cannot_be_made_is_noted(data: Observations) -> None:
    large = data.points.model == data.models.index("large")
    alone = data.points.tenants == 1
    parts = [validation.Part("all of large", ~large & alone, large & alone)]
    unseen, notes = validation.refit(data, MeanModel(), parts, 0)  # type: ignore[arg-type]
    assert not unseen.tested.any()
    assert notes == ("validation without all of large: nothing of 'large'",)


class Ticking:
    """A clock on which each look takes a second."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 1.0
        return self.time


def validated(data: Observations, seconds: float) -> validation.Validation:
    held = hold_out(data, 0.2, seed=0)
    clock = validation.Clock(seconds, Ticking())
    clock.longest_s = 1.0
    return validation.validate(
        data,
        MeanModel(),  # type: ignore[arg-type]
        held=held,
        held_error=FitError(cells=1, mean_pct=1.0),
        device_of={cell: "ab"[i % 2] for i, cell in enumerate(data.cell_id)},
        seed=0,
        clock=clock,
    )


def test_what_the_time_does_not_suffice_for_is_noted(data: Observations) -> None:
    full = validated(data, 1000.0)
    assert full.notes == ()
    assert set(full.cross_validated) == {"pairs", "models", "devices"}
    assert len(full.learning_curve) == len(validation.FRACTIONS)

    some = validated(data, 10.5)
    assert set(some.cross_validated) == {"pairs", "models"}
    assert some.cross_validated["pairs"].cells < full.cross_validated["pairs"].cells
    notes = "\n".join(some.notes)
    assert "validation by pairs: 2 of 3 left out in turn" in notes
    assert "validation by models: 1 of 3 left out in turn" in notes
    assert "validation by devices: nothing left out in turn" in notes
    assert "learning curve without 10%, 25%, 50%, 75% of the co-located cells" in notes
    # what is known anyway stays
    assert [point.fraction_pct for point in some.learning_curve] == [100.0]


def test_more_cells_less_error_on_data_from_known_equations(data: Observations) -> None:
    held = hold_out(data, 0.2, seed=0)
    together = data.points.tenants > 1
    rest = EQUATIONS.fit(data.take(~held), 0)
    found = validation.validate(
        data,
        EQUATIONS,
        held=held,
        held_error=validation.accuracy.fit_error_of(
            data, rest.latency_ms(data.points), held & together
        ),
        device_of={},
        seed=0,
        clock=validation.Clock(1000.0),
    )
    sizes = [point.cells for point in found.learning_curve]
    errors = [point.error.mean_pct or np.nan for point in found.learning_curve]
    assert sizes == sorted(sizes)
    assert sizes[0] == pytest.approx(sizes[-1] / 10, abs=1)
    assert errors[-1] < 0.7 * errors[0]
    # 1% noise has a mean magnitude of 0.8%
    assert errors[-1] == pytest.approx(0.8, abs=0.25)
    # further from what was measured, further from the truth
    for name in ("pairs", "models"):
        mean_pct = found.cross_validated[name].mean_pct
        assert mean_pct is not None
        assert mean_pct > 2 * errors[-1]


# --- intervals ------------------------------------------------------------------------------------


def scores_of(rng: np.random.Generator, n: int) -> tuple[FloatArray, FloatArray, IntArray]:
    """Scores of a model that knows that its rows scatter differently: skewed, heavy-tailed."""
    scale = np.exp(rng.normal(-4, 1, n))
    return rng.standard_t(4, n) * 1.3 + 0.2, scale, rng.integers(0, 10, n)


def test_coverage_is_checked_on_folds_that_made_no_interval() -> None:
    rng = np.random.default_rng(5)
    scores, scale, fold = scores_of(rng, 3000)
    found = conformal.check(conformal.Held(scores, scale, np.zeros(3000, dtype=bool), fold))
    assert found.inside.mean() == pytest.approx(0.9, abs=0.015)
    # the width follows the scale of the row
    assert np.corrcoef(np.log(found.half_width), np.log(scale))[0, 1] > 0.99


def test_upper_end_never_falls_with_neighbours_and_coverage_stays() -> None:
    rng = np.random.default_rng(0)
    alone = np.repeat([True, False], 500)
    scores = np.where(alone, 2.0, 1.0) * rng.standard_normal(1000)
    made = conformal.intervals(scores, alone)
    assert made.colocated[1] >= made.solo[1]
    inside = (made.colocated[0] <= scores[~alone]) & (scores[~alone] <= made.colocated[1])
    assert inside.mean() == pytest.approx(0.9, abs=0.01)


def test_a_skew_is_not_paid_for_on_both_sides() -> None:
    scores = np.random.default_rng(0).exponential(1.0, 1000)
    low, high = conformal.interval(scores)
    symmetric = np.quantile(np.abs(scores), 0.9)
    assert high - low < 1.6 * symmetric
    assert ((low <= scores) & (scores <= high)).mean() == pytest.approx(0.9, abs=0.06)


@pytest.mark.parametrize("n", [0, 1, 5, 18])
def test_few_scores_give_a_wide_interval(n: int) -> None:
    scores = np.linspace(-0.01, 0.02, n)
    low, high = conformal.interval(scores)
    assert low <= -0.02
    assert high >= 0.02
    assert all(low < s < high for s in scores)


# --- the report -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validated") / "P"
    manifest = ProfileManifest(sweep=None, device=CPU, created_at="", igprof="0")
    cells = [*solo_cells(batches=(1, 4)), *pair_cells(batches=(1, 4))]
    with ProfileStore.create(folder, manifest) as store:
        for measurement in measure_truth(cells):
            store.append(measurement, [np.zeros(0, REQUEST_DTYPE) for _ in measurement.tenants])
    return folder


def fitted_by_verb(stored: Path, *options: str) -> tuple[Coefficients, str]:
    out = stored.parent / "C.json"
    arguments = ["fit", str(stored), "--out", str(out), "--model", "igniter", *options]
    result = CliRunner().invoke(igprof, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return load_coefficients(out), result.stdout


def test_every_field_of_the_report_is_there_after_fit(stored: Path) -> None:
    coefficients, shown = fitted_by_verb(stored)
    report = coefficients.report
    assert report is not None
    assert set(report.cross_validated) == {"points", "co-located points", "pairs", "models"}
    assert all(e.mean_pct is not None and e.cells > 0 for e in report.cross_validated.values())
    assert [p.fraction_pct for p in report.learning_curve] == [10, 25, 50, 75, 100]
    assert set(report.intervals) == {"all", "solo", "co-located"}
    check = report.intervals["co-located"]
    assert check.coverage_pct is not None
    assert check.half_width_pct is not None
    assert 80 <= check.coverage_pct <= 98
    for row in report.residuals:
        assert row["low_ms"] <= row["predicted_ms"] <= row["high_ms"]
    for text in ("never measured together", "measured alone only", "Learning curve", "inside %"):
        assert text in shown


@pytest.mark.parametrize("option", ["--quick", "--no-validation"])
def test_validation_can_be_left_out(stored: Path, option: str) -> None:
    coefficients, shown = fitted_by_verb(stored, option)
    report = coefficients.report
    assert report is not None
    # the intervals need these folds anyway
    assert set(report.cross_validated) == {"points", "co-located points"}
    assert report.intervals["all"].coverage_pct is not None
    assert report.learning_curve == ()
    assert "Learning curve" not in shown


def test_validation_changes_nothing_that_is_predicted(profile: list[Measurement]) -> None:
    some = profile[::5]
    quick = fit(some, CPU, profile_hash="", model="none")
    full = fit(some, CPU, profile_hash="", model="none", validation_s=1000.0)
    assert full.models == quick.models
    assert full.extra["interval"] == quick.extra["interval"]
    assert "none" in MODELS
