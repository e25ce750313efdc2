"""What is seen of an endpoint from outside, apart from the client's clock."""

from igniter_prof.monitors.triton import TritonApi, server_times

__all__ = ["TritonApi", "server_times"]
