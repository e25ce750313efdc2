"""Names, columns and keys of iGniter's three files (docs/igniter.md), and how a number is read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

SOURCE: Final = "import:igniter"
"""Source and runtime of an imported profile."""

DEVICE_ID: Final = "cuda:imported-igniter"
"""The files do not tell which GPU it was: one id for all, the name is the user's to give."""

UNKNOWN: Final = "not known"

CONFIG, SOLO, PAIRS = "igniter_config.jsonl", "solo.csv", "pairs.csv"
"""The files' names: in a folder, in an export, and in ``Measurement.extra["igniter"]``."""

SHARE_MECHANISM: Final = "mps"

CONFIG_REPEAT: Final = 1
"""``Cell.repeat`` of all cells derived from the config, so that rows of the tables differ."""

BATCHES: Final = (1, 16, 32)
"""Batch sizes of the rows of the config's tables."""

SHARES_PCT: Final = (10.0, 50.0, 100.0)
"""Shares of the columns of the config's tables."""

PAIR_BATCH, PAIR_SHARE_PCT = 16, 50.0
"""Batch size and share of what ends in ``_1`` and ``_2``."""

ALL_PCT: Final = 100 + 1e-6
"""What the shares of a pair add up to at most: thirds may be a little more than 100."""

LARGEST: Final = 1e12
"""A larger latency, power or utilisation is none."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """What a number may be: ``low`` to ``high``, without ``low`` itself where it is ``open``."""

    low: float = 0.0
    high: float = LARGEST
    open: bool = False

    def require(self, value: float) -> float:
        """The value. Raises ValueError, saying what it should be."""
        if not math.isfinite(value):
            raise ValueError(f"{value} is not finite")
        if value < self.low or value > self.high or (self.open and value == self.low):
            least = "more than" if self.open else "at least"
            raise ValueError(f"{value:g} is not {least} {self.low:g} and at most {self.high:g}")
        return value


ANY: Final = Limits()
POSITIVE: Final = Limits(open=True)
PERCENT: Final = Limits(high=100.0)
SHARE: Final = Limits(high=100.0, open=True)


@dataclass(frozen=True)
class Column:
    """A number's column of a table."""

    limits: Limits
    may_be_empty: bool = False


SOLO_COLUMNS: Final = (
    "model",
    "batch_size",
    "share_pct",
    "latency_ms",
    "throughput_rps",
    "l2_util_pct",
    "dram_util_pct",
)
PAIR_COLUMNS: Final = (
    "model_1",
    "model_2",
    "batch_size_1",
    "batch_size_2",
    "share_pct_1",
    "share_pct_2",
    "latency_ms_1",
    "latency_ms_2",
    "latency_std_ms_1",
    "latency_std_ms_2",
)
MEASURED: Final = {
    "latency_ms": Column(POSITIVE),
    "latency_std_ms": Column(ANY, may_be_empty=True),
    "throughput_rps": Column(ANY, may_be_empty=True),
    "l2_util_pct": Column(PERCENT, may_be_empty=True),
    "dram_util_pct": Column(PERCENT, may_be_empty=True),
}
"""Columns of measured numbers, without the tenant's number; a table has some of them."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Key:
    """A key of the config: our field's name, its shape ((-5,): a list of five or more)."""

    field: str
    shape: Shape
    limits: Limits = POSITIVE


HARDWARE: Final = "hardware"
"""The key that no model can have."""

HARDWARE_KEYS: Final = {
    "idlepower": Key("idle_power_w", (), ANY),
    "power": Key("power_w", (-5,), ANY),
    "frequency": Key("clock_mhz", (-5,)),
    "idletime": Key("kernel_idle_ms", (-5,), ANY),
    "maxGPUfrequency": Key("max_clock_mhz", ()),
    "maxGPUpower": Key("power_limit_w", ()),
    "unit": Key("share_step_pct", (), SHARE),
    "bandwidth": Key("bytes_per_ms", ()),
}
MODEL_KEYS: Final = {
    "inputdata": Key("input_bytes", (), ANY),
    "outputdata": Key("output_bytes", (), ANY),
    "gpulatency": Key("gpu_ms", (3, 3)),
    "power": Key("power_w", (3, 3), ANY),
    "frequency": Key("clock_mhz", (3, 3)),
    "l2caches": Key("l2_util_pct", (3,), PERCENT),
    "l2cache": Key("l2_util_1_pct", (), SHARE),
    "idletime_1": Key("idle_1_ms", (), ANY),
    "activetime_1": Key("active_1_ms", ()),
    "activetime_2": Key("active_2_ms", ()),
    "power_2": Key("power_2_w", (), ANY),
    "frequency_2": Key("clock_2_mhz", ()),
    "kernel": Key("kernels", (), ANY),
}


def number(text: str) -> float:
    """A finite decimal number. Raises ValueError for anything else, ``nan`` and ``1_0`` too."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"'{text}' is no number" if text else "is empty")
    return float(text)


def plain(value: float) -> float | int:
    """A whole number without a point, as the published files have most of them."""
    whole = value == int(value) and abs(value) < 2**53
    return int(value) if whole else value
