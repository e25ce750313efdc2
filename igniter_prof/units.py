"""Units: one stored unit a quantity, named in the field's suffix; conversions live here only."""

from __future__ import annotations

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
US_PER_MS = 1_000
MS_PER_S = 1_000
BYTES_PER_MIB = 1024 * 1024
MW_PER_W = 1_000  # milliwatts
MJ_PER_J = 1_000  # millijoules
UJ_PER_J = 1_000_000


def format_ms(value_ms: float | None) -> str:
    """A latency for people: three significant digits and its unit; ``-`` where there is none."""
    if value_ms is None:
        return "-"
    if value_ms >= 1000:
        return f"{value_ms / MS_PER_S:.3g} s"
    if value_ms < 1:
        return f"{value_ms * US_PER_MS:.3g} µs"
    return f"{value_ms:.3g} ms" if value_ms < 100 else f"{value_ms:.0f} ms"


def format_duration(seconds: float) -> str:
    """A duration for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
