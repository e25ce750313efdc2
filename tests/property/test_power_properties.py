from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from igniter_prof.monitors.power.energy import (
    counter_energy,
    covered,
    known,
    longest_gap_ns,
    power_energy,
    update_period_ns,
    updates,
)
from igniter_prof.monitors.power.split import busy_s, split_energy, weights_of
from igniter_prof.monitors.rapl import unwrapped_uj
from igniter_prof.records import REQUEST_DTYPE
from tests.nvml_fakes import S, sampled

WATTS = st.floats(20, 700)
UPDATE_S = st.floats(0.02, 0.25)
EVERY_S = st.floats(0.005, 0.02)
# levels that last for several updates each: the highest power is then seen by a whole step
LEVELS = st.lists(WATTS, min_size=2, max_size=6)


def _steps(levels: list[float], seconds: float) -> Callable[[float], float]:
    length = seconds / len(levels)
    return lambda t: levels[min(max(int(t / length), 0), len(levels) - 1)]


def _true_j(levels: list[float], seconds: float, start_s: float, end_s: float) -> float:
    length = seconds / len(levels)
    return sum(
        watts * max(0.0, min(end_s, (k + 1) * length) - max(start_s, k * length))
        for k, watts in enumerate(levels)
    )


@settings(deadline=None)
@given(LEVELS, UPDATE_S, EVERY_S, st.floats(0, 1), st.floats(0.2, 0.5), st.floats(0.55, 0.9))
def test_counter_energy_is_within_what_it_says(
    levels: list[float], update_s: float, every_s: float, phase: float, start: float, end: float
) -> None:
    seconds = 4.0
    trace = sampled(
        _steps(levels, seconds),
        seconds=seconds,
        update_s=update_s,
        every_s=every_s,
        phase_s=phase * update_s,
    )
    at_ns, joules = known(trace["at_ns"], trace["energy_j"])
    begin, finish = 10 * S + int(start * seconds * S), 10 * S + int(end * seconds * S)
    energy = counter_energy(at_ns, joules, begin, finish)
    assert energy is not None
    true_j = _true_j(levels, seconds, start * seconds, end * seconds)
    assert abs(energy.joules - true_j) <= energy.ends_j + 0.01 * true_j
    # and what it says is of use: a few updates at full power at most
    assert energy.ends_j <= 2 * max(levels) * 1.6 * (update_s + 2 * every_s)


@settings(deadline=None)
@given(LEVELS, UPDATE_S, EVERY_S, st.floats(0, 1), st.floats(0.2, 0.5), st.floats(0.55, 0.9))
def test_the_integral_errs_by_an_update_and_a_sample_at_each_step_of_power(
    levels: list[float], update_s: float, every_s: float, phase: float, start: float, end: float
) -> None:
    seconds = 4.0
    trace = sampled(
        _steps(levels, seconds),
        seconds=seconds,
        update_s=update_s,
        every_s=every_s,
        phase_s=phase * update_s,
    )
    begin, finish = 10 * S + int(start * seconds * S), 10 * S + int(end * seconds * S)
    # readings in milliwatts are never quite the same twice: so the updates can be seen
    update = np.floor((np.arange(len(trace)) * every_s - phase * update_s) / update_s + 1e-9)
    watts = trace["power_w"] + 0.001 * (update % 2)
    energy = power_energy(trace["at_ns"], watts, begin, finish)
    assert energy is not None
    true_j = _true_j(levels, seconds, start * seconds, end * seconds)
    variation_w = sum(abs(b - a) for a, b in pairwise(levels))
    assert abs(energy.joules - true_j) <= variation_w * (1.5 * update_s + 2 * every_s) + 0.005


@settings(deadline=None)
@given(WATTS, UPDATE_S, EVERY_S)
def test_a_constant_power_is_exact(watts: float, update_s: float, every_s: float) -> None:
    trace = sampled(lambda t: watts, seconds=2.0, update_s=update_s, every_s=every_s)
    begin, finish = int(10.3 * S), int(11.2 * S)
    energy = power_energy(trace["at_ns"], trace["power_w"], begin, finish)
    counter = counter_energy(trace["at_ns"], trace["energy_j"], begin, finish)
    assert energy is not None
    assert energy.joules == pytest.approx(watts * 0.9, rel=1e-9)
    assert energy.ends_j == pytest.approx(0, abs=1e-9)
    assert counter is not None
    assert abs(counter.joules - watts * 0.9) <= counter.ends_j


@settings(deadline=None)
@given(st.floats(0.02, 0.2), st.floats(0.005, 0.02), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_the_update_period_is_found(
    update_s: float, every_s: float, phase: float, seed: int
) -> None:
    assume(update_s > 1.2 * every_s)
    noise = np.random.default_rng(seed).normal(0, 3, 2000)
    at_s = np.arange(0, 6, every_s)
    updated = np.floor((at_s + phase * update_s) / update_s).astype(int)
    values = 200 + noise[updated]
    period = update_period_ns((at_s * S).astype(np.int64), values)
    assert period is not None
    # the ends are known to a sample each
    assert abs(period / S - update_s) <= 0.02 * update_s + 2 * every_s * update_s / 5


def test_an_update_that_changes_nothing_does_not_hide_the_period() -> None:
    at_ns = np.arange(0, 6 * S, S // 50)
    values = (at_ns // (S // 10)).astype(float)
    values[(values >= 20) & (values < 23)] = 20.0  # two updates give the same
    assert update_period_ns(at_ns, values) == pytest.approx(S / 10)
    assert update_period_ns(at_ns, np.full(len(at_ns), 5.0)) is None


def test_a_long_constant_stretch_is_no_ramp() -> None:
    at_ns = np.arange(0, 10 * S, S // 50)
    watts = np.where(at_ns < 8 * S, 50.0, 300.0)
    watts[at_ns < S] = 50 + (at_ns[at_ns < S] // (S // 10)) % 2  # tells the period: 0.1 s
    energy = power_energy(at_ns, watts, 2 * S, 9 * S)
    assert energy is not None
    assert energy.joules == pytest.approx(6 * 50 + 300, abs=250 * 0.1)
    times, levels = updates(at_ns, watts)
    assert (np.diff(times) > 0).all()
    assert levels[-1] == 300


def test_a_counter_that_does_not_tell_is_none_and_not_zero() -> None:
    at_ns = np.arange(0, 2 * S, S // 50)
    still = np.full(len(at_ns), 5.0)
    falling = np.where(at_ns < S, 500.0 + at_ns / S, at_ns / S)
    rising = (at_ns // (S // 10)).astype(float)
    assert counter_energy(at_ns, still, 0, S) is None
    assert counter_energy(at_ns, falling, S // 2, 3 * S // 2) is None
    assert counter_energy(at_ns, rising, S // 2, 4 * S) is None  # far beyond the samples
    assert counter_energy(at_ns[:1], rising[:1], 0, S) is None


@settings(deadline=None)
@given(
    st.one_of(st.just(0.0), st.floats(1e-6, 1e6)),
    st.one_of(st.none(), st.floats(0, 1e6)),
    st.lists(st.floats(0, 1e4), min_size=1, max_size=8),
)
def test_parts_sum_to_the_whole(total_j: float, idle_j: float | None, weights: list[float]) -> None:
    parts = split_energy(total_j, idle_j, weights)
    assert math.fsum(parts) == pytest.approx(total_j, rel=1e-15, abs=1e-300)
    assert min(parts) >= -1e-9 * total_j
    idle = min(idle_j or 0.0, total_j) / len(weights)
    assert min(parts) >= idle * (1 - 1e-9) - 1e-9 * total_j  # everyone pays for an idle device
    if len(weights) > 1:
        order = sorted(range(len(weights)), key=lambda k: weights[k])
        assert parts[order[0]] <= parts[order[-1]] * (1 + 1e-9) + 1e-9 * total_j


def test_weights_need_all_shares() -> None:
    assert weights_of([2.0, 1.0], [50.0, 25.0]) == ((100.0, 25.0), "busy time x share")
    assert weights_of([2.0, 1.0], [50.0, None]) == ((2.0, 1.0), "busy time")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 400)), max_size=30),
    st.integers(0, 900),
    st.integers(1000, 2500),
)
def test_busy_time_is_the_union_of_requests(
    spans: list[tuple[int, int]], start: int, end: int
) -> None:
    rows = np.zeros(len(spans), REQUEST_DTYPE)
    for k, (sent, length) in enumerate(spans):
        rows["sent_ns"][k], rows["done_ns"][k] = sent, sent + length
    busy = np.zeros(3000, bool)
    for sent, length in spans:
        busy[sent : sent + length] = True
    assert busy_s(rows, start, end) == pytest.approx(busy[start:end].sum() / S, abs=1e-15)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2000), unique=True, max_size=20),
    st.integers(0, 900),
    st.integers(1000, 2000),
)
def test_the_longest_gap_counts_the_ends(at: list[int], start: int, end: int) -> None:
    at_ns = np.array(sorted(at), np.int64)
    inside = [t for t in at if start < t < end]
    edges = [start, *sorted(inside), end]
    assert longest_gap_ns(at_ns, start, end) == max(b - a for a, b in pairwise(edges))


@settings(deadline=None)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=50), st.integers(0, 999))
def test_a_counter_that_wraps_only_rises(steps: list[int], first: int) -> None:
    true = first + np.concatenate([[0], np.cumsum(steps)])
    total = unwrapped_uj(true % 1000, 1000)
    assert total is not None
    assert (total == true - first).all()


def test_a_window_is_covered_to_its_ends_and_without_a_hole() -> None:
    at_ns = np.arange(10, 20) * S // 10
    assert covered(at_ns, S, 19 * S // 10)
    assert covered(at_ns, S - S // 10, 19 * S // 10)
    assert not covered(at_ns, S // 2, 15 * S // 10)
    assert not covered(at_ns, S, 23 * S // 10)
    assert not covered(at_ns[[0, 1, 2, 3, 9]], S, 19 * S // 10)
    assert not covered(at_ns[:1], S, S)
