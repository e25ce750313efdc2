"""The columns of AC-Prof's files, and what its values are taken for (docs/acprof.md says why)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from igniter_prof.records import ModelName

SOURCE: Final = "import:acprof"
"""Source, runtime and device of an imported profile."""

LONGEST_S: Final = 1e7
"""A longer latency is no latency."""

LAST_MS: Final = 9_000_000_000_000
"""A later instant is none: in nanoseconds it would be no 64-bit integer."""

UNKNOWN: Final = "not known"

NET_POWER: Final = (
    "above an idle baseline that AC-Prof subtracted and does not tell; no board power"
)
"""What the published power is taken for."""

NET_ENERGY: Final = "above an idle baseline, as AC-Prof published it; nothing was split"
"""What the published energy is taken for."""

MIB_PER_GB: Final = 1024
"""``mem_cap_gb`` is what ``docker --memory=16g`` takes: binary gigabytes."""

IMAGE_FROM_BYTES: Final = 2 * 1024**3
"""A ``download volume`` from here on is an image's (silero 11 GB), below it a model's weights."""

SIZE_UNITS: Final = {
    "token_len": "tokens",
    "context_length": "context length",
    "Pixels": "pixels",
    "text_chars": "characters",
    "num_nodes": "nodes",
}
"""Columns that hold an input's size, and its unit; another column is its own unit."""

MODEL_NAMES: Final = {"fcn50": "fcn_resnet50"}
"""Models of the wide form, which names none, by their file: what else the dataset calls them."""

NUMBERS: Final = (
    "throughput_samples_per_s",
    "avg_power_w",
    "peak_power_w",
    "energy_j",
    "energy_iters",
    "energy_agg_iters",
    "energy_window_j",
    "cold_start_s",
)
"""Columns of the long form that hold a measured number, or nothing (empty, nan)."""

_LONG = frozenset(
    {
        "timestamp_ms",
        "model_name",
        "cpu_cores",
        "gpu_mode",
        "gpu_name",
        "mem_cap_gb",
        "batch_size",
        "repeat_idx",
        "warmup",
        "latency_s",
        "status",
        "error",
        *NUMBERS,
    }
)
_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
_CONTAINER = re.compile(
    rf"(?=.)(?P<gpu>GPU)?(?:\+?CPU(?P<cpu>{_NUMBER}))?(?:\+?Mem(?P<memory>{_NUMBER}))?"
)
_VOLUME = re.compile(r"(?P<number>\d{1,12}(?:\.\d+)?)\s*(?P<unit>[KMGT]?)i?B", re.IGNORECASE)
_MODEL_NAME: Final[TypeAdapter[str]] = TypeAdapter(ModelName)
_LARGEST: Final = 1e15
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}

Kind = Literal["long", "wide", "static", "tutorial"]


@dataclass(frozen=True)
class Container:
    """The container of a column of the wide form, such as ``GPU+CPU8+Mem16``."""

    gpu: bool
    cpu_cores: float | None
    memory_gb: float | None


@dataclass(frozen=True)
class Row:
    """One published latency: a row of the long form, or one value of the wide form."""

    file: str
    line: int
    model_name: str
    gpu: bool
    latency_s: float | None
    column: str | None = None
    """Of the wide form, whose lines hold several rows."""
    cpu_cores: float | None = None
    memory_gb: float | None = None
    batch_size: int = 1
    size_column: str | None = None
    size: float | None = None
    repeat: int = 0
    warmup: int = 0
    timestamp_ms: int | None = None
    gpu_name: str | None = None
    status: str = "ok"
    error: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)

    @property
    def is_warmup(self) -> bool:
        """1 marks a warm-up; 2 and more is how many were made before this row, which counts."""
        return self.warmup == 1


@dataclass(frozen=True)
class Refusal:
    """A row, a value or a file that was not taken, and why."""

    file: str
    line: int | None
    column: str | None
    reason: str

    def __str__(self) -> str:
        """As ``file, line n, column c: reason``."""
        where = [self.file]
        where += [f"line {self.line}"] if self.line is not None else []
        where += [f"column {self.column}"] if self.column is not None else []
        return f"{', '.join(where)}: {self.reason}"


@dataclass(frozen=True)
class Static:
    """What a static file says of a model."""

    file: str
    line: int | None
    model_name: str
    gpu_name: str | None = None
    weight_bytes: int | None = None
    image_bytes: int | None = None
    download_bytes: int | None = None
    download_url: str | None = None

    def as_dict(self) -> dict[str, str | int]:
        """Its fields that are known, for a JSON document."""
        return {name: value for name, value in vars(self).items() if value is not None}


def kind_of(header: Sequence[str]) -> Kind | None:
    """Which of AC-Prof's tables has such a header; None: none of them."""
    names = set(header)
    if {"model_name", "latency_s", "cpu_cores"} <= names:
        return "long"
    if "model_name" in names and names & {"model_weight_bytes", "docker_image_bytes"}:
        return "static"
    if {"scale", "width", "height", "time"} == names:
        return "tutorial"
    if len(header) > 1 and any(container_of(name) for name in header[1:]):
        return "wide"
    return None


def container_of(column: str) -> Container | None:
    """The container that a column of the wide form is about; None: it is about none."""
    match = _CONTAINER.fullmatch(column)
    if match is None:
        return None
    cpu, memory = (number(match[name]) if match[name] else None for name in ("cpu", "memory"))
    if (match["cpu"] and not positive(cpu)) or (match["memory"] and not positive(memory)):
        return None
    return Container(match["gpu"] is not None, cpu, memory)


def size_column(header: Sequence[str]) -> str | None:
    """The column of the long form that holds the input's size.

    A known one; else the first that is none of the form's own; None where there is none.
    """
    foreign = [name for name in header if name not in _LONG]
    return next((name for name in foreign if name in SIZE_UNITS), next(iter(foreign), None))


def other_columns(header: Sequence[str], size: str | None) -> list[str]:
    """The columns of the long form that we have no field for, such as ``prediction_length``."""
    return [name for name in header if name not in _LONG and name != size]


def size_unit(column: str) -> str:
    """The unit of a size column."""
    return SIZE_UNITS.get(column, column)


def column_of_unit(unit: str) -> str:
    """The size column of a unit, ``size_unit`` reversed."""
    return next((name for name, known in SIZE_UNITS.items() if known == unit), unit)


def short_name(model_name: str) -> str:
    """A model's name without its organisation: ours must not hold a slash."""
    return model_name.strip().rsplit("/", 1)[-1]


def number(text: str) -> float | None:
    """A finite number; None for an empty field, ``nan`` and the like. Raises ValueError."""
    if text.strip().lower() in ("", "nan", "none", "null", "na", "n/a", "-"):
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"'{text}' is not finite")
    if abs(value) > _LARGEST:
        raise ValueError(f"'{text}' is too large to be true")
    return value


def is_model_name(name: str) -> bool:
    """Whether a model may be called so: names become folders, and come from elsewhere."""
    try:
        _MODEL_NAME.validate_python(name)
    except ValidationError:
        return False
    return True


def positive(value: float | None) -> bool:
    """Whether a number is there and above zero."""
    return value is not None and value > 0


def volume_bytes(text: str) -> int | None:
    """Bytes of a volume such as ``113.81 MB``; None if it is none.

    Binary units, whatever they are called: the dataset's vgg11 to vgg19 of 507, 508, 528 and
    548 MB are torchvision's checkpoints of 531, 532, 553 and 575 million bytes.
    """
    match = _VOLUME.fullmatch(text.strip())
    if match is None:
        return None
    power: int = _POWERS[match["unit"].upper()]
    return round(float(match["number"]) * 1024.0**power)


def raw_power_range_w(values: Sequence[float]) -> tuple[float, float] | None:
    """Between which powers the readings lay whose difference was published; None: cannot be told.

    A difference of two doubles from ``[2^k, 2^(k+1))`` is a multiple of ``2^(k-52)``, and about
    every second one is no multiple of more. So the finest bit that half of the published values
    have tells the size of what was subtracted from what.
    """
    bits = [_finest_bit(value) for value in values if value > 0]
    if len(bits) < 20:
        return None
    finest = max(bits)
    share = bits.count(finest) / len(bits)
    if not 0.35 <= share <= 0.65 or finest > 52:
        return None
    low = 2.0 ** (52 - finest)
    return low, 2 * low


def _finest_bit(value: float) -> int:
    """The k for which a double is an odd multiple of ``2^-k``."""
    return value.as_integer_ratio()[1].bit_length() - 1
