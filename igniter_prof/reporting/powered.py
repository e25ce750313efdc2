"""Tables of power and energy: of the GPU, and of the host's processors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from igniter_prof.records import Measurement, labels
from igniter_prof.reporting.blocks import Badge, Column, Table
from igniter_prof.reporting.watched import folded_table


def power_table(measurements: Sequence[Measurement], prefix: str) -> Table | None:
    """Power, energy and state of the GPU in each cell."""
    rows = [
        {
            "cell_id": m.cell_id,
            "tenants": labels(m.cell.tenants),
            **m.power.model_dump(exclude={"throttle_reasons"}),
            "throttled": ", ".join(
                f"{name} {share:.0f}%" for name, share in sorted(m.power.throttle_reasons.items())
            ),
            "energy_differs": _differs(m.power.energy_differs),
        }
        for m in measurements
        if m.power is not None
    ]
    columns = (
        Column("cell_id", "cell", numeric=False, shown=False),
        Column("tenants", "tenants", numeric=False),
        Column("uuid", "UUID", numeric=False, shown=False),
        Column("name", "board", numeric=False, shown=False),
        Column("scope", "scope", numeric=False, shown=False),
        Column("power_mean_w", "mean", group="power (W)"),
        Column("power_peak_w", "peak", group="power (W)"),
        Column("bare_idle_w", "bare idle", group="power (W)"),
        Column("context_idle_w", "idle, contexts", group="power (W)"),
        Column("power_limit_w", "limit", group="power (W)"),
        Column("energy_counter_j", "counter", group="energy (J)"),
        Column("energy_integral_j", "integral", group="energy (J)"),
        Column("per_inference_j", "per inference", group="energy (J)"),
        Column("energy_differs", "energies", numeric=False),
        Column("power_field", "power is from", numeric=False, shown=False),
        Column("source", "source", numeric=False, shown=False),
        Column("samples", "samples", shown=False),
        Column("interval_ms", "interval (ms)", shown=False),
        Column("counter_period_ms", "counter's period (ms)", shown=False),
        Column("sm_clock_mean_mhz", "SM clock (MHz)", group="state"),
        Column("temperature_peak_c", "peak (°C)", group="state"),
        Column("utilisation_mean_pct", "busy (%)", group="state"),
        Column("memory_peak_mib", "memory peak (MiB)", shown=False),
        Column("throttled", "throttled", numeric=False),
    )
    powers = [m.power for m in measurements if m.power is not None]
    ours = all(power.source.partition(":")[0] in ("nvml", "replay") for power in powers)
    fields = sorted({power.power_field for power in powers if power.power_field is not None})
    caption = (
        "Gross: idle power is in it. Energies that differ by more than 5% are marked."
        if ours
        else f"Power is {'; '.join(fields)}."
    )
    if any(power.scope == "mig-parent" for power in powers):
        caption += " Power is that of the whole card, of which the device is a slice."
    return folded_table(f"{prefix}-power", "Power and energy of the GPU", columns, rows, caption)


def _differs(differs: bool | None) -> Badge | None:
    if differs is None:
        return None
    return Badge("differ", "warn") if differs else Badge("agree", "good")


def host_power_table(measurements: Sequence[Measurement], prefix: str) -> Table | None:
    """Energy of the host's processors in each cell and domain."""
    rows = [
        {
            "cell_id": m.cell_id,
            "tenants": labels(m.cell.tenants),
            "domain": domain,
            "power_mean_w": m.host_power.power_mean_w.get(domain),
            "energy_j": energy_j,
        }
        for m in measurements
        if m.host_power is not None
        for domain, energy_j in sorted(m.host_power.energy_j.items())
    ]
    columns = (
        Column("cell_id", "cell", numeric=False, shown=False),
        Column("tenants", "tenants", numeric=False),
        Column("domain", "domain", numeric=False),
        Column("power_mean_w", "mean power (W)"),
        Column("energy_j", "energy (J)"),
    )
    caption = "Of the whole host, whatever ran on it."
    return folded_table(
        f"{prefix}-host-power", "Energy of the host's processors", columns, rows, caption
    )


def power_sources(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """How the device's power and energy were measured, for people."""
    found = set()
    for measurement in measurements:
        power = measurement.power
        if power is not None:
            found.add(f"power by {power.source} ({power.power_field or 'field not known'})")
        for tenant in measurement.tenants:
            if tenant.energy is not None and tenant.energy.per_inference_j is not None:
                found.add(f"energy of a tenant: {tenant.energy.method}")
    return tuple(sorted(found))
