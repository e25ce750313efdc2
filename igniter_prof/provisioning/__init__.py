"""The planner: places workloads on as few devices as their SLOs allow; reads and checks plans.

``docs/planning.md`` writes the problem down. The pieces, each in its module: the problem as data
(``problem``, ``kinds``), rules of what "within its SLO" means (``rules``), judging one device
(``operating``), the classes as arrays (``demand``), the search for patterns (``search``), the
programs over them (``columns``, ``generation``), strategies by name (``optimal``, ``baselines``,
``strategies``), the answer (``planner``), its proof (``certificate``) and the check (``checker``).
"""

from igniter_prof.config.workloads import read_workloads, workloads_digest
from igniter_prof.provisioning.checker import check_plan, read_plan
from igniter_prof.provisioning.planner import plan
from igniter_prof.provisioning.rules import RULES
from igniter_prof.provisioning.strategies import STRATEGIES

__all__ = [
    "RULES",
    "STRATEGIES",
    "check_plan",
    "plan",
    "read_plan",
    "read_workloads",
    "workloads_digest",
]
