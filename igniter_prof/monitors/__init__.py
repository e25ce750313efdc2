"""What is seen of an endpoint from outside, apart from the client's clock."""

from igniter_prof.monitors.contract import Counted, Monitor, MonitorFactory, Scene, Seen
from igniter_prof.monitors.registry import CLIENT, check, known_monitors, make
from igniter_prof.monitors.triton import TritonApi, server_times

__all__ = [
    "CLIENT",
    "Counted",
    "Monitor",
    "MonitorFactory",
    "Scene",
    "Seen",
    "TritonApi",
    "check",
    "known_monitors",
    "make",
    "server_times",
]
