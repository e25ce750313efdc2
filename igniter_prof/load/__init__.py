"""Load: who sends requests and when; the client's clock.

``payloads`` (Triton) and ``http_payloads`` (any HTTP model server, by a ``template``) turn
``samples`` of inputs into ready request bodies, ``arrivals`` says when they are sent, ``worker``
sends them through ``senders`` from a process of its own, ``generator`` is the handle on that
process.
"""

from igniter_prof.load.generator import Generator, LoadError, generators
from igniter_prof.load.http_check import check_http
from igniter_prof.load.http_payloads import prepare_http
from igniter_prof.load.job import Call, Job
from igniter_prof.load.payloads import Payloads, prepare
from igniter_prof.load.samples import CannotTake, InputSource

__all__ = [
    "Call",
    "CannotTake",
    "Generator",
    "InputSource",
    "Job",
    "LoadError",
    "Payloads",
    "check_http",
    "generators",
    "prepare",
    "prepare_http",
]
