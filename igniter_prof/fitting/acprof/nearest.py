"""The naive peers that a fit is compared with."""

from __future__ import annotations

import numpy as np

from igniter_prof.fitting.acprof.tasks import Task
from igniter_prof.fitting.points import FloatArray


def nearest(train: Task, asked: Task) -> FloatArray:
    """The cost of the nearest measured configuration, (n_asked,): logarithms, each axis 0 to 1."""
    if not len(asked):
        return np.zeros(0)
    distance = np.zeros((len(asked), len(train)))
    for axis in train.axes:
        known, wanted = np.log(train.x[axis]), np.log(asked.x[axis])
        width = float(np.ptp(known)) or 1.0
        distance += ((wanted[:, None] - known[None, :]) / width) ** 2
    return np.asarray(train.cost[np.argmin(distance, axis=1)])


def linear(train: Task, asked: Task) -> FloatArray:
    """Linear least squares in size, 1/cores and size/cores, (n_asked,); plain, not relative."""

    def terms(task: Task) -> FloatArray:
        columns = [np.ones(len(task))]
        size, cores = task.x["size"], task.x["cpu_cores"]
        columns += [size] if "size" in train.axes else []
        columns += [1.0 / cores] if "cpu_cores" in train.axes else []
        columns += [size / cores] if {"size", "cpu_cores"} <= set(train.axes) else []
        return np.stack(columns, axis=1)

    solution = np.linalg.lstsq(terms(train), train.cost, rcond=None)[0]
    return np.asarray(terms(asked) @ solution)
