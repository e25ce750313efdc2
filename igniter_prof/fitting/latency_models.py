"""The latency models by name: each fits observations and gives parameters of the equations."""

from __future__ import annotations

from typing import Protocol

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.fitting.estimate import Estimate, estimate
from igniter_prof.fitting.points import Observations


class LatencyModel(Protocol):
    """How a latency model is fitted."""

    def __call__(self, data: Observations, seed: int) -> Estimate:
        """Fit. Raises BadInput where the data does not suffice."""
        ...


def fit_igniter(data: Observations, seed: int) -> Estimate:
    """The equations of iGniter's paper, jointly over cells alone and co-located."""
    return estimate(data, interference=True, seed=seed)


def fit_none(data: Observations, seed: int) -> Estimate:
    """The same solo terms from the cells alone; neighbours are ignored."""
    return estimate(data, interference=False, seed=seed)


MODELS: dict[str, LatencyModel] = {"igniter": fit_igniter, "none": fit_none}


def latency_model(name: str) -> LatencyModel:
    """A latency model by name. Raises BadInput for an unknown one."""
    if name not in MODELS:
        raise BadInput(f"no latency model is called '{name}'", hint=did_you_mean(name, MODELS))
    return MODELS[name]
