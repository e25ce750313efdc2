"""What a plan costs, as a user writes it: ``devices``, ``price``, ``power``, or a sum of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from igniter_prof.errors import BadInput, did_you_mean
from igniter_prof.provisioning.interface import Predictor
from igniter_prof.records import Objective, PlanDeviceType

TERMS = tuple(Objective.model_fields)
_GRAMMAR = "such as price, or devices+0.01*power"


def parse_objective(text: str) -> Objective:
    """An objective from a sum of terms, each ``NAME`` or ``WEIGHT*NAME``.

    Raises:
        BadInput: an unknown or repeated name, or a weight that is no number, below 0, or the only
            one and 0.
    """
    weights: dict[str, float] = {}
    for term in text.split("+"):
        weight, times, name = term.rpartition("*")
        name = name.strip()
        if name not in TERMS:
            # a weight behind its name is told apart from a name that there is not
            swapped = weight.strip() in TERMS
            hint = f"write {name}*{weight.strip()}" if swapped else did_you_mean(name, TERMS)
            raise BadInput(f"objective '{text}': there is no '{name}' to minimise", hint=hint)
        if name in weights:
            raise BadInput(f"objective '{text}': {name} stands there twice", hint=_GRAMMAR)
        try:
            weights[name] = float(weight) if times else 1.0
        except ValueError:
            raise BadInput(
                f"objective '{text}': the weight '{weight.strip()}' is no number", hint=_GRAMMAR
            ) from None
        if not 0 <= weights[name] < math.inf:
            raise BadInput(
                f"objective '{text}': the weight of {name} must be 0 or more", hint=_GRAMMAR
            )
    if not any(weights.values()):
        raise BadInput(f"objective '{text}': every plan would cost 0", hint=_GRAMMAR)
    return Objective(**{name: weights.get(name, 0.0) for name in TERMS})


def objective_text(objective: Objective) -> str:
    """An objective as ``parse_objective`` reads it."""
    weights = [(name, getattr(objective, name)) for name in TERMS]
    return "+".join(
        name if weight == 1 else f"{weight!r}*{name}" for name, weight in weights if weight
    )


def cost_text(objective: Objective, cost: float) -> str:
    """A cost with its unit, where it has one."""
    units = {
        "devices": "device" if cost == 1 else "devices",
        "price": "per hour",
        "power": "W",
    }
    unit = units.get(objective_text(objective))
    return f"{cost:.6g} {unit}" if unit else f"{cost:.6g} ({objective_text(objective)})"


def refuse_unknown_costs(
    objective: Objective,
    records: Sequence[PlanDeviceType],
    predictors: Mapping[str, Predictor],
    where: str | None = None,
) -> None:
    """Raise if an objective or a limit needs what nobody said of a device type.

    Args:
        objective: to minimise.
        records: device types.
        predictors: by the names of the device types.
        where: file of the device types, for messages.

    Raises:
        BadInput: a price or a power is needed that is not known; names the device type.
    """
    for record in records:
        if objective.price and record.price_per_hour is None:
            raise BadInput(
                f"device type '{record.name}' has no price_per_hour, which the objective needs",
                where=where,
                hint="add it, or give a --devices file that has it"
                if where is None
                else "add 'price_per_hour:' to it",
            )
        wanting = (
            "the objective"
            if objective.power
            else "its power_limit_w"
            if record.power_limit_w is not None
            else None
        )
        if wanting is not None and predictors[record.name].resources.power is None:
            raise BadInput(
                f"device type '{record.name}': its coefficients say nothing of power, which"
                f" {wanting} needs",
                where=where,
                hint="profile with a monitor of power (igprof doctor), and fit again",
            )
