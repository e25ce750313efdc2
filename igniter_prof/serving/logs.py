"""Triton's log: its last lines, and the line that says why it did not start."""

from __future__ import annotations

import re
from pathlib import Path

TAIL_BYTES = 64 * 1024
TAIL_LINES = 20

_TABLE = re.compile(r"^[+|]")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Colours and other orders to a terminal: what a stranger's server writes is shown on ours."""
_PREFIX = re.compile(r'^[IWE]\d{4} \d\d:\d\d:\d\d\.\d+ \d+ \S+\] ?"?')
_EXPECTED = ("CudaDriverHelper", "pinned system memory", "DCGM", "initialize NVML")
_PORT = re.compile(
    r"failed to start (HTTP|GRPC|Metrics) service|already in use|Address in use", re.I
)
_CAUSES = (
    re.compile(r"Error parsing text-format inference.ModelConfig: (.*)"),
    re.compile(r"failed to load '[^']*' version \d+: (.*)"),
    re.compile(r"failed to load '[^']*': (.*)"),
    re.compile(r"Poll failed for model directory '[^']*': (.*)"),
    re.compile(r"error while loading shared libraries: (.*)"),
    re.compile(r"^error: (.*)"),
)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log without Triton's tables; empty if there is none."""
    return "\n".join(_lines(log)[-lines:])


def cause(log: Path) -> str:
    """Why a server did not start: Triton's own reason if it gave one, else its last error line."""
    lines = _lines(log)
    for pattern in _CAUSES:
        for number, line in enumerate(lines):
            match = pattern.search(line)
            if match is not None:
                return _reason(match[1], lines[number + 1 :])
    errors = [line for line in lines if re.match(r"^E\d{4} ", line)]
    last = (errors or lines or ["the server wrote no log"])[-1]
    return _PREFIX.sub("", last).rstrip('"')


def port_taken(log: Path) -> bool:
    """Whether the server gave up because somebody else took one of its ports."""
    return any(_PORT.search(line) for line in _lines(log))


def _reason(first: str, following: list[str]) -> str:
    """One line: without Triton's status and the traceback, which it appends escaped."""
    text = first.partition("\\n")[0].strip().rstrip('"')
    text = re.sub(r"^(Internal|Unknown): ", "", text)
    if text.endswith(":"):
        text += f" {next((line.strip() for line in following if line.strip()), '')}"
    return text


def _lines(log: Path) -> list[str]:
    try:
        with log.open("rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - TAIL_BYTES))
            text = handle.read().decode(errors="replace")
    except OSError:
        return []
    return [
        line
        for line in _CONTROL.sub("", text).splitlines()
        if line.strip() and not _TABLE.match(line) and not any(word in line for word in _EXPECTED)
    ]
