"""Trials of a latency model: fitted to some cells, held against others that it has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from igniter_prof.fitting import fit, predictor
from igniter_prof.fitting.interference.model import TERMS, IgprofModel
from igniter_prof.fitting.latency_models import MODELS
from igniter_prof.fitting.model import LatencyModel
from igniter_prof.fitting.points import arrange, observe
from igniter_prof.fitting.suggest import suggest
from igniter_prof.records import Device, IgniterProfile, Measurement

Cells = list[Measurement]


@dataclass(frozen=True)
class Profile:
    """A profile's cells, and what fits need besides."""

    cells: Cells
    device: Device
    igniter: IgniterProfile | None


@dataclass(frozen=True)
class Trial:
    """Cells to fit to, and cells to predict."""

    train: Cells
    test: Cells


@dataclass
class Errors:
    """|predicted / measured - 1| of tenants, and of those with an interval whether it held."""

    error: list[float] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)
    half_width: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Mean and p99 in percent, coverage and median half-width in percent where known."""
        return {
            "tenants": len(self.error),
            "mean_pct": 100 * float(np.mean(self.error)) if self.error else None,
            "p99_pct": 100 * float(np.percentile(self.error, 99)) if self.error else None,
            "coverage_pct": 100 * float(np.mean(self.inside)) if self.inside else None,
            "half_width_pct": 100 * float(np.median(self.half_width)) if self.half_width else None,
        }


def judge(
    profile: Profile, trials: Iterable[Trial], model: LatencyModel, seed: int, *, intervals: bool
) -> Errors:
    """Errors over all tenants of all trials' test cells.

    With intervals: through ``fit`` and ``Predictor``, as the command line goes, which cross-
    validates each training part. Without: the same fit and prediction alone.
    """
    found = Errors()
    for trial in trials:
        measured = [t.latency.mean_ms for m in trial.test for t in m.tenants if t.latency]
        cells = [m.cell.tenants for m in trial.test]
        if intervals:
            coefficients = fit(
                trial.train,
                profile.device,
                profile_hash="",
                model=model.name,
                seed=seed,
                holdout=0.0,
                igniter=profile.igniter,
            )
            told = [p for cell in predictor(coefficients).predict(cells) for p in cell]
            predicted = [p.latency_ms for p in told]
            for value, p in zip(measured, told, strict=True):
                found.inside.append(p.latency_low_ms <= value <= p.latency_high_ms)
                width = p.latency_high_ms - p.latency_low_ms
                found.half_width.append(width / 2 / p.latency_ms)
        else:
            data, _ = observe(trial.train, profile.device, profile.igniter)
            index = {name: number for number, name in enumerate(data.models)}
            x = arrange(cells, index, profile.device)
            predicted = model.fit(data, seed).latency_ms(x).tolist()
        found.error += [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    return found


# --- what is trained on, what is tested -----------------------------------------------------------


def mix(measurement: Measurement) -> tuple[str, ...]:
    """The models of a cell, sorted."""
    return tuple(sorted(t.tenant.model for t in measurement.tenants))


def usable(cells: Sequence[Measurement]) -> Cells:
    """Cells whose tenants all ended ok."""
    return [m for m in cells if all(t.status == "ok" and t.latency for t in m.tenants)]


def point(measurement: Measurement) -> str:
    """What makes two cells repeats of each other."""
    return "".join(sorted(t.tenant.model_dump_json() for t in measurement.tenants))


def folds(tested: Cells, always: Cells, count: int, seed: int) -> Iterator[Trial]:
    """K folds of the points of ``tested``, dealt evenly by set of models; ``always`` is fitted."""
    points = sorted({(mix(m), point(m)) for m in tested})
    order = [points[i] for i in np.random.default_rng(seed).permutation(len(points))]
    dealt = sorted(order, key=lambda each: each[0])
    for number in range(count):
        mine = {key for _, key in dealt[number::count]}
        held = [m for m in tested if point(m) in mine]
        if held:
            yield Trial([*always, *(m for m in tested if point(m) not in mine)], held)


def one_pair_out(pairs: Cells, always: Cells) -> Iterator[Trial]:
    """Each set of models left out in turn."""
    for name in sorted({mix(m) for m in pairs}):
        rest = [m for m in pairs if mix(m) != name]
        yield Trial([*always, *rest], [m for m in pairs if mix(m) == name])


def two_disjoint(pairs: Cells, always: Cells) -> Iterator[Trial]:
    """Two pairs without a common model are fitted to, the others are predicted."""
    names = sorted({mix(m) for m in pairs})
    for first, second in combinations(names, 2):
        if set(first) & set(second):
            continue
        kept = (first, second)
        yield Trial(
            [*always, *(m for m in pairs if mix(m) in kept)],
            [m for m in pairs if mix(m) not in kept],
        )


def with_some_of_the_pair(
    profile: Profile, trials: Iterable[Trial], count: int, seed: int, model: str | None
) -> Iterator[Trial]:
    """Trials in which ``count`` cells of what is tested are measured first.

    Args:
        profile: whose device it is.
        trials: of sets that were never measured together.
        count: how many cells of each set.
        seed: of the choice.
        model: chooses them by ``suggest``; None: at random.
    """
    for trial in trials:
        for name in sorted({mix(m) for m in trial.test}):
            mine = [m for m in trial.test if mix(m) == name]
            if model is None:
                chosen = np.random.default_rng(seed).permutation(len(mine))[:count].tolist()
            else:
                choices = suggest(
                    trial.train,
                    profile.device,
                    [m.cell.tenants for m in mine],
                    count,
                    model=model,
                    seed=seed,
                    igniter=profile.igniter,
                )
                chosen = [choice.index for choice in choices]
            rest = [m for i, m in enumerate(mine) if i not in chosen]
            yield Trial([*trial.train, *(mine[i] for i in chosen)], rest)


# --- models ---------------------------------------------------------------------------------------


def models(names: Sequence[str]) -> list[LatencyModel]:
    """Those of the latency models that there are."""
    return [MODELS[name] for name in dict.fromkeys(names) if name in MODELS]


def ablations(model: LatencyModel) -> dict[str, LatencyModel]:
    """The model without each of its terms in turn, by the term; empty if it has no such option."""
    if not isinstance(model, IgprofModel):
        return {}
    return {term: IgprofModel.lacking([term]) for term in TERMS}


# --- noise ----------------------------------------------------------------------------------------


def noise_floor(cells: Sequence[Measurement]) -> tuple[float | None, str]:
    """Mean |error| in percent that a perfect model would show for noise alone, and its source.

    Of repeats: the mean of all |ln(one / other)| of a tenant's two measurements, over √2 (two
    measurements scatter, a model against one of them does not). Else of the 95% intervals of the
    means, which know the scatter within a run only: √(2/π) of their standard errors.
    """
    by_point: dict[str, list[Measurement]] = {}
    for m in cells:
        by_point.setdefault(point(m), []).append(m)
    differences = []
    for repeats in by_point.values():
        for one, other in combinations(repeats, 2):
            theirs = {t.tenant.model_dump_json(): t for t in other.tenants}
            for t in one.tenants:
                twin = theirs[t.tenant.model_dump_json()]
                if t.latency and twin.latency:
                    ratio = t.latency.mean_ms / twin.latency.mean_ms
                    differences.append(abs(float(np.log(ratio))))
    if differences:
        return 100 * float(np.mean(differences)) / 2**0.5, f"{len(differences)} repeats"
    errors = [
        t.latency.mean_ci_ms / 1.96 / t.latency.mean_ms
        for m in cells
        for t in m.tenants
        if t.latency and t.latency.mean_ci_ms is not None
    ]
    if not errors:
        return None, "not known"
    return 100 * (2 / np.pi) ** 0.5 * float(np.mean(errors)), "intervals of the means"
