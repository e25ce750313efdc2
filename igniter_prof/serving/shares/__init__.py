"""Shares of a device: CPU quota, MPS percentage, MIG slice, green context, time slicing."""

from igniter_prof.serving.shares.caps import (
    MIN_QUOTA_US,
    SHARE_PERIOD_US,
    Caps,
    caps_of,
    exceeds,
    threads_of,
)
from igniter_prof.serving.shares.choice import (
    MECHANISMS,
    check_tenants,
    mechanism_for,
    shared_grant,
)
from igniter_prof.serving.shares.contract import Grant, Mechanism

__all__ = [
    "MECHANISMS",
    "MIN_QUOTA_US",
    "SHARE_PERIOD_US",
    "Caps",
    "Grant",
    "Mechanism",
    "caps_of",
    "check_tenants",
    "exceeds",
    "mechanism_for",
    "shared_grant",
    "threads_of",
]
