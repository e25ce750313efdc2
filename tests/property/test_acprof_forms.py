"""Forms of the model acprof: monotone where they promise it, whatever their parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igniter_prof.dataset.acprof import formats
from igniter_prof.fitting.acprof.forms import NAMES, Form, forms_of

SIZES, CORES = (10.0, 30.0, 100.0, 300.0), (1.0, 2.0, 4.0)
GRID = {
    "size": np.repeat(SIZES, len(CORES)),
    "cpu_cores": np.tile(CORES, len(SIZES)),
}
MONOTONE = sorted(set(NAMES) - {"levels", "curves", "cut-curves"})


def _form(name: str) -> Form:
    return next(one for one in forms_of(GRID, ("size", "cpu_cores")) if one.name == name)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_costs_are_finite_and_rise_with_the_input(name: str, data: st.DataObject) -> None:
    form = _form(name)
    low, high = form.bounds()
    theta = np.array(
        [
            data.draw(st.floats(max(a, -8.0), min(b, 8.0)))
            for a, b in zip(low.tolist(), high.tolist(), strict=True)
        ]
    )
    sizes = np.geomspace(10, 300, 7)
    for cores in (1.0, 1.5, 3.0, 4.0):
        cost = form.log_cost(theta, {"size": sizes, "cpu_cores": np.full(7, cores)})
        assert np.isfinite(cost).all()
        assert (np.diff(cost) >= -1e-9).all()
    if name in MONOTONE:
        cores_ = np.geomspace(1, 4, 7)
        for size in (10.0, 77.0, 300.0):
            cost = form.log_cost(theta, {"size": np.full(7, size), "cpu_cores": cores_})
            assert (np.diff(cost) <= 1e-9).all()


@given(st.integers(0, 2**50))
def test_a_volume_is_read_back(size: int) -> None:
    shown = [f"{size / 2**20:.{digits}f} MB" for digits in range(21)]
    assert size in [formats.volume_bytes(text) for text in shown]


@given(
    gpu=st.booleans(),
    cpu=st.none() | st.integers(1, 256),
    memory=st.none() | st.sampled_from([0.5, 2, 16, 128]),
)
def test_columns_of_containers(gpu: bool, cpu: int | None, memory: float | None) -> None:
    parts = ["GPU"] if gpu else []
    parts += [f"CPU{cpu}"] if cpu is not None else []
    parts += [f"Mem{memory:g}"] if memory is not None else []
    found = formats.container_of("+".join(parts))
    if not parts:
        assert found is None
    else:
        assert found == formats.Container(gpu, cpu, memory)
