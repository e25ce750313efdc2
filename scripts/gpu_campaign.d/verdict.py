"""Whether a mechanism's shares are obeyed, from what a kernel's throughput was; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PREFERRED = ("mps", "green-context-mps", "green-context")
WITHOUT = "time-slicing"
SM_SLACK = 8
"""SMs by which a share may be rounded: a group of them on compute capability 9.0."""
RATE_SLACK = 0.15
"""How far throughput over that of the whole GPU may be from the part of the SMs."""
AT_ONCE = 0.75
"""Of its throughput alone, what each of two halves keeps beside the other if both run at once."""


def judged(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``sm_obeyed``, ``rate_obeyed``, ``obeyed``, ``concurrent``; None: not measured.

    Args:
        groups: of tenants beside each other: ``shares``, ``sm_counts``, and the kernel's rates
            ``alone`` and ``together``; or ``error``.
    """
    good = [group for group in groups if "error" not in group]
    points = [
        point
        for group in good
        for point in zip(group["shares"], group["sm_counts"], group["alone"], strict=True)
    ]
    whole = next((point for point in points if point[0] >= 100), None)
    parts = [point for point in points if point[0] < 100]
    sm_obeyed = rate_obeyed = None
    if whole is not None and parts:
        _, sms, rate = whole
        if sms and all(count is not None for _, count, _ in parts):
            sm_obeyed = all(abs(count - share / 100 * sms) <= SM_SLACK for share, count, _ in parts)
        rate_obeyed = all(
            abs(each / rate - (count / sms if sms and count else share / 100)) <= RATE_SLACK
            for share, count, each in parts
        )
    kept = [
        both / alone
        for group in good
        if len(group["shares"]) > 1
        for alone, both in zip(group["alone"], group["together"], strict=True)
    ]
    return {
        "sm_obeyed": sm_obeyed,
        "rate_obeyed": rate_obeyed,
        "obeyed": None if rate_obeyed is None else rate_obeyed and sm_obeyed is not False,
        "kept_together": sum(kept) / len(kept) if kept else None,
        "concurrent": sum(kept) / len(kept) >= AT_ONCE if kept else None,
    }


def mechanism(found: Mapping[str, Any]) -> str:
    """The mechanism to measure with, by ``judged`` and the ``groups`` of each that was tried.

    One that is obeyed with all at once, else one that is obeyed, else one that worked and of which
    time did not suffice to say; else none.
    """
    tried = [(name, found[name]) for name in PREFERRED if name in found]
    for name, verdict in tried:
        if verdict["obeyed"] and verdict["concurrent"]:
            return name
    for name, verdict in tried:
        if verdict["obeyed"]:
            return name
    for name, verdict in tried:
        worked = any("error" not in group for group in verdict["groups"])
        if worked and verdict["obeyed"] is None:
            return name
    return WITHOUT
