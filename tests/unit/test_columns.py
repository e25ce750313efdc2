"""The programs over columns: small ones with known solutions, on each engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pulp
import pytest

from igniter_prof.errors import OutsideFailure
from igniter_prof.provisioning.columns import Column, choose, covers, relax

HIGHS, CBC = "HiGHS", "CBC"


@pytest.fixture(params=[HIGHS, CBC])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == CBC:
        monkeypatch.setattr(pulp.HiGHS, "available", lambda self: False)
    return request.param


def counts(*each: int) -> Any:
    return np.array(each, dtype=np.int64)


# a bin packing of sizes 60, 40 and 30: a with b, c with c and b
PACKING: list[Column] = [(0, p) for p in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 1), (1, 2, 2))]
ONES = [1.0] * len(PACKING)
# of three classes any two fit on a device: 1.5 devices in parts, 2 whole ones
PAIRS: list[Column] = [(0, (0, 1)), (0, (0, 2)), (0, (1, 2))]


def test_the_relaxation_has_its_value_and_prices_that_prove_it(engine: str) -> None:
    found = relax(PAIRS, [1.0] * 3, counts(1, 1, 1), [None], seed=0)

    assert found is not None
    assert found.value == pytest.approx(1.5)
    assert found.times == pytest.approx([0.5, 0.5, 0.5])
    assert found.prices == pytest.approx([0.5, 0.5, 0.5])
    assert found.kind_prices.tolist() == [0.0]


def test_prices_never_make_a_column_worth_more_than_it_costs(engine: str) -> None:
    wanted = counts(4, 3, 7)
    for vertex in (False, True):
        found = relax(PACKING, ONES, wanted, [None], seed=0, vertex=vertex)
        assert found is not None
        assert float(wanted @ found.prices) == pytest.approx(found.value, abs=1e-6)
        for (_, pattern), cost in zip(PACKING, ONES, strict=True):
            assert found.prices[list(pattern)].sum() <= cost + 1e-6


def test_a_limited_kind_has_a_price(engine: str) -> None:
    # two tenants fit on a cheap device, of which there is one; else each has a dear one
    columns: list[Column] = [(0, (0, 0)), (1, (0,))]
    found = relax(columns, [1.0, 2.0], counts(6), [1, None], seed=0)

    assert found is not None
    assert found.value == pytest.approx(9.0)
    assert found.prices == pytest.approx([2.0])
    assert found.kind_prices == pytest.approx([3.0, 0.0])
    assert 6 * found.prices[0] - found.kind_prices[0] == pytest.approx(found.value)


def test_what_the_columns_cannot_cover_has_no_relaxation_and_no_choice(engine: str) -> None:
    for columns, limits in (([(0, (0,))], [None]), ([(0, (0, 1))], [1])):
        costs = [1.0] * len(columns)
        assert relax(columns, costs, counts(2, 2), limits, seed=0) is None
        assert choose(columns, costs, counts(2, 2), limits, time_limit_s=5, seed=0) is None


def test_the_cheapest_choice_is_found(engine: str) -> None:
    found = choose(PACKING, ONES, counts(2, 2, 2), [None], time_limit_s=10, seed=0)

    assert found is not None
    assert sum(found.values()) == 3
    assert covers(found, counts(2, 2, 2), [None])
    pairs = choose(PAIRS, [1.0] * 3, counts(1, 1, 1), [None], time_limit_s=10, seed=0)
    assert pairs is not None
    assert sum(pairs.values()) == 2


def test_costs_and_limits_of_kinds_decide_what_is_chosen(engine: str) -> None:
    columns: list[Column] = [(0, (0, 0)), (1, (0,))]

    def cost(limits: list[int | None]) -> float:
        found = choose(columns, [3.0, 1.0], counts(4), limits, time_limit_s=10, seed=0)
        assert found is not None
        assert covers(found, counts(4), limits)
        return sum([3.0, 1.0][kind] * number for (kind, _), number in found.items())

    assert cost([None, None]) == 4.0
    assert cost([None, 3]) == 5.0
    assert cost([None, 0]) == 6.0


def test_a_choice_that_is_good_enough_covers_everything(engine: str) -> None:
    found = choose(PACKING, ONES, counts(9, 9, 18), [None], time_limit_s=10, seed=0, enough=15.0)

    assert found is not None
    assert covers(found, counts(9, 9, 18), [None])
    assert sum(found.values()) == 15


def test_nothing_to_place_needs_nothing() -> None:
    assert choose(PACKING, ONES, counts(0, 0, 0), [None], time_limit_s=1, seed=0) == {}


def test_what_covers_is_told_from_what_does_not() -> None:
    chosen = {(0, (0, 0)): 2, (1, (1,)): 1}
    assert covers(chosen, counts(4, 1), [2, 1])
    assert covers(chosen, counts(3, 1), [None, None])
    assert not covers(chosen, counts(5, 1), [None, None])
    assert not covers(chosen, counts(4, 2), [None, None])
    assert not covers(chosen, counts(4, 1), [1, None])


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_program_has_the_same_answer(engine: str, seed: int) -> None:
    wanted = counts(5, 6, 11)
    first, second = (relax(PACKING, ONES, wanted, [None], seed=seed) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.times.tolist() == second.times.tolist()
    assert first.prices.tolist() == second.prices.tolist()
    chosen = [choose(PACKING, ONES, wanted, [None], time_limit_s=9, seed=seed) for _ in range(2)]
    assert chosen[0] == chosen[1]


def test_both_engines_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    columns: list[Column] = [(0, (index,)) for index in range(6)]
    columns += [(0, tuple(sorted(rng.integers(0, 6, size=3).tolist()))) for _ in range(12)]
    costs = rng.uniform(1, 2, size=len(columns)).tolist()
    wanted = counts(*rng.integers(1, 9, size=6).tolist())

    def values() -> tuple[float, float]:
        relaxed = relax(columns, costs, wanted, [None], seed=0)
        chosen = choose(columns, costs, wanted, [None], time_limit_s=20, seed=0)
        assert relaxed is not None
        assert chosen is not None
        number = dict(zip(columns, costs, strict=True))
        return relaxed.value, math.fsum(number[column] * n for column, n in chosen.items())

    by_highs = values()
    monkeypatch.setattr(pulp.HiGHS, "available", lambda self: False)
    assert values() == pytest.approx(by_highs)


def test_highs_failing_is_made_up_for_by_cbc(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *arguments: Any, **options: Any) -> None:
        raise pulp.PulpSolverError("broken")

    monkeypatch.setattr(pulp.HiGHS, "actualSolve", fail)
    found = relax(PAIRS, [1.0] * 3, counts(1, 1, 1), [None], seed=0)
    assert found is not None
    assert found.value == pytest.approx(1.5)


def test_without_any_engine_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulp.HiGHS, "available", lambda self: False)
    monkeypatch.setattr(pulp.PULP_CBC_CMD, "available", lambda self: False)
    with pytest.raises(OutsideFailure, match="HiGHS is not available; CBC is not available"):
        relax(PAIRS, [1.0] * 3, counts(1, 1, 1), [None], seed=0)
