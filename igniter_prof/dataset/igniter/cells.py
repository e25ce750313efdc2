"""From iGniter's rows and lightweight profile to our measurements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from igniter_prof import __version__
from igniter_prof.dataset.igniter import formats
from igniter_prof.dataset.igniter.formats import CONFIG, CONFIG_REPEAT, DEVICE_ID, SOURCE, UNKNOWN
from igniter_prof.dataset.igniter.tables import TenantRow
from igniter_prof.records import (
    Cell,
    Conditions,
    DevicePower,
    GpuCounters,
    IgniterHardware,
    IgniterModel,
    IgniterProfile,
    LatencySummary,
    Measurement,
    Tenant,
    TenantMeasurement,
)

DERIVED = "derived from iGniter's lightweight profile, not taken by a client"
POWER_FIELD = "the mean that iGniter's lightweight profile gives"
PUBLISHED = "a published mean: how well it is known is not told"


def cells_of_rows(
    rows: Iterable[tuple[TenantRow, ...]], file: str, share_step_pct: float | None
) -> Iterator[Measurement]:
    """A cell a row; the same point again in one file is its next repeat.

    ``CONFIG_REPEAT`` is left out, whether or not a config is imported too: so a row's id does not
    depend on what it is imported with.
    """
    taken: dict[tuple[Tenant, ...], int] = {}
    for row in rows:
        tenants = tuple(one.tenant for one in row)
        repeat = taken.get(tenants, 0)
        taken[tenants] = repeat + 1 if repeat + 1 != CONFIG_REPEAT else CONFIG_REPEAT + 1
        measured = tuple(
            TenantMeasurement(
                tenant=one.tenant,
                status="ok",
                verdict=PUBLISHED,
                latency=_mean_alone(one.values["latency_ms"], one.values.get("latency_std_ms")),
                throughput_rps=one.values.get("throughput_rps"),
                counters=_utilisation(one.values),
            )
            for one in row
        )
        yield _measurement(measured, repeat, {"file": file}, share_step_pct)


def cells_of_config(profile: IgniterProfile) -> Iterator[Measurement]:
    """The cells that a lightweight profile tells of: nine alone and one pair for each model.

    A latency is the GPU's time and the transfer of the batch's inputs and outputs: ``gpulatency``
    of a model alone, ``activetime_2`` and ``idletime_1`` of two tenants of the same model.
    """
    hardware = profile.hardware
    for name, model in profile.models.items():
        for row, batch_size in enumerate(formats.BATCHES):
            for column, share_pct in enumerate(formats.SHARES_PCT):
                tenant = Tenant(model=name, batch_size=batch_size, share_pct=share_pct)
                yield _derived(
                    (tenant,),
                    model.gpu_ms[row][column] + _transfer_ms(model, batch_size, hardware),
                    _solo_counters(model, row, column),
                    _power(hardware, model.power_w[row][column], model.clock_mhz[row][column]),
                    hardware,
                )
        tenant = Tenant(model=name, batch_size=formats.PAIR_BATCH, share_pct=formats.PAIR_SHARE_PCT)
        yield _derived(
            (tenant, tenant),
            model.active_2_ms + model.idle_1_ms + _transfer_ms(model, tenant.batch_size, hardware),
            _counters(model, active_ms=model.active_2_ms, idle_ms=model.idle_1_ms),
            _power(hardware, model.power_2_w, model.clock_2_mhz),
            hardware,
        )


def _transfer_ms(model: IgniterModel, batch_size: int, hardware: IgniterHardware) -> float:
    """To the GPU and back, ms of a batch (iGniter's t_load + t_feedback)."""
    return (model.input_bytes + model.output_bytes) * batch_size / hardware.bytes_per_ms


def _counters(model: IgniterModel, **known: float) -> GpuCounters:
    return GpuCounters(
        kernels=model.kernels,
        input_bytes=model.input_bytes,
        output_bytes=model.output_bytes,
        **known,
    )


def _solo_counters(model: IgniterModel, row: int, column: int) -> GpuCounters:
    known = {"gpu_ms": model.gpu_ms[row][column]}
    if row == column:
        known["l2_util_pct"] = model.l2_util_pct[row]
    point = formats.BATCHES[row], formats.SHARES_PCT[column]
    if point == (formats.PAIR_BATCH, formats.PAIR_SHARE_PCT):
        known |= {"active_ms": model.active_1_ms, "idle_ms": model.idle_1_ms}
    return _counters(model, **known)


def _power(hardware: IgniterHardware, power_w: float, clock_mhz: float) -> DevicePower:
    return DevicePower(
        uuid="",
        source=SOURCE,
        power_mean_w=power_w,
        power_field=POWER_FIELD,
        power_limit_w=hardware.power_limit_w,
        bare_idle_w=hardware.idle_power_w,
        sm_clock_mean_mhz=clock_mhz,
    )


def _derived(
    tenants: tuple[Tenant, ...],
    latency_ms: float,
    counters: GpuCounters,
    power: DevicePower,
    hardware: IgniterHardware,
) -> Measurement:
    measured = tuple(
        TenantMeasurement(
            tenant=tenant,
            status="ok",
            verdict=DERIVED,
            latency=_mean_alone(latency_ms),
            counters=counters,
        )
        for tenant in tenants
    )
    says = {"file": CONFIG, "latency": DERIVED}
    return _measurement(measured, CONFIG_REPEAT, says, hardware.share_step_pct, power)


def _mean_alone(mean_ms: float | None, std_ms: float | None = None) -> LatencySummary:
    """A mean of which nothing more is known than, at best, the spread of single requests."""
    assert mean_ms is not None  # the column may not be empty
    return LatencySummary(
        count=None, mean_ms=mean_ms, std_ms=std_ms, mean_ci_ms=None, min_ms=None, max_ms=None
    )


def _utilisation(values: Mapping[str, float | None]) -> GpuCounters | None:
    known = {name: values.get(name) for name in ("l2_util_pct", "dram_util_pct")}
    if all(value is None for value in known.values()):
        return None
    return GpuCounters(l2_util_pct=known["l2_util_pct"], dram_util_pct=known["dram_util_pct"])


def _measurement(
    tenants: tuple[TenantMeasurement, ...],
    repeat: int,
    says: dict[str, Any],
    share_step_pct: float | None,
    power: DevicePower | None = None,
) -> Measurement:
    cell = Cell(device=DEVICE_ID, tenants=tuple(one.tenant for one in tenants), repeat=repeat)
    return Measurement(
        cell_id=cell.cell_id,
        cell=cell,
        tenants=tenants,
        conditions=Conditions(
            igprof=__version__,
            runtime=SOURCE,
            share_mechanism=formats.SHARE_MECHANISM,
            share_step_pct=share_step_pct,
        ),
        started_at=UNKNOWN,
        anchor_monotonic_ns=0,
        anchor_wall_ns=0,
        duration_s=0.0,
        power_w=None if power is None else power.power_mean_w,
        power=power,
        extra={"igniter": says},
    )
