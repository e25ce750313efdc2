"""``igprof export --to igniter``: a profile in the columns of iGniter's files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igniter_prof.dataset.igniter import formats
from igniter_prof.dataset.igniter.config import config_text
from igniter_prof.dataset.store import ProfileStore
from igniter_prof.errors import BadInput
from igniter_prof.files import atomic_write, write_error
from igniter_prof.records import Cell, Device, Measurement, Tenant, TenantMeasurement

Rows = list[dict[str, Any]]


@dataclass
class Exported:
    """What an export wrote, and what has no place in iGniter's columns: reason and cells."""

    written: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def export_igniter(profile: Path, out: Path) -> Exported:
    """Write a profile's cells of one and two tenants, and its lightweight profile if it has one.

    Args:
        profile: the profile's folder.
        out: a folder, made if it is not there; files of the three names are replaced.

    Raises:
        BadInput: it is no profile, nothing of it has a place in the files, or ``out`` holds one of
            the three that this profile has nothing for.
        MissingCapability: no disk space.
    """
    store = ProfileStore.open(profile)
    done = Exported()
    solo: Rows = []
    pairs: Rows = []
    for measurement in sorted(store.measurements(), key=_order):
        if _source(measurement) == formats.CONFIG:
            if store.manifest.igniter is None:
                done.left_out["cells of a lightweight profile that is not there any more"] += 1
            continue  # else it is in that file
        reason = _no_place(measurement, store.manifest.device)
        if reason is not None:
            done.left_out[reason] += 1
        elif len(measurement.tenants) == 1:
            solo.append(_row(measurement.tenants, ("",), formats.SOLO_COLUMNS))
        else:
            pairs.append(_row(measurement.tenants, ("_1", "_2"), formats.PAIR_COLUMNS))
    texts = {
        formats.SOLO: _csv(solo, formats.SOLO_COLUMNS) if solo else None,
        formats.PAIRS: _csv(pairs, formats.PAIR_COLUMNS) if pairs else None,
        formats.CONFIG: config_text(store.manifest.igniter) if store.manifest.igniter else None,
    }
    if not any(texts.values()):
        told = "; ".join(f"{count} {reason}" for reason, count in done.left_out.items())
        raise BadInput(
            f"nothing of it has a place in iGniter's files ({told or 'it is empty'})",
            where=str(profile),
        )
    _write(Path(out), texts, done)
    return done


def _write(out: Path, texts: dict[str, str | None], done: Exported) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(out, error) from error
    for name, text in texts.items():
        if text is None and (out / name).exists():
            raise BadInput(
                f"holds a {name}, for which this profile has nothing: it would stand beside files"
                " of another profile",
                where=str(out),
                hint="choose another --out, or delete that file",
            )
    for name, text in texts.items():
        if text is not None:
            with atomic_write(out / name) as file:
                file.write(text.encode())
            done.written.append(out / name)


def _source(measurement: Measurement) -> str | None:
    """The file of iGniter's that a cell came from; None: another source."""
    says = measurement.extra.get("igniter")
    return says.get("file") if isinstance(says, dict) else None


def _order(measurement: Measurement) -> tuple[Any, ...]:
    tenants = measurement.cell.tenants
    return (
        len(tenants),
        [one.model for one in tenants],
        [one.batch_size for one in tenants],
        [one.share_pct or 0.0 for one in tenants],
        measurement.cell.repeat,
        measurement.cell_id,
    )


def _no_place(measurement: Measurement, device: Device) -> str | None:
    """Why a cell cannot be told in these columns; None: it can."""
    cell = measurement.cell
    if any(one.status != "ok" or one.latency is None for one in measurement.tenants):
        return "cells with a tenant that failed"
    if any(one.latency is not None and not one.latency.mean_ms > 0 for one in measurement.tenants):
        return "cells with a latency that is not positive"
    if len(cell.tenants) > 2:
        return "cells of more than two tenants"
    if len(cell.tenants) > 1 and cell.server == "shared":
        return "cells of tenants in one server"
    if cell.load.kind != "closed" or cell.load.concurrency != 1:
        return "cells whose load was not a closed loop of one batch in flight"
    for one in cell.tenants:
        reason = _no_column(one, device)
        if reason is not None:
            return reason
    return _no_share(cell)


def _no_column(tenant: Tenant, device: Device) -> str | None:
    """Why a tenant is more than model, batch size and share; None: it is not."""
    if tenant.input_scale != 1 or tenant.input_size is not None:
        return "cells with an input scale or size"
    if tenant.instances != 1:
        return "cells with several instances"
    if tenant.cpu_cores is not None or tenant.memory_mib is not None:
        return "cells with CPU or memory caps"
    if tenant.gpu is not None and tenant.gpu != (device.kind == "cuda"):
        return "cells not on the profile's device"
    if tenant.queue_delay_us is not None and tenant.batch_size > 1:
        return "cells with dynamic batching"
    return None


def _no_share(cell: Cell) -> str | None:
    shares = [one.share_pct for one in cell.tenants]
    if len(shares) == 1:
        return None
    if None in shares:
        return "cells of two tenants without shares of their own"
    if sum(share or 0.0 for share in shares) > formats.ALL_PCT:
        return "cells whose shares add up to more than 100"
    return None


def _row(
    tenants: Sequence[TenantMeasurement], suffixes: Sequence[str], columns: Sequence[str]
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for one, suffix in zip(tenants, suffixes, strict=True):
        assert one.latency is not None
        share_pct = one.tenant.share_pct
        values = {
            "model": one.tenant.model,
            "batch_size": one.tenant.batch_size,
            # alone and without a share of its own, it has the device
            "share_pct": formats.plain(100.0 if share_pct is None else share_pct),
            "latency_ms": one.latency.mean_ms,
            "latency_std_ms": one.latency.std_ms,
            "throughput_rps": one.throughput_rps,
            "l2_util_pct": one.counters and one.counters.l2_util_pct,
            "dram_util_pct": one.counters and one.counters.dram_util_pct,
        }
        row |= {f"{name}{suffix}": value for name, value in values.items()}
    return {name: row[name] for name in columns}


def _csv(rows: Rows, columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
