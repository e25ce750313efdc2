"""What the plots over input scale and size of container are drawn from. Pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

from igniter_prof.records import Load, Measurement, Tenant, TenantMeasurement
from igniter_prof.reporting.derived import load_text, variant

MIB_PER_GIB = 1024
PowerOf = Literal["device", "host"]
OF: tuple[PowerOf, ...] = ("device", "host")


class Size(NamedTuple):
    """The size of a container; None: no cap, or not said."""

    gpu: bool | None
    cpu_cores: float | None
    memory_mib: float | None

    @property
    def text(self) -> str:
        """The size in a few words: ``4 cores, 8 GiB, GPU``."""
        parts = []
        if self.cpu_cores is not None:
            parts.append(f"{self.cpu_cores:g} " + ("core" if self.cpu_cores == 1 else "cores"))
        if self.memory_mib is not None:
            parts.append(memory_text(self.memory_mib))
        if self.gpu is not None:
            parts.append("GPU" if self.gpu else "no GPU")
        return ", ".join(parts) or "no caps"

    @property
    def order(self) -> tuple[bool, float, float]:
        """Small before large, and with a GPU last."""
        none = float("inf")
        return (
            bool(self.gpu),
            none if self.cpu_cores is None else self.cpu_cores,
            none if self.memory_mib is None else self.memory_mib,
        )


def memory_text(memory_mib: float) -> str:
    """An amount of memory: ``512 MiB``, ``8 GiB``."""
    if memory_mib < MIB_PER_GIB:
        return f"{memory_mib:g} MiB"
    return f"{memory_mib / MIB_PER_GIB:.3g} GiB"


@dataclass(frozen=True)
class ScalePoint:
    """One tenant alone, at one input scale: means over its measurements that ended ok."""

    panel: str
    size: Size
    """Without memory where that is the panel's."""
    x: float
    unit: str
    """What ``x`` counts: ``input scale (×)``, ``input size (tokens)``, ..."""
    latency_ms: float | None
    low_ms: float | None
    high_ms: float | None
    power_w: dict[PowerOf, float]
    energy_j: dict[PowerOf, float]
    """Of an inference."""
    used_cores: float | None
    memory_peak_mib: float | None
    out_of_memory: int
    """How many of its measurements ended so."""


def scale_points(measurements: Iterable[Measurement]) -> tuple[ScalePoint, ...]:
    """Solo tenants, in panels in which the input's scale or size was changed.

    A panel holds what has all but scale and size of container in common; memory is a panel's too
    where it was changed independently of the cores, for else there would be too many lines.
    """
    found: dict[_Key, list[tuple[Measurement, TenantMeasurement]]] = defaultdict(list)
    for measurement in measurements:
        if len(measurement.tenants) == 1:
            (only,) = measurement.tenants
            if only.status == "skipped":
                continue
            cell = measurement.cell
            key = _Key(only.tenant, cell.load, cell.protocol, cell.server)
            found[key].append((measurement, only))
    several = {key for key, own in _alike(found).items() if len({_x(k.tenant) for k in own}) > 1}
    kept = [key for key in found if key.without_scale() in several]
    crossed, differing = _memory_is_apart(kept), _differing(kept)
    kept.sort(key=_order)
    points = []
    for key in kept:
        tenant = key.tenant
        size = Size(tenant.gpu, tenant.cpu_cores, tenant.memory_mib)
        if apart := tenant.model in crossed:
            size = size._replace(memory_mib=None)
        panel = _panel(key, differing[tenant.model], apart)
        points.append(_point(panel, size, tenant, found[key]))
    return tuple(points)


def _order(key: _Key) -> tuple[str, int, float, float]:
    tenant = key.tenant
    return (tenant.model, tenant.batch_size, tenant.memory_mib or math.inf, _x(tenant))


class _Key(NamedTuple):
    tenant: Tenant
    load: Load
    protocol: str
    server: str

    def without_scale(self) -> _Key:
        same = {"input_scale": 1.0, "cpu_cores": None, "memory_mib": None, "gpu": None}
        if self.tenant.input_unit is not None:
            same["input_size"] = None
        return self._replace(tenant=self.tenant.model_copy(update=same))


def _alike(keys: Iterable[_Key]) -> dict[_Key, list[_Key]]:
    """Keys by what they have in common but scale and size."""
    found: dict[_Key, list[_Key]] = defaultdict(list)
    for key in keys:
        found[key.without_scale()].append(key)
    return found


def _x(tenant: Tenant) -> float:
    return tenant.input_scale if tenant.input_size is None else tenant.input_size


def _memory_is_apart(keys: Sequence[_Key]) -> set[str]:
    """The models whose containers had different memory with the same cores."""
    amounts: dict[tuple[str, bool | None, float | None], set[float | None]] = defaultdict(set)
    for key in keys:
        tenant = key.tenant
        amounts[tenant.model, tenant.gpu, tenant.cpu_cores].add(tenant.memory_mib)
    return {model for (model, *_), several in amounts.items() if len(several) > 1}


def _differing(keys: Sequence[_Key]) -> dict[str, set[str]]:
    """By model, what the profile has several of beside scale and size."""
    seen: dict[str, dict[str, set[object]]] = defaultdict(lambda: defaultdict(set))
    for key in keys:
        own = seen[key.tenant.model]
        own["batch"].add(key.tenant.batch_size)
        own["share"].add(key.tenant.share_pct)
        own["load"].add(key.load)
        own["protocol"].add(key.protocol)
    return {
        model: {name for name, values in own.items() if len(values) > 1}
        for model, own in seen.items()
    }


def _panel(key: _Key, differing: set[str], crossed: bool) -> str:
    """A panel's title: the model, and of the rest what the profile has several of."""
    tenant = key.tenant
    parts = [variant(key.without_scale().tenant)]
    if "batch" in differing:
        parts.append(f"batch {tenant.batch_size}")
    if "share" in differing and tenant.share_pct is not None:
        parts.append(f"{tenant.share_pct:g}%")
    if crossed and tenant.memory_mib is not None:
        parts.append(memory_text(tenant.memory_mib))
    if "load" in differing:
        parts.append(load_text(key.load))
    if "protocol" in differing:
        parts.append(key.protocol)
    return ", ".join(parts)


def _point(
    panel: str,
    size: Size,
    tenant: Tenant,
    repeats: Sequence[tuple[Measurement, TenantMeasurement]],
) -> ScalePoint:
    good = [(m, t) for m, t in repeats if t.status == "ok"]
    latencies = [t.latency for _, t in good if t.latency is not None]
    unit = "input scale (×)"
    if tenant.input_size is not None:
        unit = f"input size ({tenant.input_unit})" if tenant.input_unit else "input size"
    return ScalePoint(
        panel=panel,
        size=size,
        x=_x(tenant),
        unit=unit,
        latency_ms=_mean(latency.mean_ms for latency in latencies),
        low_ms=min((s.mean_ms - (s.mean_ci_ms or 0) for s in latencies), default=None),
        high_ms=max((s.mean_ms + (s.mean_ci_ms or 0) for s in latencies), default=None),
        power_w=_known(_mean_or_none(power_w(m, of) for m, _ in good) for of in OF),
        energy_j=_known(_mean_or_none(inference_energy_j(m, t, of) for m, t in good) for of in OF),
        used_cores=_mean_or_none(
            None if t.container is None else t.container.cpu_mean_cores for _, t in good
        ),
        memory_peak_mib=max(
            (
                t.container.memory_peak_mib
                for _, t in good
                if t.container is not None and t.container.memory_peak_mib is not None
            ),
            default=None,
        ),
        out_of_memory=sum(t.status == "oom" for _, t in repeats),
    )


def power_w(measurement: Measurement, of: PowerOf) -> float | None:
    """Mean power of the device, or of the host's processor packages."""
    if of == "host":
        power = measurement.host_power
        return None if power is None else _packages(power.power_mean_w)
    if measurement.power is not None and measurement.power.power_mean_w is not None:
        return measurement.power.power_mean_w
    return measurement.power_w


def inference_energy_j(
    measurement: Measurement, tenant: TenantMeasurement, of: PowerOf
) -> float | None:
    """Energy of one inference of a tenant alone: as its monitor said, else of the whole window."""
    if of == "device":
        if tenant.energy is not None and tenant.energy.per_inference_j is not None:
            return tenant.energy.per_inference_j
        if measurement.power is not None:
            return measurement.power.per_inference_j
        energy_j = measurement.energy_j
    else:
        power = measurement.host_power
        energy_j = None if power is None else _packages(power.energy_j)
    count = tenant.latency.count if tenant.latency else None
    inferences = (count or 0) * tenant.tenant.batch_size
    return None if energy_j is None or not inferences else energy_j / inferences


def _packages(domains: dict[str, float]) -> float | None:
    """The sum over processor packages; their parts (core, uncore, dram) are not added again."""
    packages = [value for name, value in domains.items() if name.startswith("package")]
    return sum(packages) if packages else None


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return fmean(known) if known else None


def _mean_or_none(values: Iterable[float | None]) -> float | None:
    return _mean(value for value in values if value is not None)


def _known(values: Iterable[float | None]) -> dict[PowerOf, float]:
    return {name: value for name, value in zip(OF, values, strict=True) if value is not None}
