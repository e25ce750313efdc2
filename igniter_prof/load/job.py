"""What a worker process is told: where to send, what, when, and what tells a good answer."""

from __future__ import annotations

from dataclasses import dataclass

from igniter_prof.records import Load

Body = tuple[bytes, int]
"""A ready request and the length of the JSON header within it (Triton over HTTP; else 0)."""


@dataclass(frozen=True)
class Call:
    """How a request is made over HTTP, and what tells a good answer."""

    path: str
    method: str = "POST"
    statuses: tuple[int, ...] = (200,)
    json_field: str | None = None
    """A field that the answer, a JSON object, must have."""
    fresh_connection: bool = False
    """A new connection for each request; opening it is part of the latency."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know."""

    address: str
    protocol: str
    call: Call
    """Not used by gRPC, whose messages say what is called."""
    bodies: tuple[Body, ...]
    headers: tuple[tuple[str, str], ...]
    """Of names that differ in case only, the last one is sent."""
    load: Load
    seed: int
    timeout_s: float
    cores: tuple[int, ...]
    tls_ca: str | None = None
    tls: bool = False
