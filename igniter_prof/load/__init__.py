"""Load: who sends requests and when; the client's clock.

``payloads`` turns a server's metadata and an input source into ready request bodies, ``arrivals``
says when they are sent, ``worker`` sends them from a process of its own, ``generator`` is the
handle on that process.
"""

from igniter_prof.load.generator import Generator, LoadError, generators
from igniter_prof.load.payloads import CannotTake, InputSource, Payloads, prepare

__all__ = [
    "CannotTake",
    "Generator",
    "InputSource",
    "LoadError",
    "Payloads",
    "generators",
    "prepare",
]
