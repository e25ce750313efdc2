"""The sweep: which cells, in which order, until when; it resumes where it was left."""

from igniter_prof.profiling.preflight import preflight
from igniter_prof.profiling.runner import Outcome, Progress, expected_s, profile, sources_of

__all__ = ["Outcome", "Progress", "expected_s", "preflight", "profile", "sources_of"]
