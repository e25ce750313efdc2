"""Whose energy was it? An estimate for tenants that share a GPU; the parts sum to the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from igniter_prof.monitors.contract import Counted
from igniter_prof.monitors.power.energy import Energy
from igniter_prof.monitors.power.trace import LIVE, TraceInfo
from igniter_prof.records import Tenant, TenantEnergy
from igniter_prof.units import NS_PER_S

MIN_WINDOW_S: Final = 5.0
MIN_INFERENCES: Final = 100
"""For an energy per inference: counters move in steps, and sensors may look part of the time."""


def on_gpu(tenant: Tenant) -> bool:
    """Whether a tenant of a GPU's cell was given the GPU."""
    return tenant.gpu is not False


def busy_s(requests: NDArray[np.void], start_ns: int, end_ns: int) -> float:
    """For how long of a window a tenant had at least one request in flight.

    Args:
        requests: (n,) of REQUEST_DTYPE, of all phases, in any order.
        start_ns: beginning of the window.
        end_ns: its end.
    """
    order = np.argsort(requests["sent_ns"], kind="stable")
    sent = np.clip(requests["sent_ns"][order], start_ns, end_ns)
    done = np.clip(requests["done_ns"][order], start_ns, end_ns)
    if len(sent) == 0:
        return 0.0
    reached = np.maximum.accumulate(done)
    # of each request, what is not covered by those sent before it
    covered = np.concatenate([sent[:1], reached[:-1]])
    return float(np.maximum(reached - np.maximum(sent, covered), 0).sum()) / NS_PER_S


def split_energy(
    total_j: float, idle_j: float | None, weights: Sequence[float]
) -> tuple[float, ...]:
    """Split an energy: the idle part evenly, the rest by weight.

    Args:
        total_j: what was measured.
        idle_j: what the device would have used with its tenants idle; at most the total counts.
        weights: of each tenant, not negative; all zero: evenly.

    Returns:
        A part for each; they sum to the total (to the last bit of rounding).
    """
    count = len(weights)
    idle = min(max(idle_j or 0.0, 0.0), total_j)
    together = math.fsum(weights)
    parts = [
        idle / count + (total_j - idle) * (weight / together if together > 0 else 1 / count)
        for weight in weights
    ]
    largest = parts.index(max(parts))
    parts[largest] = total_j - math.fsum(parts[:largest] + parts[largest + 1 :])
    return tuple(parts)


def weights_of(
    busy: Sequence[float], shares_pct: Sequence[float | None]
) -> tuple[tuple[float, ...], str]:
    """What the active energy is split by, and its name: busy time, times the share if all have one.

    The share stands for the part of the SMs that is at work while a tenant is busy: power rises
    with it, though not in proportion. What kind of work it is (memory or arithmetic) is not known
    from outside, so this is an estimate.
    """
    shares = [share for share in shares_pct if share is not None]
    if len(shares) == len(busy):
        return tuple(b * s for b, s in zip(busy, shares, strict=True)), "busy time x share"
    return tuple(busy), "busy time"


def method_name(count: int, baseline: str | None, split_by: str) -> str:
    """The name of the method by which the energy was split.

    Args:
        count: of tenants.
        baseline: which idle power was split evenly; None: none was known.
        split_by: what the rest was split by.
    """
    if count == 1:
        return "only tenant: all of the device's energy"
    if baseline is None:
        return f"estimate: all by {split_by} (idle power not known)"
    return f"estimate: {baseline} evenly, the rest by {split_by}"


def tenant_energies(
    energy: Energy, info: TraceInfo, window: Counted, tenants: Sequence[Tenant]
) -> tuple[TenantEnergy | None, ...]:
    """Each tenant's estimated part of the energy of a window; None: it was not given the GPU.

    Args:
        energy: of the device.
        info: its baselines, and where the samples came from.
        window: the counted window, with each tenant's requests.
        tenants: of the cell; one at least with the GPU.
    """
    window_s = (window.end_ns - window.start_ns) / NS_PER_S
    idle_w, baseline = info.context_idle_w, "idle power with contexts"
    if idle_w is None:
        idle_w, baseline = info.bare_idle_w, "bare idle power"
    users = [index for index, tenant in enumerate(tenants) if on_gpu(tenant)]
    busy = [busy_s(window.requests[k], window.start_ns, window.end_ns) for k in users]
    weights, split_by = weights_of(busy, [tenants[k].share_pct for k in users])
    parts = split_energy(energy.joules, None if idle_w is None else idle_w * window_s, weights)
    method = method_name(len(parts), None if idle_w is None else baseline, split_by)
    if info.source != LIVE:
        method = f"{info.source}: {method}"
    found = {
        k: TenantEnergy(
            energy_j=part,
            per_inference_j=per_inference(Energy(part, 0.0), window.inferences[k], window_s)[0],
            method=method,
        )
        for k, part in zip(users, parts, strict=True)
    }
    return tuple(found.get(k) for k in range(len(tenants)))


def per_inference(
    energy: Energy | None, inferences: int, window_s: float
) -> tuple[float | None, str]:
    """Gross energy of an inference, and over what it was taken or why it was not."""
    if energy is None:
        return None, "no energy per inference: no energy"
    if window_s < MIN_WINDOW_S:
        return None, (
            f"no energy per inference: the window lasts {window_s:.2g} s, the least is"
            f" {MIN_WINDOW_S:g} s (stopping.min_s)"
        )
    if inferences < MIN_INFERENCES:
        return None, (
            f"no energy per inference: {inferences} inferences, {MIN_INFERENCES} are the least"
        )
    return energy.joules / inferences, (
        f"energy per inference: gross, idle power included, over {inferences} inferences in"
        f" {window_s:.3g} s"
    )
