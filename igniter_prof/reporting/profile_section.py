"""The part of a report that shows a profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from igniter_prof.records import Conditions, Device, Measurement, TenantMeasurement
from igniter_prof.reporting import (
    derived,
    left_out,
    powered,
    profile_plots,
    scale_plots,
    scaling,
    starts,
    watched,
)
from igniter_prof.reporting.blocks import Badge, Column, Section, Table, Tone, plural, some, when
from igniter_prof.reporting.inputs import Profile
from igniter_prof.units import format_duration

_FACTS = (
    ("igprof", "igprof"),
    ("triton", "Triton"),
    ("framework", "framework"),
    ("engine", "container engine"),
    ("image", "image"),
    ("driver", "driver"),
    ("cuda", "CUDA"),
    ("cudnn", "cuDNN"),
    ("os", "OS"),
    ("kernel", "kernel"),
)


_TONES: dict[str, Tone] = {"ok": "good", "skipped": "plain"}
_SERVERS = {"own": "one for each tenant", "shared": "one for all tenants"}


def profile_section(profile: Profile, source: str, prefix: str) -> Section:
    """A profile as plots and tables."""
    measurements = profile.measurements
    points = derived.solo_points(measurements)
    slow = derived.slowdowns(measurements)
    scaled = scaling.scale_points(measurements)
    # what was measured at one batch size and share only has its place in the plots over scale
    unscaled = derived.with_peers(points) if scaled else points
    plots = (
        profile_plots.latency_over_batch(unscaled, prefix),
        profile_plots.latency_over_share(unscaled, prefix),
        *scale_plots.scale_plots(scaled, powered.power_sources(measurements), prefix),
        starts.start_bars(starts.starts(measurements), prefix),
        profile_plots.slowdown_map(slow, prefix),
        profile_plots.drift_plot(derived.drift(measurements), prefix),
    )
    tables = (
        _verdict_table(measurements, prefix),
        left_out.skipped_table(measurements, prefix),
        left_out.monitor_table(measurements, prefix),
        _slowdown_table(slow, prefix) if slow else None,
        watched.network_table(measurements, prefix),
        watched.container_table(measurements, prefix),
        powered.power_table(measurements, prefix),
        powered.host_power_table(measurements, prefix),
        starts.start_table(measurements, prefix),
        _cell_table(measurements, prefix),
    )
    return Section(
        anchor=prefix,
        title="Profile",
        source=source,
        badges=_badges(measurements),
        facts=_facts(profile),
        remarks=_remarks(measurements),
        blocks=tuple(block for block in (*plots, *tables) if block is not None),
    )


def condition_facts(all_conditions: Sequence[Conditions]) -> tuple[tuple[str, str], ...]:
    """The conditions that matter for reading numbers; where cells differ, every value."""
    if not all_conditions:
        return ()

    def of(get: Callable[[Conditions], Any]) -> str | None:
        values = sorted({str(get(c)) for c in all_conditions if get(c) is not None})
        return " / ".join(values) or None

    facts = [
        ("runtime", of(lambda c: c.runtime)),
        ("shares by", of(_mechanism) or "none"),
        ("client", of(_client) or "not known"),
        *((title, of(lambda c, name=name: getattr(c, name))) for name, title in _FACTS),  # type: ignore[misc]
    ]
    return tuple((title, value) for title, value in facts if value is not None)


def _mechanism(conditions: Conditions) -> str | None:
    if conditions.share_mechanism is None or conditions.share_period_us is None:
        return conditions.share_mechanism
    return f"{conditions.share_mechanism}, period {conditions.share_period_us / 1000:g} ms"


def _client(conditions: Conditions) -> str | None:
    if conditions.client_apart is None:
        return None
    return "on cores of its own" if conditions.client_apart else "on the device's own cores"


def device_text(device: Device) -> str:
    """A device in one line."""
    memory = "" if device.memory_mib is None else f", {device.memory_mib / 1024:.3g} GiB"
    return f"{device.name} ({device.id}{memory})"


def _facts(profile: Profile) -> tuple[tuple[str, str], ...]:
    measurements = profile.measurements
    facts = [("device", device_text(profile.manifest.device))]
    if profile.manifest.source != "measured":
        facts.append(("source", profile.manifest.source))
    models = sorted({t.tenant.model for m in measurements for t in m.tenants})
    sizes = Counter(len(m.tenants) for m in measurements)
    cells = ", ".join(
        f"{count} {'alone' if size == 1 else f'of {size} tenants'}"
        for size, count in sorted(sizes.items())
    )
    facts.append(("cells", f"{len(measurements)} ({cells})" if cells else "none yet"))
    facts.append(("models", ", ".join(models) or "none"))
    if measurements:
        servers = sorted({_SERVERS[m.cell.server] for m in measurements})
        loads = sorted(
            {f"{derived.load_text(m.cell.load)}, {m.cell.protocol}" for m in measurements}
        )
        facts.append(("servers", " / ".join(servers)))
        facts.append(("load", " / ".join(some(loads, 4))))
        if names := left_out.monitor_names(measurements):
            facts.append(("monitors", ", ".join(names)))
        busy = sum(m.duration_s for m in measurements)
        facts.append(
            ("measured", f"{when(measurements[0].started_at)}, {format_duration(busy)} of cells")
        )
    return (*facts, *condition_facts([m.conditions for m in measurements]))


def _badges(measurements: Sequence[Measurement]) -> tuple[Badge, ...]:
    if not measurements:
        return (Badge("empty: no cell has been measured", "warn"),)
    tenants = [t for m in measurements for t in m.tenants]
    statuses = Counter(t.status for t in tenants)
    badges = [
        Badge(f"{count} {status}", _TONES.get(status, "bad"))
        for status, count in sorted(statuses.items(), key=lambda item: (item[0] != "ok", item[0]))
    ]
    unstable = sum(t.status == "ok" and t.stable is False for t in tenants)
    if unstable:
        badges.append(Badge(f"{unstable} unstable", "warn"))
    for name, count in sorted(left_out.incomplete(measurements).items()):
        badges.append(Badge(f"{name} incomplete in {plural(count, 'cell')}", "warn"))
    return tuple(badges)


def _remarks(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    if not measurements:
        return ()
    return (
        *_not_measured(measurements),
        *left_out.skipped_remarks(measurements),
        *_verdicts(measurements),
    )


def _verdicts(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    lines = [
        f"{derived.describe(t.tenant)}{_beside(m, i)}: {_state(t)}{_because(t)}"
        for m in measurements
        for i, t in enumerate(m.tenants)
        if _needs_a_look(t)
    ]
    return some(lines, 6)


def _not_measured(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """What one may look for in vain, and what weakens the numbers."""
    ok = [t for m in measurements for t in m.tenants if t.status == "ok"]
    remarks = []
    if any(m.conditions.client_apart is False for m in measurements):
        remarks.append(
            "The client ran on the device's own cores and took time from the servers: latencies"
            " are those of this machine with its client, and are higher than the server's alone."
        )
    if not any(_has_power(m) for m in measurements):
        remarks.append("Power and energy were not measured.")
    if ok and all(t.server_times is None for t in ok):
        remarks.append("The server's own times were not available.")
    if ok and all(t.usage is None and t.container is None for t in ok):
        remarks.append("CPU use, throttling and memory of the servers were not measured.")
    if ok and all(t.ready_s is None for t in ok):
        remarks.append("Cold starts were not measured: the servers ran already.")
    short = sum(t.latency is not None and t.latency.p99 is None for t in ok)
    if short:
        remarks.append(f"No p99 for {plural(short, 'tenant')} of {len(ok)}: too few requests.")
    lagged = sum(t.lagged_pct is not None and t.lagged_pct > 1 for t in ok)
    if lagged:
        remarks.append(
            f"For {plural(lagged, 'tenant')} the client sent over 1% of the requests late."
        )
    return tuple(remarks)


def _has_power(measurement: Measurement) -> bool:
    own = (measurement.power_w, measurement.energy_j, measurement.power, measurement.host_power)
    of_tenants = (tenant.energy for tenant in measurement.tenants)
    return any(value is not None for value in (*own, *of_tenants))


def _needs_a_look(tenant: TenantMeasurement) -> bool:
    if tenant.status == "skipped":  # they have a table of their own
        return False
    return tenant.status != "ok" or tenant.stable is False


def _state(tenant: TenantMeasurement) -> str:
    return tenant.status if tenant.status != "ok" else "unstable"


def _because(tenant: TenantMeasurement) -> str:
    reason = tenant.detail if tenant.status != "ok" else tenant.verdict
    return f" ({reason})" if reason else ""


def _neighbours(measurement: Measurement, index: int) -> str:
    return " + ".join(
        f"{t.tenant.model} ({t.tenant.batch_size}"
        + ("" if t.tenant.share_pct is None else f", {t.tenant.share_pct:g}%")
        + ")"
        for i, t in enumerate(measurement.tenants)
        if i != index
    )


def _beside(measurement: Measurement, index: int) -> str:
    others = _neighbours(measurement, index)
    return f" beside {others}" if others else ""


def _state_badge(tenant: TenantMeasurement) -> Badge:
    if tenant.status != "ok":
        return Badge(tenant.status, _TONES.get(tenant.status, "bad"))
    if tenant.stable is False:
        return Badge("unstable", "warn")
    return Badge("ok", "good")


def _verdict_table(measurements: Sequence[Measurement], prefix: str) -> Table | None:
    rows = tuple(
        {
            "cell_id": m.cell_id,
            "tenant": derived.describe(t.tenant),
            "neighbours": _neighbours(m, i),
            "state": _state_badge(t),
            "reason": t.detail if t.status != "ok" else t.verdict,
        }
        for m in measurements
        for i, t in enumerate(m.tenants)
        if _needs_a_look(t)
    )
    columns = (
        Column("cell_id", "cell", numeric=False),
        Column("tenant", "tenant", numeric=False),
        Column("neighbours", "beside (batch, share)", numeric=False),
        Column("state", "ended", numeric=False),
        Column("reason", "why", numeric=False),
    )
    title = "Tenants that failed or were unstable"
    return Table(f"{prefix}-verdicts", title, columns, rows) if rows else None


def _slowdown_table(slow: Sequence[derived.Slowdown], prefix: str) -> Table:
    columns = (
        Column("model", "model", numeric=False),
        Column("neighbours", "beside", numeric=False),
        Column("slowdown", "mean slowdown (×)"),
        Column("lowest", "lowest (×)"),
        Column("highest", "highest (×)"),
        Column("cells", "cells"),
    )
    rows = tuple(
        {
            "model": s.model,
            "neighbours": " + ".join(s.neighbours),
            "slowdown": s.factor,
            "lowest": s.low,
            "highest": s.high,
            "cells": s.cells,
        }
        for s in slow
    )
    return Table(
        f"{prefix}-slowdown", "Slowdown by co-location", columns, rows, folded=len(rows) > 12
    )


_CELL_COLUMNS: tuple[Column, ...] = (
    Column("cell_id", "cell", numeric=False),
    Column("started_at", "started", numeric=False, shown=False),
    Column("model", "model", numeric=False),
    Column("batch_size", "batch"),
    Column("share_pct", "share (%)"),
    Column("instances", "instances", shown=False),
    Column("input_scale", "input scale", shown=False),
    Column("cpu_cores", "CPU cap (cores)", shown=False),
    Column("memory_mib", "memory cap (MiB)", shown=False),
    Column("gpu", "GPU", numeric=False, shown=False),
    Column("input_size", "input size", shown=False),
    Column("input_unit", "unit of input size", numeric=False, shown=False),
    Column("neighbours", "beside (batch, share)", numeric=False),
    Column("load", "load", numeric=False, shown=False),
    Column("protocol", "protocol", numeric=False, shown=False),
    Column("baseline", "baseline", numeric=False, shown=False),
    Column("state", "ended", numeric=False),
    Column("requests", "requests"),
    Column("latency_mean_ms", "mean (ms)"),
    Column("latency_mean_ci_ms", "± 95% (ms)"),
    Column("latency_p50_ms", "p50 (ms)"),
    Column("latency_p95_ms", "p95 (ms)"),
    Column("latency_p99_ms", "p99 (ms)"),
    Column("throughput_rps", "inferences/s"),
    Column("compute_infer_ms", "server compute (ms)", shown=False),
    Column("queue_ms", "server queue (ms)", shown=False),
    Column("executed_batch", "executed batch", shown=False),
    Column("cpu_s", "CPU used (s)", shown=False),
    Column("throttled_periods", "throttled periods", shown=False),
    Column("memory_peak_mib", "peak memory (MiB)"),
    Column("ready_s", "cold start (s)"),
    Column("power_w", "power (W)", shown=False),
    Column("energy_j", "energy (J)", shown=False),
    Column("reason", "why", numeric=False, shown=False),
)


def _cell_table(measurements: Sequence[Measurement], prefix: str) -> Table:
    rows = tuple(_cell_row(m, i) for m in measurements for i in range(len(m.tenants)))
    columns = _CELL_COLUMNS
    if any(m.power_w is not None for m in measurements):
        columns = tuple(
            Column(c.key, c.title, c.numeric) if c.key in ("power_w", "energy_j") else c
            for c in columns
        )
    caption = "One row a tenant of a cell, in the order of time."
    title = f"Cells ({len(measurements)})"
    return Table(f"{prefix}-cells", title, columns, rows, caption, folded=len(rows) > 12)


def _cell_row(measurement: Measurement, index: int) -> dict[str, Any]:
    result = measurement.tenants[index]
    tenant, latency = result.tenant, result.latency
    times, usage = result.server_times, result.usage
    return {
        "cell_id": measurement.cell_id,
        "started_at": measurement.started_at,
        **tenant.model_dump(exclude={"queue_delay_us"}),
        "neighbours": _neighbours(measurement, index),
        "load": measurement.cell.load.kind,
        "protocol": measurement.cell.protocol,
        "baseline": measurement.cell.baseline,
        "state": _state_badge(result),
        "requests": latency and latency.count,
        "latency_mean_ms": latency and latency.mean_ms,
        "latency_mean_ci_ms": latency and latency.mean_ci_ms,
        "latency_p50_ms": latency and derived.quantile_ms(latency.p50),
        "latency_p95_ms": latency and derived.quantile_ms(latency.p95),
        "latency_p99_ms": latency and derived.quantile_ms(latency.p99),
        "throughput_rps": result.throughput_rps,
        "compute_infer_ms": times and times.compute_infer_ms,
        "queue_ms": times and times.queue_ms,
        "executed_batch": times and times.executed_batch,
        "cpu_s": usage and usage.cpu_s,
        "throttled_periods": usage and usage.throttled_periods,
        "memory_peak_mib": usage and usage.memory_peak_mib,
        "ready_s": result.ready_s,
        "power_w": measurement.power_w,
        "energy_j": measurement.energy_j,
        "reason": result.detail if result.status != "ok" else result.verdict,
    }
