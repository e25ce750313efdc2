"""The latency models that know shares and neighbours, by name."""

from __future__ import annotations

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.fitting.gpulets import GpuletsModel
from igniter_prof.fitting.igniter import IgniterLatency
from igniter_prof.fitting.interference.model import IgprofModel
from igniter_prof.fitting.model import LatencyModel
from igniter_prof.fitting.physics.model import PhysicsModel

MODELS: dict[str, LatencyModel] = {
    model.name: model
    for model in (
        IgprofModel(),
        IgniterLatency(),
        GpuletsModel(),
        PhysicsModel("none", interference=False),
    )
}


def latency_model(name: str) -> LatencyModel:
    """A latency model by name. Raises BadInput for an unknown one."""
    if name not in MODELS:
        raise BadInput(f"no latency model is called '{name}'", hint=did_you_mean(name, MODELS))
    return MODELS[name]
