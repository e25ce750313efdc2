"""Latency and energy of one container and task over input size, cores, memory, batch and GPU."""
