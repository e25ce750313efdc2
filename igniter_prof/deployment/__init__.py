"""Starts a plan and keeps it: launch, status, stop."""

from igniter_prof.deployment.launched import (
    Launched,
    all_launched,
    attached,
    find_launched,
    health,
    launch,
    stop,
    tenants_of,
)

__all__ = [
    "Launched",
    "all_launched",
    "attached",
    "find_launched",
    "health",
    "launch",
    "stop",
    "tenants_of",
]
