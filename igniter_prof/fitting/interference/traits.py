"""What a profile knows of each model besides latency: kernels, bytes, power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from igniter_prof.errors import BadInput
from igniter_prof.fitting.model import MAKE_AGAIN
from igniter_prof.fitting.points import FloatArray, Observations, Points
from igniter_prof.fitting.power import PowerDocument, PowerModel, fit_power
from igniter_prof.records import Positive, Record

USUAL_BYTES_PER_MS = 1e7
"""Of PCIe 3.0 x16 as applications see it; iGniter's value for its V100."""


@dataclass(frozen=True)
class Traits:
    """Arrays are (n_models,), NaN where nothing is known."""

    kernels: FloatArray
    item_bytes: FloatArray
    """Bytes to and from the GPU of an inference."""
    bytes_per_ms: float
    power: PowerModel | None
    """None unless the power of every model is known."""

    def transfer_ms(self, x: Points) -> FloatArray:
        """Time of a batch's bytes on the bus, (n_rows,)."""
        return np.asarray(self.item_bytes[x.model] * x.batch * x.scale**2 / self.bytes_per_ms)

    def kernel_count(self, x: Points) -> FloatArray:
        """Kernels of a batch, (n_rows,)."""
        return np.asarray(self.kernels[x.model])

    def features(self, x: Points, alone_ms: FloatArray) -> FloatArray:
        """What tells tenants apart by how they bear and press others, (n_rows, n_features).

        The rate of kernels (of batches where kernels are not counted); the power that a tenant
        adds (its share where power is not known); the rate of its bytes where these are known.
        All as the device alone sees them, so that they are comparable between models.
        """
        counted = np.isfinite(self.kernels).all()
        count = self.kernel_count(x) if counted else np.ones(len(x))
        columns = [np.log(count / alone_ms)]
        if self.power is not None:
            columns.append(self.power.rise_w(x, self.power.full_clock_ms(x, alone_ms)) / 50.0)
        else:
            columns.append(np.log(x.share))
        if np.isfinite(self.item_bytes).all():
            columns.append(10.0 * self.transfer_ms(x) / alone_ms)
        return np.stack(columns, axis=1)

    def document(self) -> TraitsDocument:
        """For the coefficients file."""
        return TraitsDocument(
            kernels=tuple(_known(v) for v in self.kernels),
            item_bytes=tuple(_known(v) for v in self.item_bytes),
            bytes_per_ms=self.bytes_per_ms,
            power=None if self.power is None else self.power.document(),
        )


class TraitsDocument(Record):
    """Traits in a coefficients file; None: not known."""

    kernels: tuple[Positive | None, ...]
    item_bytes: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None, ...]
    bytes_per_ms: Positive
    power: PowerDocument | None

    def load(self, models: Sequence[str]) -> Traits:
        """The traits of models in the order of the rows' indices.

        Raises:
            BadInput: they are of other models.
        """
        if not len(self.kernels) == len(self.item_bytes) == len(models):
            raise BadInput("extra.fitted.traits does not fit the models", hint=MAKE_AGAIN)
        power = None if self.power is None else self.power.load(models)
        if power is not None and not set(models) <= set(power.parameters):
            raise BadInput("extra.fitted.traits lacks the power of a model", hint=MAKE_AGAIN)
        return Traits(
            np.array([np.nan if v is None else v for v in self.kernels]),
            np.array([np.nan if v is None else v for v in self.item_bytes]),
            self.bytes_per_ms,
            power,
        )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def find_traits(data: Observations) -> Traits:
    """What a profile knows of its models."""
    kernels, item_bytes = np.full((2, len(data.models)), np.nan)
    for index, name in enumerate(data.models):
        counters = [t.counters for t in data.tenant if t.tenant.model == name and t.counters]
        counts = [c.kernels for c in counters if c.kernels]
        moved = [
            c.input_bytes + c.output_bytes
            for c in counters
            if c.input_bytes is not None and c.output_bytes is not None
        ]
        kernels[index] = float(np.median(counts)) if counts else np.nan
        item_bytes[index] = float(np.median(moved)) if moved else np.nan
    power = fit_power(data)
    if power is not None and set(power.parameters) != set(data.models):
        power = None
    bus = USUAL_BYTES_PER_MS if data.igniter is None else data.igniter.hardware.bytes_per_ms
    return Traits(kernels, item_bytes, bus, power)
