"""Load a running plan with the traffic that it was made for, and count SLO violations."""

from igniter_prof.evaluation.judge import judge, loads_of
from igniter_prof.evaluation.run import evaluate

__all__ = ["evaluate", "judge", "loads_of"]
