"""The latency model ``igprof``: physics, and a Gaussian process over what physics leaves."""
