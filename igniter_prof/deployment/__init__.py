"""Starts a plan and keeps it: launch, status, stop."""

from igniter_prof.deployment.assigning import assign, type_of
from igniter_prof.deployment.launched import (
    Health,
    Launched,
    all_launched,
    attached,
    damaged,
    find_launched,
    health,
    is_launched,
    launch,
    launched_from,
    stop,
    stop_all,
    tenants_of,
    unplanned,
)

__all__ = [
    "Health",
    "Launched",
    "all_launched",
    "assign",
    "attached",
    "damaged",
    "find_launched",
    "health",
    "is_launched",
    "launch",
    "launched_from",
    "stop",
    "stop_all",
    "tenants_of",
    "type_of",
    "unplanned",
]
