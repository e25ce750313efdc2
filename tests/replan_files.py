"""Coefficients of two made-up device types, in files, for the verbs that plan again."""

from __future__ import annotations

from pathlib import Path

from igniter_prof.fitting.physics.equations import PER_MODEL, SHARED
from igniter_prof.records import Coefficients, Device, Parameter

WORKLOADS = """
workloads:
  - {name: a, model: small, rate_rps: 60, slo_ms: 80, count: 2}
  - {name: b, model: middle, rate_rps: 20, slo_ms: 150, arrival: constant}
"""
DEVICES = """
devices:
  - {name: quick, coefficients: quick.json, price_per_hour: 3}
  - {name: slow, coefficients: slow.json, price_per_hour: 1}
"""
MODELS = {
    "small": {
        "k2_ms": 1.0,
        "k3_ms": 2.0,
        "k4": 0.05,
        "k5_ms": 0.5,
        "alpha_cache": 0.3,
        "cache_util": 0.5,
    },
    "middle": {
        "k2_ms": 4.0,
        "k3_ms": 5.0,
        "k4": 0.1,
        "k5_ms": 2.0,
        "alpha_cache": 0.3,
        "cache_util": 1.0,
    },
}


def coefficients(slower: float = 1.0, **more: object) -> Coefficients:
    """Of a device on which everything takes so much longer."""
    region = {"batch_size": (1.0, 8.0), "share_pct": (10.0, 100.0)}
    times = {"k2_ms", "k3_ms", "k5_ms"}
    return Coefficients(
        model="igniter",
        device=Device(id="cpu:0-1", kind="cpu", name="a CPU", cores=(0, 1)),
        profile_hash="p" * 64,
        igprof="0",
        created_at="2026-01-01T00:00:00+00:00",
        shared={name: Parameter(value=value) for name, value in SHARED.items()},
        models={
            model: {
                name: Parameter(value=value * slower if name in times else value)
                for name, value in {**PER_MODEL, **own}.items()
            }
            for model, own in MODELS.items()
        },
        region=dict.fromkeys(MODELS, region),
        extra={"cv": dict.fromkeys(MODELS, 0.1)},
        **more,  # type: ignore[arg-type]
    )


def fill(folder: Path) -> Path:
    """``quick.json``, ``slow.json``, ``workloads.yaml`` and ``devices.yaml`` in a folder."""
    (folder / "quick.json").write_text(coefficients().model_dump_json())
    (folder / "slow.json").write_text(coefficients(2.0).model_dump_json())
    (folder / "workloads.yaml").write_text(WORKLOADS)
    (folder / "devices.yaml").write_text(DEVICES)
    return folder
