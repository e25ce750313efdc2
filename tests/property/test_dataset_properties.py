from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from igniter_prof.dataset import cellfile
from igniter_prof.dataset.comparing import _discoveries
from igniter_prof.dataset.points import point_of
from igniter_prof.errors import BadInput
from igniter_prof.records import REQUEST_DTYPE, Tenant
from tests.dataset_samples import cell, sample


@cache
def stored() -> tuple[str, bytes]:
    measurement, requests = sample(count=30)
    return measurement.cell_id, cellfile.encode(measurement, requests)


@settings(deadline=None)
@given(arrays(REQUEST_DTYPE, st.integers(0, 40)))
def test_any_requests_come_back(rows: np.ndarray) -> None:
    measurement, _ = sample(count=12)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{measurement.cell_id}.zip"
        path.write_bytes(cellfile.encode(measurement, [rows]))
        read, requests = cellfile.read_requests(path)
    assert read == measurement
    np.testing.assert_array_equal(requests[0], rows)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_detected_or_does_no_harm(data: st.DataObject) -> None:
    name, whole = stored()
    position = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    if data.draw(st.booleans()):
        damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del damaged[position:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.zip"
        path.write_bytes(damaged)
        try:
            measurement, requests = cellfile.read_requests(path)
        except BadInput:
            return
    expected, rows = sample(count=30)
    assert measurement == expected
    np.testing.assert_array_equal(requests[0], rows[0])


TENANTS = st.builds(
    Tenant,
    model=st.sampled_from(["mlp", "vgg19"]),
    batch_size=st.integers(1, 4),
    share_pct=st.sampled_from([25.0, 50.0]),
)


@given(st.lists(TENANTS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_point_does_not_depend_on_the_order_of_its_tenants(
    tenants: list[Tenant], random: object
) -> None:
    shuffled = list(tenants)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert point_of(cell(*tenants)) == point_of(cell(*shuffled, repeat=2, baseline=True))


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40), st.floats(0.001, 0.5))
def test_discoveries_are_the_smallest_p_values(p_values: list[float | None], alpha: float) -> None:
    found = _discoveries(p_values, alpha)
    known = [p for p in p_values if p is not None]
    chosen = [p for p, yes in zip(p_values, found, strict=True) if yes and p is not None]
    left = [p for p, yes in zip(p_values, found, strict=True) if not yes and p is not None]
    assert all(p <= alpha for p in chosen)
    assert not chosen or not left or max(chosen) <= min(left)
    # at least what Bonferroni finds
    assert len(chosen) >= sum(p <= alpha / len(known) for p in known)
