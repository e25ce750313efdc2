"""Power of a device and its clock from the tenants on it; docs/energy-model.md has the equations.

A tenant alone adds ``base + (batch_energy + item_energy · batch) / active_ms`` to the idle power:
iGniter's line in batch over active time (TPDS 2023, section III), and the energy that a batch takes
whatever its size. A mix adds what its tenants add, the idle power is there once. Beyond the power
limit the device lowers its clock and stays at the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from igniter_prof.fitting.model import require
from igniter_prof.fitting.non_negative import fit_non_negative, non_negative
from igniter_prof.fitting.points import BoolArray, FloatArray, Observations, Points
from igniter_prof.records import DevicePower, Parameter, Record

PER_MODEL = ("power_base_w", "batch_energy_mj", "item_energy_mj")
"""Fitted parameters of a model: W, mJ of a batch, mJ of an inference; all >= 0."""

TRANSFER = "transfer_ms"
"""Further parameter of a model, not fitted: the time that an inference's bytes are on their way."""

SHARED = (
    "idle_power_w",
    "power_limit_w",
    "held_power_w",
    "max_clock_mhz",
    "clock_drop_mhz_per_w",
)
"""Parameters of the device; those that are not known are not there.

``held_power_w`` is what a device that the limit slows draws in the mean: a little less than it.
"""

LOWEST_CLOCK = 0.3
"""Part of its highest clock below which no power limit slows a device."""

_AT_FULL_CLOCK = 0.99
_CLEARLY_BELOW_LIMIT = 0.9
_BELOW_LIMIT = 0.98
SCALE_EXPONENT = 2.0
"""Work on a picture grows with its area, as in the latency model."""
_RIDGE = (1e-6, 1e-6, 1e-9)
"""Weight against each parameter: what the cells cannot tell apart goes to the energy of an item."""
_IDLE_GRID = 200
_CLOCK_ROUNDS = 4
_UNSURE_W = 10.0
"""Error of a demand beyond the limit, which is extrapolated."""
_LEAST_ACTIVE = 0.1
"""Part of a batch's latency alone that is no transfer, at least."""


@dataclass(frozen=True)
class PowerModel:
    """Fitted power of a device.

    Where the power of a model was never measured, its rise is NaN, and so is what follows from it
    but the clock, which then is the highest.
    """

    models: tuple[str, ...]
    shared: Mapping[str, Parameter]
    parameters: Mapping[str, Mapping[str, Parameter]]
    """By model; without those whose power was never measured."""

    @property
    def idle_w(self) -> float:
        """Power of the device with nobody on it."""
        return self.shared["idle_power_w"].value

    @property
    def limit_w(self) -> float:
        """Power limit; infinite if it is not known."""
        return self.shared["power_limit_w"].value if "power_limit_w" in self.shared else np.inf

    @property
    def held_w(self) -> float:
        """Power of a device that the limit slows."""
        held = self.shared.get("held_power_w")
        return self.limit_w if held is None else min(held.value, self.limit_w)

    @property
    def max_clock_mhz(self) -> float:
        """Clock below the limit; NaN if no clock was measured."""
        return self.shared["max_clock_mhz"].value if "max_clock_mhz" in self.shared else np.nan

    def rise_w(self, x: Points, alone_ms: FloatArray) -> FloatArray:
        """What each tenant alone adds to the idle power, W, (n_rows,), >= 0.

        ``alone_ms``: (n_rows,), its latency alone at the highest clock.
        """
        columns = _columns(x, alone_ms, self._values((TRANSFER,))[:, 0])
        return np.asarray((self._values(PER_MODEL)[x.model] * columns).sum(axis=1))

    def demand_w(self, x: Points, alone_ms: FloatArray) -> FloatArray:
        """What the row's cell would draw without a limit, W, (n_rows,): idle, and its rises."""
        return self.idle_w + x.over_cell(self.rise_w(x, alone_ms))

    def clock_ratio(self, demand_w: FloatArray) -> FloatArray:
        """Clock over the highest one, same shape, in [0.3, 1]; 1 where it is not known."""
        if "clock_drop_mhz_per_w" not in self.shared or not np.isfinite(self.limit_w):
            return np.ones_like(demand_w)
        over = np.maximum(np.nan_to_num(demand_w - self.limit_w), 0.0)
        drop = self.shared["clock_drop_mhz_per_w"].value / self.max_clock_mhz * over
        return np.maximum(1.0 - drop, LOWEST_CLOCK)

    def clock_mhz(self, demand_w: FloatArray) -> FloatArray:
        """Clock of a device whose tenants demand that much, MHz; NaN if none was measured."""
        return self.max_clock_mhz * self.clock_ratio(demand_w)

    def power_w(self, x: Points, alone_ms: FloatArray) -> FloatArray:
        """Power of the row's cell, W, (n_rows,): the demand, at most what the limit holds."""
        return np.minimum(self.demand_w(x, alone_ms), self.held_w)

    def parts_w(self, x: Points, alone_ms: FloatArray) -> FloatArray:
        """Each tenant's part of its cell's power, W, (n_rows,); they sum to ``power_w``.

        The idle power is split equally, the rest by what each tenant adds alone.
        """
        power, rise = self.power_w(x, alone_ms), self.rise_w(x, alone_ms)
        idle = np.minimum(self.idle_w, power)
        total = x.over_cell(rise)
        part = np.divide(rise, total, out=1.0 / x.tenants, where=total != 0)
        return np.asarray(idle / x.tenants + (power - idle) * part)

    def full_clock_ms(self, x: Points, alone_ms: FloatArray) -> FloatArray:
        """Latencies alone at the highest clock from those at the clock that a tenant has alone.

        Both (n_rows,). Where a tenant alone is slowed by the limit, its work takes fewer ms at the
        highest clock: the fixed point of its clock and its demand.
        """
        alone = x.alone()
        full_ms = alone_ms
        for _ in range(_CLOCK_ROUNDS):
            full_ms = alone_ms * self.clock_ratio(self.demand_w(alone, full_ms))
        return full_ms

    def document(self) -> PowerDocument:
        """Everything that ``PowerDocument.load`` needs."""
        return PowerDocument(
            shared=dict(self.shared),
            models={name: dict(found) for name, found in self.parameters.items()},
        )

    def _values(self, names: Sequence[str]) -> FloatArray:
        """(n_models, n_names); rows of NaN for models that were never measured."""
        unknown = [np.nan] * len(names)
        return np.array(
            [
                [self.parameters[m][name].value for name in names]
                if m in self.parameters
                else unknown
                for m in self.models
            ]
        ).reshape(-1, len(names))


def fit_power(data: Observations) -> PowerModel | None:
    """Fit power to a profile.

    Models are fitted to their cells alone at the highest clock, those that have none to mixes; the
    clock's fall to the cells that the limit slowed.

    Args:
        data: observations; cells without a power do not count.

    Returns:
        None if the profile holds no power.
    """
    cells = _measured_cells(data)
    if cells is None:
        return None
    unslowed = cells.unslowed()
    solo = cells.x.tenants[cells.first] == 1
    idle, idle_error = _idle(cells, data, unslowed & solo)
    parameters: dict[str, dict[str, Parameter]] = {}
    for index, name in enumerate(data.models):
        mine = unslowed & solo & (cells.x.model[cells.first] == index)
        if mine.any():
            parameters |= _fit_rises(cells.take(mine), idle, [(index, name)])
    strangers = [(i, name) for i, name in enumerate(data.models) if name not in parameters]
    if strangers:
        model = PowerModel(data.models, {}, parameters)
        known_w = model.rise_w(cells.x, cells.alone_ms)
        mixed = np.bincount(cells.x.cell, np.isnan(known_w), len(cells)) > 0
        if (mixed & unslowed).any():
            rest_w = np.full(len(cells), idle)
            np.add.at(rest_w, cells.x.cell, np.nan_to_num(known_w))
            part = mixed & unslowed
            parameters |= _fit_rises(cells.take(part), rest_w[part], strangers)
    shared = {"idle_power_w": Parameter(value=idle, std_error=idle_error)}
    if cells.limit_w is not None:
        shared["power_limit_w"] = Parameter(value=cells.limit_w)
        slowed = cells.power_w[~unslowed & np.isfinite(cells.clock_mhz)]
        if len(slowed):
            held = min(float(np.median(slowed)), cells.limit_w)
            shared["held_power_w"] = Parameter(value=held)
    if cells.max_clock_mhz is not None:
        shared["max_clock_mhz"] = Parameter(value=cells.max_clock_mhz)
    model = PowerModel(data.models, shared, parameters)
    drop = _clock_drop(cells, data, model)
    return replace(model, shared={**shared, "clock_drop_mhz_per_w": drop}) if drop else model


def measured_power(data: Observations) -> FloatArray:
    """Mean power of each row's device, W, (n_rows,); NaN where it was not measured."""
    return np.array(
        [np.nan if (p := _usable(one)) is None else p.power_mean_w for one in data.power]
    )


def _usable(power: DevicePower | None) -> DevicePower | None:
    """A power that is the device's: that of a whole card says little of its slice."""
    return power if power and power.scope == "gpu" and power.power_mean_w else None


@dataclass(frozen=True)
class _Cells:
    """Cells whose power was measured: rows as in ``Points``, cells numbered from 0."""

    x: Points
    alone_ms: FloatArray
    transfer_ms: FloatArray
    """(n_models,), of an inference."""
    power_w: FloatArray
    """(n_cells,)."""
    clock_mhz: FloatArray
    """(n_cells,), NaN if it was not measured."""
    limit_w: float | None
    max_clock_mhz: float | None

    def __len__(self) -> int:
        return len(self.power_w)

    @property
    def first(self) -> Any:
        """(n_cells,), each cell's first row."""
        return np.unique(self.x.cell, return_index=True)[1]

    def columns(self) -> FloatArray:
        """See ``_columns``."""
        return _columns(self.x, self.alone_ms, self.transfer_ms)

    def unslowed(self) -> BoolArray:
        """(n_cells,): the power limit did not slow it."""
        limit = np.inf if self.limit_w is None else self.limit_w
        full = np.nan if self.max_clock_mhz is None else self.max_clock_mhz
        # at the limit a clock that hardly fell hides a demand beyond it
        below = self.power_w < _BELOW_LIMIT * limit
        at_full = np.isnan(self.clock_mhz) | (self.clock_mhz >= _AT_FULL_CLOCK * full)
        return np.asarray((below & at_full) | (self.power_w < _CLEARLY_BELOW_LIMIT * limit))

    def take(self, cells: BoolArray) -> _Cells:
        """The cells where a mask (n_cells,) is true."""
        rows = np.flatnonzero(cells[self.x.cell])
        number = np.cumsum(cells, dtype=np.int64) - 1
        kept = self.x.take(rows)
        kept = replace(kept, cell=number[kept.cell])
        return replace(
            self,
            x=kept,
            alone_ms=self.alone_ms[rows],
            power_w=self.power_w[cells],
            clock_mhz=self.clock_mhz[cells],
        )


def _measured_cells(data: Observations) -> _Cells | None:
    known = [_usable(p) for p in data.power]
    rows = np.flatnonzero([p is not None for p in known])
    if not len(rows):
        return None
    x = data.points.take(rows)
    _, first, cell = np.unique(x.cell, return_index=True, return_inverse=True)
    x = replace(x, cell=cell.reshape(-1))
    powers = [known[rows[i]] for i in first]
    power = np.array([p.power_mean_w for p in powers if p is not None], dtype=np.float64)
    clock = np.array(
        [p.sm_clock_mean_mhz if p.sm_clock_mean_mhz else np.nan for p in powers if p is not None]
    )
    limits = [p.power_limit_w for p in powers if p is not None and p.power_limit_w]
    limit = float(np.median(limits)) if limits else None
    full = float(np.nanmax(clock)) if np.isfinite(clock).any() else None
    if data.igniter is not None:
        limit = limit or data.igniter.hardware.power_limit_w
        full = max(full or 0.0, data.igniter.hardware.max_clock_mhz)
    return _Cells(x, _alone_ms(data, full)[rows], _transfers(data), power, clock, limit, full)


def _alone_ms(data: Observations, full: float | None) -> FloatArray:
    """Latency of each row alone at the highest clock, (n_rows,).

    As measured where it was; else a quadratic in the logarithms of batch and share over the
    model's cells alone; of a model that was never alone, what was measured.
    """
    x = data.points
    clock = np.array([np.nan if p is None else p.sm_clock_mean_mhz or np.nan for p in data.power])
    slowed = np.ones(len(x)) if full is None else np.nan_to_num(clock / full, nan=1.0)
    at_full = data.latency_ms * np.minimum(slowed, 1.0)
    result = at_full.copy()
    keys = np.stack([x.model, x.batch, x.share, x.scale, x.instances], axis=1)
    solo = x.tenants == 1
    found: dict[bytes, list[float]] = {}
    for key, value in zip(keys[solo], at_full[solo], strict=True):
        found.setdefault(key.tobytes(), []).append(float(value))
    b, r, s, i = (np.log(v) for v in (x.batch, x.share, x.scale, x.instances))
    terms = np.stack([np.ones(len(x)), b, r, b * b, b * r, r * r, s, i], axis=1)
    for index in range(len(data.models)):
        mine = x.model == index
        known = mine & solo
        if known.any():
            a, y = terms[known], np.log(at_full[known])
            level = float(y.mean())
            ridge = 1e-3 * np.eye(a.shape[1])
            weights = np.linalg.solve(a.T @ a + ridge, a.T @ (y - level))
            result[mine] = np.exp(level + terms[mine] @ weights)
    for row, key in enumerate(keys):
        if (values := found.get(key.tobytes())) is not None:
            result[row] = np.median(values)
    return result


def _idle(cells: _Cells, data: Observations, alone: BoolArray) -> tuple[float, float | None]:
    """Power of the idle device and its standard error, from the first source that has it."""
    for name in ("bare_idle_w", "context_idle_w"):
        read = {data.cell_id[i]: getattr(p, name) for i, p in enumerate(data.power) if p}
        values = np.array([v for v in read.values() if v is not None and v > 0])
        if len(values):
            error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
            return float(np.median(values)), error
    if data.igniter is not None and data.igniter.hardware.idle_power_w > 0:
        return data.igniter.hardware.idle_power_w, None
    part = cells.take(alone) if alone.any() else cells
    grid = np.linspace(0.0, float(part.power_w.min()), _IDLE_GRID, endpoint=False)
    return float(grid[int(np.argmin([_cost(part, idle) for idle in grid]))]), None


def _cost(cells: _Cells, idle: float) -> float:
    """Relative errors, summed, of energies alone on top of an idle power."""
    total, ridge = 0.0, np.array(_RIDGE)
    solo = cells.x.tenants[cells.first] == 1
    for index in np.unique(cells.x.model):
        mine = solo & (cells.x.model[cells.first] == index)
        part = cells.take(mine)
        a = part.columns() / part.power_w[:, np.newaxis]
        a[:, 0] = 0.0  # a base is not told from the idle power
        y = 1.0 - idle / part.power_w
        total += float(np.abs(a @ non_negative(a, y, ridge) - y).sum())
    return total


def _fit_rises(
    cells: _Cells, rest_w: float | FloatArray, wanted: Sequence[tuple[int, str]]
) -> dict[str, dict[str, Parameter]]:
    """Parameters of the wanted models (index, name); those that are in no cell are left out.

    ``rest_w``: what of each cell's power is not theirs.
    """
    wanted = [(index, name) for index, name in wanted if (cells.x.model == index).any()]
    columns = cells.columns()
    design = np.zeros((len(cells), len(wanted), len(PER_MODEL)))
    for at, (index, _) in enumerate(wanted):
        rows = cells.x.model == index
        np.add.at(design[:, at], cells.x.cell[rows], columns[rows])
    # relative to what was measured: a board's sensor errs by percents
    a = design.reshape(len(cells), -1) / cells.power_w[:, np.newaxis]
    y = 1.0 - rest_w / cells.power_w
    value, errors = fit_non_negative(a, y, np.tile(_RIDGE, len(wanted)))
    shape = (len(wanted), len(PER_MODEL))
    return {
        name: {
            term: Parameter(value=float(v), std_error=float(e) if np.isfinite(e) else None)
            for term, v, e in zip(PER_MODEL, found, off, strict=True)
        }
        | {TRANSFER: Parameter(value=float(cells.transfer_ms[index]))}
        for (index, name), found, off in zip(
            wanted, value.reshape(shape), errors.reshape(shape), strict=True
        )
    }


def _clock_drop(cells: _Cells, data: Observations, model: PowerModel) -> Parameter | None:
    """MHz that the clock falls for each W of demand over the limit; None if nothing says it.

    iGniter's estimate, a line through the origin, over every cell beyond the limit and over its
    hardware curve, whose demand it extrapolates from one and three tenants.
    """
    if cells.limit_w is None or cells.max_clock_mhz is None:
        return None
    demand = model.demand_w(cells.x, cells.alone_ms)[cells.first]
    over = [demand - cells.limit_w]
    fall = [cells.max_clock_mhz - cells.clock_mhz]
    if data.igniter is not None:
        hardware = data.igniter.hardware
        one, _, three = hardware.power_w[:3]
        ahead = three + (three - one) / 2.0 * np.arange(1, len(hardware.power_w) - 2)
        over.append(ahead - cells.limit_w)
        fall.append(cells.max_clock_mhz - np.array(hardware.clock_mhz[3:]))
    x, y = np.concatenate(over), np.concatenate(fall)
    usable = np.isfinite(x) & np.isfinite(y) & (x > 0)
    x, y = x[usable], np.maximum(y[usable], 0.0)
    if not len(x):
        return None
    # dynamic power grows about with the cube of the clock, voltage following it: that holds the
    # slope where demand was never far over the limit, and so mostly the error of the demand
    usual = cells.max_clock_mhz / (3.0 * cells.limit_w)
    held = _UNSURE_W**2
    slope = float(((x * y).sum() + held * usual) / ((x * x).sum() + held))
    variance = float(((y - slope * x) ** 2).sum()) / (len(x) - 1) if len(x) > 1 else None
    error = None if variance is None else float(np.sqrt(variance / (x * x).sum()))
    return Parameter(value=slope, std_error=error)


def _transfers(data: Observations) -> FloatArray:
    """Time that an inference's bytes are on their way to the device and back, ms, (n_models,).

    0 where iGniter's lightweight profile does not tell.
    """
    result = np.zeros(len(data.models))
    if data.igniter is not None:
        for index, name in enumerate(data.models):
            if (found := data.igniter.models.get(name)) is not None:
                moved = found.input_bytes + found.output_bytes
                result[index] = moved / data.igniter.hardware.bytes_per_ms
    return result


def _columns(x: Points, alone_ms: FloatArray, transfer_ms: FloatArray) -> FloatArray:
    """What the parameters of PER_MODEL are multiplied with, (n_rows, 3)."""
    work = x.batch * x.scale**SCALE_EXPONENT
    # loading and returning overlap with the next batch's computing in a server that is kept busy
    active_ms = np.maximum(alone_ms - transfer_ms[x.model] * work, _LEAST_ACTIVE * alone_ms)
    return np.stack([np.ones(len(x)), 1.0 / active_ms, work / active_ms], axis=1)


class PowerDocument(Record):
    """A power model in a coefficients file, its parameters by name."""

    shared: dict[str, Parameter]
    models: dict[str, dict[str, Parameter]]

    def load(self, models: Sequence[str]) -> PowerModel:
        """The power model, for models in the order of the rows' indices.

        Raises:
            BadInput: a parameter is missing, negative, or none of them.
        """
        needed: tuple[str, ...] = ("idle_power_w",)
        if "clock_drop_mhz_per_w" in self.shared:
            needed += ("max_clock_mhz", "power_limit_w")
        require(self.shared, needed, "extra.power", known=SHARED)
        for found in self.models.values():
            known = (*PER_MODEL, TRANSFER)
            require(found, known, "extra.power", known=known)
        return PowerModel(tuple(models), self.shared, self.models)
