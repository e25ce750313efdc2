"""Plans of more classes than can be planned one by one.

They are planned in groups harder than their members, first in few coarse ones, then in ever finer
ones that start from the patterns of the coarser: a pattern of groups suits any of their members.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

import numpy as np

from igniter_prof.fitting.points import IntArray
from igniter_prof.provisioning.columns import Column
from igniter_prof.provisioning.problem import Pattern

_COPIES = 12


def seeds(
    columns: Sequence[Column], coarse: IntArray, fine: IntArray
) -> list[tuple[int, IntArray]]:
    """Patterns of finer groups from those of coarser ones, each member in some of them.

    ``coarse``, ``fine``: (C,), the groups of the classes.
    """
    members: dict[int, list[int]] = defaultdict(list)
    within = (coarse >= 0) & (fine >= 0)
    for group, part in dict.fromkeys(
        zip(coarse[within].tolist(), fine[within].tolist(), strict=True)
    ):
        members[group].append(part)
    turns = dict.fromkeys(members, 0)
    made: dict[tuple[int, int], dict[Pattern, None]] = defaultdict(dict)
    for kind, pattern in columns:
        if any(group not in members for group in pattern):
            continue
        copies = max(len(members[group]) for group in pattern)
        for _ in range(min(_COPIES, copies)):
            parts = []
            for group in pattern:
                parts.append(members[group][turns[group] % len(members[group])])
                turns[group] += 1
            made[kind, len(pattern)][tuple(sorted(parts))] = None
    return [(kind, np.array(list(found))) for (kind, _), found in sorted(made.items())]


def handed_out(of: IntArray, chosen: Mapping[Column, int], counts: IntArray) -> list[Column]:
    """Devices of classes from devices of groups: each group's tenants in turn; ``counts``: (C,)."""
    members: dict[int, deque[int]] = defaultdict(deque)
    for index in np.repeat(np.arange(len(counts)), counts).tolist():
        members[int(of[index])].append(index)
    devices = []
    for (kind, pattern), number in chosen.items():
        for _ in range(number):
            held = sorted(members[group].popleft() for group in pattern)
            devices.append((kind, tuple(held)))
    return devices
